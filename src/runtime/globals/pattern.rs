//! Candidates by content: a scan of the program's variables with the same checks that verify a candidate. For binaries
//! whose functions have lost their names. Only variables whose content cannot be mistaken have a pattern.

use std::cell::OnceCell;

use super::{Globals, verify::Checker};
use crate::{
    base::{Addr, bytes},
    image::Image,
    runtime::layout::{Field, Global},
    target::Target,
};

/// Variables of a program are copied for the scan up to this size.
const MAX_SEGMENT: u64 = 256 << 20;

/// Copies of the data segments, made when the first scan asks for them: code alone finds most variables.
#[derive(Default)]
pub(super) struct Segments(OnceCell<Vec<(Addr, Vec<u8>)>>);

impl Segments {
    fn of(&self, target: &Target, image: &Image) -> &[(Addr, Vec<u8>)] {
        self.0.get_or_init(|| {
            let first = image.modules.first();
            let parts = first.iter().flat_map(|m| m.data_segments());
            parts
                .filter(|(_, start, end)| start < end)
                .filter_map(|(_, start, end)| Some((start, target.read_vec(start, end.0 - start.0, MAX_SEGMENT).ok()?)))
                .collect()
        })
    }
}

pub(super) enum Scan {
    One(Addr),
    None,
    Many(usize),
    NoPattern,
}

/// Variables whose place the image knows already.
pub(super) fn known_place(image: &Image, g: Global) -> Option<Addr> {
    match g {
        Global::Firstmoduledata => image.modules.first().map(|m| m.addr),
        _ => None,
    }
}

/// A cheap test of the bytes of a segment at an offset.
type QuickTest = Box<dyn Fn(&[u8], usize) -> bool>;

/// Looks for the one place that passes the check of `g`.
pub(super) fn scan(checker: &Checker, known: &Globals, segments: &Segments, g: Global) -> Scan {
    let offset = |f: Field| checker.layout.field(f).map(|l| l.offset as usize);
    // A cheap test of the words on the spot comes before the check, which reads memory.
    let slice = |b: &[u8], at: usize| {
        let word = |i| bytes::u64_at(b, at + i).unwrap_or(0);
        let (data, len, cap) = (word(0), word(8), word(16));
        data > 0xffff && data % 8 == 0 && len > 0 && len <= cap && cap < 1 << 32
    };
    let quick: QuickTest = match g {
        Global::Mheap => {
            let Some(spans) = offset(Field::MheapAllspans) else { return Scan::NoPattern };
            Box::new(move |b, at| slice(b, at + spans))
        }
        Global::Allgs | Global::Allp => Box::new(slice),
        Global::Sched => {
            let Some(max) = offset(Field::SchedMaxmcount) else { return Scan::NoPattern };
            // Ten thousand unless the program calls debug.SetMaxThreads.
            Box::new(move |b, at| bytes::u32_at(b, at + max) == Some(10_000))
        }
        Global::GcController => {
            let (Some(limit), Some(in_use)) =
                (offset(Field::GcControllerMemoryLimit), offset(Field::GcControllerHeapInUse))
            else {
                return Scan::NoPattern;
            };
            Box::new(move |b, at| {
                let word = |o| bytes::u64_at(b, at + o).unwrap_or(0);
                word(in_use) != 0 && word(in_use) % 8192 == 0 && word(limit) >> 20 != 0 && word(limit) >> 63 == 0
            })
        }
        Global::Allm => Box::new(|b, at| bytes::u64_at(b, at).is_some_and(|w| w > 0xffff && w % 8 == 0)),
        Global::Lastmoduledatap => {
            let last = checker.image.modules.last().map_or(0, |m| m.addr.0);
            Box::new(move |b, at| bytes::u64_at(b, at) == Some(last))
        }
        _ => return Scan::NoPattern,
    };
    let mut found: Vec<Addr> = Vec::new();
    for (start, data) in segments.of(checker.target, checker.image) {
        for at in (0..data.len()).step_by(8) {
            if quick(data, at) && checker.check(known, g, start.offset(at as u64)).is_ok() {
                found.push(start.offset(at as u64));
            }
        }
    }
    if g == Global::Allm {
        // The idle list may start with any thread; the list of all starts with the newest, so its chain is longest.
        return longest(checker, &found);
    }
    match found[..] {
        [] => Scan::None,
        [one] => Scan::One(one),
        _ => Scan::Many(found.len()),
    }
}

fn longest(checker: &Checker, heads: &[Addr]) -> Scan {
    let length = |head: Addr| {
        let link = checker.layout.field(Field::MAlllink).map_or(0, |l| u64::from(l.offset));
        let mut m = checker.target.read_ptr(head).unwrap_or_default();
        let mut n = 0usize;
        while !m.is_null() && n < 1 << 20 {
            n += 1;
            m = checker.target.read_ptr(m.offset(link)).unwrap_or_default();
        }
        n
    };
    let lengths: Vec<(usize, Addr)> = heads.iter().map(|&h| (length(h), h)).collect();
    let Some(max) = lengths.iter().map(|l| l.0).max() else { return Scan::None };
    // Equal heads are equally good: the value is what matters.
    match lengths.iter().find(|l| l.0 == max) {
        Some((_, addr)) => Scan::One(*addr),
        None => Scan::None,
    }
}
