//! Waste as text.

use std::io::{self, Write};

use super::table;
use crate::{
    analysis::waste::{BufferRow, Sum, Waste},
    base::units,
};

pub fn text(out: &mut dyn Write, w: &Waste, limit: usize) -> io::Result<()> {
    let sum = w.duplicate_strings.wasted_bytes
        + w.slack_capacity.wasted_bytes
        + w.pinned_buffers.wasted_bytes
        + w.sparse_maps.wasted_bytes;
    writeln!(
        out,
        "{} of {} alive do no work: {} in copies of equal strings, {} in capacity beyond any length, {} in buffers of which \
         only a sliver can be seen, {} in tables of nearly empty maps. Besides, {} in spans are free, and size classes round \
         up by {}.",
        units::bytes(sum),
        units::bytes(w.live_bytes),
        units::bytes(w.duplicate_strings.wasted_bytes),
        units::bytes(w.slack_capacity.wasted_bytes),
        units::bytes(w.pinned_buffers.wasted_bytes),
        units::bytes(w.sparse_maps.wasted_bytes),
        units::bytes(w.fragmentation_bytes),
        units::bytes(w.rounding_bytes),
    )?;
    if w.headers_left_out > 0 {
        writeln!(out, "{} strings and slices were too many to be looked at.", units::count(w.headers_left_out))?;
    }
    if w.duplicate_strings.objects > 0 {
        writeln!(
            out,
            "\nEqual strings: {} copies too many. Keep one of each (unique.Make, a map of canonical strings).",
            units::count(w.duplicate_strings.objects)
        )?;
        let rows = w.duplicates.iter().map(|r| {
            vec![
                units::bytes(r.wasted_bytes),
                units::count(r.copies),
                units::count(r.length_bytes),
                r.example.to_string(),
                r.holder.clone(),
            ]
        });
        writeln!(out, "{}", table(&["wasted", "copies", "length", "one of them", "held by"], rows))?;
    }
    buffers(
        out,
        "Capacity beyond length",
        "Allocate what is needed, or slices.Clip what is kept.",
        &w.slack_capacity,
        &w.slack,
    )?;
    buffers(
        out,
        "Buffers of which only a sliver can be seen",
        "Copy the part that is kept (strings.Clone, bytes.Clone, slices.Clone).",
        &w.pinned_buffers,
        &w.pinned,
    )?;
    if w.sparse_maps.objects > 0 {
        writeln!(
            out,
            "\nNearly empty maps: {}. A map never gives its tables back: copy what is left into a new one.",
            units::count(w.sparse_maps.objects)
        )?;
        let rows = w.maps.iter().map(|r| {
            vec![
                units::bytes(r.wasted_bytes),
                units::count(r.entries),
                units::count(r.room),
                r.addr.to_string(),
                match &r.holder {
                    Some(h) => format!("{h} {}", r.type_name),
                    None => r.type_name.clone(),
                },
            ]
        });
        writeln!(out, "{}", table(&["wasted", "entries", "room for", "map", "held by, type"], rows))?;
    }
    let shown = if limit == 0 { w.classes.len() } else { limit };
    writeln!(out, "\nFragmentation by size class (sparse: less than a quarter of the span is alive):")?;
    let rows = w.classes.iter().take(shown).map(|r| {
        vec![
            r.slot_bytes.map_or("large".to_owned(), units::count),
            units::count(r.spans),
            units::bytes(r.span_bytes),
            units::bytes(r.live_bytes),
            units::bytes(r.garbage_bytes),
            units::bytes(r.free_bytes),
            units::count(r.sparse_spans),
            units::bytes(r.sparse_bytes),
        ]
    });
    writeln!(
        out,
        "{}",
        table(&["slot", "spans", "span bytes", "alive", "garbage", "free", "sparse", "not alive there"], rows)
    )
}

fn buffers(out: &mut dyn Write, what: &str, advice: &str, sum: &Sum, rows: &[BufferRow]) -> io::Result<()> {
    if sum.objects == 0 {
        return Ok(());
    }
    writeln!(out, "\n{what}: {} objects. {advice}", units::count(sum.objects))?;
    let rows = rows.iter().map(|r| {
        vec![
            units::bytes(r.wasted_bytes),
            units::count(r.objects),
            units::bytes(r.used_bytes),
            units::bytes(r.allocated_bytes),
            r.example.to_string(),
            r.holder.clone(),
        ]
    });
    writeln!(out, "{}", table(&["wasted", "objects", "used", "allocated", "one of them", "held by"], rows))
}
