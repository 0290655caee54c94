//! A file becomes a look. Each section is read when it is asked for: `goroutines` needs no objects. Nothing in the file is
//! believed: numbers are bounded by what the file holds and by each other.

use std::path::Path;

use super::{
    Mark, Meta, SnapshotError,
    codec::Get,
    edges,
    format::{Reader, Section},
    write::{ROOT_KINDS, sorted},
};
use crate::{
    analysis::leaks::Evidence,
    base::{Addr, Bitmap, Goid, ObjectId, bytes},
    graph::{
        EdgeWords, Graph, Root, Rows, Targets,
        build::Built,
        typing::{Locals, Typed, Typing},
    },
    image::{
        FoundBy, Image, Module, SavedImage, SavedVariable,
        pclntab::{FuncId, SavedFrame, SavedFunc},
    },
    os::mmap::MappedFile,
    runtime::{
        Runtime,
        globals::{Globals, Located},
        heap::{Heap, PAGE, Span},
        layout::Global,
        sched::{Goroutine, Status},
        stack::{Frame, Stack},
        types::{SavedType, TypeId, TypeTable},
    },
    target::Target,
};

/// Addresses of user space end below this.
const MAX_ADDR: u64 = 1 << 48;

/// Slots that a file of a given size can stand for: written ones have less than one a byte, but free slots take next to nothing.
const SLOTS_PER_BYTE: u64 = 256;
const SPARE_SLOTS: u64 = 16 << 20;

/// An opened snapshot; its description is read, the rest is not.
pub struct Snapshot {
    reader: Reader,
    pub meta: Meta,
}

/// Objects of one block.
struct ObjectBlock {
    bits: [Vec<u64>; 3],
    marks: Vec<u32>,
}

impl Snapshot {
    /// Opens the file, checks its directory, reads the description.
    pub fn open(path: &Path) -> Result<Snapshot, SnapshotError> {
        Snapshot::of(Reader::open(path)?)
    }

    /// A file whose bytes are at hand, for tests.
    #[doc(hidden)]
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Snapshot, SnapshotError> {
        Snapshot::of(Reader::parse(path, MappedFile::of(bytes))?)
    }

    /// Offsets of the blocks of a section in the file, for tests.
    #[doc(hidden)]
    pub fn blocks(&self, section: &str) -> Vec<u64> {
        self.reader.blocks(section)
    }

    fn of(reader: Reader) -> Result<Snapshot, SnapshotError> {
        let meta: Meta = reader.one(Section::Meta, |_, raw| {
            serde_json::from_slice(raw).map_err(|_| "the description is not what this version writes")
        })?;
        if meta.slots >= u64::from(u32::MAX) || meta.edges >= u64::from(u32::MAX) {
            return Err(reader.bad(Section::Meta, "it counts more objects than 32 bits can name"));
        }
        // A small file that claims a huge heap would cost memory in proportion to the claim.
        if meta.slots > SPARE_SLOTS.saturating_add(reader.file_bytes().saturating_mul(SLOTS_PER_BYTE)) {
            return Err(reader.bad(Section::Meta, "it counts more objects than a file of its size describes"));
        }
        Ok(Snapshot { reader, meta })
    }

    pub fn file_bytes(&self) -> u64 {
        self.reader.file_bytes()
    }

    /// Names and places, without objects.
    pub fn runtime(&self) -> Result<Runtime, SnapshotError> {
        let m = &self.meta;
        let functions = self.reader.each(Section::Functions, |_, items, raw| {
            let mut d = Get::new(raw);
            let out = (0..items).map(|_| function(&mut d)).collect::<Result<Vec<_>, _>>()?;
            d.end().map(|()| out)
        })?;
        let variables = self.reader.each(Section::Variables, |_, items, raw| {
            let mut d = Get::new(raw);
            let out = (0..items)
                .map(|_| {
                    Ok(SavedVariable {
                        addr: Addr(d.uint()?),
                        size: d.uint()?,
                        name: d.text()?.to_owned(),
                        type_name: d.text()?.to_owned(),
                    })
                })
                .collect::<Result<Vec<_>, &'static str>>()?;
            d.end().map(|()| out)
        })?;
        let image = Image::of_saved(SavedImage {
            path: m.exe.clone().unwrap_or_default(),
            arch: m.arch,
            bias: m.bias,
            build_id: m.build_id.clone(),
            go_build_id: m.go_build_id.clone(),
            build_info: m.build_info.clone(),
            go_version: m.version(),
            go_version_source: m.go_version_source,
            has_symtab: m.has_symtab,
            modules: m.modules.iter().map(module).collect(),
            functions: functions.concat(),
            variables: variables.concat(),
        });
        let mut globals = Globals::default();
        for (name, addr) in &m.globals {
            if let Some(&g) = Global::ALL.iter().find(|g| g.name() == name) {
                globals.set(g, Located { addr: Addr(*addr), found_by: FoundBy::Told });
            }
        }
        let target = Target::of_snapshot(m.process.pid, m.arch, m.exe.clone());
        Runtime::of_snapshot(target, image, globals).map_err(|e| self.reader.bad(Section::Meta, e.to_string()))
    }

    /// Goroutines and their stacks, in the order of their ids.
    pub fn goroutines(&self) -> Result<(Vec<Goroutine>, Vec<Stack>), SnapshotError> {
        let blocks = self.reader.each(Section::Goroutines, |_, items, raw| {
            let mut d = Get::new(raw);
            let out = (0..items).map(|_| goroutine(&mut d)).collect::<Result<Vec<_>, _>>()?;
            d.end().map(|()| out)
        })?;
        let (goroutines, stacks): (Vec<_>, Vec<_>) = blocks.into_iter().flatten().unzip();
        if !sorted(goroutines.iter().map(|g: &Goroutine| g.goid)) {
            return Err(self.reader.bad(Section::Goroutines, "they are not in order"));
        }
        Ok((goroutines, stacks))
    }

    pub fn evidence(&self) -> Result<Evidence, SnapshotError> {
        let slots = self.meta.slots;
        self.reader.one(Section::Evidence, |_, raw| {
            let e: Evidence = serde_json::from_slice(raw).map_err(|_| "it is not what this version writes")?;
            let ids = e.buffers.keys().chain(e.fills.keys()).chain(&e.tickers).chain(e.samples.keys());
            if ids.copied().any(|id| u64::from(id.0) >= slots) { Err("it names an object that is not") } else { Ok(e) }
        })
    }

    /// Everything: heap, graph, goroutines, types. `edges`: without them the graph says what is reached, and nothing else.
    pub fn scene(&self, edges: bool) -> Result<(Heap, Built, Typed), SnapshotError> {
        let slots = self.meta.slots as u32;
        let spans = self.spans()?;
        let ids: u64 = spans.last().map_or(0, |s| u64::from(s.first.0) + u64::from(s.nelems));
        if ids != u64::from(slots) {
            return Err(self.reader.bad(Section::Spans, format!("they have {ids} slots, not {slots}")));
        }
        let (types, marks) = self.types()?;
        let (mut bits, of) = self.objects(slots, marks.len())?;
        let reachable = bits.pop().unwrap_or_else(|| Bitmap::new(0));
        let dead = bits.pop().unwrap_or_else(|| Bitmap::new(0));
        let allocated = bits.pop().unwrap_or_else(|| Bitmap::new(0));
        let typing = Typing::of_marks(&marks, of)
            .ok_or_else(|| self.reader.bad(Section::Types, "a level is not one of ours"))?;
        let locals = if edges { self.locals()? } else { Locals::default() };
        let typed = Typed::of_saved(types, typing, locals, self.meta.malloc_headers);
        let heap = Heap::restore(spans, allocated, dead, self.meta.sweepgen)
            .map_err(|e| self.reader.bad(Section::Spans, e.to_string()))?;
        let (rows, target, words) = if edges { self.edges(slots)? } else { Default::default() };
        let roots = if edges { self.roots(slots)? } else { Vec::new() };
        let (goroutines, stacks) = self.goroutines()?;
        let graph = Graph { rows, target, words, roots, reachable };
        let global_links = if edges { self.links()? } else { Vec::new() };
        Ok((heap, Built { graph, goroutines, stacks, global_links, ..Built::default() }, typed))
    }

    fn links(&self) -> Result<Vec<(Addr, Addr)>, SnapshotError> {
        let blocks = self.reader.each(Section::Links, |_, items, raw| {
            let mut d = Get::new(raw);
            let out =
                (0..items).map(|_| Ok((Addr(d.uint()?), Addr(d.uint()?)))).collect::<Result<Vec<_>, &'static str>>()?;
            d.end().map(|()| out)
        })?;
        let mut links = blocks.concat();
        links.sort_unstable();
        Ok(links)
    }

    /// Names of the roots that lie in local variables.
    fn locals(&self) -> Result<Locals, SnapshotError> {
        let places = self.reader.each(Section::Locals, |_, items, raw| {
            let mut d = Get::new(raw);
            let out = (0..items)
                .map(|_| Ok((d.text()?.to_owned(), d.text()?.to_owned())))
                .collect::<Result<Vec<_>, &'static str>>()?;
            d.end().map(|()| out)
        })?;
        let of_root = self.reader.each(Section::LocalRoots, |_, items, raw| {
            let mut d = Get::new(raw);
            let out = (0..items).map(|_| Ok((d.small()?, d.small()?))).collect::<Result<Vec<_>, &'static str>>()?;
            d.end().map(|()| out)
        })?;
        let of_root = of_root.concat();
        if !of_root.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(self.reader.bad(Section::LocalRoots, "they are not in order"));
        }
        Ok(Locals::of_saved(places.concat(), of_root))
    }

    /// Spans in order of addresses.
    fn spans(&self) -> Result<Vec<Span>, SnapshotError> {
        let sweepgen = self.meta.sweepgen;
        let blocks = self.reader.each(Section::Spans, |_, items, raw| {
            let mut d = Get::new(raw);
            let mut end = 0u64;
            let mut out = Vec::with_capacity(items.min(raw.len() as u64) as usize);
            for _ in 0..items {
                let pages = |n: u64| n.checked_mul(PAGE).filter(|&b| b < MAX_ADDR).ok_or("an address is too high");
                let start = pages(d.uint()?)?.checked_add(end).ok_or("an address is too high")?;
                let bytes = pages(d.uint()?)?;
                let (elemsize, nelems, limit) = (d.uint()?, d.small()?, d.uint()?);
                let (class, flags) = (d.byte()?, d.byte()?);
                let generation = d.int()?;
                end = start.checked_add(bytes).filter(|&e| e < MAX_ADDR).ok_or("an address is too high")?;
                let inside = u64::from(nelems).checked_mul(elemsize).is_some_and(|n| n <= bytes);
                if start == 0 || elemsize == 0 || nelems == 0 || !inside || limit > bytes {
                    return Err("a span is impossible");
                }
                out.push(Span {
                    start: Addr(start),
                    bytes,
                    elemsize,
                    nelems,
                    limit: Addr(start + limit),
                    first: ObjectId(0),
                    class,
                    noscan: flags & 1 != 0,
                    user_arena: flags & 2 != 0,
                    sweepgen: sweepgen.wrapping_add(generation as u32),
                    alloc_count: d.small()?,
                    large_type: Addr::NULL,
                    specials: Addr::NULL,
                    mspan: Addr::NULL,
                });
            }
            d.end().map(|()| out)
        })?;
        let mut spans = blocks.concat();
        let (mut next, mut end) = (0u32, 0u64);
        for s in &mut spans {
            if s.start.0 < end {
                return Err(self.reader.bad(Section::Spans, "they overlap"));
            }
            end = s.start.0 + s.bytes;
            s.first = ObjectId(next);
            next = next
                .checked_add(s.nelems)
                .filter(|&n| u64::from(n) <= self.meta.slots)
                .ok_or_else(|| self.reader.bad(Section::Spans, "they have more slots than the file says"))?;
        }
        Ok(spans)
    }

    fn types(&self) -> Result<(TypeTable, Vec<Mark>), SnapshotError> {
        self.reader.one(Section::Types, |_, raw| {
            let mut d = Get::new(raw);
            let n = d.count(1 << 28)?;
            let mut saved = Vec::with_capacity(n.min(raw.len() / 8));
            for _ in 0..n {
                let (name, package) = (d.text()?.to_owned(), d.text()?.to_owned());
                let mut numbers = [0u64; 11];
                for x in &mut numbers {
                    *x = d.uint()?;
                }
                let fields = (0..d.count(1 << 24)?)
                    .map(|_| Ok((d.text()?.to_owned(), d.uint()?, d.small()?, d.byte()? != 0)))
                    .collect::<Result<Vec<_>, &'static str>>()?;
                saved.push(SavedType { name, package, numbers, fields });
            }
            let table = TypeTable::restore(&saved).ok_or("a type is impossible")?;
            let n = d.count(1 << 26)?;
            let marks = (0..n)
                .map(|_| {
                    let (level, at, ty) = (d.byte()?, d.uint()?, d.small()?);
                    if ty as usize >= table.len() { Err("a type is missing") } else { Ok((level, at, TypeId(ty))) }
                })
                .collect::<Result<Vec<_>, &'static str>>()?;
            d.end()?;
            Ok((table, marks))
        })
    }

    /// Allocated, dead, reached; and the mark of each slot, `u32::MAX` for free ones.
    fn objects(&self, slots: u32, marks: usize) -> Result<(Vec<Bitmap>, Vec<u32>), SnapshotError> {
        let blocks = self.reader.each(Section::Objects, |first, items, raw| {
            let words = usize::try_from(items.div_ceil(64)).map_err(|_| "a block is too large")?;
            if !first.is_multiple_of(64) || words.checked_mul(24).is_none_or(|n| n > raw.len()) {
                return Err("a block is cut short");
            }
            let (head, tail) = raw.split_at(24 * words);
            let column = |k: usize| (0..words).map(|i| bytes::u64_at(head, 8 * (k * words + i)).unwrap_or(0)).collect();
            let bits: [Vec<u64>; 3] = [column(0), column(1), column(2)];
            let mut d = Get::new(tail);
            let mut out = vec![u32::MAX; items as usize];
            for (i, mark) in out.iter_mut().enumerate() {
                if (bits[0][i / 64] | bits[1][i / 64]) >> (i % 64) & 1 == 1 {
                    *mark = d.small()?;
                    if *mark as usize >= marks {
                        return Err("an object has a type that is not");
                    }
                }
            }
            d.end()?;
            Ok(ObjectBlock { bits, marks: out })
        })?;
        if blocks.iter().map(|b| b.marks.len() as u64).sum::<u64>() != u64::from(slots) {
            return Err(self.reader.bad(Section::Objects, "some are missing"));
        }
        let mut bits = vec![Bitmap::new(slots as usize); 3];
        let mut of = Vec::with_capacity(slots as usize);
        for b in blocks {
            let from = of.len() / 64;
            let last = b.marks.len() % 64;
            for (map, words) in bits.iter_mut().zip(b.bits) {
                for (i, w) in words.iter().enumerate() {
                    // No bits beyond the last slot.
                    let mask = if last != 0 && i == b.marks.len() / 64 { (1 << last) - 1 } else { u64::MAX };
                    if let Some(to) = map.words_mut().get_mut(from + i) {
                        *to = w & mask;
                    }
                }
            }
            of.extend(b.marks);
        }
        Ok((bits, of))
    }

    fn edges(&self, slots: u32) -> Result<(Rows, Targets, EdgeWords), SnapshotError> {
        let degrees = self.reader.each(Section::Degrees, |_, items, raw| {
            let mut d = Get::new(raw);
            if items > raw.len() as u64 {
                return Err("a block is cut short");
            }
            let out = (0..items).map(|_| d.small()).collect::<Result<Vec<u32>, _>>()?;
            d.end().map(|()| out)
        })?;
        let mut row = Rows::with_capacity(slots as usize);
        for n in degrees.into_iter().flatten() {
            if row.total().checked_add(n).is_none() {
                return Err(self.reader.bad(Section::Degrees, "there are too many"));
            }
            row.push(n);
        }
        let total = row.total();
        if row.len() as u64 != u64::from(slots) || u64::from(total) != self.meta.edges {
            return Err(self.reader.bad(Section::Degrees, "they do not count up to what the file says"));
        }
        let blocks = self.reader.each(Section::Edges, |first, items, raw| {
            let first = usize::try_from(first).map_err(|_| "a number is too large")?;
            let items = usize::try_from(items).map_err(|_| "a number is too large")?;
            edges::decode(&row, first, items, raw, slots)
        })?;
        let mut target = Targets::of_slots(slots as usize);
        let mut words = EdgeWords::default();
        for (t, w) in blocks {
            target.extend(&t);
            words.extend(&w);
        }
        if target.len() != total as usize {
            return Err(self.reader.bad(Section::Edges, "some are missing"));
        }
        Ok((row, target, words))
    }

    fn roots(&self, slots: u32) -> Result<Vec<Root>, SnapshotError> {
        let blocks = self.reader.each(Section::Roots, |_, items, raw| {
            let mut d = Get::new(raw);
            let out = (0..items)
                .map(|_| {
                    let kind = *ROOT_KINDS.get(usize::from(d.byte()?)).ok_or("a kind is not known")?;
                    let target = ObjectId(d.small()?);
                    if target.0 >= slots {
                        return Err("a root leads out of the heap");
                    }
                    Ok(Root {
                        kind,
                        target,
                        at: Addr(d.uint()?),
                        offset: d.small()?,
                        goid: Goid(d.uint()?),
                        frame: d.small()?,
                    })
                })
                .collect::<Result<Vec<_>, &'static str>>()?;
            d.end().map(|()| out)
        })?;
        Ok(blocks.concat())
    }
}

fn function(d: &mut Get) -> Result<SavedFunc, &'static str> {
    let entry = Addr(d.uint()?);
    let mut f = SavedFunc {
        entry,
        end: Addr(entry.0.saturating_add(d.uint()?)),
        name: d.text()?.to_owned(),
        func_id: FuncId::of(25, d.byte()?),
        flags: d.byte()?,
        start_line: d.small()?,
        ..SavedFunc::default()
    };
    for _ in 0..d.count(1 << 24)? {
        let pc = Addr(entry.0.wrapping_add(d.int()? as u64));
        let frames = (0..d.count(1 << 12)?)
            .map(|_| {
                Ok(SavedFrame {
                    function: d.text()?.to_owned(),
                    file: d.text()?.to_owned(),
                    line: d.small()?,
                    func_id: FuncId::of(25, d.byte()?),
                    inlined: d.byte()? != 0,
                    start_line: d.small()?,
                })
            })
            .collect::<Result<Vec<_>, &'static str>>()?;
        f.lines.insert(pc, frames);
    }
    Ok(f)
}

fn goroutine(d: &mut Get) -> Result<(Goroutine, Stack), &'static str> {
    let (goid, addr) = (Goid(d.uint()?), Addr(d.uint()?));
    let (status, wait_reason) = (Status::of_text(d.text()?), d.text()?.to_owned());
    let (waitsince, low, size) = (d.uint()?, d.uint()?, d.uint()?);
    let (gopc, startpc, parent) = (Addr(d.uint()?), Addr(d.uint()?), Goid(d.uint()?));
    let locked_to_thread = d.byte()? != 0;
    let truncated = Some(d.text()?.to_owned()).filter(|t| !t.is_empty());
    let frames = (0..d.count(1 << 20)?)
        .map(|_| {
            let pc = Addr(d.uint()?);
            let lookup = Addr(pc.0.wrapping_sub(d.int()? as u64));
            Ok(Frame { pc, lookup, sp: Addr::NULL, fp: Addr::NULL, func_entry: Addr::NULL })
        })
        .collect::<Result<Vec<_>, &'static str>>()?;
    let g = Goroutine {
        addr,
        goid,
        status,
        wait_reason,
        waitsince,
        stack: (Addr(low), Addr(low.saturating_add(size))),
        sched_pc: Addr::NULL,
        sched_sp: Addr::NULL,
        sched_lr: Addr::NULL,
        syscall_pc: Addr::NULL,
        syscall_sp: Addr::NULL,
        defer_head: Addr::NULL,
        panic_head: Addr::NULL,
        ctxt: Addr::NULL,
        gopc,
        startpc,
        parent,
        waiting: Addr::NULL,
        timer: Addr::NULL,
        sleep_when: 0,
        labels: Addr::NULL,
        locked_to_thread,
        async_safe_point: false,
        regs: None,
        vdso: (Addr::NULL, Addr::NULL),
    };
    Ok((g, Stack { frames, truncated, ..Stack::default() }))
}

/// Segments of variables and text, in the order in which `bounds` writes them.
fn module(b: &[u64; 10]) -> Module {
    let [noptrdata, enoptrdata, data, edata, bss, ebss, noptrbss, enoptrbss, text, etext] = b.map(Addr);
    Module { noptrdata, enoptrdata, data, edata, bss, ebss, noptrbss, enoptrbss, text, etext, ..Module::default() }
}

/// The other way round.
pub fn bounds(m: &Module) -> [u64; 10] {
    [m.noptrdata, m.enoptrdata, m.data, m.edata, m.bss, m.ebss, m.noptrbss, m.enoptrbss, m.text, m.etext].map(|a| a.0)
}
