//! What follows from the edges: deadlocks, chains to their last goroutine, and what that one does.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::{Certainty, Edge, Primitive, state::State};
use crate::{
    analysis::goroutines::{StackFrame, symbolize, waited},
    base::{Addr, Goid},
    graph::build::Built,
    os::descriptors::Descriptors,
    runtime::{
        Runtime,
        sched::{
            Status,
            waits::{Wait, WaitKind},
        },
    },
    target::{Arch, TargetKind},
};

/// What one goroutine does.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Doing {
    pub goid: Goid,
    /// Wait reason, or the status of one that does not wait.
    pub state: String,
    /// At least so long: the runtime notes the time when a collection first sees a goroutine wait.
    pub waited_s: Option<f64>,
    /// Descriptor of a wait for input or output, or of a system call.
    pub descriptor: Option<u64>,
    /// What the descriptor is; of a socket both its addresses. Live processes only.
    pub descriptor_is: Option<String>,
    /// Name or number, and arguments.
    pub syscall: Option<String>,
    /// Seconds until it wakes by itself from a sleep.
    pub sleeps_s: Option<f64>,
    /// The timer or ticker whose channel it waits for, maybe among others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<Timer>,
    /// What it does to the descriptor, where its frames say it: read, write, accept, connect.
    pub operation: Option<&'static str>,
    /// The other end of the socket; of one that listens its own address.
    pub peer: Option<String>,
    /// Innermost function of the program's own.
    pub frame: Option<StackFrame>,
}

/// When the timer of a channel fires.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timer {
    /// Seconds from the look on, 0 for one that is late; absent where the time of the look is not known (cores).
    pub due_s: Option<f64>,
    /// Of a ticker, seconds from one tick to the next.
    pub period_s: Option<f64>,
}

impl Timer {
    /// `its timer fires in 10.0 min`, `its ticker (every 1.00 s) ticks in 300 ms`.
    fn words(&self) -> String {
        let time = |s: f64| crate::base::units::duration_ns((s * 1e9) as u64);
        let (who, does) = match self.period_s {
            Some(p) => (format!("its ticker (every {})", time(p)), "ticks"),
            None => ("its timer".to_owned(), "fires"),
        };
        self.due_s.map_or(format!("{who} will wake it"), |s| format!("{who} {does} in {}", time(s)))
    }
}

/// What one goroutine waits for, with all that is known of it.
#[derive(Clone, Debug, Serialize)]
pub struct Waiting {
    pub kind: WaitKind,
    /// The primitive; `None` where there is none, or it was not found.
    pub addr: Option<Addr>,
    /// Where it lives, and what keeps that alive; of channels see `cases`.
    #[serde(flatten)]
    pub named: Named,
    /// Channels of its operation: of a select every case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<WaitCase>,
    #[serde(flatten)]
    pub doing: Doing,
}

#[derive(Clone, Debug, Serialize)]
pub struct WaitCase {
    pub chan: Addr,
    pub send: bool,
    #[serde(flatten)]
    pub named: Named,
}

/// Where a primitive lives; empty where the heap was not read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Named {
    /// `main.Repo.mu`, `global main.jobs`.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// As in `Primitive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<String>,
}

impl Named {
    /// `main.Repo.mu (0xc000012345), kept by global main.repo`.
    fn words(&self, addr: Addr) -> String {
        let Some(place) = &self.place else { return addr.to_string() };
        let kept = self.kept_by.as_ref().map_or(String::new(), |k| format!(", kept by {k}"));
        format!("{place} ({addr}){kept}")
    }
}

/// What goroutine `index` waits for; arguments as of `doing`. `name` says where a primitive lives.
pub fn waiting(
    rt: &Runtime,
    built: &Built,
    waits: &[Wait],
    index: usize,
    descriptors: Option<&mut Descriptors>,
    now: Option<u64>,
    name: impl Fn(Addr) -> Named,
) -> Waiting {
    let w = &waits[index];
    let addr = Some(w.addr).filter(|a| !a.is_null());
    Waiting {
        kind: w.kind,
        addr,
        named: addr.filter(|_| !w.kind.is_channel()).map(&name).unwrap_or_default(),
        cases: w.cases.iter().map(|c| WaitCase { chan: c.chan, send: c.send, named: name(c.chan) }).collect(),
        doing: doing(rt, built, waits, index, descriptors, now),
    }
}

impl Waiting {
    /// `[select] receive from main.Pool.jobs (0xc000012345) or send to global main.done (0xc000012346), in main.f (f.go:3)`.
    pub fn words(&self) -> String {
        let said = self.doing.words();
        let verb = |c: &WaitCase| if c.send { "send to" } else { "receive from" };
        let cases: Vec<String> = self.cases.iter().map(|c| format!("{} {}", verb(c), c.named.words(c.chan))).collect();
        let what = match (self.cases.is_empty(), self.addr) {
            (false, _) => cases.join(" or "),
            (true, Some(a)) => format!("{} {}", self.kind.text(), self.named.words(a)),
            _ => return said,
        };
        match said.split_once(']') {
            Some((state, rest)) => format!("{state}] {what}{rest}"),
            None => format!("{said} {what}"),
        }
    }
}

/// One step of a chain.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    pub waiter: Goid,
    pub holder: Goid,
    pub primitive: Primitive,
    pub certainty: Certainty,
    /// Function of the holder that has it.
    pub held_in: Option<String>,
    /// A registered deferred call of that function lets go of it.
    pub deferred: bool,
}

/// A goroutine at the end of chains, and those that wait for it directly or through others.
#[derive(Clone, Debug, Serialize)]
pub struct Chain {
    /// From a goroutine that nobody waits for to the last one; a cycle ends with its first member again.
    pub goids: Vec<Goid>,
    pub links: Vec<Link>,
    /// What the last one does, in words.
    pub root: String,
    pub last: Doing,
    /// Goroutines that wait for the last one, directly or through others.
    pub waiters: u64,
}

const MAX_CHAINS: usize = 1000;
const MAX_CYCLES: usize = 1000;
/// Steps of all chains together: beyond, further goroutines have no chain of their own.
const MAX_STEPS: usize = 1 << 24;

/// Cycles of waiting: each a list of goroutines that wait for the next, the last for the first. Edges that are merely
/// possible are not followed, and a channel that several could serve is no deadlock.
pub fn cycles(edges: &[Edge]) -> Vec<Vec<Goid>> {
    let next = followed(edges);
    let mut done: HashSet<Goid> = HashSet::new();
    let (mut out, mut known) = (Vec::new(), HashSet::new());
    for &start in next.keys() {
        // Depth first with the current way on a stack.
        let mut way: Vec<(Goid, usize)> = vec![(start, 0)];
        let mut on_way: HashMap<Goid, usize> = HashMap::from([(start, 0)]);
        if done.contains(&start) {
            continue;
        }
        while let Some((g, n)) = way.last_mut() {
            let to = next.get(g).and_then(|l| l.get(*n)).copied();
            *n += 1;
            match to {
                Some(t) if on_way.contains_key(&t) => {
                    let mut cycle: Vec<Goid> = way[on_way[&t]..].iter().map(|w| w.0).collect();
                    let least = (0..cycle.len()).min_by_key(|&i| cycle[i]).unwrap_or(0);
                    cycle.rotate_left(least);
                    if out.len() < MAX_CYCLES && known.insert(cycle.clone()) {
                        out.push(cycle);
                    }
                }
                Some(t) if !done.contains(&t) && next.contains_key(&t) => {
                    on_way.insert(t, way.len());
                    way.push((t, 0));
                }
                Some(_) => {}
                None => {
                    let g = *g;
                    done.insert(g);
                    on_way.remove(&g);
                    way.pop();
                }
            }
        }
    }
    out
}

/// For each waiter the holders that have to act. A select that something unknown may end waits for nobody. A channel or Cond that several could serve waits for any of them: these are
/// followed only where all of them are stuck themselves.
fn followed(edges: &[Edge]) -> BTreeMap<Goid, Vec<Goid>> {
    let mut next: BTreeMap<Goid, Vec<Goid>> = BTreeMap::new();
    // Those for whom one of several is enough.
    let mut any: HashSet<Goid> = HashSet::new();
    for e in edges.iter().filter(|e| e.certainty <= Certainty::Likely && !e.other_cases) {
        if let Some(h) = e.holder {
            let list = next.entry(e.waiter).or_default();
            if !list.contains(&h) {
                list.push(h);
            }
            if !e.primitive.kind.is_lock() {
                any.insert(e.waiter);
            }
        }
    }
    // As many calls of Done are missing as there are goroutines on their way to one, or more: each has to come.
    for e in edges {
        if let Some(State::WaitGroup { counter, .. }) = e.primitive.state
            && next.get(&e.waiter).is_some_and(|l| counter as usize >= l.len())
        {
            any.remove(&e.waiter);
        }
    }
    // The greatest set of goroutines none of which can go on unless another of them does.
    let mut stuck: HashSet<Goid> = next.keys().copied().collect();
    let mut waiters: HashMap<Goid, Vec<Goid>> = HashMap::new();
    for (&g, list) in &next {
        list.iter().for_each(|&h| waiters.entry(h).or_default().push(g));
    }
    let goes_on = |g: &Goid, stuck: &HashSet<Goid>| match any.contains(g) {
        true => next[g].iter().any(|h| !stuck.contains(h)),
        false => !next[g].iter().any(|h| stuck.contains(h)),
    };
    let mut todo: Vec<Goid> = next.keys().copied().collect();
    while let Some(g) = todo.pop() {
        if stuck.contains(&g) && goes_on(&g, &stuck) {
            stuck.remove(&g);
            todo.extend(waiters.get(&g).into_iter().flatten().filter(|w| stuck.contains(w)));
        }
    }
    next.retain(|g, list| !any.contains(g) || list.len() == 1 || stuck.contains(g));
    next
}

/// Chains from goroutines that nobody waits for to the last one, longest first; those that join share one.
pub fn chains(edges: &[Edge], mut does: impl FnMut(Goid) -> Doing) -> Vec<Chain> {
    let next = followed(edges);
    let waited: HashSet<Goid> = next.values().flatten().copied().collect();
    let mut by_tail: BTreeMap<Vec<Goid>, (Goid, u64)> = BTreeMap::new();
    let mut steps = 0;
    for &g in next.keys().filter(|g| !waited.contains(g)) {
        if steps > MAX_STEPS {
            break;
        }
        let (mut tail, mut at, mut seen) = (Vec::new(), g, HashSet::from([g]));
        while let Some(&to) = next.get(&at).and_then(|l| l.first()) {
            tail.push(to);
            steps += 1;
            if !seen.insert(to) {
                break;
            }
            at = to;
        }
        let entry = by_tail.entry(tail).or_insert((g, 0));
        entry.1 += 1;
    }
    let mut out: Vec<(Vec<Goid>, u64)> = by_tail
        .into_iter()
        .map(|(tail, (first, n))| {
            let waiters = n + tail.len() as u64 - 1;
            ([first].into_iter().chain(tail).collect(), waiters)
        })
        .collect();
    out.sort_by_key(|c| (std::cmp::Reverse(c.1), c.0.clone()));
    out.truncate(MAX_CHAINS);
    let mut between: HashMap<(Goid, Goid), &Edge> = HashMap::new();
    for e in edges {
        if let Some(h) = e.holder {
            between.entry((e.waiter, h)).or_insert(e);
        }
    }
    out.into_iter()
        .map(|(goids, waiters)| {
            let links = goids
                .windows(2)
                .filter_map(|w| between.get(&(w[0], w[1])).map(|e| (w[0], w[1], *e)))
                .map(|(waiter, holder, e)| Link {
                    waiter,
                    holder,
                    primitive: e.primitive.clone(),
                    certainty: e.certainty,
                    held_in: e.held_in.clone(),
                    deferred: e.deferred,
                })
                .collect();
            let last = does(goids.last().copied().unwrap_or_default());
            Chain { links, root: last.words(), last, goids, waiters }
        })
        .collect()
}

/// Not the program's own: what a call into a library sits in.
pub fn library(function: &str) -> bool {
    ["runtime.", "sync.", "internal/", "time.", "syscall.", "net.", "os.", "io.", "bufio.", "unique."]
        .iter()
        .any(|p| function.starts_with(p))
}

/// What goroutine `index` does. `descriptors` is asked for a live process; `now` is its nanotime, or a time before.
pub fn doing(
    rt: &Runtime,
    built: &Built,
    waits: &[Wait],
    index: usize,
    descriptors: Option<&mut Descriptors>,
    now: Option<u64>,
) -> Doing {
    let (g, w) = (&built.goroutines[index], &waits[index]);
    let frames = symbolize(rt, &built.stacks[index]);
    let frame = frames.iter().find(|f| !library(&f.function)).or(frames.first()).cloned();
    let call = (w.kind == WaitKind::Syscall).then(|| syscall(rt, index, built)).flatten();
    let descriptor = w.fd.or(call.as_ref().and_then(|c| c.1));
    let is = descriptor.and_then(|fd| descriptors?.describe(fd));
    // Of a core `now` is a time before it: long enough for "at least", too long for what is still to come.
    let to_come = now.filter(|_| rt.target.kind == TargetKind::Live);
    Doing {
        goid: g.goid,
        operation: descriptor.and_then(|_| frames.iter().find_map(|f| operation(&f.function))),
        peer: is.as_deref().and_then(peer),
        state: if g.wait_reason.is_empty() { g.status.text().to_owned() } else { g.wait_reason.clone() },
        waited_s: waited(g, now),
        descriptor,
        descriptor_is: is,
        syscall: call.map(|c| c.0),
        sleeps_s: w
            .until
            .zip(to_come.filter(|_| !w.kind.is_channel()))
            .and_then(|(t, now)| Some(t.checked_sub(now)? as f64 / 1e9)),
        timer: w.until.filter(|_| w.kind.is_channel()).map(|t| Timer {
            due_s: to_come.map(|now| t.saturating_sub(now) as f64 / 1e9),
            period_s: w.every.map(|p| p as f64 / 1e9),
        }),
        frame,
    }
}

impl Doing {
    /// `[IO wait] of descriptor 9 (tcp 10.0.0.2:4711 -> 10.0.0.7:5432), for at least 14 min, in main.(*Pool).get (pool.go:88)`.
    pub fn words(&self) -> String {
        let time = |s: f64| crate::base::units::duration_ns((s * 1e9) as u64);
        let mut out = format!("[{}]", self.state);
        if let Some(call) = &self.syscall {
            out.push_str(&format!(" {call}"));
        }
        if let Some(fd) = self.descriptor {
            out.push_str(&format!(" of descriptor {fd}"));
        }
        if let Some(is) = &self.descriptor_is {
            out.push_str(&format!(" ({is})"));
        }
        if let Some(s) = self.waited_s {
            out.push_str(&format!(", for at least {}", time(s)));
        }
        if let Some(s) = self.sleeps_s {
            out.push_str(&format!(", wakes in {}", time(s)));
        }
        if let Some(t) = &self.timer {
            out.push_str(&format!(", {}", t.words()));
        }
        if let Some(f) = &self.frame {
            out.push_str(&format!(", in {} ({}:{})", f.function, f.file, f.line));
        }
        out
    }
}

/// What a method of internal/poll's descriptor (fd_unix.go) waits to do; a connect waits for writing below net's own.
fn operation(function: &str) -> Option<&'static str> {
    if function.starts_with("net.(*netFD).connect") {
        return Some("connect");
    }
    let method = function.strip_prefix("internal/poll.(*FD).")?;
    ["Read", "Pread", "Write", "Pwrite", "Accept"].into_iter().find(|m| method.starts_with(m)).map(|m| match m {
        "Accept" => "accept",
        "Read" | "Pread" => "read",
        _ => "write",
    })
}

/// The peer in the words of `Descriptors::describe`, or the own address of a socket that listens.
fn peer(is: &str) -> Option<String> {
    let words: Vec<&str> = is.split(' ').collect();
    match words.as_slice() {
        ["tcp" | "udp", _, "->", peer, ..] => Some((*peer).to_owned()),
        ["tcp" | "udp", own, ..] => Some((*own).to_owned()),
        _ => None,
    }
}

impl Chain {
    /// Does it end in a deadlock?
    pub fn in_a_circle(&self) -> bool {
        self.goids.split_last().is_some_and(|(last, before)| before.contains(last))
    }

    /// `127 waits for 42 waits for 88, which sits in a read of 10.0.0.7:5432 for at least 14 min, inside main.(*Pool).get, Unlock is
    /// deferred`. Long chains are cut in the middle.
    pub fn sentence(&self) -> String {
        const ENDS: usize = 6;
        let mut names: Vec<String> = self.goids.iter().map(ToString::to_string).collect();
        if names.len() > 2 * ENDS {
            let left_out = names.len() - 2 * ENDS;
            names.splice(ENDS..names.len() - ENDS, [format!("... ({left_out} more)")]);
        }
        let way = names.join(" waits for ");
        let Some(last) = self.goids.last() else { return way };
        if self.in_a_circle() {
            return format!("{way}: a deadlock");
        }
        let mut out = format!("{way}, which {}", self.last.sits());
        // Where a lock is held across that: the holder's function, and what is known of its way out.
        if let Some(link) = self.links.last().filter(|l| l.primitive.kind.is_lock() && l.holder == *last) {
            if let Some(f) = link.held_in.as_ref().or(self.last.frame.as_ref().map(|f| &f.function)) {
                out.push_str(&format!(", inside {f}"));
            }
            if link.deferred {
                out.push_str(", Unlock is deferred");
            }
        }
        out
    }
}

impl Doing {
    /// `sits in a read of 10.0.0.7:5432 for at least 14 min`; a time only where it is known.
    pub fn sits(&self) -> String {
        let time = |s: f64| crate::base::units::duration_ns((s * 1e9) as u64);
        let what = self.peer.as_ref().or(self.descriptor_is.as_ref()).cloned();
        let mut out = match (&self.syscall, self.operation, self.descriptor) {
            (Some(call), ..) => {
                let of = what.map_or(String::new(), |w| format!(" of {w}"));
                format!("sits in the system call {call}{of}")
            }
            (_, Some(op), Some(fd)) => {
                let (article, to) = match op {
                    "read" => ("a", "of"),
                    "accept" => ("an", "at"),
                    _ => ("a", "to"),
                };
                format!("sits in {article} {op} {to} {}", what.unwrap_or_else(|| format!("descriptor {fd}")))
            }
            (_, None, Some(fd)) => format!("waits for {}", what.unwrap_or_else(|| format!("descriptor {fd}"))),
            _ if self.sleeps_s.is_some() || self.state == "sleep" => "sleeps".to_owned(),
            _ if matches!(self.state.as_str(), "running" | "runnable" | "syscall") => format!("is {}", self.state),
            _ => format!("waits in [{}]", self.state),
        };
        if let Some(s) = self.waited_s {
            out.push_str(&format!(" for at least {}", time(s)));
        }
        if let Some(s) = self.sleeps_s {
            out.push_str(&format!(", to wake in {}", time(s)));
        }
        if let Some(t) = &self.timer {
            out.push_str(&format!(" ({})", t.words()));
        }
        out
    }
}

/// System call that the goroutine's thread is in, from its registers: words, and the descriptor it works on.
fn syscall(rt: &Runtime, index: usize, built: &Built) -> Option<(String, Option<u64>)> {
    let g = &built.goroutines[index];
    let regs = &g.regs.as_ref().filter(|_| g.status == Status::Syscall && rt.target.arch == Arch::Amd64)?.general;
    // user_regs_struct: rdx, rsi, rdi, orig_rax; the last is negative outside of system calls.
    let (number, args) = (*regs.get(15)? as i64, [*regs.get(14)?, *regs.get(13)?, *regs.get(12)?]);
    // (name, arguments, works on a descriptor); numbers of arch/x86/entry/syscalls/syscall_64.tbl.
    let (name, n, file) = match number {
        0 => ("read", 3, true),
        1 => ("write", 3, true),
        3 => ("close", 1, true),
        7 => ("poll", 3, false),
        17 => ("pread64", 3, true),
        18 => ("pwrite64", 3, true),
        20 => ("writev", 3, true),
        23 => ("select", 3, false),
        35 => ("nanosleep", 1, false),
        42 => ("connect", 1, true),
        43 | 288 => ("accept", 1, true),
        44 => ("sendto", 3, true),
        45 => ("recvfrom", 3, true),
        47 => ("recvmsg", 1, true),
        61 => ("wait4", 1, false),
        72 => ("fcntl", 2, true),
        73 => ("flock", 2, true),
        74 => ("fsync", 1, true),
        75 => ("fdatasync", 1, true),
        202 => ("futex", 2, false),
        217 => ("getdents64", 1, true),
        230 => ("clock_nanosleep", 1, false),
        232 | 281 => ("epoll_wait", 1, true),
        247 => ("waitid", 2, false),
        257 => ("openat", 0, false),
        n if n < 0 => return None,
        n => return Some((format!("system call {n}"), None)),
    };
    let shown: Vec<String> =
        args.iter().take(n).map(|&a| if a < 1 << 16 { a.to_string() } else { format!("{a:#x}") }).collect();
    Some((format!("{name}({})", shown.join(", ")), file.then_some(args[0])))
}
