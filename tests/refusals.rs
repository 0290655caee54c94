//! What is said where nothing can be done: which process or file, why, what to try; exit status 2, nothing on stdout, and the process
//! goes on. Cores that are cut, without or with a wrong binary: tests/core.rs.

mod common;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use common::{Fixture, fixture_path, gosleuth};
use nix::sys::ptrace;
use nix::unistd::Pid;

const NOBODY: u32 = 65534;
const MODES: [&str; 3] = ["none", "freeze", "fork"];

/// A refusal with all these words and something to try.
fn refused(out: &Output, words: &[&str]) -> String {
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{words:?}: {err}");
    assert!(out.stdout.is_empty(), "{words:?}: something on stdout");
    assert!(err.starts_with("gosleuth: ") && err.contains("\n  try: "), "{words:?}: {err}");
    assert!(!err.contains("panicked"), "{err}");
    for w in words {
        assert!(err.contains(w), "no {w:?} in: {err}");
    }
    println!("{}", err.trim());
    err
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A directory that everybody can read, with the tool in it.
fn public_tool() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("gosleuth-test").tempdir_in("/tmp").expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let tool = dir.path().join("gosleuth");
    fs::copy(env!("CARGO_BIN_EXE_gosleuth"), &tool).expect("copied");
    (dir, tool)
}

#[test]
fn an_ordinary_user_and_a_process_of_root() {
    if !root() {
        println!("skipped: not root, so nobody else's process is at hand");
        return;
    }
    let (_dir, tool) = public_tool();
    let Some(mut f) = Fixture::start("1.26", "dwarf", "goroutines", &["all"]) else { return };
    for mode in MODES {
        for command in ["top", "goroutines", "doctor"] {
            let out = Command::new(&tool)
                .args([command, &f.pid(), "--hold", mode])
                .uid(NOBODY)
                .gid(NOBODY)
                .current_dir("/")
                .output()
                .expect("runs");
            refused(&out, &["not allowed to", &f.pid(), "root"]);
        }
    }
    assert_eq!(f.command("gc")["ready"], true);
}

/// Runs a command under a filter that refuses system calls: of ptrace, of process_vm_readv.
const FILTER: &str = r#"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/seccomp.h>
#include <linux/filter.h>

int main(int argc, char **argv) {
    int what = atoi(argv[1]), error = atoi(argv[2]);
    int first = what & 1 ? SYS_ptrace : -1, second = what & 2 ? SYS_process_vm_readv : -1;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, second, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 77;
    execv(argv[3], argv + 3);
    return 78;
}
"#;

fn filter(dir: &Path) -> Option<PathBuf> {
    let (source, tool) = (dir.join("filter.c"), dir.join("filter"));
    fs::write(&source, FILTER).expect("written");
    let built = Command::new("cc").arg("-o").arg(&tool).arg(&source).status().is_ok_and(|s| s.success());
    let works = built && Command::new(&tool).args(["0", "1", "/bin/true"]).status().is_ok_and(|s| s.success());
    if !works {
        println!("skipped: no C compiler, or no seccomp filters here");
    }
    works.then_some(tool)
}

#[test]
fn system_calls_that_a_filter_forbids() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(filter) = filter(dir.path()) else { return };
    let Some(mut f) = Fixture::start("1.26", "stripped", "goroutines", &["all"]) else { return };
    let under = |what: &str, error: i32, args: &[&str]| {
        let mut c = Command::new(&filter);
        c.args([what, &error.to_string(), env!("CARGO_BIN_EXE_gosleuth")]).args(args).output().expect("runs")
    };
    let pid = f.pid();
    for error in [libc_error("EPERM"), libc_error("ENOSYS")] {
        // Both calls.
        for mode in ["freeze", "fork"] {
            refused(&under("3", error, &["top", &pid, "--hold", mode]), &["not allowed to", &pid, "seccomp"]);
        }
        // Memory is read through /proc/PID/mem then, where that is allowed.
        for (what, mode) in [("2", "freeze"), ("2", "fork"), ("2", "none"), ("3", "none"), ("1", "none")] {
            let out = under(what, error, &["top", &pid, "--hold", mode, "--json"]);
            let err = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "filter {what}, error {error}, {mode}: {err}");
        }
    }
    assert_eq!(f.command("gc")["ready"], true);
}

fn libc_error(name: &str) -> i32 {
    match name {
        "EPERM" => nix::errno::Errno::EPERM as i32,
        _ => nix::errno::Errno::ENOSYS as i32,
    }
}

#[test]
fn another_tracer() {
    let Some(mut f) = Fixture::start("1.26", "dwarf", "goroutines", &["all"]) else { return };
    let pid = Pid::from_raw(f.pid().parse().expect("a number"));
    if let Err(e) = ptrace::seize(pid, ptrace::Options::empty()) {
        println!("skipped: not allowed to trace: {e}");
        return;
    }
    let us = std::process::id().to_string();
    for mode in ["freeze", "fork"] {
        let out = gosleuth(&["top", &f.pid(), "--hold", mode]);
        refused(&out, &["already traced by process", &us, &f.pid(), "detach the other"]);
    }
    // Reading needs no attaching.
    let out = gosleuth(&["overview", &f.pid(), "--hold", "none"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    ptrace::interrupt(pid).expect("ours");
    nix::sys::wait::waitpid(pid, None).expect("it stops");
    ptrace::detach(pid, None).expect("ours");
    assert_eq!(f.command("gc")["ready"], true);
    assert!(gosleuth(&["overview", &f.pid()]).status.success());
}

#[test]
fn processes_without_a_program() {
    let mut child = Command::new("true").stdout(Stdio::null()).spawn().expect("starts");
    let pid = child.id().to_string();
    while !fs::read_to_string(format!("/proc/{pid}/stat")).expect("not reaped yet").contains(") Z ") {
        std::thread::sleep(Duration::from_millis(2));
    }
    for mode in MODES {
        refused(&gosleuth(&["top", &pid, "--hold", mode]), &[&pid]);
    }
    child.wait().expect("ours");
    refused(&gosleuth(&["top", &pid]), &["there is no process", &pid]);
    match fs::read_to_string("/proc/2/comm") {
        // Others may not ask which program a process of root runs.
        Ok(name) if name.trim() == "kthreadd" && root() => {
            _ = refused(&gosleuth(&["top", "2"]), &["process 2", "kernel thread"])
        }
        _ => println!("skipped: no kernel thread in sight, or not root"),
    }
}

#[test]
fn a_thread_is_no_process() {
    let Some(f) = Fixture::start("1.26", "dwarf", "goroutines", &["all"]) else { return };
    let tids = fs::read_dir(format!("/proc/{}/task", f.pid())).expect("it runs");
    let tid = tids.filter_map(|t| t.ok()?.file_name().into_string().ok()).find(|t| *t != f.pid()).expect("threads");
    refused(&gosleuth(&["goroutines", &tid]), &[&tid, "is a thread of process", &f.pid()]);
}

#[test]
fn a_program_of_another_language_lives_on() {
    let mut sleep = Command::new("sleep").arg("60").spawn().expect("sleep starts");
    for mode in MODES {
        let err = refused(&gosleuth(&["top", &sleep.id().to_string(), "--hold", mode]), &[]);
        assert!(err.contains("is not a Go program") || err.contains("not allowed"), "{err}");
    }
    let runs = sleep.try_wait().expect("our child").is_none();
    let _ = sleep.kill();
    let _ = sleep.wait();
    assert!(runs);
}

/// A packer leaves its name in the file; what it unpacked is in memory, where nothing of Go is found here.
#[test]
fn packed_programs_are_called_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let exe = dir.path().join("packed");
    let sleep = ["/bin/sleep", "/usr/bin/sleep"].iter().find(|p| std::path::Path::new(p).is_file()).expect("sleep");
    let mut bytes = fs::read(sleep).expect("a program");
    bytes.extend_from_slice(b"UPX!");
    fs::write(&exe, bytes).expect("written");
    fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let mut child = Command::new(&exe).arg("60").spawn().expect("it starts");
    let err = refused(&gosleuth(&["doctor", &child.id().to_string()]), &[]);
    let runs = child.try_wait().expect("our child").is_none();
    let _ = child.kill();
    let _ = child.wait();
    assert!(runs);
    assert!(err.contains("packed by UPX") && err.contains("tried") || err.contains("not allowed"), "{err}");
}

/// Another compiler of Go with another runtime.
#[test]
fn programs_of_gccgo() {
    let compilers = ["gccgo", "gccgo-12", "gccgo-13", "gccgo-14"];
    let Some(compiler) = compilers.iter().find(|c| Command::new(c).arg("--version").output().is_ok()) else {
        println!("skipped: no gccgo");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (source, exe) = (dir.path().join("main.go"), dir.path().join("program"));
    let code = "package main\n\nimport \"time\"\n\nfunc main() {\n\ttime.Sleep(time.Hour)\n}\n";
    fs::write(&source, code).expect("written");
    let built = Command::new(compiler).arg("-o").args([&exe, &source]).output().expect("it runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    for strip in [false, true] {
        if strip {
            assert!(Command::new("strip").arg(&exe).status().is_ok_and(|s| s.success()));
        }
        let mut program = Command::new(&exe).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(300));
        for mode in MODES {
            refused(&gosleuth(&["top", &program.id().to_string(), "--hold", mode]), &["gccgo", "tried"]);
        }
        assert!(program.try_wait().expect("our child").is_none(), "the program ended");
        let _ = program.kill();
        let _ = program.wait();
    }
}

#[test]
fn programs_of_32_bits() {
    let Some(path) = fixture_path("1.27", "386", "spin") else { return };
    let Ok(mut child) = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn() else {
        println!("skipped: this kernel runs no 32-bit programs");
        return;
    };
    std::thread::sleep(Duration::from_millis(300));
    let pid = child.id().to_string();
    let runs = child.try_wait().expect("our child").is_none();
    let outs = MODES.map(|mode| gosleuth(&["top", &pid, "--hold", mode]));
    let after = child.try_wait().expect("our child").is_none();
    let _ = child.kill();
    let _ = child.wait();
    if !runs {
        println!("skipped: this kernel runs no 32-bit programs");
        return;
    }
    for out in outs {
        refused(&out, &[&pid, "32-bit", "GOARCH"]);
    }
    assert!(after, "it lives on");
}

/// Cores and binaries for other machines.
#[test]
fn foreign_architectures() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(f) = Fixture::start("1.27", "dwarf", "goroutines", &["all"]) else { return };
    let core = dir.path().join("core");
    let text = |p: &Path| p.to_str().expect("text").to_owned();
    let out = gosleuth(&["dump", &f.pid(), "-o", &text(&core)]);
    let err = String::from_utf8_lossy(&out.stderr);
    if err.contains("not allowed to") {
        println!("skipped: {err}");
        return;
    }
    assert!(out.status.success(), "{err}");
    for (variant, words) in [("arm64", ["Arm64", "Amd64"]), ("386", ["32-bit", "GOARCH"])] {
        let Some(exe) = fixture_path("1.27", variant, "spin") else { continue };
        let words: &[&str] = if variant == "386" { &words[..1] } else { &words };
        refused(&gosleuth(&["top", &text(&core), "--exe", &text(&exe)]), words);
    }
    // e_ident's class and byte order, e_machine: what a core of another machine begins with.
    let whole = fs::read(&core).expect("a core");
    for (at, value, words) in [
        (4, 1, &["32-bit"][..]),
        (5, 2, &["big-endian"]),
        (18, 243, &["machine type", "243"]),
        (18, 40, &["machine type"]),
    ] {
        let mut bytes = whole.clone();
        bytes[at] = value;
        let path = dir.path().join(format!("core-{at}-{value}"));
        fs::write(&path, bytes).expect("written");
        refused(&gosleuth(&["top", &text(&path)]), &[words, &[&*text(&path)]].concat());
    }
    // An arm64 core of an amd64 process: its registers make no sense, its memory does; no panic.
    let mut bytes = whole;
    bytes[18] = 183;
    let path = dir.path().join("core-arm64");
    fs::write(&path, bytes).expect("written");
    refused(&gosleuth(&["top", &text(&path)]), &["Amd64", "Arm64"]);
}

/// Without a single fixture the tests fail, unless that is allowed.
#[test]
fn a_run_without_fixtures_is_no_success() {
    let run = |allow: bool| {
        let mut c = Command::new(std::env::current_exe().expect("ourselves"));
        c.args(["a_thread_is_no_process", "--exact", "--nocapture"]).env("GOSLEUTH_FIXTURES", "/nowhere");
        if allow {
            c.env("GOSLEUTH_ALLOW_SKIPS", "1")
        } else {
            c.env_remove("GOSLEUTH_ALLOW_SKIPS")
        };
        let out = c.output().expect("runs");
        (out.status.success(), String::from_utf8_lossy(&out.stdout).contains("skipped: "))
    };
    assert_eq!(run(false), (false, false));
    assert_eq!(run(true), (true, true));
}

/// A program newer than what we know is read with the newest layouts that there are. Every pair of neighbours stands for that: the answer is
/// right, or it says that something does not fit, or there is none; the truth is the program's own count.
#[test]
fn layouts_of_the_release_before() {
    for (release, before) in
        [("1.27", "1.26"), ("1.26", "1.25"), ("1.25", "1.24"), ("1.24", "1.23"), ("1.23", "1.22"), ("1.22", "1.21")]
    {
        let Some(mut f) = Fixture::start(release, "stripped", "leaks", &["global-map"]) else { return };
        let planted = f.ready["truth"]["leaks"][0]["objects"].as_u64().expect("a number");
        let out = gosleuth(&["top", &f.pid(), "--assume-go", before, "--json", "--limit", "0"]);
        if out.status.code() == Some(0) {
            let answer: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
            let notes = answer["diagnostics"].as_array().expect("a list").len();
            let users = answer["result"]["rows"]
                .as_array()
                .and_then(|rows| rows.iter().find(|r| r["name"] == "main.User"))
                .and_then(|r| r["objects"].as_u64());
            println!("{release} as {before}: {users:?} of {planted} main.User, {notes} notes");
            assert!(users == Some(planted) || notes > 0, "{release} as {before}: silently {users:?}");
        } else {
            refused(&out, &["layouts of Go", "was not found"]);
        }
        assert!(f.runs());
    }
}
