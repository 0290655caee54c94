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
            Some(format!("{readers} readers in it or waiting")),
            (readers_awaited > 0).then(|| format!("the writer waits for {readers_awaited} of them")),
        ],
        State::WaitGroup { counter, waiters } => {
            vec![Some(format!("{counter} calls of Done missing")), Some(format!("{waiters} waiting"))]
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

pub fn text(out: &mut dyn Write, r: &Locks, limit: usize) -> io::Result<()> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    // Channels are what healthy programs wait for, too: told apart.
    let waiting = |channel: bool| -> BTreeSet<Goid> {
        r.edges.iter().filter(|e| e.primitive.kind.is_channel() == channel).map(|e| e.waiter).collect()
    };
    let (for_locks, for_channels) = (waiting(false), waiting(true));
    let plural = |n: usize, one: &'static str, many: &'static str| {
        format!("{} {}", units::count(n as u64), if n == 1 { one } else { many })
    };
    if r.edges.is_empty() && r.proven_leaks.is_empty() && r.suspected.is_empty() && r.idle.is_empty() {
        return writeln!(out, "No goroutine waits for a lock, and none is proven to be stuck for ever.");
    }
    writeln!(
        out,
        "{} for locks, groups or conditions, {} for channels that others will serve; {}, {} proven to be stuck for ever.",
        plural(for_locks.len(), "goroutine waits", "goroutines wait"),
        units::count(for_channels.len() as u64),
        plural(r.cycles.len(), "deadlock", "deadlocks"),
        plural(r.proven_leaks.len(), "goroutine is", "goroutines are"),
    )?;
    for c in r.cycles.iter().take(limit) {
        match c.as_slice() {
            [one] => writeln!(out, "\nDeadlock: goroutine {one} waits for itself.")?,
            many => writeln!(out, "\nDeadlock: goroutines {} wait for each other in a circle.", ids(many, " -> "))?,
        }
        for (n, &g) in c.iter().enumerate() {
            let to = c[(n + 1) % c.len()];
            if let Some(e) = r.edges.iter().find(|e| e.waiter == g && e.holder == Some(to)) {
                step(out, g, to, &e.primitive, e.certainty, e.held_in.as_deref(), e.deferred)?;
            }
        }
    }
    // Channels alone that lead to a goroutine that runs are what a healthy program is full of: JSON has them.
    let worth = |c: &&Chain| {
        let runs = matches!(c.last.state.as_str(), "running" | "runnable");
        !runs || c.links.iter().any(|l| !l.primitive.kind.is_channel())
    };
    for c in r.chains.iter().filter(worth).take(limit) {
        let last = c.goids.last().map_or(0, |g| g.0);
        writeln!(out, "\n{}.", c.sentence())?;
        writeln!(
            out,
            "  Goroutine {last} holds up {}. It does: {}",
            plural(c.waiters as usize, "goroutine", "goroutines"),
            c.root
        )?;
        for l in &c.links {
            step(out, l.waiter, l.holder, &l.primitive, l.certainty, l.held_in.as_deref(), l.deferred)?;
        }
    }
    let (channels, locks): (Vec<Row<'_>>, Vec<Row<'_>>) = by_primitive(&r.edges)
        .into_iter()
        .partition(|row| row.waiters.first().is_some_and(|e| e.primitive.kind.is_channel()));
    rows(out, "What is waited for:", &locks, limit)?;
    rows(out, "Channels, and who is on the way to serve them (no finding by itself):", &channels, limit.min(8))?;
    if !r.leak_groups.is_empty() {
        writeln!(
            out,
            "\nStuck for ever: nothing that runs or can be woken reaches what they wait for. Together they keep {}.",
            units::bytes(r.leaked_bytes)
        )?;
    }
    leaks(out, &r.leak_groups, limit)?;
    if !r.suspected.is_empty() {
        writeln!(
            out,
            "\nPerhaps stuck: only global variables lead to what they wait for, and they wait for one thing once. No proof; look whether a group grows."
        )?;
    }
    leaks(out, &r.suspected, limit.min(8))?;
    if !r.idle.is_empty() {
        writeln!(
            out,
            "\nIdle, as it seems: only global variables lead to what they wait for, and they come back to it in a loop, as workers do."
        )?;
    }
    leaks(out, &r.idle, limit.min(8))
}

fn rows(out: &mut dyn Write, title: &str, rows: &[Row<'_>], limit: usize) -> io::Result<()> {
    if !rows.is_empty() {
        writeln!(out, "\n{title}")?;
    }
    for row in rows.iter().take(limit) {
        let Some(first) = row.waiters.first() else { continue };
        let list: Vec<Goid> = row.waiters.iter().map(|e| e.waiter).collect();
        let p = &first.primitive;
        let (noun, verb) = match list.len() {
            1 => ("goroutine", " waits".to_owned()),
            n => ("goroutines", format!(" wait ({})", units::count(n as u64))),
        };
        write!(out, "  {} {} ({}): {noun} {}{verb}", p.kind.text(), p.place, p.addr, ids(&list, ", "))?;
        if let Some(s) = row.waiters.iter().filter_map(|e| e.waited_s).reduce(f64::max) {
            write!(out, ", for at least {}", seconds(s))?;
        }
        if let Some(s) = &p.state {
            write!(out, "; {}", said(s))?;
        }
        if row.waiters.iter().any(|e| e.other_cases) {
            write!(out, "; the select has other cases")?;
        }
        writeln!(out)?;
        for e in &row.holders {
            let by = if e.primitive.kind.is_lock() { "held by" } else { "to be served by" };
            match e.holder {
                Some(h) => writeln!(out, "      {by} goroutine {h} ({}): {}", certainty(e.certainty), e.evidence)?,
                None => writeln!(out, "      holder not known: {}", e.evidence)?,
            }
        }
    }
    if rows.len() > limit {
        writeln!(out, "  ... and {} more (--limit 0 shows all)", rows.len() - limit)?;
    }
    Ok(())
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
        let at = g.waits_in.as_ref().map_or(g.function.clone(), |f| format!("{} ({}:{})", f.function, f.file, f.line));
        let what = if g.waits_for.is_empty() { String::new() } else { format!(" for {}", g.waits_for) };
        writeln!(out, "      wait{what} in {at}: goroutine {}", ids(&g.goids, ", "))?;
    }
    if groups.len() > limit {
        writeln!(out, "  ... and {} more groups (--limit 0 shows all)", groups.len() - limit)?;
    }
    Ok(())
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
