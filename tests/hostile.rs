//! Memory that no sane program has: cores of a quiet fixture in which queues, records and stacks were overwritten. Every question is
//! answered in time, says what is wrong, and still tells what the damage did not touch.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    Fixture, gosleuth,
    view::{View, view},
};
use gosleuth::{
    base::Addr,
    runtime::{
        OpenOptions,
        layout::{Field, Global},
        sched::{
            Goroutine,
            waits::{self, Wait},
        },
    },
    target::Target,
};
use serde_json::Value;

/// Far more than any answer about these small cores takes on a busy machine; a walk without an end takes longer.
const IN_TIME: Duration = Duration::from_secs(20);

/// A core, what it held before anything was broken, and the truth of the program.
struct Scene {
    dir: tempfile::TempDir,
    core: PathBuf,
    view: View,
    waits: Vec<Wait>,
    truth: Value,
    what: String,
}

type Patch = (Addr, Vec<u8>);

fn word(at: Addr, value: u64) -> Patch {
    (at, value.to_le_bytes().to_vec())
}

impl Scene {
    fn new(release: &str, fixture: &str, args: &[&str]) -> Option<Scene> {
        let f = Fixture::start(release, "stripped", fixture, args)?;
        let dir = tempfile::tempdir().expect("a directory");
        let core = dir.path().join("core.whole");
        let out = gosleuth(&["dump", &f.pid(), "-o", core.to_str().expect("text")]);
        let err = String::from_utf8_lossy(&out.stderr);
        if err.contains("not allowed to") {
            println!("skipped: {err}");
            return None;
        }
        assert!(out.status.success(), "{err}");
        let target = Arc::new(Target::open_core(&core, None).expect("a core"));
        let view = view(&target, &OpenOptions::default());
        let waits = waits::read(&view.rt, &view.built.goroutines, &view.built.stacks);
        let truth = f.ready["truth"].clone();
        Some(Scene { dir, core, view, waits, truth, what: format!("Go {release} {fixture}") })
    }

    fn planted(&self, name: &str) -> (&Goroutine, &Wait) {
        let list = self.truth["goroutines"].as_array().expect("goroutines");
        let goid = list.iter().find(|g| g["name"] == name).and_then(|g| g["goid"].as_u64()).expect("planted");
        let i = self.view.built.goroutines.iter().position(|g| g.goid.0 == goid).expect("there");
        (&self.view.built.goroutines[i], &self.waits[i])
    }

    /// Address of a member of the struct at `at`; of pairs the second word.
    fn member(&self, at: Addr, field: Field) -> Addr {
        let loc = self.view.rt.layout.field(field).expect("a member of this release");
        at.offset(u64::from(loc.offset) + if loc.width == 16 { 8 } else { 0 })
    }

    fn pointer(&self, at: Addr) -> Addr {
        self.view.rt.target.read_ptr(at).expect("memory of the core")
    }

    /// A copy of the core with these bytes instead.
    fn broken(&self, name: &str, patches: &[Patch]) -> PathBuf {
        let to = self.dir.path().join(format!("core.{name}"));
        fs::copy(&self.core, &to).expect("a copy");
        let raw = fs::read(&self.core).expect("a core");
        let elf = goblin::elf::Elf::parse(&raw).expect("an ELF file");
        let file = fs::OpenOptions::new().write(true).open(&to).expect("writable");
        for (at, bytes) in patches {
            let p = elf
                .program_headers
                .iter()
                .find(|p| p.p_vaddr <= at.0 && at.0 + bytes.len() as u64 <= p.p_vaddr + p.p_filesz)
                .unwrap_or_else(|| panic!("{name}: {at} is not in the core"));
            file.write_all_at(bytes, p.p_offset + at.0 - p.p_vaddr).expect("written");
        }
        to
    }
}

/// One question: the answer, in time, or an error in words.
fn ask(command: &str, core: &Path, what: &str) -> Result<Value, String> {
    let begin = Instant::now();
    let extra: &[&str] = if command == "locks" || command == "goroutines" { &["--limit", "0"] } else { &[] };
    let out = gosleuth(&[&[command, core.to_str().expect("text"), "--json"], extra].concat());
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(begin.elapsed() < IN_TIME, "{what}: {command} took {:?}", begin.elapsed());
    assert!(!err.contains("panicked"), "{what}: {command}: {err}");
    match out.status.code() {
        Some(0) => Ok(serde_json::from_slice(&out.stdout).expect("JSON")),
        Some(2) if !err.trim().is_empty() => Err(err),
        other => panic!("{what}: {command}: {other:?}: {err}"),
    }
}

/// Asks everything; `said` must stand in the diagnostics of `command`, whose answer is returned.
fn answers(s: &Scene, name: &str, patches: &[Patch], command: &str, said: &str) -> Value {
    let core = s.broken(name, patches);
    let what = format!("{} {name}", s.what);
    for other in ["goroutines", "locks", "leaks", "overview"] {
        if let Err(e) = ask(other, &core, &what) {
            println!("{what}: {other}: {}", e.lines().next().unwrap_or_default());
        }
    }
    let a = ask(command, &core, &what).unwrap_or_else(|e| panic!("{what}: {command}: {e}"));
    let diagnostics = a["diagnostics"].as_array().expect("a list");
    let found = said.is_empty() || diagnostics.iter().any(|d| d["kind"].as_str().is_some_and(|k| k.contains(said)));
    assert!(found, "{what}: {command} does not say {said:?}: {diagnostics:?}");
    fs::remove_file(core).expect("removed");
    a
}

fn goids(a: &Value) -> BTreeSet<u64> {
    let groups = a["result"]["groups"].as_array().expect("groups");
    groups.iter().flat_map(|g| g["goids"].as_array().expect("numbers")).filter_map(Value::as_u64).collect()
}

fn edge(a: &Value, waiter: u64) -> Option<&Value> {
    a["result"]["edges"].as_array().expect("edges").iter().find(|e| e["waiter"] == waiter)
}

const RELEASES: [&str; 3] = ["1.19", "1.24", "1.27"];

/// Lists of sudogs that run in circles or end in nothing: of a goroutine's own, of channels, semaphores and Conds.
#[test]
fn queues_that_run_in_circles() {
    for release in RELEASES {
        let Some(s) = Scene::new(release, "goroutines", &["all"]) else { continue };
        let select = s.planted("select3");
        let (first, last) = (select.1.sudogs[0], *select.1.sudogs.last().expect("three"));
        let patch = word(s.member(last, Field::SudogWaitlink), first.0);
        answers(&s, "own-list", &[patch], "locks", "list of waits runs in a circle");
        let patch = word(s.member(first, Field::SudogG), 0x1234_5678);
        answers(&s, "foreign-sudog", &[patch], "locks", "list of waits broken");
        let patch = word(s.member(select.0.addr, Field::GWaiting), 0xdead_beef_0000);
        answers(&s, "own-list-nowhere", &[patch], "locks", "list of waits broken");

        let sender = s.planted("chanSend").1;
        let patch = word(s.member(sender.sudogs[0], Field::SudogNext), sender.sudogs[0].0);
        answers(&s, "channel", &[patch], "locks", "channel queue runs in a circle");

        // Two wait for one mutex: the first of them is the node, the other hangs behind it.
        let pair = [s.planted("mutex").1.sudogs[0], s.planted("mutex2").1.sudogs[0]];
        let behind = s.pointer(s.member(pair[0], Field::SudogWaitlink));
        let node = if behind == pair[1] { pair[0] } else { pair[1] };
        for (name, field) in [("treap-left", Field::SudogPrev), ("treap-right", Field::SudogNext)] {
            let a = answers(&s, name, &[word(s.member(node, field), node.0)], "locks", "semaphore queue");
            // Others who wait for locks are found still.
            let group = s.planted("waitGroup").0.goid.0;
            assert!(edge(&a, group).is_some(), "{} {name}: {}", s.what, a["result"]["edges"]);
        }
        let patch = word(s.member(node, Field::SudogWaitlink), node.0);
        answers(&s, "waitlink", &[patch], "locks", "semaphore queue runs in a circle");
        let patch = word(s.member(node, Field::SudogPrev), 0x10);
        answers(&s, "treap-broken", &[patch], "locks", "semaphore queue broken");
        let table = s.view.rt.globals.get(Global::Semtable).expect("found");
        // From Go 1.26 on a goroutine's own list says as much.
        let garbage: Vec<u8> = (0..251 * 64u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        answers(&s, "table", &[(table, garbage)], "locks", if release == "1.27" { "" } else { "semaphore" });

        let cond = s.planted("cond").1;
        let list = cond.sudogs[0];
        let patches = [word(s.member(list, Field::SudogNext), list.0), word(s.member(list, Field::SudogG), 8)];
        answers(&s, "cond", &patches, "locks", "list of a Cond runs in a circle");
    }
}

/// Records of goroutines with garbage in them, and lists that name one twice or lead nowhere.
#[test]
fn records_of_garbage() {
    for release in RELEASES {
        let Some(s) = Scene::new(release, "goroutines", &["all"]) else { continue };
        let all: BTreeSet<u64> = s.view.built.goroutines.iter().map(|g| g.goid.0).collect();
        let victim = s.planted("chanRecv").0;
        let (g, goid) = (victim.addr, victim.goid.0);
        // In the middle of a stack copy the record already names the new stack (runtime/stack.go copystack).
        let status = |n: u32| (s.member(g, Field::GAtomicstatus), n.to_le_bytes().to_vec());
        for (n, name) in [(8, "copystack"), (0x1008, "copystack"), (77, "other")] {
            let a = answers(&s, &format!("status-{n}"), &[status(n)], "goroutines", "");
            let groups = a["result"]["groups"].as_array().expect("groups");
            let own = groups.iter().find(|o| o["goids"][0] == goid).unwrap_or_else(|| panic!("{}: {n}", s.what));
            assert_eq!(own["status"], name, "{}", s.what);
            assert_eq!(goids(&a), all, "{}", s.what);
        }
        // Dead or being born: not there.
        for n in [0, 6] {
            let a = answers(&s, &format!("status-{n}"), &[status(n)], "goroutines", "");
            assert!(!goids(&a).contains(&goid) && goids(&a).len() == all.len() - 1, "{}: {n}", s.what);
        }
        let hi = word(s.member(g, Field::GStackHi), u64::MAX - 7);
        let lo = word(s.member(g, Field::GStackLo), 0);
        let a = answers(&s, "stack-of-everything", &[lo.clone(), hi], "locks", "goroutine stack cut short");
        assert_eq!(a["result"]["proven_leaks"].as_array().map(Vec::len), Some(0), "{}: with roots missing", s.what);
        // Whether that lies on another's stack depends on where stacks are.
        let a = answers(&s, "stack-from-zero", &[lo], "goroutines", "");
        assert_eq!(goids(&a), all, "{}", s.what);
        for (name, field) in [("sp", Field::GSchedSp), ("pc", Field::GSchedPc)] {
            for value in [0, 1, 0xffff_ffff_ffff_fff8, victim.stack.0.0 + 3] {
                let patch = word(s.member(g, field), value);
                let a = answers(&s, &format!("{name}-{value:x}"), &[patch], "goroutines", "goroutine stack cut short");
                assert_eq!(goids(&a), all, "{} {name} {value:x}", s.what);
            }
        }
        let other = s.planted("mutex").0;
        let twice = [
            word(s.member(g, Field::GStackLo), other.stack.0.0),
            word(s.member(g, Field::GStackHi), other.stack.1.0 + 8),
        ];
        answers(&s, "stack-of-another", &twice, "goroutines", "goroutine stack cut short");
        let patch = word(s.member(g, Field::GLabels), 0x5555_0000_0003);
        answers(&s, "labels", &[patch], "goroutines", "pprof labels unreadable");
        let patch = (s.member(g, Field::GWaitreason), vec![250]);
        assert_eq!(goids(&answers(&s, "reason", &[patch], "goroutines", "")), all, "{}", s.what);

        let allgs = s.view.rt.globals.get(Global::Allgs).expect("found");
        // Not the first ones: by them the list itself is recognised.
        let begin = s.pointer(allgs);
        let list = (4..100).map(|i| begin.offset(8 * i)).find(|&at| s.pointer(at) == other.addr).expect("listed");
        let a = answers(&s, "listed-twice", &[word(list, g.0)], "goroutines", "goroutines listed twice");
        assert_eq!(goids(&a).len(), all.len() - 1, "{}", s.what);
        let a = answers(&s, "nowhere", &[word(list, 0x7000_0000_0001)], "locks", "goroutine unreadable");
        assert_eq!(
            a["result"]["proven_leaks"].as_array().map(Vec::len),
            Some(0),
            "{}: with a goroutine missing",
            s.what
        );
        for (len, cap) in [(u64::MAX, u64::MAX), (1 << 40, 1 << 40), (10, 2)] {
            let patches = [word(allgs.offset(8), len), word(allgs.offset(16), cap)];
            let core = s.broken("allgs", &patches);
            let e = ask("goroutines", &core, &s.what).expect_err("an error in words");
            assert!(e.contains("allgs"), "{}: {e}", s.what);
        }
    }
}

/// Stacks full of garbage: random words, a return address again and again, pointers into themselves.
#[test]
fn stacks_of_garbage() {
    for release in RELEASES {
        let Some(s) = Scene::new(release, "goroutines", &["all"]) else { continue };
        let all: BTreeSet<u64> = s.view.built.goroutines.iter().map(|g| g.goid.0).collect();
        let deep = s.planted("deep").0;
        let (sp, hi) = (deep.sched_sp, deep.stack.1);
        let words = (hi.0 - sp.0) / 8;
        let i = s.view.built.goroutines.iter().position(|g| g.goid == deep.goid).expect("there");
        let recursing = s.view.built.stacks[i].frames[10].pc;
        let fill = |f: &dyn Fn(u64) -> u64| -> Patch { (sp, (0..words).flat_map(|j| f(j).to_le_bytes()).collect()) };
        let random = |j: u64| (j + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ j.rotate_left(29);
        for (name, patch) in [
            ("random", fill(&random)),
            ("one-address", fill(&|_| recursing.0)),
            ("itself", fill(&|j| sp.0 + 8 * (j / 2))),
            ("nothing", fill(&|_| 0)),
            ("ones", fill(&|_| u64::MAX)),
        ] {
            let a = answers(&s, name, &[patch], "goroutines", "");
            assert_eq!(goids(&a), all, "{} {name}", s.what);
        }
        // All goroutines at once.
        let patches: Vec<Patch> = s
            .view
            .built
            .goroutines
            .iter()
            .map(|g| word(s.member(g.addr, Field::GSchedSp), random(g.goid.0) & !7))
            .collect();
        let a = answers(&s, "every-sp", &patches, "goroutines", "goroutine stack cut short");
        assert_eq!(goids(&a), all, "{}", s.what);
    }
}

/// Deferred calls that run in a circle.
#[test]
fn deferred_calls_in_a_circle() {
    for release in RELEASES {
        let Some(s) = Scene::new(release, "leaks", &["defer-in-loop"]) else { continue };
        let deferring =
            s.view.built.goroutines.iter().find(|g| !g.defer_head.is_null()).expect("some goroutine defers");
        let patch = word(s.member(deferring.defer_head, Field::DeferLink), deferring.defer_head.0);
        answers(&s, "defers", &[patch], "goroutines", "list of deferred calls runs in a circle");
    }
}

/// Channels whose timer is no timer, and (up to Go 1.22) heaps of timers without an end, nowhere, and with garbage in them. When
/// it would fire is not told then, that it waits is.
#[test]
fn timers_of_garbage() {
    const NOWHERE: u64 = 0xdead_beef_0000;
    for release in RELEASES {
        let Some(s) = Scene::new(release, "goroutines", &["all"]) else { continue };
        let (g, wait) = s.planted("timer");
        // Whether it is told when the timer fires; `None` where not even the goroutine is.
        let fires = |core: &Path| {
            let core = core.to_str().expect("text");
            let out = gosleuth(&["goroutines", core, "--waits", "--limit", "0", "--json"]);
            let a: Value = serde_json::from_slice(&out.stdout).expect("JSON");
            let each = a["result"]["each"].as_array().expect("goroutines").clone();
            each.iter().find(|e| e["goid"] == g.goid.0).map(|e| !e["timer"].is_null())
        };
        let broken = |name: &str, patches: &[Patch], said: &str| {
            answers(&s, name, patches, "locks", said);
            fires(&s.broken(name, patches))
        };
        assert_eq!(fires(&s.core), Some(true), "{}", s.what);
        let rt = &s.view.rt;
        if rt.layout.has(Field::HchanTimer) {
            let timer = s.member(wait.cases[0].chan, Field::HchanTimer);
            for (name, to) in [("timer-nowhere", NOWHERE), ("timer-at-the-top", u64::MAX - 7)] {
                assert_eq!(broken(name, &[word(timer, to)], ""), Some(false), "{} {name}", s.what);
            }
            // Whatever is read there.
            assert!(broken("timer-itself", &[word(timer, wait.cases[0].chan.0)], "").is_some(), "{}", s.what);
            continue;
        }
        let allp = rt.globals.get(Global::Allp).expect("found");
        let ps: Vec<Addr> = (0..rt.target.read_u64(allp.offset(8)).expect("a length"))
            .map(|i| s.pointer(s.pointer(allp).offset(8 * i)))
            .collect();
        let lists: Vec<Addr> = ps.iter().map(|&p| s.member(p, Field::PTimers)).collect();
        let all = |offset: u64, value| -> Vec<Patch> { lists.iter().map(|l| word(l.offset(offset), value)).collect() };
        let entries = lists.iter().filter(|&&l| rt.target.read_u64(l.offset(8)).is_ok_and(|n| n > 0));
        let garbage: Vec<Patch> = entries.map(|&l| word(s.pointer(l), NOWHERE)).collect();
        for (name, patches, said) in [
            ("timers-without-end", all(8, u64::MAX), "timers unreadable"),
            ("timers-nowhere", all(0, NOWHERE), "timers unreadable"),
            ("timers-of-garbage", garbage, "timer unreadable"),
        ] {
            let fires = broken(name, &patches, said);
            assert!(fires.is_some(), "{} {name}", s.what);
            if said == "timers unreadable" {
                assert_eq!(fires, Some(false), "{} {name}", s.what);
            }
        }
    }
}

/// Nothing is proven from a heap of which a root is missing: a stack that holds the only way to a channel is broken.
#[test]
fn what_a_broken_stack_hides_is_not_proven() {
    for release in RELEASES {
        let Some(s) = Scene::new(release, "gleaks", &["all-healthy"]) else { continue };
        let core = s.core.clone();
        let whole = ask("locks", &core, &s.what).expect("an answer");
        assert_eq!(whole["result"]["proven_leaks"].as_array().map(Vec::len), Some(0), "{}", s.what);
        for g in &s.view.built.goroutines {
            for (name, field) in [("pc", Field::GSchedPc), ("sp", Field::GSchedSp)] {
                let core = s.broken(name, &[word(s.member(g.addr, field), 8)]);
                let a = ask("locks", &core, &s.what).expect("an answer");
                let proven = &a["result"]["proven_leaks"];
                assert_eq!(
                    proven.as_array().map(Vec::len),
                    Some(0),
                    "{} goroutine {} {name}: {proven}",
                    s.what,
                    g.goid
                );
            }
        }
    }
}

/// Goroutines that have not run yet stand at the entry of their function, where it has no variables: nothing is lost by them, and leaks are
/// proven all the same.
#[test]
fn goroutines_being_born() {
    for release in RELEASES {
        let alone = [("GOMAXPROCS", "1"), ("GODEBUG", "asyncpreemptoff=1")];
        let Some(mut f) = Fixture::start_with(release, "stripped", "locks2", &["errgroup"], &alone) else { continue };
        assert_eq!(f.command("born")["ok"], true);
        // The processor is taken from the reader of commands, sooner or later, and never given back.
        let born = || {
            let out = gosleuth(&["goroutines", &f.pid(), "--json", "--limit", "0", "--function", "main.newborn"]);
            serde_json::from_slice(&out.stdout).ok().map(|a: Value| goids(&a).len())
        };
        let begin = Instant::now();
        let seen = loop {
            match born() {
                Some(n) if n != 8 && begin.elapsed() < IN_TIME => std::thread::sleep(Duration::from_millis(100)),
                n => break n,
            }
        };
        if seen.is_none() {
            println!("skipped: tracing is forbidden here");
            return;
        }
        assert_eq!(seen, Some(8), "Go {release}");
        let out = gosleuth(&["locks", &f.pid(), "--json"]);
        let a: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let numbers =
            |v: &Value| -> BTreeSet<u64> { v.as_array().into_iter().flatten().filter_map(Value::as_u64).collect() };
        let stuck = numbers(&f.ready["truth"]["stuck"]);
        assert_eq!(numbers(&a["result"]["proven_leaks"]), stuck, "Go {release}: {}", a["diagnostics"]);
    }
}

/// A map in which a lock is looked up on the way to its Unlock, broken: the lock's holder is not told, and nothing worse.
#[test]
fn maps_that_locks_lie_in() {
    for release in RELEASES {
        let Some(s) = Scene::new(release, "locks2", &["keyed-mutex"]) else { continue };
        let map = s.truth["map"].as_str().and_then(|t| u64::from_str_radix(t.strip_prefix("0x")?, 16).ok());
        let map = Addr(map.expect("an address"));
        let swiss = release != "1.19";
        let first = s.pointer(s.member(map, if swiss { Field::SwissMapDirPtr } else { Field::HmapBuckets }));
        let told = |a: &Value| {
            let edges = a["result"]["edges"].as_array().expect("edges");
            edges.iter().filter(|e| !e["holder"].is_null()).count()
        };
        assert_eq!(told(&ask("locks", &s.core, &s.what).expect("an answer")), 2, "{}", s.what);
        let patches: Vec<(&str, Vec<Patch>)> = if swiss {
            vec![
                ("dir-len", vec![word(s.member(map, Field::SwissMapDirLen), u64::MAX)]),
                ("dir-of-groups", vec![word(s.member(map, Field::SwissMapDirLen), 1 << 30)]),
                ("dir-ptr", vec![word(s.member(map, Field::SwissMapDirPtr), 8)]),
                ("control", vec![(first, vec![0; 8])]),
            ]
        } else {
            // The last word of a bucket of string keys and pointers leads to the next one.
            let overflow = first.offset(8 + 8 * 16 + 8 * 8);
            vec![
                ("b", vec![(s.member(map, Field::HmapB), vec![255])]),
                ("buckets", vec![word(s.member(map, Field::HmapBuckets), 8)]),
                ("circle", vec![word(overflow, first.0), (first, vec![0; 8])]),
                ("old", vec![word(s.member(map, Field::HmapOldbuckets), first.0)]),
            ]
        };
        for (name, patches) in patches {
            let a = answers(&s, name, &patches, "locks", "");
            assert!(told(&a) <= 2, "{} {name}", s.what);
        }
    }
}
