//! `goroutines` against the runtime's own dump and Go's own pprof.

mod common;

use std::{collections::BTreeMap, process::Command};

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
    for (release, variant) in RELEASES.into_iter().flat_map(|r| ["dwarf", "stripped"].map(|v| (r, v))) {
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

/// `go tool pprof` opens the profile and counts the same goroutines, labels included.
#[test]
fn go_tool_pprof_opens_the_profile() {
    let Some(f) = Fixture::start("1.26", "stripped", "goroutines", &["all"]) else { return };
    let Some(a) = answer(&["goroutines", &f.pid(), "--limit", "0"]) else { return };
    let count = a["result"]["count"].as_u64().expect("a count");
    let out = gosleuth(&["goroutines", &f.pid(), "--format", "pprof"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &out.stdout).expect("written");
    let pprof = |args: &[&str]| {
        let out = Command::new("go").args(["tool", "pprof"]).args(args).arg(file.path()).output().ok()?;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Some(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let Some(top) = pprof(&["-top"]) else {
        println!("skipped: there is no go command");
        return;
    };
    assert!(top.contains(&format!("100% of {count} total")), "{top}");
    assert!(top.contains("main.startLocks.func1"), "{top}");
    let tags = pprof(&["-tags"]).expect("go");
    assert!(tags.contains("tenant") && tags.contains("blue"), "{tags}");
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
