//! Where a map has the element of a key, without its hash: entries are compared one by one. Used by `forward` for locks that lie
//! in maps. Reads hmap and bmap (runtime/map.go, to 1.23), Map, table and groups (internal/runtime/maps), and their map types
//! (internal/abi/map*.go). A large map is not looked through: see `left`.

use crate::{
    base::{Addr, bytes},
    runtime::{
        Runtime,
        layout::{Field, Struct},
        types::{Abi, MapAbi},
    },
};

/// Tables of one map that are looked at.
const MAX_TABLES: u64 = 1 << 10;
const SLOTS: u64 = 8;
/// Bytes of a key that are compared.
const MAX_KEY: u64 = 1024;

/// How the entries of one group or bucket lie in it.
struct Shape {
    size: u64,
    keys: u64,
    key_stride: u64,
    elems: u64,
    elem_stride: u64,
    key_size: u64,
    indirect_elem: bool,
    /// A bucket ends with a pointer to the next one.
    chained: bool,
}

impl Shape {
    fn of(rt: &Runtime, map_type: Addr) -> Option<Shape> {
        let t = rt.target.read_vec(map_type, 136, 136).ok()?;
        let word = |at| bytes::u64_at(&t, at);
        let abi = Abi::of(&rt.image.go_version).map;
        let flags = |at| bytes::u32_at(&t, at);
        let (indirect_key, shape) = match abi {
            MapAbi::Buckets => {
                let (key, elem) = (u64::from(t[80]), u64::from(t[81]));
                let size = flags(80)? >> 16;
                let flags = flags(84)?;
                let elems = SLOTS + SLOTS * key;
                let shape = Shape {
                    size: size.into(),
                    keys: SLOTS,
                    key_stride: key,
                    elems,
                    elem_stride: elem,
                    key_size: key,
                    indirect_elem: flags & 2 != 0,
                    chained: true,
                };
                (flags & 1 != 0, shape)
            }
            MapAbi::Swiss => {
                let (stride, flags) = (word(88)?, flags(104)?);
                let shape = Shape {
                    size: word(80)?,
                    keys: SLOTS,
                    key_stride: stride,
                    elems: SLOTS.checked_add(word(96)?)?,
                    elem_stride: stride,
                    key_size: key_size(rt, map_type)?,
                    indirect_elem: flags & 8 != 0,
                    chained: false,
                };
                (flags & 4 != 0, shape)
            }
            MapAbi::SwissStrides => {
                let flags = flags(128)?;
                let shape = Shape {
                    size: word(80)?,
                    keys: word(88)?,
                    key_stride: word(96)?,
                    elems: word(104)?,
                    elem_stride: word(112)?,
                    key_size: key_size(rt, map_type)?,
                    indirect_elem: flags & 8 != 0,
                    chained: false,
                };
                (flags & 4 != 0, shape)
            }
        };
        // The compiler keeps keys and elements of at most 128 bytes in place: larger ones are indirect.
        let fits = |at: u64, stride: u64| stride <= 1 << 12 && at <= 1 << 16 && at + (SLOTS - 1) * stride < shape.size;
        (!indirect_key
            && shape.size <= 1 << 16
            && shape.key_size <= MAX_KEY
            && fits(shape.keys, shape.key_stride)
            && fits(shape.elems, shape.elem_stride))
        .then_some(shape)
    }
}

/// Bytes of a key of this map type.
pub fn key_size(rt: &Runtime, map_type: Addr) -> Option<u64> {
    let key = rt.target.read_ptr(map_type.offset(48)).ok()?;
    rt.target.read_u64(key).ok().filter(|&n| n <= MAX_KEY)
}

/// Address of the element whose key has these bytes by `same`; `None` where there is none, or it cannot be told. `left`: groups or
/// buckets (of 8 entries) that may still be looked at.
pub fn find(rt: &Runtime, map_type: Addr, map: Addr, left: &mut u64, same: impl Fn(&[u8]) -> bool) -> Option<Addr> {
    let shape = Shape::of(rt, map_type)?;
    let most = *left;
    let mut look = |first: Addr, count: u64| -> Option<Addr> {
        for n in 0..count {
            let mut at = first.offset(n.checked_mul(shape.size)?);
            loop {
                *left = left.checked_sub(1)?;
                let raw = rt.target.read_vec(at, shape.size, 1 << 16).ok()?;
                for i in 0..SLOTS {
                    // Swiss: the highest bit is set where there is nothing. Buckets: below 5 it is empty or moved (minTopHash).
                    let control = *raw.get(i as usize)?;
                    let full = if shape.chained { control >= 5 } else { control < 0x80 };
                    let key = (shape.keys + i * shape.key_stride) as usize;
                    let key = raw.get(key..key + shape.key_size as usize)?;
                    if full && same(key) {
                        let elem = at.offset(shape.elems + i * shape.elem_stride);
                        return if shape.indirect_elem { rt.target.read_ptr(elem).ok() } else { Some(elem) };
                    }
                }
                at = match shape.chained {
                    true => Addr(bytes::u64_at(&raw, shape.size.checked_sub(8)? as usize)?),
                    false => Addr::NULL,
                };
                if at.is_null() {
                    break;
                }
            }
        }
        None
    };
    if shape.chained {
        const SAME_SIZE_GROW: u64 = 8;
        let h = rt.record(Struct::Hmap, map).ok()?;
        let (flags, log) = (h.opt(Field::HmapFlags)?, h.opt(Field::HmapB)?.min(40));
        let old = h.opt(Field::HmapOldbuckets).filter(|&a| a != 0);
        let new = h.opt(Field::HmapBuckets).filter(|&a| a != 0)?;
        let before = if flags & SAME_SIZE_GROW != 0 { log } else { log.saturating_sub(1) };
        return old.and_then(|o| look(Addr(o), 1 << before)).or_else(|| look(Addr(new), 1 << log));
    }
    let m = rt.record(Struct::SwissMap, map).ok()?;
    let (directory, tables) = (Addr(m.opt(Field::SwissMapDirPtr)?), m.opt(Field::SwissMapDirLen)?);
    if tables == 0 {
        return look(directory, 1);
    }
    let mut last = Addr::NULL;
    for n in 0..tables.min(MAX_TABLES) {
        // Several places in a row lead to one table.
        let table = rt.target.read_ptr(directory.offset(8 * n)).ok()?;
        if std::mem::replace(&mut last, table) == table {
            continue;
        }
        let t = rt.record(Struct::SwissTable, table).ok()?;
        let (groups, mask) = (t.opt(Field::SwissTableGroupsData)?, t.opt(Field::SwissTableGroupsLengthMask)?);
        if let Some(found) = look(Addr(groups), mask.min(most) + 1) {
            return Some(found);
        }
    }
    None
}

/// The same for a map with strings as keys.
pub fn find_text(rt: &Runtime, map_type: Addr, map: Addr, left: &mut u64, (text, len): (Addr, u64)) -> Option<Addr> {
    let want = rt.target.read_vec(text, len, MAX_KEY).ok()?;
    find(rt, map_type, map, left, |key| {
        let (Some(at), Some(n)) = (bytes::u64_at(key, 0), bytes::u64_at(key, 8)) else { return false };
        n == len && (at == text.0 || rt.target.read_vec(Addr(at), n, MAX_KEY).is_ok_and(|k| k == want))
    })
}
