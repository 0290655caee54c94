//! Targets that end, are replaced, have children, give memory back, or have very many threads while they are looked at.

mod common;

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::Fixture;
use serde_json::Value;

const MODES: [&str; 3] = ["none", "freeze", "fork"];

/// Longer than any look at these targets takes on a busy machine.
const HANGS: Duration = Duration::from_secs(120);

/// One look: the answer, or what was said and the exit status. One that does not end is ended, and a failure.
fn look(args: &[&str]) -> Result<Value, (Option<i32>, String)> {
    let tool = Command::new(env!("CARGO_BIN_EXE_gosleuth"))
        .args([args, &["--json"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gosleuth starts");
    let (pid, begin) = (tool.id().to_string(), Instant::now());
    let waiting = std::thread::spawn(move || tool.wait_with_output().expect("our child"));
    while !waiting.is_finished() {
        if begin.elapsed() > HANGS {
            let stack = fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default();
            let _ = Command::new("kill").args(["-9", &pid]).status();
            panic!("{args:?} does not end: {stack}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let out = waiting.join().expect("joined");
    if out.status.success() {
        return Ok(serde_json::from_slice(&out.stdout).expect("JSON"));
    }
    Err((out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned()))
}

/// Children of a process that are zombies or copies of it.
fn left_behind(pid: &str) -> Vec<String> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let of = |name: &str, status: &str| {
        let field = |f: &str| status.lines().find_map(|l| l.strip_prefix(f)).map(|v| v.trim().to_owned());
        (field("PPid:").as_deref() == Some(pid))
            .then(|| (field("State:"), fs::read_link(format!("/proc/{name}/exe")).ok()))
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|name| {
            let status = fs::read_to_string(format!("/proc/{name}/status")).ok()?;
            let (state, file) = of(&name, &status)?;
            let zombie = state.as_deref().is_some_and(|s| s.starts_with('Z'));
            (zombie || file == exe).then(|| format!("{name} {state:?}"))
        })
        .collect()
}

/// Waits until nothing is left behind; the holder of a copy may still be at work.
fn nothing_left(pid: &str, what: &str) {
    let begin = Instant::now();
    while !left_behind(pid).is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}: {:?}", left_behind(pid));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The target is killed at some moment of the look: an answer from before, or an error that says so; no crash of ours.
#[test]
fn the_target_ends() {
    for mode in MODES {
        let (mut answered, mut refused) = (0, 0);
        let mut whole = Duration::ZERO;
        for round in 0..14u32 {
            let Some(mut f) = Fixture::start("1.26", "dwarf", "heap", &["small", "300000"]) else { return };
            let pid = f.pid();
            if round == 0 {
                let begin = Instant::now();
                look(&["top", &pid, "--hold", mode]).unwrap_or_else(|(_, e)| panic!("{mode}: {e}"));
                whole = begin.elapsed();
            }
            let tool = Command::new(env!("CARGO_BIN_EXE_gosleuth"))
                .args(["top", &pid, "--json", "--hold", mode])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("gosleuth starts");
            std::thread::sleep(whole * round / 12);
            f.kill();
            let out = tool.wait_with_output().expect("our child");
            let err = String::from_utf8_lossy(&out.stderr);
            match out.status.code() {
                Some(0) => {
                    answered += 1;
                    let a: Value = serde_json::from_slice(&out.stdout).expect("JSON");
                    let n = a["result"]["live"]["objects"].as_u64().expect("a count");
                    assert!(n >= 300_000, "{mode}: half an answer of {n} objects: {err}");
                }
                Some(2) => {
                    refused += 1;
                    assert!(err.starts_with("gosleuth: "), "{mode}: {err}");
                    assert!(err.contains(&pid) || err.contains("the process is gone"), "{mode}: {err}");
                    assert!(!err.contains("not allowed to"), "{mode}: {err}");
                }
                code => panic!("{mode}: exit {code:?}: {err}"),
            }
        }
        println!("{mode}: answered {answered} times, refused {refused} times");
    }
}

/// The program is replaced eight times a second: whatever is answered fits one program.
#[test]
fn the_target_replaces_its_program() {
    for mode in MODES {
        let Some(mut f) = Fixture::start("1.26", "dwarf", "trouble", &["exec", "120"]) else { return };
        let pid = f.pid();
        let (mut answered, mut refused) = (0, 0);
        for _ in 0..15 {
            match look(&["top", &pid, "--hold", mode]) {
                Ok(_) => answered += 1,
                Err((code, err)) => {
                    refused += 1;
                    assert_eq!(code, Some(2), "{mode}: {err}");
                    assert!(err.starts_with("gosleuth: "), "{mode}: {err}");
                }
            }
        }
        let (before, begin) = (replacements(&pid), Instant::now());
        while replacements(&pid) <= before + 2 {
            assert!(begin.elapsed() < Duration::from_secs(10), "{mode}: the program is no longer replaced");
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("{mode}: answered {answered} times, refused {refused} times, replaced {} times", replacements(&pid));
        assert!(f.runs());
        nothing_left(&pid, mode);
    }
}

/// So often that most looks meet a replacement under way, in which the kernel makes the target wait for its tracer and the
/// tracer for the target: neither may wait for ever, and no look may keep the program from going on.
#[test]
fn the_target_is_being_replaced() {
    for mode in MODES {
        for pause in ["1", "5"] {
            let Some(mut f) = Fixture::start("1.26", "dwarf", "trouble", &["exec", pause]) else { return };
            let pid = f.pid();
            for _ in 0..40 {
                if let Err((code, err)) = look(&["top", &pid, "--hold", mode]) {
                    assert!(code == Some(2) && err.starts_with("gosleuth: "), "{mode}: {err}");
                }
            }
            let (before, begin) = (replacements(&pid), Instant::now());
            while replacements(&pid) <= before + 10 {
                assert!(begin.elapsed() < Duration::from_secs(10), "{mode}: the program is no longer replaced");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(f.runs());
            nothing_left(&pid, mode);
        }
    }
}

/// How often the program was replaced; 0 too where it is being replaced just now.
fn replacements(pid: &str) -> u64 {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&environ).into_owned();
    text.split('\0').find_map(|v| v.strip_prefix("TROUBLE_EXECS=")?.parse::<u64>().ok()).unwrap_or(0)
}

/// Children of the target's own are not disturbed, nor is it by ours; memory that comes and goes does no harm.
#[test]
fn the_target_forks_and_unmaps() {
    for (scenario, release) in [("forks", "1.21"), ("forks", "1.26"), ("unmap", "1.26")] {
        for mode in MODES {
            let Some(mut f) = Fixture::start(release, "dwarf", "trouble", &[scenario]) else { continue };
            let pid = f.pid();
            let before = f.command("progress");
            for i in 0..25 {
                if let Err((code, err)) = look(&["overview", &pid, "--hold", mode]) {
                    // Without a hold, structures may be seen half changed.
                    assert!(mode == "none" && code == Some(2), "{scenario}, {mode}, look {i}: {err}");
                }
            }
            let after = f.command("progress");
            assert_eq!(after["ok"], true, "{scenario}, {mode}: {after}");
            assert!(after["rounds"].as_u64() > before["rounds"].as_u64(), "{scenario}, {mode}: {before} then {after}");
            assert_eq!(f.command("pause")["ok"], true);
            nothing_left(&pid, &format!("{scenario}, {mode}"));
            assert!(f.runs());
        }
    }
}

#[test]
fn ten_thousand_threads() {
    let Some(mut f) = Fixture::start("1.26", "dwarf", "trouble", &["threads", "10000"]) else { return };
    let pid = f.pid();
    for mode in ["freeze", "fork"] {
        let begin = Instant::now();
        let a =
            look(&["goroutines", &pid, "--limit", "0", "--hold", mode]).unwrap_or_else(|(_, e)| panic!("{mode}: {e}"));
        println!("{mode}: stopped {} ms, in all {:?}", a["hold"]["stopped_ms"], begin.elapsed());
        let n = a["result"]["count"].as_u64().expect("a count");
        assert!(n >= 10_000, "{mode}: {n} goroutines");
        assert!(f.runs());
        assert_eq!(f.command("progress")["ok"], true, "{mode}");
        nothing_left(&pid, mode);
    }
}

/// No copy is made where the target's control group has no room for it, and the answer says why.
#[test]
fn a_copy_is_refused_near_the_memory_limit() {
    let Some(mut f) = Fixture::start("1.26", "dwarf", "heap", &["small", "300000"]) else { return };
    let pid = f.pid();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a cgroup file");
    let (base, limit, used) = match cgroup.lines().find_map(|l| l.split_once(":memory:")) {
        Some((_, path)) => (format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
        None => {
            let path = cgroup.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
            (format!("/sys/fs/cgroup{path}"), "memory.max", "memory.current")
        }
    };
    let dir = format!("{base}/gosleuth-test-{pid}");
    let made = fs::create_dir(&dir).and_then(|()| fs::write(format!("{dir}/cgroup.procs"), &pid));
    let looked = made.and_then(|()| {
        // Used memory stays with the group that it was taken in: the new one needs some of its own.
        f.command("gc");
        let used: u64 = fs::read_to_string(format!("{dir}/{used}"))?.trim().parse().unwrap_or(0);
        fs::write(format!("{dir}/{limit}"), (used + (4 << 20)).to_string())?;
        Ok(look(&["overview", &pid, "--hold", "fork"]))
    });
    let frozen = looked.is_ok().then(|| look(&["overview", &pid, "--hold", "freeze"]));
    let _ = fs::write(format!("{dir}/{limit}"), "-1").or_else(|_| fs::write(format!("{dir}/{limit}"), "max"));
    let _ = fs::write(format!("{base}/cgroup.procs"), &pid);
    f.kill();
    for _ in 0..100 {
        if fs::remove_dir(&dir).is_ok() || !fs::exists(&dir).unwrap_or(false) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match looked {
        Err(e) => println!("skipped: no control group of our own ({dir}: {e})"),
        Ok(answer) => {
            let (code, err) = answer.expect_err("there is no room for a copy");
            assert_eq!(code, Some(2));
            assert!(err.contains("control group") && err.contains("--hold freeze"), "{err}");
            assert!(matches!(frozen, Some(Ok(_))), "freezing needs no memory of the target: {frozen:?}");
        }
    }
}

/// `--max-pause`: the program itself saw no longer gap, and what was not read in time is not answered.
#[test]
fn the_longest_pause_is_kept() {
    let Some(mut f) = Fixture::start("1.26", "dwarf", "busy", &["gap", "2000000"]) else { return };
    let pid = f.pid();
    let (mut best, mut refused) = (f64::MAX, 0);
    for _ in 0..10 {
        f.command("resetgap");
        match look(&["top", &pid, "--max-pause", "30"]) {
            Ok(a) => assert!(a["hold"]["stopped_ms"].as_f64() < Some(40.0), "{a:#}"),
            Err((code, err)) => {
                refused += 1;
                assert_eq!(code, Some(2));
                assert!(err.contains("--max-pause") && err.contains("missing") && err.contains("--hold fork"), "{err}");
            }
        }
        best = best.min(f.command("progress")["max_gap_ns"].as_f64().expect("a time") / 1e6);
    }
    println!("refused {refused} of 10 times; the program saw gaps of {best:.1} ms and more");
    assert!(refused > 5, "60 MB of small objects cannot be read in 30 ms by this build");
    // Gaps that other programs on this machine cause are longer, but not all of them.
    assert!(best < 40.0, "the program stood still for {best} ms at least");
    // Goroutines that were read in time are told, and that others are missing.
    let a = look(&["goroutines", &pid, "--max-pause", "10000"]).unwrap_or_else(|(_, e)| panic!("{e}"));
    assert!(!a["diagnostics"].to_string().contains("incomplete"), "{a:#}");
    let (code, err) = look(&["top", &pid, "--hold", "fork", "--max-pause", "1"]).expect_err("no copy is so quick");
    assert!(code == Some(2) && err.contains("--max-pause allows 1 ms"), "{err}");
    assert!(f.runs());
}
