//! Layouts from the binary's own DWARF.

use super::{Constant, Field, FieldLoc, Layout, LayoutError, LayoutSource, Need, Struct};
use crate::image::dwarf::Dwarf;

/// Should DWARF keep this struct?
pub fn wants(name: &str) -> bool {
    Struct::ALL.iter().any(|s| s.name().split('|').any(|n| n == name))
}

impl Layout {
    /// Fills the layout; an error names the first required member that is missing from a struct that is present.
    pub fn from_dwarf(dwarf: &Dwarf) -> Result<Layout, LayoutError> {
        let mut layout = Layout::empty(LayoutSource::Dwarf);
        let find = |s: Struct| s.name().split('|').find_map(|n| dwarf.structs.get(n));
        for &s in Struct::ALL {
            layout.sizes[s as usize] = find(s).and_then(|l| u32::try_from(l.size).ok());
        }
        for &f in Field::ALL {
            let Some(owner) = find(f.owner()) else { continue };
            layout.fields[f as usize] = f.path().split('|').find_map(|path| {
                let m = owner.members.iter().find(|m| m.path == path)?;
                Some(FieldLoc { offset: u32::try_from(m.offset).ok()?, width: u32::try_from(m.size).ok()? })
            });
        }
        for &c in Constant::ALL {
            layout.constants[c as usize] = c.name().split('|').find_map(|n| dwarf.constants.get(n)).copied();
        }
        // Structs that only some programs link (cleanups, pools) may be missing as a whole; the core never is.
        for s in [Struct::Mheap, Struct::Mspan, Struct::G, Struct::M, Struct::P, Struct::Moduledata] {
            for &f in Field::ALL.iter().filter(|f| f.owner() == s && f.need() == Need::Required) {
                layout.need(f)?;
            }
        }
        for (name, &value) in &dwarf.constants {
            let Some(word) = name.strip_prefix("runtime.waitReason") else { continue };
            let Some(i) = usize::try_from(value).ok().filter(|&i| i < 256) else { continue };
            if layout.wait_reasons.len() <= i {
                layout.wait_reasons.resize(i + 1, String::new());
            }
            layout.wait_reasons[i] = wait_reason_text(word);
        }
        Ok(layout)
    }
}

/// The text the runtime prints (runtime/runtime2.go waitReasonStrings) for a constant's name. Most are the words of the
/// name; the others are listed.
fn wait_reason_text(word: &str) -> String {
    let listed = match word {
        "Zero" => "",
        "GCAssistMarking" => "GC assist marking",
        "IOWait" => "IO wait",
        "ChanReceiveNilChan" => "chan receive (nil chan)",
        "ChanSendNilChan" => "chan send (nil chan)",
        "GarbageCollection" => "garbage collection",
        "GarbageCollectionScan" => "garbage collection scan",
        "PanicWait" => "panicwait",
        "SelectNoCases" => "select (no cases)",
        "GCAssistWait" => "GC assist wait",
        "GCSweepWait" => "GC sweep wait",
        "GCScavengeWait" => "GC scavenge wait",
        "ForceGCIdle" => "force gc (idle)",
        "UpdateGOMAXPROCSIdle" => "GOMAXPROCS updater (idle)",
        "Semacquire" => "semacquire",
        "SyncCondWait" => "sync.Cond.Wait",
        "SyncMutexLock" => "sync.Mutex.Lock",
        "SyncRWMutexRLock" => "sync.RWMutex.RLock",
        "SyncRWMutexLock" => "sync.RWMutex.Lock",
        "SyncWaitGroupWait" => "sync.WaitGroup.Wait",
        "TraceReaderBlocked" => "trace reader (blocked)",
        "WaitForGCCycle" => "wait for GC cycle",
        "GCWorkerIdle" => "GC worker (idle)",
        "GCWorkerActive" => "GC worker (active)",
        "GCMarkTermination" => "GC mark termination",
        "StoppingTheWorld" => "stopping the world",
        "GCWeakToStrongWait" => "GC weak to strong wait",
        "SynctestRun" => "synctest.Run",
        "SynctestWait" => "synctest.Wait",
        "SynctestChanReceive" => "chan receive (durable)",
        "SynctestChanSend" => "chan send (durable)",
        "SynctestSelect" => "select (durable)",
        "SynctestWaitGroupWait" => "sync.WaitGroup.Wait (durable)",
        "TimerGoroutineIdle" => "timer goroutine (idle)",
        _ => {
            let mut out = String::new();
            for (i, c) in word.chars().enumerate() {
                if c.is_uppercase() && i > 0 {
                    out.push(' ');
                }
                out.extend(c.to_lowercase());
            }
            return out;
        }
    };
    listed.to_owned()
}
