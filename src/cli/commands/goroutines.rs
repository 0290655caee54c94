//! `goroutines`: groups of equal stacks, filters, other forms.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Write},
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    Failure, Session, TargetArgs,
    leaks::{duration, size},
    print,
};
use crate::{
    analysis::{
        goroutines::{self, By, Known, Selection},
        holders,
        keepers::Keepers,
        locks::{
            self,
            chains::{self, Named, Waiting},
            leaks,
        },
        places::Places,
    },
    base::Goid,
    cli::HoldArg,
    graph::{
        build::{self, Built},
        typing::Typed,
    },
    os::descriptors::Descriptors,
    output::goroutines as forms,
    runtime::{
        heap::Heap,
        sched::{
            self, labels,
            waits::{self, Wait},
        },
        stack::Stack,
    },
};

/// Goroutines, grouped by equal stacks. With --hold none only their records are read, in some milliseconds and without
/// stopping the program: states, wait reasons and where they were started.
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
    /// Only those known to have waited at least so long, such as 90s, 10m, 2h. The runtime notes when a collection first sees
    /// a goroutine wait, and no time of birth.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    age: Option<Duration>,
    /// Only those with this pprof label, such as tenant or tenant=blue.
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Only those that keep at least so many bytes of objects by themselves, such as 64KiB (reads the heap).
    #[arg(long, value_name = "SIZE", value_parser = size)]
    min_retained: Option<u64>,
    /// Only those that wait for the lock or channel at this address, or for one whose name contains this (a name reads the
    /// heap).
    #[arg(long, value_name = "ADDR|TEXT")]
    lock: Option<String>,
    /// Also say what each group keeps alive, most first (reads the heap).
    #[arg(long)]
    retained: bool,
    /// Also say what each one waits for, at most --limit: channels of every case or lock, where they live and what keeps them
    /// (reads the heap), descriptor and its peer, system call and its arguments, when a sleep or timer ends.
    #[arg(long)]
    waits: bool,
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

/// How much has to be read for the answer.
struct Wanted {
    heap: bool,
    /// Names of what is waited for.
    names: bool,
    /// For which alone the heap is read, beside all else that `--waits` says.
    only_names: bool,
    waits: bool,
    retained: bool,
    /// Only records of goroutines, without stopping anything.
    cheap: bool,
    labels: bool,
}

impl Wanted {
    fn of(a: &GoroutinesArgs) -> Wanted {
        let address = a.lock.as_deref().is_some_and(|t| t.starts_with("0x"));
        let names = a.by == By::Lock || a.lock.is_some() && !address || a.waits;
        let retained = a.retained || a.min_retained.is_some() || a.by == By::Retained;
        let heap = names || retained || a.leaks;
        let stacks = heap
            || a.lock.is_some()
            || a.waits
            || a.function.is_some()
            || a.by == By::Function
            || !matches!(a.format, Format::Text | Format::Json);
        let cheap = a.target.hold == HoldArg::None && !stacks;
        // Labels cost a read for each goroutine that has some.
        let labels = !cheap || a.by == By::Label || !a.label.is_empty();
        let only_names = a.waits && !retained && !a.leaks && a.by != By::Lock && (a.lock.is_none() || address);
        let waits = a.lock.is_some() || names || a.leaks || a.waits;
        Wanted { heap, names, only_names, waits, retained, cheap, labels }
    }
}

/// Goroutines (with heap and graph where they are wanted), and what is known of them.
struct Look {
    scene: Option<(Heap, Option<Typed>)>,
    built: Built,
    known: Known,
    proven: Option<BTreeSet<usize>>,
    /// What they wait for, if that was asked.
    waits: Vec<Wait>,
}

/// The answer with what each one waits for.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    groups: goroutines::Goroutines,
    #[serde(skip_serializing_if = "Option::is_none")]
    each: Option<Vec<Waiting>>,
}

fn look(s: &mut Session, all: &GoroutinesArgs, wanted: &Wanted) -> Result<Look, Failure> {
    let now = match s.saved() {
        Some(file) => file.meta.now_ns,
        None => nanotime().filter(|_| s.is_live()),
    };
    if wanted.waits {
        s.needs_memory("what goroutines wait for")?;
    }
    let (mut scene, mut built) = if s.saved().is_some() && wanted.retained {
        let all = s.scene()?;
        (Some((all.heap, Some(all.typed))), all.built)
    } else if let Some(file) = s.saved() {
        let (goroutines, stacks) = file.goroutines()?;
        (None, Built { goroutines, stacks, ..Built::default() })
    } else if let Some(read) = wanted.heap.then(|| s.heap().and_then(|heap| Ok((s.graph(&heap)?, heap))))
        // A heap that cannot be read takes the names, but not what else is known of waits.
        && (read.is_ok() || !wanted.only_names || s.rt.target.missed().is_some())
    {
        let (built, heap) = read?;
        (Some((heap, None)), built)
    } else {
        if wanted.heap {
            s.rt.diag.note("what goroutines wait for has no names", "the heap could not be read");
        }
        let found = match wanted.cheap && s.is_live() {
            true => s.stage("goroutines", sched::read_running).map(|g| {
                let stacks = g.iter().map(|_| Stack::default()).collect();
                (g, stacks)
            }),
            false => s.stage("goroutines", build::goroutines),
        };
        let (goroutines, stacks) = match (found, s.rt.target.missed()) {
            // Stacks that were read in time are right: the others are cut short, and the answer says so.
            (Ok(found), _) => found,
            (Err(_), Some(missed)) => return Err(s.missed(missed)),
            (Err(e), None) => return Err(e.into()),
        };
        (None, Built { goroutines, stacks, ..Built::default() })
    };
    // When a core was written, nobody says in these terms: ages are least ones then, and the runtime's dump has exact ones.
    let least = || super::nanotime(s, &built.goroutines).filter(|_| all.format != Format::Debug2);
    let mut known = Known { now: now.or_else(least), ..Known::default() };
    if wanted.labels {
        known.labels = s.stage("labels", |rt| built.goroutines.iter().map(|g| labels::read(rt, g)).collect());
    }
    let waits = match wanted.waits {
        true => s.stage("waits", |rt| waits::read(rt, &built.goroutines, &built.stacks)),
        false => Vec::new(),
    };
    if let Some((heap, typed)) = &mut scene
        && wanted.names
    {
        *typed = Some(s.typed(heap, &built));
    }
    match wanted.heap {
        true => s.let_go()?,
        false => s.rt.target.release(),
    }
    if wanted.waits {
        let parts = scene.as_ref().and_then(|(heap, typed)| Some((heap, typed.as_ref()?)));
        known.waits_for = s.stage("names", |rt| locks::all_waited_for(rt, parts, &built, &waits));
    }
    let mut proven = None;
    if let Some((heap, _)) = &scene {
        if all.leaks {
            proven = Some(s.stage("leaks", |rt| leaks::proven(rt, heap, &built, &waits)).into_iter().collect());
        }
        if wanted.retained {
            if s.saved().is_none() {
                s.stage("records", |_| holders::hand_over_records(heap, &mut built));
            }
            if all.min_retained.is_some() || all.by == By::Retained {
                let of: HashMap<Goid, u32> = built.goroutines.iter().map(|g| g.goid).zip(0..).collect();
                let n = built.goroutines.len();
                let find = |goid| of.get(&goid).copied();
                known.retained = s.stage("retained", |_| goroutines::retained(heap, &built, n, find));
            }
        }
    }
    Ok(Look { scene, built, known, proven, waits })
}

pub fn run(args: &GoroutinesArgs) -> Result<(), Failure> {
    let (all, limit, format) = (args, args.limit, args.format);
    let args = &args.target;
    let wanted = Wanted::of(all);
    let mut s = if wanted.names { Session::open_typed(args)? } else { Session::open(args)? };
    let live = s.is_live();
    let Look { scene, built, known, proven, waits } = look(&mut s, all, &wanted)?;
    let labels: Vec<(String, Option<String>)> = all
        .label
        .iter()
        .map(|l| match l.split_once('=') {
            Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
            None => (l.clone(), None),
        })
        .collect();
    let by_label = labels.first().map(|l| l.0.clone());
    let chosen = s.stage("select", |rt| {
        let by = Selection {
            state: all.state.clone(),
            wait_reason: all.wait_reason.clone(),
            function: all.function.clone(),
            creator: all.creator.clone(),
            min_wait_s: all.age.map(|d| d.as_secs_f64()),
            labels,
            min_retained: all.min_retained,
            waits_for: all.lock.clone(),
        };
        goroutines::select(rt, &built, &by, &known)
    });
    let chosen: Vec<usize> = match &proven {
        Some(found) => chosen.into_iter().filter(|i| found.contains(i)).collect(),
        None => chosen,
    };
    if format == Format::Debug2 {
        let traces = goroutines::traces(&s.rt, &built, &chosen, &known.labels, known.now);
        return Ok(forms::debug2(&mut io::BufWriter::new(io::stdout().lock()), &traces)?);
    }
    let mut g = s.stage("group", |rt| goroutines::group(rt, &built, &chosen, &known, all.by, by_label.as_deref()));
    if let Some((heap, _)) = scene.as_ref().filter(|_| wanted.retained) {
        s.stage("group sizes", |_| goroutines::measure(heap, &built, &mut g));
    }
    g.proven_leaks = proven.map(|_| chosen.iter().map(|&i| built.goroutines[i].goid).collect());
    g.without_stacks = wanted.cheap && live;
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
    let each = all.waits.then(|| {
        let most = if limit == 0 { usize::MAX } else { limit };
        let mut descriptors = s.rt.target.pid.filter(|_| live).map(Descriptors::new);
        let parts = scene.as_ref().and_then(|(heap, typed)| Some((heap, typed.as_ref()?)));
        let places =
            parts.map(|(heap, typed)| Places::new(&s.rt, heap, &built, typed, locks::objects_to_name(heap, &waits)));
        let keepers = places.as_ref().map(|p| Keepers::of(p, &waits));
        let one = |&i: &usize| {
            let name = |addr| {
                let Some((places, keepers)) = places.as_ref().zip(keepers.as_ref()) else { return Named::default() };
                let place = locks::place_of(places, &waits, i, addr);
                let kept_by = keepers.name(addr).filter(|k| *k != place);
                Named { place: Some(place), kept_by }
            };
            chains::waiting(&s.rt, &built, &waits, i, descriptors.as_mut(), known.now, name)
        };
        chosen.iter().take(most).map(one).collect()
    });
    let e = s.envelope("goroutines", Answer { groups: g, each });
    if json && !args.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &e).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    print(args, &e, |out, r| {
        forms::text(out, &r.groups, limit)?;
        let Some(each) = &r.each else { return Ok(()) };
        writeln!(out, "\nWhat each waits for:")?;
        each.iter().try_for_each(|w| writeln!(out, "  goroutine {}: {}", w.doing.goid, w.words()))
    })
}
