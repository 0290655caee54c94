//! `debug`: what the rooms below see, for tests, scripts and bug reports. Not part of the command line's contract.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use clap::{Args, Subcommand};

use super::{Failure, Session, TargetArgs};
use crate::{
    analysis::{dominators::Dominators, histogram, holders::Holders},
    graph::{TypeWords, build, reach, typing::Typed},
    image::{BuildInfo, dwarf::Dwarf, elf::Elf},
    os::mmap::MappedFile,
    runtime::{
        heap::Heap,
        layout::{self, Layout},
    },
};

/// What the rooms below see: for scripts and bug reports; the output may change at any time.
#[derive(Args, Debug)]
pub struct DebugArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Layouts that the DWARF of a binary (not a process) describes, in the lines of the layout table.
    Layout { exe: PathBuf },
    /// Time of each stage, measured several times in one process on the same target.
    Bench {
        #[command(flatten)]
        target: TargetArgs,
        #[arg(long, default_value_t = 5)]
        rounds: u32,
    },
}

pub fn run(args: &DebugArgs) -> Result<(), Failure> {
    match &args.what {
        What::Layout { exe } => print_layout(exe),
        What::Bench { target, rounds } => bench(target, (*rounds).clamp(1, 1000)),
    }
}

/// Runs every stage `rounds` times and prints the quickest and the middle time. A stage that answers differently from one
/// round to the next is an error: what is timed must be right.
fn bench(args: &TargetArgs, rounds: u32) -> Result<(), Failure> {
    let mut s = Session::open_typed(args)?;
    let scene = s.scene()?;
    drop(s);
    // The stages that read are measured on a target that is held again.
    let s = Session::open_typed(args)?;
    let rt = &s.rt;
    let mut out = io::stdout().lock();
    writeln!(out, "{:<12} {:>10} {:>10} {:>12} {:>10}", "stage", "best ms", "middle ms", "answer", "ns each")?;
    let mut time = |name: &str, stage: &mut dyn FnMut() -> Result<u64, Failure>| -> Result<(), Failure> {
        let (mut times, mut answer) = (Vec::new(), None);
        for _ in 0..rounds {
            let begin = Instant::now();
            let now = stage()?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            if answer.is_some_and(|a| a != now) {
                return Err(Failure::new(format!("stage {name} answers {now} after {answer:?}"), None));
            }
            answer = Some(now);
        }
        times.sort_by(f64::total_cmp);
        let (best, middle, n) = (times[0], times[times.len() / 2], answer.unwrap_or(0));
        let each = best * 1e6 / n.max(1) as f64;
        Ok(writeln!(out, "{name:<12} {best:>10.2} {middle:>10.2} {n:>12} {each:>10.1}")?)
    };
    let heap = Heap::read(rt)?;
    let words = TypeWords::of(rt);
    let (goroutines, stacks) = build::goroutines(rt)?;
    let built = build::build_from(rt, &heap, &words, goroutines.clone(), stacks.clone())?;
    // The limit: the bytes that the graph needs, read in the same pieces by one thread, and not looked at.
    time("read", &mut || {
        let (mut bytes, mut buf) = (0u64, vec![0u8; 256 << 10]);
        for span in heap.spans.iter().filter(|s| !s.noscan) {
            for from in (0..span.bytes).step_by(buf.len()) {
                let n = (span.bytes - from).min(buf.len() as u64);
                rt.target
                    .read(span.start.offset(from), &mut buf[..n as usize])
                    .map_err(|e| Failure::new(e.to_string(), None))?;
                bytes += n;
            }
        }
        Ok(bytes)
    })?;
    time("heap", &mut || Ok(Heap::read(rt)?.slots.into()))?;
    time("stacks", &mut || Ok(build::goroutines(rt)?.0.len() as u64))?;
    time("graph", &mut || {
        let built = build::build_from(rt, &heap, &words, goroutines.clone(), stacks.clone())?;
        Ok(built.graph.target.len() as u64)
    })?;
    time("reach", &mut || Ok(reach(&built.graph, built.graph.roots.iter().map(|r| r.target)).count_ones() as u64))?;
    time("types", &mut || Ok(Typed::new(rt, &heap, &built).typing.unread_closures.len() as u64))?;
    rt.target.release();
    time("histogram", &mut || {
        Ok(histogram::live_by_type(&scene.heap, &scene.built.graph, &scene.typed).rows.len() as u64)
    })?;
    time("dominators", &mut || {
        let holders = Holders::of(rt, &scene.built);
        let dom = Dominators::compute(&scene.built.graph, &holders.tree, |o| scene.heap.extent(o).1);
        Ok(dom.map_err(|e| Failure::new(e.to_string(), None))?.len() as u64)
    })?;
    Ok(out.flush()?)
}

fn print_layout(exe: &std::path::Path) -> Result<(), Failure> {
    let bad = |why: String| Failure::new(format!("{}: {why}", exe.display()), None);
    let elf = Elf::open(exe).map_err(|e| bad(e.to_string()))?;
    let file = Arc::new(MappedFile::open(exe)?);
    let dwarf = Dwarf::open(&file, &layout::wants)
        .map_err(|e| bad(e.to_string()))?
        .ok_or_else(|| bad("has no DWARF".into()))?;
    let layout = Layout::from_dwarf(&dwarf).map_err(|e| bad(e.to_string()))?;
    let release = BuildInfo::of(&elf).map(|b| b.go_version).unwrap_or_default();
    let mut out = io::stdout().lock();
    writeln!(out, "release\t{release}\narch\t{}", layout::arch_name(elf.arch))?;
    for (kind, key, value) in layout.rows() {
        writeln!(out, "{kind}\t{key}\t{value}")?;
    }
    Ok(out.flush()?)
}
