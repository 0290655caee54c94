//! How well a type fits a slot into which a pointer to it leads.

use super::Slot;
use crate::runtime::types::{Kind, TypeId, TypeTable};

/// Slot sizes of small objects; identical in all releases (go-runtime.md 2.1).
const CLASSES: [u16; 68] = [
    0, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448,
    480, 512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2304, 2688, 3072, 3200, 3456, 4096,
    4864, 5376, 6144, 6528, 6784, 6912, 8192, 9472, 9728, 10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072,
    20480, 21760, 24576, 27264, 28672, 32768,
];
const PAGE: u64 = 8192;
/// Pointer-free objects below this size share a 16-byte block (runtime/malloc.go, maxTinySize).
pub const TINY: u64 = 16;

/// Slot size by eighths of the size asked for.
static CLASS_OF: [u16; 4097] = {
    let mut table = [0; 4097];
    let (mut i, mut class) = (0, 0);
    while i < table.len() {
        while (CLASSES[class] as usize) < 8 * i {
            class += 1;
        }
        table[i] = CLASSES[class];
        i += 1;
    }
    table
};

/// Slot size that an allocation of `bytes` gets; whole pages above the largest class.
pub fn class_size(bytes: u64) -> u64 {
    match CLASS_OF.get(bytes.div_ceil(8) as usize) {
        Some(&c) => u64::from(c),
        None => bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX),
    }
}

/// How strong a piece of evidence is; also the order in which it spreads. Bits of `engine::Key`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// By size and pointers alone.
    Guess = 2,
    /// A pointer leads into the object: a part of it is known.
    Part = 4,
    /// A pointer leads to its first byte, but the object is larger than the pointer says.
    Start = 6,
    /// The only type that has the known part at its place and fits the slot.
    Container = 8,
    /// Elements of a slice begin somewhere inside.
    Elements = 10,
    /// A pointer to exactly this: type and slot agree.
    Whole = 12,
    /// The word next to the pointer names the type.
    Interface = 13,
    /// Code pointer of a closure.
    Closure = 14,
    /// Malloc header, type of a large object, what the allocator was asked for.
    Header = 15,
}

impl Level {
    pub fn from_bits(bits: u64) -> Option<Level> {
        use Level::*;
        [Guess, Part, Start, Container, Elements, Whole, Interface, Closure, Header]
            .into_iter()
            .find(|&l| l as u64 == bits)
    }
}

/// A type that fits a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fit {
    pub level: Level,
    /// 0 to 255; the better of two that fit at the same level has more.
    pub score: u8,
    /// Byte, counted from the first data byte, at which a value of the type begins.
    pub at: u64,
}

/// Does an object of type `ty` (or an array of it, if its kind is `Backing`) fit into `slot`, when a pointer to it leads to
/// byte `offset` of the slot? `None` if it cannot be: the pointer is then of no use.
pub fn fit(types: &TypeTable, slot: &Slot, ty: TypeId, offset: u64) -> Option<Fit> {
    let at = offset.checked_sub(slot.data)?;
    let (room, size) = (slot.room(), types.size(ty));
    let pointers = types.ptr_bytes(ty) > 0;
    // The collector would not see its pointers. Those of a channel whose elements have none it need not see: all lead to
    // what is reached otherwise (runtime/chan.go makechan).
    let blind = pointers && slot.noscan && types.kind(ty) != Kind::ChanHeader;
    if blind || size == 0 || at >= room {
        return None;
    }
    let part = |level| Some(Fit { level, score: 0, at });
    if slot.user_arena {
        return part(Level::Part);
    }
    match types.kind(ty) {
        Kind::StringData => {
            if !slot.noscan {
                return part(Level::Part);
            }
            Some(Fit { level: if at == 0 { Level::Whole } else { Level::Elements }, score: 10, at: 0 })
        }
        Kind::Backing => {
            if !pointers && !slot.noscan {
                return part(Level::Part);
            }
            // A slice of a part of an array; where its elements are regular parts of the whole this is right.
            let first = at % size;
            match at {
                _ if size > room => None,
                0 => Some(Fit { level: Level::Whole, score: 40, at: 0 }),
                _ => Some(Fit { level: Level::Elements, score: if first == 0 { 40 } else { 0 }, at: first }),
            }
        }
        Kind::ChanHeader if slot.noscan => {
            // Header and buffer are one object then.
            if at == 0 && size <= room { Some(Fit { level: Level::Whole, score: 100, at }) } else { None }
        }
        kind => {
            if !pointers && slot.noscan && slot.size == TINY && size < TINY {
                // Which of the values in a block of tiny ones begins where does not matter.
                return Some(Fit { level: Level::Whole, score: 50 + size as u8, at: 0 });
            }
            if at.checked_add(size)? > room {
                return None;
            }
            if at > 0 || (pointers == slot.noscan) {
                return part(Level::Part);
            }
            let exact = class_size(size + slot.data) == slot.size;
            // A closure whose captured variables are not known may be of any size.
            if exact || kind == Kind::Closure && size == 8 {
                // The larger type covers more of the slot: a struct beats its own first member.
                let score = 100 + (size * 100 / room.max(1)).min(100) as u8;
                Some(Fit { level: Level::Whole, score, at })
            } else {
                Some(Fit { level: Level::Start, score: 0, at })
            }
        }
    }
}
