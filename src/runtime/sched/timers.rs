//! runtime::sched::timers: channels that timers send to (time.After, time.Timer, time.Ticker), and when they fire next. Reads
//! hchan.timer (runtime/chan.go, Go 1.23+), before that the timer heap of every P (runtime/time.go). Used by `waits`.
//! Does not know contexts with a deadline: their timers call a function.

use std::collections::{HashMap, HashSet};

use super::waits::{Wait, WaitKind};
use crate::{
    base::{Addr, bytes},
    runtime::{
        Runtime,
        heap::scattered,
        layout::{Field, FieldLoc, Global, Struct},
        view::Record,
    },
};

/// Timers that are looked at in all.
const MAX_TIMERS: usize = 1 << 22;
/// Ps: GOMAXPROCS is a 10-bit number in places (runtime/proc.go), and this is far more.
const MAX_PS: u64 = 1 << 14;
/// What a timer's channel carries is a time.Time.
const TIME: u64 = 24;

/// nanotime of the next firing, and the period in ns of a ticker (0: it fires once).
type Due = (u64, u64);

/// Sets `until` and `every` of each wait for a timer's channel; of a select with several the first to fire. Cost: one word
/// for each channel that is waited for, a record for each timer.
pub fn fill(rt: &Runtime, waits: &mut [Wait]) {
    let mut channels: Vec<Addr> = waits
        .iter()
        .filter(|w| matches!(w.kind, WaitKind::ChanReceive | WaitKind::Select))
        .flat_map(|w| w.cases.iter().filter(|c| !c.send).map(|c| c.chan))
        .collect();
    channels.sort_unstable();
    channels.dedup();
    let due = match rt.layout.field(Field::HchanTimer) {
        Some(timer) => of_channels(rt, &channels, timer),
        None => of_heaps(rt, &channels),
    };
    if due.is_empty() {
        return;
    }
    for w in waits.iter_mut() {
        let first = w.cases.iter().filter(|c| !c.send).filter_map(|c| due.get(&c.chan)).min();
        if let Some(&(when, period)) = first {
            (w.until, w.every) = (Some(when), Some(period).filter(|&p| p > 0));
        }
    }
}

/// One member of many records: the integer at `loc` of each, 0 where it cannot be read.
fn members(rt: &Runtime, records: &[Addr], loc: FieldLoc) -> Vec<u64> {
    let width = loc.width.min(8) as usize;
    let at: Vec<Addr> = records.iter().map(|a| a.offset(loc.offset.into())).collect();
    let raw = scattered(rt, &at, width);
    raw.iter().map(|b| b.and_then(|b| bytes::uint_at(b, 0, width)).unwrap_or(0)).collect()
}

/// A timer that is set: `when` is 0 in one that was stopped or has fired (Go 1.23+), and the status says so before.
fn due(r: &Record<'_>) -> Option<Due> {
    const WAITING: u64 = 1;
    const RUNNING: u64 = 2;
    const MODIFIED_EARLIER: u64 = 7;
    const MODIFIED_LATER: u64 = 8;
    let when = match r.opt(Field::TimerStatus) {
        None | Some(WAITING | RUNNING) => r.opt(Field::TimerWhen)?,
        Some(MODIFIED_EARLIER | MODIFIED_LATER) => r.opt(Field::TimerNextwhen)?,
        Some(_) => return None,
    };
    (when > 0 && when < i64::MAX as u64).then(|| (when, r.opt(Field::TimerPeriod).unwrap_or(0)))
}

fn of_channels(rt: &Runtime, channels: &[Addr], timer: FieldLoc) -> HashMap<Addr, Due> {
    let timers = members(rt, channels, timer);
    let known = channels.iter().zip(timers).filter(|(_, t)| *t != 0);
    known.filter_map(|(&c, t)| Some((c, due(&rt.record(Struct::Timer, Addr(t)).ok()?)?))).collect()
}

fn of_heaps(rt: &Runtime, channels: &[Addr]) -> HashMap<Addr, Due> {
    let mut out = HashMap::new();
    let Some((elemsize, list)) = rt.layout.field(Field::HchanElemsize).zip(rt.layout.field(Field::PTimers)) else {
        return out;
    };
    let sizes = members(rt, channels, elemsize);
    let wanted: HashSet<Addr> = channels.iter().zip(sizes).filter(|(_, n)| *n == TIME).map(|(&c, _)| c).collect();
    let Some(allp) = rt.globals.get(Global::Allp).filter(|_| !wanted.is_empty()) else { return out };
    let slice = |at: Addr| Some((rt.target.read_ptr(at).ok()?, rt.target.read_u64(at.offset(8)).ok()?));
    let pointers = |(at, n): (Addr, u64), most: u64| -> Vec<Addr> {
        let raw = rt.target.read_vec(at, n.min(most) * 8, most * 8).unwrap_or_else(|e| {
            rt.diag.note("timers unreadable", e);
            Vec::new()
        });
        raw.chunks_exact(8).filter_map(|c| bytes::u64_at(c, 0)).filter(|&a| a != 0).map(Addr).collect()
    };
    let mut left = MAX_TIMERS as u64;
    for p in slice(allp).map(|s| pointers(s, MAX_PS)).unwrap_or_default() {
        let timers = slice(p.offset(list.offset.into())).map(|s| pointers(s, left)).unwrap_or_default();
        left -= timers.len() as u64;
        for at in timers {
            let Ok(r) = rt.record(Struct::Timer, at) else {
                rt.diag.note("timer unreadable", at);
                continue;
            };
            // arg is an interface with the channel in it, which is a pointer.
            let arg = rt.layout.field(Field::TimerArg).and_then(|f| bytes::u64_at(&r.bytes, f.offset as usize + 8));
            if let Some(chan) = arg.map(Addr).filter(|c| wanted.contains(c))
                && let Some(d) = due(&r)
            {
                out.insert(chan, d);
            }
        }
    }
    out
}
