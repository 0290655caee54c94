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
            assert!(!why.to_string().contains("user-"), "keys are not shown unless asked for: {why}");

            // The fixture files each user under its name.
            let members = shown["result"]["object"]["members"].as_array().expect("members").clone();
            let user = members.iter().find(|m| m["path"] == ".Name").expect("a name")["value"].clone();
            let why = answer(&["why", &pid, &object, "--show-values"]).expect("answered before");
            let steps = why["result"]["paths"][0]["steps"].as_array().expect("steps").clone();
            let keys: Vec<&Value> = steps.iter().map(|s| &s["key"]).filter(|k| !k.is_null()).collect();
            assert_eq!(keys, [&user], "{release} {variant}: {steps:?}");
            let out = common::gosleuth(&["why", &pid, &object, "--show-values"]);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let said = format!("map[string]*main.User[{}]", user.as_str().expect("a text"));
            assert!(text.contains(&said), "{release} {variant}: {text}");
            // A part of the name and a pattern mean the same objects.
            for part in ["ain.Use", "*.User", "main.?ser"] {
                let of = answer(&["why", &pid, part, "--paths", "1"]).expect("answered before");
                let types = of["result"]["of_type"]["types"].as_array().expect("types").clone();
                assert!(types.contains(&name.into()), "{release} {variant} {part}: {types:?}");
            }
        }
    }
}

/// `net/http.Server` is the type that the runtime calls http.Server.
#[test]
fn types_are_found_by_the_path_of_their_package() {
    let Some(fixture) = Fixture::start("1.27", "stripped", "leaks", &["response-body-not-closed"]) else { return };
    let planted = &fixture.ready["truth"]["leaks"][0];
    let Some(all) = answer(&["objects", &fixture.pid(), planted["type"].as_str().expect("a name")]) else { return };
    assert_eq!(planted["type"], "net/http.persistConn");
    assert_eq!(all["result"]["count"], planted["objects"], "{all}");
}

#[test]
fn sums_agree() {
    for (release, variant) in [("1.19", "stripped"), ("1.23", "dwarf"), ("1.24", "stripped"), ("1.27", "dwarf")] {
        let Some(fixture) = Fixture::start(release, variant, "values", &[]) else { continue };
        let pid = fixture.pid();
        let Some(top) = answer(&["top", &pid, "--limit", "0"]) else { return };
        let live = &top["result"]["live"];
        untyped_objects_are_a_group(&pid, &top["result"]);
        for by in ["package", "module", "sizeclass", "spanclass", "root", "global", "goroutine", "frame"] {
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
        assert!(names.iter().all(|n| n.starts_with('(') || !n.contains(' ')), "{release}: {names:?}");
    }
}

/// Groups are counted by other code than types are: what has no type is a group of its own, every type has what it has in
/// the table of types.
fn untyped_objects_are_a_group(pid: &str, top: &Value) {
    let unknown = top["coverage"]["unknown_bytes"].as_u64().expect("bytes");
    assert!(unknown > 0, "nothing to look at: {}", top["coverage"]);
    let rows = |args: &[&str]| {
        let answer = answer(&[&["top", pid, "--limit", "0"], args].concat()).expect("answered before");
        answer["result"]["rows"].as_array().expect("rows").clone()
    };
    let bytes_of = |rows: &[Value], name: &str| -> u64 {
        rows.iter().filter(|r| r["name"] == name).filter_map(|r| r["bytes"].as_u64()).sum()
    };
    let typed = rows(&["--retained"]);
    for rows in [&typed, &rows(&["--by", "package"]), &rows(&["--by", "module"])] {
        assert_eq!(bytes_of(rows, "(type not known)"), unknown, "{pid}");
    }
    let table = top["rows"].as_array().expect("rows");
    let mut compared = 0;
    for name in typed.iter().filter_map(|r| r["name"].as_str()).filter(|n| *n != "(type not known)") {
        assert_eq!(bytes_of(&typed, name), bytes_of(table, name), "{name}");
        compared += 1;
    }
    assert!(compared > 50, "{compared} types only");
}

/// What is attached to planted objects is told, and that it does not keep them alive (Go 1.24 and later have all three).
#[test]
fn finalizers_cleanups_and_weak_pointers_are_marked() {
    for (release, variant) in [("1.21", "dwarf"), ("1.24", "dwarf"), ("1.27", "stripped")] {
        let Some(fixture) = Fixture::start(release, variant, "values", &["all"]) else { continue };
        let pid = fixture.pid();
        let planted = fixture.ready["truth"]["planted"].as_array().expect("planted").clone();
        for (name, kind) in
            [("gFinalized", "finalizer"), ("gCleaned", "cleanup"), ("gWeakOwner", "weak"), ("gUser", "nothing")]
        {
            let Some(plant) = planted.iter().find(|p| p["name"] == name) else {
                assert_eq!(release, "1.21", "{name}");
                continue;
            };
            let Some(why) = answer(&["why", &pid, plant["addr"].as_str().expect("an address")]) else { return };
            let attached = why["result"]["attached"].as_array().cloned().unwrap_or_default();
            let kinds: Vec<&Value> = attached.iter().map(|a| &a["kind"]).collect();
            match kind {
                "nothing" => assert!(kinds.is_empty(), "{release} {variant} {name}: {why}"),
                kind => assert_eq!(kinds, [kind], "{release} {variant} {name}"),
            }
            if kind == "finalizer" {
                assert_eq!(attached[0]["function"], "main.library.func1", "{release} {variant}");
            }
        }
        // Reached through its finalizer alone.
        let kept = planted.iter().find(|p| p["name"] == "gFinalized.kept").expect("planted")["addr"].clone();
        let why = answer(&["why", &pid, kept.as_str().expect("an address")]).expect("answered before");
        assert_eq!(why["result"]["paths"][0]["root"]["kind"], "finalizer", "{release} {variant}: {why}");
    }
}

/// 800 goroutines, each with a buffer of its own in its only frame: the fixture says how many bytes.
#[test]
fn what_goroutines_frames_and_classes_retain() {
    for (release, variant) in [("1.19", "stripped"), ("1.23", "dwarf"), ("1.27", "stripped")] {
        let Some(fixture) = Fixture::start(release, variant, "leaks", &["goroutine-pile-up"]) else { continue };
        let pid = fixture.pid();
        let truth = &fixture.ready["truth"]["leaks"][0];
        let figure = |name: &str| truth[name].as_u64().expect(name);
        let (planted, bytes) = (figure("objects"), figure("bytes"));
        let rows = |args: &[&str]| {
            let all = answer(&[&["top", &pid, "--limit", "0"], args].concat())?;
            Some(all["result"]["rows"].as_array().expect("rows").clone())
        };
        let Some(goroutines) = rows(&["--by", "goroutine"]) else { return };
        let waiting: Vec<&Value> =
            goroutines.iter().filter(|r| r["name"].as_str().is_some_and(|n| n.ends_with("(main.consume)"))).collect();
        assert_eq!(waiting.len() as u64, planted, "{release} {variant}");
        // Beside its buffer each keeps its channel, its own record and its place in the queue.
        for g in waiting {
            let kept = g["retained_bytes"].as_u64().expect("bytes");
            assert!((bytes / planted..bytes / planted + 1024).contains(&kept), "{release} {variant}: {g}");
        }
        let frames = rows(&["--by", "frame"]).expect("answered before");
        let frame = frames.iter().find(|r| r["name"] == "frame main.consume").expect("its frames");
        assert_eq!((&frame["bytes"], &frame["objects"]), (&bytes.into(), &planted.into()), "{release} {variant}");
        let classes = rows(&["--by", "spanclass", "--retained"]).expect("answered before");
        let size = format!("{} bytes, without pointers", bytes / planted);
        let class = classes.iter().find(|r| r["name"] == size.as_str()).expect("their class");
        // Pointer-free objects retain themselves.
        assert_eq!(class["retained_bytes"], class["bytes"], "{release} {variant}");
        assert!(class["bytes"].as_u64() >= Some(bytes), "{release} {variant}: {class}");
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
