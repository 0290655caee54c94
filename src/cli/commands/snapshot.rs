//! `snapshot`: the structure of one look, in a file.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;

use super::{Failure, Session, TargetArgs, goroutines::nanotime, overview, print};
use crate::{
    base::units,
    runtime::layout::{Field, Global},
    snapshot::{self, Contents, Meta, Process},
    target::TargetKind,
};

/// Write the structure of the heap to a file: objects, types, edges, roots, goroutines; no contents.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The file to write. It holds names of types, variables, functions and files, and addresses; no strings, no buffers.
    #[arg(short, long)]
    output: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

fn unix_ms(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// When the look was taken: now, of a core when the file was written.
fn taken(args: &TargetArgs, s: &Session) -> u64 {
    let written = || std::fs::metadata(&args.target).and_then(|m| m.modified()).ok();
    match s.is_live() {
        true => unix_ms(SystemTime::now()),
        false => unix_ms(written().unwrap_or_else(SystemTime::now)),
    }
}

/// What a file says of a look beside the look itself.
pub(super) fn describe(args: &TargetArgs, s: &Session) -> Meta {
    let (rt, image) = (&s.rt, &s.rt.image);
    Meta {
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_unix_ms: taken(args, s),
        source: if rt.target.kind == TargetKind::Live { "live" } else { "core" }.to_owned(),
        process: Process::of(rt),
        exe: rt.target.exe.clone(),
        arch: rt.target.arch,
        go_version: image.go_version.raw.clone(),
        go_minor: image.go_version.minor,
        go_version_source: image.go_version_source,
        bias: image.bias,
        build_id: image.build_id.clone(),
        go_build_id: image.go_build_id.clone(),
        build_info: image.build_info.clone(),
        has_symtab: image.has_symtab,
        malloc_headers: rt.layout.has(Field::MspanLargeType),
        sweepgen: 0,
        slots: 0,
        edges: 0,
        globals: Global::ALL.iter().filter_map(|&g| Some((g.name().to_owned(), rt.globals.get(g)?.0))).collect(),
        modules: image.modules.iter().map(snapshot::bounds).collect(),
        now_ns: nanotime().filter(|_| s.is_live()),
        ledger: None,
        gc_phase: overview::gc_phase(rt).to_owned(),
        gc_cycles: overview::gc_cycles(rt),
        diagnostics: Vec::new(),
    }
}

pub fn run(args: &SnapshotArgs) -> Result<(), Failure> {
    if !args.force && args.output.exists() {
        return Err(snapshot::SnapshotError::Exists { path: args.output.clone() }.into());
    }
    let mut s = Session::open_typed(&args.target)?;
    s.needs_memory("a snapshot of a snapshot")?;
    let mut meta = describe(&args.target, &s);
    let (scene, evidence, ledger) = s.scene_with_evidence()?;
    meta.sweepgen = scene.heap.sweepgen;
    meta.slots = scene.heap.slots.into();
    meta.edges = scene.built.graph.target.len() as u64;
    meta.ledger = ledger;
    meta.diagnostics = s.rt.diag.list().into_iter().map(|d| (d.kind.to_owned(), d.count, d.example)).collect();
    let figures = s.stage("write", |rt| {
        let c = Contents { rt, heap: &scene.heap, built: &scene.built, typed: &scene.typed, evidence: &evidence, meta };
        snapshot::write(&args.output, args.force, &c)
    })?;
    let e = s.envelope("snapshot", figures);
    print(&args.target, &e, |out, f| {
        writeln!(
            out,
            "Wrote {}: {} for {} objects, {} edges, {} roots, {} goroutines ({:.2} bytes an object). It holds names and \
             addresses, no contents of strings or buffers.",
            f.path.display(),
            units::bytes(f.file_bytes),
            units::count(f.objects),
            units::count(f.edges),
            units::count(f.roots),
            units::count(f.goroutines),
            f.bytes_per_object
        )
    })
}
