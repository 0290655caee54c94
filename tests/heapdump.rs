//! Every object that debug.WriteHeapDump lists, with its address, size and pointers, against what we read of the same
//! quiet process.

mod common;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use common::{Fixture, RELEASES, heapdump, view::view};
use gosleuth::{
    base::{Addr, ObjectId},
    runtime::{OpenOptions, sched::Status},
    target::{HoldMode, Target},
};

const BUILDS: [(&str, &str, &[&str]); 9] = [
    ("dwarf", "values", &["all"]),
    ("stripped", "values", &["all"]),
    ("pie-stripped", "values", &["all"]),
    ("noopt", "values", &["all"]),
    ("cgo", "values", &["all"]),
    ("stripped", "goroutines", &["all"]),
    ("dwarf", "goroutines", &["threads", "20"]),
    ("stripped", "heap", &["mixed", "20000"]),
    ("stripped", "locks", &["chain-127-42-88"]),
];

#[test]
fn every_object_of_the_runtimes_own_dump() {
    for release in RELEASES {
        for (variant, name, args) in BUILDS {
            let Some(mut f) = Fixture::start(release, variant, name, args) else { continue };
            let what = format!("Go {release} {variant} {name} {args:?}");
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("dump");
            assert_eq!(f.command(&format!("heapdump {}", path.display()))["ok"], true, "{what}");
            let dump = heapdump::parse(&std::fs::read(&path).expect("a dump"));
            assert!(dump.go.starts_with(&format!("go{release}")), "{what}: {}", dump.go);
            let target =
                Arc::new(Target::attach(f.pid().parse().expect("a number"), HoldMode::Freeze).expect("own child"));
            let v = view(&target, &OpenOptions::default());
            target.release();

            let (heap, graph) = (&v.heap, &v.built.graph);
            let (mut compared, mut phantoms, mut pointers, mut changed) = (0u64, 0u64, 0u64, 0u64);
            let mut words: HashMap<u64, BTreeSet<u64>> = HashMap::new();
            for i in heap.allocated.iter_ones() {
                let id = ObjectId(i as u32);
                let set = graph.edges(id).map(|e| 8 * graph.word_of(e)).collect();
                words.insert(heap.extent(id).0.0, set);
            }
            for (&addr, object) in &dump.objects {
                let span = heap.span_at(Addr(addr)).unwrap_or_else(|| panic!("{what}: no span at {addr:#x}"));
                // From 1.22 on the dump takes the metadata at the end of a span for objects (runtime/heapdump.go divides
                // the span's bytes by the size).
                if addr - span.start.0 >= u64::from(span.nelems) * span.elemsize {
                    phantoms += 1;
                    continue;
                }
                let (id, offset) = heap.find(Addr(addr)).unwrap_or_else(|| panic!("{what}: no slot at {addr:#x}"));
                assert_eq!((offset, heap.is_allocated(id)), (0, true), "{what}: {addr:#x}");
                assert_eq!(heap.extent(id).1, object.bytes, "{what}: size of {addr:#x}");
                compared += 1;
                let expected: BTreeSet<u64> = object
                    .pointers
                    .iter()
                    .copied()
                    .filter(|&at| {
                        let word = object.contents.get(at as usize..at as usize + 8).expect("within the object");
                        let to = Addr(u64::from_le_bytes(word.try_into().expect("8 bytes")));
                        heap.find(to).is_some_and(|(t, _)| heap.is_allocated(t))
                    })
                    .collect();
                pointers += expected.len() as u64;
                // The dump's own work (goroutine records, the file) and timers go on afterwards.
                if words[&addr] != expected {
                    changed += 1;
                    assert!(changed < 25, "{what}: pointers of {addr:#x}: {:?}, dump {expected:?}", words[&addr]);
                }
            }
            let extra = words.len() as u64 - compared;
            // The runtime's own statistics in the dump count the same objects.
            assert_eq!(dump.heap_objects, compared, "{what}: MemStats.HeapObjects");
            assert!(extra < 60, "{what}: {extra} objects that the dump does not have");
            let ids: BTreeSet<u64> = dump.goroutines.iter().map(|g| g.0).collect();
            let ours: BTreeSet<u64> =
                v.built.goroutines.iter().filter(|g| g.status != Status::Dead).map(|g| g.goid.0).collect();
            assert_eq!(ids, ours, "{what}: goroutines");
            println!(
                "{what}: {compared} objects and {pointers} pointers equal, {} goroutines; {changed} changed since, \
                 {extra} new, {phantoms} phantoms",
                ids.len()
            );
            assert!(compared > 100 && pointers > 50, "{what}: next to nothing was compared");
        }
    }
}
