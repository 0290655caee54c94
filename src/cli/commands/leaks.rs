//! `leaks`: the verdict.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{
    analysis::leaks::{self, Case, Certainty, Look, Pattern, Suspect, Thresholds},
    base::units,
};

/// What leaks, who holds it, and what to do about it.
#[derive(Args, Debug)]
pub struct LeaksArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Look five times over this long, at equal distances, and tell what grew: 60s, 5m, 1h.
    #[arg(long = "for", value_parser = duration)]
    over: Option<Duration>,
    /// Smallest pile that is told, in bytes (1 MiB).
    #[arg(long, default_value_t = 1 << 20)]
    min: u64,
    /// Exit with 1 if suspects that are likely or sure retain more than this together (bytes, or 64MiB, 2GiB).
    #[arg(long, value_parser = size)]
    fail_over: Option<u64>,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (n, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let n: u64 = n.parse().map_err(|_| format!("{text:?} is not a time such as 60s, 5m, 1h"))?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?} is not a time such as 60s, 5m, 1h")),
    };
    n.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "too long".into())
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let (n, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let n: u64 = n.trim().parse().map_err(|_| format!("{text:?} is not a size such as 64MiB"))?;
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(format!("{text:?} is not a size such as 64MiB")),
    };
    n.checked_shl(shift).ok_or_else(|| "too large".into())
}

#[derive(Serialize)]
struct LeaksResult {
    live_objects: u64,
    live_bytes: u64,
    looks: usize,
    suspects: Vec<Suspect>,
}

/// One look at a target: the suspects, live objects, live bytes.
pub(super) fn look(s: &mut Session, limits: Thresholds) -> Result<(Look, u64, u64), Failure> {
    let at = Instant::now();
    let (scene, evidence, ledger) = s.scene_with_evidence()?;
    let (holders, dom) = s.dominators(&scene)?;
    let Scene { heap, built, typed } = &scene;
    let live_bytes = dom.retained(dom.root());
    let live_objects = built.graph.reachable.count_ones() as u64;
    let mut suspects = s.stage("verdict", |rt| {
        let case = Case { rt, heap, built, typed, evidence: &evidence, holders: &holders, dom: &dom, live_bytes };
        leaks::suspects(&case, limits)
    });
    suspects.extend(ledger.iter().flat_map(|l| leaks::outside_go(l, limits)));
    Ok((Look { at, suspects }, live_objects, live_bytes))
}

pub fn run(args: &LeaksArgs) -> Result<(), Failure> {
    let limits = Thresholds { bytes: args.min, ..Thresholds::default() };
    let mut looks = Vec::new();
    let mut session = Session::open_typed(&args.target)?;
    let taken = if args.over.is_some() { limits.for_growth() } else { limits };
    let (first, mut live_objects, mut live_bytes) = look(&mut session, taken)?;
    let begin = first.at;
    looks.push(first);
    if let Some(over) = args.over {
        if session.rt.target.pid.is_none() || !session.is_live() {
            return Err(Failure::new(
                "only a live process grows: --for needs one; diff compares snapshots and cores",
                None,
            ));
        }
        for i in 1..LOOKS {
            let due = begin + over * i / (LOOKS - 1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            session = Session::open_typed(&args.target)?;
            let (next, objects, bytes) = look(&mut session, taken)?;
            (live_objects, live_bytes) = (objects, bytes);
            looks.push(next);
        }
    }
    answer(session, &args.target, looks, limits, (live_objects, live_bytes), args.fail_over)
}

/// Compares the looks and prints the verdict; an error if there is more than the user allows.
pub(super) fn answer(
    session: Session,
    target: &TargetArgs,
    looks: Vec<Look>,
    limits: Thresholds,
    (live_objects, live_bytes): (u64, u64),
    fail_over: Option<u64>,
) -> Result<(), Failure> {
    let n = looks.len();
    let suspects = leaks::compare(looks, limits, live_bytes);
    let blamed: u64 =
        suspects.iter().filter(|s| s.certainty >= Certainty::Likely).map(|s| s.retained_bytes + s.stack_bytes).sum();
    let e = session.envelope("leaks", LeaksResult { live_objects, live_bytes, looks: n, suspects });
    print(target, &e, text)?;
    match fail_over {
        Some(limit) if blamed > limit => Err(Failure::finding(format!(
            "suspects that are likely or sure retain {}, more than {}",
            units::bytes(blamed),
            units::bytes(limit)
        ))),
        _ => Ok(()),
    }
}

fn of_heap(s: &Suspect) -> String {
    if s.pattern == Pattern::CgoMemory {
        return " outside the Go heap".into();
    }
    let share = format!(", {}.{} % of the live heap", s.share_permille / 10, s.share_permille % 10);
    let what = match &s.type_name[..] {
        "" => return share,
        name if s.objects == 1 => match name {
            "?" | "(untyped)" => return format!("{share}, one object of a type that is not known"),
            name => return format!("{share}, one {name}"),
        },
        "?" | "(untyped)" => format!("{} objects of a type that is not known", units::count(s.objects)),
        name => format!("{} {name}", units::count(s.objects)),
    };
    format!("{share}, mostly {what}")
}

/// Looks of `--for`: the fewest that a fit through growth with some noise needs.
const LOOKS: u32 = 5;

/// Frames of an allocation's stack in the text.
const SHOWN_FRAMES: usize = 5;

fn text(out: &mut dyn Write, r: &LeaksResult) -> io::Result<()> {
    let looks = if r.looks > 1 { format!(" in {} looks", r.looks) } else { String::new() };
    if r.suspects.is_empty() {
        return writeln!(
            out,
            "There are no leak suspects{looks}: {} alive in {} objects, and no place holds an unusual part of it.",
            units::bytes(r.live_bytes),
            units::count(r.live_objects)
        );
    }
    writeln!(
        out,
        "{}{looks}; {} alive in {} objects.",
        if r.suspects.len() == 1 { "One suspect".to_owned() } else { format!("{} suspects", r.suspects.len()) },
        units::bytes(r.live_bytes),
        units::count(r.live_objects)
    )?;
    for (i, s) in r.suspects.iter().enumerate() {
        let sure = match s.certainty {
            Certainty::Sure => "sure",
            Certainty::Likely => "likely",
            Certainty::Possible => "possible",
        };
        let stacks = if s.stack_bytes > 0 {
            format!(" and {} of goroutine stacks", units::bytes(s.stack_bytes))
        } else {
            String::new()
        };
        writeln!(out)?;
        writeln!(
            out,
            "{}. {} ({sure}): {} holds {}{stacks}{}.",
            i + 1,
            name(s.pattern),
            s.holder,
            units::bytes(s.retained_bytes),
            of_heap(s)
        )?;
        if let Some(g) = s.growth_bytes_per_hour {
            let sign = if g < 0.0 { "shrinks" } else { "grows" };
            let signed = |b: f64| format!("{}{}", if b < 0.0 { "-" } else { "" }, units::bytes(b.abs() as u64));
            let between = s.growth_interval.map(|[l, h]| format!(" (95 %: {} to {})", signed(l), signed(h)));
            writeln!(out, "   {sign} by {} an hour{}", units::bytes(g.abs() as u64), between.unwrap_or_default())?;
        }
        if let Some(at) = &s.stand {
            let (n, f) = (units::count(at.goroutines), &at.frame);
            writeln!(out, "   {n} of them are in {}  {}:{}", f.function, f.file, f.line)?;
            if let Some(f) = &at.started_by {
                writeln!(out, "   started by {}  {}:{}", f.function, f.file, f.line)?;
            }
        }
        for e in &s.evidence {
            writeln!(out, "   because {e}")?;
        }
        if let Some(site) = &s.allocated_at {
            writeln!(out, "   allocated at ({} of {} sampled objects):", site.samples, site.of)?;
            for f in site.stack.iter().take(SHOWN_FRAMES) {
                writeln!(out, "     {}  {}:{}", f.function, f.file, f.line)?;
            }
        }
        if s.certainty == Certainty::Possible && s.growth_bytes_per_hour.is_none() {
            writeln!(out, "   one look cannot tell whether it grows: --for 60s looks again")?;
        }
        if !s.path.is_empty() {
            writeln!(out, "   held through")?;
            for step in &s.path {
                writeln!(out, "     -> {step}")?;
            }
        }
        writeln!(out, "   do: {}", s.advice)?;
    }
    Ok(())
}

/// The pattern as in the JSON: one word for both.
fn name(p: leaks::Pattern) -> String {
    serde_json::to_value(p).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
