//! Cores: from the kernel, gcore and our own `dump`, against the process they were taken of; and what is wrong with them.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    Fixture, gosleuth,
    view::{View, assert_same_heap, objects, view},
};
use gosleuth::{
    runtime::OpenOptions,
    target::{HoldMode, Target},
};
use nix::sys::signal::Signal;

fn live(f: &Fixture) -> View {
    let target = Arc::new(Target::attach(f.pid().parse().expect("a number"), HoldMode::Freeze).expect("own child"));
    let v = view(&target, &OpenOptions::default());
    target.release();
    v
}

fn of_core(path: &Path) -> View {
    let target = Target::open_core(path, None).unwrap_or_else(|e| panic!("{e}"));
    assert!(target.trouble.is_empty(), "{:?}", target.trouble);
    view(&Arc::new(target), &OpenOptions::default())
}

fn dump(pid: &str, to: &Path, how: &[&str]) {
    let out = gosleuth(&[&["dump", pid, "-o", to.to_str().expect("text")], how].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// gcore, where gdb is installed.
fn gcore(pid: &str, prefix: &Path) -> Option<PathBuf> {
    let done = Command::new("gcore").arg("-o").arg(prefix).arg(pid).output();
    let Ok(done) = done else {
        println!("skipped: gcore is not installed");
        return None;
    };
    let core = PathBuf::from(format!("{}.{pid}", prefix.display()));
    assert!(core.is_file(), "gcore: {}", String::from_utf8_lossy(&done.stderr));
    Some(core)
}

/// The core that the kernel left in `dir`, where it is allowed and told to leave one there.
fn kernel_core(dir: &Path) -> Option<PathBuf> {
    let found = fs::read_dir(dir).expect("a directory").flatten().map(|e| e.path());
    let core = found.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("core")));
    if core.is_none() {
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        println!("skipped: the kernel left no core here (core_pattern {}, or a limit)", pattern.trim());
    }
    core
}

const BUILDS: [(&str, &str, &str, &[&str]); 7] = [
    ("1.19", "dwarf", "values", &["all"]),
    ("1.21", "stripped", "goroutines", &["all"]),
    ("1.22", "stripped", "values", &["all"]),
    ("1.24", "dwarf", "goroutines", &["all"]),
    ("1.25", "pie-stripped", "values", &["all"]),
    ("1.26", "cgo", "values", &["all"]),
    ("1.27", "stripped", "values", &["all"]),
];

/// Every kind of core shows the objects, edges, roots, reachable objects and stacks that the live process had.
#[test]
fn a_core_shows_what_the_process_had() {
    for (release, variant, name, args) in BUILDS {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(mut f) = Fixture::start_in(dir.path(), release, variant, name, args) else { continue };
        let what = format!("Go {release} {variant} {name}");
        let pid = f.pid();
        // Its timers must not fire between two looks.
        f.signal(Signal::SIGSTOP);
        let before = live(&f);
        for (file, how) in [("plain", &[][..]), ("packed", &["--compress"]), ("whole", &["--with-files"])] {
            let path = dir.path().join(file);
            dump(&pid, &path, how);
            assert_same_heap(&before, &of_core(&path), &format!("{what}, dump {how:?}"));
        }
        if let Some(path) = gcore(&pid, &dir.path().join("gcore")) {
            assert_same_heap(&before, &of_core(&path), &format!("{what}, gcore"));
        }
        assert_same_heap(&before, &live(&f), &format!("{what}, live once more"));
        f.signal(Signal::SIGCONT);
        assert!(f.runs());
        // Obeying the command allocates a little, and nothing is freed any more: the collector is off.
        f.command("abort raw");
        f.wait();
        let Some(path) = kernel_core(dir.path()) else { continue };
        let (was, is) = (objects(&before), objects(&of_core(&path)));
        let changed = was.iter().filter(|(at, object)| is.get(at) != Some(object)).count();
        println!(
            "{what}: {} objects, {} edges, {} roots, {} stacks equal in 4 cores; of the kernel's {} objects {changed} differ",
            was.len(),
            before.built.graph.target.len(),
            before.built.graph.roots.len(),
            before.built.stacks.len(),
            is.len(),
        );
        assert!(was.keys().all(|at| is.contains_key(at)), "{what}: an object is missing in the kernel's core");
        assert!(is.len() - was.len() < 100 && changed < 40, "{what}: the kernel's core differs too much");
    }
}

/// What a user gets: an answer with or without notes, or an error in words. Never a panic, and soon.
fn answer_or_error(args: &[&str]) -> (Option<serde_json::Value>, String) {
    let begin = Instant::now();
    let out = gosleuth(&[args, &["--json"]].concat());
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{args:?} took {:?}", begin.elapsed());
    match out.status.code() {
        Some(0) => (Some(serde_json::from_slice(&out.stdout).expect("JSON")), err),
        Some(2) => {
            assert!(err.starts_with("gosleuth: ") && err.len() > 30, "{args:?}: {err:?}");
            (None, err)
        }
        code => panic!("{args:?}: {code:?} {err}"),
    }
}

fn kinds(answer: &serde_json::Value) -> Vec<String> {
    let list = answer["diagnostics"].as_array().expect("a list");
    list.iter().filter_map(|d| Some(d["kind"].as_str()?.to_owned())).collect()
}

/// A core cut short at any place: a clear error, or an answer that says that something is missing.
#[test]
fn truncated_cores() {
    for (release, variant) in [("1.21", "dwarf"), ("1.24", "stripped"), ("1.27", "stripped")] {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(f) = Fixture::start(release, variant, "values", &["all"]) else { continue };
        let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
        dump(&f.pid(), &whole, &[]);
        let len = fs::metadata(&whole).expect("a file").len();
        let (mut answers, mut errors) = (0, 0);
        let shares = [10, 30, 50, 70, 80, 90, 99].map(|percent| len * percent / 100);
        for at in [0, 3, 20, 63, 64, 100, 2000, 5000].into_iter().chain(shares).chain([len - 4096, len - 1]) {
            fs::copy(&whole, &cut).expect("copied");
            fs::OpenOptions::new().write(true).open(&cut).and_then(|f| f.set_len(at)).expect("cut");
            for args in [&["top"][..], &["doctor", "--check-liveness"], &["goroutines"], &["leaks"]] {
                let (answer, err) = answer_or_error(&[args, &[cut.to_str().expect("text")]].concat());
                match answer {
                    Some(a) => {
                        answers += 1;
                        assert!(kinds(&a).iter().any(|k| k == "core file cut short"), "{at} {args:?}: {a:#}");
                    }
                    None => {
                        errors += 1;
                        let said = ["core", "cut short", "not contain", "is mapped at"].iter().any(|w| err.contains(w));
                        assert!(said, "cut at {at} of {len}, {args:?}: {err}");
                    }
                }
            }
        }
        println!("Go {release} {variant}: {answers} answers with notes, {errors} errors");
        assert!(answers > 0 && errors > 0);
    }
}

/// Without its binary a core says what to do; with another binary it is refused; one that holds all files stands alone.
#[test]
fn cores_and_binaries() {
    for (release, variant) in [("1.19", "dwarf"), ("1.23", "pie"), ("1.24", "stripped"), ("1.27", "stripped")] {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(path) = common::fixture_path(release, variant, "values") else { continue };
        let Some(other) = common::fixture_path(release, variant, "goroutines") else { continue };
        let own = dir.path().join("bin").join("program");
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        fs::copy(&path, &own).expect("copied");
        let f = Fixture::of(&own, Path::new("."), &["all"], &[]);
        f.signal(Signal::SIGSTOP);
        let (plain, whole) = (dir.path().join("plain"), dir.path().join("whole"));
        dump(&f.pid(), &plain, &[]);
        dump(&f.pid(), &whole, &["--with-files"]);
        let same = live(&f);
        drop(f);
        fs::remove_file(&own).expect("removed");
        let text = |p: &Path| p.to_str().expect("text").to_owned();
        let what = format!("Go {release} {variant}");
        let (answer, err) = answer_or_error(&["top", &text(&plain)]);
        assert!(answer.is_none() && err.contains("--exe") && err.contains("program"), "{what}: {err}");
        let (answer, err) = answer_or_error(&["top", &text(&plain), "--exe", &text(&other)]);
        assert!(answer.is_none() && err.contains("is not the binary of this target"), "{what}: {err}");
        let (answer, err) = answer_or_error(&["top", &text(&plain), "--exe", "/nowhere/at/all"]);
        assert!(answer.is_none() && err.contains("/nowhere/at/all"), "{what}: {err}");
        let (answer, err) = answer_or_error(&["top", &text(&plain), "--exe", &text(&path)]);
        assert!(answer.is_some(), "{what}: {err}");
        // Beside the core it is found by its name.
        let beside = dir.path().join("program");
        fs::copy(&path, &beside).expect("copied");
        assert_same_heap(&same, &of_core(&plain), &format!("{what}, binary beside the core"));
        fs::remove_file(&beside).expect("removed");
        let (answer, err) = answer_or_error(&["top", &text(&whole), "--exe", &text(&path)]);
        assert!(answer.is_some(), "{what}: {err}");
        // Another binary of that name at that place.
        fs::copy(&other, &own).expect("copied");
        let (answer, err) = answer_or_error(&["top", &text(&plain)]);
        assert!(answer.is_none() && err.contains("is not the binary of this target"), "{what}: {err}");
    }
}

/// Files that are no cores at all.
#[test]
fn garbage_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, data: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, data).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let mut seed = 7u64;
    let mut noise = |n: usize| -> Vec<u8> {
        (0..n)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 56) as u8
            })
            .collect()
    };
    let elf = |kind: u16, rest: &[u8]| {
        let mut h = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        h.extend(kind.to_le_bytes());
        h.extend(62u16.to_le_bytes());
        h.extend(rest);
        h
    };
    let mut zstd_of_noise = zstd::encode_all(&noise(1 << 16)[..], 3).expect("packed");
    let packed = write("packed-noise", &zstd_of_noise);
    zstd_of_noise.truncate(1000);
    let files = [
        write("empty", b""),
        write("text", b"this is a text\n"),
        write("noise", &noise(1 << 16)),
        write("core-of-noise", &elf(4, &noise(1 << 16))),
        write("core-of-zeros", &elf(4, &[0; 1 << 12])),
        write("core-of-ones", &elf(4, &[0xff; 1 << 12])),
        write("executable", &elf(2, &noise(1 << 12))),
        packed,
        write("packed-cut", &zstd_of_noise),
        dir.path().to_str().expect("text").to_owned(),
    ];
    for file in &files {
        let (answer, err) = answer_or_error(&["top", file]);
        assert!(answer.is_none(), "{file}");
        println!("{}", err.lines().next().unwrap_or_default());
    }
}
