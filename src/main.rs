//! The gosleuth command.

fn main() -> std::process::ExitCode {
    gosleuth::cli::main()
}
