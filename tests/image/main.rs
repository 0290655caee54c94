//! The binary's reader against real fixtures of every release, with truth from binutils and the Go tools.

mod globals;
mod open;
mod support;
