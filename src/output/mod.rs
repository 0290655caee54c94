//! output: text forms of results. Computes nothing but column widths.

pub mod diff;
pub mod goroutines;
pub mod ledger;
pub mod locks;
pub mod locks_svg;
pub mod profiles;
pub mod waste;

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use crate::{
    analysis::{groups::By, histogram::Histogram, liveness::Liveness},
    base::{diag::Diagnostic, units},
};

/// Right-aligned figures first, the name last.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut t = Table::new();
    t.load_preset(NOTHING);
    t.set_header(head.iter().copied());
    t.add_rows(rows);
    for i in 0..head.len().saturating_sub(1) {
        if let Some(c) = t.column_mut(i) {
            c.set_cell_alignment(CellAlignment::Right);
        }
    }
    t
}

pub fn top(out: &mut dyn Write, h: &Histogram, by: By, retained: bool, limit: usize) -> io::Result<()> {
    let (c, live) = (&h.coverage, h.live.bytes);
    write!(out, "{} alive in {} objects.", units::bytes(live), units::count(h.live.objects))?;
    match by {
        By::Root => write!(out, " What would be freed without each root:")?,
        By::Global => write!(out, " What would be freed without each global variable:")?,
        By::Goroutine => write!(out, " What would be freed without each goroutine:")?,
        By::Frame => write!(out, " What would be freed without the frames of each function:")?,
        By::Sizeclass => {}
        _ => write!(
            out,
            " Type known exactly for {}, through a holder for {}, guessed for {}, not known for {}.",
            units::percent(c.exact_bytes, live),
            units::percent(c.propagated_bytes, live),
            units::percent(c.guessed_bytes, live),
            units::percent(c.unknown_bytes, live),
        )?,
    }
    let what = match by {
        By::Type | By::Retained => "type",
        By::Package => "package",
        By::Module => "module",
        By::Sizeclass => "slot",
        By::Root => "root",
        By::Global => "global variable",
        By::Goroutine => "goroutine",
        By::Frame => "frames of",
    };
    let (retained, known) = (retained && !by.is_holder(), !by.is_holder() && by != By::Sizeclass);
    let mut head = vec!["bytes", "share", "objects"];
    let shown = if limit == 0 { h.rows.len() } else { limit };
    let rows = h.rows.iter().take(shown).map(|r| {
        let weight = if retained { r.retained_bytes.unwrap_or(0) } else { r.bytes };
        let mut row = vec![units::bytes(weight), units::percent(weight, live), units::count(r.objects)];
        if retained {
            row.push(units::bytes(r.bytes));
        }
        if known {
            row.push(format!("{:?}", r.known_by).to_lowercase());
        }
        // The variable that most of it hangs from, where there is one.
        let local = r.local.as_ref().filter(|l| 2 * l.bytes >= r.bytes);
        row.push(match local {
            Some(l) => format!("{} (local {})", r.name, l.name),
            None => r.name.clone(),
        });
        row
    });
    if retained {
        head[0] = "retained";
        head.push("own bytes");
    }
    if known {
        head.push("known by");
    }
    head.push(what);
    writeln!(out, "\n\n{}", table(&head, rows))?;
    if h.rows.len() > shown {
        writeln!(out, "... and {} more rows (--limit 0 shows all)", h.rows.len() - shown)?;
    }
    Ok(())
}

pub fn liveness(out: &mut dyn Write, l: &Liveness) -> io::Result<()> {
    writeln!(
        out,
        "Liveness: {} of {} objects agree with the collector ({} ppm).",
        units::count(l.both),
        units::count(l.both + l.only_marked + l.only_reachable),
        units::count(l.agreement_ppm)
    )?;
    writeln!(
        out,
        "  {} reached but held free, {} held alive but not reached (garbage since the last collection looks like this).",
        units::count(l.only_reachable),
        units::count(l.only_marked)
    )?;
    if l.unjudged_objects > 0 {
        writeln!(
            out,
            "  {} more were allocated since the last collection and are not reached: none has judged them.",
            units::count(l.unjudged_objects)
        )?;
    }
    for e in &l.examples_only_marked {
        writeln!(out, "  e.g. {} ({} bytes) is not reached", e.addr, e.bytes)?;
    }
    Ok(())
}

pub fn diagnostics(out: &mut dyn Write, list: &[Diagnostic]) -> io::Result<()> {
    for d in list {
        writeln!(out, "note: {} x {}, first: {}", units::count(d.count), d.kind, d.example)?;
    }
    Ok(())
}
