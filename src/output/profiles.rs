//! Growth between profiles as text.

use std::io::{self, Write};

use super::{
    diff::{change, clock, count},
    table,
};
use crate::{
    analysis::profiles::{Frame, ProfileGrowth, ProfileKind, Row},
    base::units,
};

/// Callers that are told of a place.
const CALLERS: usize = 6;

/// A figure of the type that is ranked by, without sign.
fn plain(g: &ProfileGrowth, n: u64) -> String {
    match g.unit.as_str() {
        "bytes" => units::bytes(n),
        "nanoseconds" => units::duration_ns(n),
        "count" => units::count(n),
        other => format!("{} {other}", units::count(n)),
    }
}

fn signed(g: &ProfileGrowth, n: i64) -> String {
    match g.unit.as_str() {
        "bytes" => change(n),
        "count" => count(n),
        _ => format!("{}{}", if n < 0 { "-" } else { "+" }, plain(g, n.unsigned_abs())),
    }
}

fn subject(g: &ProfileGrowth) -> &str {
    match g.profile {
        ProfileKind::Heap if g.sample_type == "inuse_space" => "The heap in use",
        ProfileKind::Goroutine => "The number of goroutines",
        _ => &g.sample_type,
    }
}

/// One line a profile.
pub fn look(
    out: &mut dyn Write,
    g: &ProfileGrowth,
    target: &str,
    taken_ms: Option<u64>,
    total: i64,
    objects: Option<i64>,
    period: i64,
) -> io::Result<()> {
    write!(out, "  {target}: ")?;
    match taken_ms {
        Some(t) => write!(out, "taken at {} ({} s since 1970), ", clock(t), t / 1000)?,
        None => write!(out, "taken at an unknown time, ")?,
    }
    write!(out, "{}", plain(g, total.unsigned_abs()))?;
    match g.profile {
        ProfileKind::Heap => {
            if let Some(n) = objects {
                let about = if g.total.samples.is_some() { "about " } else { "" };
                write!(out, " in {about}{} objects", units::count(n.unsigned_abs()))?;
            }
            writeln!(out, ", a sample for each {} allocated", units::bytes(period.unsigned_abs()))
        }
        ProfileKind::Goroutine => writeln!(out, " goroutines"),
        _ => writeln!(out, " of {}", g.sample_type),
    }
}

fn rate(g: &ProfileGrowth, r: &Row) -> String {
    match (r.rate, g.hours > 0.0) {
        (Some(t), _) if t.certain => format!(
            ": {} an hour, surely between {} and {}",
            signed(g, t.per_hour as i64),
            signed(g, t.low as i64),
            signed(g, t.high as i64)
        ),
        (Some(t), _) => format!(
            ": {} an hour, but that may be noise (between {} and {})",
            signed(g, t.per_hour as i64),
            signed(g, t.low as i64),
            signed(g, t.high as i64)
        ),
        (None, true) => {
            let hourly = (r.growth as f64 / g.hours) as i64;
            format!(": {} an hour; two looks cannot tell growth from a swing", signed(g, hourly))
        }
        _ => String::new(),
    }
}

/// `+-12 KiB`, where it is sampled.
fn margin(g: &ProfileGrowth, margin: Option<f64>) -> String {
    match margin {
        Some(m) if m >= 0.5 => format!(" ±{}", plain(g, m.round() as u64)),
        _ => String::new(),
    }
}

fn sampling(out: &mut dyn Write, g: &ProfileGrowth) -> io::Result<()> {
    match (g.profile, g.total.samples) {
        (ProfileKind::Heap, Some(n)) => writeln!(
            out,
            "Heap profiles are samples, scaled up: {} came or went between first and last{}. ± is the 95 % interval of that; no \
             figure is an exact count. Each profile shows the heap as the last finished collection left it.",
            units::count(n),
            match g.may_be_one_process {
                Some(true) => " (taken for one process: no counter of allocations fell)",
                _ => "",
            }
        ),
        (ProfileKind::Heap, None) => writeln!(
            out,
            "Every allocation was sampled. Each profile shows the heap as the last finished collection left it."
        ),
        (ProfileKind::Cpu, _) => {
            writeln!(out, "A CPU profile is samples in time; ± is the 95 % interval of their number.")
        }
        (ProfileKind::Contention, _) => {
            writeln!(out, "Contention is sampled and scaled up by the runtime; how far that errs is not in the file.")
        }
        _ => Ok(()),
    }
}

/// `file.go:12`, with its last folder.
fn place(file: &str, line: u32) -> String {
    let mut parts = file.rsplit('/');
    let name = parts.next().unwrap_or(file);
    match parts.next().filter(|p| !p.is_empty()) {
        Some(folder) => format!("{folder}/{name}:{line}"),
        None => format!("{name}:{line}"),
    }
}

fn site(out: &mut dyn Write, g: &ProfileGrowth, n: usize, r: &Row) -> io::Result<()> {
    let now = r.flat.get(&g.sample_type).and_then(|v| v.last()).copied().unwrap_or(0);
    write!(out, "\n{n}. {}{}", signed(g, r.growth), margin(g, r.margin))?;
    if let Some(v) = r.flat.get("inuse_objects").filter(|_| g.sample_type == "inuse_space") {
        let about = if r.samples.is_some() { "about " } else { "" };
        let first = v.first().copied().unwrap_or(0);
        write!(out, ", {about}{} objects", count(v.last().map_or(0, |last| last.saturating_sub(first))))?;
    }
    write!(out, ", now {}: {}  {}", plain(g, now.unsigned_abs()), r.name, place(&r.file, r.line.unwrap_or(0)))?;
    writeln!(out)?;
    if let Some(t) = r.rate {
        writeln!(
            out,
            "     {} an hour (95 %: {} to {})",
            signed(g, t.per_hour as i64),
            signed(g, t.low as i64),
            signed(g, t.high as i64)
        )?;
    }
    if let Some(samples) = r.samples.filter(|&s| s < 30) {
        writeln!(out, "     rests on {samples} samples only")?;
    }
    let inner = r.stack.iter().take_while(|f| f.function != r.name || Some(f.line) != r.line).count();
    if inner > 0 && inner < r.stack.len() {
        let names: Vec<&str> = r.stack[..inner].iter().map(|f| f.function.as_str()).collect();
        writeln!(out, "     in {}", names.join(" < "))?;
    }
    let callers: Vec<&Frame> = r.stack.iter().skip(inner + 1).collect();
    for f in callers.iter().take(CALLERS) {
        writeln!(out, "     called by {}  {}", f.function, place(&f.file, f.line))?;
    }
    if callers.len() > CALLERS {
        writeln!(out, "     ... and {} more callers", callers.len() - CALLERS)?;
    }
    if let (Some(stacks), Some(way)) = (r.stacks.filter(|&n| n > 1), r.stack_growth) {
        writeln!(out, "     ({} of it came this way; {stacks} ways in all)", signed(g, way))?;
    }
    Ok(())
}

pub fn text(
    out: &mut dyn Write,
    g: &ProfileGrowth,
    notes: &[String],
    limit: usize,
    looks: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let span =
        if g.hours > 0.0 { format!(" in {}", units::duration_ns((g.hours * 3.6e12) as u64)) } else { String::new() };
    let total = &g.total;
    writeln!(
        out,
        "{} changed by {}{}{span}{}.",
        subject(g),
        signed(g, total.growth),
        margin(g, total.margin),
        rate(g, total)
    )?;
    sampling(out, g)?;
    looks(out)?;
    for n in notes {
        writeln!(out, "  note: {n}")?;
    }
    let sure = |up: bool| move |r: &&Row| r.certain && (r.growth > 0) == up;
    // More than sampling explains, but the looks do not lie on a line.
    let perhaps = |r: &&Row| !r.certain && r.growth > 0 && r.growth as f64 > r.margin.unwrap_or(0.0);
    let what = if g.profile == ProfileKind::Heap { "place of allocation" } else { "place" };
    let inner = match g.profile {
        ProfileKind::Contention => "the innermost function that is neither the runtime's nor the lock's",
        _ => "the innermost function that is not the runtime's",
    };
    if g.by_site.iter().any(|r| sure(true)(&r)) {
        writeln!(out, "\nWhat grew, by {what} ({inner}):")?;
        for (n, r) in g.by_site.iter().filter(sure(true)).enumerate() {
            site(out, g, n + 1, r)?;
        }
    } else if g.by_site.iter().any(|r| perhaps(&r)) {
        let few = match total.flat.values().next().map_or(0, Vec::len) {
            3 => ": of three looks an interval is wide, take four or more",
            _ => "",
        };
        writeln!(out, "\nNothing surely grew{few}.")?;
    } else {
        writeln!(out, "\nNothing grew by more than noise explains.")?;
    }
    if g.by_site.iter().any(|r| perhaps(&r)) {
        let rows = g.by_site.iter().filter(perhaps);
        let lines = rows.map(|r| {
            let low = r.rate.map_or("-".into(), |t| signed(g, t.low as i64));
            let name = format!("{}  {}", r.name, place(&r.file, r.line.unwrap_or(0)));
            vec![signed(g, r.growth) + &margin(g, r.margin), low, name]
        });
        let heads = ["change", "an hour, at least", what];
        writeln!(out, "\nPerhaps grew (a swing is not ruled out):\n{}", table(&heads, lines))?;
    }
    let rest = g.unclear.sites.saturating_sub(g.by_site.iter().filter(perhaps).count() as u64);
    if rest > 0 {
        let other: i64 = g.by_site.iter().filter(perhaps).map(|r| r.growth).fold(0, i64::saturating_add);
        writeln!(
            out,
            "\nNot ranked: {} that changed by {} together, each by no more than {}.",
            match rest {
                1 => "1 place".to_owned(),
                n => format!("{} places", units::count(n)),
            },
            signed(g, g.unclear.growth.saturating_sub(other)),
            if total.rate.is_some() { "samples and ups and downs explain" } else { "chance in the samples explains" }
        )?;
    }
    if g.by_site.iter().any(|r| sure(false)(&r)) {
        let rows = g.by_site.iter().rev().filter(sure(false));
        let lines = rows.map(|r| {
            vec![
                signed(g, r.growth) + &margin(g, r.margin),
                format!("{}  {}", r.name, place(&r.file, r.line.unwrap_or(0))),
            ]
        });
        writeln!(out, "\nWhat shrank:\n{}", table(&["change", what], lines))?;
    }
    let beyond = |r: &&Row| {
        let cum = r.cum_growth.unwrap_or(0).unsigned_abs() as f64;
        r.certain || cum > r.cum_margin.unwrap_or(0.0)
    };
    let functions: Vec<&Row> = g.by_function.iter().filter(beyond).collect();
    if !functions.is_empty() {
        let lines = functions.iter().map(|r| {
            let cum = r.cum_growth.unwrap_or(0);
            vec![signed(g, r.growth), signed(g, cum) + &margin(g, r.cum_margin), r.name.clone()]
        });
        writeln!(out, "\nBy function:\n{}", table(&["itself", "with what it calls", "function"], lines))?;
    }
    let stacks: Vec<&Row> = g.by_stack.iter().filter(|r| r.certain).collect();
    if !stacks.is_empty() {
        let lines = stacks.iter().map(|r| {
            let names: Vec<String> = r.stack.iter().map(|f| format!("{}:{}", f.function, f.line)).collect();
            let more = if names.len() > CALLERS { " < ..." } else { "" };
            let way = names.into_iter().take(CALLERS).collect::<Vec<_>>().join(" < ");
            vec![signed(g, r.growth) + &margin(g, r.margin), way + more]
        });
        writeln!(out, "\nBy call stack, innermost first:\n{}", table(&["growth", "stack"], lines))?;
    }
    let most = if limit == 0 { usize::MAX } else { limit.min(5) };
    let churn: Vec<&Row> = g.churn_by_site.iter().filter(|r| r.growth > 0).take(most).collect();
    if !churn.is_empty() {
        let lines = churn.iter().map(|r| {
            let objects = r.flat.get("alloc_objects").map_or(0, |v| v[v.len() - 1].saturating_sub(v[0]));
            vec![
                units::bytes(r.growth.unsigned_abs()) + &margin(g, r.margin),
                units::count(objects.unsigned_abs()),
                format!("{}  {}", r.name, place(&r.file, r.line.unwrap_or(0))),
            ]
        });
        writeln!(
            out,
            "\nAllocated meanwhile, freed or not:\n{}",
            table(&["bytes", "objects", "place of allocation"], lines)
        )?;
    }
    Ok(())
}
