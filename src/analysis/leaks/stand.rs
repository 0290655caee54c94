//! Where the goroutines of a pile stand: what their stacks have in common, as far in as most of them agree.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Case;
use crate::{
    analysis::goroutines::{StackFrame, created_by, symbolize},
    base::Addr,
    runtime::Runtime,
};

/// What most goroutines of a pile do.
#[derive(Clone, Debug, Serialize)]
pub struct Stand {
    /// The innermost common frame of the program or a module; of Go's own packages where no other is common.
    pub frame: StackFrame,
    /// How many have it on their stack.
    pub goroutines: u64,
    /// The `go` statement that started the first of them.
    pub started_by: Option<StackFrame>,
}

/// Follows the stacks inwards as long as three of four goroutines have the same function there. Cost: each distinct stack is
/// looked up once.
pub fn of(case: &Case, members: &[usize]) -> Option<Stand> {
    const MAX_STACKS: usize = 4096;
    let mut distinct: BTreeMap<Vec<Addr>, (usize, u64)> = BTreeMap::new();
    for &i in members {
        let Some(stack) = case.built.stacks.get(i) else { continue };
        let key: Vec<Addr> = stack.frames.iter().map(|f| f.pc).collect();
        if distinct.len() < MAX_STACKS || distinct.contains_key(&key) {
            distinct.entry(key).or_insert((i, 0)).1 += 1;
        }
    }
    // Outermost first.
    let mut alike: Vec<(Vec<StackFrame>, u64)> = distinct
        .into_values()
        .map(|(i, n)| (symbolize(case.rt, &case.built.stacks[i]).into_iter().rev().collect(), n))
        .collect();
    let mut best: Option<(StackFrame, u64)> = None;
    for depth in 0.. {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (stack, n) in &alike {
            if let Some(f) = stack.get(depth) {
                *counts.entry(&f.function).or_default() += n;
            }
        }
        let most = counts.into_iter().max_by_key(|c| c.1).filter(|c| c.1 * 4 >= members.len() as u64 * 3);
        let Some((function, n)) = most.map(|(f, n)| (f.to_owned(), n)) else { break };
        alike.retain(|(stack, _)| stack.get(depth).is_some_and(|f| f.function == function));
        let own = !is_gos(case.rt, &function);
        if own || best.as_ref().is_none_or(|(b, _)| is_gos(case.rt, &b.function) && !is_runtime(&function)) {
            let frame = alike.iter().max_by_key(|s| s.1).and_then(|(stack, _)| stack.get(depth)).cloned();
            best = frame.map(|f| (f, n)).or(best);
        }
    }
    let (frame, goroutines) = best?;
    let started_by = members.first().and_then(|&i| created_by(case.rt, &case.built.goroutines[i]));
    Some(Stand { frame, goroutines, started_by })
}

fn is_runtime(function: &str) -> bool {
    ["runtime.", "internal/", "sync.", "syscall."].iter().any(|p| function.starts_with(p))
}

/// A function of Go's own packages: their paths begin with a word without a dot, and so may the main module's.
fn is_gos(rt: &Runtime, function: &str) -> bool {
    let last = function.rfind('/').map_or(0, |i| i + 1);
    let end = function[last..].find('.').map_or(function.len(), |i| last + i);
    let package = &function[..end];
    let first = package.split('/').next().unwrap_or_default();
    let main = rt.image.build_info.as_ref().map_or("", |b| b.main.path.as_str());
    let own = !main.is_empty() && package.strip_prefix(main).is_some_and(|r| r.is_empty() || r.starts_with('/'));
    !(own || package == "main" || first.contains('.'))
}
