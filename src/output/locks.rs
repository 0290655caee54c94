//! Text and Graphviz forms of `locks`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{self, Write},
};

use crate::{
    analysis::locks::{Certainty, Edge, Locks, Primitive, chains::Chain, leaks::LeakGroup, state::State},
    base::{Goid, units},
};

fn ids(list: &[Goid], sep: &str) -> String {
    const SHOWN: usize = 12;
    let mut out: Vec<String> = list.iter().take(SHOWN).map(ToString::to_string).collect();
    if list.len() > SHOWN {
        out.push("...".to_owned());
    }
    out.join(sep)
}

pub fn certainty(c: Certainty) -> &'static str {
    match c {
        Certainty::Sure => "sure",
        Certainty::Likely => "likely",
        Certainty::Possible => "possible",
        Certainty::None => "not known",
    }
}

fn seconds(s: f64) -> String {
    units::duration_ns((s * 1e9) as u64)
}

/// What the primitive says of itself.
pub fn said(s: &State) -> String {
    let yes = |b: bool, text: &'static str| b.then(|| text.to_owned());
    let parts: Vec<Option<String>> = match *s {
        State::Mutex { locked, starving, queued } => vec![
            Some(if locked { "locked" } else { "not locked" }.to_owned()),
            yes(starving, "starving"),
            Some(format!("{queued} in its queue")),
        ],
        State::RwMutex { readers, writer, readers_awaited } => vec![
            Some(if writer { "a writer has it or waits" } else { "no writer" }.to_owned()),
            Some(format!("{} in it or waiting", plural(readers as usize, "reader", "readers"))),
            (readers_awaited > 0).then(|| format!("the writer waits for {readers_awaited} of them")),
        ],
        State::WaitGroup { counter, waiters } => {
            let missing =
                if counter == 1 { "1 call of Done is".into() } else { format!("{counter} calls of Done are") };
            vec![Some(format!("{missing} missing")), Some(format!("{waiters} waiting"))]
        }
        State::Channel { buffered, capacity, closed } => {
            vec![Some(format!("{buffered} of {capacity} buffered")), yes(closed, "closed")]
        }
    };
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Edges of one primitive.
struct Row<'e> {
    waiters: Vec<&'e Edge>,
    holders: Vec<&'e Edge>,
}

impl Row<'_> {
    fn primitive(&self) -> Option<&Primitive> {
        self.waiters.first().map(|e| &e.primitive)
    }

    fn is_channel(&self) -> bool {
        self.primitive().is_some_and(|p| p.kind.is_channel())
    }

    /// What rows that are told together have in common: all but addresses, goroutines, numbers and times.
    fn shape(&self) -> String {
        let p = self.primitive();
        // Goroutines that keep something have numbers, too.
        let kept = p.and_then(|p| p.kept_by.as_ref()).filter(|k| k.starts_with("global "));
        let mut held: Vec<String> = self.holders.iter().map(|e| format!("{:?} {}", e.certainty, e.evidence)).collect();
        held.sort_unstable();
        held.dedup();
        format!("{:?} {kept:?} {held:?} {}", p.map(|p| (p.kind, &p.place)), self.other_cases())
    }

    fn other_cases(&self) -> bool {
        self.waiters.iter().any(|e| e.other_cases)
    }

    fn goids(&self) -> impl Iterator<Item = Goid> + '_ {
        self.waiters.iter().map(|e| e.waiter)
    }
}

/// Edges by primitive, most waiters first.
fn by_primitive(edges: &[Edge]) -> Vec<Row<'_>> {
    let mut index: HashMap<(crate::base::Addr, &str), usize> = HashMap::new();
    let mut seen: HashSet<(usize, Goid)> = HashSet::new();
    let mut out: Vec<Row<'_>> = Vec::new();
    for e in edges {
        // Readers and writers of one RWMutex wait for different goroutines.
        let n = *index.entry((e.primitive.addr, e.primitive.kind.text())).or_insert_with(|| {
            out.push(Row { waiters: Vec::new(), holders: Vec::new() });
            out.len() - 1
        });
        if seen.insert((n, e.waiter)) {
            out[n].waiters.push(e);
        }
        if out[n].holders.len() < 16 && !out[n].holders.iter().any(|h| h.holder == e.holder) {
            out[n].holders.push(e);
        }
    }
    out.sort_by_key(|r| std::cmp::Reverse(r.waiters.len()));
    out
}

/// Those of one shape together, in the order of their firsts.
fn folded<T>(list: impl IntoIterator<Item = T>, shape: impl Fn(&T) -> String) -> Vec<Vec<T>> {
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut out: Vec<Vec<T>> = Vec::new();
    for one in list {
        let n = *index.entry(shape(&one)).or_insert_with(|| {
            out.push(Vec::new());
            out.len() - 1
        });
        out[n].push(one);
    }
    out
}

fn plural(n: usize, one: &'static str, many: &'static str) -> String {
    format!("{} {}", units::count(n as u64), if n == 1 { one } else { many })
}

fn rest(out: &mut dyn Write, all: usize, shown: usize, what: &str) -> io::Result<()> {
    match all.saturating_sub(shown) {
        0 => Ok(()),
        n => writeln!(out, "  ... and {} more{what} (--limit 0 shows all)", units::count(n as u64)),
    }
}

/// Findings first: deadlocks, proven leaks, who holds up whom by a lock. Then what may be normal: suspicions, channels, idle workers.
pub fn text(out: &mut dyn Write, r: &Locks, limit: usize) -> io::Result<()> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    // Channels are what healthy programs wait for, too: told apart.
    let waiting = |channel: bool| -> BTreeSet<Goid> {
        r.edges.iter().filter(|e| e.primitive.kind.is_channel() == channel).map(|e| e.waiter).collect()
    };
    let (for_locks, for_channels) = (waiting(false), waiting(true));
    if r.edges.is_empty() && r.proven_leaks.is_empty() && r.suspected.is_empty() && r.idle.is_empty() {
        return writeln!(out, "No goroutine waits for a lock, and none is proven to be stuck for ever.");
    }
    writeln!(
        out,
        "{}, {} proven to be stuck for ever; {} for locks, groups or conditions, {} for channels that others will serve.",
        plural(r.cycles.len(), "deadlock", "deadlocks"),
        plural(r.proven_leaks.len(), "goroutine is", "goroutines are"),
        plural(for_locks.len(), "goroutine waits", "goroutines wait"),
        units::count(for_channels.len() as u64),
    )?;
    deadlocks(out, r, limit)?;
    if !r.leak_groups.is_empty() {
        writeln!(
            out,
            "\nStuck for ever: nothing that runs or can be woken reaches what they wait for. Together they keep {}.",
            units::bytes(r.leaked_bytes)
        )?;
    }
    leaks(out, &r.leak_groups, limit)?;
    // Channels alone that lead to a goroutine that runs are what a healthy program is full of: JSON has them.
    let worth = |c: &&Chain| {
        let runs = matches!(c.last.state.as_str(), "running" | "runnable");
        !runs || over_locks(c)
    };
    let (held, served): (Vec<&Chain>, Vec<&Chain>) = r.chains.iter().filter(worth).partition(|c| over_locks(c));
    chains(out, &held, limit)?;
    let (channels, locks): (Vec<Row<'_>>, Vec<Row<'_>>) = by_primitive(&r.edges).into_iter().partition(Row::is_channel);
    rows(out, &locks, limit)?;
    if !r.suspected.is_empty() {
        writeln!(
            out,
            "\nPerhaps stuck: only global variables lead to what they wait for, no goroutine that can go on is in code that refers to these,\n\
             and they wait for one thing once. No proof; look whether a group grows."
        )?;
    }
    leaks(out, &r.suspected, limit.min(8))?;
    if !served.is_empty() {
        writeln!(out, "\nOver channels alone (often normal: work that is under way):")?;
    }
    chains(out, &served, limit.min(4))?;
    served_channels(out, &channels, limit.min(8))?;
    idle(out, &r.idle, limit.min(8))
}

fn over_locks(c: &Chain) -> bool {
    c.links.iter().any(|l| !l.primitive.kind.is_channel())
}

fn deadlocks(out: &mut dyn Write, r: &Locks, limit: usize) -> io::Result<()> {
    let edge = |c: &[Goid], n: usize| {
        let to = c[(n + 1) % c.len()];
        r.edges.iter().find(|e| e.waiter == c[n] && e.holder == Some(to)).map(|e| (e, to))
    };
    let shape = |c: &&Vec<Goid>| {
        let one = |n| edge(c, n).map(|(e, _)| (e.primitive.kind, &e.primitive.place, &e.held_in, e.certainty));
        let mut links: Vec<String> = (0..c.len()).map(|n| format!("{:?}", one(n))).collect();
        // The circle begins with its least number, which says nothing.
        let least = (0..links.len()).min_by_key(|&n| [&links[n..], &links[..n]].concat()).unwrap_or(0);
        links.rotate_left(least);
        links.join(";")
    };
    let all = folded(&r.cycles, shape);
    for alike in all.iter().take(limit) {
        let c = alike[0];
        match c.as_slice() {
            [one] => writeln!(out, "\nDeadlock: goroutine {one} waits for itself.")?,
            many => writeln!(out, "\nDeadlock: goroutines {} wait for each other in a circle.", ids(many, " -> "))?,
        }
        for (n, &g) in c.iter().enumerate() {
            if let Some((e, to)) = edge(c, n) {
                step(out, g, to, &e.primitive, e.certainty, e.held_in.as_deref(), e.deferred)?;
            }
        }
        if alike.len() > 1 {
            let others: Vec<String> = alike[1..].iter().take(4).map(|c| ids(c, " -> ")).collect();
            let dots = if alike.len() > 5 { "; ..." } else { "" };
            writeln!(
                out,
                "  and {} more like this: {}{dots}",
                units::count(alike.len() as u64 - 1),
                others.join("; ")
            )?;
        }
    }
    rest(out, all.len(), limit, " kinds of deadlocks")
}

fn chains(out: &mut dyn Write, list: &[&Chain], limit: usize) -> io::Result<()> {
    let shape = |c: &&Chain| {
        let one = |l: &crate::analysis::locks::chains::Link| {
            let p = &l.primitive;
            format!("{:?} {} {:?} {} {:?}", p.kind, p.place, l.held_in, l.deferred, l.certainty)
        };
        let links: Vec<String> = c.links.iter().map(one).collect();
        let at = c.last.frame.as_ref().map(|f| (&f.function, f.line));
        format!("{links:?} {} {:?} {at:?} {}", c.last.state, c.last.operation, c.in_a_circle())
    };
    let all = folded(list.iter().copied(), shape);
    for alike in all.iter().take(limit) {
        let c = alike[0];
        let last = c.goids.last().map_or(0, |g| g.0);
        writeln!(out, "\n{}.", c.sentence())?;
        let held_up = plural(c.waiters as usize, "goroutine", "goroutines");
        writeln!(out, "  Goroutine {last} holds up {held_up}. It does: {}", c.root)?;
        for l in &c.links {
            step(out, l.waiter, l.holder, &l.primitive, l.certainty, l.held_in.as_deref(), l.deferred)?;
        }
        if alike.len() > 1 {
            let waiters: u64 = alike[1..].iter().map(|c| c.waiters).sum();
            let ends: Vec<Goid> = alike[1..].iter().filter_map(|c| c.goids.last().copied()).collect();
            let more = units::count(ends.len() as u64);
            let held_up = plural(waiters as usize, "goroutine", "goroutines");
            writeln!(out, "  and {more} more like this, which hold up {held_up}; their last are {}", ids(&ends, ", "))?;
        }
    }
    rest(out, all.len(), limit, " kinds of chains")
}

/// `main.Repo.mu (0xc000012345), kept by global main.repo`.
fn where_it_is(p: &Primitive) -> String {
    let kept = p.kept_by.as_ref().map_or(String::new(), |k| format!(", kept by {k}"));
    format!("{} {} ({}){kept}", p.kind.text(), p.place, p.addr)
}

fn rows(out: &mut dyn Write, list: &[Row<'_>], limit: usize) -> io::Result<()> {
    if !list.is_empty() {
        writeln!(out, "\nWhat is waited for:")?;
    }
    let all = folded(list, |r| r.shape());
    for alike in all.iter().take(limit) {
        let row = alike[0];
        let Some(p) = row.primitive() else { continue };
        let list: Vec<Goid> = row.goids().collect();
        let (noun, verb) = match list.len() {
            1 => ("goroutine", " waits".to_owned()),
            n => ("goroutines", format!(" wait ({})", units::count(n as u64))),
        };
        write!(out, "  {}: {noun} {}{verb}", where_it_is(p), ids(&list, ", "))?;
        if let Some(s) = row.waiters.iter().filter_map(|e| e.waited_s).reduce(f64::max) {
            write!(out, ", for at least {}", seconds(s))?;
        }
        if let Some(s) = &p.state {
            write!(out, "; {}", said(s))?;
        }
        writeln!(out)?;
        for e in &row.holders {
            let by = if p.kind.is_lock() { "held by" } else { "to be served by" };
            match e.holder {
                Some(h) => writeln!(out, "      {by} goroutine {h} ({}): {}", certainty(e.certainty), e.evidence)?,
                None => writeln!(out, "      holder not known: {}", e.evidence)?,
            }
        }
        if alike.len() > 1 {
            let waiters: Vec<Goid> = alike[1..].iter().flat_map(|r| r.goids()).collect();
            let more = units::count(alike.len() as u64 - 1);
            let wait = plural(waiters.len(), "goroutine waits", "goroutines wait");
            writeln!(out, "      and {more} more like this, for which {wait}: {}", ids(&waiters, ", "))?;
        }
    }
    rest(out, all.len(), limit, " kinds")
}

/// A line for all channels of a kind.
fn served_channels(out: &mut dyn Write, list: &[Row<'_>], limit: usize) -> io::Result<()> {
    if !list.is_empty() {
        writeln!(out, "\nChannels, and who is on the way to serve them (no finding by itself):")?;
    }
    let mut all = folded(list, |r| r.shape());
    let waiters = |alike: &[&Row<'_>]| -> BTreeSet<Goid> { alike.iter().flat_map(|r| r.goids()).collect() };
    all.sort_by_key(|alike| std::cmp::Reverse(waiters(alike).len()));
    for alike in all.iter().take(limit) {
        let row = alike[0];
        let (Some(p), waiting) = (row.primitive(), waiters(alike)) else { continue };
        let ids_of = |set: &BTreeSet<Goid>| {
            let list: Vec<Goid> = set.iter().copied().collect();
            let noun = if list.len() == 1 { "goroutine" } else { "goroutines" };
            let number = if list.len() > 12 { format!("{} ", units::count(list.len() as u64)) } else { String::new() };
            format!("{number}{noun} {}", ids(&list, ", "))
        };
        write!(out, "  {}", where_it_is(p))?;
        if alike.len() > 1 {
            write!(out, " and {} more like it", units::count(alike.len() as u64 - 1))?;
        }
        write!(out, ": {}", ids_of(&waiting))?;
        if row.other_cases() {
            write!(out, " (the select has other cases)")?;
        }
        let serving: BTreeSet<Goid> = alike.iter().flat_map(|r| r.holders.iter().filter_map(|e| e.holder)).collect();
        if let Some(e) = row.holders.first() {
            write!(out, "; to be served by {} ({}): {}", ids_of(&serving), certainty(e.certainty), e.evidence)?;
        }
        writeln!(out)?;
    }
    rest(out, all.len(), limit, " kinds")
}

/// A line for each group of workers.
fn idle(out: &mut dyn Write, groups: &[LeakGroup], limit: usize) -> io::Result<()> {
    if !groups.is_empty() {
        writeln!(
            out,
            "\nIdle, as it seems: only global variables lead to what they wait for, and they come back to it in a loop, as workers do."
        )?;
    }
    for g in groups.iter().take(limit) {
        let for_what = if g.waits_for.is_empty() { String::new() } else { format!(" for {}", g.waits_for) };
        writeln!(
            out,
            "  {} x [{}]{for_what} in {}: goroutine {}",
            units::count(g.count),
            g.kind.text(),
            at(g),
            ids(&g.goids, ", ")
        )?;
    }
    rest(out, groups.len(), limit, " groups")
}

/// One link of a chain or cycle.
fn step(
    out: &mut dyn Write,
    waiter: Goid,
    holder: Goid,
    p: &Primitive,
    sure: Certainty,
    held_in: Option<&str>,
    deferred: bool,
) -> io::Result<()> {
    let by = if p.kind.is_lock() { "held by" } else { "to be served by" };
    let held_in = held_in.map_or(String::new(), |f| format!(" in {f}"));
    let deferred = if deferred && p.kind.is_lock() { ", Unlock is deferred" } else { "" };
    let text = format!("{} {} ({})", p.kind.text(), p.place, p.addr);
    writeln!(out, "    {waiter} waits for {text}, {by} {holder}{held_in}{deferred} ({})", certainty(sure))
}

/// Where they wait in the program's own code.
fn at(g: &LeakGroup) -> String {
    g.waits_in.as_ref().map_or(g.function.clone(), |f| format!("{} ({}:{})", f.function, f.file, f.line))
}

fn leaks(out: &mut dyn Write, groups: &[LeakGroup], limit: usize) -> io::Result<()> {
    for g in groups.iter().take(limit) {
        write!(
            out,
            "  {} x [{}] keep {} and {} of stacks; started by {} ({})",
            units::count(g.count),
            g.kind.text(),
            units::bytes(g.retained_bytes),
            units::bytes(g.stack_bytes),
            g.created_by,
            g.created_at,
        )?;
        if let Some(s) = g.longest_wait_s {
            write!(out, ", waiting for at least {}", seconds(s))?;
        }
        writeln!(out)?;
        let what = if g.waits_for.is_empty() { String::new() } else { format!(" for {}", g.waits_for) };
        writeln!(out, "      wait{what} in {}: goroutine {}", at(g), ids(&g.goids, ", "))?;
    }
    rest(out, groups.len(), limit, " groups")
}

/// Edges worth drawing: a select that something unknown may end waits for nobody in particular.
pub fn drawn(r: &Locks) -> impl Iterator<Item = &Edge> {
    r.edges.iter().filter(|e| !e.other_cases)
}

/// For `dot -Tsvg`. Names are quoted; quotes in them are escaped.
pub fn dot(out: &mut dyn Write, r: &Locks) -> io::Result<()> {
    let quote = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
    writeln!(out, "digraph locks {{\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];")?;
    let in_cycle: BTreeSet<Goid> = r.cycles.iter().flatten().copied().collect();
    let leaked: BTreeSet<Goid> = r.proven_leaks.iter().copied().collect();
    let edges: Vec<&Edge> = drawn(r).collect();
    let all: BTreeSet<Goid> =
        edges.iter().flat_map(|e| [Some(e.waiter), e.holder]).flatten().chain(r.proven_leaks.iter().copied()).collect();
    for g in all {
        let color = if in_cycle.contains(&g) {
            ", color=red"
        } else if leaked.contains(&g) {
            ", color=orange"
        } else {
            ""
        };
        writeln!(out, "  g{g} [label=\"goroutine {g}\"{color}];")?;
    }
    let mut primitives = std::collections::BTreeMap::new();
    let name = |e: &Edge| format!("p{:x}", e.primitive.addr.0);
    for e in &edges {
        primitives.entry(name(e)).or_insert_with(|| {
            format!("{} {}\\n{}", e.primitive.kind.text(), quote(&e.primitive.place), e.primitive.addr)
        });
    }
    for (id, label) in primitives {
        writeln!(out, "  {id} [shape=box, label=\"{label}\"];")?;
    }
    let mut done = BTreeSet::new();
    for e in &edges {
        if done.insert((e.waiter, e.primitive.addr, None)) {
            writeln!(out, "  g{} -> {};", e.waiter, name(e))?;
        }
        if let Some(h) = e.holder
            && done.insert((h, e.primitive.addr, Some(())))
        {
            let style = if e.certainty == Certainty::Sure { "solid" } else { "dashed" };
            writeln!(out, "  {} -> g{h} [style={style}, label=\"{}\"];", name(e), certainty(e.certainty))?;
        }
    }
    writeln!(out, "}}")
}
