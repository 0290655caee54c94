//! Objects that only local variables hold: their types, how those are known, and what the roots are called, against what the
//! program says of itself.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{Fixture, RELEASES, view::view};
use gosleuth::{
    analysis::holders::root_name,
    base::{Addr, KnownBy},
    runtime::OpenOptions,
    target::{HoldMode, Target},
};

/// Where it optimises, the compiler says nothing of named results before they are returned (their location is empty), and nothing of
/// what lies on the stack without a name where no live word points to it.
fn is_not_described(variant: &str, holder: &str) -> bool {
    variant == "dwarf" && ["main.result.", "main.onStack."].iter().any(|h| holder.starts_with(h))
}

/// Generic code has no types of its own, and some are told without a variable.
fn may_be_unknown(holder: &str) -> bool {
    holder.is_empty() || holder.contains("[...]")
}

#[test]
fn what_only_locals_hold_has_its_type_and_its_holders_name() {
    let mut looked = 0;
    let mut failed = Vec::new();
    for release in RELEASES {
        for variant in ["dwarf", "noopt", "stripped"] {
            let Some(f) = Fixture::start(release, variant, "locals", &[]) else { continue };
            let target = match Target::attach(f.pid().parse().expect("a number"), HoldMode::Freeze) {
                Ok(t) => Arc::new(t),
                Err(e) => {
                    println!("skipped: {e}");
                    continue;
                }
            };
            let v = view(&target, &OpenOptions::default());
            let planted = f.ready["truth"]["locals"].as_array().expect("a list");
            let (mut typed, mut named, mut held) = (0, 0, 0);
            let mut wrong = Vec::new();
            let mut missing = Vec::new();
            // Several may be told of one object.
            let mut holders: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
            let addr = |p: &serde_json::Value| {
                let text = p["addr"].as_str().expect("an address").trim_start_matches("0x");
                u64::from_str_radix(text, 16).expect("hex")
            };
            for p in planted {
                holders.entry(addr(p)).or_default().push(p["holder"].as_str().expect("a name"));
            }
            for p in planted {
                let (at, holder) = (addr(p), p["holder"].as_str().expect("a name"));
                let said = p["type"].as_str().expect("a type");
                let (vague, said) = said.strip_prefix('?').map_or((false, said), |s| (true, s));
                // A closure is called by its function.
                let said = &said.replace("closure ", "func ");
                // A string of the program's own data, where the library did not copy it.
                let Some((id, _)) = v.heap.find(Addr(at)) else { continue };
                assert!(v.built.graph.reachable.get(id.index()), "Go {release} {variant}: {holder} is alive");
                let known = v.typed.typing.known_by(id);
                match v.typed.name(id) {
                    Some(name) if name == said => typed += usize::from(known > KnownBy::Guessed),
                    // Values without pointers below 16 bytes share a block, which is called after one of them.
                    Some(_) if v.heap.span_of(id).noscan && v.heap.extent(id).1 == 16 => typed += 1,
                    // Guesses may be wrong, and are marked.
                    Some(name) if known > KnownBy::Guessed => wrong.push(format!("{holder}: {name}, not {said}")),
                    _ if vague || is_not_described(variant, holder) || may_be_unknown(holder) => typed += 1,
                    other => missing.push(format!("{holder}: {other:?} ({known:?}), not {said}")),
                }
                if holder.is_empty() {
                    continue;
                }
                let roots = v.built.graph.roots.iter().enumerate().filter(|(_, r)| r.target == id);
                let names: Vec<String> = roots.map(|(i, _)| root_name(&v.rt, &v.built, &v.typed, i)).collect();
                held += 1;
                let right = |n: &String| {
                    holders[&at]
                        .iter()
                        .any(|h| n.strip_prefix(&format!("local {h}")).is_some_and(|r| r.starts_with([' ', '[', '.'])))
                };
                match names.iter().any(right) {
                    true => named += 1,
                    false if is_not_described(variant, holder) => {}
                    false => missing.push(format!("{holder}: held by {names:?}")),
                }
            }
            println!("Go {release} {variant}: {typed} of {} typed, {named} of {held} named", planted.len());
            failed.extend(wrong.iter().map(|w| format!("Go {release} {variant}: wrong: {w}")));
            // Without DWARF the code tells the receivers of methods, and what the allocator gave.
            if variant == "stripped" && 2 * typed < planted.len() {
                failed.push(format!("Go {release} stripped: {typed} of {} typed", planted.len()));
            }
            if variant != "stripped" {
                failed.extend(missing.iter().map(|w| format!("Go {release} {variant}: missing: {w}")));
            }
            looked += 1;
        }
    }
    println!("looked at {looked} programs");
    assert!(failed.is_empty(), "{failed:#?}");
}
