//! `show`: one object's members.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::{Failure, Scene, Session, TargetArgs, print, why::object_at};
use crate::{
    analysis::fields::{Fields, Member, Reader},
    base::units,
};

/// The members of one object: what they point at and how long they are.
#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Address of the object (any address inside it).
    addr: String,
    /// Read out numbers and texts, too: contents of the program's memory.
    #[arg(long)]
    show_values: bool,
    /// Members to show; 0 for all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Serialize)]
struct ShowResult {
    alive: bool,
    /// Free slot, garbage that is not swept yet, or alive.
    state: &'static str,
    object: Fields,
}

pub fn run(args: &ShowArgs) -> Result<(), Failure> {
    let mut s = Session::open_typed(&args.target)?;
    s.needs_memory("what the members of an object hold")?;
    let (Scene { heap, built, typed }, fields) = s.scene_and(|rt, scene| {
        let id = object_at(&scene.heap, &args.addr)?;
        let limit = if args.limit == 0 { usize::MAX } else { args.limit };
        let reader = Reader { rt, heap: &scene.heap, typed: &scene.typed, values: args.show_values, limit };
        reader.object(id).map(|f| (id, f)).map_err(|e| Failure::new(e.to_string(), None))
    })?;
    let (id, object) = fields;
    let alive = built.graph.reachable.get(id.index());
    let state = match alive {
        true => "alive",
        false if heap.is_allocated(id) => "garbage",
        false => "free slot",
    };
    drop(typed);
    let e = s.envelope("show", ShowResult { alive, state, object });
    print(&args.target, &e, text)
}

fn text(out: &mut dyn Write, r: &ShowResult) -> io::Result<()> {
    let o = &r.object;
    writeln!(
        out,
        "{} {} ({}; type {}), {}",
        o.addr,
        o.type_name.as_deref().unwrap_or("(untyped)"),
        units::bytes(o.bytes),
        format!("{:?}", o.known_by).to_lowercase(),
        r.state
    )?;
    let width = o.members.iter().map(|m| m.path.len()).max().unwrap_or(0).min(48);
    for m in &o.members {
        writeln!(out, "  {:>6}  {:width$}  {}{}", format!("+{}", m.offset), m.path, m.type_name, says(m))?;
    }
    if o.left_out > 0 {
        writeln!(out, "  ... and {} more (--limit 0 shows all)", units::count(o.left_out))?;
    }
    if o.members.is_empty() {
        writeln!(out, "  no members that can be told apart")?;
    }
    Ok(())
}

fn says(m: &Member) -> String {
    let mut s = String::new();
    if let Some(n) = m.len {
        s.push_str(&format!("  len {n}"));
    }
    if let Some(n) = m.cap {
        s.push_str(&format!(" cap {n}"));
    }
    if let Some(to) = &m.to {
        s.push_str(&format!("  -> {}", to.addr));
        if let Some(name) = &to.type_name {
            s.push_str(&format!(" {name}"));
        }
        if let Some(b) = to.bytes {
            s.push_str(&format!(" ({})", units::bytes(b)));
        }
    }
    if let Some(v) = &m.value {
        s.push_str(&format!(" = {v}"));
    }
    s
}
