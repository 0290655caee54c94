//! `goroutines` against the runtime's own dump and Go's own pprof.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::{Duration, Instant},
};

use common::{Fixture, RELEASES, answer, gosleuth};
use serde_json::Value;

/// Goroutines of a `debug=2` dump: number -> (state, lines). Arguments and labels are left out.
fn dump(text: &str) -> BTreeMap<u64, (String, Vec<String>)> {
    text.split("\n\n")
        .filter_map(|block| {
            let mut lines = block.trim_end().lines();
            let head = lines.next()?.strip_prefix("goroutine ")?;
            let (id, rest) = head.split_once(' ')?;
            let state = rest.strip_prefix('[')?.split_once(']')?.0.to_owned();
            // Arguments nest braces, never parentheses; method names have parentheses in front.
            let name = |l: &str| match l.rfind('(') {
                Some(i) if l.ends_with(')') && !l.starts_with("created by ") => l[..i].to_owned(),
                _ => l.to_owned(),
            };
            Some((id.parse().ok()?, (state, lines.map(name).collect())))
        })
        .collect()
}

/// Headers (state, wait reason, minutes, thread lock), functions, files, lines, offsets and creators of a quiet process equal
/// what the runtime prints of itself.
#[test]
fn debug2_equals_the_runtimes_own_dump() {
    let mut compared = 0;
    for (release, variant) in RELEASES.into_iter().flat_map(|r| ["dwarf", "stripped", "noopt", "cgo"].map(|v| (r, v))) {
        let Some(mut f) = Fixture::start(release, variant, "goroutines", &["all"]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("stacks");
        assert_eq!(f.command(&format!("stacks {}", path.display()))["ok"], true);
        let theirs = dump(&std::fs::read_to_string(&path).expect("a dump"));
        let out = gosleuth(&["goroutines", &f.pid(), "--format", "debug2"]);
        if String::from_utf8_lossy(&out.stderr).contains("not allowed to") {
            println!("skipped: tracing is forbidden here");
            return;
        }
        let ours = dump(&String::from_utf8_lossy(&out.stdout));
        assert!(ours.keys().eq(theirs.keys()), "Go {release} {variant}: other goroutines");
        // Goroutine 1 wrote the dump and has gone on.
        for (id, (state, lines)) in theirs.into_iter().filter(|t| t.0 != 1) {
            let (our_state, our_lines) = &ours[&id];
            assert_eq!(our_state, &state, "Go {release} {variant}: goroutine {id}");
            // The runtime shows the innermost and outermost frames of a deep stack; gosleuth shows all.
            let n = if our_lines.len() > 150 { 90 } else { our_lines.len().max(lines.len()) };
            assert_eq!(
                our_lines.iter().take(n).collect::<Vec<_>>(),
                lines.iter().take(n).collect::<Vec<_>>(),
                "Go {release} {variant}: goroutine {id}"
            );
            compared += 1;
        }
    }
    println!("{compared} goroutines compared");
}

/// The minutes in the headers are the runtime's: of goroutines that have waited for more than one. The clocks of both dumps are a moment apart, so
/// they are taken in the middle of a minute.
#[test]
fn waiting_minutes_are_the_runtimes_own() {
    let mut all: Vec<(&str, Fixture)> = ["1.19", "1.21", "1.22", "1.23", "1.24", "1.27"]
        .into_iter()
        .filter_map(|r| Some((r, Fixture::start(r, "stripped", "goroutines", &["all"])?)))
        .collect();
    // The last collection was just before: it has noted the time of those that wait.
    std::thread::sleep(Duration::from_secs(90));
    let dir = tempfile::tempdir().expect("a directory");
    let mut compared = 0;
    for (release, f) in &mut all {
        let path = dir.path().join(*release);
        assert_eq!(f.command(&format!("stacks {}", path.display()))["ok"], true);
        let theirs = dump(&std::fs::read_to_string(&path).expect("a dump"));
        let out = gosleuth(&["goroutines", &f.pid(), "--format", "debug2"]);
        if String::from_utf8_lossy(&out.stderr).contains("not allowed to") {
            println!("skipped: tracing is forbidden here");
            return;
        }
        let ours = dump(&String::from_utf8_lossy(&out.stdout));
        let mut minutes = 0;
        for (id, (state, _)) in theirs.into_iter().filter(|t| t.0 != 1) {
            assert_eq!(ours[&id].0, state, "Go {release}: goroutine {id}");
            minutes += usize::from(state.contains(", 1 minutes"));
        }
        assert!(minutes > 20, "Go {release}: {minutes} goroutines wait for a minute by the runtime's own dump");
        compared += minutes;
    }
    println!("{compared} goroutines with minutes compared");
}

/// `go tool pprof` opens the profile, counts the same goroutines, labels included, and shows the stacks that the runtime's own
/// profile of the same process shows.
#[test]
fn go_tool_pprof_opens_the_profile() {
    for (release, variant) in [("1.19", "stripped"), ("1.22", "dwarf"), ("1.24", "stripped"), ("1.27", "stripped")] {
        let Some(mut f) = Fixture::start(release, variant, "goroutines", &["all"]) else { continue };
        let what = format!("Go {release} {variant}");
        let Some(a) = answer(&["goroutines", &f.pid(), "--limit", "0"]) else { return };
        let count = a["result"]["count"].as_u64().expect("a count");
        let out = gosleuth(&["goroutines", &f.pid(), "--format", "pprof"]);
        let dir = tempfile::tempdir().expect("a directory");
        let (mine, own) = (dir.path().join("mine"), dir.path().join("own"));
        std::fs::write(&mine, &out.stdout).expect("written");
        assert_eq!(f.command(&format!("goroutineprofile {}", own.display()))["ok"], true, "{what}");
        let pprof = |args: &[&str], file: &std::path::Path| {
            let out = Command::new("go").args(["tool", "pprof"]).args(args).arg(file).output().ok()?;
            assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
            Some(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let Some(top) = pprof(&["-top"], &mine) else {
            println!("skipped: there is no go command");
            return;
        };
        assert!(top.contains(&format!("100% of {count} total")), "{what}: {top}");
        assert!(top.contains("main.startLocks.func1"), "{what}: {top}");
        let tags = pprof(&["-tags"], &mine).expect("go");
        assert!(tags.contains("tenant") && tags.contains("blue"), "{what}: {tags}");
        // Stacks of `-traces`: blocks between rules, each line a function behind the count, innermost first.
        let traces = |text: String| -> BTreeMap<Vec<String>, u64> {
            // Type arguments are written out by the runtime's newer profiles only.
            let plain = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
            let mut out = BTreeMap::new();
            for block in text.split("-----------+").skip(1) {
                let mut stack = Vec::new();
                let mut n = 0;
                for l in block.lines().skip(1) {
                    let mut words = l.split_whitespace();
                    match (words.next(), words.next()) {
                        (Some(count), Some(function)) if count.parse::<u64>().is_ok() => {
                            n = count.parse().unwrap_or(0);
                            stack.push(plain(function));
                        }
                        (Some(function), None | Some("(inline)")) if n > 0 => stack.push(plain(function)),
                        _ => {}
                    }
                }
                // Wrappers that the compiler made are left out by the runtime.
                if stack.iter().any(|f| f.starts_with("main.start")) {
                    *out.entry(stack).or_insert(0) += n;
                }
            }
            out
        };
        let (mine, own) =
            (traces(pprof(&["-traces"], &mine).expect("go")), traces(pprof(&["-traces"], &own).expect("go")));
        assert!(own.len() >= 20, "{what}: {own:?}");
        // The runtime's profile keeps 32 frames of a stack before 1.23, and 128 since.
        let cut = |m: &BTreeMap<Vec<String>, u64>| -> BTreeMap<Vec<String>, u64> {
            m.iter().filter(|(s, _)| s.len() < 32).map(|(s, n)| (s.clone(), *n)).collect()
        };
        assert_eq!(cut(&mine), cut(&own), "{what}");
    }
}

fn count(f: &Fixture, args: &[&str]) -> Option<Value> {
    answer(&[&["goroutines", &f.pid(), "--limit", "0"], args].concat()).map(|a| a["result"].clone())
}

/// Each filter leaves what the fixture planted, on old and new layouts of labels and queues.
#[test]
fn filters_and_groups() {
    for release in ["1.19", "1.23", "1.27"] {
        let Some(f) = Fixture::start(release, "stripped", "goroutines", &["all"]) else { continue };
        let truth = f.ready["truth"]["goroutines"].as_array().expect("goroutines").clone();
        let planted =
            |name: &str| truth.iter().find(|g| g["name"] == name).map(|g| g["goid"].clone()).expect("planted");
        let Some(io) = count(&f, &["--wait-reason", "IO wait"]) else { return };
        assert_eq!(io["count"], truth.iter().filter(|g| g["wait_reason"] == "IO wait").count(), "Go {release}: {io}");
        let by = count(&f, &["--by", "wait"]).expect("an answer");
        let sum: u64 = by["by"].as_array().expect("rows").iter().filter_map(|b| b["count"].as_u64()).sum();
        assert_eq!(by["count"], sum);
        let asleep = count(&f, &["--function", "time.Sleep", "--creator", "main.start"]).expect("an answer");
        assert_eq!(asleep["groups"][0]["goids"], Value::from(vec![planted("sleep")]), "Go {release}");
        let folded = gosleuth(&["goroutines", &f.pid(), "--format", "folded"]);
        let folded = String::from_utf8_lossy(&folded.stdout).into_owned();
        let sum: u64 = folded.lines().filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum();
        assert_eq!(by["count"], sum, "Go {release}: folded");
        let svg = gosleuth(&["goroutines", &f.pid(), "--format", "svg"]);
        assert!(String::from_utf8_lossy(&svg.stdout).contains("main.startLocks.func1"), "Go {release}: svg");
    }
}

fn goids(list: &Value) -> BTreeSet<u64> {
    list.as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
}

/// All goroutines of an answer.
fn chosen(result: &Value) -> BTreeSet<u64> {
    let groups = result["groups"].as_array().expect("groups");
    let all: BTreeSet<u64> = groups.iter().flat_map(|g| goids(&g["goids"])).collect();
    assert_eq!(result["count"], all.len());
    all
}

/// The row of that name, and that rows add up.
fn row(result: &Value, name: impl Fn(&str) -> bool) -> Option<&Value> {
    let rows = result["by"].as_array().expect("rows");
    assert_eq!(result["count"], rows.iter().filter_map(|r| r["count"].as_u64()).sum::<u64>());
    rows.iter().find(|r| name(r["name"].as_str().expect("a name")))
}

/// By label, by the address and the name of the lock, and by age, on layouts old and new.
/// What each one waits for: the planted primitive and its name, every case of a select, what keeps a channel of one's own, when the timer
/// of a channel fires (all were set to 10 hours), when a sleep ends.
#[test]
fn each_wait_is_told() {
    for (release, variant) in [("1.19", "dwarf"), ("1.22", "stripped"), ("1.23", "stripped"), ("1.27", "dwarf")] {
        let Some(f) = Fixture::start(release, variant, "goroutines", &["all"]) else { continue };
        let what = format!("Go {release} {variant}");
        let truth = f.ready["truth"]["goroutines"].as_array().expect("goroutines").clone();
        let planted = |name: &str| truth.iter().find(|g| g["name"] == name).expect("planted");
        let Some(a) = answer(&["goroutines", &f.pid(), "--waits", "--limit", "0"]) else { return };
        let each = a["result"]["each"].as_array().expect("each").clone();
        let of = |name: &str| {
            let goid = &planted(name)["goid"];
            each.iter().find(|e| &e["goid"] == goid).unwrap_or_else(|| panic!("{what}: no {name}")).clone()
        };
        for (name, variable) in [
            ("mutex", "global main.locked"),
            ("rwWriter", "global main.readHeld"),
            ("rwReader", "global main.fullHeld"),
            ("waitGroup", "global main.group"),
            ("onceWaiter", "global main.once"),
        ] {
            let e = of(name);
            assert_eq!(e["addr"], planted(name)["addr"], "{what} {name}");
            match variant {
                "dwarf" => assert_eq!(e["where"], variable, "{what} {name}"),
                _ => assert!(e["where"].as_str().is_some_and(|w| w.starts_with("global near main.")), "{what}: {e}"),
            }
        }
        let select = of("select3");
        let mut chans: Vec<&Value> = select["cases"].as_array().expect("cases").iter().map(|c| &c["chan"]).collect();
        let mut wanted: Vec<&Value> = planted("select3")["chans"].as_array().expect("channels").iter().collect();
        chans.sort_by_key(|c| c.as_str());
        wanted.sort_by_key(|c| c.as_str());
        assert_eq!(chans, wanted, "{what}");
        let kept = format!("the stack of goroutine {} (main.selecting)", planted("select3")["goid"]);
        let own = select["cases"].as_array().expect("cases").iter().filter(|c| c["kept_by"] == kept.as_str()).count();
        assert_eq!(own, 2, "{what}: the third is a global's: {select}");
        const HOURS: f64 = 36_000.0;
        let soon = |s: &Value| s.as_f64().is_some_and(|s| s < HOURS && s > HOURS - 300.0);
        assert!(soon(&of("timer")["timer"]["due_s"]), "{what}: {}", of("timer"));
        assert!(of("timer")["timer"]["period_s"].is_null(), "{what}");
        assert!(of("chanRecv")["timer"].is_null(), "{what}: {}", of("chanRecv"));
        let sleeps = &of("sleep")["sleeps_s"];
        assert!(
            soon(sleeps) || (release == "1.19" || release == "1.22") && sleeps.is_null(),
            "{what}: {}",
            of("sleep")
        );
    }
}

#[test]
fn filters_by_label_lock_and_age() {
    for (release, variant) in [("1.19", "stripped"), ("1.23", "dwarf"), ("1.26", "stripped"), ("1.27", "dwarf")] {
        let begin = Instant::now();
        let Some(f) = Fixture::start(release, variant, "goroutines", &["all"]) else { continue };
        // Collections are over before it is ready: all that are parked have been seen waiting.
        let ready = Instant::now();
        let what = format!("Go {release} {variant}");
        let truth = f.ready["truth"]["goroutines"].as_array().expect("goroutines").clone();
        let of =
            |name: &str| truth.iter().find(|g| g["name"] == name).and_then(|g| g["goid"].as_u64()).expect("planted");
        let one = |args: &[&str]| count(&f, args).map(|r| chosen(&r));

        let Some(labelled) = one(&["--label", "tenant=blue"]) else { return };
        assert_eq!(labelled, BTreeSet::from([of("labelled")]), "{what}");
        assert_eq!(one(&["--label", "request"]), Some(labelled.clone()), "{what}");
        assert_eq!(one(&["--label", "tenant=red"]), Some(BTreeSet::new()), "{what}");
        let by = count(&f, &["--by", "label"]).expect("an answer");
        let labels = row(&by, |n| n == "request=\"r-42\" tenant=\"blue\"").unwrap_or_else(|| panic!("{what}: {by}"));
        assert_eq!(goids(&labels["goids"]), labelled, "{what}");

        let by = count(&f, &["--by", "lock"]).expect("an answer");
        for g in truth.iter().filter(|g| g["addr"].is_string()) {
            let addr = g["addr"].as_str().expect("an address");
            let planted: BTreeSet<u64> =
                truth.iter().filter(|o| o["addr"] == addr).filter_map(|o| o["goid"].as_u64()).collect();
            assert_eq!(one(&["--lock", addr]), Some(planted.clone()), "{what}: {g}");
            let row = row(&by, |n| n.ends_with(&format!("({addr})"))).unwrap_or_else(|| panic!("{what}: {g}: {by}"));
            assert_eq!(goids(&row["goids"]), planted, "{what}: {g}");
        }
        let select = truth.iter().find(|g| g["name"] == "select3").expect("planted");
        for chan in select["chans"].as_array().expect("channels") {
            let waits = one(&["--lock", chan.as_str().expect("an address")]).expect("an answer");
            assert!(waits.contains(&of("select3")), "{what}: {chan}");
        }
        if variant == "dwarf" {
            let named = one(&["--lock", "global main.locked"]);
            assert_eq!(named, Some(BTreeSet::from([of("mutex"), of("mutex2")])), "{what}");
        }

        assert_eq!(one(&["--age", "1h"]), Some(BTreeSet::new()), "{what}");
        let least = ready.elapsed().as_secs_f64();
        let waited = count(&f, &["--wait-reason", "chan receive", "--function", "main."]).expect("an answer");
        for g in waited["groups"].as_array().expect("groups") {
            let s = g["longest_wait_s"].as_f64().unwrap_or_else(|| panic!("{what}: no age of {g}"));
            assert!(s >= least && s <= begin.elapsed().as_secs_f64(), "{what}: {s} s of {least}: {g}");
        }
        let by = count(&f, &["--by", "age"]).expect("an answer");
        assert!(row(&by, |n| n.starts_with("at least 10 min")).is_none(), "{what}: {by}");
        let old = chosen(&waited).len() as u64;
        assert!(chosen(&count(&f, &["--age", "0s"]).expect("an answer")).len() as u64 >= old, "{what}");
    }
}

/// What goroutines keep equals what the program planted on them.
#[test]
fn retained_bytes_are_the_planted_ones() {
    for (release, variant) in [("1.19", "dwarf"), ("1.24", "stripped"), ("1.27", "stripped")] {
        let Some(f) = Fixture::start(release, variant, "leaks", &["goroutine-pile-up"]) else { continue };
        let truth = &f.ready["truth"]["leaks"][0];
        let n = truth["objects"].as_u64().expect("a number");
        let each = truth["bytes"].as_u64().expect("bytes") / n;
        let Some(big) = count(&f, &["--min-retained", &each.to_string()]) else { return };
        let what = format!("Go {release} {variant}: {}", big["groups"]);
        assert_eq!(big["count"], n, "{what}");
        let sum = |member: &str| -> u64 {
            big["groups"].as_array().expect("groups").iter().filter_map(|g| g[member].as_u64()).sum()
        };
        let near = |ours: u64, planted: &Value| {
            let planted = planted.as_u64().expect("bytes");
            ours.abs_diff(planted) * 50 <= planted
        };
        // HeapAlloc's change while they were started, and that of StackInuse: 2 % for what else happened meanwhile.
        assert!(near(sum("retained_bytes"), &truth["retained_bytes"]), "{truth}, {what}");
        // What a go statement with arguments starts is a wrapper, up to its function's name.
        let begun =
            |g: &Value| g["stack"].as_array().is_some_and(|s| s.iter().any(|f| f["function"] == "main.consume"));
        assert!(big["groups"].as_array().expect("groups").iter().all(begun), "{what}");
        let by = count(&f, &["--by", "retained"]).expect("an answer");
        let row = row(&by, |n| n == "at least 4.00 KiB").unwrap_or_else(|| panic!("{by}"));
        assert_eq!(row["count"], n, "{what}");
        assert!(near(row["retained_bytes"].as_u64().expect("bytes"), &truth["retained_bytes"]), "{truth}, {row}");
        // Groups that keep most come first.
        let all = count(&f, &["--retained"]).expect("an answer");
        assert!(begun(&all["groups"][0]), "{what}");
    }
}

/// Ten thousand: none lost, told apart by what they wait for.
#[test]
fn ten_thousand_goroutines() {
    for (release, variant) in [("1.19", "stripped"), ("1.24", "dwarf"), ("1.27", "stripped")] {
        let Some(f) = Fixture::start(release, variant, "heap", &["goroutines", "10000"]) else { continue };
        let planted = f.ready["truth"]["goroutine_functions"].as_object().expect("functions").clone();
        let Some(by) = count(&f, &["--by", "function"]) else { return };
        for (function, n) in &planted {
            let row = row(&by, |r| r == function).unwrap_or_else(|| panic!("Go {release}: no {function}"));
            assert_eq!(&row["count"], n, "Go {release}");
        }
        let own = planted["main.waitOwn"].as_u64().expect("a number");
        let shared = planted["main.waitShared"].clone();
        let by = count(&f, &["--by", "lock", "--creator", "main.goroutines"]).expect("an answer");
        let rows = by["by"].as_array().expect("rows");
        assert_eq!(rows[0]["count"], shared, "Go {release}: all on one channel");
        assert!(
            rows.len() as u64 == own + 1 && rows[1..].iter().all(|r| r["count"] == 1),
            "Go {release}: {}",
            rows.len()
        );
        let cheap = count(&f, &["--hold", "none", "--creator", "main.goroutines"]).expect("an answer");
        assert_eq!(cheap["count"], 10_000, "Go {release}");
        assert_eq!(cheap["groups"].as_array().map(Vec::len), Some(2), "Go {release}: {cheap}");
        assert_eq!(cheap["groups"][0]["count"], 5_000, "Go {release}");
        // Nothing can prove that they are stuck: main could close the channels.
        let a = answer(&["locks", &f.pid()]).expect("an answer");
        assert_eq!(a["result"]["proven_leaks"].as_array().map(Vec::len), Some(0), "Go {release}");
        assert_eq!(a["result"]["waits"]["chan-receive"].as_u64().map(|n| n >= 10_000), Some(true), "Go {release}");
    }
}

/// Without stopping the program: the same goroutines and states as when it stands still, and a busy program is not disturbed.
#[test]
fn a_look_without_hold() {
    for (release, variant) in RELEASES.into_iter().flat_map(|r| ["dwarf", "stripped"].map(|v| (r, v))) {
        let Some(f) = Fixture::start(release, variant, "goroutines", &["all"]) else { continue };
        let Some(a) = answer(&["goroutines", &f.pid(), "--limit", "0", "--hold", "none"]) else { return };
        let what = format!("Go {release} {variant}");
        assert!(a["hold"]["stopped_ms"].is_null() && a["result"]["without_stacks"] == true, "{what}: {}", a["hold"]);
        let groups = a["result"]["groups"].as_array().expect("groups");
        for g in f.ready["truth"]["goroutines"].as_array().expect("goroutines") {
            let goid = g["goid"].as_u64().expect("a number");
            let group = groups.iter().find(|o| goids(&o["goids"]).contains(&goid));
            let group = group.unwrap_or_else(|| panic!("{what}: {g} is missing"));
            let reason = group["wait_reason"].as_str().filter(|r| !r.is_empty()).or(group["status"].as_str());
            assert_eq!(reason, g["wait_reason"].as_str(), "{what}: {g}");
            if let Some(creator) = g["created_by"].as_str() {
                assert_eq!(group["created_by"]["function"], creator, "{what}: {g}");
            }
        }
    }
    let Some(mut f) = Fixture::start("1.27", "stripped", "busy", &["churn", "4"]) else { return };
    for _ in 0..25 {
        let Some(a) = answer(&["goroutines", &f.pid(), "--limit", "0", "--hold", "none"]) else { return };
        let all = chosen(&a["result"]);
        assert!(all.contains(&1) && all.len() >= 5, "{}", a["result"]);
        assert_eq!(f.command("progress")["ok"], true);
    }
}

/// A goroutine that does nothing but read the clock is mostly in the vDSO, on its thread's own stack, and nothing that its record says of
/// its stack is true then. No look loses the stack.
#[test]
fn running_goroutines_keep_their_stacks() {
    for (release, name, args, function) in [
        ("1.19", "busy", ["gap", "64"], "main.watchClock"),
        ("1.23", "busy", ["gap", "64"], "main.watchClock"),
        ("1.27", "busy", ["gap", "64"], "main.watchClock"),
    ] {
        let Some(f) = Fixture::start(release, "stripped", name, &args) else { continue };
        let mut seen = 0;
        for _ in 0..12 {
            let Some(a) = answer(&["goroutines", &f.pid(), "--state", "running", "--limit", "0"]) else { return };
            let groups = a["result"]["groups"].as_array().expect("groups");
            for stack in groups.iter().filter_map(|g| g["stack"].as_array()) {
                assert!(!stack.is_empty(), "Go {release} {name}: {} {}", a["result"], a["diagnostics"]);
                seen +=
                    usize::from(stack.iter().any(|f| f["function"].as_str().is_some_and(|n| n.starts_with(function))));
            }
            let cut = a["diagnostics"].to_string();
            assert!(!cut.contains("cut short"), "Go {release} {name}: {cut}");
        }
        assert!(seen >= 4, "Go {release} {name}: {function} was seen {seen} times");
    }
}

/// A thread that was sent into a handler of the C part while it ran Go code is on the signal stack; the goroutine's frames are those that
/// the signal interrupted. Live, and in a core.
#[test]
fn stacks_below_a_signal_handler() {
    for release in RELEASES {
        // The runtime takes a goroutine off its thread every 10 ms: a signal that comes just then interrupts none.
        let seen = (0..5).any(|_| below_a_signal_handler(release));
        assert!(seen, "Go {release}: no signal met a running goroutine in five programs");
    }
}

/// False if the signal did not meet the goroutine on its thread.
fn below_a_signal_handler(release: &str) -> bool {
    let Some(mut f) = Fixture::start(release, "cgo", "odd", &["handler"]) else { return true };
    assert_eq!(f.command("signal")["ok"], true);
    let dir = tempfile::tempdir().expect("a directory");
    let core = dir.path().join("core");
    let core = core.to_str().expect("a path");
    let out = gosleuth(&["dump", &f.pid(), "-o", core]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for target in [f.pid(), core.to_owned()] {
        let Some(a) = answer(&["goroutines", &target, "--state", "running", "--limit", "0"]) else { return true };
        let what = format!("Go {release} {target}: {a}");
        let groups = a["result"]["groups"].as_array().expect("groups");
        let stack: Vec<&str> = groups
            .iter()
            .flat_map(|g| g["stack"].as_array().into_iter().flatten())
            .filter_map(|s| s["function"].as_str())
            // The signal may come while the runtime is about to take the goroutine off its thread (runtime/preempt_amd64.s).
            .filter(|f| !f.starts_with("runtime.asyncPreempt"))
            .collect();
        if stack.is_empty() {
            println!("{what}: nothing runs");
            return false;
        }
        assert_eq!(stack, ["main.spinForever", "main.interrupted"], "{what}");
        assert!(!a["diagnostics"].to_string().contains("cut short"), "{what}");
    }
    true
}
