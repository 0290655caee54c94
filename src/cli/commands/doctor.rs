//! `doctor`: can this target be looked at, and what was found how.

use clap::Args;
use serde::Serialize;

use super::{Failure, Session, TargetArgs, print};
use crate::{
    analysis::liveness::{self, Liveness},
    base::Addr,
    output,
    runtime::layout::Global,
};

/// Can this target be looked at, and what was found how.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Compare what is reachable with what the collector keeps.
    #[arg(long)]
    check_liveness: bool,
}

#[derive(Serialize)]
struct DoctorResult {
    go_version: String,
    globals: Vec<FoundGlobal>,
    missing_globals: Vec<&'static str>,
    liveness: Option<Liveness>,
}

#[derive(Serialize)]
struct FoundGlobal {
    name: &'static str,
    addr: Addr,
    found_by: crate::image::FoundBy,
}

pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let (check, args) = (args.check_liveness, &args.target);
    let mut s = Session::open(args)?;
    let liveness = if check {
        let heap = s.heap()?;
        let built = s.graph(&heap)?;
        Some(s.stage("liveness", |_| liveness::check(&heap, &built.graph)))
    } else {
        None
    };
    let (mut globals, mut missing) = (Vec::new(), Vec::new());
    for &g in Global::ALL {
        match s.rt.globals.located(g) {
            Some(l) => globals.push(FoundGlobal { name: g.name(), addr: l.addr, found_by: l.found_by }),
            None => missing.push(g.name()),
        }
    }
    let result =
        DoctorResult { go_version: s.rt.image.go_version.raw.clone(), globals, missing_globals: missing, liveness };
    let e = s.envelope("doctor", result);
    print(args, &e, |out, r| {
        writeln!(
            out,
            "{} can be looked at: {}, layouts from DWARF, {} runtime variables located.",
            e.target.exe.as_deref().unwrap_or("the process".as_ref()).display(),
            r.go_version,
            r.globals.len()
        )?;
        r.liveness.as_ref().map_or(Ok(()), |l| output::liveness(out, l))
    })
}
