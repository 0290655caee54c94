//! The binary's reader against real fixtures of every release, with truth from binutils and the Go tools.

#[path = "../common/mod.rs"]
mod common;
mod globals;
mod open;
mod support;
