//! What a primitive says of itself: locked, starving, readers, counters, buffered values. Reads sync.Mutex, RWMutex, WaitGroup
//! (sync/mutex.go, rwmutex.go, waitgroup.go) and hchan.

use serde::Serialize;

use crate::runtime::{
    Runtime,
    layout::Field,
    sched::waits::{SyncLayout, Wait, WaitKind},
};

/// Counts as the primitive keeps them; they were not taken from queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Mutex {
        locked: bool,
        /// A waiter has waited for more than a millisecond: the lock is handed to the first in the queue.
        starving: bool,
        queued: u32,
    },
    RwMutex {
        /// Those that have called RLock and not RUnlock, the ones that wait included.
        readers: u32,
        /// A writer holds it or waits for readers: new readers have to wait.
        writer: bool,
        /// Readers that a waiting writer still waits for.
        readers_awaited: u32,
    },
    WaitGroup {
        /// Calls of Done that are missing.
        counter: i32,
        waiters: u32,
    },
    Channel {
        buffered: u64,
        capacity: u64,
        closed: bool,
    },
}

/// RWMutex: taken off readerCount while a writer is there (sync/rwmutex.go rwmutexMaxReaders).
const MAX_READERS: i32 = 1 << 30;

/// `None` for primitives that keep nothing, and where memory cannot be read. The target must be held.
pub fn read(rt: &Runtime, l: &SyncLayout, w: &Wait) -> Option<State> {
    if w.addr.is_null() {
        return None;
    }
    let word = |at: crate::base::Addr| rt.target.read_u32(at).ok();
    match w.kind {
        WaitKind::Mutex | WaitKind::Once => {
            // sync/mutex.go: mutexLocked 1, mutexWoken 2, mutexStarving 4, mutexWaiterShift 3.
            let s = word(w.lock.offset(l.mutex_state))?;
            Some(State::Mutex { locked: s & 1 != 0, starving: s & 4 != 0, queued: s >> 3 })
        }
        WaitKind::RwRead | WaitKind::RwWrite => {
            let count = word(w.addr.offset(l.rw_reader_count))? as i32;
            let writer = count < 0;
            let readers = if writer { count.wrapping_add(MAX_READERS) } else { count };
            Some(State::RwMutex {
                readers: readers.max(0) as u32,
                writer,
                readers_awaited: (word(w.addr.offset(l.rw_reader_wait))? as i32).max(0) as u32,
            })
        }
        WaitKind::WaitGroup => {
            let at = rt.layout.field(Field::SyncWaitGroupState).map_or(0, |f| f.offset);
            let s = rt.target.read_u64(w.addr.offset(at.into())).ok()?;
            // The highest bit of the lower half is a flag of testing/synctest.
            Some(State::WaitGroup { counter: (s >> 32) as i32, waiters: (s & 0x7fff_ffff) as u32 })
        }
        WaitKind::ChanReceive | WaitKind::ChanSend | WaitKind::Select => {
            let get = |f| rt.target.read_u64(w.addr.offset(rt.layout.field(f)?.offset.into())).ok();
            Some(State::Channel {
                buffered: get(Field::HchanQcount)?,
                capacity: get(Field::HchanDataqsiz)?,
                closed: get(Field::HchanClosed)? as u32 != 0,
            })
        }
        _ => None,
    }
}
