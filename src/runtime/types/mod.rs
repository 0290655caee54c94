//! runtime::types: Go types by the address of their descriptor (internal/abi/type.go). Used by `analysis`.
//! Does not need DWARF.

use std::collections::HashMap;

use super::Runtime;
use crate::base::{Addr, bytes};

/// What a descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    pub name: String,
    /// Bytes of one value.
    pub size: u64,
    /// abi.Kind, flags removed.
    pub kind: u8,
    /// The interface word *is* the value (pointers, maps, channels, funcs).
    pub direct: bool,
    /// Element type of a pointer, slice, array or channel; null else.
    pub elem: Addr,
}

const TFLAG_EXTRA_STAR: u8 = 2;
const KIND_POINTER: u8 = 22;
const KIND_SLICE: u8 = 23;
const MAX_NAME: u64 = 1 << 12;

/// Types read so far; `None` for addresses that hold no descriptor.
#[derive(Default)]
pub struct Types {
    known: HashMap<Addr, Option<Type>>,
}

impl Types {
    /// The type whose descriptor is at `at`.
    pub fn at(&mut self, rt: &Runtime, at: Addr) -> Option<&Type> {
        self.known.entry(at).or_insert_with(|| read(rt, at)).as_ref()
    }

    /// The concrete type of an interface's first word: an abi.Type, or an itab that leads to one.
    pub fn of_interface_word(&mut self, rt: &Runtime, word: Addr) -> Option<(Addr, Type)> {
        // An itab is {interface type, concrete type, hash}: both words must be types, and the hash must agree.
        if let (Ok(inter), Ok(concrete)) = (rt.target.read_ptr(word), rt.target.read_ptr(word.offset(8)))
            && self.at(rt, inter).is_some_and(|t| t.kind == 20)
            && let Some(t) = self.at(rt, concrete).cloned()
            && rt.target.read_u32(word.offset(16)).ok() == rt.target.read_u32(concrete.offset(16)).ok()
        {
            return Some((concrete, t));
        }
        let t = self.at(rt, word).cloned()?;
        Some((word, t))
    }
}

fn read(rt: &Runtime, at: Addr) -> Option<Type> {
    let module = rt.image.modules.iter().find(|m| (m.types.0..m.etypes.0).contains(&at.0));
    // Heap-made types (reflect) take their names from a table that is not read here.
    let module = module.filter(|_| at.0.is_multiple_of(8))?;
    let raw = rt.image.bytes(&rt.target, at, 56)?;
    let (size, ptr_bytes) = (bytes::u64_at(&raw, 0)?, bytes::u64_at(&raw, 8)?);
    let (tflag, align, kind) = (raw[20], raw[21], raw[23]);
    if !(1..=26).contains(&(kind & 0x1f)) || !align.is_power_of_two() || ptr_bytes > size {
        return None;
    }
    let str_off = bytes::i32_at(&raw, 40)?;
    let name_at = module.types.offset(u64::try_from(str_off).ok().filter(|&o| o > 0)?);
    let head = rt.image.bytes(&rt.target, name_at, 11)?;
    let (len, n) = bytes::uvarint(&head[1..])?;
    if len == 0 || len > MAX_NAME {
        return None;
    }
    let text = rt.image.bytes(&rt.target, name_at.offset(1 + n as u64), len)?;
    let mut name = String::from_utf8(text).ok().filter(|s| !s.chars().any(char::is_control))?;
    if tflag & TFLAG_EXTRA_STAR != 0 {
        name = name.strip_prefix('*')?.to_owned();
    }
    let direct = if rt.image.go_version.minor >= 26 { tflag & 0x20 != 0 } else { kind & 0x20 != 0 };
    let kind = kind & 0x1f;
    let elem =
        if matches!(kind, 17 | 18 | KIND_POINTER | KIND_SLICE) { Addr(bytes::u64_at(&raw, 48)?) } else { Addr(0) };
    Some(Type { name, size, kind, direct, elem })
}
