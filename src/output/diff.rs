//! Growth as text.

use std::io::{self, Write};

use super::table;
use crate::{
    analysis::diff::{Growth, Row},
    base::units,
};

/// `+1.5 MiB`, `-12 KiB`.
pub(super) fn change(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "+" };
    format!("{sign}{}", units::bytes(n.unsigned_abs()))
}

pub(super) fn count(n: i64) -> String {
    format!("{}{}", if n < 0 { "-" } else { "+" }, units::count(n.unsigned_abs()))
}

/// One line a look.
pub fn look(
    out: &mut dyn Write,
    target: &str,
    taken_ms: u64,
    objects: u64,
    bytes: u64,
    goroutines: u64,
) -> io::Result<()> {
    writeln!(
        out,
        "  {target}: taken at {} ({} s since 1970), {} alive in {} objects, {} goroutines",
        clock(taken_ms),
        taken_ms / 1000,
        units::bytes(bytes),
        units::count(objects),
        units::count(goroutines)
    )
}

/// Time of day in UTC.
pub(super) fn clock(ms: u64) -> String {
    let s = ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}

pub fn text(
    out: &mut dyn Write,
    g: &Growth,
    notes: &[String],
    looks: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let all = g.live.first();
    let grown = all.map_or(0, |r| r.growth_bytes);
    let rate = match (all.and_then(|r| r.trend), g.hours > 0.0) {
        (Some(t), _) if t.certain => format!(
            ": {} an hour, surely between {} and {}",
            change(t.bytes_per_hour as i64),
            change(t.low as i64),
            change(t.high as i64)
        ),
        (Some(t), _) => format!(
            ": {} an hour, but that may be noise (between {} and {})",
            change(t.bytes_per_hour as i64),
            change(t.low as i64),
            change(t.high as i64)
        ),
        (None, true) => {
            format!(": {} an hour; two looks cannot tell growth from noise", change((grown as f64 / g.hours) as i64))
        }
        _ => String::new(),
    };
    let span =
        if g.hours > 0.0 { format!(" in {}", units::duration_ns((g.hours * 3.6e12) as u64)) } else { String::new() };
    writeln!(out, "The live heap changed by {}{span}{rate}.", change(grown))?;
    if let Some((stayed, new)) = all.and_then(|r| Some((r.stayed_objects?, r.new_objects?))) {
        writeln!(
            out,
            "Of the objects alive in the last look, {} were there all the time (same address and type), {} are new.",
            units::count(stayed),
            units::count(new)
        )?;
    }
    looks(out)?;
    for n in notes {
        writeln!(out, "  note: {n}")?;
    }
    rows(out, "By holder (what it alone holds)", &g.by_holder)?;
    rows(out, "By path from the holder", &g.by_path)?;
    rows(out, "By type", &g.by_type)?;
    rows(out, "Goroutines (bytes of their stacks)", &g.by_goroutines)?;
    rows(out, "By span class", &g.by_class)?;
    rows(out, "Resident memory by owner", &g.by_owner)
}

fn rows(out: &mut dyn Write, title: &str, rows: &[Row]) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let trend = rows.iter().any(|r| r.trend.is_some());
    let old = rows.iter().any(|r| r.new_objects.is_some());
    let mut head = vec!["growth", "objects", "now"];
    if old {
        head.push("new");
    }
    if trend {
        head.extend(["an hour", "at least", "trend"]);
    }
    head.push("name");
    let lines = rows.iter().map(|r| {
        let mut line =
            vec![change(r.growth_bytes), count(r.growth_objects), units::bytes(r.bytes.last().copied().unwrap_or(0))];
        if old {
            line.push(r.new_objects.map_or("-".into(), units::count));
        }
        if trend {
            let t = r.trend;
            line.push(t.map_or("-".into(), |t| change(t.bytes_per_hour as i64)));
            line.push(t.map_or("-".into(), |t| change(if t.bytes_per_hour < 0.0 { t.high } else { t.low } as i64)));
            line.push(match t {
                Some(t) if t.low > 0.0 => "grows".into(),
                Some(t) if t.high < 0.0 => "shrinks".into(),
                _ => "unclear".into(),
            });
        }
        line.push(r.name.clone());
        line
    });
    writeln!(out, "\n{title}:\n{}", table(&head, lines))
}
