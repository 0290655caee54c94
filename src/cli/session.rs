//! Opens a target stage by stage and keeps the time of each.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use super::{Failure, TargetArgs, progress};
use crate::{
    analysis::{
        dominators::Dominators,
        holders::{self, Holders},
        leaks::Evidence,
        ledger::{self, Kernel, Ledger},
        locks,
    },
    base::units,
    graph::{
        TypeWords,
        build::{self, Built},
        typing::Typed,
    },
    os::procfs,
    profile,
    report::{Envelope, SCHEMA_VERSION, TargetInfo, Tool},
    runtime::{
        Runtime,
        heap::Heap,
        types::{Sources, TypeTable},
    },
    snapshot::{self, Snapshot, SnapshotError},
    target::{HoldMode, Missed, Target, TargetError, TargetKind, fork, is_core},
};

/// Stages for which the target stands still, in order.
const STILL: [&str; 6] = ["attach", "goroutines", "heap", "stacks", "graph", "types"];

pub struct Session {
    pub rt: Runtime,
    /// Where a snapshot is the target: the rest of it.
    saved: Option<Snapshot>,
    /// Types of the binary, where they were read before the target was held.
    types: Option<TypeTable>,
    timing: BTreeMap<&'static str, f64>,
    started: Instant,
}

/// What most questions are asked of.
pub struct Scene {
    pub heap: Heap,
    pub built: Built,
    pub typed: Typed,
}

/// What the word TARGET names.
enum Place {
    Process(u32),
    Core(PathBuf),
    Snapshot(PathBuf),
}

fn target_of(word: &str) -> Result<Place, Failure> {
    if let Ok(pid) = word.parse() {
        return Ok(Place::Process(pid));
    }
    let path = PathBuf::from(word);
    match is_core(&path) {
        Ok(true) => Ok(Place::Core(path)),
        Ok(false) if snapshot::is_snapshot(&path).unwrap_or(false) => Ok(Place::Snapshot(path)),
        Ok(false) if profile::is_profile(&path).unwrap_or(false) => Err(Failure::new(
            format!("{word} is a profile of pprof, which has samples by call stack: no objects, no holders, no types"),
            Some("gosleuth diff with two profiles or more; for this question a process id, a core file or a snapshot"),
        )),
        Ok(false) => Err(Failure::new(
            format!("{word} is neither a core file nor a snapshot"),
            Some("a process id, a core file or a snapshot"),
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(
            format!("{word:?} is neither a process id nor a file"),
            Some("pgrep -a NAME to find the process id"),
        )),
        Err(source) => Err(TargetError::File { path, source }.into()),
    }
}

fn open_process(
    pid: u32,
    args: &TargetArgs,
    typed: bool,
    timing: &mut BTreeMap<&'static str, f64>,
) -> Result<(Runtime, Option<TypeTable>), Failure> {
    if pid == std::process::id() {
        return Err(Failure::new("cannot look at itself", None));
    }
    let begin = Instant::now();
    // The binary does not change while the process runs: read it before anything is stopped.
    let running = Arc::new(Target::attach(pid, HoldMode::None)?);
    let rt = Runtime::open(running.clone(), &args.open_options())?;
    timing.insert("binary", begin.elapsed().as_secs_f64() * 1e3);
    if typed && rt.image.dwarf.is_none() {
        let begin = Instant::now();
        rt.image.code_types();
        timing.insert("code", begin.elapsed().as_secs_f64() * 1e3);
    }
    let begin = Instant::now();
    let types = typed.then(|| TypeTable::of_binary(Sources::of(&rt)));
    if typed {
        timing.insert("descriptors", begin.elapsed().as_secs_f64() * 1e3);
    }
    let begin = Instant::now();
    let target = Arc::new(Target::attach(pid, args.hold_request())?);
    timing.insert("attach", begin.elapsed().as_secs_f64() * 1e3);
    if target.auxv != running.auxv {
        return Err(Failure::new(format!("process {pid} replaced its program meanwhile"), Some("once more")));
    }
    let held = rt.on(target.clone());
    whole(&target, timing, held).map(|rt| (rt, types))
}

/// What was read of a target that stood still to the end. One that was let go early explains every failure to read it, and
/// half an answer is none.
fn whole<T, E: Into<Failure>>(
    target: &Target,
    timing: &BTreeMap<&'static str, f64>,
    read: Result<T, E>,
) -> Result<T, Failure> {
    match target.missed() {
        None => read.map_err(Into::into),
        Some(why) => {
            target.release();
            Err(missed(target, timing, why))
        }
    }
}

/// What is missing because the target did not stand still long enough.
fn missed(target: &Target, timing: &BTreeMap<&'static str, f64>, missed: Missed) -> Failure {
    let pid = target.pid.unwrap_or_default();
    match missed {
        Missed::Gone { .. } if target.hold().mode == "fork" && procfs::exists(pid) => Failure::new(
            format!("the copy of process {pid} was killed while it was looked at (for lack of memory?)"),
            Some("--hold freeze, which needs no copy"),
        ),
        Missed::Gone { .. } => Failure::new(format!("process {pid} ended while it was looked at"), None),
        Missed::Late { bytes } => {
            let stage = STILL.iter().rfind(|s| timing.contains_key(*s)).unwrap_or(&"attach");
            let held = target.hold().stopped_ms.unwrap_or_default();
            let copy = fork::estimate(pid).as_millis().max(1);
            Failure::new(
                format!(
                    "process {pid} was let go after {held:.0} ms, as --max-pause asks, before all was read (last stage: \
                     {stage}; at least {} are missing): half a heap would give a wrong answer",
                    units::bytes(bytes)
                ),
                Some(&format!("--hold fork, which stops it for about {copy} ms, or a longer --max-pause")),
            )
        }
    }
}

impl Session {
    pub fn open(args: &TargetArgs) -> Result<Session, Failure> {
        Session::open_for(args, false)
    }

    /// For questions about types: what the code of a binary without DWARF says of them is read before anything is stopped.
    pub fn open_typed(args: &TargetArgs) -> Result<Session, Failure> {
        Session::open_for(args, true)
    }

    fn open_for(args: &TargetArgs, typed: bool) -> Result<Session, Failure> {
        let started = Instant::now();
        let mut timing = BTreeMap::new();
        let (mut saved, mut types) = (None, None);
        let rt = match target_of(&args.target)? {
            Place::Process(pid) => {
                let (rt, known) = open_process(pid, args, typed, &mut timing)?;
                types = known;
                rt
            }
            Place::Core(path) => {
                let target = Arc::new(Target::open_core(&path, args.exe.as_deref())?);
                let opened = Runtime::open(target.clone(), &args.open_options());
                // What is wrong with the core explains why nothing can be read from it.
                let rt = opened
                    .and_then(|rt| rt.on(target.clone()))
                    .map_err(|e| Failure::from(e).noting(&target.trouble))?;
                timing.insert("binary", started.elapsed().as_secs_f64() * 1e3);
                rt
            }
            Place::Snapshot(path) => {
                let file = Snapshot::open(&path)?;
                let rt = file.runtime()?;
                for (kind, count, example) in &file.meta.diagnostics {
                    rt.diag.note_many("of the look itself", *count, format_args!("{kind}: {example}"));
                }
                timing.insert("open", started.elapsed().as_secs_f64() * 1e3);
                saved = Some(file);
                rt
            }
        };
        for (kind, example) in &rt.target.trouble {
            rt.diag.note(kind, example);
        }
        Ok(Session { rt, saved, types, timing, started })
    }

    pub fn is_live(&self) -> bool {
        self.rt.target.kind == TargetKind::Live
    }

    /// Runs one stage and keeps its time.
    pub fn stage<T>(&mut self, name: &'static str, f: impl FnOnce(&Runtime) -> T) -> T {
        let begin = Instant::now();
        progress::stage(name);
        let out = f(&self.rt);
        progress::done();
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(stage = name, ms, peak_resident = procfs::peak_resident(), "done");
        self.timing.insert(name, ms);
        out
    }

    /// The snapshot that is the target.
    pub fn saved(&self) -> Option<&Snapshot> {
        self.saved.as_ref()
    }

    /// Refuses snapshots for a question that only memory answers.
    pub fn needs_memory(&self, what: &'static str) -> Result<(), Failure> {
        if self.saved.is_some() { Err(SnapshotError::StructureOnly { what }.into()) } else { Ok(()) }
    }

    /// Everything, and what the verdict needs beside it.
    pub fn scene_with_evidence(&mut self) -> Result<(Scene, Evidence, Option<Ledger>), Failure> {
        if let Some(file) = &self.saved {
            let (evidence, ledger) = (file.evidence()?, file.meta.ledger.clone());
            return Ok((self.scene()?, evidence, ledger));
        }
        let kernel = self.stage("residency", Kernel::look);
        let (scene, (mut evidence, ledger)) = self.scene_and(|rt, c| {
            let ledger = ledger::ledger(rt, &c.heap, &c.built, kernel.as_ref());
            Ok((Evidence::gather(rt, &c.heap, &c.built, &c.typed), ledger))
        })?;
        if !evidence.waits.is_empty() {
            let stuck = self.stage("stuck", |rt| locks::leaks::proven(rt, &scene.heap, &scene.built, &evidence.waits));
            evidence.stuck = stuck.into_iter().map(|i| scene.built.goroutines[i].goid.0).collect();
            evidence.stuck.sort_unstable();
        }
        Ok((scene, evidence, Some(ledger)))
    }

    pub fn heap(&mut self) -> Result<Heap, Failure> {
        self.needs_memory("this question")?;
        let heap = self.stage("heap", Heap::read);
        self.whole(heap)
    }

    pub fn graph(&mut self, heap: &Heap) -> Result<Built, Failure> {
        let words = self.stage("type words", TypeWords::of);
        let found = self.stage("stacks", build::goroutines);
        let (goroutines, stacks) = self.whole(found)?;
        let built = self.stage("graph", |rt| build::build_from(rt, heap, &words, goroutines, stacks));
        self.whole(built)
    }

    /// The types of all objects. The target must be held.
    pub fn typed(&mut self, heap: &Heap, built: &Built) -> Typed {
        let known = self.types.take();
        self.stage("types", |rt| match known {
            Some(types) => Typed::with(rt, heap, built, types),
            None => Typed::new(rt, heap, built),
        })
    }

    /// The target runs on. An error if not everything was read before: half a heap would give wrong answers.
    pub fn let_go(&self) -> Result<(), Failure> {
        self.rt.target.release();
        self.whole(Ok::<_, Failure>(()))
    }

    fn whole<T, E: Into<Failure>>(&self, read: Result<T, E>) -> Result<T, Failure> {
        whole(&self.rt.target, &self.timing, read)
    }

    /// What is missing because the target did not stand still long enough.
    pub fn missed(&self, why: Missed) -> Failure {
        missed(&self.rt.target, &self.timing, why)
    }

    /// Heap, graph and types; the target runs on as soon as its last byte is read.
    pub fn scene(&mut self) -> Result<Scene, Failure> {
        Ok(self.scene_and(|_, _| Ok(()))?.0)
    }

    /// For questions that ask what is alive and of which type, but not who refers to whom: of a snapshot the edges are not read. Of other
    /// targets they are, since nobody knows what is alive without them; records stay where they are (`hand_over_records`).
    pub fn scene_without_edges(&mut self) -> Result<Scene, Failure> {
        let Some(file) = &self.saved else {
            let heap = self.heap()?;
            let built = self.graph(&heap)?;
            let typed = self.typed(&heap, &built);
            self.let_go()?;
            return Ok(Scene { heap, built, typed });
        };
        let begin = Instant::now();
        let (heap, built, typed) = file.scene(false)?;
        self.timing.insert("load", begin.elapsed().as_secs_f64() * 1e3);
        Ok(Scene { heap, built, typed })
    }

    /// The same as `scene`, with a last look at memory while the target is still held.
    pub fn scene_and<T>(
        &mut self,
        look: impl FnOnce(&Runtime, &Scene) -> Result<T, Failure>,
    ) -> Result<(Scene, T), Failure> {
        if let Some(file) = &self.saved {
            let begin = Instant::now();
            let (heap, built, typed) = file.scene(true)?;
            self.timing.insert("load", begin.elapsed().as_secs_f64() * 1e3);
            let scene = Scene { heap, built, typed };
            let seen = look(&self.rt, &scene)?;
            return Ok((scene, seen));
        }
        let heap = self.heap()?;
        let built = self.graph(&heap)?;
        let typed = self.typed(&heap, &built);
        let mut scene = Scene { heap, built, typed };
        let seen = look(&self.rt, &scene);
        self.let_go()?;
        let seen = seen?;
        self.stage("records", |_| holders::hand_over_records(&scene.heap, &mut scene.built));
        Ok((scene, seen))
    }

    /// Who holds what: holders of the roots and the dominator tree over them.
    pub fn dominators(&mut self, scene: &Scene) -> Result<(Holders, Dominators), Failure> {
        let holders = self.stage("holders", |rt| Holders::of(rt, &scene.built));
        let dom = self.dominators_over(scene, &holders)?;
        Ok((holders, dom))
    }

    /// The dominator tree over holders of one's own choice.
    pub fn dominators_over(&mut self, scene: &Scene, holders: &Holders) -> Result<Dominators, Failure> {
        let size = |o| scene.heap.extent(o).1;
        let dom = self.stage("dominators", |_| Dominators::compute(&scene.built.graph, &holders.tree, size));
        dom.map_err(|e| Failure::new(e.to_string(), None))
    }

    pub fn envelope<R>(mut self, command: &'static str, result: R) -> Envelope<R> {
        self.rt.target.release();
        if let Some(missed) = self.rt.target.missed() {
            let what = match missed {
                Missed::Gone { .. } => "the process ended before all was read".to_owned(),
                Missed::Late { bytes } => format!("at least {} were not read", units::bytes(bytes)),
            };
            self.rt.diag.note("the answer is incomplete: the process runs on already (--max-pause) or ended", what);
        }
        self.timing.insert("total", self.started.elapsed().as_secs_f64() * 1e3);
        let (target, image) = (&self.rt.target, &self.rt.image);
        Envelope {
            schema_version: SCHEMA_VERSION,
            tool: Tool::OURS,
            command,
            target: TargetInfo {
                kind: target.kind,
                pid: target.pid,
                exe: target.exe.clone(),
                go_version: Some(image.go_version.raw.clone()),
                go_version_source: Some(image.go_version_source),
                arch: Some(target.arch),
                has_dwarf: Some(image.dwarf.is_some()),
                has_symtab: Some(image.has_symtab),
                layout_source: Some(self.rt.layout.source),
            },
            hold: target.hold(),
            timing_ms: self.timing,
            diagnostics: self.rt.diag.list(),
            result,
        }
    }
}
