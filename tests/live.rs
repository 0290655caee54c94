//! Real processes of every release, against what they say about themselves.

mod common;

use std::path::Path;

use common::{Fixture, RELEASES, answer, fixture_path, gosleuth};
use serde_json::Value;

/// What `doctor --check-liveness` says.
fn liveness(f: &Fixture) -> Option<Value> {
    Some(answer(&["doctor", &f.pid(), "--check-liveness"])?["result"]["liveness"].take())
}

fn only_marked(l: &Value) -> Vec<String> {
    let list = l["examples_only_marked"].as_array().expect("a list");
    list.iter().filter_map(|o| Some(o["addr"].as_str()?.to_owned())).collect()
}

/// How many objects that the collector keeps and we do not reach are proven garbage: dropped or born while it marked (old arrays of
/// p.timers), so that a later collection frees them. What is alive through a root that we miss stays for ever, since the program
/// does nothing meanwhile. Closures that package unique makes in the background during each collection of Go 1.23 and 1.24 may
/// come to lie in the same slots each time: those are known by their code.
fn proven_floating(f: &mut Fixture, l: &Value) -> u64 {
    let mut left = only_marked(l);
    assert_eq!(l["only_marked"].as_u64(), Some(left.len() as u64), "all of them are named: {l:#}");
    let all = left.len() as u64;
    for _ in 0..4 {
        if left.is_empty() {
            break;
        }
        assert_eq!(f.command("gc")["ready"], true);
        let Some(next) = liveness(f) else { break };
        let kept = only_marked(&next);
        left.retain(|at| kept.contains(at));
    }
    if !left.is_empty() {
        let attach = |pid| gosleuth::target::Target::attach(pid, gosleuth::target::HoldMode::Freeze);
        let target = std::sync::Arc::new(attach(f.pid().parse().expect("a number")).expect("own child"));
        let v = common::view::view(&target, &gosleuth::runtime::OpenOptions::default());
        left.retain(|at| {
            let at = u64::from_str_radix(at.trim_start_matches("0x"), 16).expect("an address");
            let code = target.read_ptr(gosleuth::base::Addr(at)).unwrap_or_default();
            let function = v.rt.image.pclntab.find(code).filter(|f| f.entry() == code).map_or("", |f| f.name());
            println!("kept at {at:#x}: {function}");
            let of_unique =
                ["unique.", "internal/concurrent.", "internal/sync."].iter().any(|p| function.starts_with(p));
            !(of_unique && (23..=24).contains(&v.rt.image.go_version.minor))
        });
    }
    all - left.len() as u64
}

/// Agreement in parts per million without what is proven to float.
fn agreement(l: &Value, floating: u64) -> u64 {
    let n = |k: &str| l[k].as_u64().expect("a count");
    1_000_000 * n("both") / (n("both") + n("only_reachable") + n("only_marked") - floating)
}

/// What the collector keeps after a forced collection is what we reach, but for what floats in it, and the runtime counts the same
/// objects.
#[test]
fn liveness_agrees_with_the_collector() {
    for release in RELEASES {
        for (variant, name, args) in [
            ("dwarf", "values", &[][..]),
            ("noopt", "values", &[]),
            ("pie", "values", &[]),
            ("cgo", "values", &[]),
            ("stripped", "values", &[]),
            ("pie-stripped", "values", &[]),
            ("stripped", "goroutines", &["all"]),
            ("stripped", "heap", &["mixed", "100000"]),
            ("dwarf", "goroutines", &["all"]),
            ("dwarf", "heap", &["mixed", "100000"]),
        ] {
            let Some(mut f) = Fixture::start(release, variant, name, args) else { continue };
            let Some(l) = liveness(&f) else { continue };
            let n = |k: &str| l[k].as_u64().expect("a count");
            let floating = proven_floating(&mut f, &l);
            let ppm = agreement(&l, floating);
            println!(
                "Go {release} {variant} {name}: {} ppm of {}, {} unjudged; without {floating} that the next collections freed: {ppm} ppm",
                n("agreement_ppm"),
                n("marked_objects"),
                n("unjudged_objects")
            );
            assert_eq!(n("only_reachable"), 0, "Go {release} {variant} {name}: reached a free slot: {l:#}");
            assert!(n("only_marked") <= 8 && ppm >= 999_900, "Go {release} {variant} {name}: {ppm} ppm, {l:#}");
            let counted = f.ready["memstats"]["HeapObjects"].as_u64().expect("a count");
            // The program counts before it prints its line, and a thread may start between that and our look (its m, g0 and
            // gsignal are objects): up to 5 more were seen on a busy machine.
            assert!(
                (n("marked_objects") + n("unjudged_objects")).abs_diff(counted) <= 12 + n("only_marked"),
                "Go {release} {variant} {name}: runtime counts {counted}: {l:#}"
            );
            assert!(f.runs());
        }
    }
}

/// Where the program's goroutines stand still while the collector marks (those of the runtime go on), next to nothing floats: what it
/// keeps and what we reach is the same.
#[test]
fn nothing_floats_where_marking_stops_the_program() {
    for release in RELEASES {
        for (variant, name, args) in [
            ("dwarf", "values", &[][..]),
            ("stripped", "values", &[]),
            ("noopt", "values", &[]),
            ("dwarf", "goroutines", &["all"]),
            ("stripped", "heap", &["mixed", "100000"]),
        ] {
            let env = [("GODEBUG", "gcstoptheworld=1")];
            let Some(mut f) = Fixture::start_with(release, variant, name, args, &env) else { continue };
            let Some(l) = liveness(&f) else { continue };
            let floating = proven_floating(&mut f, &l);
            let ppm = agreement(&l, floating);
            println!(
                "Go {release} {variant} {name}: {} ppm of {}, proven {ppm}",
                l["agreement_ppm"], l["marked_objects"]
            );
            assert!(ppm >= 999_900 && floating <= 8, "Go {release} {variant} {name}: {l:#}");
            assert_eq!(l["only_reachable"], 0, "Go {release} {variant} {name}: {l:#}");
        }
    }
}

/// Objects that only a user arena holds are alive, those of a freed arena are not; the collector says the same.
#[test]
fn user_arenas() {
    for release in &RELEASES[1..] {
        let Some(f) = Fixture::start(release, "arenas", "arenas", &["all"]) else { continue };
        let Some(a) = answer(&["doctor", &f.pid(), "--check-liveness"]) else { continue };
        let l = &a["result"]["liveness"];
        println!("Go {release}: {} ppm of {}", l["agreement_ppm"], l["marked_objects"]);
        assert_eq!(l["only_reachable"], 0, "Go {release}: {a:#}");
        assert!(l["only_marked"].as_u64() <= Some(6), "Go {release}: {a:#}");
        let pid = f.pid().parse().expect("a number");
        let target = std::sync::Arc::new(
            gosleuth::target::Target::attach(pid, gosleuth::target::HoldMode::Freeze).expect("own child"),
        );
        let v = common::view::view(&target, &gosleuth::runtime::OpenOptions::default());
        target.release();
        let alive = |o: &Value| {
            let at = o["addr"]
                .as_str()
                .and_then(|a| u64::from_str_radix(a.trim_start_matches("0x"), 16).ok())
                .expect("an address");
            let (id, offset) = v.heap.find(gosleuth::base::Addr(at))?;
            (offset == 0 && v.heap.is_allocated(id) && v.built.graph.reachable.get(id.index())).then_some(id)
        };
        let list = |key: &str| f.ready["truth"][key].as_array().expect("a list").clone();
        assert!(list("planted").len() > 20);
        for o in list("planted") {
            assert!(alive(&o).is_some(), "Go {release}: {o} is alive");
        }
        // A slot of theirs may hold another object by now.
        let risen = list("freed").iter().filter(|o| alive(o).is_some()).count();
        assert!(risen < 10, "Go {release}: {risen} objects of a freed arena are alive");
    }
}

/// Between the end of marking and the first sweep marks alone say what is alive: a core taken by gdb at that moment.
#[test]
fn mark_termination() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    if Command::new("gdb").arg("--version").output().is_err() {
        println!("skipped: no gdb");
        return;
    }
    for release in ["1.19", "1.21", "1.24", "1.26", "1.27"] {
        for (name, args) in [("values", &["all"][..]), ("heap", &["mixed", "20000"])] {
            let Some(mut f) = Fixture::start(release, "dwarf", name, args) else { continue };
            let dir = tempfile::tempdir().expect("a directory");
            let core = dir.path().join("core");
            let core = core.to_str().expect("text");
            let mut gdb = Command::new("gdb");
            gdb.args([
                "-q",
                "-batch",
                "-p",
                &f.pid(),
                "-iex",
                "set auto-load no",
                "-ex",
                "handle SIGURG nostop noprint pass",
            ]);
            gdb.args(["-ex", "break runtime.gcMark", "-ex", "echo READY\\n", "-ex", "continue"]);
            gdb.args(["-ex", &format!("generate-core-file {core}"), "-ex", "delete", "-ex", "detach"]);
            let mut gdb = gdb.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("gdb starts");
            let mut out = BufReader::new(gdb.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
            let attached = out.by_ref().any(|l| l.contains("READY"));
            // gdb lets it run now; the command waits in the pipe until then.
            f.send("gc");
            let said: Vec<String> = out.collect();
            let ended = gdb.wait().expect("our child");
            if !attached || !said.iter().any(|l| l.contains("Saved corefile")) {
                println!("skipped: gdb took no core of Go {release} {name}: {ended} {said:?}");
                continue;
            }
            assert_eq!(f.line()["ready"], true, "Go {release} {name}: it goes on");
            let Some(a) = answer(&["overview", core]) else { continue };
            assert_eq!(a["result"]["gc"]["phase"], "mark termination", "Go {release} {name}: {}", a["result"]["gc"]);
            let Some(a) = answer(&["doctor", core, "--check-liveness"]) else { continue };
            let l = &a["result"]["liveness"];
            println!("Go {release} {name}: {} ppm of {} at mark termination", l["agreement_ppm"], l["marked_objects"]);
            assert_eq!(l["only_reachable"], 0, "Go {release} {name}: {a:#}");
            assert!(l["only_marked"].as_u64() <= Some(12), "Go {release} {name}: {a:#}");
        }
    }
}

/// With DWARF at least 97 % of the live bytes have a type that is no guess.
#[test]
fn types_are_known() {
    for release in RELEASES {
        for variant in ["dwarf", "pie", "cgo", "noopt"] {
            let Some(f) = Fixture::start(release, variant, "values", &["all"]) else { continue };
            let Some(a) = answer(&["top", &f.pid()]) else { continue };
            let c = &a["result"]["coverage"];
            let bytes = |k: &str| c[k].as_f64().expect("bytes");
            let sure = bytes("exact_bytes") + bytes("propagated_bytes");
            let share = 100.0 * sure / (sure + bytes("guessed_bytes") + bytes("unknown_bytes"));
            println!("Go {release} {variant}: {share:.2} % of the live bytes typed, {c}");
            assert!(share >= 97.0, "Go {release} {variant}: {share:.2} % {c}");
        }
    }
}

/// The fixture planted so many users: all of them are typed, none is invented.
#[test]
fn planted_objects_are_typed() {
    for (release, variant) in RELEASES.into_iter().flat_map(|r| [(r, "dwarf"), (r, "stripped")]) {
        let Some(f) = Fixture::start(release, variant, "leaks", &["global-map"]) else { continue };
        let Some(a) = answer(&["top", &f.pid(), "--limit", "0"]) else { continue };
        let planted = f.ready["truth"]["leaks"][0]["objects"].as_u64().expect("a count");
        let rows = a["result"]["rows"].as_array().expect("rows");
        let row = rows
            .iter()
            .find(|r| r["name"] == "main.User")
            .unwrap_or_else(|| panic!("Go {release} {variant}: no users"));
        let c = &a["result"]["coverage"];
        println!("Go {release} {variant}: {row} of {planted}, coverage {c}");
        assert_eq!(row["objects"].as_u64(), Some(planted), "Go {release} {variant}");
    }
}

/// (goid -> function names, innermost first) from a `debug=2` dump.
fn dumped(text: &str) -> Vec<(u64, Vec<String>)> {
    text.split("\n\n")
        .filter_map(|block| {
            let mut lines = block.lines();
            let id = lines.next()?.strip_prefix("goroutine ")?.split(' ').next()?.parse().ok()?;
            let names = lines
                .filter(|l| !l.starts_with('\t') && !l.starts_with("created by "))
                .map(|l| match l.rfind('(') {
                    Some(i) if l.ends_with(')') => l[..i].to_owned(),
                    _ => l.to_owned(),
                })
                .collect();
            Some((id, names))
        })
        .collect()
}

/// The stacks of parked goroutines equal the runtime's own dump of the same quiet process, inlined frames included.
#[test]
fn stacks_equal_the_runtimes_own_dump() {
    let variants = ["dwarf", "stripped", "pie-stripped"];
    for (release, variant) in RELEASES.into_iter().flat_map(|r| variants.map(|v| (r, v))) {
        let Some(mut f) = Fixture::start(release, variant, "goroutines", &["all"]) else { continue };
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("stacks");
        assert_eq!(f.command(&format!("stacks {}", path.display()))["ok"], true);
        let dump = dumped(&std::fs::read_to_string(&path).expect("a dump"));
        let Some(a) = answer(&["goroutines", &f.pid(), "--limit", "0"]) else { continue };
        let groups = a["result"]["groups"].as_array().expect("groups");
        let mut compared = 0;
        for (id, expected) in dump {
            let ours = groups
                .iter()
                .find(|g| g["goids"].as_array().is_some_and(|ids| ids.contains(&Value::from(id))))
                .unwrap_or_else(|| panic!("Go {release} {variant}: goroutine {id} is missing"));
            // Goroutine 1 took the dump and has gone on; running goroutines moved meanwhile.
            if id == 1 || ours["status"] == "running" || ours["status"] == "runnable" {
                continue;
            }
            let names: Vec<&str> =
                ours["stack"].as_array().expect("frames").iter().filter_map(|s| s["function"].as_str()).collect();
            // The dump leaves out runtime frames and calls runtime.gopanic "panic"; generic arguments are written "[...]" in both.
            let user = |n: &&&str| **n != "panic" && (!n.starts_with("runtime.") || n.starts_with("runtime.main"));
            let names: Vec<&str> = names.iter().filter(user).copied().collect();
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            let expected: Vec<&str> = expected.iter().filter(user).copied().collect();
            // Of a deep stack the dump shows the innermost 50 or 100 frames (1.19 and 1.21 do not say so): compare those.
            let elided = expected.iter().position(|e| e.contains("frames elided"));
            let shown = elided.or((expected.len() >= 90).then_some(expected.len())).unwrap_or(names.len());
            assert_eq!(
                names.get(..shown),
                expected.get(..elided.unwrap_or(expected.len())),
                "Go {release} {variant}: goroutine {id}"
            );
            compared += 1;
        }
        println!("Go {release} {variant}: {compared} goroutines compared");
        assert!(compared >= 15, "Go {release} {variant}: only {compared} goroutines compared");
    }
}

/// A program that allocates, collects and starts threads while it is looked at keeps its own data intact, and a program
/// of tight loops (which only a signal can preempt) goes on collecting.
#[test]
fn looking_often_does_no_harm() {
    for (release, name, args) in [("1.21", "busy", &["churn"][..]), ("1.26", "busy", &["churn"]), ("1.26", "spin", &[])]
    {
        let Some(mut f) = Fixture::start(release, "dwarf", name, args) else { continue };
        let pid = f.pid();
        for _ in 0..40 {
            let Some(a) = answer(&["doctor", &pid, "--check-liveness"]) else { return };
            assert_eq!(a["hold"]["mode"], "freeze");
        }
        let before = f.command("progress");
        std::thread::sleep(std::time::Duration::from_secs(2));
        let after = f.command("progress");
        println!("{release} {name}: {before} then {after}");
        assert_ne!(before, after, "{release} {name} stands still");
        assert_ne!(after["ok"], false, "{release} {name}: {after}");
        assert!(f.runs());
    }
}

/// Frames whose live words no map of the function tells: of functions that reflection made, and with variables so large that a program makes
/// their mask (up to Go 1.23). The collector keeps what they hold, and so do we.
#[test]
fn odd_stacks_keep_what_the_collector_keeps() {
    for release in RELEASES {
        for (variant, scenario) in [
            ("stripped", "reflect"),
            ("dwarf", "reflect"),
            ("cgo", "reflect"),
            ("stripped", "gcprog"),
            ("dwarf", "gcprog"),
        ] {
            let Some(mut f) = Fixture::start(release, variant, "odd", &[scenario]) else { continue };
            let Some(l) = liveness(&f) else { continue };
            let floating = proven_floating(&mut f, &l);
            let what = format!("Go {release} {variant} {scenario}");
            println!("{what}: {} both, {} only marked, {floating} float", l["both"], l["only_marked"]);
            assert_eq!(l["only_reachable"], 0, "{what}: {l:#}");
            assert_eq!(agreement(&l, floating), 1_000_000, "{what}: {l:#}");
        }
    }
}

/// By garble: nothing says what built it, names are not those of the source. The collector agrees all the same, stacks are
/// read, and `doctor` says what the names are worth.
#[test]
fn obfuscated_programs() {
    let Some(path) = fixture_path("1.27", "garbled", "values") else { return };
    let mut fixture = Fixture::of(&path, Path::new("."), &["all"], &[]);
    assert_eq!((&fixture.ready["ready"], &fixture.ready["go"]), (&Value::Bool(true), &Value::from("unknown")));
    fixture.command("gc");
    let pid = fixture.pid();
    let Some(doctor) = answer(&["doctor", &pid, "--check-liveness"]) else { return };
    let (target, result) = (&doctor["target"], &doctor["result"]);
    assert_eq!(
        (&target["go_version"], &target["go_version_source"]),
        (&Value::from("go1.27"), &Value::from("pattern"))
    );
    assert!(result["liveness"]["agreement_ppm"].as_u64() >= Some(999_900), "{}", result["liveness"]);
    assert_eq!(result["liveness"]["only_reachable"], 0, "{}", result["liveness"]);
    assert!(result["obfuscated"].as_str().is_some_and(|s| s.starts_with("runtime.main is in ")), "{result}");
    let text = String::from_utf8(gosleuth(&["doctor", &pid]).stdout).expect("text");
    assert!(text.contains("does not say its release") && text.contains("Obfuscated"), "{text}");
    let goroutines = answer(&["goroutines", &pid, "--limit", "0"]).expect("answered before");
    let goroutines = goroutines.to_string();
    assert!(goroutines.contains("runtime.gopark") && goroutines.contains("main.main"), "{goroutines}");

    let Some(plain) = Fixture::start("1.27", "stripped", "values", &["all"]) else { return };
    let doctor = answer(&["doctor", &plain.pid()]).expect("answered before");
    assert_eq!(doctor["result"]["obfuscated"], Value::Null);
}
