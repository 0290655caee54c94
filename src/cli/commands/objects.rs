//! `objects`: the objects of a type.

use clap::Args;
use serde::Serialize;

use super::{Failure, Session, TargetArgs, print};
use crate::{
    analysis::selection,
    base::{Addr, KnownBy, units},
};

/// The objects of a type, heaviest first.
#[derive(Args, Debug)]
pub struct ObjectsArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Name of a type, or part of one.
    #[arg(value_name = "TYPE")]
    pattern: String,
    /// Objects to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
    /// Garbage that is not swept yet, too.
    #[arg(long)]
    garbage: bool,
}

#[derive(Serialize)]
struct ObjectsResult {
    types: Vec<String>,
    count: u64,
    bytes: u64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    addr: Addr,
    #[serde(rename = "type")]
    type_name: String,
    known_by: KnownBy,
    bytes: u64,
    /// 0 for garbage.
    retained_bytes: u64,
    alive: bool,
}

pub fn run(args: &ObjectsArgs) -> Result<(), Failure> {
    let mut s = Session::open_typed(&args.target)?;
    let scene = s.scene()?;
    let types = selection::types_named(&scene.typed, &args.pattern);
    if types.is_empty() {
        return Err(Failure::new(
            format!("no type of this program is called {:?} or contains it", args.pattern),
            Some("gosleuth top PID --limit 0 for the types there are"),
        ));
    }
    let objects = selection::objects_of(&scene.heap, &scene.built, &scene.typed, &types, args.garbage);
    let (_, dom) = s.dominators(&scene)?;
    let mut rows: Vec<Row> = objects
        .iter()
        .map(|&id| {
            let (addr, bytes) = scene.heap.extent(id);
            let node = dom.object(id);
            Row {
                addr,
                type_name: scene.typed.name(id).unwrap_or_default().to_owned(),
                known_by: scene.typed.typing.known_by(id),
                bytes,
                retained_bytes: node.map_or(0, |n| dom.retained(n)),
                alive: node.is_some(),
            }
        })
        .collect();
    rows.sort_by_key(|r| (std::cmp::Reverse(r.retained_bytes), r.addr));
    let mut names: Vec<String> = rows.iter().map(|r| r.type_name.clone()).collect();
    names.sort();
    names.dedup();
    let (count, bytes) = (rows.len() as u64, rows.iter().map(|r| r.bytes).sum());
    if args.limit > 0 {
        rows.truncate(args.limit);
    }
    let e = s.envelope("objects", ObjectsResult { types: names, count, bytes, rows });
    print(&args.target, &e, |out, r| {
        let of = match &r.types[..] {
            [one] => one.clone(),
            many => format!("objects of {} types", many.len()),
        };
        writeln!(out, "{} {of}, {}.\n", units::count(r.count), units::bytes(r.bytes))?;
        for row in &r.rows {
            let state = if row.alive { "" } else { "  (garbage)" };
            writeln!(
                out,
                "{}  {:>10}  retains {:>10}  {}{state}",
                row.addr,
                units::bytes(row.bytes),
                units::bytes(row.retained_bytes),
                row.type_name
            )?;
        }
        if (r.rows.len() as u64) < r.count {
            writeln!(out, "... and {} more (--limit 0 shows all)", units::count(r.count - r.rows.len() as u64))?;
        }
        Ok(())
    })
}
