//! Candidates by code: which functions of the runtime refer to a variable. The lists were drawn from the linker's own
//! symbols in builds of Go 1.19 and 1.21 to 1.27, amd64 and arm64, of a hello world and of large programs; a test
//! repeats that. Functions that a release lacks do not vote.

use std::collections::HashMap;

use crate::{
    base::Addr,
    image::{
        Image,
        disasm::{Reference, Use},
    },
    runtime::layout::Global,
};

/// How the instructions must use the variable, to tell it from its neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Any,
    /// Loads or stores of this many bytes, at least one of them (atomics on arm64 take the address: `Any` there).
    Width(u8),
}

/// Where the order of equals decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tie {
    /// Fewest other functions that refer to it.
    Rare,
    /// Lowest address: the variable is the start of a struct whose members are referred to as well.
    Lowest,
    /// Referred to first in the first function of the list.
    First,
}

struct Signature {
    global: Global,
    access: Access,
    tie: Tie,
    functions: &'static [&'static str],
}

const fn sig(global: Global, access: Access, tie: Tie, functions: &'static [&'static str]) -> Signature {
    Signature { global, access, tie, functions }
}

use Access::{Any, Width};
use Tie::{First, Lowest, Rare};

const SIGNATURES: &[Signature] = &[
    sig(
        Global::Mheap,
        Any,
        Rare,
        &[
            "(*mcentral).grow",
            "(*mcache).allocLarge",
            "sweepone",
            "sweepone.func1",
            "stackalloc",
            "stackpoolfree",
            "stackfree",
            "(*p).destroy.func1",
            "(*sweepLocked).sweep",
            "stackpoolalloc",
            "mallocinit",
            "freeSomeWbufs.func1",
        ],
    ),
    sig(
        Global::Allgs,
        Any,
        Lowest,
        &["allgadd", "forEachG", "gcMarkRootPrepare", "gcPrepareMarkRoots", "allGsSnapshotSortedForGC"],
    ),
    sig(Global::Allglen, Any, Rare, &["allgadd", "forEachGRace"]),
    sig(
        Global::Allp,
        Any,
        Lowest,
        &[
            "retake",
            "checkdead",
            "gcMarkTinyAllocs",
            "gcMark",
            "gcComputeStartingStackSize",
            "stopTheWorldWithSema",
            "(*gcControllerState).startCycle",
            "preemptall",
            "schedtrace",
            "gcStart",
            "(*gcControllerState).enlistWorker",
            "(*gcCPULimiterState).updateLocked",
        ],
    ),
    sig(Global::Sched, Any, Lowest, &["newproc1", "oneNewExtraM"]),
    sig(Global::Allm, Any, Rare, &["mcommoninit", "mexit", "schedtrace", "traceAdvance"]),
    sig(
        Global::Memstats,
        Any,
        Rare,
        &[
            "(*pageAlloc).scavengeOne",
            "(*mheap).allocSpan",
            "(*mcache).releaseAll",
            "(*mcache).allocLarge",
            "(*mheap).freeSpanLocked",
            "(*sweepLocked).sweep",
            "(*mheap).grow",
            "(*mcache).refill",
        ],
    ),
    sig(
        Global::GcController,
        Any,
        Rare,
        &[
            "gcStart",
            "gcControllerCommit",
            "gcMark",
            "(*mcache).releaseAll",
            "gcTrigger.test",
            "findRunnable",
            "gcBgMarkWorker",
            "gcMarkDone",
            "(*mcache).allocLarge",
            "checkIdleGCNoP",
            "gcinit",
            "(*mcache).refill",
        ],
    ),
    sig(
        Global::Work,
        Any,
        Rare,
        &[
            "endCheckmarks",
            "gcMark",
            "trygetfull",
            "gcMarkDone",
            "gcDrainN",
            "putfull",
            "gcDrain",
            "prepareFreeWorkbufs",
        ],
    ),
    sig(Global::Semtable, Any, Rare, &["semacquire1", "semrelease1"]),
    sig(Global::Allfin, Width(8), Rare, &["markroot", "queuefinalizer"]),
    sig(Global::Finq, Width(8), First, &["queuefinalizer", "runfinq", "runFinalizers"]),
    sig(Global::GcCleanups, Any, Rare, &["freeSpecial", "findRunnable", "(*activeSweep).end"]),
    sig(Global::Mbuckets, Any, Rare, &["stkbucket", "mProf_FlushLocked"]),
    sig(Global::Bbuckets, Any, Rare, &["stkbucket", "blockProfileInternal", "BlockProfile"]),
    sig(Global::Xbuckets, Any, Rare, &["stkbucket", "mutexProfileInternal", "MutexProfile"]),
    sig(
        Global::MemProfileRate,
        Width(8),
        Rare,
        &[
            "profilealloc",
            "allocmcache",
            "mallocgc",
            "mallocgcLarge",
            "mallocgcSmallNoscan",
            "mallocgcSmallScanHeader",
            "mallocgcSmallScanNoHeader",
            "parsegodebug",
        ],
    ),
    sig(
        Global::Gcphase,
        Any,
        Rare,
        &[
            "gcMark",
            "gcMarkDone",
            "gcMarkTermination",
            "gcStart",
            "freeSomeWbufs",
            "gcControllerCommit",
            "(*gcWork).balance",
            "(*p).destroy",
            "GC",
            "setGCPhase",
        ],
    ),
    sig(
        Global::WriteBarrier,
        Any,
        Rare,
        &[
            "(*addrRanges).init",
            "(*fixalloc).init",
            "(*p).destroy",
            "(*p).init",
            "(*pageAlloc).init",
            "(*scavengerState).init",
            "(*semaRoot).queue",
            "(*semaRoot).dequeue",
            "(*semaRoot).rotateLeft",
            "(*semaRoot).rotateRight",
        ],
    ),
    sig(
        Global::GcBlackenEnabled,
        Any,
        Rare,
        &[
            "(*gcControllerState).update",
            "checkIdleGCNoP",
            "findRunnable",
            "gcAssistAlloc1",
            "gcBgMarkWorker",
            "gcMarkDone",
            "gcParkAssist",
            "gcStart",
            "handoffp",
        ],
    ),
    sig(Global::BuildVersion, Any, Lowest, &["schedinit", "dumpparams"]),
    sig(Global::Emptymspan, Any, Rare, &["(*mcache).refill", "(*mcache).releaseAll", "allocmcache"]),
    sig(Global::InProgress, Any, Rare, &["getGCMaskOnDemand"]),
    sig(
        Global::ZeroVal,
        Any,
        Rare,
        &[
            "mapaccess2",
            "convTstring",
            "mapaccess2_fast32",
            "mapaccess1_fast32",
            "mapaccess1_faststr",
            "mapaccess2_faststr",
            "mapaccess1_fast64",
            "mapaccess2_fast64",
        ],
    ),
    sig(
        Global::MProfCycle,
        Any,
        Rare,
        &["mProf_Free", "mProf_Malloc", "gcMarkTermination", "gcSweep", "mProf_Flush", "mProf_PostSweep"],
    ),
    sig(Global::Sweep, Any, Lowest, &["bgsweep", "gcSweep"]),
    sig(
        Global::PhysPageSize,
        Any,
        Rare,
        &[
            "sysUnusedOS",
            "mallocinit",
            "(*pageAlloc).scavengeOne",
            "(*scavengerState).run",
            "(*pageAlloc).sysInit",
            "sysauxv",
            "stackalloc",
            "(*linearAlloc).alloc",
            "gcPaceScavenger",
            "sysargs",
            "(*pageAlloc).sysGrow",
            "(*mheap).sysAlloc",
        ],
    ),
    sig(Global::ItabTable, Width(8), Rare, &["itabAdd", "getitab"]),
    sig(
        Global::NetpollInited,
        Any,
        Rare,
        &[
            "sysmon",
            "netpollGenericInit",
            "findRunnable",
            "pollWork",
            "startTheWorldWithSema",
            "(*timers).addHeap",
            "doaddtimer",
        ],
    ),
    sig(Global::Faketime, Width(8), Rare, &["(*scavengerState).run", "checkdead", "findRunnable"]),
    sig(
        Global::Gomaxprocs,
        Any,
        Rare,
        &[
            "gcStart",
            "sysmon",
            "stopTheWorldWithSema",
            "handoffp",
            "GOMAXPROCS",
            "findRunnable",
            "gcMarkDone",
            "(*gcControllerState).enlistWorker",
            "procresize",
            "startTheWorldWithSema",
            "gcBgMarkStartWorkers",
        ],
    ),
    sig(
        Global::Panicking,
        Any,
        Rare,
        &[
            "callCgoSymbolizer",
            "startpanic_m",
            "cgoContextPCs",
            "gcTrigger.test",
            "checkdead",
            "main",
            "recordForPanic",
            "pcvalue",
            "dopanic_m",
        ],
    ),
    sig(Global::MainStarted, Any, Rare, &["main", "newproc.func1", "sigaction", "goschedImpl"]),
    sig(Global::Fing, Width(8), Rare, &["findRunnable", "runfinq", "runFinalizers", "wakefing"]),
];

/// One address that functions of a signature refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub addr: Addr,
    /// Functions of the list that refer to it.
    pub votes: usize,
}

/// References of the runtime functions that signatures name.
#[derive(Debug)]
pub struct Votes {
    /// Function name (without `runtime.`) to its references to globals, in code order.
    functions: HashMap<&'static str, Vec<Reference>>,
    /// How many of those functions refer to an address.
    referrers: HashMap<Addr, usize>,
}

impl Votes {
    /// Disassembles the functions that any signature names: about a hundred.
    pub fn collect(image: &Image) -> Votes {
        let wanted: HashMap<&str, &'static str> =
            SIGNATURES.iter().flat_map(|s| s.functions).map(|&name| (name, name)).collect();
        let mut functions: HashMap<&'static str, Vec<Reference>> = HashMap::new();
        for f in image.pclntab.tables().iter().take(1).flat_map(|t| t.funcs()) {
            if let Some(name) = f.name().strip_prefix("runtime.").and_then(|n| wanted.get(n)) {
                functions.entry(*name).or_default().extend(image.global_references(&f));
            }
        }
        let mut referrers: HashMap<Addr, usize> = HashMap::new();
        for refs in functions.values() {
            let mut addrs: Vec<Addr> = refs.iter().map(|r| r.addr).collect();
            addrs.sort_unstable();
            addrs.dedup();
            for a in addrs {
                *referrers.entry(a).or_default() += 1;
            }
        }
        Votes { functions, referrers }
    }

    /// How many functions were found by name: 0 where the runtime's names are obfuscated.
    pub fn functions(&self) -> usize {
        self.functions.len()
    }

    /// Addresses that most of the listed functions refer to, best first; empty where the release or the program has
    /// none of the functions. The caller checks contents and takes the first that fits.
    pub fn candidates(&self, global: Global) -> Vec<Candidate> {
        let Some(s) = SIGNATURES.iter().find(|s| s.global == global) else { return Vec::new() };
        let mut votes: HashMap<Addr, (usize, bool)> = HashMap::new();
        for refs in s.functions.iter().filter_map(|f| self.functions.get(f)) {
            let mut seen: HashMap<Addr, bool> = HashMap::new();
            for r in refs {
                let fits = match s.access {
                    Any => true,
                    Width(w) => r.how != Use::Address && r.size == w,
                };
                *seen.entry(r.addr).or_default() |= fits;
            }
            for (addr, fits) in seen {
                let v = votes.entry(addr).or_default();
                v.0 += 1;
                v.1 |= fits;
            }
        }
        votes.retain(|_, v| v.1);
        let most = votes.values().map(|v| v.0).max().unwrap_or(0);
        let first = s.functions.iter().find_map(|f| self.functions.get(f));
        let position =
            |addr: Addr| first.and_then(|refs| refs.iter().position(|r| r.addr == addr)).unwrap_or(usize::MAX);
        // One vote less is within what inlining moves about; the content check decides.
        let mut list: Vec<Candidate> = votes
            .into_iter()
            .map(|(addr, (votes, _))| Candidate { addr, votes })
            .filter(|c| c.votes + 1 >= most && (c.votes >= 2 || most == 1))
            .collect();
        list.sort_by_key(|c| {
            let order = match s.tie {
                Rare => self.referrers.get(&c.addr).copied().unwrap_or(0),
                Lowest => 0,
                First => position(c.addr),
            };
            (std::cmp::Reverse(c.votes), order, c.addr)
        });
        list
    }
}
