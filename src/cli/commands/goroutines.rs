//! `goroutines`: groups of equal stacks, filters, other forms.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use clap::{Args, ValueEnum};

use super::{Failure, Session, TargetArgs, print};
use crate::{
    analysis::{
        goroutines::{self, By, Selection},
        locks::leaks,
    },
    graph::build::{self, Built},
    output::goroutines as forms,
    runtime::sched::{labels, waits},
};

/// Goroutines, grouped by equal stacks.
#[derive(Args, Debug)]
pub struct GoroutinesArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Groups to show; 0 for all.
    #[arg(long, default_value_t = 25)]
    limit: usize,
    /// Only those with this status: waiting, runnable, running, syscall.
    #[arg(long)]
    state: Option<String>,
    /// Only those whose wait reason contains this.
    #[arg(long, value_name = "TEXT")]
    wait_reason: Option<String>,
    /// Only those with a function on the stack whose name contains this.
    #[arg(long, value_name = "TEXT")]
    function: Option<String>,
    /// Only those started by a function whose name contains this.
    #[arg(long, value_name = "TEXT")]
    creator: Option<String>,
    /// What to count by.
    #[arg(long, value_enum, default_value_t = By::Stack)]
    by: By,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Only those that nothing can wake any more (reads the heap).
    #[arg(long)]
    leaks: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
    /// As the runtime prints a dump.
    Debug2,
    /// Lines for flame graph programs.
    Folded,
    /// A flame graph.
    Svg,
    /// A goroutine profile for go tool pprof.
    Pprof,
}

/// CLOCK_MONOTONIC of this machine, which is the target's nanotime when the target runs here.
pub(super) fn nanotime() -> Option<u64> {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(t.tv_sec()).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::try_from(t.tv_nsec()).ok()?)
}

pub fn run(args: &GoroutinesArgs) -> Result<(), Failure> {
    let (all, limit, format) = (args, args.limit, args.format);
    let args = &args.target;
    let mut s = Session::open(args)?;
    let live = s.is_live();
    // When a core was written, nobody says in these terms.
    let now = match s.saved() {
        Some(file) => file.meta.now_ns,
        None => nanotime().filter(|_| live),
    };
    let mut proven = None;
    let built = if all.leaks {
        let heap = s.heap()?;
        let built = s.graph(&heap)?;
        let waits = s.stage("waits", |rt| waits::read(rt, &built.goroutines, &built.stacks));
        let found = s.stage("leaks", |_| leaks::proven(&heap, &built, &waits));
        proven = Some(found.into_iter().collect::<BTreeSet<usize>>());
        built
    } else if let Some(file) = s.saved() {
        let (goroutines, stacks) = file.goroutines()?;
        Built { goroutines, stacks, ..Built::default() }
    } else {
        let found = s.stage("goroutines", build::goroutines);
        let (goroutines, stacks) = match (found, s.rt.target.missed()) {
            // Stacks that were read in time are right: the others are cut short, and the answer says so.
            (Ok(found), _) => found,
            (Err(_), Some(missed)) => return Err(s.missed(missed)),
            (Err(e), None) => return Err(e.into()),
        };
        Built { goroutines, stacks, ..Built::default() }
    };
    let labels: Vec<_> = s.stage("labels", |rt| built.goroutines.iter().map(|g| labels::read(rt, g)).collect());
    s.rt.target.release();
    let chosen = s.stage("select", |rt| {
        let by = Selection {
            state: all.state.clone(),
            wait_reason: all.wait_reason.clone(),
            function: all.function.clone(),
            creator: all.creator.clone(),
        };
        goroutines::select(rt, &built, &by)
    });
    let chosen: Vec<usize> = match &proven {
        Some(found) => chosen.into_iter().filter(|i| found.contains(i)).collect(),
        None => chosen,
    };
    if format == Format::Debug2 {
        let traces = goroutines::traces(&s.rt, &built, &chosen, &labels, now);
        return Ok(forms::debug2(&mut io::BufWriter::new(io::stdout().lock()), &traces)?);
    }
    let mut g = s.stage("group", |rt| goroutines::group(rt, &built, &chosen, &labels, all.by, now));
    g.proven_leaks = proven.map(|_| chosen.iter().map(|&i| built.goroutines[i].goid).collect());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let time = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_nanos() as u64);
    match format {
        Format::Folded => return Ok(forms::folded(&mut out, &g).and_then(|()| out.flush())?),
        Format::Svg => return Ok(forms::svg(&mut out, &g).and_then(|()| out.flush())?),
        Format::Pprof => {
            return Ok(forms::pprof(&mut out, &g, live.then(time).flatten()).and_then(|()| out.flush())?);
        }
        _ => drop(out),
    }
    let json = args.json || format == Format::Json;
    if json && limit > 0 {
        g.groups.truncate(limit);
    }
    let e = s.envelope("goroutines", g);
    if json && !args.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &e).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    print(args, &e, |out, r| forms::text(out, r, limit))
}
