//! `diff`: growth between two or more looks.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Failure, Session, TargetArgs, diff_profiles, print, snapshot::describe};
use crate::{
    analysis::diff::{self, First, Growth, Look},
    output, profile,
    snapshot::Meta,
    target::TargetKind,
};

/// What grew between two or more looks: snapshots, cores, processes; or between profiles of pprof.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// Snapshots, cores or process ids, the earliest first; or profiles of pprof of one kind (heap, goroutine and others).
    /// Three or more show a trend.
    #[arg(required = true, num_args = 2..)]
    pub(super) targets: Vec<String>,
    /// The executable of cores, where it cannot be found by itself.
    #[arg(long)]
    pub(super) exe: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
    /// Rows of each list to show; 0 for all.
    #[arg(long, default_value_t = 12)]
    pub(super) limit: usize,
}

/// One of the looks.
#[derive(Serialize)]
pub(crate) struct LookInfo {
    pub target: String,
    pub kind: TargetKind,
    pub taken_unix_ms: u64,
    /// Of a core, the time is that of the file.
    pub time_is_of_file: bool,
    pub pid: Option<u32>,
    pub go_version: String,
    pub live_objects: u64,
    pub live_bytes: u64,
    pub goroutines: u64,
}

#[derive(Serialize)]
pub(crate) struct DiffResult {
    pub looks: Vec<LookInfo>,
    pub same_process: bool,
    pub same_build: bool,
    /// What cannot be compared, in words.
    pub notes: Vec<String>,
    #[serde(flatten)]
    pub growth: Growth,
}

/// What tells builds and programs apart.
fn program(m: &Meta) -> String {
    let path = m.build_info.as_ref().map(|b| b.path.clone()).filter(|p| !p.is_empty());
    let name = m.exe.as_ref().and_then(|e| e.file_name()).map(|n| n.to_string_lossy().into_owned());
    path.or(name).unwrap_or_else(|| "?".into())
}

fn same_build(a: &Meta, b: &Meta) -> bool {
    let ids = |m: &Meta| (m.go_build_id.clone(), m.build_id.clone());
    if ids(a) != (None, None) && ids(b) != (None, None) {
        return ids(a) == ids(b);
    }
    a.go_version == b.go_version && a.build_info == b.build_info && program(a) == program(b)
}

fn notes(metas: &[Meta]) -> Vec<String> {
    let mut out = Vec::new();
    let Some(a) = metas.first() else { return out };
    for b in &metas[1..] {
        if program(a) != program(b) {
            out.push(format!(
                "{} and {} are different programs: only types, functions and variables of the same name are compared",
                program(a),
                program(b)
            ));
        } else if !same_build(a, b) {
            out.push(format!(
                "these are different builds of {} ({} and {}): types and variables are matched by name, and may have \
                 changed",
                program(a),
                a.go_version,
                b.go_version
            ));
        } else if !a.process.same(&b.process) {
            out.push("these are different processes of one program: old objects are not told from new ones".into());
        }
        if a.source == "core" || b.source == "core" {
            out.push("the time of a core is that of its file".into());
        }
    }
    out.sort();
    out.dedup();
    out
}

/// Is it all profiles? Some and some others is an error.
fn profiles(args: &DiffArgs) -> Result<bool, Failure> {
    let is = |w: &&String| w.parse::<u32>().is_err() && profile::is_profile(Path::new(w.as_str())).unwrap_or(false);
    let (yes, no): (Vec<&String>, Vec<&String>) = args.targets.iter().partition(is);
    match (yes.first(), no.first()) {
        (Some(p), Some(o)) => Err(Failure::new(
            format!(
                "{p} is a profile of pprof and {o} is not: a profile has samples by call stack, a look at memory has objects by \
                 type and holder"
            ),
            Some(
                "profiles with profiles (curl -o heap.pb.gz http://HOST/debug/pprof/heap?gc=1, twice), or snapshots, cores and \
                 processes with each other (gosleuth snapshot PID -o FILE)",
            ),
        )),
        (yes, _) => Ok(yes.is_some()),
    }
}

pub fn run(args: &DiffArgs) -> Result<(), Failure> {
    if profiles(args)? {
        return diff_profiles::run(args);
    }
    let mut infos: Vec<(LookInfo, Meta, Look)> = Vec::new();
    let mut first: Option<First> = None;
    let mut last: Option<Session> = None;
    let mut own = TargetArgs { exe: args.exe.clone(), json: args.json, ..TargetArgs::default() };
    for word in &args.targets {
        own.target = word.clone();
        let mut s = Session::open_typed(&own)?;
        let meta = match s.saved() {
            Some(file) => file.meta.clone(),
            None => describe(&own, &s),
        };
        let scene = s.scene()?;
        let (holders, dom) = s.dominators(&scene)?;
        let known = infos.first().is_some_and(|(_, m, _)| m.process.same(&meta.process));
        let earlier = first.as_mut().filter(|_| known);
        let look = s.stage("figures", |rt| {
            let taken = meta.taken_unix_ms;
            diff::look(rt, &scene.heap, &scene.built, &scene.typed, (&holders, &dom), taken, earlier)
        });
        let look = look.with_ledger(meta.ledger.as_ref());
        let info = LookInfo {
            target: word.clone(),
            kind: s.rt.target.kind,
            taken_unix_ms: meta.taken_unix_ms,
            time_is_of_file: meta.source == "core",
            pid: meta.process.pid,
            go_version: meta.go_version.clone(),
            live_objects: look.live.objects,
            live_bytes: look.live.bytes,
            goroutines: look.goroutines,
        };
        if first.is_none() {
            first = Some(First::new(scene.heap, &scene.built, &scene.typed));
        }
        infos.push((info, meta, look));
        last = Some(s);
    }
    let Some(session) = last else { return Err(Failure::new("there is nothing to compare", None)) };
    let (mut looks, mut metas, mut figures) = (Vec::new(), Vec::new(), Vec::new());
    for (info, meta, look) in infos {
        looks.push(info);
        metas.push(meta);
        figures.push(look);
    }
    let mut notes = notes(&metas);
    if figures.windows(2).any(|w| w[1].taken_ms < w[0].taken_ms) {
        notes.push("the looks are not in the order in which they were taken: rates are left out".into());
        let begin = figures[0].taken_ms;
        figures.iter_mut().for_each(|l| l.taken_ms = begin);
    }
    let same_process = metas.windows(2).all(|w| w[0].process.same(&w[1].process));
    let result = DiffResult {
        same_build: metas.windows(2).all(|w| same_build(&w[0], &w[1])),
        same_process,
        notes,
        growth: diff::compare(&figures, same_process, args.limit),
        looks,
    };
    let e = session.envelope("diff", result);
    print(&own, &e, |out, r| {
        output::diff::text(out, &r.growth, &r.notes, |out| {
            for l in &r.looks {
                output::diff::look(out, &l.target, l.taken_unix_ms, l.live_objects, l.live_bytes, l.goroutines)?;
            }
            Ok(())
        })
    })
}
