//! Does the memory at an address look like the variable it is taken for? Checks are chosen so that neighbours in the
//! same segment fail them. All of them tolerate a running target (counters may move between two reads).

use super::Globals;
use crate::{
    base::{Addr, bytes},
    image::Image,
    runtime::{
        layout::{Field, Global, Layout, Struct},
        view::Record,
    },
    target::{Arch, Target},
};

/// Go page: runtime/sizeclasses.go, the same in all releases.
const PAGE: u64 = 8192;
/// log2 of the heap arena size on 64-bit Linux.
const ARENA_SHIFT: u32 = 26;
const ARENAS: u64 = 1 << 22;
/// Largest struct that is read as a whole for a check.
const MAX_STRUCT: u64 = 1 << 20;
/// The semaphore table's length (runtime/sema.go, `semTabSize`), unchanged since Go 1.9.
const SEM_TABLE_LEN: u64 = 251;
/// Longest list of threads that is followed.
const MAX_M: usize = 1 << 20;

pub(super) type Check = Result<(), String>;

pub(super) struct Checker<'a> {
    pub target: &'a Target,
    pub image: &'a Image,
    pub layout: &'a Layout,
}

macro_rules! ensure {
    ($cond:expr, $($why:tt)*) => {
        if !$cond {
            return Err(format!($($why)*));
        }
    };
}

impl<'a> Checker<'a> {
    fn u64(&self, addr: Addr) -> Result<u64, String> {
        self.target.read_u64(addr).map_err(|e| e.to_string())
    }

    fn u32(&self, addr: Addr) -> Result<u32, String> {
        self.target.read_u32(addr).map_err(|e| e.to_string())
    }

    fn u8(&self, addr: Addr) -> Result<u8, String> {
        let mut b = [0];
        self.target.read(addr, &mut b).map_err(|e| e.to_string())?;
        Ok(b[0])
    }

    /// The struct at `addr` up to and including `last`, or as a whole.
    fn record(&self, s: Struct, addr: Addr, last: Option<Field>) -> Result<Record<'a>, String> {
        let len = match last.and_then(|f| self.layout.field(f)) {
            Some(loc) => Some(u64::from(loc.offset) + u64::from(loc.width).max(24)),
            None => self.layout.size(s),
        };
        let len = len.ok_or_else(|| format!("the layout of {} is not known", s.name()))?;
        let bytes = self.target.read_vec(addr, len, MAX_STRUCT).map_err(|e| e.to_string())?;
        Ok(Record::new(self.layout, addr, bytes))
    }

    fn member(&self, base: Addr, field: Field) -> Result<Addr, String> {
        let loc = self.layout.need(field).map_err(|e| e.to_string())?;
        Ok(base.offset(u64::from(loc.offset)))
    }

    /// Slice header at `addr`: (data, len), refused unless 0 < len <= cap <= limit.
    fn slice(&self, addr: Addr, limit: u64) -> Result<(Addr, u64), String> {
        let mut b = [0u8; 24];
        self.target.read(addr, &mut b).map_err(|e| e.to_string())?;
        let word = |i| bytes::u64_at(&b, i).unwrap_or(0);
        let (data, len, cap) = (word(0), word(8), word(16));
        ensure!(data != 0 && data % 8 == 0 && len > 0 && len <= cap && cap <= limit, "no slice: {data:#x} {len} {cap}");
        Ok((Addr(data), len))
    }

    /// Checks the content for what `global` must hold. Variables without a check pass.
    pub fn check(&self, known: &Globals, global: Global, addr: Addr) -> Check {
        // Go 1.26 moved moduledata out of data into a section of its own; the table of small integers is read-only.
        let elsewhere = matches!(global, Global::Staticuint64s | Global::Firstmoduledata);
        ensure!(
            elsewhere || self.image.modules.iter().any(|m| m.is_global(addr)),
            "it lies outside the program's variables"
        );
        match global {
            Global::Mheap => self.mheap(addr),
            Global::Allgs => self.allgs(addr),
            Global::Allglen => {
                let allgs = known.get(Global::Allgs).ok_or("allgs is not known")?;
                let (len, allglen) = (self.u64(allgs.offset(8))?, self.u64(addr)?);
                ensure!(allglen.abs_diff(len) <= 16 && allglen > 0, "allgs has {len} elements, this says {allglen}");
                Ok(())
            }
            Global::Allp => self.allp(addr),
            Global::Allm => self.allm(known, addr),
            Global::Sched => self.sched(known, addr),
            Global::Memstats => self.memstats(addr),
            Global::GcController => self.gc_controller(known, addr),
            Global::Work => self.work(known, addr),
            Global::Semtable => self.semtable(addr),
            Global::Allfin | Global::Finq => self.finblock(addr),
            Global::GcCleanups => self.cleanups(addr),
            Global::Mbuckets => self.bucket(addr, 1),
            Global::Bbuckets => self.bucket(addr, 2),
            Global::Xbuckets => self.bucket(addr, 3),
            Global::MemProfileRate => {
                let rate = self.u64(addr)?;
                ensure!(rate < 1 << 40, "a rate of {rate}");
                Ok(())
            }
            Global::Gcphase => self.at_most(addr, 2),
            Global::GcBlackenEnabled | Global::NetpollInited => self.at_most(addr, 1),
            Global::Panicking => self.at_most(addr, 1 << 16),
            Global::WriteBarrier | Global::MainStarted => {
                let b = self.u8(addr)?;
                ensure!(b <= 1, "a flag of {b}");
                Ok(())
            }
            Global::BuildVersion => self.build_version(addr),
            Global::Emptymspan => self.emptymspan(known, addr),
            Global::ZeroVal => {
                let b = self.target.read_vec(addr, 1024, MAX_STRUCT).map_err(|e| e.to_string())?;
                ensure!(b.iter().all(|b| *b == 0), "not 1024 zero bytes");
                Ok(())
            }
            Global::PhysPageSize => {
                let n = self.u64(addr)?;
                ensure!(n.is_power_of_two() && (4096..=1 << 20).contains(&n), "a page size of {n}");
                Ok(())
            }
            Global::Gomaxprocs => {
                let allp = known.get(Global::Allp).ok_or("allp is not known")?;
                let (n, len) = (self.u32(addr)?, self.u64(allp.offset(8))?);
                ensure!(u64::from(n) == len, "{n}, but allp has {len} elements");
                Ok(())
            }
            Global::Ncpu => {
                let n = self.u32(addr)?;
                ensure!((1..=1 << 16).contains(&n), "{n} processors");
                Ok(())
            }
            Global::Sweep => {
                let g = self.u64(addr.offset(8))?;
                self.known_g(known, Addr(g))
            }
            Global::Fing => match self.u64(addr)? {
                0 => Ok(()),
                g => self.known_g(known, Addr(g)),
            },
            Global::ItabTable => {
                let table = Addr(self.u64(addr)?);
                let (size, count) = (self.u64(table)?, self.u64(table.offset(8))?);
                ensure!(size.is_power_of_two() && size <= 1 << 32 && count <= size, "a table of {count} in {size}");
                Ok(())
            }
            Global::Lastmoduledatap => {
                let last = self.u64(addr)?;
                ensure!(self.image.modules.iter().any(|m| m.addr.0 == last), "{last:#x} is no moduledata");
                Ok(())
            }
            Global::InProgress => {
                // A list head of mutex-free type; busy only for an instant.
                ensure!(!inside(known, self.layout, Global::Memstats, Struct::Mstats, addr), "part of memstats");
                Ok(())
            }
            Global::ReflectOffs => {
                ensure!(self.image.modules.iter().all(|m| m.addr != addr), "that is moduledata");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn at_most(&self, addr: Addr, max: u32) -> Check {
        let n = self.u32(addr)?;
        ensure!(n <= max, "{n} is more than {max}");
        Ok(())
    }

    fn mheap(&self, addr: Addr) -> Check {
        let sweepgen = self.u32(self.member(addr, Field::MheapSweepgen)?)?;
        ensure!(sweepgen % 2 == 0, "sweepgen {sweepgen} is odd");
        let (spans, len) = self.slice(self.member(addr, Field::MheapAllspans)?, 1 << 32)?;
        let arenas = Addr(self.u64(self.member(addr, Field::MheapArenas)?)?);
        // Some spans of the first few are in use in every program that has begun to run.
        let mut why = String::from("none of the first spans is in use");
        for i in 0..len.min(64) {
            let span = Addr(self.u64(spans.offset(8 * i))?);
            let r = self.record(Struct::Mspan, span, None)?;
            let get = |f| r.get(f).map_err(|e| e.to_string());
            let (start, pages) = (get(Field::MspanStartAddr)?, get(Field::MspanNpages)?);
            ensure!(start % PAGE == 0 && pages < 1 << 30, "span {span}: start {start:#x}, {pages} pages");
            let state = get(Field::MspanState)?;
            if state == 0 {
                continue;
            }
            ensure!(state <= 2 && start != 0 && pages != 0, "span {span}: state {state}, start {start:#x}");
            match self.arena_span(arenas, Addr(start)) {
                Ok(found) if found == span => return Ok(()),
                Ok(found) => why = format!("the arena says that {start:#x} belongs to span {found}, not {span}"),
                Err(e) => why = e,
            }
        }
        Err(why)
    }

    /// The mspan that the arena index gives for an address.
    fn arena_span(&self, l2: Addr, addr: Addr) -> Result<Addr, String> {
        let base = match self.target.arch {
            Arch::Amd64 => 0x8000_0000_0000u64,
            Arch::Arm64 => 0,
        };
        let index = addr.0.wrapping_add(base) >> ARENA_SHIFT;
        ensure!(index < ARENAS, "{addr} has no arena");
        let arena = Addr(self.u64(l2.offset(8 * index))?);
        let page = (addr.0 & ((1 << ARENA_SHIFT) - 1)) / PAGE;
        self.u64(self.member(arena, Field::HeapArenaSpans)?.offset(8 * page)).map(Addr)
    }

    fn allgs(&self, addr: Addr) -> Check {
        let (data, _) = self.slice(addr, 1 << 32)?;
        let g = self.record(Struct::G, Addr(self.u64(data)?), None)?;
        let get = |f| g.get(f).map_err(|e| e.to_string());
        let (goid, lo, hi) = (get(Field::GGoid)?, get(Field::GStackLo)?, get(Field::GStackHi)?);
        ensure!(goid == 1, "the first goroutine has id {goid}");
        // The main goroutine is never dead, but its stack may be being moved.
        ensure!(lo < hi && hi - lo <= 1 << 40, "the main goroutine's stack is {lo:#x} to {hi:#x}");
        Ok(())
    }

    fn allp(&self, addr: Addr) -> Check {
        let (data, len) = self.slice(addr, 1 << 20)?;
        for i in 0..len.min(4096) {
            let p = self.record(Struct::P, Addr(self.u64(data.offset(8 * i))?), Some(Field::PMcache))?;
            let id = p.get(Field::PId).map_err(|e| e.to_string())? as u32;
            ensure!(u64::from(id) == i, "element {i} has id {id}");
            let status_ok = p.opt(Field::PStatus).is_none_or(|s| s <= 4);
            ensure!(status_ok, "element {i} has an impossible status");
            let cache = p.ptr(Field::PMcache).map_err(|e| e.to_string())?;
            // A P without its cache is being destroyed; the first has one always.
            ensure!(i != 0 || !cache.is_null(), "the first P has no mcache");
            if !cache.is_null() {
                self.u64(self.member(cache, Field::McacheAlloc)?)?;
            }
        }
        Ok(())
    }

    /// The list must lead to m0, which is a variable of the program.
    fn allm(&self, known: &Globals, addr: Addr) -> Check {
        ensure!(!inside(known, self.layout, Global::Sched, Struct::Sched, addr), "part of sched");
        let mut m = Addr(self.u64(addr)?);
        let mut last = None;
        for _ in 0..MAX_M {
            if m.is_null() {
                let m0 = last.ok_or("the list is empty")?;
                ensure!(
                    self.image.modules.iter().any(|i| i.is_global(m0)),
                    "the list does not end at the first thread"
                );
                return Ok(());
            }
            last = Some(m);
            m = Addr(self.u64(self.member(m, Field::MAlllink)?)?);
        }
        Err("the list has no end".into())
    }

    fn sched(&self, known: &Globals, addr: Addr) -> Check {
        let r = self.record(Struct::Sched, addr, None)?;
        let num = |f| r.opt(f).map(|v| v as i64);
        let small = |f| r.opt(f).map(|v| i64::from(v as i32));
        let max = small(Field::SchedMaxmcount).ok_or("its layout is not known")?;
        ensure!(max > 0, "maxmcount {max}");
        let next = num(Field::SchedMnext).ok_or("its layout is not known")?;
        ensure!((1..=1 << 32).contains(&next), "mnext {next}");
        let idle = small(Field::SchedNmidle).unwrap_or(0);
        ensure!((0..=next).contains(&idle), "nmidle {idle} of {next}");
        let goids = num(Field::SchedGoidgen).unwrap_or(1);
        ensure!((1..1 << 48).contains(&goids), "goidgen {goids}");
        if let Some(allgs) = known.get(Global::Allgs) {
            let n = self.u64(allgs.offset(8))? as i64;
            ensure!(goids >= n, "{n} goroutines, but goidgen is {goids}");
        }
        Ok(())
    }

    fn memstats(&self, addr: Addr) -> Check {
        let r = self.record(Struct::Mstats, addr, None)?;
        let num = |f| r.opt(f).unwrap_or(0);
        // Metadata of the allocator exists before main runs; these counters grow by whole chunks.
        for f in [Field::MstatsMspanSys, Field::MstatsMcacheSys, Field::MstatsGcMiscSys] {
            if self.layout.has(f) {
                let n = num(f);
                ensure!((1..1 << 44).contains(&n), "{} is {n}", f.path());
            }
        }
        let (gcs, forced) = (num(Field::MstatsNumgc) as u32, num(Field::MstatsNumforcedgc) as u32);
        ensure!(forced <= gcs, "{forced} forced of {gcs} collections");
        let pauses = num(Field::MstatsPauseTotalNs);
        ensure!((gcs == 0) == (pauses == 0), "{gcs} collections paused for {pauses} ns");
        let on = num(Field::MstatsEnablegc) & 0xff;
        ensure!(on <= 1, "enablegc {on}");
        Ok(())
    }

    fn gc_controller(&self, known: &Globals, addr: Addr) -> Check {
        let r = self.record(Struct::GcController, addr, None)?;
        let percent = r.opt(Field::GcControllerGcPercent).map_or(100, |v| v as i32);
        ensure!((-1..=1 << 24).contains(&percent), "GOGC {percent}");
        if let Some(limit) = r.opt(Field::GcControllerMemoryLimit) {
            ensure!(limit > 0 && limit <= i64::MAX as u64, "memory limit {limit}");
        }
        let in_use = r.opt(Field::GcControllerHeapInUse).ok_or("its layout is not known")?;
        ensure!(in_use > 0 && in_use % PAGE == 0, "heapInUse {in_use}");
        if let (Some(mheap), true) = (known.get(Global::Mheap), self.layout.has(Field::MheapPagesInUse)) {
            let pages = self.u64(self.member(mheap, Field::MheapPagesInUse)?)?;
            let expected = pages.saturating_mul(PAGE);
            ensure!(
                in_use.abs_diff(expected) <= expected / 2 + (16 << 20),
                "heapInUse {in_use}, the heap has {expected}"
            );
        }
        Ok(())
    }

    fn work(&self, known: &Globals, addr: Addr) -> Check {
        let r = self.record(Struct::Work, addr, None)?;
        let mode = r.opt(Field::WorkMode).map_or(0, |v| v & 0xff);
        ensure!(mode <= 2, "mode {mode}");
        let cycles = r.opt(Field::WorkCycles).map(|v| v as u32);
        if let (Some(cycles), Some(memstats)) = (cycles, known.get(Global::Memstats)) {
            let gcs = self.u32(self.member(memstats, Field::MstatsNumgc)?)?;
            ensure!(cycles.wrapping_sub(gcs) <= 2, "cycle {cycles} after {gcs} collections");
        }
        let (start, end) = (r.opt(Field::WorkTSweepTerm).unwrap_or(0), r.opt(Field::WorkTEnd).unwrap_or(0));
        ensure!(start as i64 >= 0 && end as i64 >= 0, "times {start} and {end}");
        ensure!(cycles.is_none_or(|c| (c == 0) == (start == 0)), "no start time in cycle {cycles:?}");
        Ok(())
    }

    fn semtable(&self, addr: Addr) -> Check {
        let stride = sem_stride(self.target.arch, self.image.go_version.minor);
        let nwait = self.layout.need(Field::SemaRootNwait).map_err(|e| e.to_string())?.offset as usize;
        let treap = self.layout.need(Field::SemaRootTreap).map_err(|e| e.to_string())?.offset as usize;
        let raw = self.target.read_vec(addr, stride * SEM_TABLE_LEN, MAX_STRUCT).map_err(|e| e.to_string())?;
        for (i, root) in raw.chunks_exact(stride as usize).enumerate() {
            let (waiting, top) = (bytes::u32_at(root, nwait).unwrap_or(0), bytes::u64_at(root, treap).unwrap_or(0));
            // A waiter counts itself before it is in the tree.
            ensure!(
                waiting < 1 << 28 && top % 8 == 0 && (top == 0 || waiting > 0),
                "root {i}: {waiting} wait at {top:#x}"
            );
            ensure!(root[24..].iter().all(|b| *b == 0), "root {i} is followed by something else than padding");
        }
        let end = addr.offset(stride * SEM_TABLE_LEN - 1);
        ensure!(self.image.modules.iter().any(|m| m.bss <= addr && end < m.enoptrbss.max(m.ebss)), "not in bss");
        Ok(())
    }

    fn finblock(&self, addr: Addr) -> Check {
        let block = Addr(self.u64(addr)?);
        if block.is_null() {
            return Ok(());
        }
        let cnt = self.u32(self.member(block, Field::FinBlockCnt)?)?;
        // A block is 4096 bytes, a finalizer at least 32.
        ensure!(cnt <= 128, "a block of {cnt} finalizers");
        Ok(())
    }

    fn cleanups(&self, addr: Addr) -> Check {
        let all = self.u64(self.member(addr, Field::CleanupQueueAll)?)?;
        if all != 0 {
            ensure!(all % 8 == 0, "a block at {all:#x}");
            self.u64(Addr(all))?;
        }
        Ok(())
    }

    fn bucket(&self, addr: Addr, kind: u64) -> Check {
        let bucket = Addr(self.u64(addr)?);
        if bucket.is_null() {
            return Ok(());
        }
        let r = self.record(Struct::Bucket, bucket, None)?;
        let get = |f| r.get(f).map_err(|e| e.to_string());
        let (typ, depth) = (get(Field::BucketTyp)?, get(Field::BucketNstk)?);
        ensure!(typ == kind && depth <= 1024, "a bucket of kind {typ} with {depth} frames");
        Ok(())
    }

    fn build_version(&self, addr: Addr) -> Check {
        let (data, len) = (Addr(self.u64(addr)?), self.u64(addr.offset(8))?);
        let text = self.target.read_vec(data, len, 256).map_err(|e| e.to_string())?;
        ensure!(text.starts_with(b"go1") || text.starts_with(b"devel"), "no version string");
        Ok(())
    }

    /// Every mcache points to it for the span classes that it has no span of.
    fn emptymspan(&self, known: &Globals, addr: Addr) -> Check {
        let allp = known.get(Global::Allp).ok_or("allp is not known")?;
        let (data, len) = self.slice(allp, 1 << 20)?;
        for i in 0..len.min(64) {
            let p = self.record(Struct::P, Addr(self.u64(data.offset(8 * i))?), Some(Field::PMcache))?;
            let cache = p.ptr(Field::PMcache).map_err(|e| e.to_string())?;
            if cache.is_null() {
                continue;
            }
            let alloc = self.target.read_vec(self.member(cache, Field::McacheAlloc)?, 136 * 8, MAX_STRUCT);
            let alloc = alloc.map_err(|e| e.to_string())?;
            if alloc.chunks_exact(8).any(|c| c == addr.0.to_le_bytes()) {
                return Ok(());
            }
        }
        Err("no mcache points to it".into())
    }

    fn known_g(&self, known: &Globals, g: Addr) -> Check {
        let allgs = known.get(Global::Allgs).ok_or("allgs is not known")?;
        let (data, len) = self.slice(allgs, 1 << 32)?;
        // The runtime's own goroutines are among the first.
        let raw = self.target.read_vec(data, 8 * len.min(4096), MAX_STRUCT).map_err(|e| e.to_string())?;
        ensure!(raw.chunks_exact(8).any(|c| c == g.0.to_le_bytes()), "{g} is no goroutine");
        Ok(())
    }
}

/// Bytes from one semaphore root to the next: each is padded to a cache line, which arm64 took to be 64 bytes long
/// before Go 1.21.
pub fn sem_stride(arch: Arch, minor: u32) -> u64 {
    match arch {
        Arch::Arm64 if minor >= 21 => 128,
        _ => 64,
    }
}

fn inside(known: &Globals, layout: &Layout, global: Global, s: Struct, addr: Addr) -> bool {
    let (Some(base), Some(size)) = (known.get(global), layout.size(s)) else { return false };
    addr.distance_from(base).is_some_and(|d| d < size)
}
