//! Finds type descriptors and loads them into the table. Sources, in this order: typelinks, itabs (also those made at
//! run time), a walk over the section of types (in Go 1.27 they follow one another; before, every aligned address is
//! tried, and only what passes all checks is taken), and whatever those refer to. Later, addresses met in the heap.
//! Cost: one read per module, no read per type.

use super::{
    Kind, Origin, TypeId, TypeTable,
    descriptor::{Abi, COMMON, Descriptor, Tail, unrolled},
    table::{FieldInfo, NameRef, Row},
};
use crate::{
    base::{Addr, Diagnostics, bytes},
    image::Module,
    runtime::{Runtime, layout::Global},
    target::Memory,
};

/// More types than any program has (large ones have some 100,000).
/// No process of any kernel has an address from here on.
const USER_SPACE: u64 = 1 << 56;
const MAX_TYPES: usize = 1 << 21;
/// Fields of one struct, parameters of one func; the compiler's own limits are far below.
const MAX_MEMBERS: u64 = 1 << 16;
const MAX_POOL: usize = 1 << 25;
/// Types, names and (to Go 1.25) all other read-only data of all modules.
const MAX_SECTION: u64 = 1 << 30;
const MAX_NAME: u64 = 1 << 16;
const MAX_ITABS: u64 = 1 << 20;
/// Largest descriptor without its variable part.
const MAX_FIXED: usize = 136;

/// What the loader reads from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub memory: &'a dyn Memory,
    pub modules: &'a [Module],
    pub abi: Abi,
    /// Address of the variable `runtime.itabTable`.
    pub itab_table: Option<Addr>,
    pub diag: &'a Diagnostics,
}

impl<'a> Sources<'a> {
    pub fn of(rt: &'a Runtime) -> Sources<'a> {
        Sources {
            memory: &*rt.target.memory,
            modules: &rt.image.modules,
            abi: Abi::of(&rt.image.go_version),
            itab_table: rt.globals.get(Global::ItabTable),
            diag: &rt.diag,
        }
    }
}

/// [types, etypes) of one module, read once.
struct Section {
    start: u64,
    bytes: Vec<u8>,
    /// [text, end) of the module: where the functions and data of its types may lie.
    image: (u64, u64),
}

impl Section {
    fn at(&self, addr: Addr, len: usize) -> Option<&[u8]> {
        let off = usize::try_from(addr.0.checked_sub(self.start)?).ok()?;
        self.bytes.get(off..off.checked_add(len)?)
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Loads types into a table.
struct Loader<'t, 'a> {
    table: &'t mut TypeTable,
    sources: Sources<'a>,
    sections: Vec<Section>,
    /// Rows whose references are still to be followed.
    pending: Vec<(TypeId, Addr, Descriptor)>,
}

impl TypeTable {
    /// All types of all modules that can be found without the heap.
    pub fn discover(sources: Sources<'_>) -> TypeTable {
        let mut table = TypeTable::of_binary(sources);
        table.load(sources, []);
        table
    }

    /// Those of them that the binary has, which do not change while the program runs.
    pub fn of_binary(sources: Sources<'_>) -> TypeTable {
        let mut table = TypeTable::new();
        let mut loader = Loader::new(&mut table, sources);
        for module in sources.modules {
            loader.typelinks(module);
            loader.static_itabs(module);
        }
        loader.scan_sections();
        loader.finish();
        table
    }

    /// Adds what itabs made at run time name, the types at `addrs` (from malloc headers, interface words), and all that
    /// they refer to. Addresses that hold
    /// no type are counted as diagnostics by the caller's choice: ask `by_type_word` afterwards.
    pub fn load(&mut self, sources: Sources<'_>, addrs: impl IntoIterator<Item = Addr>) {
        let mut loader = Loader::new(self, sources);
        loader.run_time_itabs();
        for addr in addrs {
            if !loader.table.by_addr.contains_key(&addr.0) && !loader.table.itabs.contains_key(&addr.0) {
                loader.type_word(addr);
            }
        }
        loader.finish();
    }
}

impl<'t, 'a> Loader<'t, 'a> {
    fn new(table: &'t mut TypeTable, sources: Sources<'a>) -> Self {
        // All together: each module of a damaged list may claim the same memory.
        let mut left = MAX_SECTION.min(sources.memory.stored_bytes().unwrap_or(u64::MAX));
        let mut sections = Vec::new();
        for m in sources.modules {
            let Some(section) = read_section(m, sources, left) else { continue };
            left -= section.bytes.len() as u64;
            sections.push(section);
        }
        Loader { table, sources, sections, pending: Vec::new() }
    }

    /// `len` bytes at `addr`, from a section or from memory.
    fn read(&self, addr: Addr, len: usize, buf: &mut Vec<u8>) -> Option<()> {
        buf.clear();
        if let Some(found) = self.sections.iter().find_map(|s| s.at(addr, len)) {
            buf.extend_from_slice(found);
            return Some(());
        }
        buf.resize(len, 0);
        self.sources.memory.read(addr, buf).ok()
    }

    fn read_u64(&self, addr: Addr) -> Option<u64> {
        let mut buf = Vec::new();
        self.read(addr, 8, &mut buf)?;
        bytes::u64_at(&buf, 0)
    }

    fn section_of(&self, addr: Addr) -> Option<&Section> {
        self.sections.iter().find(|s| s.start <= addr.0 && addr.0 < s.end())
    }

    /// The descriptor at `addr`, if there is one.
    fn descriptor(&self, addr: Addr) -> Option<Descriptor> {
        // Behind what looks like an itab there may be anything: most of it is no address of any process.
        if !addr.0.is_multiple_of(8) || addr.is_null() || addr.0 >= USER_SPACE {
            return None;
        }
        let mut buf = Vec::with_capacity(MAX_FIXED);
        self.read(addr, COMMON, &mut buf)?;
        let kind = Kind::from_abi(bytes::u8_at(&buf, 23)? & 0x1f)?;
        let full = self.sources.abi.kind_size(kind);
        if full > COMMON {
            self.read(addr, full, &mut buf)?;
        }
        Descriptor::parse(&buf, &self.sources.abi)
    }

    /// The type at `addr`, loaded now if it was not; unknown if there is none.
    fn intern(&mut self, addr: Addr) -> TypeId {
        if let Some(&id) = self.table.by_addr.get(&addr.0) {
            return id;
        }
        let loaded = match self.descriptor(addr) {
            Some(d) if self.table.rows.len() < MAX_TYPES => Some((d, self.name_of(addr, &d))),
            Some(_) => {
                self.sources.diag.note("too many types", format_args!("the type at {addr} was left out"));
                None
            }
            None => None,
        };
        // A compiled-in type has a string; without one this is no type.
        let in_module = self.section_of(addr).is_some();
        let Some((d, name)) = loaded.filter(|(_, name)| !in_module || name.is_some()) else {
            if !addr.is_null() && self.table.by_addr.len() < 4 * MAX_TYPES {
                self.table.by_addr.insert(addr.0, TypeId::UNKNOWN);
            }
            return TypeId::UNKNOWN;
        };
        let row = Row {
            kind: d.kind,
            origin: if in_module { Origin::Module } else { Origin::RunTime },
            named: d.named,
            direct: d.direct,
            size: d.size,
            ptr_bytes: d.ptr_bytes,
            addr,
            ..Row::default()
        };
        let id = self.table.add(row, name.as_deref().unwrap_or(""));
        self.table.by_addr.insert(addr.0, id);
        self.pending.push((id, addr, d));
        id
    }

    /// The type's string; `None` where it cannot be read or is not printable.
    fn name_of(&self, addr: Addr, d: &Descriptor) -> Option<String> {
        let section = self.section_of(addr)?;
        let at = offset(section, d.name_off)?;
        let name = self.name(at)?;
        let name = if d.extra_star { name.strip_prefix('*')?.to_owned() } else { name };
        (!name.is_empty()).then_some(name)
    }

    /// An abi.Name: a byte of flags, the length as uvarint, the text.
    fn name(&self, at: Addr) -> Option<String> {
        self.name_and_flags(at).map(|(name, _)| name)
    }

    fn name_and_flags(&self, at: Addr) -> Option<(String, u8)> {
        const ALL_FLAGS: u8 = 0xf;
        let mut head = Vec::new();
        // The last name of a section may end right at its end.
        (2..=11).rev().find(|&n| self.read(at, n, &mut head).is_some())?;
        let flags = *head.first()?;
        let (len, used) = bytes::uvarint(head.get(1..)?)?;
        if flags & !ALL_FLAGS != 0 || len > MAX_NAME {
            return None;
        }
        let mut text = Vec::new();
        self.read(at.checked_add(1 + used as u64)?, len as usize, &mut text)?;
        let text = String::from_utf8(text).ok()?;
        text.chars().all(|c| !c.is_control()).then_some((text, flags))
    }

    /// Loads a descriptor or an itab, whichever is there.
    fn type_word(&mut self, addr: Addr) {
        if self.intern(addr).is_known() {
            return;
        }
        self.table.by_addr.remove(&addr.0);
        self.itab(addr);
    }

    /// {interface, type, ...}: accepted when both are types and the first is an interface.
    fn itab(&mut self, addr: Addr) {
        if self.table.itabs.contains_key(&addr.0) || self.table.itabs.len() as u64 >= 4 * MAX_ITABS {
            return;
        }
        let mut buf = Vec::new();
        let mut found = TypeId::UNKNOWN;
        if addr.0.is_multiple_of(8) && self.read(addr, 16, &mut buf).is_some() {
            let word = |off| Addr(bytes::u64_at(&buf, off).unwrap_or_default());
            let (inter, concrete) = (self.intern(word(0)), self.intern(word(8)));
            if self.table.kind(inter) == Kind::Interface {
                found = concrete;
            }
        }
        self.table.itabs.insert(addr.0, found);
    }

    /// To Go 1.26: offsets of unnamed types from `types`, sorted by their strings.
    fn typelinks(&mut self, module: &Module) {
        let (at, count) = module.typelinks;
        if at.is_null() || count > MAX_TYPES as u64 {
            return;
        }
        let mut raw = vec![0; count as usize * 4];
        if let Err(fault) = self.sources.memory.read(at, &mut raw) {
            self.sources.diag.note("typelinks cannot be read", fault);
            return;
        }
        for off in raw.chunks_exact(4) {
            let off = bytes::u32_at(off, 0).unwrap_or_default();
            self.intern(module.types.offset(u64::from(off)));
        }
    }

    fn static_itabs(&mut self, module: &Module) {
        let (at, count) = module.itablinks;
        if !at.is_null() && count <= MAX_ITABS {
            let mut raw = vec![0; count as usize * 8];
            match self.sources.memory.read(at, &mut raw) {
                Ok(()) => {
                    for word in raw.chunks_exact(8) {
                        self.itab(Addr(bytes::u64_at(word, 0).unwrap_or_default()));
                    }
                }
                Err(fault) => self.sources.diag.note("itablinks cannot be read", fault),
            }
        }
        // Go 1.27: itabs one after the other, 24 bytes and a word for each method of the interface (at least one).
        let mut at = module.types.offset(module.itaboffset);
        let end = at.offset(module.itabsize);
        if module.itabsize == 0 || module.itabsize > MAX_SECTION {
            return;
        }
        while at < end {
            let Some(inter) = self.read_u64(at) else { break };
            let methods = match self.descriptor(Addr(inter)) {
                Some(Descriptor { tail: Tail::Interface { methods }, .. }) if methods <= MAX_MEMBERS => methods,
                _ => {
                    self.sources
                        .diag
                        .note("itabs end early", format_args!("no interface type behind the itab at {at}"));
                    break;
                }
            };
            self.itab(at);
            at = at.offset(24 + 8 * methods.max(1));
        }
    }

    fn run_time_itabs(&mut self) {
        for entry in itab_entries(self.sources) {
            self.itab(Addr(entry));
        }
    }

    /// Tries every aligned address of the sections of types. Named types to which nothing points (only ever given to
    /// `newobject`) are found in no other way without the code. A false hit must pass all checks of `plausible`.
    fn scan_sections(&mut self) {
        for i in 0..self.sections.len() {
            let (start, len) = (self.sections[i].start, self.sections[i].bytes.len());
            let mut off = (8 - start as usize % 8) % 8;
            while off + COMMON <= len {
                let addr = Addr(start + off as u64);
                if self.quick(i, off)
                    && !self.table.by_addr.contains_key(&addr.0)
                    && let Some(d) = self.descriptor(addr).filter(|d| self.plausible(i, addr, d))
                {
                    self.intern(addr);
                    off += self.sources.abi.kind_size(d.kind);
                    continue;
                }
                off += 8;
            }
        }
    }

    /// The cheapest tests first: most addresses fail here.
    fn quick(&self, section: usize, off: usize) -> bool {
        let Some(b) = self.sections[section].bytes.get(off..off + COMMON) else { return false };
        let (tflag, align, field_align, kind) = (b[20], b[21], b[22], b[23]);
        (1..=26).contains(&(kind & 0x1f))
            && align == field_align
            && matches!(align, 1 | 2 | 4 | 8)
            && tflag & 0xc0 == 0
            && b[6] == 0
            && b[7] == 0
    }

    /// Strict test for addresses that nothing vouches for.
    fn plausible(&self, section: usize, addr: Addr, d: &Descriptor) -> bool {
        let s = &self.sections[section];
        let in_image = |a: Addr| (s.image.0 <= a.0 && a.0 < s.image.1) || (s.start <= a.0 && a.0 < s.end());
        let Some(name) = self.name_of(addr, d) else { return false };
        // A name says what the type is: this alone rejects nearly everything.
        let shape = match d.kind {
            _ if d.named => name.starts_with(|c: char| c.is_alphabetic() || c == '_'),
            Kind::Pointer => name.starts_with('*'),
            Kind::Slice => name.starts_with("[]"),
            Kind::Array => name.starts_with('['),
            Kind::Map => name.starts_with("map["),
            Kind::Chan => name.starts_with("chan") || name.starts_with("<-chan"),
            Kind::Func => name.starts_with("func"),
            Kind::Interface => name.starts_with("interface"),
            Kind::Struct => name.starts_with("struct") || name.starts_with("map."),
            _ => name.starts_with(|c: char| c.is_alphabetic()),
        };
        shape
            && (d.equal.is_null() || in_image(d.equal))
            && (d.gc_data.is_null() || in_image(d.gc_data))
            && (d.ptr_bytes == 0 || !d.gc_data.is_null())
            && match d.tail {
                Tail::Struct { fields, count } => {
                    count <= MAX_MEMBERS && (count == 0 || in_image(fields)) && (count > 0 || d.size == 0)
                }
                Tail::Elem(elem) | Tail::Chan { elem, .. } | Tail::Array { elem, .. } => {
                    self.descriptor(elem).is_some()
                }
                Tail::Map { key, elem, part, .. } => [key, elem, part].iter().all(|&a| self.descriptor(a).is_some()),
                _ => true,
            }
    }

    /// Follows all references, then adds the types that are implied.
    fn finish(mut self) {
        while let Some((id, addr, d)) = self.pending.pop() {
            self.follow(id, addr, &d);
        }
        self.table.name_the_nameless();
        self.table.complete(self.sources.abi.map);
    }

    fn follow(&mut self, id: TypeId, addr: Addr, d: &Descriptor) {
        let mut row = *self.table.row(id);
        match d.tail {
            Tail::None => {}
            Tail::Elem(elem) => row.elem = self.intern(elem),
            Tail::Array { elem, len } => {
                row.elem = self.intern(elem);
                row.len = len;
                if self.table.size(row.elem).checked_mul(len) != Some(d.size) {
                    self.refuse(addr, "array size differs from length times element size");
                    row.kind = Kind::Unknown;
                }
            }
            Tail::Chan { elem, dir } => {
                row.elem = self.intern(elem);
                row.dir = dir;
            }
            Tail::Map { key, elem, part, flags } => {
                row.key = self.intern(key);
                row.elem = self.intern(elem);
                row.part = self.intern(part);
                row.extra = flags;
            }
            Tail::Func { inputs, outputs, variadic } => {
                let at = self.sources.abi.kind_size(Kind::Func) as u64 + if d.uncommon { 16 } else { 0 };
                row.fields = self.signature(addr.offset(at), u64::from(inputs) + u64::from(outputs));
                row.extra = u32::from(inputs);
                row.variadic = variadic;
            }
            Tail::Interface { methods } => row.extra = methods.min(MAX_MEMBERS) as u32,
            Tail::Struct { fields, count } => row.fields = self.members(addr, d, fields, count),
        }
        row.package = self.package(addr, d).unwrap_or_default();
        if d.ptr_to_this > 0 {
            let pointer = self.section_of(addr).and_then(|s| offset(s, d.ptr_to_this));
            if let Some(pointer) = pointer.filter(|&p| self.descriptor(p).is_some_and(|d| d.tail == Tail::Elem(addr))) {
                self.intern(pointer);
            }
        }
        if let Some(slot) = self.table.rows.get_mut(id.index()) {
            *slot = row;
        }
    }

    fn signature(&mut self, at: Addr, count: u64) -> (u32, u32) {
        let mut raw = Vec::new();
        if self.read(at, count as usize * 8, &mut raw).is_none() || self.table.fields.len() > MAX_POOL {
            return (0, 0);
        }
        let list: Vec<_> = raw
            .chunks_exact(8)
            .map(|w| {
                let ty = self.intern(Addr(bytes::u64_at(w, 0).unwrap_or_default()));
                FieldInfo { name: NameRef::default(), offset: 0, ty, embedded: false }
            })
            .collect();
        self.table.push_fields(list)
    }

    fn members(&mut self, addr: Addr, d: &Descriptor, fields: Addr, count: u64) -> (u32, u32) {
        const EMBEDDED: u8 = 8;
        let mut raw = Vec::new();
        if count > MAX_MEMBERS
            || self.table.fields.len() > MAX_POOL
            || self.read(fields, count as usize * 24, &mut raw).is_none()
        {
            self.refuse(addr, "its list of fields cannot be read");
            return (0, 0);
        }
        let mut list = Vec::with_capacity(count as usize);
        let mut last = 0;
        for f in raw.chunks_exact(24) {
            let word = |off| bytes::u64_at(f, off).unwrap_or_default();
            let (name, ty, offset) = (Addr(word(0)), self.intern(Addr(word(8))), word(16));
            let end = offset.checked_add(self.table.size(ty));
            if offset < last || end.is_none_or(|end| end > d.size) {
                self.refuse(addr, "a field lies outside");
                break;
            }
            last = offset;
            let (name, flags) = self.name_and_flags(name).unwrap_or_default();
            let name = self.table.names.intern(&name);
            list.push(FieldInfo { name, offset, ty, embedded: flags & EMBEDDED != 0 });
        }
        self.table.push_fields(list)
    }

    /// Package path of a type of a module: the first word of its uncommon part.
    fn package(&mut self, addr: Addr, d: &Descriptor) -> Option<NameRef> {
        if !d.uncommon {
            return None;
        }
        let mut buf = Vec::new();
        self.read(addr.offset(self.sources.abi.kind_size(d.kind) as u64), 4, &mut buf)?;
        let off = bytes::i32_at(&buf, 0)?;
        let at = offset(self.section_of(addr)?, off).filter(|_| off != 0)?;
        let name = self.name(at)?;
        Some(self.table.names.intern(&name))
    }

    fn refuse(&self, addr: Addr, why: &str) {
        self.sources.diag.note("type descriptor makes no sense", format_args!("at {addr}: {why}"));
    }
}

/// Address ranges in which a word may be a type descriptor or an itab: the sections of types, and where the itabs are
/// that the program made at run time (persistent memory of the runtime). Sorted, disjoint. Cost: two reads.
pub fn word_ranges(sources: Sources<'_>) -> Vec<(u64, u64)> {
    const GAP: u64 = 1 << 20;
    let mut ranges: Vec<(u64, u64)> =
        sources.modules.iter().map(|m| (m.types.0, m.etypes.0)).filter(|(start, end)| start < end).collect();
    let sections = ranges.len();
    for entry in itab_entries(sources) {
        if ranges[..sections].iter().any(|&(start, end)| start <= entry && entry < end) {
            continue;
        }
        match ranges[sections..].last_mut() {
            // As few ranges as possible: each word of the heap is compared with all of them.
            Some((_, end)) if entry.saturating_sub(*end) < GAP => *end = entry.saturating_add(8),
            _ => ranges.push((entry, entry.saturating_add(8))),
        }
    }
    ranges.sort_unstable();
    ranges
}

/// `runtime.itabTable` → {size, count, entries[size]} (runtime/iface.go): all itabs, those made at run time included.
/// Sorted, each once.
fn itab_entries(sources: Sources<'_>) -> Vec<u64> {
    let read = |at: Addr, len: usize| {
        let mut buf = vec![0; len];
        sources.memory.read(at, &mut buf).ok().map(|()| buf)
    };
    let word = |buf: &[u8], off| bytes::u64_at(buf, off).unwrap_or_default();
    let Some(table) = sources.itab_table.and_then(|at| read(at, 8)).map(|b| Addr(word(&b, 0))) else {
        return Vec::new();
    };
    let Some(head) = read(table, 16) else { return Vec::new() };
    let (size, count) = (word(&head, 0), word(&head, 8));
    if size > MAX_ITABS || count > size {
        sources.diag.note("itab table makes no sense", format_args!("{count} of {size} at {table}"));
        return Vec::new();
    }
    let raw = read(table.offset(16), size as usize * 8).unwrap_or_default();
    let mut entries: Vec<u64> = raw.chunks_exact(8).map(|w| word(w, 0)).filter(|&w| w != 0).collect();
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// nameOff and typeOff count from `moduledata.types`.
fn offset(section: &Section, off: i32) -> Option<Addr> {
    let off = u64::try_from(off).ok()?;
    (off < section.bytes.len() as u64).then(|| Addr(section.start + off))
}

/// Reads [types, etypes), at most `most` bytes; pieces that cannot be read stay zero.
fn read_section(module: &Module, sources: Sources<'_>, most: u64) -> Option<Section> {
    const PIECE: usize = 1 << 20;
    let len = module.etypes.distance_from(module.types).filter(|&n| n > 0)?;
    if len > most {
        sources.diag.note("type descriptors cannot be read", format_args!("{len} bytes at {}", module.types));
        return None;
    }
    let mut buf = vec![0; len as usize];
    if sources.memory.read(module.types, &mut buf).is_err() {
        for (i, piece) in buf.chunks_mut(PIECE).enumerate() {
            let at = module.types.offset((i * PIECE) as u64);
            if let Err(fault) = sources.memory.read(at, piece) {
                piece.fill(0);
                sources.diag.note("type descriptors cannot be read", fault);
            }
        }
    }
    let bounds =
        [module.text, module.etext, module.enoptrbss, module.ebss, module.edata, module.enoptrdata, module.etypes];
    let low = bounds.iter().filter(|a| !a.is_null()).min().copied().unwrap_or_default().0;
    let high = bounds.iter().max().copied().unwrap_or_default().0;
    Some(Section { start: module.types.0, bytes: buf, image: (low, high) })
}

impl TypeTable {
    /// The type whose size and pointer bytes are those of a synthetic type at `addr` (malloc headers of Go 1.22 and
    /// 1.23 for types with a GC program), if there is exactly one.
    pub fn behind_unrolled(&self, memory: &dyn Memory, addr: Addr) -> Option<TypeId> {
        let mut buf = [0; COMMON];
        memory.read(addr, &mut buf).ok()?;
        let (size, ptr_bytes) = unrolled(&buf)?;
        let mut fitting = self.ids().filter(|&id| {
            let row = self.row(id);
            matches!(row.kind, Kind::Struct | Kind::Array) && row.size == size && row.ptr_bytes == ptr_bytes
        });
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }

    /// Names types that have no string of their own (made by reflect) after their parts.
    fn name_the_nameless(&mut self) {
        const DEPTH: usize = 8;
        for i in 1..self.rows.len() {
            let id = TypeId(i as u32);
            if self.rows[i].name.len == 0 && self.rows[i].kind != Kind::Unknown {
                let name = self.structural_name(id, DEPTH);
                let name = self.names.intern(&name);
                self.rows[i].name = name;
                self.by_name.entry(name).or_insert(id);
            }
        }
    }
}
