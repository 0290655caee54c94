//! Which words of an object are pointers, by the method of the release, chosen once from what the layout has:
//! arena bitmap of two bits a word (1.19), of one bit a word with noMorePtrs (1.20, 1.21), span bitmap and malloc
//! header (1.22 and later).

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Heap, PAGE, Span, read::word};
use crate::{
    base::{Addr, bytes},
    runtime::{
        Runtime,
        layout::{Field, Global},
    },
    target::Arch,
};

const ARENA: u64 = 64 << 20;
/// Largest mask of a type that is read or expanded, in bits.
const MAX_MASK_BITS: u64 = 1 << 27;
/// Steps that one type's mask may cost, over all types within it: types of a damaged target may hold one another.
const MAX_MASK_WORK: u64 = 1 << 28;
/// Bytes of masks that are kept at most.
const MAX_MASKS: u64 = 512 << 20;
/// abi.Type kinds and flags (internal/abi/type.go).
const KIND_ARRAY: u8 = 17;
const KIND_STRUCT: u8 = 25;
const KIND_GC_PROG: u8 = 0x40;
const TFLAG_MASK_ON_DEMAND: u8 = 0x10;

enum Method {
    TwoBits,
    OneBit,
    SpanBitmap,
}

/// The mask of a type: bit i = word i is a pointer; repeats every `size` bytes.
pub struct TypeMask {
    pub size: u64,
    bits: Vec<u8>,
    words: u64,
}

/// The bitmap at the end of a span of small objects.
pub struct SlotBits<'m> {
    bitmap: &'m [u8],
    /// Words of a slot, at most 64.
    words: u32,
}

impl SlotBits<'_> {
    /// Bit i: word i of the slot is a pointer.
    #[inline]
    pub fn of(&self, slot: u32) -> u64 {
        let bit = slot * self.words;
        let (at, shift) = ((bit / 8) as usize, bit % 8);
        let mut bits = match bytes::u64_at(self.bitmap, at) {
            Some(b) => b,
            None => self.bitmap.get(at..).unwrap_or(&[]).iter().rev().fold(0, |all, &b| all << 8 | u64::from(b)),
        } >> shift;
        if self.words + shift > 64 {
            bits |= u64::from(self.bitmap.get(at + 8).copied().unwrap_or(0)) << (64 - shift);
        }
        bits & (u64::MAX >> (64 - self.words))
    }
}

impl TypeMask {
    /// Masks of small types are written out several times: they then take as few steps a word as large ones.
    fn repeated(self) -> TypeMask {
        const BYTES: u64 = 512;
        if self.size == 0 || self.words == 0 || !self.size.is_multiple_of(8) || self.size > BYTES / 2 {
            return self;
        }
        let (n, step) = (BYTES / self.size, self.size / 8);
        let words = (n - 1) * step + self.words;
        let mut bits = vec![0u8; words.div_ceil(8) as usize];
        for w in (0..words).filter(|w| w % step < self.words) {
            let (byte, bit) = ((w % step / 8) as usize, w % step % 8);
            if self.bits.get(byte).is_some_and(|b| b >> bit & 1 == 1) {
                bits[(w / 8) as usize] |= 1 << (w % 8);
            }
        }
        TypeMask { size: n * self.size, bits, words }
    }
}

pub struct PointerMasks<'r> {
    rt: &'r Runtime,
    method: Method,
    arenas: Addr,
    arena_base: u64,
    types: RwLock<HashMap<Addr, Option<Arc<TypeMask>>>>,
    /// Bytes of masks in `types`.
    held: AtomicU64,
}

impl<'r> PointerMasks<'r> {
    pub fn new(rt: &'r Runtime) -> PointerMasks<'r> {
        let method = if rt.layout.has(Field::MspanLargeType) {
            Method::SpanBitmap
        } else if rt.layout.has(Field::HeapArenaNoMorePtrs) {
            Method::OneBit
        } else {
            Method::TwoBits
        };
        // mheap_.arenas is [1]*[4194304]*heapArena on both architectures (L1 bits 0).
        let arenas = rt
            .globals
            .get(Global::Mheap)
            .and_then(|m| Some(m.offset(u64::from(rt.layout.field(Field::MheapArenas)?.offset))))
            .and_then(|a| rt.target.read_ptr(a).ok())
            .unwrap_or_default();
        let arena_base = match rt.target.arch {
            Arch::Amd64 => 0x8000_0000_0000,
            Arch::Arm64 => 0,
        };
        PointerMasks { rt, method, arenas, arena_base, types: RwLock::default(), held: AtomicU64::new(0) }
    }

    /// Can a span with one large object be scanned in pieces? Up to 1.21 its bitmap says how far it reaches, and must be
    /// followed from the start.
    pub fn divisible(&self, span: &Span) -> bool {
        matches!(self.method, Method::SpanBitmap) && span.class == 0 && !span.user_arena
    }

    /// Calls `f(0, word index)` for the pointer words of a large object that lie in [from, to) bytes, ascending.
    pub fn pointers_in_piece(&self, heap: &Heap, span: &Span, from: u64, to: u64, mut f: impl FnMut(u32, u64)) {
        if !span.large_type.is_null() && heap.is_allocated(span.first) {
            let limit = span.limit.distance_from(span.start).unwrap_or(span.bytes).min(span.bytes);
            if let Some(mask) = self.mask_or_note(span.large_type) {
                repeat(&mask, 0, from, to.min(limit), |w| f(0, w));
            }
        }
    }

    /// The bitmap of a span that has one of its own (1.22 and later, objects of up to 512 bytes). `mem` is the whole span.
    pub fn slot_bits<'m>(&self, heap: &Heap, span: &Span, mem: &'m [u8]) -> Option<SlotBits<'m>> {
        let own = matches!(self.method, Method::SpanBitmap) && !span.user_arena && span.class != 0;
        if !own || span.elemsize > 512 {
            return None;
        }
        let tail = if heap.green_tea && span.elemsize >= 16 { 256 } else { 128 };
        let bitmap = mem.get((PAGE - tail) as usize..).unwrap_or(&[]);
        Some(SlotBits { bitmap, words: (span.elemsize / 8) as u32 })
    }

    /// Calls `f(slot, word index)` for every pointer word of the allocated slots of a span, ascending. `mem` is the
    /// whole span. Noscan spans must not be given.
    pub fn pointers(&self, heap: &Heap, span: &Span, mem: &[u8], mut f: impl FnMut(u32, u64)) {
        let allocated = |i: u32| heap.allocated.get(span.first.index() + i as usize);
        match self.method {
            Method::SpanBitmap if span.user_arena => user_arena_pointers(span, mem, allocated(0), f),
            Method::SpanBitmap if span.class == 0 => self.pointers_in_piece(heap, span, 0, span.bytes, f),
            Method::SpanBitmap if span.elemsize > 512 => {
                // Neighbours are often of one type.
                let mut last: Option<(Addr, Arc<TypeMask>)> = None;
                for i in (0..span.nelems).filter(|&i| allocated(i)) {
                    let at = (u64::from(i) * span.elemsize) as usize;
                    let header = Addr(bytes::u64_at(mem, at).unwrap_or(0));
                    if header.is_null() {
                        continue;
                    }
                    if last.as_ref().is_none_or(|l| l.0 != header) {
                        last = self.mask_or_note(header).map(|m| (header, m));
                    }
                    if let Some((_, mask)) = &last {
                        repeat(mask, 8, 8, span.elemsize, |w| f(i, w));
                    }
                }
            }
            Method::SpanBitmap => {
                let Some(bits) = self.slot_bits(heap, span, mem) else { return };
                for i in (0..span.nelems).filter(|&i| allocated(i)) {
                    let mut left = bits.of(i);
                    while left != 0 {
                        f(i, left.trailing_zeros().into());
                        left &= left - 1;
                    }
                }
            }
            Method::OneBit | Method::TwoBits => self.arena_pointers(heap, span, f),
        }
    }

    fn mask_or_note(&self, ty: Addr) -> Option<Arc<TypeMask>> {
        let mask = self.type_mask(ty);
        if mask.is_none() {
            self.rt.diag.note("type mask unreadable", format_args!("type at {ty}"));
        }
        mask
    }

    fn type_mask(&self, ty: Addr) -> Option<Arc<TypeMask>> {
        if let Some(m) = self.types.read().unwrap_or_else(|e| e.into_inner()).get(&ty) {
            return m.clone();
        }
        let mut work = MAX_MASK_WORK;
        let mask = self.read_mask(ty, 0, &mut work);
        let room = |m: &TypeMask| {
            let len = m.bits.len() as u64;
            self.held.fetch_add(len, Ordering::Relaxed) + len <= MAX_MASKS
        };
        let mask = mask.map(TypeMask::repeated).filter(room).map(Arc::new);
        self.types.write().unwrap_or_else(|e| e.into_inner()).insert(ty, mask.clone());
        mask
    }

    fn read_mask(&self, ty: Addr, depth: u32, work: &mut u64) -> Option<TypeMask> {
        let head = self.rt.target.read_vec(ty, 80, 80).or_else(|_| self.rt.target.read_vec(ty, 48, 48)).ok()?;
        let (size, ptr_bytes, gcdata) = (word(&head, 0), word(&head, 1), Addr(word(&head, 4)));
        let (tflag, kind) = (head[20], head[23]);
        let words = ptr_bytes / 8;
        // A read of the target, and what expanding it takes at least.
        spend(work, 256 + words / 8)?;
        if ptr_bytes > size || size > 1 << 48 || words > MAX_MASK_BITS || depth > 16 {
            return None;
        }
        let plain = |at: Addr| -> Option<TypeMask> {
            let bits = self.rt.target.read_vec(at, words.div_ceil(8), MAX_MASK_BITS / 8).ok()?;
            Some(TypeMask { size, bits, words })
        };
        let on_demand = self.rt.image.go_version.minor >= 24 && tflag & TFLAG_MASK_ON_DEMAND != 0;
        if words == 0 {
            return Some(TypeMask { size, bits: Vec::new(), words: 0 });
        }
        if kind & KIND_GC_PROG != 0 && self.rt.image.go_version.minor <= 23 {
            let program =
                self.rt.target.read_vec(gcdata.offset(4), self.rt.target.read_u32(gcdata).ok()?.into(), 1 << 24);
            return Some(TypeMask { size, bits: run_gc_program(&program.ok()?, words)?, words });
        }
        if !on_demand {
            return plain(gcdata);
        }
        let built = self.rt.target.read_ptr(gcdata).ok()?;
        if !built.is_null() && self.rt.globals.get(Global::InProgress) != Some(built) {
            return plain(built);
        }
        // Not built yet: from the structure. Only arrays and structs carry the flag.
        let mut bits = vec![0u8; words.div_ceil(8) as usize];
        let mut put = |off: u64, m: &TypeMask, work: &mut u64| {
            spend(work, m.words)?;
            for w in (0..m.words).filter(|w| m.bits[(w / 8) as usize] >> (w % 8) & 1 == 1) {
                let at = off / 8 + w;
                if at < words {
                    bits[(at / 8) as usize] |= 1 << (at % 8);
                }
            }
            Some(())
        };
        match kind & 0x1f {
            KIND_ARRAY => {
                let elem = self.read_mask(Addr(word(&head, 6)), depth + 1, work)?;
                let n = bytes::u64_at(&self.rt.target.read_vec(ty.offset(64), 8, 8).ok()?, 0)?;
                for i in 0..n.min(words) {
                    put(i.checked_mul(elem.size)?, &elem, work)?;
                }
            }
            KIND_STRUCT => {
                let (fields, n) = (Addr(word(&head, 7)), word(&head, 8));
                let raw = self.rt.target.read_vec(fields, n.checked_mul(24)?, 1 << 20).ok()?;
                for f in raw.chunks_exact(24) {
                    let inner = Addr(word(f, 1));
                    let m = self.read_mask(inner, depth + 1, work)?;
                    put(word(f, 2), &m, work)?;
                }
            }
            _ => return None,
        }
        Some(TypeMask { size, bits, words })
    }

    /// Up to 1.21: the bitmap lies in the heapArena.
    fn arena_pointers(&self, heap: &Heap, span: &Span, mut f: impl FnMut(u32, u64)) {
        let two = matches!(self.method, Method::TwoBits);
        let mut at = span.start;
        let end = span.start.offset(span.bytes);
        // Bits of the span's words: (pointer, more).
        let mut bits: Vec<u8> = Vec::new();
        let mut stops: Vec<u8> = Vec::new();
        while at < end {
            let index = (at.0.wrapping_add(self.arena_base)) / ARENA;
            let arena_start = index.wrapping_mul(ARENA).wrapping_sub(self.arena_base);
            let upto = end.0.min(arena_start.wrapping_add(ARENA));
            let (from_word, words) = ((at.0 - arena_start) / 8, (upto - at.0) / 8);
            let Ok(arena) = self.rt.target.read_ptr(self.arenas.offset(8 * index)) else { return };
            let per_byte = if two { 4 } else { 8 };
            let raw = self.rt.target.read_vec(arena.offset(from_word / per_byte), words.div_ceil(per_byte), 1 << 24);
            let Ok(raw) = raw else {
                self.rt.diag.note("heap bitmap unreadable", format_args!("span at {}", span.start));
                return;
            };
            bits.extend(raw);
            if !two && let Some(loc) = self.rt.layout.field(Field::HeapArenaNoMorePtrs) {
                let raw = self.rt.target.read_vec(
                    arena.offset(u64::from(loc.offset) + from_word / 512),
                    words.div_ceil(512),
                    1 << 22,
                );
                stops.extend(raw.unwrap_or_default());
            }
            at = Addr(upto);
        }
        let words = span.elemsize / 8;
        let bit = |b: &[u8], i: u64| b.get((i / 8) as usize).is_some_and(|b| b >> (i % 8) & 1 == 1);
        for i in (0..span.nelems).filter(|&i| heap.allocated.get(span.first.index() + i as usize)) {
            let first = u64::from(i) * words;
            for w in 0..words {
                let n = first + w;
                if two {
                    let b = bits.get((n / 4) as usize).copied().unwrap_or(0) >> (n % 4);
                    if b & 0x10 == 0 {
                        break;
                    }
                    if b & 1 == 1 {
                        f(i, w);
                    }
                } else {
                    if bit(&bits, n) {
                        f(i, w);
                    }
                    // The group of 64 words (aligned within the arena) ends here and no pointer follows.
                    if n % 64 == 63 && bit(&stops, n / 64) {
                        break;
                    }
                }
            }
        }
    }
}

/// Takes `n` from the budget; `None` where it is used up.
fn spend(work: &mut u64, n: u64) -> Option<()> {
    *work = work.checked_sub(n)?;
    Some(())
}

/// From 1.22 on a user arena chunk keeps its bitmap, one bit a word from the start, at its end (mspan.heapBits).
fn user_arena_pointers(span: &Span, mem: &[u8], allocated: bool, mut f: impl FnMut(u32, u64)) {
    let len = mem.len() / 64;
    let Some(bitmap) = mem.get(mem.len() - len..).filter(|_| allocated) else { return };
    let words = (span.elemsize / 8).min(((mem.len() - len) / 8) as u64);
    for w in (0..words).filter(|&w| bitmap[(w / 8) as usize] >> (w % 8) & 1 == 1) {
        f(0, w);
    }
}

/// Calls `f(word of the slot)` for the pointer words of `mask`, repeated from byte `base` of a slot on, that lie whole in
/// [from, to).
fn repeat(mask: &TypeMask, base: u64, from: u64, to: u64, mut f: impl FnMut(u64)) {
    if mask.size == 0 || mask.words == 0 {
        return;
    }
    let mut base = base + from.saturating_sub(base) / mask.size * mask.size;
    let mut first = from.saturating_sub(base) / 8;
    while base < to {
        // Eight words at a time; most bytes of a large mask are zero.
        for byte in first / 8..mask.words.div_ceil(8) {
            let mut bits = mask.bits.get(byte as usize).copied().unwrap_or(0);
            while bits != 0 {
                let w = 8 * byte + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                if w < first || w >= mask.words {
                    continue;
                }
                if base + 8 * w + 8 > to {
                    return;
                }
                f(base / 8 + w);
            }
        }
        first = 0;
        base = base.saturating_add(mask.size);
    }
}

/// Expands a GC program (runtime/mbitmap.go runGCProg; to 1.23) to a mask of `words` bits.
fn run_gc_program(p: &[u8], words: u64) -> Option<Vec<u8>> {
    let mut bits: Vec<bool> = Vec::new();
    let mut at = 0usize;
    loop {
        let op = *p.get(at)?;
        at += 1;
        if op == 0 || bits.len() as u64 >= words {
            break;
        }
        let mut n = u64::from(op & 0x7f);
        if op & 0x80 == 0 {
            for i in 0..n as usize {
                bits.push(p.get(at + i / 8)? >> (i % 8) & 1 == 1);
            }
            at += (n as usize).div_ceil(8);
            continue;
        }
        if n == 0 {
            let (v, used) = bytes::uvarint(p.get(at..)?)?;
            (n, at) = (v, at + used);
        }
        let (count, used) = bytes::uvarint(p.get(at..)?)?;
        at += used;
        let n = usize::try_from(n).ok().filter(|&n| n > 0 && n <= bits.len())?;
        let start = bits.len() - n;
        for k in 0..count.checked_mul(n as u64)?.min(words) {
            bits.push(bits[start + (k % n as u64) as usize]);
        }
    }
    let mut out = vec![0u8; words.div_ceil(8) as usize];
    for (i, _) in bits.iter().take(words as usize).enumerate().filter(|(_, b)| **b) {
        out[i / 8] |= 1 << (i % 8);
    }
    Some(out)
}

/// The mask of a stack object: `words` bits at `gcdata`, or what a program there makes.
pub fn bits_at(rt: &Runtime, at: Addr, words: u64, program: bool) -> Option<Vec<u8>> {
    if words > MAX_MASK_BITS {
        return None;
    }
    if program {
        // runtime/mbitmap.go materializeGCProg: the program stands behind its length.
        let len = rt.image.bytes(&rt.target, at, 4).and_then(|b| bytes::u32_at(&b, 0))?;
        return run_gc_program(&rt.image.bytes(&rt.target, at.offset(4), len.min(1 << 24).into())?, words);
    }
    rt.image.bytes(&rt.target, at, words.div_ceil(8))
}
