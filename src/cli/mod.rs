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
    /// Process id.
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
    /// Can this target be looked at, and what was found how.
    Doctor {
        #[command(flatten)]
        target: TargetArgs,
        /// Compare what is reachable with what the collector keeps.
        #[arg(long)]
        check_liveness: bool,
    },
    /// The process at a glance: heap, collector, goroutines.
    Overview {
        #[command(flatten)]
        target: TargetArgs,
    },
    /// The live heap by type.
    Top {
        #[command(flatten)]
        target: TargetArgs,
        /// Rows to show; 0 for all.
        #[arg(long, default_value_t = 25)]
        limit: usize,
    },
    /// Goroutines, grouped by equal stacks.
    Goroutines {
        #[command(flatten)]
        target: TargetArgs,
        /// Groups to show; 0 for all.
        #[arg(long, default_value_t = 25)]
        limit: usize,
    },
    /// Who keeps an object alive: paths from roots.
    Why {
        #[command(flatten)]
        target: TargetArgs,
        /// Address of the object (any address inside it).
        addr: String,
        /// How many truly different paths to look for.
        #[arg(long, default_value_t = 3)]
        paths: usize,
    },
}

/// Runs the command line. Exit codes: 0 answered, 1 a finding that the user asked to fail on, 2 an error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("GOSLEUTH_LOG").unwrap_or_default();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match commands::run(cli.command) {
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
