//! Edges come back from every shape of graph.

use proptest::prelude::*;

use super::edges::{decode, encode};
use crate::{base::ObjectId, graph::Rows};

proptest! {
    #[test]
    fn edges_come_back(degrees in proptest::collection::vec(0u32..5, 1..60), seed in any::<u64>(), cut in 1usize..40) {
        let row = Rows::of_degrees(degrees.iter().copied());
        let (slots, n) = (degrees.len() as u32, row.total() as usize);
        let mut x = seed | 1;
        let mut next = |bound: u32| { x ^= x << 13; x ^= x >> 7; x ^= x << 17; (x % u64::from(bound)) as u32 };
        let target: Vec<ObjectId> = (0..n).map(|_| ObjectId(next(slots))).collect();
        let words: Vec<u32> = (0..n).map(|_| next(1 << 20)).collect();
        let mut from = 0;
        while from < n {
            let to = n.min(from + cut);
            let raw = encode(&row, from, &target[from..to], &words[from..to]);
            let back = decode(&row, from, to - from, &raw, slots);
            prop_assert_eq!(back, Ok((target[from..to].to_vec(), words[from..to].to_vec())));
            from = to;
        }
    }

    #[test]
    fn any_bytes_are_survived(raw in proptest::collection::vec(any::<u8>(), 0..200), count in 0usize..50) {
        let row = Rows::of_degrees([2; 20]);
        let _ = decode(&row, 0, count, &raw, 20);
        let _ = decode(&row, 13, count, &raw, 20);
    }
}

/// A file of every section, with few things in each.
fn file(dir: &std::path::Path) -> std::path::PathBuf {
    use super::format::{Section, Writer, pack};
    let path = dir.join("x.snap");
    let mut w = Writer::create(&path, true).expect("a file");
    let meta = serde_json::json!({
        "tool_version": "0", "taken_unix_ms": 1, "source": "live", "process": {"pid": 1, "placed": [1, 2]},
        "exe": null, "arch": "amd64", "go_version": "go1.26.1", "go_minor": 26, "go_version_source": "buildinfo",
        "bias": 0, "build_id": null, "go_build_id": null, "build_info": null, "has_symtab": false,
        "malloc_headers": true, "sweepgen": 4, "slots": 512, "edges": 511, "globals": [["runtime.mheap_", 4096]],
        "modules": [[0, 0, 4096, 8192, 0, 0, 0, 0, 0, 0]], "now_ns": null, "ledger": null, "gc_phase": "off",
        "gc_cycles": 1, "diagnostics": [],
    });
    let mut put = |section, items: u64, raw: &[u8]| {
        w.put(section, pack(0, items, raw).expect("packs")).expect("writes");
    };
    put(Section::Meta, 1, &serde_json::to_vec(&meta).expect("json"));
    put(
        Section::Evidence,
        1,
        br#"{"buffers":{},"fills":{"3":{"used":1,"capacity":0}},"tickers":[],"samples":{"4":0},"sample_rate":524288,"stacks":[["0x1000"]],"buffers_left_out":0}"#,
    );
    let (types, _) = crate::runtime::types::TypeTable::new().save([]);
    let mut raw: Vec<u8> = Vec::new();
    use super::codec::Put;
    raw.uint(types.len() as u64);
    for t in &types {
        raw.text(&t.name);
        raw.text(&t.package);
        t.numbers.iter().for_each(|&n| raw.uint(n));
        raw.uint(0);
    }
    raw.uint(1);
    raw.extend([12, 0, 1]);
    put(Section::Types, 1, &raw);
    let mut raw: Vec<u8> = Vec::new();
    for n in [1 << 20, 1, 16, 512, 8192] {
        raw.uint(n);
    }
    raw.extend([2, 0, 0, 0]);
    put(Section::Spans, 1, &raw);
    let mut raw = vec![0xff; 64];
    raw.extend([0; 64]);
    raw.extend([0xff; 64]);
    raw.extend([0; 512]);
    put(Section::Objects, 512, &raw);
    let mut degrees = vec![1u8; 511];
    degrees.push(0);
    put(Section::Degrees, 512, &degrees);
    let row = Rows::of_degrees([1; 511].into_iter().chain([0]));
    let target: Vec<ObjectId> = (1..512).map(ObjectId).collect();
    put(Section::Edges, 511, &encode(&row, 0, &target, &vec![0; 511]));
    put(Section::Roots, 1, &[0, 0, 0x80, 0x20, 0, 0, 0]);
    put(Section::Variables, 1, &[0x80, 0x20, 8, 1, b'v', 0]);
    put(Section::Links, 0, &[]);
    put(Section::Functions, 0, &[]);
    put(Section::Goroutines, 0, &[]);
    w.finish().expect("finishes");
    path
}

/// Reads everything; errors are fine, panics are not.
fn read(path: &std::path::Path) -> Result<usize, super::SnapshotError> {
    let s = super::Snapshot::open(path)?;
    s.runtime()?;
    s.evidence()?;
    let (heap, built, typed) = s.scene(true)?;
    let id = ObjectId(7);
    let _ = (heap.find(heap.extent(id).0), typed.name(id));
    Ok(built.graph.target.len())
}

/// Files whose hashes are right and whose contents are not: whoever alters a snapshot may also write the hash.
#[test]
fn mutated_files_do_no_harm() {
    use sha2::{Digest, Sha256};
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path());
    assert_eq!(read(&path).expect("the file is right"), 511);
    let whole = std::fs::read(&path).expect("the file");
    let foot = whole.len() - 56;
    let at = u64::from_le_bytes(whole[foot..foot + 8].try_into().expect("eight")) as usize;
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |bound: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x % bound as u64) as usize
    };
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..6000 {
        let mut bytes = whole.clone();
        if round % 3 == 0 {
            // Anything anywhere, with the old hashes.
            for _ in 0..=next(3) {
                let i = next(bytes.len());
                bytes[i] = next(256) as u8;
            }
            bytes.truncate(bytes.len() - if next(4) == 0 { next(200) } else { 0 });
        } else {
            // The directory, with a new hash.
            for _ in 0..=next(3) {
                let i = at + next(foot - at);
                bytes[i] = next(256) as u8;
            }
            let hash = Sha256::new().chain_update(&bytes[..16]).chain_update(&bytes[at..foot]).finalize();
            bytes[foot + 16..foot + 48].copy_from_slice(&hash);
        }
        std::fs::write(&path, &bytes).expect("a file");
        match read(&path) {
            Ok(_) => seen.insert("read"),
            Err(super::SnapshotError::CutShort { .. }) => seen.insert("cut short"),
            Err(super::SnapshotError::Altered { .. }) => seen.insert("altered"),
            Err(super::SnapshotError::Version { .. }) => seen.insert("version"),
            Err(super::SnapshotError::Content { .. }) => seen.insert("content"),
            Err(_) => seen.insert("other"),
        };
    }
    assert!(["cut short", "altered", "content"].iter().all(|k| seen.contains(k)), "{seen:?}");
}

/// The same for what the blocks say once unpacked: blocks are packed again with right hashes.
#[test]
fn mutated_blocks_do_no_harm() {
    use super::format::{Section, Writer, pack};
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path());
    let blocks: Vec<(Section, u64, Vec<u8>)> = super::format::all_blocks(&path).expect("the file is right");
    assert!(blocks.len() >= 12);
    let mut x = 0x1234_5678_9abc_def1u64;
    let mut next = |bound: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x % bound.max(1) as u64) as usize
    };
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4000 {
        let victim = next(blocks.len());
        let mut w = Writer::create(&path, true).expect("a file");
        for (i, (section, items, raw)) in blocks.iter().enumerate() {
            let (mut raw, mut items) = (raw.clone(), *items);
            if i == victim {
                match next(8) {
                    0 => items = [0, 1, items + 1, items.wrapping_sub(1), 1 << 40, u64::MAX][next(6)],
                    1 => raw.truncate(next(raw.len())),
                    _ => {
                        for _ in 0..=next(4) {
                            let n = raw.len();
                            if let Some(b) = raw.get_mut(next(n)) {
                                *b = [0, 1, 0x7f, 0x80, 0xff, next(256) as u8][next(6)];
                            }
                        }
                    }
                }
            }
            w.put(*section, pack(0, items, &raw).expect("packs")).expect("writes");
        }
        w.finish_unsynced().expect("finishes");
        match read(&path) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert!(good > 100 && bad > 500, "{good} read, {bad} refused");
}
