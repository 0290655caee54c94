//! The ways of holding a process: what they see, what they cost, and that they do no harm, SIGKILL of the tool included.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Fixture, RELEASES, answer};

/// Processes whose parent is `pid`: (process, state).
fn children(pid: &str) -> Vec<(String, String)> {
    let field = |status: &str, name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned()).unwrap_or_default()
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|name| {
            let status = fs::read_to_string(format!("/proc/{name}/status")).ok()?;
            (field(&status, "PPid:") == pid).then(|| (name, field(&status, "State:")))
        })
        .collect()
}

/// What the kernel says of every thread: tracer, state, masks of signals blocked, ignored and caught.
fn threads(pid: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    const FIELDS: [&str; 6] = ["TracerPid", "State", "SigBlk", "SigIgn", "SigCgt", "SigPnd"];
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    tasks
        .filter_map(|e| {
            let tid = e.ok()?.file_name().into_string().ok()?;
            let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
            let fields = status
                .lines()
                .filter_map(|l| l.split_once(':'))
                .filter(|(k, _)| FIELDS.contains(k))
                .map(|(k, v)| (k.to_owned(), v.trim().to_owned()));
            Some((tid, fields.collect()))
        })
        .collect()
}

/// Nobody holds the program, nothing of ours is left of it, and it goes on and finds its own data right.
fn unharmed(f: &mut Fixture, what: &str) {
    let pid = f.pid();
    // The holder may still be at work for the one that was killed last.
    let patience = Instant::now();
    loop {
        let left = children(&pid);
        let traced = threads(&pid).values().any(|t| t["TracerPid"] != "0");
        if left.is_empty() && !traced {
            break;
        }
        assert!(patience.elapsed() < Duration::from_secs(10), "{what}: left behind: {left:?}, traced: {traced}");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Threads of Go block all signals while they are born or end, for a moment only.
    let odd = |t: &BTreeMap<String, String>| t["State"].starts_with(['T', 't']) || t["SigBlk"] == "fffffffffffbfeff";
    let mut suspects: Vec<String> = threads(&pid).into_iter().filter(|(_, t)| odd(t)).map(|(tid, _)| tid).collect();
    for _ in 0..200 {
        if suspects.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        let now = threads(&pid);
        suspects.retain(|tid| now.get(tid).is_some_and(odd));
    }
    assert!(suspects.is_empty(), "{what}: stopped or deaf for two seconds: {suspects:?} of {:?}", threads(&pid));
    let before = f.command("progress");
    std::thread::sleep(Duration::from_secs(1));
    let after = f.command("progress");
    assert_ne!(after["ok"], false, "{what}: {after}");
    assert!(after["num_gc"].as_u64() > before["num_gc"].as_u64(), "{what}: no collection between {before} and {after}");
    for key in ["workers", "loops"] {
        if let (Some(b), Some(a)) = (before[key].as_array(), after[key].as_array()) {
            for (i, (b, a)) in b.iter().zip(a).enumerate() {
                assert!(a.as_u64() > b.as_u64(), "{what}: {key} {i} stands still: {before} then {after}");
            }
        }
    }
    assert!(f.runs(), "{what}");
}

#[test]
fn liveness_agrees_through_a_copy() {
    for release in RELEASES {
        for (variant, name, args) in
            [("dwarf", "values", &[][..]), ("cgo", "values", &[]), ("pie", "goroutines", &["all"])]
        {
            let Some(mut f) = Fixture::start(release, variant, name, args) else { continue };
            let before = threads(&f.pid());
            let Some(a) = answer(&["doctor", &f.pid(), "--check-liveness", "--hold", "fork"]) else { continue };
            assert_eq!(a["hold"]["mode"], "fork");
            let l = &a["result"]["liveness"];
            let n = |k: &str| l[k].as_u64().expect("a count");
            println!(
                "Go {release} {variant} {name}: {} ppm of {}, stopped {} ms",
                n("agreement_ppm"),
                n("marked_objects"),
                a["hold"]["stopped_ms"]
            );
            assert_eq!(n("only_reachable"), 0, "Go {release} {variant} {name}: {a:#}");
            assert!(n("only_marked") <= 6 || n("agreement_ppm") >= 999_900, "Go {release} {variant} {name}: {a:#}");
            assert_eq!(children(&f.pid()), [], "Go {release} {variant} {name}");
            for (tid, was) in before {
                if let Some(is) = threads(&f.pid()).get(&tid) {
                    for field in ["TracerPid", "SigBlk", "SigIgn", "SigCgt"] {
                        assert_eq!(is[field], was[field], "Go {release} {variant} {name}: thread {tid}, {field}");
                    }
                }
            }
            assert!(f.runs());
            // Every command still works: no thread lost its state.
            assert_eq!(f.command("gc")["ready"], true, "Go {release} {variant} {name}");
        }
    }
}

/// Many copies of programs that allocate, collect, start threads, and of one that only signals can preempt.
#[test]
fn copying_often_does_no_harm() {
    for (release, name, args) in
        [("1.19", "busy", &["churn"][..]), ("1.26", "busy", &["churn"]), ("1.21", "spin", &[]), ("1.27", "spin", &[])]
    {
        let Some(mut f) = Fixture::start(release, "dwarf", name, args) else { continue };
        let pid = f.pid();
        let mut longest = 0.0f64;
        for _ in 0..50 {
            let Some(a) = answer(&["goroutines", &pid, "--hold", "fork"]) else { return };
            longest = longest.max(a["hold"]["stopped_ms"].as_f64().expect("a time"));
        }
        println!("Go {release} {name}: longest stop of 50: {longest:.1} ms");
        unharmed(&mut f, &format!("Go {release} {name}"));
    }
}

/// Threads in system calls, in C, running, spinning on the clock of the vdso; stripped and position-independent programs;
/// the copy made by a thread in a system call, and by one that is not.
#[test]
fn any_thread_can_make_the_copy() {
    let places = [
        ("1.26", "stripped", "values", &[][..]),
        ("1.23", "pie-stripped", "values", &[]),
        ("1.26", "pie-stripped", "goroutines", &["threads", "64"]),
        ("1.24", "cgo", "goroutines", &["all"]),
        ("1.27", "dwarf", "goroutines", &["running"]),
        ("1.19", "stripped", "spin", &[]),
        ("1.26", "stripped", "busy", &["gap", "1000"]),
        ("1.22", "stripped", "busy", &["churn"]),
    ];
    for (release, variant, name, args) in places {
        let Some(mut f) = Fixture::start(release, variant, name, args) else { continue };
        let what = format!("Go {release} {variant} {name} {args:?}");
        let pid = f.pid();
        for by_running in [false, true] {
            for _ in 0..4 {
                let mut tool = Command::new(env!("CARGO_BIN_EXE_gosleuth"));
                tool.args(["doctor", &pid, "--check-liveness", "--hold", "fork", "--json"]);
                if by_running {
                    tool.env("GOSLEUTH_FORK_BY_RUNNING_THREAD", "1");
                }
                let out = tool.output().expect("gosleuth runs");
                let err = String::from_utf8_lossy(&out.stderr);
                if err.contains("not allowed to") {
                    println!("skipped: {}", err.lines().next().unwrap_or_default());
                    return;
                }
                assert!(out.status.success(), "{what}: {err}");
                let a: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
                assert_eq!(a["result"]["liveness"]["only_reachable"], 0, "{what}, running {by_running}: {a:#}");
            }
        }
        if matches!((name, args), ("spin", _) | ("busy", ["churn"])) {
            unharmed(&mut f, &what);
        } else {
            assert_eq!(children(&pid), [], "{what}");
            assert!(f.runs(), "{what}");
            assert!(name == "busy" || f.command("gc")["ready"] == true, "{what}");
        }
    }
}

/// SIGKILL at any moment of any mode.
#[test]
fn the_tool_may_be_killed_at_any_moment() {
    let mut seed = 1u64;
    for (release, name, args) in [("1.26", "busy", &["churn"][..]), ("1.21", "spin", &[])] {
        for mode in ["none", "freeze", "fork"] {
            let Some(mut f) = Fixture::start(release, "dwarf", name, args) else { continue };
            let pid = f.pid();
            // As long as a whole look takes, and a little more.
            let begin = Instant::now();
            if answer(&["goroutines", &pid, "--hold", mode]).is_none() {
                return;
            }
            let whole = begin.elapsed().as_micros() as u64 * 5 / 4;
            let (mut killed, mut finished) = (0, 0);
            for _ in 0..60 {
                let mut tool = Command::new(env!("CARGO_BIN_EXE_gosleuth"))
                    .args(["goroutines", &pid, "--hold", mode, "--json"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("gosleuth starts");
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                std::thread::sleep(Duration::from_micros((seed >> 33) % whole));
                if tool.try_wait().expect("our child").is_some() {
                    finished += 1
                } else {
                    killed += 1
                }
                let _ = tool.kill();
                let _ = tool.wait();
            }
            println!("Go {release} {name}, {mode}: killed {killed} times, too late {finished} times");
            unharmed(&mut f, &format!("Go {release} {name}, {mode}"));
        }
    }
}

/// The pause that the program saw itself is the one that the tool reports.
#[test]
fn the_reported_pause_is_the_real_one() {
    for mode in ["freeze", "fork"] {
        let Some(mut f) = Fixture::start("1.26", "dwarf", "busy", &["gap", "2000000"]) else { continue };
        let mut best: Option<(f64, f64)> = None;
        for _ in 0..8 {
            f.command("resetgap");
            let Some(a) = answer(&["top", &f.pid(), "--hold", mode]) else { return };
            let said = a["hold"]["stopped_ms"].as_f64().expect("a time");
            let seen = f.command("progress")["max_gap_ns"].as_f64().expect("a time") / 1e6;
            println!("{mode}: said {said:.2} ms, the program saw {seen:.2} ms");
            if best.is_none_or(|(s, g)| (seen - said).abs() < (g - s).abs()) {
                best = Some((said, seen));
            }
        }
        // Other programs on this machine lengthen some of the gaps, none of them all.
        let (said, seen) = best.expect("eight looks");
        assert!((seen - said).abs() < 2.0 + said / 5.0, "{mode}: said {said} ms, the program saw {seen} ms");
    }
}
