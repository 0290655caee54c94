//! `diff` of pprof files, against `go tool pprof -diff_base` and what the fixtures plant. Profiles are those that the runtime writes.

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Fixture, answer, gosleuth};
use serde_json::Value;

/// The newest Go command of those that the fixtures were built with; one with its pprof along is quicker (1.25 and later build it).
fn go() -> Option<PathBuf> {
    let root = common::fixtures_root();
    let releases = std::fs::read_dir(root.parent()?.join("go")).ok()?;
    let all = releases.filter_map(|r| Some(r.ok()?.path().join("go/bin/go"))).filter(|p| p.exists());
    let quick = |p: &PathBuf| p.with_file_name("../pkg/tool/linux_amd64/pprof").exists();
    let found = all.max_by_key(|p| (quick(p), p.clone()));
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
    assert_eq!(
        (&d["command"], &d["target"]["kind"], &d["target"]["arch"]),
        (&"diff".into(), &"profile".into(), &Value::Null)
    );
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

/// Compares all types of values of two profiles; how many figures there were.
fn agree(go: &Path, files: &[String], d: &Value, what: &str) -> usize {
    let mut compared = 0;
    for (kind, unit) in [("inuse_space", "B"), ("alloc_space", "B"), ("inuse_objects", "count")] {
        if d["total"]["flat"][kind].is_null() {
            continue;
        }
        for (list, lines) in [("by_function", false), ("by_line", true)] {
            let what = format!("{what}, {kind} {list}");
            // Rows that are zero throughout are left out by one or the other.
            let some = |m: BTreeMap<String, (i64, i64)>| -> BTreeMap<String, (i64, i64)> {
                m.into_iter().filter(|(_, v)| *v != (0, 0)).collect()
            };
            let theirs = some(theirs(go, files, kind, unit, lines));
            let mine = some(ours(&d[list], kind, lines));
            assert!(kind != "inuse_space" || !theirs.is_empty(), "{what}");
            assert_eq!(mine, theirs, "{what}");
            compared += mine.len();
        }
    }
    compared
}

/// Recursion, also through two functions, inlined calls, labels, a stack that is equal but for its labels: two small made profiles.
#[test]
fn made_profiles_have_the_figures_of_go_tool_pprof() {
    let Some(go) = go() else { return };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/profiles");
    let files = ["earlier.pb.gz", "later.pb.gz"].map(|n| dir.join(n).display().to_string());
    let d = diff(&files);
    assert!(agree(&go, &files, &d, "made") >= 10);
    let fib = d["by_function"].as_array().expect("rows").iter().find(|r| r["name"] == "main.fib").expect("it is there");
    assert_eq!(
        (fib["flat"]["alloc_space"].to_string(), fib["cum"]["alloc_space"].to_string()),
        ("[51200,102400]".into(), "[2148352,4296704]".into())
    );
}

/// The same figures as Go's own tool, for each function and each line, flat and cum; each type is ranked by itself.
#[test]
fn figures_are_those_of_go_tool_pprof() {
    let Some(go) = go() else { return };
    let mut compared = 0;
    for (release, variant) in RELEASES {
        for rate in ["1", ""] {
            let env = [("FIXTURE_MEMPROFILERATE", rate)];
            let env = if rate.is_empty() { &env[..0] } else { &env[..] };
            let Some(mut f) = Fixture::start_with(release, variant, "leaks", &["global-map"], env) else { continue };
            let dir = tempfile::tempdir().expect("a directory");
            let files = heaps(&mut f, dir.path(), &["3"]);
            let d = diff(&files);
            compared += agree(&go, &files, &d, &format!("Go {release} {variant}, rate {rate:?}"));
        }
    }
    println!("{compared} figures compared");
}

/// What the fixture planted between two profiles is found at the line that allocates it: all of it where every allocation is
/// sampled, within the margin where one in 512 KiB is (twice the 95 % margin: one run in 10,000 fails).
#[test]
fn growth_is_what_was_planted() {
    for (release, variant) in RELEASES {
        for rate in ["1", ""] {
            let env = [("FIXTURE_MEMPROFILERATE", rate)];
            let env = if rate.is_empty() { &env[..0] } else { &env[..] };
            let Some(mut f) = Fixture::start_with(release, variant, "leaks", &["global-map"], env) else { continue };
            let what = format!("Go {release} {variant}, rate {rate:?}");
            let dir = tempfile::tempdir().expect("a directory");
            let retained = |f: &Fixture| f.ready["truth"]["leaks"][0]["retained_bytes"].as_f64().expect("bytes");
            let before = retained(&f);
            let first = profile(&mut f, "heapprofile", dir.path(), "0.pb.gz");
            f.ready = f.command("grow 40");
            let planted = retained(&f) - before;
            let d = diff(&[first, profile(&mut f, "heapprofile", dir.path(), "1.pb.gz")]);
            let top = &d["by_site"][0];
            println!(
                "{what}: {planted} planted, {} +-{} told in all, {} {}",
                d["total"]["growth"], d["total"]["margin"], top["name"], top["line"]
            );
            assert_eq!(
                (&top["name"], &top["line"], &top["certain"]),
                (&"main.users".into(), &88.into(), &true.into()),
                "{what}"
            );
            let callers: Vec<&str> =
                top["stack"].as_array().expect("a stack").iter().filter_map(|f| f["function"].as_str()).collect();
            assert!(callers.contains(&"main.main"), "{what}: {callers:?}");
            let off = (d["total"]["growth"].as_f64().expect("bytes") - planted).abs();
            let margin = d["total"]["margin"].as_f64().expect("sampled");
            let samples = d["total"]["samples"].as_u64();
            match rate {
                "1" => {
                    assert!(margin == 0.0 && samples.is_none() && off < 0.02 * planted, "{what}: {off} of {planted}")
                }
                _ => assert!(
                    margin > 0.0 && samples > Some(10) && off < 2.0 * margin,
                    "{what}: {off} of {planted}, {margin}"
                ),
            }
            assert_eq!(d["same_process"], Value::Null);
            assert_eq!(d["same_build"], if release >= "1.24" { Value::Bool(true) } else { d["same_build"].clone() });
        }
    }
}

/// Four profiles of a process that leaks: a certain trend. Of healthy ones: nothing is ranked.
#[test]
fn trends_and_noise() {
    for (release, variant) in RELEASES {
        let Some(mut f) = Fixture::start(release, variant, "leaks", &["global-map", "20"]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let files = heaps(&mut f, dir.path(), &["20", "20", "20"]);
        let d = diff(&files);
        let top = &d["by_site"][0];
        assert_eq!((&top["name"], &top["certain"]), (&"main.users".into(), &true.into()), "Go {release}: {top:#}");
        let rate = &top["rate"];
        let (low, mid, high) = (rate["low"].as_f64(), rate["per_hour"].as_f64(), rate["high"].as_f64());
        assert!(low > Some(0.0) && low < mid && mid < high, "Go {release}: {rate}");
        let text = String::from_utf8(
            gosleuth(&[&["diff"], &files.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).stdout,
        );
        let text = text.expect("text");
        assert!(text.contains("main.users  leaks/leaks.go:88") && text.contains("an hour (95 %: "), "{text}");
        // The other way round there is no time.
        let back: Vec<String> = files.iter().rev().cloned().collect();
        let d = diff(&back);
        assert_eq!((&d["by_site"][0]["rate"], &d["same_process"]), (&Value::Null, &Value::Bool(false)), "Go {release}");
        assert!(d["notes"].to_string().contains("order"), "{}", d["notes"]);
        for healthy in ["healthy-bounded-cache", "healthy-lru-evicting", "healthy-json-service"] {
            let Some(mut f) = Fixture::try_start(release, variant, "leaks", &[healthy, "20"]) else { continue };
            let d = diff(&heaps(&mut f, dir.path(), &["20", "20", "20"]));
            let ranked: Vec<&Value> =
                d["by_site"].as_array().expect("rows").iter().filter(|r| r["certain"] == true).collect();
            assert!(ranked.is_empty(), "Go {release} {healthy}: {ranked:#?}");
        }
    }
}

/// Goroutine profiles of the runtime grow by what was planted; ours of the same moment has the same goroutines of the program at the
/// same lines.
#[test]
fn goroutine_profiles() {
    for (release, variant) in RELEASES {
        let Some(mut f) = Fixture::start(release, variant, "leaks", &["goroutine-pile-up"]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let before = f.ready["truth"]["leaks"][0]["objects"].as_i64().expect("a count");
        let first = profile(&mut f, "goroutineprofile", dir.path(), "0.pb.gz");
        f.ready = f.command("grow 3");
        let planted = f.ready["truth"]["leaks"][0]["objects"].as_i64().expect("a count") - before;
        let last = profile(&mut f, "goroutineprofile", dir.path(), "1.pb.gz");
        let d = diff(&[first, last.clone()]);
        assert_eq!(
            (&d["profile"], &d["sample_type"], &d["total"]["samples"]),
            (&"goroutine".into(), &"goroutine".into(), &Value::Null)
        );
        let top = &d["by_stack"][0];
        println!("Go {release} {variant}: {planted} planted, {} in {}", top["growth"], top["name"]);
        assert_eq!((&top["growth"], &top["certain"]), (&planted.into(), &true.into()), "Go {release}: {top:#}");
        assert!(top["name"].as_str().is_some_and(|n| n.starts_with("main.")), "Go {release}: {top:#}");
        let out = gosleuth(&["goroutines", &f.pid(), "--format", "pprof"]);
        if !out.status.success() {
            println!("skipped: {}", String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or_default());
            return;
        }
        let own = dir.path().join("own.pb");
        std::fs::write(&own, &out.stdout).expect("written");
        let d = diff(&[last, own.display().to_string()]);
        // The goroutine that wrote the profile is elsewhere by now, and the runtime's own are not in its profile.
        let other: Vec<&Value> = (d["by_stack"].as_array().expect("rows").iter())
            .filter(|r| {
                !r["stack"].to_string().contains("runtime/pprof") && !r["stack"].to_string().contains("\"main.main\"")
            })
            .filter(|r| r["name"].as_str().is_some_and(|n| n.starts_with("main.")))
            .collect();
        assert!(other.is_empty(), "Go {release} {variant}: {other:#?}");
    }
}

/// What cannot be compared is refused in words that say what to do instead, or compared with a note.
#[test]
fn refusals() {
    let dir = tempfile::tempdir().expect("a directory");
    let says = |args: &[&str], what: &[&str]| {
        let out = gosleuth(&[&["diff"], args].concat());
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {err}");
        what.iter().for_each(|w| assert!(err.contains(w), "{args:?}: no {w:?} in {err}"));
        assert!(err.contains("try: "), "{err}");
    };
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.display().to_string()
    };
    let Some(mut f) = Fixture::start("1.27", "dwarf", "leaks", &["global-map"]) else { return };
    let heap = profile(&mut f, "heapprofile", dir.path(), "heap.pb.gz");
    let goroutine = profile(&mut f, "goroutineprofile", dir.path(), "g.pb.gz");
    says(&[&heap, &f.pid()], &["is a profile of pprof and", "gosleuth snapshot PID"]);
    says(&[&heap, &goroutine], &["heap profile", "goroutine profile", "no type of values in common"]);
    let text = file("heap.txt", b"heap profile: 9: 647504 [32: 913744] @ heap/1048576\n");
    says(&[&heap, &text], &["a heap profile in text form", "without debug=", "debug/pprof/heap"]);
    let text = file("g.txt", b"goroutine profile: total 20\n5 @ 0x47fe4a 0x41522e\n");
    says(&[&goroutine, &text], &["a goroutine profile in text form", "debug/pprof/goroutine"]);
    let whole = std::fs::read(&heap).expect("a profile");
    let cut = file("cut.pb.gz", &whole[..whole.len() / 2]);
    says(&[&heap, &cut], &["cut.pb.gz is damaged", "fetching it anew"]);
    let other = file("other", b"neither one nor the other\n");
    says(&[&heap, &other], &["is a profile of pprof and"]);
    let out = gosleuth(&["top", &heap]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("gosleuth diff with two profiles"));
    // Another build: compared, with a note.
    let Some(mut other) = Fixture::start("1.24", "dwarf", "leaks", &["global-map"]) else { return };
    let other = profile(&mut other, "heapprofile", dir.path(), "1.24.pb.gz");
    let d = diff(&[other, heap]);
    assert_eq!((&d["same_build"], &d["same_process"]), (&Value::Bool(false), &Value::Bool(false)), "{d:#}");
    assert!(d["notes"].to_string().contains("different builds"), "{}", d["notes"]);
}

/// Fields of profile.proto by hand: what a writer with bad intent may put into them.
#[derive(Default, Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn varint(mut self, mut v: u64) -> Raw {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
        self
    }
    fn number(self, field: u64, v: u64) -> Raw {
        self.varint(field << 3).varint(v)
    }
    fn bytes(self, field: u64, v: &[u8]) -> Raw {
        let mut out = self.varint(field << 3 | 2).varint(v.len() as u64);
        out.0.extend_from_slice(v);
        out
    }
    fn part(self, field: u64, f: Raw) -> Raw {
        self.bytes(field, &f.0)
    }
    /// A whole profile of one sample; `texts` follow.
    fn small(location: u64, function: u64, name: u64) -> Raw {
        Raw::default()
            .part(1, Raw::default().number(1, 1).number(2, 2))
            .part(2, Raw::default().number(1, location).number(2, 5))
            .part(4, Raw::default().number(1, 1).part(4, Raw::default().number(1, function).number(2, 7)))
            .part(5, Raw::default().number(1, 1).number(2, name).number(4, 3))
    }
    fn texts(self) -> Raw {
        self.bytes(6, b"").bytes(6, b"goroutine").bytes(6, b"count").bytes(6, b"main.f")
    }
}

fn gzip(write: impl FnOnce(&mut dyn std::io::Write)) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    write(&mut out);
    out.finish().expect("in memory")
}

/// Each is refused with the reason, in bounded memory.
#[test]
fn damaged_and_hostile_files_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = dir.path().join("good.pb");
    std::fs::write(&good, Raw::small(1, 1, 3).texts().0).expect("written");
    let whole = gzip(|w| w.write_all(&Raw::small(1, 1, 3).texts().0).expect("in memory"));
    let empty_texts = gzip(|w| {
        w.write_all(&Raw::small(1, 1, 3).texts().0).expect("in memory");
        let piece = [0x32u8, 0].repeat(1 << 19);
        (0..400).for_each(|_| w.write_all(&piece).expect("in memory"));
    });
    let locations = Raw::small(1, 1, 3).texts().0.into_iter().chain([0x22u8, 0].repeat(20 << 20)).collect();
    // Beyond what is looked at in order to know what a file is.
    let long = (0..400).fold(Raw::small(1, 1, 3).texts(), |r, _| r.bytes(6, b"padding padding"));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("location", Raw::small(9, 1, 3).texts().0, "location 9 is named but not there"),
        ("function", Raw::small(1, 9, 3).texts().0, "function 9 is named but not there"),
        ("text", Raw::small(1, 1, 99).texts().0, "text 99 of 4"),
        ("negative", Raw::small(1, 1, u64::MAX).texts().0, "text -1 of 4"),
        ("texts", Raw::small(1, 1, 3).0, "it has no texts"),
        ("twice", [Raw::small(1, 1, 3).texts().0, Raw::small(1, 1, 3).texts().0].concat(), "where 2 types are named"),
        ("values", Raw::small(1, 1, 3).part(2, Raw::default().number(1, 1)).texts().0, "a sample of 0 values"),
        ("long", long.varint(6 << 3 | 2).varint(1 << 40).0, "a part of more than 4 MiB"),
        ("cut", whole[..whole.len() - 12].to_vec(), "it ends too early"),
        ("middle", Raw::small(1, 1, 3).texts().varint(6 << 3 | 2).varint(60).0, "it ends in the middle of a part"),
        ("bomb", empty_texts, "more"),
        ("parts", locations, "more parts than any profile has"),
        ("html", b"<html><head>".to_vec(), "curl -o heap.pb.gz"),
        ("debug1", b"heap profile: 1: 2 [3: 4] @ heap/524288\n".to_vec(), "text form"),
        ("noise", gzip(|w| w.write_all(b"hello, this is no profile").expect("in memory")), "noise is not"),
    ];
    let good = good.display().to_string();
    let run = |args: &[&str]| {
        // A gigabyte of address space, threads and the binary included.
        let mut sh = Command::new("sh");
        sh.args(["-c", "ulimit -v 1000000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_gosleuth")]);
        sh.env("RAYON_NUM_THREADS", "2").args(args).output().expect("sh runs")
    };
    let fine = run(&["diff", &good, &good]);
    assert!(fine.status.success(), "{}", String::from_utf8_lossy(&fine.stderr));
    for (name, bytes, why) in cases {
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).expect("written");
        let out = run(&["diff", &good, &path.display().to_string()]);
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{name}: {err}");
        assert!(err.contains(why) && err.contains("try: "), "{name}: {err}");
    }
}
