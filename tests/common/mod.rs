#![allow(dead_code)] // each test binary uses its part of the harness
//! Starts fixtures and the gosleuth binary. A fixture that is not there is a counted skip.

pub mod heapdump;
pub mod view;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};

use serde_json::Value;

pub const RELEASES: [&str; 8] = ["1.19", "1.21", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27"];

/// Where fixtures are: $GOSLEUTH_FIXTURES, else where scripts/fixtures puts them. Fails where there is not a single one, unless
/// $GOSLEUTH_ALLOW_SKIPS is set: a run that tested nothing is no success.
pub fn fixtures_root() -> PathBuf {
    let cache = || {
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/gosleuth");
        std::env::var_os("GOSLEUTH_CACHE").map_or_else(home, PathBuf::from).join("fixtures")
    };
    let root = std::env::var_os("GOSLEUTH_FIXTURES").map_or_else(cache, PathBuf::from);
    let any = RELEASES.iter().any(|r| std::fs::read_dir(root.join(r)).is_ok_and(|mut d| d.next().is_some()));
    assert!(
        any || std::env::var_os("GOSLEUTH_ALLOW_SKIPS").is_some(),
        "no fixtures in {}: run scripts/fixtures or scripts/test, or set GOSLEUTH_ALLOW_SKIPS=1",
        root.display()
    );
    root
}

/// `None`, with a line that the test script counts, where the fixture was not built.
pub fn fixture_path(release: &str, variant: &str, name: &str) -> Option<PathBuf> {
    let path = Some(fixtures_root().join(release).join(variant).join(name)).filter(|p| p.exists());
    if path.is_none() {
        println!("skipped: no fixture {name} of Go {release} ({variant})");
    }
    path
}

/// A running fixture; it ends when this is dropped.
pub struct Fixture {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub ready: Value,
}

impl Fixture {
    /// `None`, with a line that the test script counts, where the fixture was not built or may not be traced.
    pub fn start(release: &str, variant: &str, name: &str, args: &[&str]) -> Option<Fixture> {
        Fixture::start_in(Path::new("."), release, variant, name, args)
    }

    /// Like `start`, with a working directory: there the kernel leaves a core.
    pub fn start_in(dir: &Path, release: &str, variant: &str, name: &str, args: &[&str]) -> Option<Fixture> {
        let fixture = Fixture::launch(dir, release, variant, name, args)?;
        assert_eq!(fixture.ready["ready"], true, "{}", fixture.ready);
        Some(fixture)
    }

    /// The same, and `None` as well where the fixture says that its release cannot do what the scenario needs.
    pub fn try_start(release: &str, variant: &str, name: &str, args: &[&str]) -> Option<Fixture> {
        Fixture::launch(Path::new("."), release, variant, name, args).filter(|f| f.ready["ready"] == true)
    }

    fn launch(dir: &Path, release: &str, variant: &str, name: &str, args: &[&str]) -> Option<Fixture> {
        Fixture::built_by(release, Fixture::of(&fixture_path(release, variant, name)?, dir, args, &[]))
    }

    /// With these variables in its environment; whether it is ready is for the caller to see.
    pub fn start_with(
        release: &str,
        variant: &str,
        name: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Option<Fixture> {
        let path = fixture_path(release, variant, name)?;
        Fixture::built_by(release, Fixture::of(&path, Path::new("."), args, env))
    }

    fn built_by(release: &str, fixture: Fixture) -> Option<Fixture> {
        let built = fixture.ready["go"].as_str().expect("a release");
        assert!(built.starts_with(&format!("go{release}")), "fixture of {release} was built by {built}");
        Some(fixture)
    }

    /// Starts a copy of a fixture.
    pub fn of(path: &Path, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Fixture {
        let mut command = Command::new(path);
        command.args(args).current_dir(dir).envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Another test's fork may still hold a file that was just written open (ETXTBSY).
        let mut tries = 0;
        let mut child = loop {
            match command.spawn() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 100 => {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                other => break other.expect("the fixture starts"),
            }
        };
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut fixture = Fixture { child, stdin, stdout, ready: Value::Null };
        fixture.ready = fixture.line();
        fixture
    }

    /// The next line that it says.
    pub fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the fixture answers");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("fixture said {line:?}: {e}"))
    }

    pub fn command(&mut self, text: &str) -> Value {
        self.send(text);
        self.line()
    }

    /// A command whose answer is waited for later, by `line`.
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{text}").expect("the fixture listens");
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).expect("our child");
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        self.child.wait().expect("our child");
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn gosleuth(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gosleuth")).args(args).output().expect("gosleuth runs")
}

/// Runs with --json; `None` (a counted skip) where ptrace is forbidden.
pub fn answer(args: &[&str]) -> Option<Value> {
    let out = gosleuth(&[args, &["--json"]].concat());
    let err = String::from_utf8_lossy(&out.stderr);
    if err.contains("not allowed to") {
        println!("skipped: {}", err.lines().next().unwrap_or_default());
        return None;
    }
    assert!(out.status.success(), "gosleuth {args:?}: {err}");
    Some(serde_json::from_slice(&out.stdout).expect("JSON"))
}
