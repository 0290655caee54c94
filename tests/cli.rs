//! What a user sees when something is wrong.

mod common;

use common::gosleuth;

fn fails(args: &[&str]) -> String {
    let out = gosleuth(args);
    assert_eq!(out.status.code(), Some(2), "{args:?}");
    assert!(out.stdout.is_empty());
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_process_that_is_not_there() {
    assert!(fails(&["top", "4194305"]).contains("there is no process 4194305"));
}

#[test]
fn not_a_process_id() {
    assert!(fails(&["top", "bogus"]).contains("is neither a process id nor a file"));
}

#[test]
fn not_a_go_program_lives_on() {
    let mut sleep = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
    let text = fails(&["top", &sleep.id().to_string()]);
    let runs = sleep.try_wait().expect("our child").is_none();
    let _ = sleep.kill();
    let _ = sleep.wait();
    assert!(text.contains("is not a Go program") || text.contains("not allowed"), "{text}");
    assert!(runs, "sleep must survive being looked at");
}
