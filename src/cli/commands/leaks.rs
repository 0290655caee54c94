//! `leaks`: the verdict.

use std::{
    cmp::Reverse,
    io::{self, Write},
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use super::{Failure, Scene, Session, TargetArgs, print};
use crate::{
    analysis::{
        dominators::{Node, Vertex},
        holders::HolderKind,
        leaks::{self, Case, Certainty, Look, Pattern, Suspect, Thresholds},
    },
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
    /// What the last look went through.
    looked_at: LookedAt,
    suspects: Vec<Suspect>,
}

/// Why there is no suspect where there is none.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LookedAt {
    /// Global variables that hold something, and goroutines.
    globals: u64,
    goroutines: u64,
    /// Bytes below which no pile is told, and goroutines.
    smallest_bytes: u64,
    smallest_goroutines: u64,
    /// What holds most.
    #[serde(skip_serializing_if = "Option::is_none")]
    largest: Option<Largest>,
}

#[derive(Clone, Debug, Serialize)]
struct Largest {
    holder: String,
    retained_bytes: u64,
}

/// One look at a target: the suspects, live objects, live bytes.
pub(super) fn look(s: &mut Session, limits: Thresholds) -> Result<(Look, Seen), Failure> {
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
    let of_kind = |kind| holders.list.iter().filter(|h| h.kind == kind).count() as u64;
    let weight = |n: &Node| match dom.vertex(*n) {
        Vertex::Holder(h) if holders.list[h as usize].kind != HolderKind::Runtime => Some((dom.retained(*n), h)),
        _ => None,
    };
    let largest = dom.children(dom.root()).filter_map(|n| weight(&n)).max_by_key(|&(bytes, h)| (bytes, Reverse(h)));
    let looked_at = LookedAt {
        globals: of_kind(HolderKind::Global),
        goroutines: built.goroutines.len() as u64,
        smallest_bytes: limits.smallest(live_bytes),
        smallest_goroutines: limits.goroutines,
        largest: largest.map(|(retained_bytes, h)| Largest { holder: holders.name(&s.rt, built, h), retained_bytes }),
    };
    Ok((Look { at, suspects }, Seen { live_objects, live_bytes, looked_at }))
}

/// What a look saw beside suspects.
pub(super) struct Seen {
    pub live_objects: u64,
    pub live_bytes: u64,
    pub looked_at: LookedAt,
}

pub fn run(args: &LeaksArgs) -> Result<(), Failure> {
    let limits = Thresholds { bytes: args.min, ..Thresholds::default() };
    let mut looks = Vec::new();
    let mut session = Session::open_typed(&args.target)?;
    let taken = if args.over.is_some() { limits.for_growth() } else { limits };
    let (first, mut seen) = look(&mut session, taken)?;
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
            let (next, last) = look(&mut session, taken)?;
            seen = last;
            looks.push(next);
        }
    }
    answer(session, &args.target, looks, limits, seen, args.fail_over)
}

/// Compares the looks and prints the verdict; an error if there is more than the user allows.
pub(super) fn answer(
    session: Session,
    target: &TargetArgs,
    looks: Vec<Look>,
    limits: Thresholds,
    seen: Seen,
    fail_over: Option<u64>,
) -> Result<(), Failure> {
    let n = looks.len();
    let Seen { live_objects, live_bytes, looked_at } = seen;
    let suspects = leaks::compare(looks, limits, live_bytes);
    let blamed: u64 =
        suspects.iter().filter(|s| s.certainty >= Certainty::Likely).map(|s| s.retained_bytes + s.stack_bytes).sum();
    let e = session.envelope("leaks", LeaksResult { live_objects, live_bytes, looks: n, looked_at, suspects });
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
        name => match name.strip_prefix("(untyped, ").and_then(|n| n.strip_suffix(')')) {
            Some(what) if s.objects == 1 => return format!("{share}, one object of unknown type ({what})"),
            Some(what) => format!("{} objects of unknown type ({what} each)", units::count(s.objects)),
            None if s.objects == 1 => return format!("{share}, one {name}"),
            None => format!("{} {name}", units::count(s.objects)),
        },
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
        return nothing(out, r, &looks);
    }
    // Those that could have grown and did not are only large: one line each.
    let (large, told): (Vec<&Suspect>, Vec<&Suspect>) = r.suspects.iter().partition(|s| only_large(s));
    let alive = format!("{} alive in {} objects", units::bytes(r.live_bytes), units::count(r.live_objects));
    match told.len() {
        0 => writeln!(out, "Nothing grew for certain{looks}; {alive}.")?,
        1 => writeln!(out, "One suspect{looks}; {alive}.")?,
        n => writeln!(out, "{n} suspects{looks}; {alive}.")?,
    }
    for (i, s) in told.iter().enumerate() {
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
            called(s),
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
        if s.growth_is_certain == Some(true) && s.certainty == Certainty::Likely {
            writeln!(
                out,
                "   what is emptied more seldom than these looks lasted grows in the same way: look again for longer"
            )?;
        }
    }
    if !large.is_empty() {
        writeln!(out, "\nLarge, but not certain to have grown{looks}:")?;
    }
    for s in large {
        let last = s.path.last().map(|step| format!(", at {step}")).unwrap_or_default();
        writeln!(out, "   {}: {} holds {}{}{last}", called(s), s.holder, units::bytes(s.retained_bytes), of_heap(s))?;
    }
    explain_near(out, &r.suspects)
}

/// Several looks saw it, and what it gained may be chance.
fn only_large(s: &Suspect) -> bool {
    let grew = s.growth_is_certain == Some(true) && s.growth_bytes_per_hour > Some(0.0);
    s.certainty == Certainty::Possible && s.growth_is_certain.is_some() && !grew
}

/// Why there is no suspect.
fn nothing(out: &mut dyn Write, r: &LeaksResult, looks: &str) -> io::Result<()> {
    let l = &r.looked_at;
    let (alive, objects) = (units::bytes(r.live_bytes), units::count(r.live_objects));
    writeln!(out, "There are no leak suspects{looks}: {alive} alive in {objects} objects.")?;
    let (globals, goroutines) = (units::count(l.globals), units::count(l.goroutines));
    write!(out, "{globals} global variables and {goroutines} goroutines were gone through.")?;
    if let Some(most) = &l.largest {
        let share = units::percent(most.retained_bytes, r.live_bytes);
        let (name, bytes) = (&most.holder, units::bytes(most.retained_bytes));
        write!(out, " {name} holds most: {bytes} ({share}).")?;
    }
    writeln!(
        out,
        "\nTold are piles of {} and more (--min), {} goroutines and more that wait in one place, and memory that is provably of no use.",
        units::bytes(l.smallest_bytes),
        l.smallest_goroutines
    )?;
    match r.looks {
        1 => writeln!(
            out,
            "One look cannot see slow growth: --for 60s looks again, diff compares snapshots hours apart."
        ),
        n => writeln!(
            out,
            "Nothing grew for certain over {n} looks; slower growth shows in diff of snapshots hours apart."
        ),
    }
}

/// Without symbols a variable has no name of its own.
fn explain_near(out: &mut dyn Write, suspects: &[Suspect]) -> io::Result<()> {
    match suspects.iter().any(|s| s.holder.starts_with("global near ")) {
        true => writeln!(
            out,
            "\n\"global near f\": the program has no symbols, so a variable goes by a function whose code refers to it."
        ),
        false => Ok(()),
    }
}

/// What the text calls it: a map that goroutines or locals hold is no global one, though its pattern and advice are the same.
fn called(s: &Suspect) -> String {
    match s.pattern {
        Pattern::GlobalMap if !s.holder.starts_with("global ") => "map".into(),
        Pattern::GlobalSlice if !s.holder.starts_with("global ") => "slice".into(),
        p => name(p),
    }
}

/// The pattern as in the JSON.
fn name(p: leaks::Pattern) -> String {
    serde_json::to_value(p).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
