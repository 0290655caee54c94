//! `demo` prints what the fixture planted: the binary that comes with the cores is asked itself.

mod common;

use std::path::Path;

use common::{Fixture, gosleuth};

#[test]
fn the_demo_tells_what_was_planted() {
    let dir = tempfile::tempdir().expect("a directory");
    let exe = dir.path().join("leaks");
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/demo");
    let packed = std::fs::read(testdata.join("leaks.zst")).expect("comes with the sources");
    std::fs::write(&exe, zstd::decode_all(&packed[..]).expect("zstd")).expect("written");
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("own file");
    let seconds: f64 = include_str!("../testdata/demo/seconds-between").trim().parse().expect("a number");
    // As scripts/demo-data had it when it took the cores.
    let mut f = Fixture::of(&exe, dir.path(), &["global-map", "1"], &[]);
    let leak = |ready: &serde_json::Value| ready["truth"]["leaks"][0].clone();
    let (first, second) = (leak(&f.ready.clone()), leak(&f.command("grow 1")));

    let out = gosleuth(&["demo", "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let suspects = answer["result"]["suspects"].as_array().expect("a list");
    assert_eq!(suspects.len(), 1, "{answer:#}");
    let s = &suspects[0];
    for key in ["pattern", "holder", "type", "objects"] {
        assert_eq!(s[key], second[key], "{key}");
    }
    let near = |ours: &serde_json::Value, truth: f64, what: &str| {
        let ours = ours.as_f64().expect("a number");
        assert!((ours / truth - 1.0).abs() < 0.02, "{what}: {ours}, planted {truth}");
    };
    let bytes = |l: &serde_json::Value| l["retained_bytes"].as_f64().expect("a number");
    near(&s["retained_bytes"], bytes(&second), "retained");
    near(&s["growth_bytes_per_hour"], (bytes(&second) - bytes(&first)) / seconds * 3600.0, "growth");

    let out = gosleuth(&["demo"]);
    let text = String::from_utf8_lossy(&out.stdout);
    for word in ["One suspect", "global-map", "main.cache", "10,000 main.User", "do: "] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}
