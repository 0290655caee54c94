//! `diff` of pprof files, against `go tool pprof -diff_base` and what the fixtures plant. Profiles are those that the runtime writes.

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Fixture, answer, gosleuth};
use serde_json::Value;

/// The newest Go command of the toolchains that the fixtures were built with that has its pprof along.
fn go() -> Option<PathBuf> {
    let root = common::fixtures_root();
    let releases = std::fs::read_dir(root.parent()?.join("go")).ok()?;
    let found = releases.filter_map(|r| Some(r.ok()?.path().join("go/bin/go"))).filter(|p| p.exists()).max();
    if found.is_none() {
        println!("skipped: no Go toolchain to run pprof with");
    }
    found
}

fn profile(f: &mut Fixture, what: &str, dir: &Path, name: &str) -> String {
    let path = dir.join(name).display().to_string();
    assert_eq!(f.command(&format!("{what} {path}"))["ok"], true);
    path
}

/// Heap profiles; the fixture grows by `grow` batches between them.
fn heaps(f: &mut Fixture, dir: &Path, grow: &[&str]) -> Vec<String> {
    let mut out = vec![profile(f, "heapprofile", dir, "0.pb.gz")];
    for (i, g) in grow.iter().enumerate() {
        std::thread::sleep(std::time::Duration::from_millis(150));
        assert_eq!(f.command(&format!("grow {g}"))["ready"], true);
        out.push(profile(f, "heapprofile", dir, &format!("{}.pb.gz", i + 1)));
    }
    out
}

fn diff(files: &[String]) -> Value {
    let args: Vec<&str> = std::iter::once("diff").chain(files.iter().map(String::as_str)).collect();
    let d = answer(&[&args[..], &["--limit", "0"]].concat()).expect("files need no rights");
    assert_eq!((&d["command"], &d["target"]["kind"], &d["target"]["arch"]), (&"diff".into(), &"profile".into(), &Value::Null));
    d["result"].clone()
}

/// Rows of `-top` in the smallest unit: name (and place) to (flat, cum).
fn theirs(go: &Path, files: &[String], kind: &str, unit: &str, lines: bool) -> BTreeMap<String, (i64, i64)> {
    let base = format!("-diff_base={}", files[0]);
    let (index, unit) = (format!("-sample_index={kind}"), format!("-unit={unit}"));
    let mut args = vec!["tool", "pprof", "-top", "-trim=false", "-symbolize=none", &base, &index, &unit];
    if lines {
        args.push("-lines");
    }
    let out = Command::new(go).args(&args).arg(files.last().expect("a file")).output().expect("go runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let number = |w: &str| -> i64 {
        let digits = w.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        digits.parse().unwrap_or_else(|_| panic!("{w} in {text}"))
    };
    let rows = text.lines().skip_while(|l| !l.contains("flat%")).skip(1);
    let mut out = BTreeMap::new();
    for row in rows {
        let words: Vec<&str> = row.split_whitespace().collect();
        let name = words[5..].join(" ");
        let name = name.trim_end_matches(" (inline)").trim_end_matches(" (partial-inline)").to_owned();
        let sum = out.entry(name).or_insert((0, 0));
        *sum = (number(words[0]), number(words[3]));
    }
    out
}

/// The same of ours.
fn ours(rows: &Value, kind: &str, lines: bool) -> BTreeMap<String, (i64, i64)> {
    let grown = |v: &Value| {
        let v = v[kind].as_array().unwrap_or_else(|| panic!("{kind} in {v}"));
        v[v.len() - 1].as_i64().expect("n") - v[0].as_i64().expect("n")
    };
    let mut out = BTreeMap::new();
    for r in rows.as_array().expect("rows") {
        let name = r["name"].as_str().expect("a name");
        let name = match lines {
            true => format!("{name} {}:{}", r["file"].as_str().expect("a file"), r["line"]),
            false => name.to_owned(),
        };
        out.insert(name, (grown(&r["flat"]), grown(&r["cum"])));
    }
    out
}

const RELEASES: [(&str, &str); 4] = [("1.19", "dwarf"), ("1.22", "stripped"), ("1.24", "dwarf"), ("1.27", "stripped")];

/// The same figures as Go's own tool, for each function and each line, flat and cum; each type is ranked by itself.
#[test]
fn figures_are_those_of_go_tool_pprof() {
    let Some(go) = go() else { return };
    let mut compared = 0;
    for (release, variant) in RELEASES {
        for rate in ["1", "", "4096"] {
            let env = [("FIXTURE_MEMPROFILERATE", rate)];
            let env = if rate.is_empty() { &env[..0] } else { &env[..] };
            let Some(mut f) = Fixture::start_with(release, variant, "leaks", &["global-map"], env) else { continue };
            let dir = tempfile::tempdir().expect("a directory");
            let files = heaps(&mut f, dir.path(), &["3"]);
            let d = diff(&files);
            for (kind, unit) in [("inuse_space", "B"), ("alloc_space", "B"), ("inuse_objects", "count"), ("alloc_objects", "count")] {
                for (list, lines) in [("by_function", false), ("by_line", true)] {
                    let what = format!("Go {release} {variant}, rate {rate:?}, {kind} {list}");
                    // Rows that are zero throughout are left out by one or the other.
                    let some = |m: BTreeMap<String, (i64, i64)>| -> BTreeMap<String, (i64, i64)> {
                        m.into_iter().filter(|(_, v)| *v != (0, 0)).collect()
                    };
                    let theirs = some(theirs(&go, &files, kind, unit, lines));
                    let mine = some(ours(&d[list], kind, lines));
                    assert!(kind != "inuse_space" || !theirs.is_empty(), "{what}");
                    for (name, v) in &theirs {
                        assert_eq!(mine.get(name), Some(v), "{what}: {name}\n{mine:#?}\n{theirs:#?}");
                        compared += 1;
                    }
                    assert_eq!(mine, theirs, "{what}");
                }
            }
        }
    }
    println!("{compared} figures compared");
}
