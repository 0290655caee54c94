//! A page cache in front of a still memory: small reads of runtime structures cluster, and each system call costs more
//! than copying a page. Large reads pass through.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::{Fault, Memory};
use crate::base::Addr;

const BLOCK: u64 = 16 * 1024;
const SHARDS: usize = 64;
/// Blocks a shard keeps before it starts over: 64 shards of 16 blocks are 16 MiB at most.
const SHARD_BLOCKS: usize = 16;

type Shard = Mutex<HashMap<u64, Arc<[u8]>>>;

/// Caches blocks of 16 KiB. Only for memory that does not change: a held process or a copy of one.
pub struct PageCache {
    inner: Arc<dyn Memory>,
    shards: Vec<Shard>,
}

impl PageCache {
    pub fn new(inner: Arc<dyn Memory>) -> PageCache {
        PageCache { inner, shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn block(&self, number: u64) -> Option<Arc<[u8]>> {
        let shard = &self.shards[(number % SHARDS as u64) as usize];
        if let Some(block) = shard.lock().unwrap_or_else(|e| e.into_inner()).get(&number) {
            return Some(block.clone());
        }
        let mut buf = vec![0u8; BLOCK as usize];
        self.inner.read(Addr(number.checked_mul(BLOCK)?), &mut buf).ok()?;
        let block: Arc<[u8]> = buf.into();
        let mut map = shard.lock().unwrap_or_else(|e| e.into_inner());
        if map.len() >= SHARD_BLOCKS {
            map.clear();
        }
        map.insert(number, block.clone());
        Some(block)
    }
}

impl Memory for PageCache {
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Fault> {
        let len = buf.len() as u64;
        if len == 0 || len > BLOCK / 4 {
            return self.inner.read(addr, buf);
        }
        let last = addr.checked_add(len - 1).ok_or(Fault::NotMapped(addr))?;
        let mut done = 0usize;
        for number in addr.0 / BLOCK..=last.0 / BLOCK {
            // A block at the edge of a mapping is not readable as a whole: read exactly what was asked for.
            let Some(block) = self.block(number) else { return self.inner.read(addr, buf) };
            let from = (addr.0 + done as u64 - number * BLOCK) as usize;
            let n = (block.len() - from).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&block[from..from + n]);
            done += n;
        }
        Ok(())
    }

    fn read_scattered(&self, ranges: &mut [(Addr, &mut [u8])]) -> Vec<Result<(), Fault>> {
        self.inner.read_scattered(ranges)
    }

    fn stored_bytes(&self) -> Option<u64> {
        self.inner.stored_bytes()
    }

    fn borrow(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        self.inner.borrow(addr, len)
    }
}
