//! Goroutines: chosen by state, function, wait or creator, grouped by equal stacks or by one property, with inlined frames
//! and lines, and as the runtime's own dump shows them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use serde::Serialize;

use crate::{
    base::{Addr, Goid},
    graph::build::Built,
    image::{Func, FuncId},
    runtime::{
        Runtime,
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
    pub stack: Vec<StackFrame>,
    /// The `go` statement that started them; absent for the first goroutine and where the runtime does not know.
    pub created_by: Option<StackFrame>,
    /// pprof labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub goids: Vec<Goid>,
}

/// Goroutines that have one property in common.
#[derive(Clone, Debug, Serialize)]
pub struct Bucket {
    pub name: String,
    pub count: u64,
    pub longest_wait_s: Option<f64>,
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
fn plain_name(name: &str) -> String {
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
pub fn select(rt: &Runtime, built: &Built, by: &Selection) -> Vec<usize> {
    let mut names = Names::default();
    let has = |part: &Option<String>, text: &str| part.as_deref().is_none_or(|p| text.contains(p));
    (0..built.goroutines.len())
        .filter(|&i| {
            let g = &built.goroutines[i];
            by.state.as_deref().is_none_or(|s| s == g.status.text())
                && has(&by.wait_reason, &g.wait_reason)
                && (by.function.is_none()
                    || names.of(rt, &built.stacks[i]).iter().any(|f| has(&by.function, &f.function)))
                && (by.creator.is_none() || names.creator(rt, g).is_some_and(|f| has(&by.creator, &f.function)))
        })
        .collect()
}

/// Seconds since a collection first saw it waiting: it has waited at least so long.
pub fn waited(g: &Goroutine, now: Option<u64>) -> Option<f64> {
    let ns = now.filter(|_| g.waitsince != 0)?.checked_sub(g.waitsince)?;
    Some(ns as f64 / 1e9)
}

fn longest(old: Option<f64>, new: Option<f64>) -> Option<f64> {
    match (old, new) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// Groups the goroutines `chosen`. `labels` are those of each goroutine. `now` is the target's nanotime (CLOCK_MONOTONIC)
/// where it is known.
pub fn group(
    rt: &Runtime,
    built: &Built,
    chosen: &[usize],
    labels: &[Vec<(String, String)>],
    by: By,
    now: Option<u64>,
) -> Goroutines {
    type Key<'a> = (Vec<u64>, Status, &'a str, Addr, &'a [(String, String)]);
    let mut index: HashMap<Key<'_>, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    let mut buckets: BTreeMap<String, Bucket> = BTreeMap::new();
    let mut names = Names::default();
    for &i in chosen {
        let (g, stack) = (&built.goroutines[i], &built.stacks[i]);
        let own = labels.get(i).map(Vec::as_slice).unwrap_or_default();
        let pcs: Vec<u64> = stack.frames.iter().map(|f| f.pc.0).collect();
        let n = *index.entry((pcs, g.status, g.wait_reason.as_str(), g.gopc, own)).or_insert_with(|| {
            groups.push(Group {
                count: 0,
                status: g.status,
                wait_reason: g.wait_reason.clone(),
                longest_wait_s: None,
                stack: names.of(rt, stack).to_vec(),
                created_by: names.creator(rt, g),
                labels: own.iter().cloned().collect(),
                goids: Vec::new(),
            });
            groups.len() - 1
        });
        let group = &mut groups[n];
        group.count += 1;
        group.goids.push(g.goid);
        group.longest_wait_s = longest(group.longest_wait_s, waited(g, now));
        if by != By::Stack {
            let name = property(by, g, &group.stack, group.created_by.as_ref());
            let b = buckets.entry(name.clone()).or_insert_with(|| Bucket {
                name,
                count: 0,
                longest_wait_s: None,
                goids: Vec::new(),
            });
            b.count += 1;
            b.goids.push(g.goid);
            b.longest_wait_s = longest(b.longest_wait_s, waited(g, now));
        }
    }
    groups.sort_by(|a, b| b.count.cmp(&a.count).then(a.goids.cmp(&b.goids)));
    let mut by: Vec<Bucket> = buckets.into_values().collect();
    by.sort_by(|a, b| b.count.cmp(&a.count).then(a.name.cmp(&b.name)));
    let (count, total) = (chosen.len() as u64, built.goroutines.len() as u64);
    Goroutines { count, total, groups, by, proven_leaks: None }
}

fn property(by: By, g: &Goroutine, stack: &[StackFrame], created_by: Option<&StackFrame>) -> String {
    let reason = if g.wait_reason.is_empty() { g.status.text() } else { &g.wait_reason };
    match by {
        By::Stack => String::new(),
        By::State if g.wait_reason.is_empty() => g.status.text().to_owned(),
        By::State => format!("{} [{reason}]", g.status.text()),
        By::Wait => reason.to_owned(),
        By::Function => {
            let helper = |f: &str| ["runtime.", "sync.", "internal/", "syscall."].iter().any(|p| f.starts_with(p));
            let frame = stack.iter().find(|f| !helper(&f.function)).or(stack.first());
            frame.map_or("?", |f| &f.function).to_owned()
        }
        By::Creator => created_by.map_or("(the runtime)", |f| &f.function).to_owned(),
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
