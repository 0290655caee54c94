//! The ledger of resident memory, against the kernel's own sum and the program's own MemStats.

mod common;

use common::{Fixture, RELEASES, answer, gosleuth};
use serde_json::Value;

fn rss(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    let line = text.lines().find(|l| l.starts_with("Rss:")).expect("Rss");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a figure") * 1024
}

fn row(ledger: &Value, owner: &str) -> u64 {
    ledger["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .find(|r| r["owner"] == owner)
        .map_or(0, |r| r["bytes"].as_u64().expect("bytes"))
}

/// Every resident page has one owner, and what the owners have agrees with the runtime's counters.
#[test]
fn adds_up_to_what_the_kernel_counts() {
    let cases: [(&str, &str, &[&str]); 6] = [
        ("dwarf", "heap", &["small", "200000"]),
        ("stripped", "heap", &["mixed", "100000"]),
        ("stripped", "heap", &["garbage", "2000"]),
        ("dwarf", "leaks", &["goroutine-pile-up"]),
        ("pie-stripped", "values", &[]),
        ("cgo", "values", &[]),
    ];
    for (release, (variant, name, args)) in RELEASES.into_iter().flat_map(|r| cases.map(|c| (r, c))) {
        let Some(f) = Fixture::start(release, variant, name, args) else { continue };
        let what = format!("Go {release} {variant} {name} {args:?}");
        let Some(a) = answer(&["overview", &f.pid()]) else { continue };
        let l = &a["result"]["ledger"];
        let (explained, counted) = (l["explained_bytes"].as_u64().expect("a sum"), rss(&f.pid()));
        println!("{what}: {explained} of {counted}");
        assert_eq!(l["source"], "kernel", "{what}");
        assert!(explained.abs_diff(counted) * 50 <= counted, "{what}: {explained} explained of {counted}: {l:#}");
        // Nothing but Go and the kernel is in a static program; a PIE is started by C's loader.
        if matches!(variant, "dwarf" | "stripped") {
            for owner in ["other_anonymous", "c_heap", "thread_stacks"] {
                assert_eq!(row(l, owner), 0, "{what}: {owner}: {l:#}");
            }
        }
        let stat = |k: &str| f.ready["memstats"][k].as_u64().expect("a counter");
        let heap: u64 = ["heap_live", "heap_garbage", "heap_dead", "heap_free"].into_iter().map(|o| row(l, o)).sum();
        // Not every page of a span has been touched: address space is more than what is resident.
        assert!(
            heap <= stat("HeapInuse") + (1 << 20),
            "{what}: {heap} in spans, HeapInuse {}: {l:#}",
            stat("HeapInuse")
        );
        let objects = row(l, "heap_live") + row(l, "heap_garbage") + row(l, "heap_dead");
        if name == "heap" && args[0] == "small" {
            assert!(
                objects.abs_diff(stat("HeapAlloc")) * 50 <= stat("HeapAlloc"),
                "{what}: {objects} bytes of objects, HeapAlloc {}: {l:#}",
                stat("HeapAlloc")
            );
        }
        let kept = stat("HeapIdle").saturating_sub(stat("HeapReleased"));
        assert!(row(l, "heap_idle") <= kept + (4 << 20), "{what}: idle beyond {kept}: {l:#}");
        let stacks = row(l, "goroutine_stacks") + row(l, "runtime_spans");
        let room = stat("StackInuse") + stat("GCSys") + (1 << 20);
        assert!(stacks <= room, "{what}: {stacks} of stacks and buffers, StackInuse {}: {l:#}", stat("StackInuse"));
    }
}

/// Memory of C is told from Go's: as much as the program got from malloc.
#[test]
fn memory_of_c_is_told_apart() {
    for release in RELEASES {
        for scenario in ["leak", "healthy"] {
            let Some(f) = Fixture::start(release, "cgo", "cgoleak", &[scenario]) else { continue };
            let Some(a) = answer(&["overview", &f.pid()]) else { continue };
            let l = &a["result"]["ledger"];
            let planted: u64 =
                f.ready["truth"]["leaks"].as_array().map_or(0, |l| l.iter().filter_map(|x| x["bytes"].as_u64()).sum());
            let c = row(l, "c_heap") + row(l, "other_anonymous");
            println!("Go {release} cgoleak {scenario}: {c} bytes of C, {planted} planted");
            assert!(
                c >= planted && c <= planted + (3 << 20),
                "Go {release} {scenario}: {c} of C, {planted} planted: {l:#}"
            );
            assert!(l["explained_bytes"].as_u64().expect("a sum").abs_diff(rss(&f.pid())) * 50 <= rss(&f.pid()));
        }
    }
}

/// A core does not say what was resident; what it can say equals what the process said.
#[test]
fn a_core_counts_what_is_in_use() {
    for release in ["1.19", "1.23", "1.26", "1.27"] {
        core_counts_as_live(release);
    }
}

fn core_counts_as_live(release: &str) {
    let Some(f) = Fixture::start(release, "stripped", "heap", &["small", "100000"]) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let core = dir.path().join("core").display().to_string();
    let Some(live) = answer(&["overview", &f.pid()]) else { return };
    assert!(gosleuth(&["dump", &f.pid(), "-o", &core]).status.success());
    let dead = answer(&["overview", &core]).expect("cores need no rights");
    let (a, b) = (&live["result"]["ledger"], &dead["result"]["ledger"]);
    assert_eq!(b["source"], "assumed");
    assert!(b["resident_bytes"].is_null());
    for owner in ["heap_live", "goroutine_stacks"] {
        let (x, y) = (row(a, owner), row(b, owner));
        assert!(x <= y && y - x <= y / 20 + 65536, "{release} {owner}: {x} live, {y} in the core");
    }
    // The program has no C, and the runtime reserves more than it touches: the kernel's figures bound what the core says.
    for owner in ["runtime_metadata", "program_variables", "thread_stacks", "c_heap", "other_anonymous"] {
        let (x, y) = (row(a, owner), row(b, owner));
        assert!(y <= x + x / 20 + (512 << 10), "{release} {owner}: {x} live, {y} in the core");
        println!("{release} {owner}: {x} live, {y} in the core");
    }
}
