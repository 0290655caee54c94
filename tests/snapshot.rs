//! Snapshots answer as the core does that they were made of; damaged ones are refused; contents stay out.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use common::{Fixture, answer, gosleuth};
use serde_json::Value;

/// A core of a fixture and a snapshot of that core, which must be told apart by nothing but their kind.
fn core_and_snapshot(dir: &Path, f: &Fixture) -> Option<(String, String)> {
    let (core, file) = (dir.join("core").display().to_string(), dir.join("it.snap").display().to_string());
    answer(&["dump", &f.pid(), "-o", &core])?;
    answer(&["snapshot", &core, "-o", &file])?;
    Some((core, file))
}

#[test]
fn answers_are_those_of_the_core() {
    let cases: [(&str, &str, &str, &[&str]); 5] = [
        ("1.26", "dwarf", "leaks", &["global-map"]),
        ("1.19", "stripped", "leaks", &["substring-pin"]),
        ("1.22", "pie-stripped", "values", &[]),
        ("1.24", "stripped", "leaks", &["goroutine-pile-up"]),
        ("1.27", "cgo", "goroutines", &["all"]),
    ];
    for (release, variant, name, args) in cases {
        let Some(f) = Fixture::start(release, variant, name, args) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let Some((core, file)) = core_and_snapshot(dir.path(), &f) else { return };
        let mut questions: Vec<Vec<&str>> = vec![
            vec!["top", "--limit", "0"],
            vec!["top", "--by", "root", "--limit", "0"],
            vec!["top", "--by", "package", "--limit", "0"],
            vec!["top", "--by", "sizeclass", "--limit", "0"],
            vec!["top", "--by", "module", "--limit", "0"],
            vec!["top", "--by", "retained", "--limit", "0"],
            vec!["top", "--by", "spanclass", "--retained", "--limit", "0"],
            vec!["top", "--by", "global", "--limit", "0"],
            vec!["top", "--by", "goroutine", "--limit", "0"],
            vec!["top", "--by", "frame", "--limit", "0"],
            vec!["retained", "--min", "1000"],
            vec!["leaks", "--min", "100000"],
            vec!["goroutines", "--limit", "0"],
        ];
        if name == "leaks" && args[0] == "global-map" {
            questions.push(vec!["why", "main.User"]);
            questions.push(vec!["objects", "main.User"]);
        }
        for q in questions {
            let ask = |target: &str| answer(&[&[q[0], target], &q[1..]].concat()).expect("files need no rights");
            let (a, b) = (ask(&core), ask(&file));
            let (a, b) = (without_labels(a), without_labels(b));
            assert_eq!(a["result"], b["result"], "Go {release} {variant} {name}: {q:?}");
            assert_eq!(b["target"]["kind"], "snapshot");
            assert_eq!(a["target"]["go_version"], b["target"]["go_version"]);
        }
        let (a, b) = (answer(&["overview", &core]).expect("a core"), answer(&["overview", &file]).expect("a file"));
        for part in ["heap", "gc", "goroutines", "ledger"] {
            assert_eq!(a["result"][part], b["result"][part], "Go {release} {variant} {name}: overview {part}");
        }
    }
}

/// pprof labels are texts of the program: a snapshot has none.
fn without_labels(mut answer: Value) -> Value {
    for g in answer["result"]["groups"].as_array_mut().into_iter().flatten() {
        if let Some(g) = g.as_object_mut() {
            g.remove("labels");
        }
    }
    answer
}

fn refused(out: &Output) -> String {
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(out.stdout.is_empty());
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A small snapshot of a live process.
fn small(dir: &Path) -> Option<(Fixture, PathBuf)> {
    let f = Fixture::start("1.26", "stripped", "leaks", &["duplicate-strings"])?;
    let file = dir.join("small.snap");
    answer(&["snapshot", &f.pid(), "-o", file.to_str()?])?;
    Some((f, file))
}

#[test]
fn damaged_files_are_refused_in_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some((f, file)) = small(dir.path()) else { return };
    let whole = std::fs::read(&file).expect("the file");
    let bad = dir.path().join("bad.snap");
    let ask = |bytes: &[u8]| {
        std::fs::write(&bad, bytes).expect("a file");
        // The question that reads all of the file.
        refused(&gosleuth(&["leaks", bad.to_str().expect("a path")]))
    };
    for len in [9, 12, 16, 100, whole.len() / 2, whole.len() - 1] {
        let text = ask(&whole[..len]);
        assert!(text.contains("cut short"), "{len} bytes: {text}");
    }
    let mut other = whole.clone();
    other[8] = 2;
    let text = ask(&other);
    assert!(text.contains("version 2") && text.contains("reads version 1"), "{text}");
    // One bit of a block, of the directory, of the footer.
    for at in [40, whole.len() / 3, whole.len() / 2, whole.len() - 100, whole.len() - 30] {
        let mut altered = whole.clone();
        altered[at] ^= 4;
        let text = ask(&altered);
        assert!(text.contains("altered or damaged"), "bit of byte {at}: {text}");
    }
    // Nothing is overwritten unasked, and no memory is pretended.
    let name = file.to_str().expect("a path");
    assert!(refused(&gosleuth(&["snapshot", &f.pid(), "-o", name])).contains("--force"));
    for command in ["waste", "locks"] {
        let text = refused(&gosleuth(&[command, name]));
        assert!(text.contains("structure only"), "{command}: {text}");
    }
    assert!(
        refused(&gosleuth(&["snapshot", name, "-o", bad.to_str().expect("a path"), "--force"])).contains("snapshot")
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("the file").permissions());
    assert_eq!(mode & 0o77, 0, "others may read it");
}

/// Strings of the program are nowhere in the file, packed or not.
#[test]
fn contents_stay_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some((_, file)) = small(dir.path()) else { return };
    let whole = std::fs::read(&file).expect("the file");
    let frames: Vec<usize> = (0..whole.len() - 4).filter(|&i| whole[i..i + 4] == [0x28, 0xb5, 0x2f, 0xfd]).collect();
    let mut unpacked = 0;
    for (n, &at) in frames.iter().enumerate() {
        let end = frames.get(n + 1).copied().unwrap_or(whole.len());
        let Ok(raw) = zstd::bulk::decompress(&whole[at..end], 64 << 20) else { continue };
        unpacked += raw.len();
        for secret in [&b"production"[..], b"environment="] {
            assert!(!raw.windows(secret.len()).any(|w| w == secret), "a block holds contents");
        }
    }
    // The last frame has the directory behind it, and is not unpacked here.
    assert!(frames.len() > 5 && unpacked > 100_000, "{} frames, {unpacked} bytes", frames.len());
}

/// What a question does not need is not read: with the blocks of edges damaged, `top`, `overview`, `goroutines` and `doctor` answer as
/// before; what needs edges is refused. (A block that is read is checked by its hash.)
#[test]
fn what_is_not_asked_for_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some((_f, path)) = small(dir.path()) else { return };
    let file = path.to_str().expect("a path");
    let questions: [&[&str]; 5] =
        [&["top"], &["top", "--by", "package"], &["overview"], &["goroutines", "--limit", "0"], &["doctor"]];
    let ask = |q: &[&str]| answer(&[&[q[0], file], &q[1..]].concat()).expect("files need no rights")["result"].clone();
    let before = questions.map(ask);
    let snapshot = gosleuth::snapshot::Snapshot::open(&path).expect("a snapshot");
    let places = ["edge counts", "edges", "roots"].map(|s| snapshot.blocks(s)).concat();
    drop(snapshot);
    let mut bytes = std::fs::read(&path).expect("a file");
    assert!(places.len() >= 3, "{places:?}");
    for at in places {
        bytes[at as usize] ^= 0x55;
    }
    std::fs::write(&path, bytes).expect("written");
    assert_eq!(before, questions.map(ask));
    for q in [&["retained"][..], &["top", "--by", "root"], &["leaks"]] {
        let text = refused(&gosleuth(&[&[q[0], file], &q[1..]].concat()));
        assert!(text.contains("altered or damaged"), "{q:?}: {text}");
    }
}
