//! Address and id types: one type per address space, so that they cannot be mixed up silently.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address in the target's own address space (after relocation, as the target itself would use it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(pub u64);

impl Addr {
    pub const NULL: Addr = Addr(0);

    #[inline]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `self + bytes`, `None` on overflow: target values may be garbage.
    #[inline]
    pub fn checked_add(self, bytes: u64) -> Option<Addr> {
        self.0.checked_add(bytes).map(Addr)
    }

    /// `self + bytes`, wrapping. For offsets taken from a verified layout, where a wrapped address simply fails to read.
    #[inline]
    pub fn offset(self, bytes: u64) -> Addr {
        Addr(self.0.wrapping_add(bytes))
    }

    /// Bytes from `base` to `self`, `None` if `self` lies below it.
    #[inline]
    pub fn distance_from(self, base: Addr) -> Option<u64> {
        self.0.checked_sub(base.0)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// In JSON an address is a hex string: many readers lose digits of a large number.
impl Serialize for Addr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Addr, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(digits, 16).map(Addr).map_err(serde::de::Error::custom)
    }
}

/// Goroutine id (`g.goid`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub struct Goid(pub u64);

impl fmt::Display for Goid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Dense id of a heap slot: the spans in address order, the slots of each span in order.
/// Free slots have ids as well; `Heap::is_allocated` tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub u32);

impl ObjectId {
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
