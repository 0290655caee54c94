//! image::dwarf: struct layouts, constants and variables from DWARF 4 and 5. gimli stays inside this room.

mod locals;
mod types;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use gimli::{AttributeValue, EndianSlice, LittleEndian};
use object::{Object, ObjectSection};
use rayon::prelude::*;

use crate::os::mmap::MappedFile;

use locals::{Bytes, Kept};
pub use locals::{Found, Local, Piece, Stopped};
pub use types::{BareMember, BareType};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

#[derive(Debug, thiserror::Error)]
pub enum DwarfError {
    #[error("cannot parse the ELF file that holds DWARF: {0}")]
    Elf(#[from] object::Error),
    #[error("cannot parse DWARF: {0}")]
    Dwarf(#[from] gimli::Error),
}

/// A member of a struct, nested structs flattened: `sched.pc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub path: String,
    pub offset: u64,
    pub size: u64,
}

/// One struct type.
#[derive(Clone, Debug, Default)]
pub struct StructLayout {
    pub size: u64,
    pub members: Vec<Member>,
}

/// A package-level variable, at its ELF address.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub addr: u64,
    /// Name of its type; empty if it has none.
    pub type_name: String,
    /// DW_AT_go_runtime_type: offset of the abi.Type from `runtime.types`, if the type has a descriptor.
    pub runtime_type: Option<u64>,
}

/// DWARF of one binary: the parts that were asked for, read in one pass over the units.
#[derive(Default)]
pub struct Dwarf {
    pub structs: HashMap<String, StructLayout>,
    pub constants: HashMap<String, i64>,
    /// By address.
    pub variables: Vec<Variable>,
    /// Types behind variables that have no descriptor, by full name.
    pub bare: BTreeMap<String, BareType>,
    /// What closures capture (Go 1.23 and later), by ELF address of their function: variables with their place in the
    /// closure object.
    pub captures: HashMap<u64, Vec<BareMember>>,
    /// Entries of the types of variables without descriptor.
    undescribed: Vec<gimli::DebugInfoOffset>,
    /// Functions with code: where it begins, and their entry.
    functions: Vec<(u64, gimli::DebugInfoOffset)>,
    /// The sections, for `locals`.
    kept: Option<Kept>,
}

/// Can a section that says so unpack to what it says? The memory for it is taken beforehand.
fn believable(packed: &object::CompressedData<'_>) -> bool {
    /// Larger than the DWARF of any program.
    const MAX_SECTION: u64 = 8 << 30;
    /// Deflate's own limit, and far more than zstd gains on DWARF.
    const MAX_RATIO: u64 = 1032;
    packed.format == object::CompressionFormat::None
        || packed.uncompressed_size <= (packed.data.len() as u64).saturating_mul(MAX_RATIO).min(MAX_SECTION)
}

/// Members nested deeper than this are not flattened: types of a hostile file may contain themselves.
const MAX_NESTING: u32 = 4;

impl Dwarf {
    /// Variables only, by address.
    pub fn of_variables(variables: Vec<Variable>) -> Dwarf {
        Dwarf { variables, ..Dwarf::default() }
    }

    /// Reads DWARF from `file`: the structs for which `want` says so, all constants and all global variables.
    /// `None` if the file has no DWARF. Cost: one pass over .debug_info, units in parallel.
    pub fn open(file: &Arc<MappedFile>, want: &(dyn Fn(&str) -> bool + Sync)) -> Result<Option<Dwarf>, DwarfError> {
        let elf = object::File::parse(&***file)?;
        if elf.section_by_name(".debug_info").is_none() && elf.section_by_name(".zdebug_info").is_none() {
            return Ok(None);
        }
        let whole: &[u8] = file;
        let load = |id: gimli::SectionId| -> Result<Bytes, object::Error> {
            let bytes = match elf.section_by_name(id.name()) {
                Some(s) => {
                    let packed = s.compressed_data()?;
                    if believable(&packed) { packed.decompress()? } else { Cow::Borrowed(&[][..]) }
                }
                None => Cow::Borrowed(&[][..]),
            };
            Ok(match bytes {
                Cow::Owned(bytes) => Bytes::Unpacked(bytes),
                Cow::Borrowed(bytes) => {
                    let at = (bytes.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
                    Bytes::Mapped(at..at + bytes.len())
                }
            })
        };
        let sections = gimli::DwarfSections::load(load)?;
        let mut dwarf = sections.borrow(|s| Kept::bytes(file, s));
        dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
        let mut headers = Vec::new();
        let mut units = dwarf.units();
        while let Some(h) = units.next()? {
            headers.push(h);
        }
        let dwarf = Info { dwarf, headers: &headers };
        let mut out = Dwarf::default();
        let parts: Vec<Result<Dwarf, DwarfError>> = headers
            .par_iter()
            .map(|h| {
                let unit = dwarf.unit(*h)?;
                read_unit(&dwarf, &unit, want)
            })
            .collect();
        for part in parts {
            let part = part?;
            out.structs.extend(part.structs);
            out.constants.extend(part.constants);
            out.variables.extend(part.variables);
            out.undescribed.extend(part.undescribed);
            out.captures.extend(part.captures);
            out.functions.extend(part.functions);
        }
        out.bare = types::bare_types(&dwarf, &headers, std::mem::take(&mut out.undescribed));
        out.variables.sort_by_key(|v| v.addr);
        drop(dwarf);
        let mut functions = std::mem::take(&mut out.functions);
        functions.par_sort_unstable();
        out.kept = Some(Kept::new(file.clone(), sections, functions));
        Ok(Some(out))
    }

    /// The variables that lie in the frames of functions stopped at `pcs`, in the order of `pcs`. Cost:
    /// the entries of each function once, functions in parallel; nothing where the sections are not at hand.
    pub fn locals(&self, pcs: &[Stopped]) -> Result<Found, DwarfError> {
        match &self.kept {
            Some(kept) => kept.locals(pcs),
            None => Ok(Found { at: vec![Vec::new(); pcs.len()], ..Found::default() }),
        }
    }

    /// Where functions begin (ELF addresses), ascending.
    pub fn function_starts(&self) -> impl Iterator<Item = u64> + '_ {
        self.kept.iter().flat_map(Kept::function_starts)
    }

    /// ELF address of a global variable.
    pub fn variable(&self, name: &str) -> Option<u64> {
        self.variables.iter().find(|v| v.name == name).map(|v| v.addr)
    }
}

/// The sections, and the headers of all units in their order.
struct Info<'h, 'a> {
    dwarf: gimli::Dwarf<Slice<'a>>,
    headers: &'h [gimli::UnitHeader<Slice<'a>>],
}

impl<'a> std::ops::Deref for Info<'_, 'a> {
    type Target = gimli::Dwarf<Slice<'a>>;

    fn deref(&self) -> &gimli::Dwarf<Slice<'a>> {
        &self.dwarf
    }
}

/// Entries of .debug_addr and .debug_str_offsets; gimli multiplies what it is given.
const MAX_INDEX: usize = 1 << 32;

/// Entry `index` of .debug_addr.
fn indexed<'a>(
    dwarf: &gimli::Dwarf<Slice<'a>>,
    unit: &gimli::Unit<Slice<'a>>,
    index: gimli::DebugAddrIndex,
) -> Option<u64> {
    if index.0 > MAX_INDEX { None } else { dwarf.address(unit, index).ok() }
}

fn text<'a>(dwarf: &gimli::Dwarf<Slice<'a>>, unit: &gimli::Unit<Slice<'a>>, v: AttributeValue<Slice<'a>>) -> String {
    if let AttributeValue::DebugStrOffsetsIndex(i) = v
        && i.0 > MAX_INDEX
    {
        return String::new();
    }
    dwarf.attr_string(unit, v).ok().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_unit<'a>(
    dwarf: &Info<'_, 'a>,
    unit: &gimli::Unit<Slice<'a>>,
    want: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Dwarf, DwarfError> {
    let mut out = Dwarf::default();
    let mut cursor = unit.entries();
    let Some((_, root)) = cursor.next_dfs()? else { return Ok(out) };
    // cgo's C units and other languages have nothing of the Go runtime.
    if !matches!(root.attr_value(gimli::DW_AT_language)?, Some(AttributeValue::Language(gimli::DW_LANG_Go))) {
        return Ok(out);
    }
    // Only direct children of the unit are named types, constants and package-level variables.
    let mut tree = unit.entries_tree(None)?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        let tag = entry.tag();
        if tag == gimli::DW_TAG_subprogram {
            let entry_pc = entry.attr_value(gimli::DW_AT_low_pc)?.and_then(|v| match v {
                AttributeValue::DebugAddrIndex(i) => indexed(dwarf, unit, i),
                v => dwarf.attr_address(unit, v).ok().flatten(),
            });
            if let Some(pc) = entry_pc {
                out.functions.extend(entry.offset().to_debug_info_offset(&unit.header).map(|at| (pc, at)));
                captures(dwarf, unit, node, pc, &mut out)?;
            }
            continue;
        }
        if !matches!(tag, gimli::DW_TAG_structure_type | gimli::DW_TAG_constant | gimli::DW_TAG_variable) {
            continue;
        }
        let Some(name) = entry.attr_value(gimli::DW_AT_name)? else { continue };
        let name = text(dwarf, unit, name);
        match tag {
            gimli::DW_TAG_structure_type if want(&name) => {
                let mut layout = StructLayout {
                    size: entry.attr(gimli::DW_AT_byte_size)?.and_then(|a| a.udata_value()).unwrap_or(0),
                    ..StructLayout::default()
                };
                flatten(dwarf, unit, entry.offset(), "", 0, 0, &mut layout.members)?;
                out.structs.insert(name, layout);
            }
            gimli::DW_TAG_constant => {
                if let Some(a) = entry.attr(gimli::DW_AT_const_value)?
                    && let Some(v) = a.sdata_value().or_else(|| a.udata_value().map(|u| u as i64))
                {
                    out.constants.insert(name, v);
                }
            }
            gimli::DW_TAG_variable => {
                if let Some(AttributeValue::Exprloc(e)) = entry.attr_value(gimli::DW_AT_location)?
                    && let Some(addr) = static_address(dwarf, unit, e)
                {
                    let (type_name, runtime_type) = type_of(dwarf, unit, entry, &mut out.undescribed)?;
                    out.variables.push(Variable { name, addr, type_name, runtime_type });
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Variables of a function that lie in its closure object.
fn captures<'a>(
    dwarf: &Info<'_, 'a>,
    unit: &gimli::Unit<Slice<'a>>,
    function: gimli::EntriesTreeNode<Slice<'a>>,
    pc: u64,
    out: &mut Dwarf,
) -> Result<(), DwarfError> {
    const DW_AT_GO_CLOSURE_OFFSET: gimli::DwAt = gimli::DwAt(0x2907);
    /// Variables that one closure captures; the compiler sets no limit, people do.
    const MAX_CAPTURED: usize = 1 << 10;
    let mut found: Vec<BareMember> = Vec::new();
    let mut children = function.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        let offset = entry.attr(DW_AT_GO_CLOSURE_OFFSET)?.and_then(|a| a.udata_value());
        let Some(offset) = offset.filter(|_| found.len() < MAX_CAPTURED) else { continue };
        let name = entry.attr_value(gimli::DW_AT_name)?.map(|n| text(dwarf, unit, n)).unwrap_or_default();
        let (type_name, runtime_type) = type_of(dwarf, unit, entry, &mut out.undescribed)?;
        found.push(BareMember { name, offset, type_name, runtime_type });
    }
    if !found.is_empty() {
        out.captures.insert(pc, found);
    }
    Ok(())
}

/// Name and descriptor of an entry's type; a type without descriptor is put on the list.
fn type_of<'a>(
    dwarf: &Info<'_, 'a>,
    unit: &gimli::Unit<Slice<'a>>,
    entry: &gimli::DebuggingInformationEntry<'_, '_, Slice<'a>>,
    undescribed: &mut Vec<gimli::DebugInfoOffset>,
) -> Result<(String, Option<u64>), DwarfError> {
    let (said, at) = match entry.attr_value(gimli::DW_AT_type)? {
        Some(AttributeValue::UnitRef(at)) => (describe(dwarf, unit, at), at.to_debug_info_offset(&unit.header)),
        Some(AttributeValue::DebugInfoRef(at)) => (describe_elsewhere(dwarf, at).unwrap_or_default(), Some(at)),
        _ => Default::default(),
    };
    undescribed.extend(at.filter(|_| said.1.is_none()));
    Ok(said)
}

/// A location expression that is just an address.
fn static_address<'a>(
    dwarf: &gimli::Dwarf<Slice<'a>>,
    unit: &gimli::Unit<Slice<'a>>,
    e: gimli::Expression<Slice<'a>>,
) -> Option<u64> {
    let mut ops = e.operations(unit.encoding());
    let addr = match ops.next().ok()?? {
        gimli::Operation::Address { address } => address,
        gimli::Operation::AddressIndex { index } => indexed(dwarf, unit, index)?,
        _ => return None,
    };
    ops.next().ok()?.is_none().then_some(addr)
}

fn describe<'a>(
    dwarf: &gimli::Dwarf<Slice<'a>>,
    unit: &gimli::Unit<Slice<'a>>,
    at: gimli::UnitOffset,
) -> (String, Option<u64>) {
    const DW_AT_GO_RUNTIME_TYPE: gimli::DwAt = gimli::DwAt(0x2904);
    let Ok(entry) = unit.entry(at) else { return Default::default() };
    let name = entry.attr_value(gimli::DW_AT_name).ok().flatten().map(|n| text(dwarf, unit, n)).unwrap_or_default();
    // The form says "address", but the value is an offset from runtime.types and needs no relocation.
    let rt = match entry.attr_value(DW_AT_GO_RUNTIME_TYPE) {
        Ok(Some(AttributeValue::Addr(a))) => Some(a),
        Ok(Some(AttributeValue::DebugAddrIndex(i))) => indexed(dwarf, unit, i),
        _ => None,
    };
    (name, rt.filter(|&r| r != 0))
}

fn describe_elsewhere<'a>(dwarf: &Info<'_, 'a>, at: gimli::DebugInfoOffset) -> Option<(String, Option<u64>)> {
    with_unit_at(dwarf, at, |unit, offset| describe(dwarf, unit, offset))
}

/// Go's linker refers to types across units by .debug_info offset: find the unit by its place.
fn with_unit_at<'a, T>(
    dwarf: &Info<'_, 'a>,
    at: gimli::DebugInfoOffset,
    f: impl FnOnce(&gimli::Unit<Slice<'a>>, gimli::UnitOffset) -> T,
) -> Option<T> {
    let offset = |h: &gimli::UnitHeader<Slice<'a>>| h.offset().as_debug_info_offset().map_or(0, |o| o.0);
    let i = dwarf.headers.partition_point(|h| offset(h) <= at.0).checked_sub(1)?;
    let header = dwarf.headers.get(i)?;
    let within = at.to_unit_offset(header)?;
    let unit = dwarf.unit(*header).ok()?;
    Some(f(&unit, within))
}

/// Lists members with their offsets from the outermost struct; `at` is a struct, array or typedef.
fn flatten<'a>(
    dwarf: &Info<'_, 'a>,
    unit: &gimli::Unit<Slice<'a>>,
    at: gimli::UnitOffset,
    prefix: &str,
    base: u64,
    depth: u32,
    out: &mut Vec<Member>,
) -> Result<(), DwarfError> {
    if depth > MAX_NESTING {
        return Ok(());
    }
    let mut tree = unit.entries_tree(Some(at))?;
    let mut children = tree.root()?.children();
    while let Some(node) = children.next()? {
        let entry = node.entry();
        if entry.tag() != gimli::DW_TAG_member {
            continue;
        }
        let name = entry.attr_value(gimli::DW_AT_name)?.map(|n| text(dwarf, unit, n)).unwrap_or_default();
        let offset = entry.attr(gimli::DW_AT_data_member_location)?.and_then(|a| a.udata_value()).unwrap_or(0);
        let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let at = base.saturating_add(offset);
        let mut size = 0;
        let mut follow = |unit: &gimli::Unit<Slice<'a>>, ty: gimli::UnitOffset| -> Result<(), DwarfError> {
            let (bytes, inner) = resolve(dwarf, unit, ty, 0)?;
            size = bytes;
            if let Some(inner) = inner {
                flatten(dwarf, unit, inner, &path, at, depth + 1, out)?;
            }
            Ok(())
        };
        match entry.attr_value(gimli::DW_AT_type)? {
            Some(AttributeValue::UnitRef(ty)) => follow(unit, ty)?,
            Some(AttributeValue::DebugInfoRef(ty)) => {
                if let Some(r) = with_unit_at(dwarf, ty, |u, o| follow(u, o)) {
                    r?;
                }
            }
            _ => {}
        }
        out.push(Member { path, offset: at, size });
    }
    Ok(())
}

/// Size of a type, and the struct behind it if it is one (typedefs followed).
fn resolve<'a>(
    dwarf: &Info<'_, 'a>,
    unit: &gimli::Unit<Slice<'a>>,
    at: gimli::UnitOffset,
    depth: u32,
) -> Result<(u64, Option<gimli::UnitOffset>), DwarfError> {
    let entry = unit.entry(at)?;
    let size = entry.attr(gimli::DW_AT_byte_size)?.and_then(|a| a.udata_value());
    Ok(match entry.tag() {
        gimli::DW_TAG_structure_type => (size.unwrap_or(0), Some(at)),
        gimli::DW_TAG_pointer_type | gimli::DW_TAG_subroutine_type => (size.unwrap_or(8), None),
        gimli::DW_TAG_typedef if depth < 8 => match entry.attr_value(gimli::DW_AT_type)? {
            Some(AttributeValue::UnitRef(ty)) => resolve(dwarf, unit, ty, depth + 1)?,
            // Maps, channels and funcs are typedefs of pointers to runtime types.
            Some(AttributeValue::DebugInfoRef(ty)) => {
                with_unit_at(dwarf, ty, |u, o| resolve(dwarf, u, o, depth + 1)).transpose()?.unwrap_or((8, None))
            }
            _ => (8, None),
        },
        _ => (size.unwrap_or(0), None),
    })
}
