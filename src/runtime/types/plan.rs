//! What the pointer at a given offset of a type points to. `Plan` answers for types of up to 1 KiB by one array access,
//! for larger ones by descending; it is built once, before the types of all objects are worked out.

use super::{Kind, TypeId, TypeTable};

/// By-value nesting; Go programs stay below 20. A hostile table may nest a struct in itself.
const MAX_DEPTH: usize = 64;
/// Types up to this size get a flat row in the plan.
const FLAT_BYTES: u64 = 1024;
/// Words of all flat rows together.
const MAX_FLAT_WORDS: usize = 1 << 26;

/// What a word of a type points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PtrTo {
    /// Not a pointer by this type: contradicts a pointer found there.
    NoPointer,
    /// A pointer of which the type says nothing (unsafe.Pointer, an unloaded type).
    Untyped,
    /// Something of this type; of kind `Backing`: its element repeated.
    To(TypeId),
    /// A map's directory (the id, kind `Backing`), or its only group.
    Directory(TypeId),
    /// A closure object.
    Code,
    /// The data word of an interface: the word before it tells.
    Interface,
}

impl PtrTo {
    fn pack(self) -> u32 {
        match self {
            PtrTo::NoPointer => 0,
            PtrTo::Untyped => 1 << 28,
            PtrTo::To(t) => 2 << 28 | t.0,
            PtrTo::Directory(t) => 3 << 28 | t.0,
            PtrTo::Code => 4 << 28,
            PtrTo::Interface => 5 << 28,
        }
    }

    fn unpack(word: u32) -> PtrTo {
        let ty = TypeId(word & 0x0fff_ffff);
        match word >> 28 {
            1 => PtrTo::Untyped,
            2 => PtrTo::To(ty),
            3 => PtrTo::Directory(ty),
            4 => PtrTo::Code,
            5 => PtrTo::Interface,
            _ => PtrTo::NoPointer,
        }
    }
}

impl TypeTable {
    /// What the word at byte `offset` of a value of type `id` points to. Offsets beyond the size repeat the type where
    /// it is a backing array. Cost: one binary search per level of nesting.
    pub fn pointee(&self, id: TypeId, offset: u64) -> PtrTo {
        let (mut id, mut offset) = (id, offset);
        for _ in 0..MAX_DEPTH {
            let row = self.row(id);
            match row.kind {
                Kind::Backing | Kind::Array => {
                    let size = self.size(row.elem);
                    if size == 0 || (row.kind == Kind::Array && offset >= row.size) {
                        return PtrTo::NoPointer;
                    }
                    (id, offset) = (row.elem, offset % size);
                }
                Kind::Unknown => return PtrTo::Untyped,
                kind if kind.has_fields() => match self.field_at(id, offset) {
                    Some(f) => (id, offset) = (f.ty, offset - f.offset),
                    // Made types list only what matters.
                    None if matches!(row.kind, Kind::Closure | Kind::MapPart | Kind::MapHeader | Kind::ChanHeader) => {
                        return PtrTo::Untyped;
                    }
                    None => return PtrTo::NoPointer,
                },
                Kind::Interface if offset == 8 => return PtrTo::Interface,
                // An itab or descriptor may itself be in the heap (reflect).
                Kind::Interface if offset == 0 => return PtrTo::Untyped,
                _ if offset != 0 => return PtrTo::NoPointer,
                Kind::Pointer => {
                    let to = self.row(row.elem);
                    return match to.kind {
                        Kind::Unknown => PtrTo::Untyped,
                        Kind::Backing if to.part.is_known() => PtrTo::Directory(row.elem),
                        _ => PtrTo::To(row.elem),
                    };
                }
                Kind::Slice => {
                    return match self.backing_of(row.elem) {
                        Some(backing) => PtrTo::To(backing),
                        None => PtrTo::Untyped,
                    };
                }
                Kind::String => return PtrTo::To(self.string_data),
                Kind::Map | Kind::Chan => {
                    return self.header_of(id).map_or(PtrTo::Untyped, PtrTo::To);
                }
                Kind::Func => return PtrTo::Code,
                Kind::UnsafePointer => return PtrTo::Untyped,
                _ => return PtrTo::NoPointer,
            }
        }
        PtrTo::Untyped
    }

    /// The innermost value that contains byte `offset` of a value of type `id`, and the offset in it: descends arrays,
    /// structs and made types. Cost as `pointee`.
    pub fn leaf_at(&self, id: TypeId, offset: u64) -> (TypeId, u64) {
        let (mut id, mut offset) = (id, offset);
        for _ in 0..MAX_DEPTH {
            match self.kind(id) {
                Kind::Backing | Kind::Array if self.size(self.elem(id)) > 0 => {
                    (id, offset) = (self.elem(id), offset % self.size(self.elem(id)));
                }
                kind if kind.has_fields() => match self.field_at(id, offset) {
                    Some(f) => (id, offset) = (f.ty, offset - f.offset),
                    None => break,
                },
                _ => break,
            }
        }
        (id, offset)
    }

    /// The innermost part of `id` that begins at byte `offset` and is of type `wanted`; tells whether a pointer of type
    /// `*wanted` may point there.
    pub fn has_part_at(&self, id: TypeId, offset: u64, wanted: TypeId) -> bool {
        let (mut id, mut offset) = (id, offset);
        for _ in 0..MAX_DEPTH {
            if offset == 0 && id == wanted {
                return true;
            }
            let row = self.row(id);
            match row.kind {
                Kind::Backing | Kind::Array if self.size(row.elem) > 0 => {
                    (id, offset) = (row.elem, offset % self.size(row.elem));
                }
                kind if kind.has_fields() => match self.field_at(id, offset) {
                    Some(f) => (id, offset) = (f.ty, offset - f.offset),
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }
}

/// Flat answers of `TypeTable::pointee`.
pub struct Plan {
    /// First word of a type's row in `words`; `NONE` for large types.
    start: Vec<u32>,
    /// Words of the row.
    count: Vec<u32>,
    words: Vec<u32>,
    /// Element size of backing arrays, else 0: offsets are taken modulo this.
    modulo: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Plan {
    /// Cost: one `pointee` per word of every type of up to 1 KiB.
    pub fn new(table: &TypeTable) -> Plan {
        let n = table.len();
        let mut plan = Plan { start: vec![NONE; n], count: vec![0; n], words: Vec::new(), modulo: vec![0; n] };
        for id in table.ids() {
            let size = table.size(id);
            if size > FLAT_BYTES || plan.words.len() > MAX_FLAT_WORDS || table.kind(id) == Kind::Closure {
                continue;
            }
            let words = table.ptr_bytes(id).min(size).div_ceil(8);
            plan.start[id.index()] = plan.words.len() as u32;
            plan.count[id.index()] = words as u32;
            if table.kind(id) == Kind::Backing {
                plan.modulo[id.index()] = size as u32;
            }
            for w in 0..words {
                plan.words.push(table.pointee(id, 8 * w).pack());
            }
        }
        plan
    }

    /// The answers for one type, for many questions.
    pub fn answers<'p>(&'p self, table: &'p TypeTable, id: TypeId) -> Answers<'p> {
        let i = id.index();
        let flat = self.start.get(i).filter(|&&s| s != NONE).and_then(|&start| {
            let words = self.words.get(start as usize..start as usize + self.count[i] as usize)?;
            Some((words, u64::from(self.modulo[i]), table.kind(id) == Kind::Unknown))
        });
        Answers { table, id, flat }
    }

    /// Like `TypeTable::pointee` for a word-aligned offset.
    pub fn pointee(&self, table: &TypeTable, id: TypeId, offset: u64) -> PtrTo {
        let i = id.index();
        match self.start.get(i) {
            Some(&start) if start != NONE => {
                let modulo = u64::from(self.modulo[i]);
                let offset = if modulo == 0 { offset } else { offset % modulo };
                let word = offset / 8;
                if offset % 8 == 0 && word < u64::from(self.count[i]) {
                    PtrTo::unpack(self.words[start as usize + word as usize])
                } else if table.kind(id) == Kind::Unknown {
                    PtrTo::Untyped
                } else {
                    PtrTo::NoPointer
                }
            }
            _ => table.pointee(id, offset),
        }
    }
}

/// What the words of one type point to.
#[derive(Clone, Copy)]
pub struct Answers<'p> {
    table: &'p TypeTable,
    id: TypeId,
    /// Its row, the size after which it repeats (else 0), and whether the type is not known.
    flat: Option<(&'p [u32], u64, bool)>,
}

impl Answers<'_> {
    /// As `Plan::pointee`.
    #[inline]
    pub fn pointee(&self, offset: u64) -> PtrTo {
        let Some((words, modulo, unknown)) = self.flat else { return self.table.pointee(self.id, offset) };
        let offset = match (modulo, u32::try_from(offset)) {
            (0, _) => offset,
            _ if offset < modulo => offset,
            // Half the width is several times as quick.
            (_, Ok(small)) => u64::from(small % modulo as u32),
            _ => offset % modulo,
        };
        match words.get((offset / 8) as usize) {
            Some(&word) if offset % 8 == 0 => PtrTo::unpack(word),
            _ if unknown => PtrTo::Untyped,
            _ => PtrTo::NoPointer,
        }
    }
}
