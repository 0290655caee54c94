//! cli: arguments, the session that opens a target, failures with remedies, the commands.

mod commands;
mod failure;
mod progress;
mod session;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    base::GoVersion,
    runtime::{LayoutChoice, OpenOptions},
    target::{HoldMode, HoldRequest, fork},
};
use failure::Failure;

/// Looks into a Go process and says what is alive and who holds it.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Args, Debug, Default)]
struct GlobalArgs {
    /// Threads to work with; by default one a core.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// No progress, and of notes only errors.
    #[arg(long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell on standard error what is done and how long it takes; twice for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl GlobalArgs {
    /// Sets up what holds for the whole run.
    fn apply(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "gosleuth=debug",
            _ => "gosleuth=trace",
        };
        let filter = tracing_subscriber::EnvFilter::try_from_env("GOSLEUTH_LOG").unwrap_or_else(|_| level.into());
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        if let Some(n) = self.threads {
            // Fails only if the pool was made already, and nothing has run yet.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(n.into()).build_global();
        }
        progress::show(!self.quiet && self.verbose == 0);
    }
}

#[derive(Args, Debug, Default)]
struct TargetArgs {
    /// Process id, core file, or a file that `snapshot` wrote.
    target: String,
    /// The executable, where it cannot be found by itself.
    #[arg(long)]
    exe: Option<PathBuf>,
    /// A separate file with symbols and DWARF of the same build.
    #[arg(long, value_name = "PATH")]
    debug_file: Option<PathBuf>,
    /// The Go release to assume, such as 1.24, whatever the binary says.
    #[arg(long, value_name = "RELEASE", value_parser = parse_release)]
    assume_go: Option<GoVersion>,
    /// Where the layouts of runtime structures come from.
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    layout: LayoutChoice,
    /// Use no symbols and no DWARF, as if the binary was stripped.
    #[arg(long)]
    as_stripped: bool,
    /// How a running process is kept still while it is looked at.
    #[arg(long, value_enum, default_value_t = HoldArg::Freeze)]
    hold: HoldArg,
    /// Let the process run on after this many milliseconds at the latest, answered or not.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    max_pause: Option<u64>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

fn parse_release(text: &str) -> Result<GoVersion, String> {
    GoVersion::parse(&format!("go{}", text.trim_start_matches("go"))).ok_or_else(|| "a release looks like 1.24".into())
}

impl TargetArgs {
    fn hold_request(&self) -> HoldRequest {
        HoldRequest { mode: self.hold.into(), max_pause: self.max_pause.map(Duration::from_millis) }
    }

    fn open_options(&self) -> OpenOptions {
        OpenOptions {
            exe: self.exe.clone(),
            debug_file: self.debug_file.clone(),
            assume_go: self.assume_go.clone(),
            layout: self.layout,
            nameless: self.as_stripped,
        }
    }
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum HoldArg {
    /// Not at all: quick, but what is read may change meanwhile.
    None,
    /// All threads stop while memory is read; nothing in the process is changed.
    #[default]
    Freeze,
    /// All threads stop while the kernel makes a copy-on-write copy of the process (some milliseconds), and the copy is
    /// looked at. One thread is made to execute the system calls for that; its registers are put back.
    Fork,
}

impl From<HoldArg> for HoldMode {
    fn from(hold: HoldArg) -> HoldMode {
        match hold {
            HoldArg::None => HoldMode::None,
            HoldArg::Freeze => HoldMode::Freeze,
            HoldArg::Fork => HoldMode::Fork,
        }
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    Doctor(commands::doctor::DoctorArgs),
    Overview(commands::overview::OverviewArgs),
    Top(commands::top::TopArgs),
    Goroutines(commands::goroutines::GoroutinesArgs),
    Locks(commands::locks::LocksArgs),
    Why(commands::why::WhyArgs),
    Leaks(commands::leaks::LeaksArgs),
    Waste(commands::waste::WasteArgs),
    Objects(commands::objects::ObjectsArgs),
    Show(commands::show::ShowArgs),
    Retained(commands::retained::RetainedArgs),
    Dump(commands::dump::DumpArgs),
    Snapshot(commands::snapshot::SnapshotArgs),
    Diff(commands::diff::DiffArgs),
    Demo(commands::demo::DemoArgs),
    #[command(hide = true)]
    Debug(commands::debug::DebugArgs),
    /// Started by `--hold fork` for its own use.
    #[command(name = fork::COMMAND, hide = true)]
    HoldByFork {
        pid: u32,
        #[arg(long)]
        prefer_running: bool,
    },
}

impl Command {
    fn run(&self) -> Result<(), Failure> {
        match self {
            Command::Doctor(a) => commands::doctor::run(a),
            Command::Overview(a) => commands::overview::run(a),
            Command::Top(a) => commands::top::run(a),
            Command::Goroutines(a) => commands::goroutines::run(a),
            Command::Locks(a) => commands::locks::run(a),
            Command::Why(a) => commands::why::run(a),
            Command::HoldByFork { pid, prefer_running } => {
                fork::holder(*pid, *prefer_running);
                Ok(())
            }
            Command::Leaks(a) => commands::leaks::run(a),
            Command::Waste(a) => commands::waste::run(a),
            Command::Objects(a) => commands::objects::run(a),
            Command::Show(a) => commands::show::run(a),
            Command::Retained(a) => commands::retained::run(a),
            Command::Dump(a) => commands::dump::run(a),
            Command::Snapshot(a) => commands::snapshot::run(a),
            Command::Diff(a) => commands::diff::run(a),
            Command::Demo(a) => commands::demo::run(a),
            Command::Debug(a) => commands::debug::run(a),
        }
    }
}

/// Runs the command line. Exit codes: 0 answered, 1 a finding that the user asked to fail on, 2 an error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.global.apply();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) if f.broken_pipe => ExitCode::SUCCESS,
        Err(f) => {
            eprintln!("{f}");
            ExitCode::from(if f.finding { 1 } else { 2 })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
