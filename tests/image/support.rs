//! Running fixtures for the tests of the binary's reader: which builds exist, starting one, the truth it prints.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use gosleuth::target::{HoldMode, Target};

pub const RELEASES: [&str; 8] = ["1.19", "1.21", "1.22", "1.23", "1.24", "1.25", "1.26", "1.27"];

/// Directory of built fixtures (scripts/fixtures).
pub fn root() -> PathBuf {
    crate::common::fixtures_root()
}

/// A built fixture; prints that it is skipped where it is not there.
pub fn binary(release: &str, variant: &str, name: &str) -> Option<PathBuf> {
    let path = root().join(release).join(variant).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not built (scripts/fixtures)", path.display());
    None
}

/// A running fixture that has told its truth; killed on drop.
pub struct Running {
    child: Child,
    /// The fixture ends when this closes.
    _stdin: ChildStdin,
}

impl Running {
    pub fn start(path: &Path, args: &[&str]) -> Running {
        let mut child = Command::new(path)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready).expect("a line");
        assert!(ready.starts_with('{'), "{ready:?}");
        Running { child, _stdin: stdin }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn attach(&self) -> Target {
        Target::attach(self.pid(), HoldMode::None).expect("own child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy of a binary without symbols and DWARF: the same link, so that all addresses stay.
pub fn strip(path: &Path, dir: &Path) -> PathBuf {
    let out = dir.join("stripped");
    let done = Command::new("strip").arg("-s").arg("-o").arg(&out).arg(path).status().expect("strip (binutils)");
    assert!(done.success());
    out
}

/// Overwrites the mark of the build info in a copy.
pub fn drop_build_info(path: &Path, dir: &Path) -> PathBuf {
    let mut data = std::fs::read(path).expect("readable");
    let at: Vec<usize> =
        data.windows(14).enumerate().filter(|(_, w)| *w == b"\xff Go buildinf:").map(|(i, _)| i).collect();
    assert!(!at.is_empty(), "no build info to drop");
    for i in at {
        data[i..i + 14].fill(0);
    }
    let out = dir.join("anonymous");
    std::fs::write(&out, data).expect("writable");
    executable(&out);
    out
}

pub fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("own file");
    // Another test's fork may still hold the file open for writing for a moment (ETXTBSY).
    std::thread::sleep(Duration::from_millis(5));
}
