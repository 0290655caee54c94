//! Text, `debug=2`, folded stacks, flame graph and pprof forms of `goroutines`.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use super::table;
use crate::{
    analysis::goroutines::{Goroutines, Group, Trace},
    base::units,
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

/// Writes protocol buffer fields (proto encoding: varints and length-delimited parts).
#[derive(Default)]
struct Proto(Vec<u8>);

impl Proto {
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    fn number(&mut self, field: u64, v: u64) {
        self.varint(field << 3);
        self.varint(v);
    }

    fn bytes(&mut self, field: u64, v: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(v.len() as u64);
        self.0.extend_from_slice(v);
    }

    fn message(&mut self, field: u64, f: impl FnOnce(&mut Proto)) {
        let mut inner = Proto::default();
        f(&mut inner);
        self.bytes(field, &inner.0);
    }
}

#[derive(Default)]
struct Strings {
    list: Vec<String>,
    index: HashMap<String, u64>,
}

impl Strings {
    fn id(&mut self, s: &str) -> u64 {
        if let Some(&i) = self.index.get(s) {
            return i;
        }
        let i = self.list.len() as u64;
        self.list.push(s.to_owned());
        self.index.insert(s.to_owned(), i);
        i
    }
}

/// A goroutine profile for `go tool pprof` (profile.proto; not compressed, which it accepts). `time_ns`: Unix time of the
/// look, `None` where it is not known.
pub fn pprof(out: &mut dyn Write, g: &Goroutines, time_ns: Option<u64>) -> io::Result<()> {
    let mut p = Proto::default();
    let mut strings = Strings::default();
    strings.id("");
    let kind = (strings.id("goroutine"), strings.id("count"));
    p.message(1, |m| {
        m.number(1, kind.0);
        m.number(2, kind.1);
    });
    // A location for each line of a function; functions by name and file.
    let mut functions: HashMap<(u64, u64), u64> = HashMap::new();
    let mut locations: HashMap<(u64, u32), u64> = HashMap::new();
    let reason = strings.id("wait_reason");
    for group in &g.groups {
        let ids: Vec<u64> = group
            .stack
            .iter()
            .map(|f| {
                let key = (strings.id(&f.function), strings.id(&f.file));
                let n = functions.len() as u64 + 1;
                let function = *functions.entry(key).or_insert(n);
                let n = locations.len() as u64 + 1;
                *locations.entry((function, f.line)).or_insert(n)
            })
            .collect();
        let mut labels: Vec<(u64, u64)> = group.labels.iter().map(|(k, v)| (strings.id(k), strings.id(v))).collect();
        labels.push((reason, strings.id(state(group))));
        p.message(2, |m| {
            let mut packed = Proto::default();
            ids.iter().for_each(|&i| packed.varint(i));
            m.bytes(1, &packed.0);
            let mut packed = Proto::default();
            packed.varint(group.count);
            m.bytes(2, &packed.0);
            for (k, v) in labels {
                m.message(3, |l| {
                    l.number(1, k);
                    l.number(2, v);
                });
            }
        });
    }
    let mut places: Vec<_> = locations.into_iter().collect();
    places.sort_by_key(|l| l.1);
    for ((function, line), id) in places {
        p.message(4, |m| {
            m.number(1, id);
            m.message(4, |l| {
                l.number(1, function);
                l.number(2, line.into());
            });
        });
    }
    let mut names: Vec<_> = functions.into_iter().collect();
    names.sort_by_key(|f| f.1);
    for ((name, file), id) in names {
        p.message(5, |m| {
            m.number(1, id);
            m.number(2, name);
            m.number(3, name);
            m.number(4, file);
        });
    }
    for s in &strings.list {
        p.bytes(6, s.as_bytes());
    }
    if let Some(t) = time_ns {
        p.number(9, t);
    }
    p.message(11, |m| {
        m.number(1, kind.0);
        m.number(2, kind.1);
    });
    p.number(12, 1);
    out.write_all(&p.0)
}
