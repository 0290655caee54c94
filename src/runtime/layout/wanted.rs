//! Every runtime type, member, global and constant that gosleuth relies on, once: the whole of its debt to the Go
//! runtime on one page. `required` members make a target unreadable when absent; without an `optional` one a release
//! lacks the feature, and the code that asks must cope.
//!
//! A name may list alternatives, `a|b`: the newest spelling first (Go 1.21 moved `runtime._type` to `internal/abi.Type`).
//! A member path may go through embedded structs with dots: `sched.pc`. After a change here run scripts/layouts, which
//! writes the same for binaries without DWARF; tests/layouts.rs fails until then.

/// Must a target have it?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    Required,
    Optional,
}

macro_rules! wanted {
    (structs { $($s:ident = $sname:literal { $($f:ident = $path:literal $need:ident),* $(,)? })* }
     globals { $($g:ident = $gname:literal $gneed:ident),* $(,)? }
     constants { $($c:ident = $cname:literal),* $(,)? }) => {
        /// A runtime struct.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Struct { $($s),* }

        impl Struct {
            pub const ALL: &'static [Struct] = &[$(Struct::$s),*];
            pub const COUNT: usize = Self::ALL.len();

            /// Name in DWARF; alternatives separated by `|`.
            pub fn name(self) -> &'static str {
                match self { $(Struct::$s => $sname),* }
            }
        }

        /// A member of a runtime struct.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Field { $($($f),*),* }

        impl Field {
            pub const ALL: &'static [Field] = &[$($(Field::$f),*),*];
            pub const COUNT: usize = Self::ALL.len();

            pub fn owner(self) -> Struct {
                match self { $($(Field::$f => Struct::$s),*),* }
            }

            /// Member path inside the owner; alternatives separated by `|`.
            pub fn path(self) -> &'static str {
                match self { $($(Field::$f => $path),*),* }
            }

            pub fn need(self) -> Need {
                match self { $($(Field::$f => Need::$need),*),* }
            }
        }

        /// A global variable of the runtime.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Global { $($g),* }

        impl Global {
            pub const ALL: &'static [Global] = &[$(Global::$g),*];
            pub const COUNT: usize = Self::ALL.len();

            pub fn name(self) -> &'static str {
                match self { $(Global::$g => $gname),* }
            }

            pub fn need(self) -> Need {
                match self { $(Global::$g => Need::$gneed),* }
            }
        }

        /// A constant of the runtime; all are optional, since DWARF holds only some of them.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Constant { $($c),* }

        impl Constant {
            pub const ALL: &'static [Constant] = &[$(Constant::$c),*];
            pub const COUNT: usize = Self::ALL.len();

            /// Name in DWARF; alternatives separated by `|`.
            pub fn name(self) -> &'static str {
                match self { $(Constant::$c => $cname),* }
            }
        }
    };
}

wanted! {
    structs {
        Mheap = "runtime.mheap" {
            MheapPages = "pages" Optional,
            MheapSweepgen = "sweepgen" Required,
            MheapAllspans = "allspans" Required,
            MheapPagesInUse = "pagesInUse" Optional,
            MheapArenas = "arenas" Required,
            MheapAllArenas = "allArenas" Optional,
            MheapHeapArenas = "heapArenas" Optional,
            MheapUserArenaArenas = "userArenaArenas" Optional,
            MheapCentral = "central" Optional,
            MheapSpanalloc = "spanalloc" Optional,
            MheapUserArena = "userArena" Optional,
            MheapSweepPagesPerByte = "sweepPagesPerByte" Optional,
        }
        HeapArena = "runtime.heapArena" {
            HeapArenaBitmap = "bitmap" Optional,
            HeapArenaNoMorePtrs = "noMorePtrs" Optional,
            HeapArenaSpans = "spans" Required,
            HeapArenaPageInUse = "pageInUse" Optional,
            HeapArenaPageMarks = "pageMarks" Optional,
            HeapArenaPageSpecials = "pageSpecials" Optional,
            HeapArenaPageUseSpanInlineMarkBits = "pageUseSpanInlineMarkBits" Optional,
        }
        Mspan = "runtime.mspan" {
            MspanNext = "next" Optional,
            MspanStartAddr = "startAddr" Required,
            MspanNpages = "npages" Required,
            MspanFreeindex = "freeindex" Required,
            MspanNelems = "nelems" Required,
            MspanFreeIndexForScan = "freeIndexForScan" Optional,
            MspanScanIdx = "scanIdx" Optional,
            MspanAllocCache = "allocCache" Optional,
            MspanAllocBits = "allocBits" Required,
            MspanGcmarkBits = "gcmarkBits" Required,
            MspanPinnerBits = "pinnerBits" Optional,
            MspanSweepgen = "sweepgen" Required,
            MspanDivMul = "divMul" Optional,
            MspanAllocCount = "allocCount" Required,
            MspanSpanclass = "spanclass" Required,
            MspanState = "state" Required,
            MspanNeedzero = "needzero" Optional,
            MspanIsUserArenaChunk = "isUserArenaChunk" Optional,
            MspanAllocCountBeforeCache = "allocCountBeforeCache" Optional,
            MspanElemsize = "elemsize" Required,
            MspanLimit = "limit" Required,
            MspanSpecials = "specials" Required,
            MspanLargeType = "largeType" Optional,
            MspanManualFreeList = "manualFreeList" Optional,
        }
        Mcache = "runtime.mcache" {
            McacheNextSample = "nextSample" Optional,
            McacheTiny = "tiny" Required,
            McacheTinyoffset = "tinyoffset" Optional,
            McacheTinyAllocs = "tinyAllocs" Optional,
            McacheAlloc = "alloc" Required,
            McacheStackcache = "stackcache" Optional,
            McacheFlushGen = "flushGen" Optional,
            McacheReusableNoscan = "reusableNoscan" Optional,
        }
        Mcentral = "runtime.mcentral" {
            McentralSpanclass = "spanclass" Optional,
            McentralPartial = "partial" Optional,
            McentralFull = "full" Optional,
        }
        Special = "runtime.special" {
            SpecialNext = "next" Required,
            SpecialOffset = "offset" Required,
            SpecialKind = "kind" Required,
        }
        SpecialFinalizer = "runtime.specialfinalizer" {
            SpecialFinalizerFn = "fn" Required,
            SpecialFinalizerNret = "nret" Optional,
            SpecialFinalizerFint = "fint" Optional,
            SpecialFinalizerOt = "ot" Optional,
        }
        SpecialProfile = "runtime.specialprofile" {
            SpecialProfileB = "b" Required,
        }
        SpecialWeakHandle = "runtime.specialWeakHandle" {
            SpecialWeakHandleHandle = "handle" Optional,
        }
        SpecialCleanup = "runtime.specialCleanup" {
            SpecialCleanupFn = "fn" Optional,
            SpecialCleanupCleanup = "cleanup" Optional,
            SpecialCleanupId = "id" Optional,
        }
        FinBlock = "runtime.finBlock|runtime.finblock" {
            FinBlockAlllink = "alllink" Required,
            FinBlockNext = "next" Optional,
            FinBlockCnt = "cnt" Required,
            FinBlockFin = "fin" Required,
        }
        Finalizer = "runtime.finalizer" {
            FinalizerFn = "fn" Required,
            FinalizerArg = "arg" Optional,
            FinalizerNret = "nret" Optional,
            FinalizerFint = "fint" Optional,
            FinalizerOt = "ot" Optional,
        }
        CleanupBlock = "runtime.cleanupBlock" {
            CleanupBlockAlllink = "alllink" Optional,
            CleanupBlockN = "n" Optional,
            CleanupBlockCleanups = "cleanups" Optional,
        }
        CleanupQueue = "runtime.cleanupQueue" {
            CleanupQueueAll = "all" Optional,
        }
        M = "runtime.m" {
            MG0 = "g0" Required,
            MProcid = "procid" Required,
            MGsignal = "gsignal" Required,
            MCurg = "curg" Required,
            MP = "p" Required,
            MId = "id" Optional,
            MIncgo = "incgo" Optional,
            MIsextra = "isextra" Optional,
            MNcgo = "ncgo" Optional,
            MAlllink = "alllink" Required,
            MLockedg = "lockedg" Optional,
            MMallocing = "mallocing" Optional,
            MLocks = "locks" Optional,
            MWaitlock = "waitlock" Optional,
            MBlocked = "blocked" Optional,
            MVdsoSp = "vdsoSP" Optional,
            MVdsoPc = "vdsoPC" Optional,
        }
        P = "runtime.p" {
            PId = "id" Required,
            PStatus = "status" Required,
            PM = "m" Required,
            PMcache = "mcache" Required,
            PRunqhead = "runqhead" Optional,
            PRunqtail = "runqtail" Optional,
            PRunq = "runq" Optional,
            PRunnext = "runnext" Optional,
            PSudogcache = "sudogcache" Optional,
            PGcw = "gcw" Optional,
            PWbBuf = "wbBuf" Optional,
            PTimers = "timers" Optional,
            PXRegs = "xRegs" Optional,
            PGoidcache = "goidcache" Optional,
            PStatsSeq = "statsSeq" Optional,
        }
        G = "runtime.g" {
            GStackLo = "stack.lo" Required,
            GStackHi = "stack.hi" Required,
            GStackguard0 = "stackguard0" Optional,
            GPanic = "_panic" Optional,
            GDefer = "_defer" Required,
            GM = "m" Required,
            GSchedSp = "sched.sp" Required,
            GSchedPc = "sched.pc" Required,
            GSchedG = "sched.g" Optional,
            GSchedCtxt = "sched.ctxt" Optional,
            GSchedLr = "sched.lr" Optional,
            GSchedBp = "sched.bp" Optional,
            GSyscallsp = "syscallsp" Required,
            GSyscallpc = "syscallpc" Required,
            GSyscallbp = "syscallbp" Optional,
            GStktopsp = "stktopsp" Optional,
            GParam = "param" Optional,
            GAtomicstatus = "atomicstatus" Required,
            GGoid = "goid" Required,
            GSchedlink = "schedlink" Optional,
            GWaitsince = "waitsince" Optional,
            GWaitreason = "waitreason" Optional,
            GPreempt = "preempt" Optional,
            GAsyncSafePoint = "asyncSafePoint" Optional,
            GPaniconfault = "paniconfault" Optional,
            GGcscandone = "gcscandone" Optional,
            GActiveStackChans = "activeStackChans" Optional,
            GParkingOnChan = "parkingOnChan" Optional,
            GLockedm = "lockedm" Optional,
            GSig = "sig" Optional,
            GGopc = "gopc" Optional,
            GAncestors = "ancestors" Optional,
            GStartpc = "startpc" Optional,
            GParentGoid = "parentGoid" Optional,
            GWaiting = "waiting" Optional,
            GCgoCtxt = "cgoCtxt" Optional,
            GLabels = "labels" Optional,
            GTimer = "timer" Optional,
            GSleepWhen = "sleepWhen" Optional,
            GSelectDone = "selectDone" Optional,
            GCoroarg = "coroarg" Optional,
            GSyncGroup = "syncGroup" Optional,
            GBubble = "bubble" Optional,
            GXRegs = "xRegs" Optional,
            GGcAssistBytes = "gcAssistBytes" Optional,
            GInMarkAssist = "inMarkAssist" Optional,
        }
        Sudog = "runtime.sudog" {
            SudogG = "g" Required,
            SudogNext = "next" Required,
            SudogPrev = "prev" Required,
            SudogElem = "elem" Required,
            SudogAcquiretime = "acquiretime" Optional,
            SudogReleasetime = "releasetime" Optional,
            SudogTicket = "ticket" Optional,
            SudogIsSelect = "isSelect" Optional,
            SudogSuccess = "success" Optional,
            SudogWaiters = "waiters" Optional,
            SudogParent = "parent" Required,
            SudogWaitlink = "waitlink" Required,
            SudogWaittail = "waittail" Optional,
            SudogC = "c" Required,
        }
        Hchan = "runtime.hchan" {
            HchanQcount = "qcount" Required,
            HchanDataqsiz = "dataqsiz" Required,
            HchanBuf = "buf" Required,
            HchanElemsize = "elemsize" Required,
            HchanClosed = "closed" Required,
            HchanElemtype = "elemtype" Required,
            HchanSendx = "sendx" Required,
            HchanRecvx = "recvx" Required,
            HchanRecvq = "recvq" Required,
            HchanSendq = "sendq" Required,
            HchanTimer = "timer" Optional,
            HchanLock = "lock" Optional,
            HchanSynctest = "synctest" Optional,
            HchanBubble = "bubble" Optional,
        }
        Waitq = "runtime.waitq" {
            WaitqFirst = "first" Required,
            WaitqLast = "last" Required,
        }
        SemaRoot = "runtime.semaRoot" {
            SemaRootTreap = "treap" Required,
            SemaRootNwait = "nwait" Optional,
            SemaRootLock = "lock" Optional,
        }
        NotifyList = "sync.notifyList" {
            NotifyListWait = "wait" Optional,
            NotifyListNotify = "notify" Optional,
            NotifyListLock = "lock" Optional,
            NotifyListHead = "head" Optional,
            NotifyListTail = "tail" Optional,
        }
        Defer = "runtime._defer" {
            DeferHeap = "heap" Optional,
            DeferRangefunc = "rangefunc" Optional,
            DeferSp = "sp" Required,
            DeferPc = "pc" Required,
            DeferFn = "fn" Optional,
            DeferLink = "link" Required,
            DeferHead = "head" Optional,
            DeferStarted = "started" Optional,
            DeferOpenDefer = "openDefer" Optional,
        }
        Panic = "runtime._panic" {
            PanicArg = "arg" Optional,
            PanicLink = "link" Optional,
        }
        StackObjectRecord = "runtime.stackObjectRecord" {
            StackObjectRecordOff = "off" Required,
            StackObjectRecordSize = "size" Required,
        }
        Timer = "runtime.timer" {
            TimerPp = "pp" Optional,
            TimerWhen = "when" Optional,
            TimerPeriod = "period" Optional,
            TimerF = "f" Optional,
            TimerArg = "arg" Optional,
            TimerSeq = "seq" Optional,
            TimerNextwhen = "nextwhen" Optional,
            TimerStatus = "status" Optional,
            TimerMu = "mu" Optional,
            TimerAstate = "astate" Optional,
            TimerState = "state" Optional,
            TimerIsChan = "isChan" Optional,
            TimerIsFake = "isFake" Optional,
            TimerRand = "rand" Optional,
            TimerBlocked = "blocked" Optional,
            TimerTs = "ts" Optional,
            TimerSendLock = "sendLock" Optional,
            TimerIsSending = "isSending" Optional,
        }
        Timers = "runtime.timers" {
            TimersHeap = "heap" Optional,
        }
        TimerWhen = "runtime.timerWhen" {
            TimerWhenTimer = "timer" Optional,
            TimerWhenWhen = "when" Optional,
        }
        PollDesc = "runtime.pollDesc" {
            PollDescLink = "link" Optional,
            PollDescFd = "fd" Optional,
            PollDescFdseq = "fdseq" Optional,
            PollDescRg = "rg" Optional,
            PollDescWg = "wg" Optional,
            PollDescRt = "rt" Optional,
            PollDescWt = "wt" Optional,
            PollDescRd = "rd" Optional,
            PollDescWd = "wd" Optional,
            PollDescLock = "lock" Optional,
            PollDescClosing = "closing" Optional,
            PollDescSelf = "self" Optional,
        }
        Moduledata = "runtime.moduledata" {
            ModuledataPcHeader = "pcHeader" Optional,
            ModuledataFuncnametab = "funcnametab" Optional,
            ModuledataCutab = "cutab" Optional,
            ModuledataFiletab = "filetab" Optional,
            ModuledataPctab = "pctab" Optional,
            ModuledataPclntable = "pclntable" Optional,
            ModuledataFtab = "ftab" Optional,
            ModuledataFindfunctab = "findfunctab" Optional,
            ModuledataMinpc = "minpc" Optional,
            ModuledataMaxpc = "maxpc" Optional,
            ModuledataText = "text" Required,
            ModuledataEtext = "etext" Required,
            ModuledataNoptrdata = "noptrdata" Required,
            ModuledataEnoptrdata = "enoptrdata" Required,
            ModuledataData = "data" Required,
            ModuledataEdata = "edata" Required,
            ModuledataBss = "bss" Required,
            ModuledataEbss = "ebss" Required,
            ModuledataNoptrbss = "noptrbss" Required,
            ModuledataEnoptrbss = "enoptrbss" Required,
            ModuledataCovctrs = "covctrs" Optional,
            ModuledataEnd = "end" Optional,
            ModuledataGcdata = "gcdata" Required,
            ModuledataGcbss = "gcbss" Required,
            ModuledataTypes = "types" Required,
            ModuledataTypedesclen = "typedesclen" Optional,
            ModuledataEtypes = "etypes" Required,
            ModuledataItaboffset = "itaboffset" Optional,
            ModuledataItabsize = "itabsize" Optional,
            ModuledataRodata = "rodata" Required,
            ModuledataGofunc = "gofunc" Required,
            ModuledataEpclntab = "epclntab" Optional,
            ModuledataTextsectmap = "textsectmap" Optional,
            ModuledataTypelinks = "typelinks" Optional,
            ModuledataItablinks = "itablinks" Optional,
            ModuledataPluginpath = "pluginpath" Optional,
            ModuledataModulename = "modulename" Optional,
            ModuledataHasmain = "hasmain" Optional,
            ModuledataBad = "bad" Optional,
            ModuledataGcdatamask = "gcdatamask" Required,
            ModuledataGcbssmask = "gcbssmask" Required,
            ModuledataTypemap = "typemap" Optional,
            ModuledataNext = "next" Required,
        }
        Func = "runtime._func" {
            FuncEntryOff = "entryOff" Required,
            FuncNameOff = "nameOff" Required,
            FuncArgs = "args" Required,
            FuncDeferreturn = "deferreturn" Required,
            FuncPcsp = "pcsp" Required,
            FuncPcfile = "pcfile" Required,
            FuncPcln = "pcln" Required,
            FuncNpcdata = "npcdata" Required,
            FuncCuOffset = "cuOffset" Required,
            FuncStartLine = "startLine" Optional,
            FuncFuncID = "funcID" Required,
            FuncFlag = "flag" Required,
            FuncNfuncdata = "nfuncdata" Required,
        }
        Hmap = "runtime.hmap" {
            HmapCount = "count" Optional,
            HmapFlags = "flags" Optional,
            HmapB = "B" Optional,
            HmapNoverflow = "noverflow" Optional,
            HmapHash0 = "hash0" Optional,
            HmapBuckets = "buckets" Optional,
            HmapOldbuckets = "oldbuckets" Optional,
            HmapNevacuate = "nevacuate" Optional,
            HmapExtra = "extra" Optional,
        }
        MapExtra = "runtime.mapextra" {
            MapExtraOverflow = "overflow" Optional,
            MapExtraOldoverflow = "oldoverflow" Optional,
            MapExtraNextOverflow = "nextOverflow" Optional,
        }
        SwissMap = "internal/runtime/maps.Map" {
            SwissMapUsed = "used" Optional,
            SwissMapSeed = "seed" Optional,
            SwissMapDirPtr = "dirPtr" Optional,
            SwissMapDirLen = "dirLen" Optional,
            SwissMapGlobalDepth = "globalDepth" Optional,
            SwissMapGlobalShift = "globalShift" Optional,
            SwissMapWriting = "writing" Optional,
            SwissMapTombstonePossible = "tombstonePossible" Optional,
            SwissMapClearSeq = "clearSeq" Optional,
        }
        SwissTable = "internal/runtime/maps.table" {
            SwissTableUsed = "used" Optional,
            SwissTableCapacity = "capacity" Optional,
            SwissTableGrowthLeft = "growthLeft" Optional,
            SwissTableLocalDepth = "localDepth" Optional,
            SwissTableIndex = "index" Optional,
            SwissTableGroupsData = "groups.data" Optional,
            SwissTableGroupsLengthMask = "groups.lengthMask" Optional,
        }
        Type = "internal/abi.Type|runtime._type" {
            TypeSize = "Size_|size" Required,
            TypePtrBytes = "PtrBytes|ptrdata" Required,
            TypeHash = "Hash|hash" Optional,
            TypeTFlag = "TFlag|tflag" Required,
            TypeAlign = "Align_|align" Optional,
            TypeKind = "Kind_|kind" Required,
            TypeGCData = "GCData|gcdata" Required,
            TypeStr = "Str|str" Required,
            TypePtrToThis = "PtrToThis|ptrToThis" Optional,
        }
        Itab = "internal/abi.ITab|runtime.itab" {
            ItabInter = "Inter|inter" Optional,
            ItabType = "Type|_type" Required,
            ItabHash = "Hash|hash" Optional,
            ItabFun = "Fun|fun" Optional,
        }
        Bucket = "runtime.bucket" {
            BucketNext = "next" Optional,
            BucketAllnext = "allnext" Required,
            BucketTyp = "typ" Required,
            BucketHash = "hash" Optional,
            BucketSize = "size" Required,
            BucketNstk = "nstk" Required,
        }
        MemRecord = "runtime.memRecord" {
            MemRecordActive = "active" Optional,
            MemRecordFuture = "future" Optional,
        }
        MemRecordCycle = "runtime.memRecordCycle" {
            MemRecordCycleAllocs = "allocs" Optional,
            MemRecordCycleFrees = "frees" Optional,
            MemRecordCycleAllocBytes = "alloc_bytes" Optional,
            MemRecordCycleFreeBytes = "free_bytes" Optional,
        }
        Mstats = "runtime.mstats" {
            MstatsHeapStats = "heapStats" Optional,
            MstatsStacksSys = "stacks_sys" Optional,
            MstatsMspanSys = "mspan_sys" Optional,
            MstatsMcacheSys = "mcache_sys" Optional,
            MstatsBuckhashSys = "buckhash_sys" Optional,
            MstatsGcMiscSys = "gcMiscSys" Optional,
            MstatsOtherSys = "other_sys" Optional,
            MstatsLastGcUnix = "last_gc_unix" Optional,
            MstatsPauseTotalNs = "pause_total_ns" Optional,
            MstatsPauseNs = "pause_ns" Optional,
            MstatsPauseEnd = "pause_end" Optional,
            MstatsNumgc = "numgc" Optional,
            MstatsNumforcedgc = "numforcedgc" Optional,
            MstatsGcCpuFraction = "gc_cpu_fraction" Optional,
            MstatsLastGcNanotime = "last_gc_nanotime" Optional,
            MstatsLastHeapInUse = "lastHeapInUse" Optional,
            MstatsEnablegc = "enablegc" Optional,
        }
        HeapStatsDelta = "runtime.heapStatsDelta" {
            HeapStatsDeltaCommitted = "committed" Optional,
            HeapStatsDeltaReleased = "released" Optional,
            HeapStatsDeltaInHeap = "inHeap" Optional,
            HeapStatsDeltaInStacks = "inStacks" Optional,
            HeapStatsDeltaInWorkBufs = "inWorkBufs" Optional,
            HeapStatsDeltaInPtrScalarBits = "inPtrScalarBits" Optional,
            HeapStatsDeltaTinyAllocCount = "tinyAllocCount" Optional,
            HeapStatsDeltaLargeAlloc = "largeAlloc" Optional,
            HeapStatsDeltaLargeAllocCount = "largeAllocCount" Optional,
            HeapStatsDeltaSmallAllocCount = "smallAllocCount" Optional,
            HeapStatsDeltaLargeFree = "largeFree" Optional,
            HeapStatsDeltaLargeFreeCount = "largeFreeCount" Optional,
            HeapStatsDeltaSmallFreeCount = "smallFreeCount" Optional,
        }
        GcController = "runtime.gcControllerState" {
            GcControllerGcPercent = "gcPercent" Optional,
            GcControllerMemoryLimit = "memoryLimit" Optional,
            GcControllerHeapMinimum = "heapMinimum" Optional,
            GcControllerGcPercentHeapGoal = "gcPercentHeapGoal" Optional,
            GcControllerTriggered = "triggered" Optional,
            GcControllerLastHeapGoal = "lastHeapGoal" Optional,
            GcControllerHeapLive = "heapLive" Optional,
            GcControllerHeapScan = "heapScan" Optional,
            GcControllerLastHeapScan = "lastHeapScan" Optional,
            GcControllerLastStackScan = "lastStackScan" Optional,
            GcControllerMaxStackScan = "maxStackScan" Optional,
            GcControllerGlobalsScan = "globalsScan" Optional,
            GcControllerHeapMarked = "heapMarked" Optional,
            GcControllerHeapInUse = "heapInUse" Optional,
            GcControllerHeapReleased = "heapReleased" Optional,
            GcControllerHeapFree = "heapFree" Optional,
            GcControllerTotalAlloc = "totalAlloc" Optional,
            GcControllerTotalFree = "totalFree" Optional,
            GcControllerMappedReady = "mappedReady" Optional,
        }
        Work = "runtime.workType" {
            WorkBytesMarked = "bytesMarked" Optional,
            WorkStackRoots = "stackRoots" Optional,
            WorkMode = "mode" Optional,
            WorkUserForced = "userForced" Optional,
            WorkCycles = "cycles" Optional,
            WorkTSweepTerm = "tSweepTerm" Optional,
            WorkTMark = "tMark" Optional,
            WorkTMarkTerm = "tMarkTerm" Optional,
            WorkTEnd = "tEnd" Optional,
            WorkPauseNS = "pauseNS" Optional,
            WorkHeap0 = "heap0" Optional,
            WorkHeap1 = "heap1" Optional,
            WorkHeap2 = "heap2" Optional,
        }
        Sched = "runtime.schedt" {
            SchedGoidgen = "goidgen" Optional,
            SchedLastpoll = "lastpoll" Optional,
            SchedMidle = "midle" Optional,
            SchedNmidle = "nmidle" Optional,
            SchedNmidlelocked = "nmidlelocked" Optional,
            SchedMnext = "mnext" Optional,
            SchedMaxmcount = "maxmcount" Optional,
            SchedNmsys = "nmsys" Optional,
            SchedNgsys = "ngsys" Optional,
            SchedPidle = "pidle" Optional,
            SchedNpidle = "npidle" Optional,
            SchedNmspinning = "nmspinning" Optional,
            SchedRunq = "runq" Optional,
            SchedRunqsize = "runqsize" Optional,
            SchedGcwaiting = "gcwaiting" Optional,
            SchedStopwait = "stopwait" Optional,
            SchedProcresizetime = "procresizetime" Optional,
            SchedTotaltime = "totaltime" Optional,
        }
        XRegPerG = "runtime.xRegPerG" {
            XRegPerGState = "state" Optional,
        }
        Pool = "sync.Pool" {
            PoolLocal = "local" Optional,
            PoolLocalSize = "localSize" Optional,
            PoolVictim = "victim" Optional,
            PoolVictimSize = "victimSize" Optional,
        }
        CancelCtx = "context.cancelCtx" {
            CancelCtxContext = "Context" Optional,
            CancelCtxMu = "mu" Optional,
            CancelCtxDone = "done" Optional,
            CancelCtxChildren = "children" Optional,
            CancelCtxErr = "err" Optional,
            CancelCtxCause = "cause" Optional,
        }
        SyncMutex = "sync.Mutex" {
            SyncMutexState = "mu.state|state" Optional,
            SyncMutexSema = "mu.sema|sema" Optional,
        }
        SyncRwMutex = "sync.RWMutex" {
            SyncRwMutexW = "w" Optional,
            SyncRwMutexWriterSem = "writerSem" Optional,
            SyncRwMutexReaderSem = "readerSem" Optional,
            SyncRwMutexReaderCount = "readerCount" Optional,
            SyncRwMutexReaderWait = "readerWait" Optional,
        }
        SyncWaitGroup = "sync.WaitGroup" {
            SyncWaitGroupState = "state|state1" Optional,
            SyncWaitGroupSema = "sema|state2" Optional,
        }
        SyncOnce = "sync.Once" {
            SyncOnceM = "m" Optional,
        }
        SyncCond = "sync.Cond" {
            SyncCondL = "L" Optional,
            SyncCondNotify = "notify" Optional,
        }
        PollFd = "internal/poll.FD" {
            PollFdSysfd = "Sysfd" Optional,
            PollFdRuntimeCtx = "pd.runtimeCtx" Optional,
        }
    }
    globals {
        Mheap = "runtime.mheap_" Required,
        Allgs = "runtime.allgs" Required,
        Allglen = "runtime.allglen" Optional,
        Allm = "runtime.allm" Optional,
        Allp = "runtime.allp" Optional,
        Sched = "runtime.sched" Optional,
        Work = "runtime.work" Optional,
        Memstats = "runtime.memstats" Optional,
        GcController = "runtime.gcController" Optional,
        Semtable = "runtime.semtable" Optional,
        Allfin = "runtime.allfin" Optional,
        Finq = "runtime.finq" Optional,
        GcCleanups = "runtime.gcCleanups" Optional,
        Mbuckets = "runtime.mbuckets" Optional,
        Bbuckets = "runtime.bbuckets" Optional,
        Xbuckets = "runtime.xbuckets" Optional,
        MemProfileRate = "runtime.MemProfileRate" Optional,
        Gcphase = "runtime.gcphase" Optional,
        WriteBarrier = "runtime.writeBarrier" Optional,
        GcBlackenEnabled = "runtime.gcBlackenEnabled" Optional,
        Firstmoduledata = "runtime.firstmoduledata" Optional,
        BuildVersion = "runtime.buildVersion" Optional,
        Emptymspan = "runtime.emptymspan" Optional,
        InProgress = "runtime.inProgress" Optional,
        Staticuint64s = "runtime.staticuint64s" Optional,
        ZeroVal = "runtime.zeroVal" Optional,
        MProfCycle = "runtime.mProfCycle" Optional,
        Sweep = "runtime.sweep" Optional,
        PhysPageSize = "runtime.physPageSize" Optional,
        ReflectOffs = "runtime.reflectOffs" Optional,
        ItabTable = "runtime.itabTable" Optional,
        NetpollInited = "runtime.netpollInited" Optional,
        Faketime = "runtime.faketime" Optional,
        Ncpu = "runtime.ncpu" Optional,
        Gomaxprocs = "runtime.gomaxprocs" Optional,
        Panicking = "runtime.panicking" Optional,
        Lastmoduledatap = "runtime.lastmoduledatap" Optional,
        MainStarted = "runtime.mainStarted" Optional,
        Debug = "runtime.debug" Optional,
        Finlock = "runtime.finlock" Optional,
        Fing = "runtime.fing" Optional,
    }
    constants {
        ArenaBaseOffset = "runtime.arenaBaseOffset",
        HeapArenaBytes = "runtime.heapArenaBytes",
        ArenaL1Bits = "runtime.arenaL1Bits",
        ArenaL2Bits = "runtime.arenaL2Bits",
        PageShift = "runtime._PageShift",
        NumSizeClasses = "runtime._NumSizeClasses",
        MinSizeForMallocHeader = "runtime.minSizeForMallocHeader",
        KindSpecialTinyBlock = "runtime._KindSpecialTinyBlock",
        KindSpecialFinalizer = "runtime._KindSpecialFinalizer",
        KindSpecialWeakHandle = "runtime._KindSpecialWeakHandle",
        KindSpecialProfile = "runtime._KindSpecialProfile",
        KindSpecialReachable = "runtime._KindSpecialReachable",
        KindSpecialPinCounter = "runtime._KindSpecialPinCounter",
        KindSpecialCleanup = "runtime._KindSpecialCleanup",
        KindSpecialCheckFinalizer = "runtime._KindSpecialCheckFinalizer",
        KindSpecialBubble = "runtime._KindSpecialBubble",
        KindSpecialSecret = "runtime._KindSpecialSecret",
        Gidle = "runtime._Gidle",
        Grunnable = "runtime._Grunnable",
        Grunning = "runtime._Grunning",
        Gsyscall = "runtime._Gsyscall",
        Gwaiting = "runtime._Gwaiting",
        Gdead = "runtime._Gdead",
        Gcopystack = "runtime._Gcopystack",
        Gpreempted = "runtime._Gpreempted",
        Gleaked = "runtime._Gleaked",
        Gdeadextra = "runtime._Gdeadextra",
        Gscan = "runtime._Gscan",
        MSpanDead = "runtime.mSpanDead",
        MSpanInUse = "runtime.mSpanInUse",
        MSpanManual = "runtime.mSpanManual",
        FuncIDAsmcgocall = "internal/abi.FuncID_asmcgocall|runtime.funcID_asmcgocall",
        FuncIDAsyncPreempt = "internal/abi.FuncID_asyncPreempt|runtime.funcID_asyncPreempt",
        FuncIDCgocallback = "internal/abi.FuncID_cgocallback|runtime.funcID_cgocallback",
        FuncIDCorostart = "internal/abi.FuncID_corostart|runtime.funcID_corostart",
        FuncIDDebugCallV2 = "internal/abi.FuncID_debugCallV2|runtime.funcID_debugCallV2",
        FuncIDGcBgMarkWorker = "internal/abi.FuncID_gcBgMarkWorker|runtime.funcID_gcBgMarkWorker",
        FuncIDGoexit = "internal/abi.FuncID_goexit|runtime.funcID_goexit",
        FuncIDGogo = "internal/abi.FuncID_gogo|runtime.funcID_gogo",
        FuncIDGopanic = "internal/abi.FuncID_gopanic|runtime.funcID_gopanic",
        FuncIDHandleAsyncEvent = "internal/abi.FuncID_handleAsyncEvent|runtime.funcID_handleAsyncEvent",
        FuncIDMcall = "internal/abi.FuncID_mcall|runtime.funcID_mcall",
        FuncIDMorestack = "internal/abi.FuncID_morestack|runtime.funcID_morestack",
        FuncIDMstart = "internal/abi.FuncID_mstart|runtime.funcID_mstart",
        FuncIDPanicwrap = "internal/abi.FuncID_panicwrap|runtime.funcID_panicwrap",
        FuncIDRt0Go = "internal/abi.FuncID_rt0_go|runtime.funcID_rt0_go",
        FuncIDRunfinq = "internal/abi.FuncID_runfinq|runtime.funcID_runfinq",
        FuncIDRuntimeMain = "internal/abi.FuncID_runtime_main|runtime.funcID_runtime_main",
        FuncIDSigpanic = "internal/abi.FuncID_sigpanic|runtime.funcID_sigpanic",
        FuncIDSystemstack = "internal/abi.FuncID_systemstack|runtime.funcID_systemstack",
        FuncIDSystemstackSwitch = "internal/abi.FuncID_systemstack_switch|runtime.funcID_systemstack_switch",
        FuncIDWrapper = "internal/abi.FuncIDWrapper|runtime.funcID_wrapper",
        FuncIDRunFinalizers = "internal/abi.FuncID_runFinalizers|runtime.funcID_runFinalizers",
        FuncIDRunCleanups = "internal/abi.FuncID_runCleanups|runtime.funcID_runCleanups",
    }
}
