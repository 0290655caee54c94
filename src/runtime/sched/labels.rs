//! runtime::sched::labels: pprof labels of a goroutine (runtime/pprof, g.labels). Used by `analysis::goroutines`.

use super::Goroutine;
use crate::{
    base::{Addr, bytes},
    runtime::{
        Runtime,
        layout::{Field, Struct},
    },
};

/// Labels, and bytes of one key or value, that are read.
const MAX_LABELS: u64 = 64;
const MAX_TEXT: u64 = 256;

/// (key, value) pairs, by key. Empty where there are none or they cannot be read.
pub fn read(rt: &Runtime, g: &Goroutine) -> Vec<(String, String)> {
    if g.labels.is_null() {
        return Vec::new();
    }
    // Go 1.24 replaced the map by a sorted list.
    let pairs = if rt.image.go_version.minor >= 24 { list(rt, g.labels) } else { map(rt, g.labels) };
    if pairs.is_none() {
        rt.diag.note("pprof labels unreadable", format_args!("goroutine {}", g.goid));
    }
    let mut pairs = pairs.unwrap_or_default();
    pairs.sort();
    pairs
}

/// A string at most `MAX_TEXT` long from its header.
fn text(rt: &Runtime, header: &[u8]) -> Option<String> {
    let (at, len) = (bytes::u64_at(header, 0)?, bytes::u64_at(header, 8)?);
    let raw = rt.target.read_vec(Addr(at), len.min(MAX_TEXT), MAX_TEXT).ok()?;
    Some(String::from_utf8_lossy(&raw).into_owned())
}

/// labelMap{LabelSet{list []label}}, label{key, value string}.
fn list(rt: &Runtime, at: Addr) -> Option<Vec<(String, String)>> {
    let head = rt.target.read_vec(at, 16, 16).ok()?;
    let (data, len) = (bytes::u64_at(&head, 0)?, bytes::u64_at(&head, 8)?);
    let raw = rt.target.read_vec(Addr(data), len.min(MAX_LABELS) * 32, 1 << 16).ok()?;
    raw.chunks_exact(32).map(|c| Some((text(rt, c)?, text(rt, &c[16..])?))).collect()
}

/// labelMap map[string]string of runtime/map.go: buckets of 8 tophash bytes, 8 keys, 8 values, overflow pointer.
fn map(rt: &Runtime, at: Addr) -> Option<Vec<(String, String)>> {
    const BUCKET: u64 = 8 + 8 * 16 + 8 * 16 + 8;
    let h = rt.record(Struct::Hmap, rt.target.read_ptr(at).ok()?).ok()?;
    let count = h.opt(Field::HmapCount)?.min(MAX_LABELS) as usize;
    let log = h.opt(Field::HmapB)?.min(6);
    let first = Addr(h.opt(Field::HmapBuckets)?);
    let (mut out, mut left) = (Vec::new(), 2 * MAX_LABELS);
    for b in 0..1u64 << log {
        let mut bucket = first.offset(b * BUCKET);
        loop {
            left = left.checked_sub(1)?;
            let raw = rt.target.read_vec(bucket, BUCKET, BUCKET).ok()?;
            for i in 0..8 {
                // Below 5 the slot is empty or moved (runtime/map.go minTopHash).
                if raw[i] >= 5 && out.len() < count {
                    out.push((text(rt, raw.get(8 + 16 * i..)?)?, text(rt, raw.get(136 + 16 * i..)?)?));
                }
            }
            bucket = Addr(bytes::u64_at(&raw, 264)?);
            if bucket.is_null() {
                break;
            }
        }
    }
    Some(out)
}
