//! Goroutines: chosen by state, function, wait, creator, age, label, retained bytes or what they wait for, grouped by equal
//! stacks or by one property, with inlined frames and lines, and as the runtime's own dump shows them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use serde::Serialize;

use super::dominators::{Dominators, HolderTree};
use crate::{
    base::{Addr, Goid, units},
    graph::{Root, RootKind, build::Built},
    image::{Func, FuncId},
    runtime::{
        Runtime,
        heap::Heap,
        sched::{Goroutine, Status},
        stack::Stack,
    },
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StackFrame {
    pub function: String,
    pub file: String,
    pub line: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct Group {
    pub count: u64,
    pub status: Status,
    pub wait_reason: String,
    /// Since a collection first saw it waiting; absent until one has (the runtime keeps no other figure).
    pub longest_wait_s: Option<f64>,
    /// Empty where stacks were not read (`--hold none`).
    pub stack: Vec<StackFrame>,
    /// Function that the goroutine began with.
    pub started_as: String,
    /// The `go` statement that started them; absent for the first goroutine and where the runtime does not know.
    pub created_by: Option<StackFrame>,
    /// pprof labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Bytes of objects that only they keep, all together; absent unless asked for. Exact: from dominators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<u64>,
    /// Bytes of their stacks.
    pub stack_bytes: u64,
    pub goids: Vec<Goid>,
}

/// Goroutines that have one property in common.
#[derive(Clone, Debug, Serialize)]
pub struct Bucket {
    pub name: String,
    pub count: u64,
    pub longest_wait_s: Option<f64>,
    /// As in `Group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<u64>,
    pub stack_bytes: u64,
    pub goids: Vec<Goid>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Goroutines {
    /// Goroutines that were chosen.
    pub count: u64,
    /// All that are not dead.
    pub total: u64,
    pub groups: Vec<Group>,
    /// By the property that was asked for, most first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Bucket>,
    /// Those that nothing can wake any more; absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven_leaks: Option<Vec<Goid>>,
    /// Only the records of goroutines were read, not their stacks: groups are by state, start and creator.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub without_stacks: bool,
}

/// What is known of goroutines besides records and stacks, by their index. Lists that were not asked for are empty.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The target's nanotime (CLOCK_MONOTONIC), where it is known.
    pub now: Option<u64>,
    /// pprof labels.
    pub labels: Vec<Vec<(String, String)>>,
    pub waits_for: Vec<WaitsFor>,
    /// Bytes of objects that only this goroutine keeps.
    pub retained: Vec<u64>,
}

/// What one goroutine waits for.
#[derive(Clone, Debug, Default)]
pub struct WaitsFor {
    /// The primitive; of a select all its channels. Empty for waits that are for none.
    pub addrs: Vec<Addr>,
    /// `mutex main.Account.mu (0xc000123456)`; empty where there is none or places were not asked for.
    pub name: String,
}

/// Which goroutines: each condition that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// `waiting`, `running`, ...: the status as the runtime calls it.
    pub state: Option<String>,
    /// Part of the wait reason.
    pub wait_reason: Option<String>,
    /// Part of the name of a function on the stack, inlined ones included.
    pub function: Option<String>,
    /// Part of the name of the function with the `go` statement.
    pub creator: Option<String>,
    /// Known to have waited at least so many seconds.
    pub min_wait_s: Option<f64>,
    /// A label of this name, with this value if one is given.
    pub labels: Vec<(String, Option<String>)>,
    /// Keeps at least so many bytes of objects by itself.
    pub min_retained: Option<u64>,
    /// Waits for the primitive at this address (`0x...`), or for one whose name contains this.
    pub waits_for: Option<String>,
}

/// Property to count by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum By {
    #[default]
    Stack,
    /// Status, and the reason of those that wait.
    State,
    /// Innermost function outside the runtime and its helpers.
    Function,
    Wait,
    /// Function with the `go` statement.
    Creator,
    /// How long they are known to have waited.
    Age,
    /// pprof labels; with --label NAME the values of that one.
    Label,
    /// Bytes that each keeps by itself (reads the heap).
    Retained,
    /// Lock, channel or other primitive that they wait for (reads the heap, for its name).
    Lock,
}

/// Logical frames, innermost first; wrappers and `runtime.goexit` are left out as the runtime's own dump does.
pub fn symbolize(rt: &Runtime, stack: &Stack) -> Vec<StackFrame> {
    let mut out: Vec<StackFrame> = Vec::new();
    for f in &stack.frames {
        let Some(func) = rt.image.pclntab.find(f.pc) else { continue };
        if func.name() == "runtime.goexit" {
            continue;
        }
        for l in func.inline_frames(f.lookup) {
            // A compiler-made wrapper is shown only where it called a panic (runtime/traceback.go elideWrapperCalling).
            let panicked = out.last().is_some_and(|f| PANICS.contains(&f.function.as_str()));
            if l.func_id == FuncId::Wrapper && !panicked {
                continue;
            }
            out.push(StackFrame { function: plain_name(l.function), file: l.file.to_owned(), line: l.line });
        }
    }
    out
}

/// Generic arguments as the runtime prints them: `F[go.shape.int]` is `F[...]` (runtime/traceback.go printFuncName).
pub fn plain_name(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(i), Some(j)) if i < j => format!("{}[...]{}", &name[..i], &name[j + 1..]),
        _ => name.to_owned(),
    }
}

const PANICS: [&str; 3] = ["runtime.gopanic", "runtime.sigpanic", "runtime.panicwrap"];

/// The function with the `go` statement at `gopc`, and the pc to look its line up with.
fn creator_of<'r>(rt: &'r Runtime, g: &Goroutine) -> Option<(Func<'r>, Addr)> {
    let f = rt.image.pclntab.find(g.gopc).filter(|_| !g.gopc.is_null() && g.goid != Goid(1))?;
    Some((f, if g.gopc > f.entry() { Addr(g.gopc.0 - 1) } else { g.gopc }))
}

/// Where the goroutine was started, as the runtime's dump says it (runtime/traceback.go printcreatedby1).
pub fn created_by(rt: &Runtime, g: &Goroutine) -> Option<StackFrame> {
    let (f, pc) = creator_of(rt, g)?;
    let (file, line) = f.file_line(pc).unwrap_or_default();
    Some(StackFrame { function: plain_name(f.name()), file: file.to_owned(), line })
}

/// The runtime's own goroutines (runtime/traceback.go isSystemGoroutine; finalizers that run user code are not told apart).
pub fn is_system(rt: &Runtime, g: &Goroutine) -> bool {
    let name = rt.image.pclntab.find(g.startpc).map_or("", |f| f.name());
    name.starts_with("runtime.") && !matches!(name, "runtime.main" | "runtime.corostart" | "runtime.handleAsyncEvent")
}

/// Stacks by their pcs, so that each is looked up once.
#[derive(Default)]
struct Names {
    known: HashMap<Vec<Addr>, Rc<Vec<StackFrame>>>,
    creators: HashMap<Addr, Option<StackFrame>>,
}

impl Names {
    fn of(&mut self, rt: &Runtime, stack: &Stack) -> Rc<Vec<StackFrame>> {
        let key: Vec<Addr> = stack.frames.iter().map(|f| f.pc).collect();
        self.known.entry(key).or_insert_with(|| Rc::new(symbolize(rt, stack))).clone()
    }

    fn creator(&mut self, rt: &Runtime, g: &Goroutine) -> Option<StackFrame> {
        self.creators.entry(g.gopc).or_insert_with(|| created_by(rt, g)).clone()
    }
}

/// Indices of the goroutines that the conditions choose.
pub fn select(rt: &Runtime, built: &Built, by: &Selection, known: &Known) -> Vec<usize> {
    let mut names = Names::default();
    let has = |part: &Option<String>, text: &str| part.as_deref().is_none_or(|p| text.contains(p));
    let labelled = |i: usize| {
        by.labels.iter().all(|(key, value)| {
            let own = known.labels.get(i).map(Vec::as_slice).unwrap_or_default();
            own.iter().any(|(k, v)| k == key && value.as_deref().is_none_or(|w| w == v))
        })
    };
    (0..built.goroutines.len())
        .filter(|&i| {
            let g = &built.goroutines[i];
            by.state.as_deref().is_none_or(|s| s == g.status.text())
                && has(&by.wait_reason, &g.wait_reason)
                && by.min_wait_s.is_none_or(|s| waited(g, known.now).is_some_and(|w| w >= s))
                && labelled(i)
                && by.min_retained.is_none_or(|n| known.retained.get(i).is_some_and(|&r| r >= n))
                && by.waits_for.as_deref().is_none_or(|t| known.waits_for.get(i).is_some_and(|w| w.is(t)))
                && (by.function.is_none()
                    || names.of(rt, &built.stacks[i]).iter().any(|f| has(&by.function, &f.function)))
                && (by.creator.is_none() || names.creator(rt, g).is_some_and(|f| has(&by.creator, &f.function)))
        })
        .collect()
}

impl WaitsFor {
    fn is(&self, text: &str) -> bool {
        match text.strip_prefix("0x").and_then(|t| u64::from_str_radix(t, 16).ok()) {
            Some(addr) => self.addrs.contains(&Addr(addr)),
            None => self.name.contains(text),
        }
    }
}

/// Bytes of objects that only the goroutines of one group keep, for each of `groups` groups; `of`: the group of a
/// goroutine. What two groups share counts for neither. Exact: dominators over the whole heap. Expects the records of
/// goroutines to be handed over (`holders::hand_over_records`).
pub fn retained(heap: &Heap, built: &Built, groups: usize, of: impl Fn(Goid) -> Option<u32>) -> Vec<u64> {
    let rest = groups as u32;
    let held_by = |r: &Root| match r.kind {
        RootKind::Stack | RootKind::Conservative | RootKind::Goroutine => of(r.goid).unwrap_or(rest),
        _ => rest,
    };
    let tree = HolderTree { parent: vec![None; groups + 1], of_root: built.graph.roots.iter().map(held_by).collect() };
    match Dominators::compute(&built.graph, &tree, |o| heap.extent(o).1) {
        Ok(dom) => (0..rest).map(|h| dom.holder(h).map_or(0, |v| dom.retained(v))).collect(),
        Err(_) => vec![0; groups],
    }
}

/// Seconds since a collection first saw it waiting: it has waited at least so long.
pub fn waited(g: &Goroutine, now: Option<u64>) -> Option<f64> {
    let ns = now.filter(|_| g.waitsince != 0)?.checked_sub(g.waitsince).filter(|&ns| ns > 0)?;
    Some(ns as f64 / 1e9)
}

fn longest(old: Option<f64>, new: Option<f64>) -> Option<f64> {
    match (old, new) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// Groups the goroutines `chosen`. `label`: the one whose values `By::Label` counts by, else all of a goroutine.
pub fn group(rt: &Runtime, built: &Built, chosen: &[usize], known: &Known, by: By, label: Option<&str>) -> Goroutines {
    type Key<'a> = (Vec<u64>, Status, &'a str, Addr, Addr, &'a [(String, String)]);
    let mut index: HashMap<Key<'_>, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    let mut buckets: BTreeMap<(usize, String), Bucket> = BTreeMap::new();
    let mut names = Names::default();
    for &i in chosen {
        let (g, stack) = (&built.goroutines[i], &built.stacks[i]);
        let own = known.labels.get(i).map(Vec::as_slice).unwrap_or_default();
        let pcs: Vec<u64> = stack.frames.iter().map(|f| f.pc.0).collect();
        let n = *index.entry((pcs, g.status, g.wait_reason.as_str(), g.gopc, g.startpc, own)).or_insert_with(|| {
            groups.push(Group {
                count: 0,
                status: g.status,
                wait_reason: g.wait_reason.clone(),
                longest_wait_s: None,
                stack: names.of(rt, stack).to_vec(),
                started_as: rt.image.pclntab.find(g.startpc).map_or("?".to_owned(), |f| plain_name(f.name())),
                created_by: names.creator(rt, g),
                labels: own.iter().cloned().collect(),
                retained_bytes: None,
                stack_bytes: 0,
                goids: Vec::new(),
            });
            groups.len() - 1
        });
        let (wait, bytes) = (waited(g, known.now), g.stack.1.0.saturating_sub(g.stack.0.0));
        let group = &mut groups[n];
        group.count += 1;
        group.goids.push(g.goid);
        group.longest_wait_s = longest(group.longest_wait_s, wait);
        group.stack_bytes = group.stack_bytes.saturating_add(bytes);
        if by != By::Stack {
            let key = match by {
                By::Age => age(wait, g),
                By::Retained => size(known.retained.get(i).copied().unwrap_or(0)),
                By::Label => (0, label_of(own, label)),
                By::Lock => (0, known.waits_for.get(i).map(WaitsFor::words).unwrap_or_default()),
                _ => (0, property(by, g, group)),
            };
            let b = buckets.entry(key).or_insert_with_key(|(_, name)| Bucket {
                name: name.clone(),
                count: 0,
                longest_wait_s: None,
                retained_bytes: None,
                stack_bytes: 0,
                goids: Vec::new(),
            });
            b.count += 1;
            b.goids.push(g.goid);
            b.longest_wait_s = longest(b.longest_wait_s, wait);
            b.stack_bytes = b.stack_bytes.saturating_add(bytes);
        }
    }
    groups.sort_by(|a, b| b.count.cmp(&a.count).then(a.goids.cmp(&b.goids)));
    let mut buckets: Vec<Bucket> = buckets.into_values().collect();
    // Ages and sizes stay in their order.
    if !matches!(by, By::Age | By::Retained) {
        buckets.sort_by(|a, b| b.count.cmp(&a.count).then(a.name.cmp(&b.name)));
    }
    let (count, total) = (chosen.len() as u64, built.goroutines.len() as u64);
    Goroutines { count, total, groups, by: buckets, proven_leaks: None, without_stacks: false }
}

/// Fills in what each group (and each row by a property) keeps, and puts groups that keep most first. As for `retained`.
pub fn measure(heap: &Heap, built: &Built, g: &mut Goroutines) {
    let numbers = |lists: Vec<&[Goid]>| -> HashMap<Goid, u32> {
        lists.into_iter().zip(0..).flat_map(|(l, n)| l.iter().map(move |&goid| (goid, n))).collect()
    };
    let of = numbers(g.groups.iter().map(|g| g.goids.as_slice()).collect());
    let kept = retained(heap, built, g.groups.len(), |goid| of.get(&goid).copied());
    g.groups.iter_mut().zip(kept).for_each(|(g, n)| g.retained_bytes = Some(n));
    g.groups.sort_by_key(|g| std::cmp::Reverse((g.retained_bytes, g.count)));
    if !g.by.is_empty() {
        let of = numbers(g.by.iter().map(|b| b.goids.as_slice()).collect());
        let kept = retained(heap, built, g.by.len(), |goid| of.get(&goid).copied());
        g.by.iter_mut().zip(kept).for_each(|(b, n)| b.retained_bytes = Some(n));
    }
}

/// The class of an age, longest first. The runtime knows only since when a collection has seen a goroutine wait.
fn age(wait: Option<f64>, g: &Goroutine) -> (usize, String) {
    const CLASSES: [(f64, &str); 6] = [
        (86_400.0, "at least 1 day"),
        (3_600.0, "at least 1 hour"),
        (600.0, "at least 10 min"),
        (60.0, "at least 1 min"),
        (1.0, "at least 1 s"),
        (0.0, "less than 1 s is known"),
    ];
    let class = wait.and_then(|s| CLASSES.iter().position(|c| s >= c.0));
    match class {
        Some(n) => (n, CLASSES[n].1.to_owned()),
        None if g.wait_reason.is_empty() => (8, "does not wait".to_owned()),
        None => (7, "not known: no collection has seen it wait".to_owned()),
    }
}

/// The class of a size, largest first.
fn size(bytes: u64) -> (usize, String) {
    const CLASSES: [u64; 7] = [1 << 30, 64 << 20, 16 << 20, 1 << 20, 64 << 10, 4 << 10, 1];
    match CLASSES.iter().position(|&c| bytes >= c) {
        Some(n) if CLASSES[n] > 1 => (n, format!("at least {}", units::bytes(CLASSES[n]))),
        Some(n) => (n, format!("less than {}", units::bytes(CLASSES[n - 1]))),
        None => (CLASSES.len(), "nothing".to_owned()),
    }
}

fn label_of(own: &[(String, String)], label: Option<&str>) -> String {
    let shown: Vec<String> =
        own.iter().filter(|(k, _)| label.is_none_or(|l| l == k)).map(|(k, v)| format!("{k}={v:?}")).collect();
    if shown.is_empty() { "(no label)".to_owned() } else { shown.join(" ") }
}

impl WaitsFor {
    fn words(&self) -> String {
        if self.name.is_empty() { "(no lock or channel)".to_owned() } else { self.name.clone() }
    }
}

fn property(by: By, g: &Goroutine, group: &Group) -> String {
    let reason = if g.wait_reason.is_empty() { g.status.text() } else { &g.wait_reason };
    match by {
        By::State if g.wait_reason.is_empty() => g.status.text().to_owned(),
        By::State => format!("{} [{reason}]", g.status.text()),
        By::Wait => reason.to_owned(),
        By::Function => {
            let helper = |f: &str| ["runtime.", "sync.", "internal/", "syscall."].iter().any(|p| f.starts_with(p));
            let frame = group.stack.iter().find(|f| !helper(&f.function)).or(group.stack.first());
            frame.map_or("?", |f| &f.function).to_owned()
        }
        By::Creator => group.created_by.as_ref().map_or("(the runtime)", |f| &f.function).to_owned(),
        By::Stack | By::Age | By::Label | By::Retained | By::Lock => String::new(),
    }
}

/// One line pair of the runtime's dump.
#[derive(Clone, Debug)]
pub struct TraceFrame {
    pub function: String,
    pub file: String,
    pub line: u32,
    /// Of the pc behind the function's entry; not told for inlined calls.
    pub offset: Option<u64>,
}

/// One goroutine of the runtime's dump.
#[derive(Clone, Debug)]
pub struct Trace {
    pub goid: Goid,
    /// What stands in brackets.
    pub state: String,
    pub labels: Vec<(String, String)>,
    pub frames: Vec<TraceFrame>,
    pub created_by: Option<TraceFrame>,
    /// Who started it (Go 1.21 and later).
    pub parent: Goid,
}

/// Goroutines as `debug=2` shows them: headers, hiding of runtime frames, lines and offsets as in runtime/traceback.go.
/// System goroutines are left out. Arguments are not printed.
pub fn traces(
    rt: &Runtime,
    built: &Built,
    chosen: &[usize],
    labels: &[Vec<(String, String)>],
    now: Option<u64>,
) -> Vec<Trace> {
    let system: BTreeSet<usize> = chosen.iter().copied().filter(|&i| is_system(rt, &built.goroutines[i])).collect();
    let mut out = Vec::new();
    for &i in chosen.iter().filter(|i| !system.contains(i)) {
        let g = &built.goroutines[i];
        let mut state = if g.wait_reason.is_empty() { g.status.text() } else { &g.wait_reason }.to_owned();
        let minutes =
            now.filter(|_| g.waitsince != 0).and_then(|n| n.checked_sub(g.waitsince)).unwrap_or(0) / 60_000_000_000;
        if minutes >= 1 {
            state.push_str(&format!(", {minutes} minutes"));
        }
        if g.locked_to_thread {
            state.push_str(", locked to thread");
        }
        let mut frames: Vec<TraceFrame> = Vec::new();
        let mut inner = None;
        for f in &built.stacks[i].frames {
            let Some(func) = rt.image.pclntab.find(f.pc) else { continue };
            for l in func.inline_frames(f.lookup) {
                let calls = inner.replace(l.func_id);
                let wrapper = l.func_id == FuncId::Wrapper
                    && !calls.is_some_and(|c| c == FuncId::Gopanic || c == FuncId::Sigpanic);
                // Runtime functions are shown only if they are exported, or a panic that is not the innermost frame.
                let hidden = l.function.strip_prefix("runtime.").is_some_and(|n| {
                    !(n.starts_with(|c: char| c.is_ascii_uppercase()) || n == "gopanic" && calls.is_some())
                });
                if wrapper || hidden || !l.function.contains('.') {
                    continue;
                }
                let function =
                    if l.function == "runtime.gopanic" { "panic".to_owned() } else { plain_name(l.function) };
                let offset = (!l.inlined && f.pc > func.entry()).then(|| f.pc.0 - func.entry().0);
                frames.push(TraceFrame { function, file: l.file.to_owned(), line: l.line, offset });
            }
        }
        let created_by = creator_of(rt, g).map(|(f, pc)| {
            let (file, line) = f.file_line(pc).unwrap_or_default();
            let offset = (g.gopc > f.entry()).then(|| g.gopc.0 - f.entry().0);
            TraceFrame { function: plain_name(f.name()), file: file.to_owned(), line, offset }
        });
        let labels = labels.get(i).cloned().unwrap_or_default();
        out.push(Trace { goid: g.goid, state, labels, frames, created_by, parent: g.parent });
    }
    out
}
