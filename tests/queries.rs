//! top --by, objects, show, why and retained: what they say of planted objects, and that their sums agree.

mod common;

use common::{Fixture, RELEASES, answer};
use serde_json::Value;

fn sum(rows: &Value, member: &str) -> u64 {
    rows.as_array().expect("rows").iter().map(|r| r[member].as_u64().expect(member)).sum()
}

#[test]
fn planted_users_are_found_and_explained() {
    for release in RELEASES {
        for variant in ["dwarf", "stripped"] {
            let Some(fixture) = Fixture::start(release, variant, "leaks", &["global-map"]) else { continue };
            let pid = fixture.pid();
            let truth = &fixture.ready["truth"]["leaks"][0];
            let (planted, name) = (truth["objects"].as_u64().expect("count"), truth["type"].as_str().expect("name"));
            let name = name.trim_start_matches('*');

            let Some(found) = answer(&["objects", &pid, name, "--limit", "1"]) else { return };
            let found = &found["result"];
            assert_eq!(found["count"], planted, "{release} {variant}");
            let object = found["rows"][0]["addr"].as_str().expect("an address").to_owned();

            let shown = answer(&["show", &pid, &object]).expect("answered before");
            let members = shown["result"]["object"]["members"].as_array().expect("members").clone();
            let texts: Vec<&Value> = members.iter().filter(|m| m["type"] == "string").collect();
            assert!(!texts.is_empty(), "{release} {variant}: {members:?}");
            for m in &members {
                assert!(m["value"].is_null() || m["value"] == "nil", "contents are not shown unless asked for: {m}");
            }
            for t in texts {
                let (len, bytes) = (t["len"].as_u64().expect("len"), t["to"]["bytes"].as_u64().expect("bytes"));
                assert!(len <= bytes, "{release} {variant}: {t}");
            }
            let shown = answer(&["show", &pid, &object, "--show-values"]).expect("answered before");
            let text = shown.to_string();
            assert!(text.contains("user-"), "the fixture names its users user-N: {text}");

            let why = answer(&["why", &pid, name]).expect("answered before");
            let of_type = &why["result"]["of_type"];
            assert_eq!(of_type["objects"], planted);
            assert_eq!(of_type["ways"][0]["share_permille"], 1000, "{release} {variant}: {of_type}");
            if variant == "dwarf" {
                assert_eq!(of_type["ways"][0]["holder"], truth["holder"], "{release}");
            }
            let why = answer(&["why", &pid, &object]).expect("answered before");
            assert_eq!(why["result"]["state"], "alive");
            let steps = why["result"]["paths"][0]["steps"].as_array().expect("steps").clone();
            assert_eq!(steps.last().expect("steps")["addr"], object.as_str());
        }
    }
}

#[test]
fn sums_agree() {
    for release in ["1.19", "1.23", "1.24", "1.27"] {
        let Some(fixture) = Fixture::start(release, "dwarf", "values", &[]) else { continue };
        let pid = fixture.pid();
        let Some(top) = answer(&["top", &pid, "--limit", "0"]) else { return };
        let live = &top["result"]["live"];
        for by in ["package", "module", "sizeclass", "root"] {
            let rows = answer(&["top", &pid, "--limit", "0", "--by", by]).expect("answered before");
            let rows = &rows["result"]["rows"];
            assert_eq!(sum(rows, "bytes"), live["bytes"].as_u64().expect("bytes"), "{release} by {by}");
            assert_eq!(sum(rows, "objects"), live["objects"].as_u64().expect("count"), "{release} by {by}");
        }
        let all = ["retained", &pid, "--depth", "1", "--min", "0", "--limit", "1000000"];
        let tree = answer(&all).expect("answered before");
        let tree = &tree["result"];
        assert_eq!(tree["live_bytes"], live["bytes"], "{release}");
        assert_eq!(sum(&tree["tree"], "retained_bytes"), live["bytes"].as_u64().expect("bytes"), "{release}");
        // The module's own objects are among its packages.
        let packages = answer(&["top", &pid, "--limit", "0", "--by", "package"]).expect("answered before");
        let names: Vec<&str> =
            packages["result"]["rows"].as_array().expect("rows").iter().filter_map(|r| r["name"].as_str()).collect();
        assert!(names.contains(&"main"), "{release}: {names:?}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let Some(fixture) = Fixture::start("1.26", "dwarf", "leaks", &["global-map"]) else { return };
    let pid = fixture.pid();
    if answer(&["top", &pid]).is_none() {
        return;
    }
    for (args, says) in [
        (["why", &pid, "main.Nowhere"], "nothing alive is of a type called"),
        (["objects", &pid, "main.Nowhere"], "no type of this program"),
        (["show", &pid, "main.User"], "is not an address"),
        (["show", &pid, "0x10"], "is not in the Go heap"),
    ] {
        let out = common::gosleuth(&args);
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
}
