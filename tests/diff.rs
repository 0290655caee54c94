//! Growth between snapshots of fixtures that grow when told to.

mod common;

use common::{Fixture, answer, gosleuth};
use serde_json::Value;

/// Snapshots `n` times; `grow` makes the fixture grow between them.
fn looks(f: &mut Fixture, dir: &std::path::Path, n: usize, grow: &str) -> Option<Vec<String>> {
    let mut files = Vec::new();
    for i in 0..n {
        if i > 0 {
            // Ends with a new ready line.
            assert_eq!(f.command(grow)["ready"], true);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let file = dir.join(format!("{i}.snap")).display().to_string();
        answer(&["snapshot", &f.pid(), "-o", &file])?;
        files.push(file);
    }
    Some(files)
}

fn diff(files: &[String]) -> Value {
    let args: Vec<&str> = std::iter::once("diff").chain(files.iter().map(String::as_str)).collect();
    answer(&[&args[..], &["--limit", "0"]].concat()).expect("files need no rights")
}

fn row<'v>(d: &'v Value, list: &str, name: &str) -> &'v Value {
    let rows = d["result"][list].as_array().expect("rows");
    rows.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}: {rows:#?}"))
}

/// What was planted between two looks is what is told, by type and by holder, and old objects are told from new ones.
#[test]
fn growth_is_what_was_planted() {
    for (release, variant) in [("1.26", "dwarf"), ("1.19", "dwarf"), ("1.24", "stripped")] {
        let Some(mut f) = Fixture::start(release, variant, "leaks", &["global-map"]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let before = f.ready["truth"]["leaks"][0]["objects"].as_i64().expect("a count");
        let Some(files) = looks(&mut f, dir.path(), 2, "grow 2") else { return };
        let d = diff(&files);
        let r = &d["result"];
        assert_eq!((&r["same_process"], &r["same_build"]), (&Value::Bool(true), &Value::Bool(true)));
        let users = row(&d, "by_type", "main.User");
        println!("Go {release} {variant}: {users}");
        let (was, now) = (users["objects"][0].as_i64().expect("n"), users["objects"][1].as_i64().expect("n"));
        assert_eq!(was, before, "Go {release} {variant}");
        assert!(now > was && users["growth_objects"].as_i64() == Some(now - was));
        assert_eq!(users["stayed_objects"].as_i64(), Some(was), "Go {release} {variant}: nothing was freed");
        assert_eq!(users["new_objects"].as_i64(), Some(now - was), "Go {release} {variant}");
        // The holder comes first, and has what the type has and more.
        let holder = &r["by_holder"][0];
        if variant == "dwarf" {
            assert_eq!(holder["name"], "global main.cache", "Go {release}");
        }
        assert!(holder["growth_bytes"].as_i64() >= users["growth_bytes"].as_i64());
        // Each object is on one path: paths and types add up to the same.
        let sum = |list: &str| -> i64 {
            r[list].as_array().expect("rows").iter().map(|x| x["growth_bytes"].as_i64().expect("n")).sum()
        };
        assert_eq!(sum("by_path"), sum("by_type"));
        assert_eq!(sum("by_path"), sum("by_holder"));
        assert_eq!(sum("by_path"), r["live"][0]["growth_bytes"].as_i64().expect("n"));
    }
}

/// Four looks at a pile-up: the group of goroutines grows for sure. Looks at what is healthy: nothing does by much.
#[test]
fn trends_tell_growth_from_noise() {
    let dir = tempfile::tempdir().expect("a directory");
    if let Some(mut f) = Fixture::start("1.26", "dwarf", "leaks", &["goroutine-pile-up"]) {
        let Some(files) = looks(&mut f, dir.path(), 4, "grow 1") else { return };
        let d = diff(&files);
        let trend = &row(&d, "by_goroutines", "main.consume [chan receive]")["trend"];
        assert_eq!(trend["certain"], true, "{trend}");
        assert!(trend["low"].as_f64() > Some(0.0), "{trend}");
        assert_eq!(d["result"]["by_goroutines"][0]["name"], "main.consume [chan receive]");
    }
    if let Some(mut f) = Fixture::start("1.26", "dwarf", "leaks", &["healthy-lru-evicting"]) {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(files) = looks(&mut f, dir.path(), 3, "grow 1") else { return };
        let d = diff(&files);
        let live = &d["result"]["live"][0];
        assert!(live["growth_bytes"].as_i64().expect("n").abs() < 65536, "{live}");
        let stayed = live["stayed_objects"].as_u64().expect("n");
        assert!(stayed < live["objects"][2].as_u64().expect("n"), "a cache that evicts renews its objects: {live}");
    }
}

/// Memory that C leaks grows beside a Go heap that does not.
#[test]
fn growth_outside_the_go_heap_is_told() {
    let Some(mut f) = Fixture::start("1.26", "cgo", "cgoleak", &["leak"]) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let before = f.ready["truth"]["leaks"][0]["bytes"].as_i64().expect("bytes");
    assert_eq!(f.command("gc")["ready"], true);
    let Some(mut files) = looks(&mut f, dir.path(), 1, "") else { return };
    let grown = f.command("grow 2");
    let planted = grown["truth"]["leaks"][0]["bytes"].as_i64().expect("bytes") - before;
    let file = dir.path().join("later.snap").display().to_string();
    answer(&["snapshot", &f.pid(), "-o", &file]).expect("allowed before");
    files.push(file);
    let d = diff(&files);
    let rows = d["result"]["by_owner"].as_array().expect("rows");
    let c: i64 = rows
        .iter()
        .filter(|r| r["name"] == "c_heap" || r["name"] == "other_anonymous")
        .map(|r| r["growth_bytes"].as_i64().expect("n"))
        .sum();
    assert!(planted > 1 << 20 && c >= planted && c - planted < 1 << 20, "{c} of {planted}: {rows:#?}");
    assert!(d["result"]["live"][0]["growth_bytes"].as_i64().expect("n").abs() < 65536);
}

/// Cores and snapshots mix; other programs and other builds are told.
#[test]
fn what_cannot_be_compared_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let Some(a) = Fixture::start("1.26", "dwarf", "leaks", &["global-map"]) else { return };
    let (snap, core) = (file("a.snap"), file("a.core"));
    if answer(&["snapshot", &a.pid(), "-o", &snap]).is_none() {
        return;
    }
    answer(&["dump", &a.pid(), "-o", &core]).expect("allowed before");
    let d = diff(&[snap.clone(), core]);
    assert_eq!(d["result"]["same_process"], true, "{d:#}");
    let types = d["result"]["by_type"].as_array().expect("rows");
    assert!(types.iter().all(|r| r["name"] != "main.User"), "a process at rest does not grow: {types:#?}");
    for (release, name, args, said) in [
        ("1.25", "leaks", &["global-map"][..], "different builds"),
        ("1.26", "leaks", &["global-map"], "different processes"),
        ("1.26", "heap", &["small", "1000"], "different programs"),
    ] {
        let Some(b) = Fixture::start(release, "dwarf", name, args) else { continue };
        let other = file(&format!("{release}{name}.snap"));
        answer(&["snapshot", &b.pid(), "-o", &other]).expect("allowed before");
        let d = diff(&[snap.clone(), other]);
        let notes = d["result"]["notes"].to_string();
        assert!(notes.contains(said), "{release} {name}: {notes}");
        assert_eq!(d["result"]["same_process"], false);
        assert!(d["result"]["live"][0]["new_objects"].is_null());
    }
    let out = gosleuth(&["diff", &snap, "/dev/null"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("neither a core file nor a snapshot"));
}
