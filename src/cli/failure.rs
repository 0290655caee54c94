//! What went wrong, in words, with what to try next.

use std::fmt;

use crate::{
    image::ImageError,
    os::procfs,
    profile::ProfileError,
    runtime::{OpenError, view::ReadError},
    snapshot::SnapshotError,
    target::TargetError,
};

/// One failure as the user sees it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    remedy: Option<String>,
    /// What else was noticed about the target.
    notes: Vec<String>,
    /// The reader of our output went away: not worth a word.
    pub broken_pipe: bool,
    /// Not an error: what the user asked to fail on was found.
    pub finding: bool,
}

impl Failure {
    pub fn new(message: impl Into<String>, remedy: Option<&str>) -> Failure {
        Failure {
            message: message.into(),
            remedy: remedy.map(str::to_owned),
            notes: Vec::new(),
            broken_pipe: false,
            finding: false,
        }
    }

    /// The same with what went wrong while the target was opened: (kind, example).
    pub fn noting(mut self, trouble: &[(&'static str, String)]) -> Failure {
        self.notes.extend(trouble.iter().map(|(kind, example)| format!("{kind}: {example}")));
        self
    }
}

impl Failure {
    /// Exit code 1 instead of 2.
    pub fn finding(message: impl Into<String>) -> Failure {
        Failure { finding: true, ..Failure::new(message, None) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gosleuth: {}", self.message)?;
        for n in &self.notes {
            write!(f, "\n  note: {n}")?;
        }
        if let Some(r) = &self.remedy {
            write!(f, "\n  try: {r}")?;
        }
        Ok(())
    }
}

impl From<TargetError> for Failure {
    fn from(e: TargetError) -> Failure {
        let remedy = match &e {
            TargetError::NoProcess(_) => Some("pgrep -a NAME to find the process id".to_owned()),
            TargetError::ThreadNotProcess { pid, .. } => Some(format!("the process id, {pid}")),
            TargetError::OtherTracer { .. } => Some("detach the other debugger or tracer first".to_owned()),
            TargetError::Denied { .. } => Some(match procfs::yama_scope() {
                Some(3) => "kernel.yama.ptrace_scope is 3: no process may be traced until the next boot".to_owned(),
                Some(s) if s > 0 && !procfs::may_ptrace_any() => format!(
                    "running as root or with CAP_SYS_PTRACE (containers: --cap-add=SYS_PTRACE); kernel.yama.ptrace_scope is {s}"
                ),
                _ => "running as the same user or as root, with CAP_SYS_PTRACE (containers: --cap-add=SYS_PTRACE), \
                      and a seccomp profile that allows ptrace and process_vm_readv"
                    .to_owned(),
            }),
            TargetError::KernelThread(_) => Some("a process with a program of its own: ps -e".to_owned()),
            TargetError::BadCore { why, .. } | TargetError::Unsupported { why, .. }
                if why.contains("gosleuth reads") =>
            {
                Some("the program built for amd64 or arm64 (GOARCH)".to_owned())
            }
            TargetError::Unsupported { .. } => Some("--hold freeze".to_owned()),
            TargetError::BadCore { .. } => Some(
                "a core written whole: gosleuth dump PID, gcore PID, or ulimit -c unlimited before the crash"
                    .to_owned(),
            ),
            TargetError::Proc { .. } | TargetError::File { .. } => None,
        };
        Failure { remedy, ..Failure::new(e.to_string(), None) }
    }
}

impl From<OpenError> for Failure {
    fn from(e: OpenError) -> Failure {
        let remedy = match &e {
            OpenError::Image(ImageError::NoExecutable | ImageError::Open { .. }) => {
                Some("--exe PATH with the same binary")
            }
            OpenError::Image(ImageError::BadElf { .. } | ImageError::WrongBinary { .. }) => {
                Some("--exe PATH with the binary that this process or core was started from")
            }
            OpenError::Image(ImageError::NotGo { .. }) => Some("a process or a core of a Go program"),
            OpenError::Image(ImageError::NoModuledata { .. }) => {
                Some("--exe PATH with the binary before it was packed")
            }
            OpenError::Image(ImageError::TooOld { .. }) => Some("a build of the program by Go 1.18 or later"),
            OpenError::Image(ImageError::NoDwarf { .. }) => Some("--layout auto, or --debug-file PATH"),
            OpenError::Global { .. } => Some("--assume-go with another release, or --debug-file PATH"),
            _ => None,
        };
        Failure::new(e.to_string(), remedy)
    }
}

impl From<SnapshotError> for Failure {
    fn from(e: SnapshotError) -> Failure {
        let remedy = match &e {
            SnapshotError::StructureOnly { .. } => Some("the same command on the process or on a core"),
            SnapshotError::CutShort { .. } | SnapshotError::Altered { .. } => Some("a fresh copy, or a new snapshot"),
            _ => None,
        };
        Failure::new(e.to_string(), remedy)
    }
}

impl From<ProfileError> for Failure {
    fn from(e: ProfileError) -> Failure {
        let remedy = match &e {
            ProfileError::Text { ask, .. } => Some(*ask),
            ProfileError::Damaged { .. } => {
                Some("fetching it anew, whole: curl -o heap.pb.gz http://HOST/debug/pprof/heap?gc=1")
            }
            ProfileError::File { .. } => None,
        };
        Failure::new(e.to_string(), remedy)
    }
}

impl From<ReadError> for Failure {
    fn from(e: ReadError) -> Failure {
        Failure::new(e.to_string(), None)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Failure {
        Failure { broken_pipe: e.kind() == std::io::ErrorKind::BrokenPipe, ..Failure::new(e.to_string(), None) }
    }
}
