//! The ledger of resident memory: from what the kernel counts for the process down to live bytes of the Go heap.
//!
//! Each resident page is given to one owner: a heap span (and within it to live objects, garbage, free slots, by bytes), a
//! span of stacks or work buffers, an idle page of a heap arena, the runtime's own structures, the program's file and
//! variables, C. The rows add up to the sum of smaps (`Rss`); nothing is left over but what `other` rows say.
//!
//! Residency is taken from /proc/PID/pagemap and smaps *before* the heap is read: reading an untouched page of another
//! process maps the kernel's page of zeros there, which pagemap calls present though Rss does not count it.
//! A core does not say what was resident: there the heap in use counts as if it was, and elsewhere pages that are not all zeros.

use std::{fs::File, os::unix::fs::FileExt};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    base::{Addr, Bitmap, bytes},
    graph::build::Built,
    os::procfs::{self, MappedMemory},
    runtime::{
        Runtime,
        heap::{Heap, Span},
        layout::{Field, Global, Struct},
        view::SliceHeader,
    },
    target::{Arch, Mapping},
};

/// heapArenaBytes on linux/amd64 and arm64 (runtime/malloc.go).
const ARENA: u64 = 64 << 20;
/// Arenas at most: 4 TiB of heap.
const MAX_ARENAS: u64 = 1 << 16;
/// AT_PAGESZ, AT_RANDOM (elf.h).
const AT_PAGESZ: u64 = 6;
const AT_RANDOM: u64 = 25;

/// One owner of memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Objects that are reached from roots.
    HeapLive,
    /// Allocated objects that nothing reaches: the next collection frees them.
    HeapGarbage,
    /// Found dead by the last collection, not swept yet.
    HeapDead,
    /// Free slots and rounding in spans that are in use.
    HeapFree,
    /// Pages of arenas in no span: free, kept by the runtime, or returned and not taken by the kernel yet.
    HeapIdle,
    /// Stacks of the goroutines that exist.
    GoroutineStacks,
    /// Other spans that the runtime allocates by hand: stacks of ended goroutines and of threads, work buffers of the
    /// collector.
    RuntimeSpans,
    /// What the runtime needs for itself: span records, bitmaps, page index, profile buckets.
    RuntimeMetadata,
    /// Mapped pages of the executable: code, constants, tables.
    ProgramFile,
    /// The program's global variables.
    ProgramVariables,
    /// Shared libraries and other mapped files.
    OtherFiles,
    /// The main thread's stack as the kernel made it, and pages that the kernel lends.
    KernelMappings,
    /// Stacks of threads that C made.
    ThreadStacks,
    /// malloc's brk heap.
    CHeap,
    /// Anonymous memory that is not Go's: malloc arenas, mmap by C or by the program.
    OtherAnonymous,
}

impl Owner {
    /// The word of the JSON.
    pub fn key(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedgerRow {
    pub owner: Owner,
    pub bytes: u64,
}

/// The runtime's own counters (memstats.heapStats, gcController, memstats.*_sys), in bytes of address space. Absent members
/// were not found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    pub heap_in_use_bytes: Option<u64>,
    /// Idle, and not returned to the kernel.
    pub heap_idle_kept_bytes: Option<u64>,
    /// Idle, and returned.
    pub heap_returned_bytes: Option<u64>,
    pub stacks_bytes: Option<u64>,
    pub work_buffers_bytes: Option<u64>,
    /// Sum of the following.
    pub metadata_bytes: Option<u64>,
    pub span_records_bytes: Option<u64>,
    pub cache_records_bytes: Option<u64>,
    pub profile_buckets_bytes: Option<u64>,
    pub collector_bytes: Option<u64>,
    pub other_bytes: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerSource {
    /// smaps and pagemap.
    Kernel,
    /// Nobody said what was resident: everything that is in use counts.
    Assumed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    pub source: LedgerSource,
    /// Rss of smaps_rollup; absent for cores.
    pub resident_bytes: Option<u64>,
    pub swapped_bytes: u64,
    /// Sum of the rows.
    pub explained_bytes: u64,
    /// In the order of `Owner`; none of 0 bytes.
    pub rows: Vec<LedgerRow>,
    pub counters: Counters,
}

/// What the kernel says before the heap is read.
pub struct Kernel {
    maps: Vec<MappedMemory>,
    resident: u64,
    page: u64,
    /// Arenas of the Go heap (start, end), joined, by address.
    arenas: Vec<(u64, u64)>,
    /// Resident pages of each of `arenas`.
    pages: Vec<Bitmap>,
    /// Pages that pagemap calls present beyond what smaps counts: pages of zeros.
    zeros: u64,
}

/// Address ranges of the heap's arenas (mheap_.allArenas), joined.
fn arenas(rt: &Runtime) -> Vec<(u64, u64)> {
    let base = match rt.target.arch {
        Arch::Amd64 => 0xffff_8000_0000_0000,
        Arch::Arm64 => 0,
    };
    let list = || {
        let mheap = rt.globals.get(Global::Mheap)?;
        // Named heapArenas from Go 1.25 on.
        let field = [Field::MheapHeapArenas, Field::MheapAllArenas].into_iter().find(|&f| rt.layout.has(f))?;
        let at = mheap.offset(rt.layout.field(field)?.offset.into());
        let head = rt.target.read_vec(at, 24, 24).ok()?;
        let word = |i: usize| bytes::u64_at(&head, 8 * i).unwrap_or(0);
        let slice = SliceHeader { data: Addr(word(0)), len: word(1), cap: word(2) };
        if slice.len > MAX_ARENAS || slice.len > slice.cap {
            return None;
        }
        rt.words("mheap_.allArenas", slice).ok()
    };
    let mut starts: Vec<u64> =
        list().unwrap_or_default().iter().map(|i| i.wrapping_mul(ARENA).wrapping_add(base)).collect();
    starts.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for start in starts {
        let Some(end) = start.checked_add(ARENA) else { continue };
        match out.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

/// Present bits of the pages from `start` to `end`; pages that pagemap does not tell of are absent.
fn present(pagemap: &File, start: u64, end: u64, page: u64) -> Bitmap {
    const CHUNK: usize = 64 << 10;
    let mut out = Bitmap::new(((end - start) / page) as usize);
    let mut buf = vec![0u8; 8 * CHUNK];
    let mut i = 0;
    while i < out.len() {
        let n = CHUNK.min(out.len() - i);
        if pagemap.read_exact_at(&mut buf[..8 * n], (start / page + i as u64) * 8).is_ok() {
            for k in (0..n).filter(|&k| bytes::u64_at(&buf, 8 * k).unwrap_or(0) >> 63 == 1) {
                out.set(i + k);
            }
        }
        i += n;
    }
    out
}

impl Kernel {
    /// `None` for cores, and where /proc does not answer (a note says why).
    pub fn look(rt: &Runtime) -> Option<Kernel> {
        let pid = rt.target.pid.filter(|_| rt.target.kind == crate::target::TargetKind::Live)?;
        let read = || -> std::io::Result<(u64, Vec<MappedMemory>)> {
            let maps = procfs::smaps(pid)?;
            let total: u64 = maps.iter().map(|m| m.resident).sum();
            // Since Linux 4.14; the same sum.
            let rollup = procfs::smaps_rollup(pid).ok();
            let rss = rollup.and_then(|r| r.iter().find(|(k, _)| k == "Rss").map(|r| r.1));
            Ok((rss.unwrap_or(total), maps))
        };
        let (resident, maps) =
            read().map_err(|e| rt.diag.note("the kernel's memory figures cannot be read", e)).ok()?;
        let page = rt
            .target
            .auxv
            .iter()
            .find(|a| a.0 == AT_PAGESZ)
            .map_or(4096, |a| a.1)
            .clamp(4096, 65536)
            .next_power_of_two();
        let arenas = arenas(rt);
        let pagemap = procfs::pagemap_file(pid).map_err(|e| rt.diag.note("pagemap cannot be read", e)).ok();
        let pages: Vec<Bitmap> = arenas
            .iter()
            .map(|&(start, end)| match &pagemap {
                Some(f) => present(f, start, end, page),
                None => Bitmap::new(0),
            })
            .collect();
        let mut kernel = Kernel { maps, resident, page, arenas, pages, zeros: 0 };
        let of_arenas: u64 = kernel.maps.iter().filter(|m| kernel.in_arena(m.map.start)).map(|m| m.resident).sum();
        let told: u64 = kernel.pages.iter().map(|p| p.count_ones() as u64 * page).sum();
        kernel.zeros = told.saturating_sub(of_arenas);
        Some(kernel)
    }

    fn in_arena(&self, at: Addr) -> bool {
        let i = self.arenas.partition_point(|a| a.1 <= at.0);
        self.arenas.get(i).is_some_and(|a| a.0 <= at.0)
    }

    /// Resident bytes of an address range inside the arenas.
    fn resident_in(&self, start: u64, end: u64) -> u64 {
        let i = self.arenas.partition_point(|a| a.1 <= start);
        let (Some(&(base, limit)), Some(bits)) = (self.arenas.get(i), self.pages.get(i)) else { return 0 };
        let (start, end) = (start.max(base), end.min(limit));
        if start >= end {
            return 0;
        }
        let (first, last) = ((start - base) / self.page, (end - 1 - base) / self.page);
        (first..=last)
            .filter(|&p| bits.get(p as usize))
            .map(|p| end.min(base + (p + 1) * self.page) - start.max(base + p * self.page))
            .sum()
    }
}

/// Bytes of the slots of some spans.
#[derive(Clone, Copy, Default)]
struct Slots {
    live: u64,
    garbage: u64,
    dead: u64,
    free: u64,
}

impl Slots {
    fn join(self, o: Slots) -> Slots {
        Slots {
            live: self.live + o.live,
            garbage: self.garbage + o.garbage,
            dead: self.dead + o.dead,
            free: self.free + o.free,
        }
    }
}

fn slots_of(span: &Span, heap: &Heap, built: &Built, kernel: Option<&Kernel>) -> Slots {
    let end = span.start.0 + span.bytes;
    let resident = kernel.map_or(span.bytes, |k| k.resident_in(span.start.0, end));
    let whole = resident == span.bytes;
    let mut out = Slots::default();
    if resident == 0 {
        return out;
    }
    for i in 0..span.nelems {
        let id = span.first.index() + i as usize;
        let sum = if built.graph.reachable.get(id) {
            &mut out.live
        } else if heap.allocated.get(id) {
            &mut out.garbage
        } else if heap.dead.get(id) {
            &mut out.dead
        } else {
            continue;
        };
        let at = span.slot_addr(i).0;
        *sum += match kernel {
            Some(k) if !whole => k.resident_in(at, at + span.elemsize),
            _ => span.elemsize,
        };
    }
    out.free = resident.saturating_sub(out.live + out.garbage + out.dead);
    out
}

/// The runtime's counters. Cost: a few reads.
pub fn counters(rt: &Runtime) -> Counters {
    let mut c = Counters::default();
    let uint = |base: Option<Addr>, f: Field| -> Option<u64> {
        let loc = rt.layout.field(f)?;
        rt.target.read_u64(base?.offset(loc.offset.into())).ok()
    };
    let gc = rt.globals.get(Global::GcController);
    c.heap_in_use_bytes = uint(gc, Field::GcControllerHeapInUse);
    c.heap_idle_kept_bytes = uint(gc, Field::GcControllerHeapFree);
    c.heap_returned_bytes = uint(gc, Field::GcControllerHeapReleased);
    let stats = rt.globals.get(Global::Memstats);
    // Three generations of differences, which add up (runtime/mstats.go, consistentHeapStats).
    let delta = |f: Field| -> Option<u64> {
        let size = rt.layout.size(Struct::HeapStatsDelta)?;
        let at = stats?.offset(rt.layout.field(Field::MstatsHeapStats)?.offset.into());
        let parts = (0..3).map(|i| uint(Some(at.offset(i * size)), f)).collect::<Option<Vec<u64>>>()?;
        let sum = parts.iter().fold(0u64, |a, &b| a.wrapping_add(b));
        // Counters of a running process may be torn.
        (sum < 1 << 48).then_some(sum)
    };
    c.stacks_bytes = delta(Field::HeapStatsDeltaInStacks);
    let scalar = delta(Field::HeapStatsDeltaInPtrScalarBits).unwrap_or(0);
    c.work_buffers_bytes = delta(Field::HeapStatsDeltaInWorkBufs).map(|n| n + scalar);
    c.span_records_bytes = uint(stats, Field::MstatsMspanSys);
    c.cache_records_bytes = uint(stats, Field::MstatsMcacheSys);
    c.profile_buckets_bytes = uint(stats, Field::MstatsBuckhashSys);
    c.collector_bytes = uint(stats, Field::MstatsGcMiscSys);
    c.other_bytes = uint(stats, Field::MstatsOtherSys);
    c.metadata_bytes =
        [c.span_records_bytes, c.cache_records_bytes, c.profile_buckets_bytes, c.collector_bytes, c.other_bytes]
            .into_iter()
            .sum();
    c
}

/// Addresses inside the runtime's own structures, one or more in each piece of memory that it mapped for them.
fn metadata_addresses(rt: &Runtime, heap: &Heap) -> Vec<u64> {
    let mut out: Vec<u64> = heap.spans.iter().map(|s| s.mspan.0).collect();
    let Some(mheap) = rt.globals.get(Global::Mheap) else { return out };
    let member = |f: Field, word: u64| -> Option<u64> {
        rt.target.read_u64(mheap.offset(u64::from(rt.layout.field(f)?.offset) + 8 * word)).ok()
    };
    out.extend(member(Field::MheapAllspans, 0));
    out.extend(member(Field::MheapAllArenas, 0));
    out.extend(member(Field::MheapHeapArenas, 0));
    out.extend(member(Field::MheapArenas, 0));
    // pageAlloc begins with summary, five slices (runtime/mpagealloc.go).
    out.extend((0..5).filter_map(|level| member(Field::MheapPages, 3 * level)));
    // The table of arenas itself is large and sparse: its entries lead to the bitmaps.
    let base = if rt.target.arch == Arch::Amd64 { 0x8000_0000_0000u64 } else { 0 };
    if let Some(table) = member(Field::MheapArenas, 0) {
        for (start, end) in arenas(rt) {
            for at in (start..end).step_by(ARENA as usize) {
                let entry = Addr(table).offset(8 * (at.wrapping_add(base) / ARENA));
                out.push(entry.0);
                out.extend(rt.target.read_u64(entry).ok());
            }
        }
    }
    out.extend(rt.global_ptr(Global::Mbuckets).map(|a| a.0));
    if let (Some(allp), Some(loc)) = (rt.globals.get(Global::Allp), rt.layout.field(Field::PMcache))
        && let Ok(head) = rt.target.read_vec(allp, 24, 24)
    {
        let (data, len) = (bytes::u64_at(&head, 0).unwrap_or(0), bytes::u64_at(&head, 8).unwrap_or(0));
        for i in 0..len.min(4096) {
            let p = rt.target.read_ptr(Addr(data).offset(8 * i)).unwrap_or_default();
            out.extend(rt.target.read_u64(p.offset(loc.offset.into())).ok());
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// Bytes of a mapping's pages that hold anything but zeros. The runtime reserves far more than it touches (the table of
/// arenas alone is 32 MiB), and a core does not tell an untouched page from one of zeros.
fn not_zero(rt: &Runtime, m: &Mapping) -> u64 {
    const PAGE: usize = 4096;
    const PIECE: u64 = 1 << 20;
    let mut sum = 0;
    let mut at = m.start.0;
    while at < m.end.0 {
        let n = PIECE.min(m.end.0 - at);
        // What the core does not have was not in use, or is said to be missing elsewhere.
        if let Ok(piece) = rt.target.read_vec(Addr(at), n, PIECE) {
            sum += piece
                .chunks(PAGE)
                .filter(|page| page.iter().any(|&b| b != 0))
                .map(|page| page.len() as u64)
                .sum::<u64>();
        }
        at += n;
    }
    sum
}

/// Who owns a mapping outside the arenas; `None`: an anonymous one that is not the program's.
fn owner_of(rt: &Runtime, m: &Mapping) -> Option<Owner> {
    let globals = |a: u64, b: u64| a != 0 && a < m.end.0 && b > m.start.0;
    let modules = &rt.image.modules;
    let variables = modules.iter().any(|x| {
        [(x.noptrdata, x.enoptrdata), (x.data, x.edata), (x.bss, x.ebss), (x.noptrbss, x.enoptrbss)]
            .iter()
            .any(|r| globals(r.0.0, r.1.0))
    });
    if variables && m.writable {
        return Some(Owner::ProgramVariables);
    }
    let path = m.path.as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    if path.starts_with('/') {
        let own = rt.target.exe.as_ref().is_some_and(|e| m.path.as_ref() == Some(e));
        let text = modules.iter().any(|x| globals(x.text.0, x.etext.0) || globals(x.rodata.0, x.rodata.0 + 1));
        return Some(if own || text { Owner::ProgramFile } else { Owner::OtherFiles });
    }
    match path.as_str() {
        "[heap]" => Some(Owner::CHeap),
        "" => None,
        p if p.starts_with("[anon: Go") => Some(Owner::RuntimeMetadata),
        p if p.starts_with("[anon") => None,
        _ => Some(Owner::KernelMappings),
    }
}

/// Works out the ledger. Cost: one step a slot, one a resident page.
pub fn ledger(rt: &Runtime, heap: &Heap, built: &Built, kernel: Option<&Kernel>) -> Ledger {
    let counters = counters(rt);
    let mut sums: std::collections::BTreeMap<Owner, u64> = std::collections::BTreeMap::new();
    let mut add = |owner: Owner, bytes: u64| *sums.entry(owner).or_default() += bytes;

    // Inside the arenas. Without pagemap, spans are assumed to be resident.
    let known = kernel.filter(|k| k.pages.iter().any(|p| !p.is_empty()));
    let mut slots = heap
        .spans
        .par_chunks(256)
        .map(|spans| spans.iter().map(|s| slots_of(s, heap, built, known)).fold(Slots::default(), Slots::join))
        .reduce(Slots::default, Slots::join);
    let resident_in = |start: u64, end: u64| known.map_or(end.saturating_sub(start), |k| k.resident_in(start, end));
    let manual: u64 = heap.manual.iter().map(|&(start, bytes)| resident_in(start.0, start.0 + bytes)).sum();
    let in_manual = |at: Addr| {
        let i = heap.manual.partition_point(|m| m.0.0 + m.1 <= at.0);
        heap.manual.get(i).is_some_and(|m| m.0 <= at)
    };
    let stacks: u64 = built
        .goroutines
        .iter()
        .filter(|g| in_manual(g.stack.0) && g.stack.0 < g.stack.1)
        .map(|g| resident_in(g.stack.0.0, g.stack.1.0))
        .sum::<u64>()
        .min(manual);
    let mut idle = match known {
        Some(k) => {
            let all: u64 = k.pages.iter().map(|p| p.count_ones() as u64 * k.page).sum();
            all.saturating_sub(slots.live + slots.garbage + slots.dead + slots.free + manual)
        }
        None => counters.heap_idle_kept_bytes.unwrap_or(0),
    };
    // Pages of zeros are not counted by the kernel; what was never written is idle or free.
    let mut zeros = known.map_or(0, |k| k.zeros);
    for part in [&mut idle, &mut slots.free, &mut slots.garbage, &mut slots.live] {
        let cut = zeros.min(*part);
        *part -= cut;
        zeros -= cut;
    }
    add(Owner::HeapLive, slots.live);
    add(Owner::HeapGarbage, slots.garbage);
    add(Owner::HeapDead, slots.dead);
    add(Owner::HeapFree, slots.free);
    add(Owner::HeapIdle, idle);
    add(Owner::GoroutineStacks, stacks);
    add(Owner::RuntimeSpans, manual - stacks);

    // Outside.
    let own: Vec<(u64, u64)> = kernel.map_or_else(|| arenas(rt), |k| k.arenas.clone());
    let outside: Vec<(&Mapping, u64)> = match kernel {
        Some(k) => k.maps.iter().map(|m| (&m.map, m.resident)).collect(),
        // In a core, read-only mappings of files say nothing of what was resident.
        None => rt.target.mappings.iter().filter(|m| m.writable).map(|m| (m, m.end.0 - m.start.0)).collect(),
    };
    let marks = metadata_addresses(rt, heap);
    let thread_stacks: Vec<u64> = rt.target.threads.iter().filter_map(|t| t.regs.as_ref().map(|r| r.sp.0)).collect();
    // What the kernel put at the top of the first thread's stack tells which mapping that is, also in cores.
    let first_stack = rt.target.auxv.iter().find(|a| a.0 == AT_RANDOM).map_or(0, |a| a.1);
    let (mut metadata, mut unknown) = (0u64, 0u64);
    for (m, mut bytes) in outside {
        let i = own.partition_point(|a| a.1 <= m.start.0);
        if bytes == 0 || own.get(i).is_some_and(|a| a.0 <= m.start.0) {
            continue;
        }
        if kernel.is_none() {
            bytes = not_zero(rt, m);
        }
        match owner_of(rt, m) {
            Some(Owner::RuntimeMetadata) => metadata += bytes,
            Some(owner) => add(owner, bytes),
            None => {
                let inside = |at: u64| m.start.0 <= at && at < m.end.0;
                let next = marks.partition_point(|&a| a < m.start.0);
                if inside(first_stack) {
                    add(Owner::KernelMappings, bytes);
                } else if marks.get(next).is_some_and(|&a| inside(a)) {
                    metadata += bytes;
                } else if thread_stacks.iter().any(|&sp| inside(sp)) {
                    add(Owner::ThreadStacks, bytes);
                } else {
                    unknown += bytes;
                }
            }
        }
    }
    // The kernel joins neighbouring anonymous mappings, so one that holds the runtime's structures may also hold C's
    // memory; the runtime counts what it mapped for itself, and no more than that is its own. Where there is no C, a
    // mapping in which nothing known was seen is the runtime's as well, up to the same limit.
    if let Some(limit) = counters.metadata_bytes {
        let c = rt.target.mappings.iter().any(|m| {
            let name = m.path.as_ref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
            name.is_some_and(|n| n.starts_with("libc.") || n.starts_with("libc-") || n.starts_with("ld-"))
        });
        let all = metadata + unknown;
        metadata = if c { metadata.min(limit) } else { all.min(limit) };
        unknown = all - metadata;
    }
    add(Owner::RuntimeMetadata, metadata);
    add(Owner::OtherAnonymous, unknown);
    let rows: Vec<LedgerRow> =
        sums.into_iter().filter(|r| r.1 > 0).map(|(owner, bytes)| LedgerRow { owner, bytes }).collect();
    Ledger {
        source: if kernel.is_some() { LedgerSource::Kernel } else { LedgerSource::Assumed },
        resident_bytes: kernel.map(|k| k.resident),
        swapped_bytes: kernel.map_or(0, |k| k.maps.iter().map(|m| m.swapped).sum()),
        explained_bytes: rows.iter().map(|r| r.bytes).sum(),
        rows,
        counters,
    }
}
