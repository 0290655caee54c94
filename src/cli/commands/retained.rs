//! `retained`: the dominator tree.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::{Failure, Session, TargetArgs, print, why::object_at};
use crate::{
    analysis::{
        locals::LocalHolders,
        retained::{Entry, Shape, Tree},
    },
    base::units,
};

/// Who retains how much: the dominator tree from the roots, or from one object.
#[derive(Args, Debug)]
pub struct RetainedArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Begin at the object at this address instead of the roots.
    #[arg(long, value_name = "ADDR")]
    at: Option<String>,
    /// Levels to open.
    #[arg(long, default_value_t = 6)]
    depth: u32,
    /// Leave out what retains less than this many bytes; default a hundredth of all.
    #[arg(long)]
    min: Option<u64>,
    /// Rows per level.
    #[arg(long, default_value_t = 12)]
    limit: usize,
    /// Open the tables inside maps as levels of their own.
    #[arg(long)]
    internals: bool,
}

#[derive(Serialize)]
struct RetainedResult {
    live_bytes: u64,
    /// Where the tree begins, if not at the roots.
    at: Option<Entry>,
    tree: Vec<Entry>,
}

pub fn run(args: &RetainedArgs) -> Result<(), Failure> {
    let mut s = Session::open_typed(&args.target)?;
    let scene = s.scene()?;
    let (holders, dom) = s.dominators(&scene)?;
    let live_bytes = dom.retained(dom.root());
    let start = match &args.at {
        Some(word) => {
            let id = object_at(&scene.heap, word)?;
            let node = dom.object(id);
            Some(node.ok_or_else(|| Failure::new(format!("{word} is not alive: nothing reaches it"), None))?)
        }
        None => None,
    };
    let all = start.map_or(live_bytes, |n| dom.retained(n));
    let shape = Shape {
        depth: args.depth.min(64),
        min_bytes: args.min.unwrap_or(all / 100),
        width: args.limit.max(1),
        internals: args.internals,
    };
    let result = s.stage("tree", |rt| {
        let crate::cli::session::Scene { heap, built, typed } = &scene;
        let tree =
            Tree { rt, heap, built, typed, holders: &holders, dom: &dom, locals: LocalHolders::of(built, typed) };
        match start {
            Some(n) => {
                let mut e = tree.entry(n, shape);
                let children = std::mem::take(&mut e.children);
                RetainedResult { live_bytes, at: Some(e), tree: children }
            }
            None => RetainedResult { live_bytes, at: None, tree: tree.open(dom.root(), shape) },
        }
    });
    let e = s.envelope("retained", result);
    print(&args.target, &e, text)
}

fn text(out: &mut dyn Write, r: &RetainedResult) -> io::Result<()> {
    match &r.at {
        Some(e) => writeln!(
            out,
            "{} {} retains {}, objects: {}; alive in all: {}.\n",
            e.addr.unwrap_or_default(),
            e.name,
            units::bytes(e.retained_bytes),
            units::count(e.objects),
            units::bytes(r.live_bytes)
        )?,
        None => writeln!(out, "{} alive. What would be freed without each holder:\n", units::bytes(r.live_bytes))?,
    }
    let all = r.at.as_ref().map_or(r.live_bytes, |e| e.retained_bytes);
    rows(out, &r.tree, all, 0)
}

fn rows(out: &mut dyn Write, list: &[Entry], all: u64, depth: usize) -> io::Result<()> {
    for e in list {
        let addr = e.addr.map(|a| format!("{a} ")).unwrap_or_default();
        let local = e.held_by.as_ref().map(|l| format!(" in local {l}")).unwrap_or_default();
        let times = if e.nodes > 1 { format!("{} x ", units::count(e.nodes)) } else { String::new() };
        writeln!(
            out,
            "{:>10} {:>7}  {}{times}{addr}{}{local}",
            units::bytes(e.retained_bytes),
            units::percent(e.retained_bytes, all),
            "  ".repeat(depth),
            e.name
        )?;
        rows(out, &e.children, all, depth + 1)?;
    }
    Ok(())
}
