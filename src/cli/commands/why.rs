//! `why`: who keeps an object, or all objects of a type, alive.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{
    analysis::{
        dominators::Dominators,
        fields::Reader,
        holders::{frame_of, local_name, root_name},
        paths,
        selection::{self, Spoken, Way},
    },
    base::{Addr, Goid, ObjectId, units},
    graph::RootKind,
    runtime::{
        Runtime,
        heap::{
            Heap,
            specials::{self, Attached},
        },
    },
};

/// Who keeps an object, or the objects of a type, alive: paths from roots.
#[derive(Args, Debug)]
pub struct WhyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Address (0x..., any address inside the object), the name of a type or a part of one, or a pattern of type names (`*` and `?`).
    #[arg(value_name = "ADDR|TYPE|PATTERN")]
    what: String,
    /// How many truly different paths, or ways of a type, to show.
    #[arg(long, default_value_t = 3)]
    paths: usize,
    /// Show the tables inside maps as steps of their own, as --json always does.
    #[arg(long)]
    internals: bool,
    /// Read out the keys of maps on the way: contents of the program's memory. A live process is held until the paths are known.
    #[arg(long)]
    show_values: bool,
}

#[derive(Serialize)]
struct WhyResult {
    /// The object that was asked for; for a type, the one that retains most.
    object: Step,
    /// `alive`, `garbage` or `free slot`.
    state: &'static str,
    retained_bytes: u64,
    /// Finalizer, cleanup or weak pointers of the object; not in snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attached: Vec<Attachment>,
    paths: Vec<PathResult>,
    /// Where a type was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_type: Option<OfType>,
}

/// What is attached to an object without keeping it alive.
#[derive(Serialize)]
struct Attachment {
    kind: &'static str,
    /// Of a finalizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
}

impl Attachment {
    fn of(rt: &Runtime, a: Attached) -> Attachment {
        let name = |entry: Addr| rt.image.pclntab.find(entry).map(|f| f.name().to_owned());
        match a {
            Attached::Finalizer(entry) => Attachment { kind: "finalizer", function: name(entry) },
            Attached::Cleanup => Attachment { kind: "cleanup", function: None },
            Attached::WeakHandle => Attachment { kind: "weak", function: None },
        }
    }

    fn says(&self) -> String {
        match (self.kind, &self.function) {
            ("finalizer", Some(f)) => format!("A finalizer is set on it ({f}): it runs when nothing else leads to it."),
            ("finalizer", None) => "A finalizer is set on it: it runs when nothing else leads to it.".into(),
            ("cleanup", _) => "A cleanup is attached to it: it runs when nothing leads to it any more.".into(),
            _ => "Weak pointers or unique handles refer to it: weak ones do not keep it alive.".into(),
        }
    }
}

#[derive(Serialize)]
struct OfType {
    types: Vec<String>,
    objects: u64,
    bytes: u64,
    ways: Vec<Way>,
}

#[derive(Serialize)]
struct PathResult {
    root: RootName,
    steps: Vec<Step>,
    /// For the text: which steps are said, and the member that leads on from each.
    #[serde(skip)]
    spoken: Vec<Spoken>,
}

#[derive(Serialize)]
struct RootName {
    kind: RootKind,
    name: String,
    /// The local variable that holds it: `main.handler.req.Body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    /// Of roots on stacks: the goroutine, the frame counted from the innermost, and its function.
    #[serde(skip_serializing_if = "Option::is_none")]
    goid: Option<Goid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
}

#[derive(Serialize)]
struct Step {
    addr: Addr,
    #[serde(rename = "type")]
    type_name: Option<String>,
    /// Where in this object the pointer to the next one lies.
    field: Option<String>,
    /// Of a table of a map from which a value leads on: its key, where values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    bytes: u64,
}

/// `0x...`, or hexadecimal digits that can be nothing but an address.
fn address(word: &str) -> Option<Addr> {
    let hex = word.strip_prefix("0x").or_else(|| (word.len() >= 9).then_some(word))?;
    u64::from_str_radix(hex, 16).ok().map(Addr)
}

/// The slot that the address `word` lies in.
pub fn object_at(heap: &Heap, word: &str) -> Result<ObjectId, Failure> {
    let addr = address(word).ok_or_else(|| {
        Failure::new(format!("{word:?} is not an address"), Some("a hex address such as 0xc000012000"))
    })?;
    let found = heap.find(addr).map(|(id, _)| id);
    found.ok_or_else(|| {
        Failure::new(format!("{addr} is not in the Go heap"), Some("gosleuth top PID for what is there"))
    })
}

pub fn run(args: &WhyArgs) -> Result<(), Failure> {
    let mut s = Session::open_typed(&args.target)?;
    if args.show_values {
        s.needs_memory("what the keys of maps are")?;
    }
    let memory = s.has_memory();
    let attached = |rt: &Runtime, scene: &Scene| match memory {
        true => specials::attached(rt, &scene.heap),
        false => Vec::new(),
    };
    let (scene, attached) = match args.show_values {
        true => s.scene_held(|rt, scene| Ok(attached(rt, scene)))?,
        false => s.scene_and(|rt, scene| Ok(attached(rt, scene)))?,
    };
    let Scene { heap, built, typed } = &scene;
    let graph = &built.graph;
    let (types, objects) = match address(&args.what) {
        Some(_) => (Vec::new(), vec![object_at(heap, &args.what)?]),
        None => {
            let types = selection::types_named(typed, &args.what);
            let objects = selection::objects_of(heap, built, typed, &types, false);
            if objects.is_empty() {
                return Err(Failure::new(
                    format!("nothing alive is of a type called {:?}", args.what),
                    Some("gosleuth top PID --limit 0 for the types there are; addresses begin with 0x"),
                ));
            }
            (types, objects)
        }
    };
    let (holders, dom) = s.dominators(&scene)?;
    let retained = |id: ObjectId| dom.object(id).map_or(0, |d| dom.retained(d));
    // Of many equal ones the first, so that the answer is the same twice.
    let id = objects.iter().copied().min_by_key(|&o| (std::cmp::Reverse(retained(o)), o)).unwrap_or_default();
    let of_type = (!types.is_empty()).then(|| {
        let mut names: Vec<String> = objects.iter().filter_map(|&o| typed.name(o)).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        OfType {
            types: names,
            objects: objects.len() as u64,
            bytes: objects.iter().map(|&o| heap.extent(o).1).sum(),
            ways: s.stage("ways", |rt| selection::ways(rt, heap, built, typed, &holders, &objects)),
        }
    });
    let mut paths = s.stage("paths", |rt| paths_to(rt, &scene, &dom, id, args.paths));
    if args.show_values {
        s.stage("keys", |rt| read_keys(rt, &scene, &mut paths));
        s.let_go()?;
    }
    let attached = attached.iter().filter(|a| a.0 == id).map(|a| Attachment::of(&s.rt, a.1)).collect();
    let state = match graph.reachable.get(id.index()) {
        true => "alive",
        false if heap.is_allocated(id) => "garbage",
        false => "free slot",
    };
    let result =
        WhyResult { object: step(&scene, id, None), state, retained_bytes: retained(id), attached, paths, of_type };
    let e = s.envelope("why", result);
    print(&args.target, &e, |out, r| text(out, r, args.paths, args.internals))
}

fn step(scene: &Scene, o: ObjectId, edge: Option<usize>) -> Step {
    let (addr, bytes) = scene.heap.extent(o);
    let field = edge.map(|e| scene.typed.field(&scene.heap, &scene.built.graph, o, e));
    Step { addr, type_name: scene.typed.name(o).map(str::to_owned), field, key: None, bytes }
}

fn paths_to(rt: &Runtime, scene: &Scene, dom: &Dominators, id: ObjectId, n: usize) -> Vec<PathResult> {
    let graph = &scene.built.graph;
    // Globals explain best, then exact stack words; guesses last.
    let mut order: Vec<u32> = (0..graph.roots.len() as u32).collect();
    order.sort_by_key(|&r| (graph.roots[r as usize].kind, r));
    paths::distinct_paths(graph, dom, &order, id, n)
        .iter()
        .map(|p| PathResult {
            root: root(rt, scene, p.root),
            steps: p
                .hops
                .iter()
                .map(|h| step(scene, h.from, Some(h.edge)))
                .chain([step(scene, p.target, None)])
                .collect(),
            spoken: selection::spoken(&scene.heap, &scene.built, &scene.typed, p),
        })
        .collect()
}

/// Keys of the maps on the way. The target must be held.
fn read_keys(rt: &Runtime, scene: &Scene, paths: &mut [PathResult]) {
    const MEMBERS: usize = 8;
    let reader = Reader { rt, heap: &scene.heap, typed: &scene.typed, values: true, limit: MEMBERS };
    for p in paths {
        for s in &mut p.steps {
            let place = s.field.as_deref().and_then(selection::key_of);
            let object = scene.heap.find(s.addr).map(|f| f.0);
            s.key = place.zip(object).and_then(|(place, o)| reader.said(o, &place));
        }
        // What is read aloud: the key stands where the text without values says that it is a value.
        let ends: Vec<usize> = p.spoken.iter().skip(1).map(|s| s.at).chain([p.steps.len()]).collect();
        for (said, end) in p.spoken.iter_mut().zip(ends) {
            let key = p.steps.get(said.at..end).unwrap_or_default().iter().find_map(|s| s.key.as_ref());
            if let Some((key, rest)) = key.zip(said.field.strip_prefix(" (value)")) {
                said.field = format!("[{key}]{rest}");
            }
        }
    }
}

fn root(rt: &Runtime, scene: &Scene, i: usize) -> RootName {
    let root = &scene.built.graph.roots[i];
    let frame = frame_of(rt, &scene.built, root);
    RootName {
        kind: root.kind,
        name: root_name(rt, &scene.built, &scene.typed, i),
        local: local_name(&scene.typed, i),
        goid: (root.goid.0 != 0).then_some(root.goid),
        frame: frame.map(|f| f.0),
        function: frame.map(|f| f.1.to_owned()),
    }
}

fn text(out: &mut dyn Write, r: &WhyResult, limit: usize, internals: bool) -> io::Result<()> {
    let name = |s: &Step| s.type_name.clone().unwrap_or_else(|| "(untyped)".into());
    let local = |w: &Way| w.local.as_ref().map(|l| format!(", local {l}")).unwrap_or_default();
    if let Some(t) = &r.of_type {
        writeln!(
            out,
            "{} {} ({}) are alive:",
            units::count(t.objects),
            if t.types.len() == 1 { t.types[0].clone() } else { format!("objects of {} types", t.types.len()) },
            units::bytes(t.bytes)
        )?;
        for w in t.ways.iter().take(limit.max(1)) {
            writeln!(out, "  {:>6}  through {}{}", units::percent(w.share_permille, 1000), w.holder, local(w))?;
            for s in &w.steps {
                writeln!(out, "            -> {s}")?;
            }
        }
        if t.ways.len() > limit.max(1) {
            writeln!(out, "  ... and {} more ways (--paths shows more)", t.ways.len() - limit.max(1))?;
        }
        writeln!(out, "\nThe one that retains most:")?;
    }
    if r.state != "alive" {
        let says = match r.state {
            "garbage" => {
                "is not reached from any root: it is garbage, and is freed when the next collection has swept it"
            }
            _ => "is a free slot: no object is there",
        };
        writeln!(out, "{} {says}.", r.object.addr)?;
        return r.attached.iter().try_for_each(|a| writeln!(out, "{}", a.says()));
    }
    writeln!(
        out,
        "{} {} is alive and retains {}. {} to it:",
        r.object.addr,
        name(&r.object),
        units::bytes(r.retained_bytes),
        if r.paths.len() == 1 { "One way".to_owned() } else { format!("{} ways", r.paths.len()) }
    )?;
    for p in &r.paths {
        // Roots that are called by their kind say it once.
        match p.root.name.starts_with(p.root.kind.text()) {
            true => writeln!(out, "\n  {}", p.root.name)?,
            false => writeln!(out, "\n  {} ({})", p.root.name, p.root.kind.text())?,
        }
        let folded =
            p.spoken.iter().map(|s| (&p.steps[s.at], Some(s.field.as_str()))).chain(p.steps.last().map(|s| (s, None)));
        let steps: Vec<(&Step, Option<&str>)> = match internals {
            true => p.steps.iter().map(|s| (s, s.field.as_deref())).collect(),
            false => folded.collect(),
        };
        // Long chains of equal things (lists) say it once.
        let mut i = 0;
        while i < steps.len() {
            let (s, field) = steps[i];
            let same = |(a, f): &&(&Step, Option<&str>)| a.type_name == s.type_name && *f == field && field.is_some();
            let run = steps[i..].iter().take_while(same).count().max(1);
            writeln!(out, "    -> {} {}{} ({})", s.addr, name(s), field.unwrap_or(""), units::bytes(s.bytes))?;
            if run > 3 {
                writeln!(out, "       ... {} more of these", run - 2)?;
                i += run - 1;
            } else {
                i += 1;
            }
        }
    }
    if !r.attached.is_empty() {
        writeln!(out)?;
    }
    r.attached.iter().try_for_each(|a| writeln!(out, "{}", a.says()))
}
