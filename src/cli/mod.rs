//! cli: arguments, the session that opens a target, failures with remedies, the commands.

mod commands;
mod failure;
mod session;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use failure::Failure;

/// Looks into a Go process and says what is alive and who holds it.
#[derive(Parser, Debug)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct TargetArgs {
    /// Process id or core file.
    target: String,
    /// The executable, where it cannot be found by itself.
    #[arg(long)]
    exe: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    Doctor(commands::doctor::DoctorArgs),
    Overview(commands::overview::OverviewArgs),
    Top(commands::top::TopArgs),
    Goroutines(commands::goroutines::GoroutinesArgs),
    Why(commands::why::WhyArgs),
    Dump(commands::dump::DumpArgs),
    #[command(hide = true)]
    Debug(commands::debug::DebugArgs),
}

impl Command {
    fn run(&self) -> Result<(), Failure> {
        match self {
            Command::Doctor(a) => commands::doctor::run(a),
            Command::Overview(a) => commands::overview::run(a),
            Command::Top(a) => commands::top::run(a),
            Command::Goroutines(a) => commands::goroutines::run(a),
            Command::Why(a) => commands::why::run(a),
            Command::Dump(a) => commands::dump::run(a),
            Command::Debug(a) => commands::debug::run(a),
        }
    }
}

/// Runs the command line. Exit codes: 0 answered, 1 a finding that the user asked to fail on, 2 an error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("GOSLEUTH_LOG").unwrap_or_default();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) if f.broken_pipe => ExitCode::SUCCESS,
        Err(f) => {
            eprintln!("{f}");
            ExitCode::from(2)
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
