//! Text and Graphviz forms of `locks`.

use std::io::{self, Write};

use crate::{
    analysis::locks::{Certainty, Edge, Locks},
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

fn certainty(c: Certainty) -> &'static str {
    match c {
        Certainty::Sure => "sure",
        Certainty::Likely => "likely",
        Certainty::Possible => "possible",
        Certainty::None => "not known",
    }
}

pub fn text(out: &mut dyn Write, r: &Locks, limit: usize) -> io::Result<()> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let waiters: std::collections::BTreeSet<Goid> = r.edges.iter().map(|e| e.waiter).collect();
    let plural = |n: usize, one: &'static str, many: &'static str| {
        format!("{} {}", units::count(n as u64), if n == 1 { one } else { many })
    };
    if r.edges.is_empty() && r.proven_leaks.is_empty() {
        return writeln!(out, "No goroutine waits for a lock, and none is proven to be stuck for ever.");
    }
    writeln!(
        out,
        "{} for what others hold, {}, {} proven to be stuck for ever.",
        plural(waiters.len(), "goroutine waits", "goroutines wait"),
        plural(r.cycles.len(), "deadlock", "deadlocks"),
        plural(r.proven_leaks.len(), "goroutine is", "goroutines are"),
    )?;
    for c in r.cycles.iter().take(limit) {
        match c.as_slice() {
            [one] => writeln!(out, "\nDeadlock: goroutine {one} waits for itself.")?,
            many => writeln!(out, "\nDeadlock: goroutines {} wait for each other in a circle.", ids(many, " -> "))?,
        }
    }
    for c in r.chains.iter().take(limit) {
        write!(
            out,
            "\n{} for goroutine {}",
            plural(c.waiters as usize, "goroutine waits", "goroutines wait"),
            c.goids.last().map_or(0, |g| g.0)
        )?;
        writeln!(out, ": {}\n    {}", ids(&c.goids, " waits for "), c.root)?;
    }
    if !r.edges.is_empty() {
        writeln!(out, "\nWho waits for whom:")?;
    }
    for e in r.edges.iter().take(limit) {
        let holder = e.holder.map_or("nobody known".to_owned(), |h| format!("goroutine {h}"));
        let by = if e.primitive.kind.is_lock() { "held by" } else { "to be served by" };
        writeln!(
            out,
            "  goroutine {} waits for {} {} ({}), {by} {holder} ({})\n      {}",
            e.waiter,
            e.primitive.kind.text(),
            e.primitive.place,
            e.primitive.addr,
            certainty(e.certainty),
            e.evidence
        )?;
    }
    if r.edges.len() > limit {
        writeln!(out, "  ... and {} more (--limit 0 shows all)", r.edges.len() - limit)?;
    }
    if !r.leak_groups.is_empty() {
        writeln!(out, "\nStuck for ever: nothing that runs or can be woken reaches what they wait for.")?;
    }
    for g in r.leak_groups.iter().take(limit) {
        writeln!(
            out,
            "  {} x [{}] {} started by {}, {} of stacks: goroutine {}",
            units::count(g.count),
            g.kind.text(),
            g.function,
            g.created_by,
            units::bytes(g.stack_bytes),
            ids(&g.goids, ", ")
        )?;
    }
    Ok(())
}

/// For `dot -Tsvg`. Names are quoted; quotes in them are escaped.
pub fn dot(out: &mut dyn Write, r: &Locks) -> io::Result<()> {
    let quote = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
    writeln!(out, "digraph locks {{\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];")?;
    let in_cycle: std::collections::BTreeSet<Goid> = r.cycles.iter().flatten().copied().collect();
    let leaked: std::collections::BTreeSet<Goid> = r.proven_leaks.iter().copied().collect();
    let all: std::collections::BTreeSet<Goid> = r
        .edges
        .iter()
        .flat_map(|e| [Some(e.waiter), e.holder])
        .flatten()
        .chain(r.proven_leaks.iter().copied())
        .collect();
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
    for e in &r.edges {
        primitives.entry(name(e)).or_insert_with(|| {
            format!("{} {}\\n{}", e.primitive.kind.text(), quote(&e.primitive.place), e.primitive.addr)
        });
    }
    for (id, label) in primitives {
        writeln!(out, "  {id} [shape=box, label=\"{label}\"];")?;
    }
    let mut drawn = std::collections::BTreeSet::new();
    for e in &r.edges {
        if drawn.insert((e.waiter, e.primitive.addr, None)) {
            writeln!(out, "  g{} -> {};", e.waiter, name(e))?;
        }
        if let Some(h) = e.holder
            && drawn.insert((h, e.primitive.addr, Some(())))
        {
            let style = if e.certainty == Certainty::Sure { "solid" } else { "dashed" };
            writeln!(out, "  {} -> g{h} [style={style}, label=\"{}\"];", name(e), certainty(e.certainty))?;
        }
    }
    writeln!(out, "}}")
}
