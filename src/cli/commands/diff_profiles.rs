//! `diff` of pprof files: growth by place of allocation, function, line and stack.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Instant,
};

use serde::Serialize;

use super::{Failure, TargetArgs, diff::DiffArgs, print};
use crate::{
    analysis::profiles::{self, ProfileGrowth, ProfileKind},
    output,
    profile::{Profile, Series},
    report::{Envelope, SCHEMA_VERSION, TargetInfo, Tool},
    target::{Hold, TargetKind},
};

/// One of the profiles.
#[derive(Serialize)]
pub(crate) struct ProfileLook {
    pub target: String,
    pub kind: TargetKind,
    pub profile: ProfileKind,
    /// Absent where the file has no time.
    pub taken_unix_ms: Option<u64>,
    /// What it covers, where it does not cover the whole life of the process.
    pub duration_ms: Option<f64>,
    /// Type of values and unit.
    pub sample_types: Vec<(String, String)>,
    /// Bytes from sample to sample of a heap profile, nanoseconds of a CPU profile.
    pub period: i64,
    pub binary: Option<String>,
    pub build_id: Option<String>,
    /// Different stacks and object sizes.
    pub samples: usize,
    /// Sum of each type.
    pub totals: BTreeMap<String, i64>,
}

#[derive(Serialize)]
pub(crate) struct ProfileDiff {
    pub looks: Vec<ProfileLook>,
    /// A profile has no process id: false where it cannot be one process, else null.
    pub same_process: Option<bool>,
    /// By build ids; null where there is one without.
    pub same_build: Option<bool>,
    /// What cannot be compared, in words.
    pub notes: Vec<String>,
    #[serde(flatten)]
    pub growth: ProfileGrowth,
}

fn look(target: &str, p: &Profile) -> ProfileLook {
    let mut totals: BTreeMap<String, i64> = p.kind_names().map(|(n, _)| (n.to_owned(), 0)).collect();
    for s in p.samples() {
        for ((name, _), v) in p.kind_names().zip(s.values) {
            if let Some(sum) = totals.get_mut(name) {
                *sum = sum.saturating_add(*v);
            }
        }
    }
    let program = p.mappings.first();
    let some = |t| Some(p.text(t)).filter(|s| !s.is_empty()).map(str::to_owned);
    ProfileLook {
        target: target.to_owned(),
        kind: TargetKind::Profile,
        profile: ProfileKind::of(p),
        taken_unix_ms: p.time_ns.map(|t| t / 1_000_000),
        duration_ms: Some(p.duration_ns).filter(|&d| d > 0).map(|d| d as f64 / 1e6),
        sample_types: p.kind_names().map(|(n, u)| (n.to_owned(), u.to_owned())).collect(),
        period: p.period,
        binary: program.and_then(|m| some(m.file)),
        build_id: program.and_then(|m| some(m.build_id)),
        samples: p.len(),
        totals,
    }
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches(" (deleted)").rsplit('/').next().unwrap_or(path)
}

fn notes(looks: &[ProfileLook], growth: &ProfileGrowth, same_build: Option<bool>) -> Vec<String> {
    let mut out = Vec::new();
    let names: BTreeSet<&str> = looks.iter().filter_map(|l| l.binary.as_deref().map(base_name)).collect();
    if names.len() > 1 {
        let names: Vec<&str> = names.into_iter().collect();
        out.push(format!(
            "these are profiles of different programs ({}): only functions of the same name and line are compared",
            names.join(", ")
        ));
    } else if same_build == Some(false) {
        out.push(
            "these are profiles of different builds: functions are matched by name, file and line, and a line that moved looks \
             as if one place shrank and another grew (by function is safer)"
                .into(),
        );
    }
    let all: BTreeSet<&(String, String)> = looks.iter().flat_map(|l| &l.sample_types).collect();
    let left_out: Vec<&str> =
        all.into_iter().filter(|t| !looks.iter().all(|l| l.sample_types.contains(t))).map(|t| t.0.as_str()).collect();
    if !left_out.is_empty() {
        out.push(format!("not all of them have {}: that is not compared", left_out.join(", ")));
    }
    if looks.windows(2).any(|w| w[0].period != w[1].period) && growth.profile != ProfileKind::Goroutine {
        out.push("they were sampled at different rates".into());
    }
    // In the wrong order every counter falls.
    if growth.may_be_one_process == Some(false) && looks.is_sorted_by_key(|l| l.taken_unix_ms) {
        out.push(
            "what was allocated in all is less in a later profile: they are not of one process, or it was started anew"
                .into(),
        );
    }
    let delta =
        |l: &&ProfileLook| l.duration_ms.is_some() && matches!(l.profile, ProfileKind::Heap | ProfileKind::Goroutine);
    if let Some(l) = looks.iter().find(delta) {
        out.push(format!("{} is a difference by itself (?seconds=): it has only what changed in that time", l.target));
    }
    let covered: Vec<f64> = looks.iter().filter_map(|l| l.duration_ms).collect();
    if growth.profile == ProfileKind::Cpu && covered.iter().any(|d| (d - covered[0]).abs() > 0.05 * covered[0]) {
        out.push("they cover times of different length: more time is not more work".into());
    }
    out
}

pub fn run(args: &DiffArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let mut timing = BTreeMap::new();
    let mut profiles = Vec::new();
    for word in &args.targets {
        profiles.push(Profile::open(Path::new(word))?);
    }
    timing.insert("read", started.elapsed().as_secs_f64() * 1e3);
    let looks: Vec<ProfileLook> = args.targets.iter().zip(&profiles).map(|(w, p)| look(w, p)).collect();
    let series = Series::new(&profiles).map_err(|e| Failure::new(e.to_string(), None))?;
    let begin = looks.first().and_then(|l| l.taken_unix_ms).unwrap_or(0);
    let times: Option<Vec<u64>> = looks.iter().map(|l| l.taken_unix_ms).collect();
    let ordered = times.as_ref().is_some_and(|t| t.is_sorted());
    // A CPU profile is of the time that it covers, not of all until then: its figures have no rate.
    let cpu = looks.first().is_some_and(|l| l.profile == ProfileKind::Cpu);
    let hours: Vec<f64> = match (&times, ordered && !cpu) {
        (Some(t), true) => t.iter().map(|t| (t - begin) as f64 / 3.6e6).collect(),
        _ => vec![0.0; looks.len()],
    };
    let Some(growth) = profiles::compare(&profiles, &series, &hours, args.limit) else {
        let odd = looks.iter().find(|l| l.sample_types != looks[0].sample_types).unwrap_or(&looks[0]);
        return Err(Failure::new(
            format!(
                "{} is a {} and {} a {}: they have no type of values in common",
                looks[0].target,
                looks[0].profile.text(),
                odd.target,
                odd.profile.text()
            ),
            Some("profiles of one kind: heap with heap, goroutine with goroutine"),
        ));
    };
    timing.insert("compare", started.elapsed().as_secs_f64() * 1e3 - timing["read"]);
    let ids: Option<BTreeSet<&str>> = looks.iter().map(|l| l.build_id.as_deref()).collect();
    let same_build = ids.map(|ids| ids.len() == 1);
    let mut notes = notes(&looks, &growth, same_build);
    if times.is_none() {
        notes.push("not all of them say when they were taken: rates are left out".into());
    } else if !ordered {
        notes.push("the profiles are not in the order in which they were taken: rates are left out".into());
    } else if growth.hours == 0.0 && !cpu {
        notes.push("they were taken at one moment: are they one file?".into());
    }
    if args.exe.is_some() {
        notes.push("--exe was not needed: profiles name their functions".into());
    }
    timing.insert("total", started.elapsed().as_secs_f64() * 1e3);
    let envelope = Envelope {
        schema_version: SCHEMA_VERSION,
        tool: Tool::OURS,
        command: "diff",
        target: TargetInfo::of_profile(looks.last().and_then(|l| l.binary.as_ref()).map(PathBuf::from)),
        hold: Hold { mode: "profile", stopped_ms: None, copy_ms: None },
        timing_ms: timing,
        diagnostics: Vec::new(),
        result: ProfileDiff {
            same_process: growth.may_be_one_process.filter(|one| !one),
            same_build,
            notes,
            growth,
            looks,
        },
    };
    print(&TargetArgs { json: args.json, ..TargetArgs::default() }, &envelope, |out, r| {
        output::profiles::text(out, &r.growth, &r.notes, args.limit, |out| {
            for l in &r.looks {
                let total = l.totals.get(&r.growth.sample_type).copied().unwrap_or(0);
                let objects = l.totals.get("inuse_objects").copied();
                output::profiles::look(out, &r.growth, &l.target, l.taken_unix_ms, total, objects, l.period)?;
            }
            Ok(())
        })
    })
}
