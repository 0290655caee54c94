//! Cores of arm64 programs: cross-compiled fixtures run under qemu's user emulation, which leaves an ELF core of the program
//! when it is killed. Nothing here runs natively, so live processes of arm64 are not tested.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use common::{Fixture, answer, fixture_path, gosleuth};
use serde_json::Value;

/// The emulator, as Debian's qemu-user-static or qemu-user call it.
fn qemu() -> Option<PathBuf> {
    let names = ["qemu-aarch64-static", "qemu-aarch64"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).flat_map(|d| names.map(|n| d.join(n))).find(|p| p.is_file());
    if found.is_none() {
        println!("skipped: no qemu-aarch64 to run programs of arm64 with");
    }
    found
}

/// A core of a fixture right after a forced collection, and what the fixture said before.
struct Dead {
    _dir: tempfile::TempDir,
    exe: PathBuf,
    core: PathBuf,
    ready: Value,
    /// The runtime's dump of all goroutines.
    dump: String,
}

fn dead(qemu: &Path, release: &str, variant: &str, name: &str, args: &[&str]) -> Option<Dead> {
    let exe = fixture_path(release, variant, name)?;
    let dir = tempfile::tempdir().expect("a directory");
    let all = [&[exe.to_str().expect("text")], args].concat();
    let mut f = Fixture::of(qemu, dir.path(), &all, &[]);
    assert_eq!(f.ready["ready"], true, "{}", f.ready);
    assert!(f.ready["go"].as_str().is_some_and(|v| v.starts_with(&format!("go{release}"))), "{}", f.ready["go"]);
    let stacks = dir.path().join("stacks");
    assert_eq!(f.command(&format!("stacks {}", stacks.display()))["ok"], true);
    let dump = fs::read_to_string(&stacks).expect("a dump");
    let ready = f.command("gc");
    f.command("abort raw");
    f.wait();
    let is_core = |p: &PathBuf| p.extension().is_some_and(|e| e == "core");
    let Some(core) = fs::read_dir(dir.path()).ok()?.filter_map(|e| Some(e.ok()?.path())).find(is_core) else {
        println!("skipped: the emulator left no core (a limit?)");
        return None;
    };
    Some(Dead { _dir: dir, exe, core, ready, dump })
}

impl Dead {
    fn ask(&self, args: &[&str]) -> Value {
        let target = [self.core.to_str().expect("text"), "--exe", self.exe.to_str().expect("text")];
        answer(&[&args[..1], &target, &args[1..]].concat()).expect("no ptrace is needed")
    }
}

const BUILDS: [(&str, &str); 4] =
    [("1.19", "arm64"), ("1.19", "arm64-stripped"), ("1.27", "arm64"), ("1.27", "arm64-stripped")];

#[test]
fn the_live_set_is_the_collectors() {
    let Some(qemu) = qemu() else { return };
    for (release, variant) in BUILDS {
        let Some(d) = dead(&qemu, release, variant, "values", &["all"]) else { continue };
        let a = d.ask(&["doctor", "--check-liveness"]);
        assert_eq!(a["target"]["arch"], "arm64");
        let l = &a["result"]["liveness"];
        let (ppm, both) = (l["agreement_ppm"].as_f64().expect("a number"), l["both"].as_u64().expect("a number"));
        println!("Go {release} {variant} values: {ppm} ppm of {both} objects");
        assert_eq!(l["only_reachable"], 0, "Go {release} {variant}: a free slot was reached: {l}");
        // The emulator's threads stand anywhere when the signal comes: a few objects that were just left.
        assert!(ppm >= 999_000.0 && both > 10_000, "Go {release} {variant}: {l}");
    }
}

#[test]
fn planted_objects_are_named() {
    let Some(qemu) = qemu() else { return };
    for (release, variant) in BUILDS {
        let Some(d) = dead(&qemu, release, variant, "leaks", &["global-map"]) else { continue };
        let planted = &d.ready["truth"]["leaks"][0];
        let a = d.ask(&["leaks"]);
        let suspect = &a["result"]["suspects"][0];
        let said = suspect["retained_bytes"].as_f64().unwrap_or(0.0);
        let bytes = planted["retained_bytes"].as_f64().expect("a number");
        println!(
            "Go {release} {variant} global-map: {} with {said} of {bytes} bytes, {}",
            suspect["pattern"], suspect["type"]
        );
        assert!((said / bytes - 1.0).abs() < 0.01, "Go {release} {variant}: {suspect}");
        // What globals are is read from code, which is done for amd64 only: without DWARF the map may stay untyped.
        if variant == "arm64" {
            assert_eq!(suspect["pattern"], "global-map", "Go {release}: {suspect}");
            assert_eq!(suspect["type"], planted["type"], "Go {release}: {suspect}");
        }
    }
}

fn numbers(list: &Value) -> BTreeSet<u64> {
    list.as_array().expect("a list").iter().map(|v| v.as_u64().expect("a number")).collect()
}

/// Proofs need no code to be followed; holders of locks do, which is done for amd64 only and has to be said.
#[test]
fn proven_leaks_are_the_planted_ones() {
    let Some(qemu) = qemu() else { return };
    for (release, variant) in BUILDS {
        for scenario in ["all", "all-healthy"] {
            let Some(d) = dead(&qemu, release, variant, "gleaks", &[scenario]) else { continue };
            let truth = &d.ready["truth"];
            let proven = numbers(&d.ask(&["locks"])["result"]["proven_leaks"]);
            println!("Go {release} {variant} {scenario}: {} proven", proven.len());
            assert_eq!(proven, numbers(&truth["provable"]), "Go {release} {variant} {scenario}");
            assert!(proven.is_disjoint(&numbers(&truth["healthy"])), "Go {release} {variant} {scenario}");
        }
        let Some(d) = dead(&qemu, release, variant, "locks", &["mutex-cycle-2"]) else { continue };
        let edges = d.ask(&["locks"])["result"]["edges"].as_array().expect("edges").clone();
        assert!(edges.iter().any(|e| e["primitive"]["kind"] == "mutex"), "Go {release} {variant}: {edges:?}");
        for e in edges {
            assert!(e["holder"].is_null(), "Go {release} {variant}: {e}");
            assert!(e["evidence"].as_str().is_some_and(|t| t.contains("amd64")), "Go {release} {variant}: {e}");
        }
    }
}

type Stacks = BTreeMap<Vec<String>, u64>;

/// How many goroutines have each stack of functions, without the runtime's own, in a dump as the runtime prints it; and how
/// many it cuts short.
fn dumped(dump: &str) -> (Stacks, u64) {
    let (mut out, mut cut) = (Stacks::new(), 0);
    for block in dump.split("\n\n") {
        if block.contains("frames elided") || block.lines().count() > 190 {
            cut += 1;
            continue;
        }
        let functions = block.lines().skip(1).take_while(|l| !l.starts_with("created by"));
        let names = functions.filter(|l| !l.starts_with('\t')).filter_map(|l| Some(l.rsplit_once('(')?.0.to_owned()));
        let names: Vec<String> = names.filter(|n| !n.starts_with("runtime.")).collect();
        // The runtime's own goroutines have no other functions; the one that serves commands runs.
        if !names.is_empty() && !names.iter().any(|n| n == "main.main") {
            *out.entry(names).or_insert(0) += 1;
        }
    }
    (out, cut)
}

#[test]
fn stacks_are_those_of_the_runtimes_dump() {
    let Some(qemu) = qemu() else { return };
    for (release, variant) in BUILDS {
        let Some(d) = dead(&qemu, release, variant, "goroutines", &["all"]) else { continue };
        let (theirs, cut) = dumped(&d.dump);
        let (core, exe) = (d.core.to_str().expect("text"), d.exe.to_str().expect("text"));
        let out = gosleuth(&["goroutines", core, "--exe", exe, "--format", "debug2"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let (ours, _) = dumped(&String::from_utf8_lossy(&out.stdout));
        println!("Go {release} {variant} goroutines: {} stacks, {cut} left out", theirs.len());
        assert!(theirs.len() > 10, "Go {release} {variant}: {theirs:?}");
        for (stack, n) in &theirs {
            assert_eq!(ours.get(stack), Some(n), "Go {release} {variant}: {stack:?}");
        }
    }
}
