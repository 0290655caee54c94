//! One abi.Type, decoded from bytes with all its checks (internal/abi/type.go; runtime._type up to Go 1.20, same bytes).
//! The 48 common bytes have not moved in any release of this scope; what follows them depends on the kind.

use super::Kind;
use crate::base::{Addr, GoVersion, bytes};

/// Bytes that all descriptors begin with.
pub(super) const COMMON: usize = 48;
/// Nothing that can exist is larger: the heap has 48 address bits.
const MAX_SIZE: u64 = 1 << 46;

const TFLAG_UNCOMMON: u8 = 1;
const TFLAG_EXTRA_STAR: u8 = 2;
const TFLAG_NAMED: u8 = 4;
const TFLAG_DIRECT_IFACE: u8 = 0x20;
/// All bits that a release in scope defines.
const TFLAG_ALL: u8 = 0x3f;
const KIND_MASK: u8 = 0x1f;
const KIND_DIRECT_IFACE: u8 = 0x20;
const KIND_GC_PROG: u8 = 0x40;

/// Which of the two map implementations, and how its map type looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapAbi {
    /// hmap with buckets, to Go 1.23 (and later with GOEXPERIMENT=noswissmap).
    Buckets,
    /// Swiss tables, Go 1.24 to 1.26: slots of key and element side by side.
    Swiss,
    /// Swiss tables with strides in the map type, from Go 1.27.
    SwissStrides,
}

/// What differs between releases in the descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abi {
    pub map: MapAbi,
    /// The direct-interface bit is in TFlag (from Go 1.26), not in Kind.
    pub direct_in_tflag: bool,
    /// Descriptors lie one after the other from moduledata.types (from Go 1.27), there are no typelinks.
    pub contiguous: bool,
}

impl Abi {
    pub fn of(version: &GoVersion) -> Abi {
        let swiss = version.minor >= 24 && !version.has_experiment("noswissmap");
        Abi {
            map: match (swiss, version.minor) {
                (false, _) => MapAbi::Buckets,
                (true, ..27) => MapAbi::Swiss,
                (true, _) => MapAbi::SwissStrides,
            },
            direct_in_tflag: version.minor >= 26,
            contiguous: version.minor >= 27,
        }
    }

    /// Size of the descriptor without the uncommon part and what follows it.
    pub(super) fn kind_size(&self, kind: Kind) -> usize {
        match kind {
            Kind::Array => 72,
            Kind::Chan => 64,
            Kind::Interface | Kind::Struct => 80,
            Kind::Func | Kind::Pointer | Kind::Slice => 56,
            Kind::Map => match self.map {
                MapAbi::Buckets => 88,
                MapAbi::Swiss => 112,
                MapAbi::SwissStrides => 136,
            },
            _ => COMMON,
        }
    }
}

/// What follows the common part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tail {
    None,
    Elem(Addr),
    Array { elem: Addr, len: u64 },
    Chan { elem: Addr, dir: u8 },
    Func { inputs: u16, outputs: u16, variadic: bool },
    Interface { methods: u64 },
    Map { key: Addr, elem: Addr, part: Addr, flags: u32 },
    Struct { fields: Addr, count: u64 },
}

/// A descriptor whose numbers make sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor {
    pub kind: Kind,
    pub size: u64,
    pub ptr_bytes: u64,
    pub named: bool,
    pub uncommon: bool,
    pub extra_star: bool,
    pub direct: bool,
    pub gc_prog: bool,
    /// abi.Type.Equal: address of a closure, null for types that cannot be compared.
    pub equal: Addr,
    pub gc_data: Addr,
    /// nameOff from `moduledata.types`.
    pub name_off: i32,
    /// typeOff of the pointer type, 0 if there is none.
    pub ptr_to_this: i32,
    pub tail: Tail,
}

impl Descriptor {
    /// Decodes the descriptor at the start of `b`; `None` if it cannot be one. `b` must hold the common part and the
    /// kind's own part (`Abi::kind_size`), 136 bytes at most.
    pub fn parse(b: &[u8], abi: &Abi) -> Option<Descriptor> {
        let size = bytes::u64_at(b, 0)?;
        let ptr_bytes = bytes::u64_at(b, 8)?;
        let hash = bytes::u32_at(b, 16)?;
        let tflag = bytes::u8_at(b, 20)?;
        let align = bytes::u8_at(b, 21)?;
        let field_align = bytes::u8_at(b, 22)?;
        let kind_byte = bytes::u8_at(b, 23)?;
        let kind = Kind::from_abi(kind_byte & KIND_MASK)?;
        if size > MAX_SIZE || ptr_bytes > size || ptr_bytes % 8 != 0 || hash == 0 || tflag & !TFLAG_ALL != 0 {
            return None;
        }
        if !matches!(align, 1 | 2 | 4 | 8) || field_align != align || !fixed_size_agrees(kind, size) {
            return None;
        }
        let word = |off| bytes::u64_at(b, off).map(Addr);
        let tail = match kind {
            Kind::Array => Tail::Array { elem: word(48)?, len: bytes::u64_at(b, 64)? },
            Kind::Chan => Tail::Chan { elem: word(48)?, dir: bytes::u8_at(b, 56)? & 3 },
            Kind::Func => {
                let outputs = bytes::u16_at(b, 50)?;
                Tail::Func { inputs: bytes::u16_at(b, 48)?, outputs: outputs & 0x7fff, variadic: outputs & 0x8000 != 0 }
            }
            Kind::Interface => Tail::Interface { methods: bytes::u64_at(b, 64)? },
            Kind::Map => {
                let flags = match abi.map {
                    MapAbi::Buckets => bytes::u32_at(b, 84)?,
                    MapAbi::Swiss => bytes::u32_at(b, 104)?,
                    MapAbi::SwissStrides => bytes::u32_at(b, 128)?,
                };
                Tail::Map { key: word(48)?, elem: word(56)?, part: word(64)?, flags }
            }
            Kind::Pointer | Kind::Slice => Tail::Elem(word(48)?),
            Kind::Struct => Tail::Struct { fields: word(56)?, count: bytes::u64_at(b, 64)? },
            _ => Tail::None,
        };
        let direct = if abi.direct_in_tflag { tflag & TFLAG_DIRECT_IFACE } else { kind_byte & KIND_DIRECT_IFACE } != 0;
        Some(Descriptor {
            kind,
            size,
            ptr_bytes,
            named: tflag & TFLAG_NAMED != 0,
            uncommon: tflag & TFLAG_UNCOMMON != 0,
            extra_star: tflag & TFLAG_EXTRA_STAR != 0,
            direct,
            gc_prog: kind_byte & KIND_GC_PROG != 0,
            equal: word(24)?,
            gc_data: word(32)?,
            name_off: bytes::i32_at(b, 40)?,
            ptr_to_this: bytes::i32_at(b, 44)?,
            tail,
        })
    }
}

fn fixed_size_agrees(kind: Kind, size: u64) -> bool {
    let wanted = match kind {
        Kind::Bool | Kind::Int8 | Kind::Uint8 => 1,
        Kind::Int16 | Kind::Uint16 => 2,
        Kind::Int32 | Kind::Uint32 | Kind::Float32 => 4,
        Kind::Int
        | Kind::Uint
        | Kind::Int64
        | Kind::Uint64
        | Kind::Uintptr
        | Kind::Float64
        | Kind::Complex64
        | Kind::Chan
        | Kind::Func
        | Kind::Map
        | Kind::Pointer
        | Kind::UnsafePointer => 8,
        Kind::Complex128 | Kind::Interface | Kind::String => 16,
        Kind::Slice => 24,
        _ => return true,
    };
    size == wanted
}

/// A synthetic type that Go 1.22 and 1.23 put into malloc headers of types with a GC program: size, pointer bytes and
/// an unrolled mask, kind 0 and no name (runtime/arena.go, mbitmap.go). The identity must come from elsewhere.
pub(super) fn unrolled(b: &[u8]) -> Option<(u64, u64)> {
    const TFLAG_UNROLLED_BITMAP: u8 = 0x10;
    let size = bytes::u64_at(b, 0)?;
    let ptr_bytes = bytes::u64_at(b, 8)?;
    let plain = bytes::u8_at(b, 23)? & KIND_MASK == 0 && bytes::u8_at(b, 20)? & TFLAG_UNROLLED_BITMAP != 0;
    (plain && ptr_bytes % 8 == 0 && ptr_bytes > 0 && ptr_bytes <= size && size <= MAX_SIZE).then_some((size, ptr_bytes))
}
