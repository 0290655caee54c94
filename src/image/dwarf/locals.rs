//! Variables of stopped functions: which of them lie in the frame, and where, when it stopped at a given pc.
//! Location lists of DWARF 4 (.debug_loc) and 5 (.debug_loclists), scopes of lexical blocks and of inlined calls.
//! Facts: cmd/compile/internal/dwarfgen, cmd/compile/internal/ssa/debug.go: frames are described from the CFA, which is the
//! caller's stack pointer on all architectures; a value in several places is a list of pieces.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use gimli::{
    AttributeValue, DebugInfoOffset, DwarfSections, EndianSlice, Expression, LittleEndian, Operation, RawLocListEntry,
    RawRngListEntry,
};
use rayon::prelude::*;

use super::{BareType, DwarfError, Info, MAX_INDEX, Slice, describe_elsewhere, indexed, text, types};
use crate::os::mmap::MappedFile;

type Unit<'a> = gimli::Unit<Slice<'a>>;
type Entry<'x, 'y, 'a> = gimli::DebuggingInformationEntry<'x, 'y, Slice<'a>>;

/// Blocks in blocks, inlined calls in inlined calls.
const MAX_DEPTH: usize = 64;
/// Entries that are looked at in one function; the largest real ones have some ten thousand.
const MAX_ENTRIES: usize = 1 << 18;
/// Entries of one list of ranges or locations.
const MAX_LIST: usize = 1 << 16;
/// Variables of one function at one pc.
const MAX_LOCALS: usize = 1 << 12;
const MAX_PIECES: usize = 64;

/// A part of a variable that lies in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies, from the CFA: the first byte above the frame.
    pub cfa: i64,
    /// Where in the variable it begins.
    pub offset: u64,
    /// `None`: the whole variable.
    pub size: Option<u64>,
}

/// A variable or parameter of which at least a part lies in the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The function that declares it: of inlined calls, the one that was inlined.
    pub function: Arc<str>,
    pub name: String,
    /// The variable itself is in the heap; what lies in the frame is the pointer to it.
    pub escaped: bool,
    pub type_name: String,
    /// Offset of its type's descriptor from `runtime.types`, if it has one.
    pub runtime_type: Option<u64>,
    pub pieces: Vec<Piece>,
}

/// Where a function stopped, as ELF addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Inside the call, where it called: decides which blocks and inlined calls it is in.
    pub scope: u64,
    /// Where it goes on. During a call the compiler may still say of a variable that it is in a register, though only its slot
    /// in the frame lives through the call: that is told where the call returns to.
    pub resume: u64,
}

/// What `Dwarf::locals` found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By number of the pc that was asked for; callers before what is inlined into them.
    pub at: Vec<Vec<Local>>,
    /// Types behind them that have no descriptor, by full name.
    pub bare: BTreeMap<String, BareType>,
}

/// Bytes of a section: those of the mapped file where it is not compressed.
pub(super) enum Bytes {
    Mapped(Range<usize>),
    Unpacked(Vec<u8>),
}

/// The sections, kept for questions that come up when the target stands still.
pub(super) struct Kept {
    file: Arc<MappedFile>,
    sections: DwarfSections<Bytes>,
    /// Functions with code: where it begins, and their entry in .debug_info. Sorted.
    functions: Vec<(u64, DebugInfoOffset)>,
}

impl Kept {
    pub fn new(file: Arc<MappedFile>, sections: DwarfSections<Bytes>, functions: Vec<(u64, DebugInfoOffset)>) -> Kept {
        Kept { file, sections, functions }
    }

    pub fn function_starts(&self) -> impl Iterator<Item = u64> + '_ {
        self.functions.iter().map(|f| f.0)
    }

    pub fn bytes<'a>(file: &'a MappedFile, bytes: &'a Bytes) -> Slice<'a> {
        let bytes = match bytes {
            Bytes::Mapped(range) => file.get(range.clone()).unwrap_or_default(),
            Bytes::Unpacked(bytes) => bytes,
        };
        EndianSlice::new(bytes, LittleEndian)
    }

    /// What lies in the frame of the function around each of `pcs` (ELF addresses). Cost: the entries of each function once;
    /// functions in parallel.
    pub fn locals(&self, pcs: &[Stopped]) -> Result<Found, DwarfError> {
        let mut dwarf = self.sections.borrow(|s| Kept::bytes(&self.file, s));
        dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
        let mut headers = Vec::new();
        let mut units = dwarf.units();
        while let Some(h) = units.next()? {
            headers.push(h);
        }
        let dwarf = Info { dwarf, headers: &headers };
        let mut of_function: BTreeMap<usize, Vec<(usize, Stopped)>> = BTreeMap::new();
        for (n, &pc) in pcs.iter().enumerate() {
            if let Some(f) = self.functions.partition_point(|f| f.0 <= pc.scope).checked_sub(1) {
                of_function.entry(f).or_default().push((n, pc));
            }
        }
        let functions: Vec<_> = of_function.into_iter().collect();
        let parts: Vec<Vec<(usize, Raw)>> = functions
            .par_iter()
            .map(|(f, pcs)| {
                let look = super::with_unit_at(&dwarf, self.functions[*f].1, |unit, at| {
                    let mut scan = Scan { dwarf: &dwarf, unit, pcs, left: MAX_ENTRIES, out: Vec::new() };
                    // What cannot be read is left out, not the rest.
                    let _ = scan.function(at);
                    scan.out
                });
                look.unwrap_or_default()
            })
            .collect();
        let mut types: HashMap<DebugInfoOffset, (String, Option<u64>)> = HashMap::new();
        let mut undescribed = Vec::new();
        let mut at = vec![Vec::new(); pcs.len()];
        for (n, raw) in parts.into_iter().flatten() {
            let described = types.entry(raw.ty).or_insert_with(|| {
                let said = describe_elsewhere(&dwarf, raw.ty).unwrap_or_default();
                if said.1.is_none() {
                    undescribed.push(raw.ty);
                }
                said
            });
            let (type_name, runtime_type) = described.clone();
            let (name, escaped) = match raw.name.strip_prefix('&') {
                Some(name) => (name.to_owned(), true),
                None => (raw.name, false),
            };
            at[n].push(Local { function: raw.function, name, escaped, type_name, runtime_type, pieces: raw.pieces });
        }
        let bare = types::bare_types(&dwarf, &headers, undescribed);
        Ok(Found { at, bare })
    }
}

/// A variable whose type is not looked up yet.
struct Raw {
    function: Arc<str>,
    name: String,
    ty: DebugInfoOffset,
    pieces: Vec<Piece>,
}

/// One function.
struct Scan<'s, 'h, 'a> {
    dwarf: &'s Info<'h, 'a>,
    unit: &'s Unit<'a>,
    /// Numbers of the pcs that are asked for, and the pcs.
    pcs: &'s [(usize, Stopped)],
    /// Entries that may still be looked at.
    left: usize,
    out: Vec<(usize, Raw)>,
}

impl<'a> Scan<'_, '_, 'a> {
    fn function(&mut self, at: gimli::UnitOffset) -> Result<(), gimli::Error> {
        let unit = self.unit;
        let mut tree = unit.entries_tree(Some(at))?;
        let root = tree.root()?;
        let entry = root.entry();
        let frame_base = entry.attr_value(gimli::DW_AT_frame_base)?;
        if !matches!(frame_base, Some(AttributeValue::Exprloc(e)) if self.is_cfa(e)) {
            return Ok(());
        }
        let inside = self.inside(entry, self.pcs)?;
        let name = self.name(entry, 0)?;
        self.scope(root, &name.into(), &inside, 0)
    }

    fn is_cfa(&self, e: Expression<Slice<'a>>) -> bool {
        let mut ops = e.operations(self.unit.encoding());
        matches!(ops.next(), Ok(Some(Operation::CallFrameCFA))) && matches!(ops.next(), Ok(None))
    }

    /// The variables of one scope and of the scopes in it that contain one of `pcs`.
    fn scope(
        &mut self,
        node: gimli::EntriesTreeNode<'_, '_, '_, Slice<'a>>,
        function: &Arc<str>,
        pcs: &[(usize, Stopped)],
        depth: usize,
    ) -> Result<(), gimli::Error> {
        if depth > MAX_DEPTH || pcs.is_empty() {
            return Ok(());
        }
        let mut children = node.children();
        while let Some(child) = children.next()? {
            let Some(left) = self.left.checked_sub(1) else { return Ok(()) };
            self.left = left;
            let entry = child.entry();
            match entry.tag() {
                gimli::DW_TAG_variable | gimli::DW_TAG_formal_parameter => self.variable(entry, function, pcs)?,
                gimli::DW_TAG_lexical_block => {
                    let inside = self.inside(entry, pcs)?;
                    self.scope(child, function, &inside, depth + 1)?;
                }
                gimli::DW_TAG_inlined_subroutine => {
                    let inside = self.inside(entry, pcs)?;
                    if !inside.is_empty() {
                        let name = self.name(entry, 0)?.into();
                        self.scope(child, &name, &inside, depth + 1)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn variable(
        &mut self,
        entry: &Entry<'_, '_, 'a>,
        function: &Arc<str>,
        pcs: &[(usize, Stopped)],
    ) -> Result<(), gimli::Error> {
        let Some(location) = entry.attr_value(gimli::DW_AT_location)? else { return Ok(()) };
        let mut places: Vec<(usize, Vec<Piece>)> = Vec::new();
        match location {
            AttributeValue::Exprloc(e) => {
                if let Some(pieces) = self.pieces(e) {
                    places.extend(pcs.iter().map(|&(n, _)| (n, pieces.clone())));
                }
            }
            list => {
                if matches!(list, AttributeValue::DebugLocListsIndex(i) if i.0 > MAX_INDEX) {
                    return Ok(());
                }
                let Some(at) = self.dwarf.attr_locations_offset(self.unit, list)? else { return Ok(()) };
                let mut entries = self.dwarf.raw_locations(self.unit, at)?;
                let mut base = self.unit.low_pc;
                for _ in 0..MAX_LIST {
                    let Some(e) = entries.next()? else { break };
                    let Some((range, expression)) = self.location(e, &mut base) else { continue };
                    let here = |pc: &Stopped| range.contains(&pc.scope) || range.contains(&pc.resume);
                    if pcs.iter().any(|(_, pc)| here(pc))
                        && let Some(pieces) = self.pieces(expression).filter(|p| !p.is_empty())
                    {
                        for &(n, pc) in pcs.iter().filter(|(_, pc)| here(pc)) {
                            // What holds on return counts more: no register survives a call.
                            let on_return = range.contains(&pc.resume);
                            match places.iter_mut().find(|p| p.0 == n) {
                                Some(place) if on_return => place.1 = pieces.clone(),
                                Some(_) => {}
                                None => places.push((n, pieces.clone())),
                            }
                        }
                    }
                }
            }
        }
        places.retain(|p| !p.1.is_empty());
        if places.is_empty() {
            return Ok(());
        }
        let Some((name, ty)) = self.name_and_type(entry, self.unit, 0)? else { return Ok(()) };
        for (n, pieces) in places {
            if self.out.len() < MAX_LOCALS * self.pcs.len() {
                self.out.push((n, Raw { function: function.clone(), name: name.clone(), ty, pieces }));
            }
        }
        Ok(())
    }

    /// The pcs of one entry of a location list, with the place.
    fn location(
        &self,
        entry: RawLocListEntry<Slice<'a>>,
        base: &mut u64,
    ) -> Option<(Range<u64>, Expression<Slice<'a>>)> {
        let address = |i| indexed(self.dwarf, self.unit, i);
        Some(match entry {
            RawLocListEntry::BaseAddress { addr } => {
                *base = addr;
                return None;
            }
            RawLocListEntry::BaseAddressx { addr } => {
                *base = address(addr)?;
                return None;
            }
            // The base selects itself by an all-ones beginning, which gimli has told apart already.
            RawLocListEntry::AddressOrOffsetPair { begin, end, data }
            | RawLocListEntry::OffsetPair { begin, end, data } => {
                (base.wrapping_add(begin)..base.wrapping_add(end), data)
            }
            RawLocListEntry::StartxEndx { begin, end, data } => (address(begin)?..address(end)?, data),
            RawLocListEntry::StartxLength { begin, length, data } => {
                let begin = address(begin)?;
                (begin..begin.wrapping_add(length), data)
            }
            RawLocListEntry::StartEnd { begin, end, data } => (begin..end, data),
            RawLocListEntry::StartLength { begin, length, data } => (begin..begin.wrapping_add(length), data),
            RawLocListEntry::DefaultLocation { .. } => return None,
        })
    }

    /// Pieces of a location that lie in the frame; `None` if it says more than we understand.
    fn pieces(&self, e: Expression<Slice<'a>>) -> Option<Vec<Piece>> {
        let mut ops = e.operations(self.unit.encoding());
        let mut out: Vec<Piece> = Vec::new();
        let mut at: Option<i64> = None;
        let mut offset = 0u64;
        let mut whole = true;
        for _ in 0..2 * MAX_PIECES {
            let Some(op) = ops.next().ok()? else {
                // Without pieces it is the whole variable; after the last piece nothing may follow.
                if let Some(cfa) = at.filter(|_| whole) {
                    out.push(Piece { cfa, offset: 0, size: None });
                }
                return Some(out);
            };
            match op {
                Operation::CallFrameCFA if at.is_none() => at = Some(0),
                Operation::FrameOffset { offset } if at.is_none() => at = Some(offset),
                Operation::Register { .. } if at.is_none() => {}
                Operation::Piece { size_in_bits, bit_offset: None } if size_in_bits.is_multiple_of(8) => {
                    whole = false;
                    let size = size_in_bits / 8;
                    if let Some(cfa) = at.take() {
                        out.push(Piece { cfa, offset, size: Some(size) });
                    }
                    offset = offset.checked_add(size)?;
                }
                _ => return None,
            }
        }
        None
    }

    /// Those of `pcs` that lie in the ranges of `entry`.
    fn inside(
        &self,
        entry: &Entry<'_, '_, 'a>,
        pcs: &[(usize, Stopped)],
    ) -> Result<Vec<(usize, Stopped)>, gimli::Error> {
        let among = |ranges: &[Range<u64>]| {
            pcs.iter().copied().filter(|(_, pc)| ranges.iter().any(|r| r.contains(&pc.scope))).collect::<Vec<_>>()
        };
        let address = |v| match v {
            AttributeValue::DebugAddrIndex(i) => indexed(self.dwarf, self.unit, i),
            AttributeValue::Addr(a) => Some(a),
            _ => None,
        };
        if let Some(low) = entry.attr_value(gimli::DW_AT_low_pc)?.and_then(address) {
            let high = match entry.attr_value(gimli::DW_AT_high_pc)? {
                Some(AttributeValue::Udata(size)) => Some(low.wrapping_add(size)),
                Some(v) => address(v),
                None => None,
            };
            return Ok(high.map(|high| among(std::slice::from_ref(&(low..high)))).unwrap_or_default());
        }
        let Some(value) = entry.attr_value(gimli::DW_AT_ranges)? else { return Ok(Vec::new()) };
        if matches!(value, AttributeValue::DebugRngListsIndex(i) if i.0 > MAX_INDEX) {
            return Ok(Vec::new());
        }
        let Some(at) = self.dwarf.attr_ranges_offset(self.unit, value)? else { return Ok(Vec::new()) };
        let mut list = self.dwarf.raw_ranges(self.unit, at)?;
        let mut base = self.unit.low_pc;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let indexed = |i| indexed(self.dwarf, self.unit, i);
        for _ in 0..MAX_LIST {
            let Some(entry) = list.next()? else { break };
            ranges.extend(match entry {
                RawRngListEntry::BaseAddress { addr } => {
                    base = addr;
                    None
                }
                RawRngListEntry::BaseAddressx { addr } => {
                    base = indexed(addr).unwrap_or(base);
                    None
                }
                RawRngListEntry::AddressOrOffsetPair { begin, end } | RawRngListEntry::OffsetPair { begin, end } => {
                    Some(base.wrapping_add(begin)..base.wrapping_add(end))
                }
                RawRngListEntry::StartxEndx { begin, end } => indexed(begin).zip(indexed(end)).map(|(b, e)| b..e),
                RawRngListEntry::StartxLength { begin, length } => indexed(begin).map(|b| b..b.wrapping_add(length)),
                RawRngListEntry::StartEnd { begin, end } => Some(begin..end),
                RawRngListEntry::StartLength { begin, length } => Some(begin..begin.wrapping_add(length)),
            });
        }
        Ok(among(&ranges))
    }

    /// Name of a function: its own, or that of what it is an instance of.
    fn name(&self, entry: &Entry<'_, '_, 'a>, depth: usize) -> Result<String, gimli::Error> {
        if let Some(name) = entry.attr_value(gimli::DW_AT_name)? {
            return Ok(text(self.dwarf, self.unit, name));
        }
        let found = self.origin(entry, self.unit, depth, |scan, e, unit, _| {
            Ok(e.attr_value(gimli::DW_AT_name)?.map(|n| text(scan.dwarf, unit, n)))
        })?;
        Ok(found.unwrap_or_default())
    }

    fn name_and_type(
        &self,
        entry: &Entry<'_, '_, 'a>,
        unit: &Unit<'a>,
        depth: usize,
    ) -> Result<Option<(String, DebugInfoOffset)>, gimli::Error> {
        let Some(name) = entry.attr_value(gimli::DW_AT_name)? else {
            return self.origin(entry, unit, depth, |scan, e, unit, depth| scan.name_and_type(e, unit, depth));
        };
        let ty = match entry.attr_value(gimli::DW_AT_type)? {
            Some(AttributeValue::UnitRef(at)) => at.to_debug_info_offset(&unit.header),
            Some(AttributeValue::DebugInfoRef(at)) => Some(at),
            _ => None,
        };
        Ok(ty.map(|ty| (text(self.dwarf, unit, name), ty)))
    }

    /// Asks the entry that `entry` is an instance of.
    fn origin<T>(
        &self,
        entry: &Entry<'_, '_, 'a>,
        unit: &Unit<'a>,
        depth: usize,
        ask: impl FnOnce(&Self, &Entry<'_, '_, 'a>, &Unit<'a>, usize) -> Result<Option<T>, gimli::Error>,
    ) -> Result<Option<T>, gimli::Error> {
        if depth > 4 {
            return Ok(None);
        }
        match entry.attr_value(gimli::DW_AT_abstract_origin)? {
            Some(AttributeValue::UnitRef(at)) => ask(self, &unit.entry(at)?, unit, depth + 1),
            Some(AttributeValue::DebugInfoRef(at)) => {
                let found =
                    super::with_unit_at(self.dwarf, at, |unit, at| ask(self, &unit.entry(at)?, unit, depth + 1));
                found.transpose().map(Option::flatten)
            }
            _ => Ok(None),
        }
    }
}
