//! One line on standard error that says what is going on, where that is a terminal. Gone before the answer is printed.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::atomic::{AtomicBool, Ordering},
};

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether to show progress at all.
pub fn show(wanted: bool) {
    SHOWN.store(wanted && stderr().is_terminal(), Ordering::Relaxed);
}

pub fn stage(name: &str) {
    if SHOWN.load(Ordering::Relaxed) {
        // Whether anybody can read it does not matter to the answer.
        let _ = write!(stderr(), "\r\x1b[K{name} ...");
    }
}

pub fn done() {
    if SHOWN.load(Ordering::Relaxed) {
        let _ = write!(stderr(), "\r\x1b[K");
    }
}
