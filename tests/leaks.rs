//! Every planted leak is named: pattern, holder, size; no healthy program is accused. The table that it prints is
//! docs/LEAKS.md's.

mod common;

use std::{fmt::Write, process::Command};

use common::{Fixture, answer, fixture_path};
use serde_json::Value;

fn scenarios(release: &str, variant: &str) -> Vec<String> {
    let Some(path) = fixture_path(release, variant, "leaks") else { return Vec::new() };
    let out = Command::new(path).arg("list").output().expect("the fixture lists its scenarios");
    String::from_utf8(out.stdout).expect("text").split_whitespace().map(str::to_owned).collect()
}

fn tolerance(scenario: &str) -> f64 {
    match scenario {
        // What malloc needs for itself, and arenas of threads.
        "leak" => 0.03,
        _ => 0.01,
    }
}

/// What is wrong with the first suspect; empty if nothing.
fn faults(truth: &Value, suspects: &[Value], scenario: &str, stripped: bool) -> String {
    let Some(first) = suspects.first() else { return "no suspect".into() };
    let mut out = String::new();
    let patterns = truth["also"].as_array().expect("a list").iter().chain([&truth["pattern"]]);
    if !patterns.into_iter().any(|p| *p == first["pattern"]) {
        let _ = write!(out, "pattern {} for {}; ", first["pattern"], truth["pattern"]);
    }
    let (holder, said) = (truth["holder"].as_str().expect("a name"), first["holder"].as_str().expect("a name"));
    // Without symbols a global has no name of its own, but its package is known by the code that uses it.
    let package = holder.rsplit_once('.').map_or(holder, |(p, _)| p).replace("global ", "global near ");
    if said != holder && !(stripped && said.starts_with(&package)) {
        let _ = write!(out, "holder {said} for {holder}; ");
    }
    let (want, got) =
        (truth["retained_bytes"].as_f64().expect("bytes"), first["retained_bytes"].as_f64().expect("bytes"));
    // What C holds is what is left of resident memory: the C library's own arenas, caches of threads and pages of the
    // runtime's in which nothing known was seen count with it.
    let slack = if truth["pattern"] == "cgo-memory" { f64::from(1 << 20) } else { 0.0 };
    if (want - got).abs() > tolerance(scenario) * want + slack {
        let _ = write!(out, "{got} bytes for {want}; ");
    }
    out
}

/// Scenarios whose type must be named with DWARF of Go 1.23 and later, which tells what closures capture.
const TYPED: [&str; 8] = [
    "closure-capture",
    "listener-list",
    "method-listeners",
    "defer-in-loop",
    "global-map",
    "struct-field-map",
    "channel-backlog",
    "lru-without-eviction",
];

/// Without suspects: how much was looked at, and what holds most, which is less than the whole and below what is told.
fn says_why(result: &Value, suspects: &[Value]) -> bool {
    let l = &result["looked_at"];
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let largest = number(&l["largest"]["retained_bytes"]);
    let all = number(&l["globals"]) > 50 && number(&l["goroutines"]) >= 5;
    let most = largest > 0 && largest < number(&result["live_bytes"]);
    all && most && (!suspects.is_empty() || largest < number(&l["smallest_bytes"]))
}

/// (right, all, lines about the wrong ones)
fn check(release: &str, variant: &str) -> (usize, usize, Vec<String>) {
    let stripped = variant == "stripped";
    let (mut right, mut all, mut wrong) = (0, 0, Vec::new());
    for scenario in scenarios(release, variant) {
        let Some(fixture) = Fixture::try_start(release, variant, "leaks", &[&scenario]) else { continue };
        let Some(result) = answer(&["leaks", &fixture.pid()]) else { break };
        let suspects = result["result"]["suspects"].as_array().expect("a list").clone();
        let planted = fixture.ready["truth"]["leaks"].as_array().expect("a list").clone();
        all += 1;
        let fault = match planted.first() {
            Some(truth) => {
                let mut out = faults(truth, &suspects, &scenario, stripped);
                // Planted so that nothing else has their channel: this is proof, not guesswork.
                if scenario == "goroutine-pile-up" && suspects.first().is_some_and(|s| s["certainty"] != "sure") {
                    let _ = write!(out, "certainty {}; ", suspects[0]["certainty"]);
                }
                let typed = !stripped && release >= "1.23" && TYPED.contains(&scenario.as_str());
                if typed && suspects.first().is_some_and(|s| s["type"] != truth["type"]) {
                    let _ = write!(out, "type {} for {}; ", suspects[0]["type"], truth["type"]);
                }
                out
            }
            None if !says_why(&result["result"], &suspects) => "does not say why nothing is suspected".into(),
            None if suspects.iter().any(|s| s["certainty"] == "sure") => format!("accused while healthy: {suspects:?}"),
            None => String::new(),
        };
        if fault.is_empty() {
            right += 1;
        } else {
            wrong.push(format!("{release} {variant} {scenario}: {fault}"));
        }
    }
    (right, all, wrong)
}

/// Known gaps, by start and part of the line. Static data (`var app = &App{...}`) of a type without a descriptor stays
/// untyped without DWARF, and with it the map in it.
const GAPS: [(&str, &str); 2] = [("1.19 stripped", "struct-field-map"), ("1.21 stripped", "struct-field-map")];

fn releases(variant: &str, list: &[&str]) {
    let mut bad = Vec::new();
    for release in list {
        let (right, all, wrong) = check(release, variant);
        println!("| {release} | {variant} | {right} of {all} |");
        let known = |line: &String| GAPS.iter().any(|(r, s)| line.starts_with(r) && line.contains(s));
        wrong.iter().for_each(|line| println!("{line}"));
        bad.extend(wrong.into_iter().filter(|line| !known(line)));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn planted_leaks_are_named() {
    releases("dwarf", &["1.19", "1.21", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27"]);
}

#[test]
fn planted_leaks_are_named_in_stripped_programs() {
    releases("stripped", &["1.19", "1.21", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27"]);
}

/// What go tool pprof says is the line that allocated most of what is in use: `main.users leaks.go:88`.
fn pprof_says(go: &std::path::Path, profile: &str) -> String {
    let out = Command::new(go)
        .args(["tool", "pprof", "-top", "-lines", "-nodecount=1", "-sample_index=inuse_space", profile])
        .output()
        .expect("go tool pprof runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let row = text.lines().last().unwrap_or_default();
    let words: Vec<&str> = row.split_whitespace().skip(5).collect();
    let place = words.get(1).and_then(|w| w.rsplit('/').next()).unwrap_or_default();
    format!("{} {place}", words.first().copied().unwrap_or_default())
}

#[test]
fn the_place_of_allocation_is_the_heap_profiles() {
    let cache = Some(common::fixtures_root());
    let go = cache.and_then(|c| {
        let releases = std::fs::read_dir(c.parent()?.join("go")).ok()?;
        releases.filter_map(|r| Some(r.ok()?.path().join("go/bin/go"))).filter(|p| p.exists()).max()
    });
    let Some(go) = go else {
        println!("skipped: no Go toolchain to run pprof with");
        return;
    };
    for (release, variant) in [("1.19", "dwarf"), ("1.22", "stripped"), ("1.24", "dwarf"), ("1.27", "stripped")] {
        for scenario in ["global-map", "subslice-pin", "channel-backlog"] {
            let env = [("FIXTURE_MEMPROFILERATE", "1")];
            let Some(mut fixture) = Fixture::start_with(release, variant, "leaks", &[scenario], &env) else { continue };
            let Some(result) = answer(&["leaks", &fixture.pid()]) else { return };
            let site = &result["result"]["suspects"][0]["allocated_at"];
            let frame = &site["stack"][0];
            let file = frame["file"].as_str().and_then(|f| f.rsplit('/').next()).unwrap_or_default().to_owned();
            let said = format!("{} {file}:{}", frame["function"].as_str().unwrap_or_default(), frame["line"]);
            let profile = std::env::temp_dir().join(format!("gosleuth-heap-{}", fixture.pid()));
            let path = profile.to_str().expect("text").to_owned();
            assert_eq!(fixture.command(&format!("heapprofile {path}"))["ok"], true);
            assert_eq!(said, pprof_says(&go, &path), "{release} {variant} {scenario}");
            let _ = std::fs::remove_file(profile);
        }
    }
}

#[test]
fn memory_of_c_code_is_named() {
    for release in ["1.19", "1.22", "1.24", "1.26", "1.27"] {
        for scenario in ["leak", "healthy"] {
            let Some(fixture) = Fixture::start(release, "cgo", "cgoleak", &[scenario]) else { continue };
            let Some(result) = answer(&["leaks", &fixture.pid()]) else { return };
            let suspects = result["result"]["suspects"].as_array().expect("a list").clone();
            match fixture.ready["truth"]["leaks"].get(0) {
                Some(truth) => assert_eq!(faults(truth, &suspects, scenario, false), "", "{release}"),
                None => assert!(suspects.iter().all(|s| s["certainty"] == "possible"), "{release}: {suspects:?}"),
            }
        }
    }
}

/// Looks while the fixture leaks more every half second: told is the rate of its own HeapAlloc, and nothing of a program that
/// works without leaking is certain to grow.
#[test]
fn growth_is_told_by_its_trend() {
    use std::{
        thread::{sleep, spawn},
        time::{Duration, Instant},
    };
    for (release, variant) in [("1.26", "dwarf"), ("1.19", "stripped")] {
        let Some(mut fixture) = Fixture::start(release, variant, "leaks", &["global-map"]) else { continue };
        let pid = fixture.pid();
        let looking = spawn(move || answer(&["leaks", &pid, "--for", "12s"]));
        let retained = |v: &Value| v["truth"]["leaks"][0]["retained_bytes"].as_f64().expect("bytes");
        let (begin, before) = (Instant::now(), retained(&fixture.ready));
        let mut after = before;
        while !looking.is_finished() {
            after = retained(&fixture.command("grow 1"));
            sleep(Duration::from_millis(500));
        }
        let planted = (after - before) / begin.elapsed().as_secs_f64() * 3600.0;
        let Some(result) = looking.join().expect("an answer") else { return };
        assert_eq!(result["result"]["looks"], 5);
        let first = &result["result"]["suspects"][0];
        let said = first["growth_bytes_per_hour"].as_f64();
        let said = said.unwrap_or_else(|| panic!("{release}: no rate in {}", result["result"]["suspects"]));
        assert!((said / planted - 1.0).abs() < 0.35, "{release}: {said} for {planted}");
        assert_eq!((&first["growth_is_certain"], &first["certainty"]), (&Value::from(true), &"likely".into()));
        assert!(first["growth_interval_bytes_per_hour"][0].as_f64().is_some_and(|low| low > 0.0));
    }
    let Some(fixture) = Fixture::start("1.26", "dwarf", "leaks", &["healthy-json-service"]) else { return };
    let Some(result) = answer(&["leaks", &fixture.pid(), "--for", "8s"]) else { return };
    let suspects = result["result"]["suspects"].as_array().expect("a list");
    assert!(suspects.iter().all(|s| s["growth_is_certain"] != true), "{suspects:?}");
}
