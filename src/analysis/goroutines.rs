//! Goroutines grouped by equal stacks, with inlined frames and lines.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    base::Goid,
    graph::build::Built,
    image::FuncId,
    runtime::{Runtime, sched::Status, stack::Stack},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StackFrame {
    pub function: String,
    pub file: String,
    pub line: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct Group {
    pub count: u64,
    pub status: Status,
    pub wait_reason: String,
    /// Since a collection first saw it waiting; absent until one has (the runtime keeps no other figure).
    pub longest_wait_s: Option<f64>,
    pub stack: Vec<StackFrame>,
    pub goids: Vec<Goid>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Goroutines {
    pub count: u64,
    pub groups: Vec<Group>,
}

/// Logical frames, innermost first; wrappers and `runtime.goexit` are left out as the runtime's own dump does.
pub fn symbolize(rt: &Runtime, stack: &Stack) -> Vec<StackFrame> {
    let mut out: Vec<StackFrame> = Vec::new();
    for f in &stack.frames {
        let Some(func) = rt.image.pclntab.find(f.pc) else { continue };
        if func.name() == "runtime.goexit" {
            continue;
        }
        for l in func.inline_frames(f.lookup) {
            // A compiler-made wrapper is shown only where it called a panic (runtime/traceback.go elideWrapperCalling).
            let panicked = out.last().is_some_and(|f| PANICS.contains(&f.function.as_str()));
            if l.func_id == FuncId::Wrapper && !panicked {
                continue;
            }
            out.push(StackFrame { function: plain_name(l.function), file: l.file.to_owned(), line: l.line });
        }
    }
    out
}

/// Generic arguments as the runtime prints them: `F[go.shape.int]` is `F[...]` (runtime/traceback.go printFuncName).
fn plain_name(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(i), Some(j)) if i < j => format!("{}[...]{}", &name[..i], &name[j + 1..]),
        _ => name.to_owned(),
    }
}

const PANICS: [&str; 3] = ["runtime.gopanic", "runtime.sigpanic", "runtime.panicwrap"];

/// `now` is the target's nanotime (CLOCK_MONOTONIC) where it is known.
pub fn group(rt: &Runtime, built: &Built, now: Option<u64>) -> Goroutines {
    let mut index: HashMap<(Vec<u64>, Status, &str), usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (g, stack) in built.goroutines.iter().zip(&built.stacks) {
        let pcs: Vec<u64> = stack.frames.iter().map(|f| f.pc.0).collect();
        let i = *index.entry((pcs, g.status, g.wait_reason.as_str())).or_insert_with(|| {
            groups.push(Group {
                count: 0,
                status: g.status,
                wait_reason: g.wait_reason.clone(),
                longest_wait_s: None,
                stack: symbolize(rt, stack),
                goids: Vec::new(),
            });
            groups.len() - 1
        });
        let group = &mut groups[i];
        group.count += 1;
        group.goids.push(g.goid);
        if let Some(now) = now.filter(|_| g.waitsince != 0)
            && let Some(ns) = now.checked_sub(g.waitsince)
        {
            let s = ns as f64 / 1e9;
            group.longest_wait_s = Some(group.longest_wait_s.map_or(s, |w| w.max(s)));
        }
    }
    groups.sort_by(|a, b| b.count.cmp(&a.count).then(a.goids.cmp(&b.goids)));
    Goroutines { count: built.goroutines.len() as u64, groups }
}
