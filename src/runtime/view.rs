//! runtime::view: the one struct reader. A struct is read from the target in one piece, its members are decoded from
//! the copy with offsets from the layout. All checks of foreign structs live here.

use std::borrow::Cow;

use crate::{
    base::{Addr, bytes},
    runtime::{
        Runtime,
        layout::{Field, Layout, LayoutError, Struct},
    },
    target::Fault,
};

/// Largest slice, list or string that is read from the runtime's own structures, in bytes.
pub const MAX_READ: u64 = 1 << 30;

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {what} at {addr}: {fault}")]
    Memory { what: &'static str, addr: Addr, fault: Fault },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("{what} at {addr} makes no sense: {why}")]
    Implausible { what: &'static str, addr: Addr, why: String },
    #[error("the address of {0} is not known in this binary")]
    NoGlobal(&'static str),
}

impl ReadError {
    pub fn memory(what: &'static str, addr: Addr, fault: Fault) -> ReadError {
        ReadError::Memory { what, addr, fault }
    }
}

/// A Go slice header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SliceHeader {
    pub data: Addr,
    pub len: u64,
    pub cap: u64,
}

/// A copy of one runtime struct.
pub struct Record<'l> {
    pub addr: Addr,
    pub bytes: Cow<'l, [u8]>,
    layout: &'l Layout,
}

impl<'l> Record<'l> {
    pub fn new(layout: &'l Layout, addr: Addr, bytes: impl Into<Cow<'l, [u8]>>) -> Self {
        Record { addr, bytes: bytes.into(), layout }
    }

    /// An integer or pointer member, zero-extended; members wrapped in one-word structs (atomics) count as integers.
    pub fn get(&self, field: Field) -> Result<u64, ReadError> {
        let loc = self.layout.need(field)?;
        bytes::uint_at(&self.bytes, loc.offset as usize, loc.width as usize).ok_or_else(|| ReadError::Implausible {
            what: field.owner().name(),
            addr: self.addr,
            why: format!(
                "member {} at offset {} with {} bytes does not fit into {} bytes",
                field.path(),
                loc.offset,
                loc.width,
                self.bytes.len()
            ),
        })
    }

    /// Like `get`; `None` where this release has no such member.
    pub fn opt(&self, field: Field) -> Option<u64> {
        let loc = self.layout.field(field)?;
        bytes::uint_at(&self.bytes, loc.offset as usize, loc.width as usize)
    }

    /// The word at the start of a member, whatever the member's size (first word of a pair, of a struct).
    pub fn word(&self, field: Field) -> Option<u64> {
        bytes::u64_at(&self.bytes, self.layout.field(field)?.offset as usize)
    }

    pub fn ptr(&self, field: Field) -> Result<Addr, ReadError> {
        self.get(field).map(Addr)
    }

    /// Address of the member itself in the target.
    pub fn addr_of(&self, field: Field) -> Option<Addr> {
        self.layout.field(field).map(|loc| self.addr.offset(u64::from(loc.offset)))
    }

    /// A slice header member; refused when len > cap or when it lies outside the struct.
    pub fn slice(&self, field: Field) -> Result<SliceHeader, ReadError> {
        let off = self.layout.need(field)?.offset as usize;
        let word = |i: usize| bytes::u64_at(&self.bytes, off + 8 * i);
        match (word(0), word(1), word(2)) {
            (Some(data), Some(len), Some(cap)) if len <= cap => Ok(SliceHeader { data: Addr(data), len, cap }),
            found => Err(ReadError::Implausible {
                what: field.owner().name(),
                addr: self.addr,
                why: format!("slice {} reads {found:x?}", field.path()),
            }),
        }
    }
}

impl Runtime {
    /// Reads the struct `s` at `addr` in one piece (one read of its size).
    pub fn record(&self, s: Struct, addr: Addr) -> Result<Record<'_>, ReadError> {
        let size = self.layout.size(s).ok_or(LayoutError::MissingField {
            struct_name: s.name(),
            member: "(size)",
            source_name: "the layout",
        })?;
        let bytes =
            self.target.read_vec(addr, size, MAX_READ).map_err(|fault| ReadError::memory(s.name(), addr, fault))?;
        Ok(Record::new(&self.layout, addr, bytes))
    }

    /// Reads only the head of the struct, up to and including `last`: for huge structs such as `heapArena`.
    pub fn record_up_to(&self, s: Struct, addr: Addr, last: Field) -> Result<Record<'_>, ReadError> {
        let loc = self.layout.need(last)?;
        let bytes = self
            .target
            .read_vec(addr, u64::from(loc.offset) + u64::from(loc.width), MAX_READ)
            .map_err(|fault| ReadError::memory(s.name(), addr, fault))?;
        Ok(Record::new(&self.layout, addr, bytes))
    }

    /// A slice of words (pointers) as the runtime keeps them; bounded by `MAX_READ`.
    pub fn words(&self, what: &'static str, slice: SliceHeader) -> Result<Vec<u64>, ReadError> {
        let too_long = || ReadError::Implausible { what, addr: slice.data, why: format!("{} elements", slice.len) };
        let len = slice.len.checked_mul(8).ok_or_else(too_long)?;
        let raw = self
            .target
            .read_vec(slice.data, len, MAX_READ)
            .map_err(|fault| ReadError::memory(what, slice.data, fault))?;
        Ok(raw.chunks_exact(8).map(|c| bytes::u64_at(c, 0).unwrap_or_default()).collect())
    }
}
