//! Real processes of every release, against what they say about themselves.

mod common;

use common::{Fixture, RELEASES, answer};
use serde_json::Value;

/// What the collector keeps after a forced collection is what we reach, and the runtime counts the same objects.
///
/// A collection keeps more than what is alive at its end: what was dropped or born while it marked. Looked at by hand, that
/// were old arrays of p.timers and closures that package unique makes in the background (1.23, 1.24): up to 6 objects.
#[test]
fn liveness_agrees_with_the_collector() {
    for release in RELEASES {
        for (variant, name, args) in [
            ("dwarf", "values", &[][..]),
            ("noopt", "values", &[]),
            ("pie", "values", &[]),
            ("cgo", "values", &[]),
            ("stripped", "values", &[]),
            ("pie-stripped", "values", &[]),
            ("stripped", "goroutines", &["all"]),
            ("stripped", "heap", &["mixed", "100000"]),
            ("dwarf", "goroutines", &["all"]),
            ("dwarf", "heap", &["mixed", "100000"]),
        ] {
            let Some(mut f) = Fixture::start(release, variant, name, args) else { continue };
            let Some(a) = answer(&["doctor", &f.pid(), "--check-liveness"]) else { continue };
            let l = &a["result"]["liveness"];
            let n = |k: &str| l[k].as_u64().expect("a count");
            println!(
                "Go {release} {variant} {name}: {} ppm of {}, {} unjudged",
                n("agreement_ppm"),
                n("marked_objects"),
                n("unjudged_objects")
            );
            assert_eq!(n("only_reachable"), 0, "Go {release} {variant} {name}: reached a free slot: {a:#}");
            assert!(n("only_marked") <= 6, "Go {release} {variant} {name}: {a:#}");
            let counted = f.ready["memstats"]["HeapObjects"].as_u64().expect("a count");
            // The program counts before it prints its line, and a thread may start between that and our look (its m, g0 and
            // gsignal are objects): up to 5 more were seen on a busy machine.
            assert!(
                (n("marked_objects") + n("unjudged_objects")).abs_diff(counted) <= 12 + n("only_marked"),
                "Go {release} {variant} {name}: runtime counts {counted}: {a:#}"
            );
            assert!(f.runs());
        }
    }
}

/// With DWARF at least 97 % of the live bytes have a type that is no guess.
#[test]
fn types_are_known() {
    for release in RELEASES {
        for variant in ["dwarf", "pie", "cgo", "noopt"] {
            let Some(f) = Fixture::start(release, variant, "values", &["all"]) else { continue };
            let Some(a) = answer(&["top", &f.pid()]) else { continue };
            let c = &a["result"]["coverage"];
            let bytes = |k: &str| c[k].as_f64().expect("bytes");
            let sure = bytes("exact_bytes") + bytes("propagated_bytes");
            let share = 100.0 * sure / (sure + bytes("guessed_bytes") + bytes("unknown_bytes"));
            println!("Go {release} {variant}: {share:.2} % of the live bytes typed, {c}");
            assert!(share >= 97.0, "Go {release} {variant}: {share:.2} % {c}");
        }
    }
}

/// The fixture planted so many users: all of them are typed, none is invented.
#[test]
fn planted_objects_are_typed() {
    for (release, variant) in RELEASES.into_iter().flat_map(|r| [(r, "dwarf"), (r, "stripped")]) {
        let Some(f) = Fixture::start(release, variant, "leaks", &["global-map"]) else { continue };
        let Some(a) = answer(&["top", &f.pid(), "--limit", "0"]) else { continue };
        let planted = f.ready["truth"]["leaks"][0]["objects"].as_u64().expect("a count");
        let rows = a["result"]["rows"].as_array().expect("rows");
        let row = rows
            .iter()
            .find(|r| r["name"] == "main.User")
            .unwrap_or_else(|| panic!("Go {release} {variant}: no users"));
        let c = &a["result"]["coverage"];
        println!("Go {release} {variant}: {row} of {planted}, coverage {c}");
        assert_eq!(row["objects"].as_u64(), Some(planted), "Go {release} {variant}");
    }
}

/// (goid -> function names, innermost first) from a `debug=2` dump.
fn dumped(text: &str) -> Vec<(u64, Vec<String>)> {
    text.split("\n\n")
        .filter_map(|block| {
            let mut lines = block.lines();
            let id = lines.next()?.strip_prefix("goroutine ")?.split(' ').next()?.parse().ok()?;
            let names = lines
                .filter(|l| !l.starts_with('\t') && !l.starts_with("created by "))
                .map(|l| match l.rfind('(') {
                    Some(i) if l.ends_with(')') => l[..i].to_owned(),
                    _ => l.to_owned(),
                })
                .collect();
            Some((id, names))
        })
        .collect()
}

/// The stacks of parked goroutines equal the runtime's own dump of the same quiet process, inlined frames included.
#[test]
fn stacks_equal_the_runtimes_own_dump() {
    let variants = ["dwarf", "stripped", "pie-stripped"];
    for (release, variant) in RELEASES.into_iter().flat_map(|r| variants.map(|v| (r, v))) {
        let Some(mut f) = Fixture::start(release, variant, "goroutines", &["all"]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("stacks");
        assert_eq!(f.command(&format!("stacks {}", path.display()))["ok"], true);
        let dump = dumped(&std::fs::read_to_string(&path).expect("a dump"));
        let Some(a) = answer(&["goroutines", &f.pid(), "--limit", "0"]) else { continue };
        let groups = a["result"]["groups"].as_array().expect("groups");
        let mut compared = 0;
        for (id, expected) in dump {
            let ours = groups
                .iter()
                .find(|g| g["goids"].as_array().is_some_and(|ids| ids.contains(&Value::from(id))))
                .unwrap_or_else(|| panic!("Go {release} {variant}: goroutine {id} is missing"));
            // Goroutine 1 took the dump and has gone on; running goroutines moved meanwhile.
            if id == 1 || ours["status"] == "running" || ours["status"] == "runnable" {
                continue;
            }
            let names: Vec<&str> =
                ours["stack"].as_array().expect("frames").iter().filter_map(|s| s["function"].as_str()).collect();
            // The dump leaves out runtime frames and calls runtime.gopanic "panic"; generic arguments are written "[...]" in both.
            let user = |n: &&&str| **n != "panic" && (!n.starts_with("runtime.") || n.starts_with("runtime.main"));
            let names: Vec<&str> = names.iter().filter(user).copied().collect();
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            let expected: Vec<&str> = expected.iter().filter(user).copied().collect();
            // Of a deep stack the dump shows the innermost 50 or 100 frames (1.19 and 1.21 do not say so): compare those.
            let elided = expected.iter().position(|e| e.contains("frames elided"));
            let shown = elided.or((expected.len() >= 90).then_some(expected.len())).unwrap_or(names.len());
            assert_eq!(
                names.get(..shown),
                expected.get(..elided.unwrap_or(expected.len())),
                "Go {release} {variant}: goroutine {id}"
            );
            compared += 1;
        }
        println!("Go {release} {variant}: {compared} goroutines compared");
        assert!(compared >= 15, "Go {release} {variant}: only {compared} goroutines compared");
    }
}

/// A program that allocates, collects and starts threads while it is looked at keeps its own data intact, and a program
/// of tight loops (which only a signal can preempt) goes on collecting.
#[test]
fn looking_often_does_no_harm() {
    for (release, name, args) in [("1.21", "busy", &["churn"][..]), ("1.26", "busy", &["churn"]), ("1.26", "spin", &[])]
    {
        let Some(mut f) = Fixture::start(release, "dwarf", name, args) else { continue };
        let pid = f.pid();
        for _ in 0..40 {
            let Some(a) = answer(&["doctor", &pid, "--check-liveness"]) else { return };
            assert_eq!(a["hold"]["mode"], "freeze");
        }
        let before = f.command("progress");
        std::thread::sleep(std::time::Duration::from_secs(2));
        let after = f.command("progress");
        println!("{release} {name}: {before} then {after}");
        assert_ne!(before, after, "{release} {name} stands still");
        assert_ne!(after["ok"], false, "{release} {name}: {after}");
        assert!(f.runs());
    }
}
