//! Text, `debug=2`, folded stacks, flame graph and pprof forms of `goroutines`.

use std::io::{self, Write};

use super::table;
use crate::{
    analysis::goroutines::{Goroutines, Group, Trace},
    base::units,
    profile,
};

fn seconds(s: f64) -> String {
    units::duration_ns((s * 1e9) as u64)
}

/// Not shown in tracebacks (runtime/traceback.go showframe): of the runtime, and not exported.
fn internal(function: &str) -> bool {
    let name = function.strip_prefix("runtime.").or(function.strip_prefix("internal/runtime/"));
    name.is_some_and(|n| !n.starts_with(|c: char| c.is_ascii_uppercase()) && n != "main")
}

fn state(g: &Group) -> &str {
    if g.wait_reason.is_empty() { g.status.text() } else { &g.wait_reason }
}

pub fn text(out: &mut dyn Write, g: &Goroutines, limit: usize) -> io::Result<()> {
    let of = if g.count == g.total { String::new() } else { format!(" of {}", units::count(g.total)) };
    let (n, kinds) = (units::count(g.count), g.groups.len());
    if g.without_stacks {
        writeln!(
            out,
            "{n}{of} goroutines of {kinds} kinds, looked at while the program ran on: stacks were not read, and what is said of \
             two goroutines need not be of the same moment."
        )?;
    } else {
        writeln!(out, "{n}{of} goroutines with {kinds} different stacks.")?;
    }
    if let Some(leaks) = &g.proven_leaks {
        match leaks.len() as u64 {
            0 => writeln!(out, "None is proven to be stuck for ever.")?,
            n => writeln!(
                out,
                "{} proven to be stuck for ever: nothing that runs or can be woken reaches what they wait for (gosleuth locks).",
                if n == 1 { "1 is".to_owned() } else { format!("{} are", units::count(n)) }
            )?,
        }
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    if !g.by.is_empty() {
        let rows = g.by.iter().take(limit).map(|b| {
            let wait = b.longest_wait_s.map_or("-".to_owned(), seconds);
            let mut row = vec![units::count(b.count), units::percent(b.count, g.count), wait];
            row.extend(b.retained_bytes.map(units::bytes));
            row.extend([units::bytes(b.stack_bytes), b.name.clone()]);
            row
        });
        let mut heads = vec!["goroutines", "share", "longest wait", "stacks", "what"];
        if g.by.iter().any(|b| b.retained_bytes.is_some()) {
            heads.insert(3, "only they keep");
        }
        writeln!(out, "\n{}", table(&heads, rows))?;
        if g.by.len() > limit {
            writeln!(out, "... and {} more (--limit 0 shows all)", g.by.len() - limit)?;
        }
        return Ok(());
    }
    for group in g.groups.iter().take(limit) {
        let ids: Vec<String> = group.goids.iter().take(8).map(ToString::to_string).collect();
        let more = if group.goids.len() > 8 { ", ..." } else { "" };
        write!(out, "\n{} x [{}]", units::count(group.count), state(group))?;
        if let Some(s) = group.longest_wait_s {
            write!(out, ", the longest for at least {}", seconds(s))?;
        }
        if !group.labels.is_empty() {
            let labels: Vec<String> = group.labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
            write!(out, ", labels {}", labels.join(" "))?;
        }
        if let Some(n) = group.retained_bytes {
            write!(out, ", keep {} and {} of stacks", units::bytes(n), units::bytes(group.stack_bytes))?;
        }
        writeln!(out, ": goroutine {}{more}", ids.join(", "))?;
        if group.stack.is_empty() {
            writeln!(out, "    began with {}", group.started_as)?;
        }
        // The runtime's own innermost frames say no more than the wait reason.
        let inner = group.stack.iter().take_while(|f| internal(&f.function)).count();
        let inner = if inner < group.stack.len() { inner } else { 0 };
        let width = group.stack.iter().skip(inner).map(|f| f.function.len()).max().unwrap_or(0).min(60);
        let mut shown = 0;
        while let Some(f) = group.stack.get(inner + shown) {
            let same = group.stack[inner + shown..].iter().take_while(|o| *o == f).count();
            let times = if same > 1 { format!("  ({} times)", units::count(same as u64)) } else { String::new() };
            writeln!(out, "    {:width$}  {}:{}{times}", f.function, f.file, f.line)?;
            shown += same;
        }
        if let Some(c) = &group.created_by {
            writeln!(out, "    created by {}  {}:{}", c.function, c.file, c.line)?;
        }
    }
    if g.groups.len() > limit {
        writeln!(out, "\n... and {} more groups (--limit 0 shows all)", g.groups.len() - limit)?;
    }
    Ok(())
}

/// As `debug=2` of the goroutine profile and a crash print them, with `(...)` for arguments.
pub fn debug2(out: &mut dyn Write, traces: &[Trace]) -> io::Result<()> {
    let offset = |o: Option<u64>| o.map_or(String::new(), |o| format!(" +{o:#x}"));
    let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    for (n, t) in traces.iter().enumerate() {
        let gap = if n > 0 { "\n" } else { "" };
        write!(out, "{gap}goroutine {} [{}]", t.goid, t.state)?;
        if !t.labels.is_empty() {
            let word = |s: &str| if plain(s) { s.to_owned() } else { format!("{s:?}") };
            let labels: Vec<String> = t.labels.iter().map(|(k, v)| format!("{}: {}", word(k), word(v))).collect();
            write!(out, " {{{}}}", labels.join(", "))?;
        }
        writeln!(out, ":")?;
        for f in &t.frames {
            writeln!(out, "{}(...)\n\t{}:{}{}", f.function, f.file, f.line, offset(f.offset))?;
        }
        if let Some(c) = &t.created_by {
            let parent = if t.parent.0 == 0 { String::new() } else { format!(" in goroutine {}", t.parent) };
            writeln!(out, "created by {}{parent}\n\t{}:{}{}", c.function, c.file, c.line, offset(c.offset))?;
        }
    }
    Ok(())
}

fn folded_lines(g: &Goroutines) -> Vec<String> {
    // `;` and the last space of a line have a meaning; function names have neither.
    let clean = |s: &str| s.replace(';', ":");
    g.groups
        .iter()
        .map(|group| {
            let frames: Vec<String> = group.stack.iter().rev().map(|f| clean(&f.function)).collect();
            format!("{};[{}] {}", frames.join(";"), clean(state(group)), group.count)
        })
        .collect()
}

/// One line a group: outermost function first, the state last, then the count.
pub fn folded(out: &mut dyn Write, g: &Goroutines) -> io::Result<()> {
    folded_lines(g).iter().try_for_each(|l| writeln!(out, "{l}"))
}

/// An interactive flame graph: width is the number of goroutines.
pub fn svg(out: &mut dyn Write, g: &Goroutines) -> io::Result<()> {
    let mut options = inferno::flamegraph::Options::default();
    options.title = format!("{} goroutines", units::count(g.count));
    options.count_name = "goroutines".to_owned();
    // Letters of a fixed width are cut off where the box ends in every viewer, without a script as well.
    options.font_type = "monospace".to_owned();
    options.font_width = 0.61;
    let lines = folded_lines(g);
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out).map_err(io::Error::other)
}

/// A goroutine profile for `go tool pprof` (profile.proto; not compressed, which it accepts). `time_ns`: Unix time of the
/// look, `None` where it is not known.
pub fn pprof(out: &mut dyn Write, g: &Goroutines, time_ns: Option<u64>) -> io::Result<()> {
    let mut p = profile::Builder::new("goroutine", "count");
    for group in &g.groups {
        let stack = group.stack.iter().map(|f| (f.function.as_str(), f.file.as_str(), f.line));
        let labels = group.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let labels = labels.chain(std::iter::once(("wait_reason", state(group))));
        p.sample(stack, i64::try_from(group.count).unwrap_or(i64::MAX), labels);
    }
    out.write_all(&p.finish(time_ns).encode())
}
