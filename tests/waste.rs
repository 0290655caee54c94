//! What `waste` finds in programs that planted it, by the truth that they print.

mod common;

use common::{Fixture, RELEASES, answer, gosleuth};
use serde_json::Value;

fn n(v: &Value) -> u64 {
    v.as_u64().unwrap_or_else(|| panic!("a number, not {v}"))
}

#[test]
fn planted_waste_is_found() {
    for (release, variant) in RELEASES.into_iter().flat_map(|r| [(r, "dwarf"), (r, "stripped")]) {
        for (scenario, sum, rows) in [
            ("duplicate-strings", "duplicate_strings", "duplicates"),
            ("slack-capacity", "slack_capacity", "slack"),
            ("sparse-map", "sparse_maps", "maps"),
            ("substring-pin", "pinned_buffers", "pinned"),
        ] {
            let Some(f) = Fixture::start(release, variant, "leaks", &[scenario]) else { continue };
            let Some(a) = answer(&["waste", &f.pid()]) else { continue };
            let (r, planted) = (&a["result"], &f.ready["truth"]["leaks"][0]);
            let what = format!("Go {release} {variant} {scenario}");
            let (wasted, objects) = (n(&r[sum]["wasted_bytes"]), n(&r[sum]["objects"]));
            // Rounding by size classes comes on top of the bytes planted; of maps the truth knows the change of HeapAlloc.
            let whole = n(&planted[if scenario == "sparse-map" { "retained_bytes" } else { "bytes" }]);
            println!("{what}: {wasted} of {whole} in {objects}");
            match scenario {
                "duplicate-strings" => {
                    assert_eq!(objects + 4, n(&planted["objects"]), "{what}: {r:#}");
                    assert_eq!(n(&r[rows][0]["length_bytes"]), 63, "{what}");
                    assert!(wasted.abs_diff(whole) * 20 < whole, "{what}: {wasted} of {whole}");
                }
                "sparse-map" => {
                    let map = &r[rows][0];
                    assert_eq!((objects, n(&map["entries"])), (1, 10), "{what}: {r:#}");
                    assert_eq!(map["type"], "map[int][4]uint64", "{what}");
                    assert!(wasted <= whole && wasted * 10 > whole * 8, "{what}: {wasted} of {whole}");
                }
                _ => {
                    // The pinned strings are told by what is seen of them, not by what they pin.
                    assert_eq!(objects, n(&planted["objects"]), "{what}: {r:#}");
                    assert!(wasted >= 64_000 * objects && wasted <= 66_000 * objects, "{what}: {wasted} in {objects}");
                }
            }
            for (other, _) in
                [("duplicate_strings", 0), ("slack_capacity", 0), ("sparse_maps", 0), ("pinned_buffers", 0)]
                    .iter()
                    .filter(|o| o.0 != sum)
            {
                assert!(n(&r[other]["wasted_bytes"]) < 300_000, "{what}: {other}: {r:#}");
            }
        }
    }
}

/// Spans hold what the runtime says they hold, and contents stay where they are.
#[test]
fn classes_add_up_and_contents_are_not_shown() {
    let Some(f) = Fixture::start("1.26", "stripped", "leaks", &["duplicate-strings"]) else { return };
    let Some(a) = answer(&["waste", &f.pid(), "--limit", "0"]) else { return };
    let of = |k: &str| a["result"]["classes"].as_array().expect("rows").iter().map(|r| n(&r[k])).sum::<u64>();
    let stat = |k: &str| n(&f.ready["memstats"][k]);
    assert!(of("span_bytes").abs_diff(stat("HeapInuse")) <= 65536, "{} of {}", of("span_bytes"), stat("HeapInuse"));
    assert!((of("live_bytes") + of("garbage_bytes")).abs_diff(stat("HeapAlloc")) <= 65536);
    let text = gosleuth(&["waste", &f.pid()]);
    assert!(text.status.success());
    for shown in [String::from_utf8_lossy(&text.stdout).into_owned(), a.to_string()] {
        assert!(!shown.contains("production") && !shown.contains("environment="), "{shown}");
    }
}

/// A program that wastes nothing.
#[test]
fn nothing_is_invented() {
    for release in ["1.19", "1.26"] {
        let Some(f) = Fixture::start(release, "dwarf", "leaks", &["healthy-static-table"]) else { continue };
        let Some(a) = answer(&["waste", &f.pid()]) else { continue };
        let r = &a["result"];
        for sum in ["duplicate_strings", "slack_capacity", "sparse_maps", "pinned_buffers"] {
            assert!(n(&r[sum]["wasted_bytes"]) < 100_000, "Go {release}: {sum}: {r:#}");
        }
    }
}
