//! Types of global variables that have no descriptor in the binary: the compiler leaves one out where nothing converts a
//! value to an interface or allocates it (`var app = &App{...}`).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use gimli::{AttributeValue, DebugInfoOffset, UnitHeader, UnitOffset};

use super::{Slice, describe, text};

/// Types that are looked at from all variables together; large programs have some ten thousand without a descriptor.
const MAX_TYPES: usize = 1 << 16;
const MAX_MEMBERS: usize = 1 << 12;

/// Attributes of Go's compiler (cmd/internal/dwarf).
const DW_AT_GO_KIND: gimli::DwAt = gimli::DwAt(0x2900);
const DW_AT_GO_KEY: gimli::DwAt = gimli::DwAt(0x2901);
const DW_AT_GO_ELEM: gimli::DwAt = gimli::DwAt(0x2902);

/// A type that only DWARF knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BareType {
    /// abi.Kind: 19 func, 20 interface, 25 struct.
    pub kind: u8,
    pub size: u64,
    pub members: Vec<BareMember>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BareMember {
    pub name: String,
    pub offset: u64,
    pub type_name: String,
    /// Offset of its descriptor from `runtime.types`, if it has one.
    pub runtime_type: Option<u64>,
}

/// Units by offset, each parsed once.
struct Units<'d, 'a> {
    dwarf: &'d gimli::Dwarf<Slice<'a>>,
    headers: Vec<(usize, UnitHeader<Slice<'a>>)>,
    parsed: HashMap<usize, Option<gimli::Unit<Slice<'a>>>>,
}

impl<'d, 'a> Units<'d, 'a> {
    fn with<T>(
        &mut self,
        at: DebugInfoOffset,
        f: impl FnOnce(&gimli::Dwarf<Slice<'a>>, &gimli::Unit<Slice<'a>>, UnitOffset) -> Option<T>,
    ) -> Option<T> {
        let i = self.headers.partition_point(|h| h.0 <= at.0).checked_sub(1)?;
        let (_, header) = &self.headers[i];
        let offset = at.to_unit_offset(header)?;
        let dwarf = self.dwarf;
        let unit = self.parsed.entry(i).or_insert_with(|| dwarf.unit(*header).ok()).as_ref()?;
        f(dwarf, unit, offset)
    }
}

/// What one entry says.
#[derive(Default)]
struct Seen {
    name: String,
    bare: Option<BareType>,
    refers: Vec<DebugInfoOffset>,
}

/// All types without descriptor that lead from `starts` (types of variables) to more types, by full name.
pub(super) fn bare_types<'a>(
    dwarf: &gimli::Dwarf<Slice<'a>>,
    headers: &[UnitHeader<Slice<'a>>],
    starts: impl IntoIterator<Item = DebugInfoOffset>,
) -> BTreeMap<String, BareType> {
    let mut list: Vec<(usize, UnitHeader<Slice<'a>>)> =
        headers.iter().filter_map(|h| Some((h.offset().as_debug_info_offset()?.0, *h))).collect();
    list.sort_by_key(|h| h.0);
    let mut units = Units { dwarf, headers: list, parsed: HashMap::new() };
    let mut todo: VecDeque<DebugInfoOffset> = starts.into_iter().collect();
    let mut seen: HashSet<usize> = HashSet::new();
    let mut out = BTreeMap::new();
    while let Some(at) = todo.pop_front() {
        if seen.len() >= MAX_TYPES || !seen.insert(at.0) {
            continue;
        }
        let Some(found) = look(&mut units, at) else { continue };
        if let Some(bare) = found.bare.filter(|_| !found.name.is_empty()) {
            out.insert(found.name, bare);
        }
        todo.extend(found.refers);
    }
    out
}

/// The entry at `at`; `None` where it has a descriptor, which says all, or cannot be read.
fn look(units: &mut Units<'_, '_>, at: DebugInfoOffset) -> Option<Seen> {
    let mut members: Vec<(String, u64, DebugInfoOffset)> = Vec::new();
    let mut seen = units.with(at, |dwarf, unit, offset| {
        let (name, runtime_type) = describe(dwarf, unit, offset);
        if runtime_type.is_some() {
            return None;
        }
        let entry = unit.entry(offset).ok()?;
        let number = |at| entry.attr(at).ok().flatten().and_then(|a| a.udata_value());
        let refers = |at| match entry.attr_value(at) {
            Ok(Some(AttributeValue::UnitRef(o))) => o.to_debug_info_offset(&unit.header),
            Ok(Some(AttributeValue::DebugInfoRef(o))) => Some(o),
            _ => None,
        };
        let mut seen = Seen { name, ..Seen::default() };
        for link in [gimli::DW_AT_type, DW_AT_GO_ELEM, DW_AT_GO_KEY] {
            seen.refers.extend(refers(link));
        }
        let kind = number(DW_AT_GO_KIND).unwrap_or(0) & 0x1f;
        match kind {
            19 | 20 => seen.bare = Some(BareType { kind: kind as u8, size: 8 * (kind - 18), members: Vec::new() }),
            25 => {
                let size = number(gimli::DW_AT_byte_size).unwrap_or(0);
                seen.bare = Some(BareType { kind: 25, size, members: Vec::new() });
                let mut tree = unit.entries_tree(Some(offset)).ok()?;
                let mut children = tree.root().ok()?.children();
                while let Ok(Some(node)) = children.next() {
                    let m = node.entry();
                    let ty = match m.attr_value(gimli::DW_AT_type) {
                        Ok(Some(AttributeValue::UnitRef(o))) => o.to_debug_info_offset(&unit.header),
                        Ok(Some(AttributeValue::DebugInfoRef(o))) => Some(o),
                        _ => None,
                    };
                    let Some(ty) = ty.filter(|_| m.tag() == gimli::DW_TAG_member && members.len() < MAX_MEMBERS) else {
                        continue;
                    };
                    let name = m.attr_value(gimli::DW_AT_name).ok().flatten();
                    let offset = m.attr(gimli::DW_AT_data_member_location).ok().flatten();
                    let offset = offset.and_then(|a| a.udata_value()).unwrap_or(0);
                    members.push((name.map(|n| text(dwarf, unit, n)).unwrap_or_default(), offset, ty));
                }
            }
            _ => {}
        }
        Some(seen)
    })?;
    for (name, offset, ty) in members {
        let said = units.with(ty, |dwarf, unit, at| Some(describe(dwarf, unit, at)));
        let (type_name, runtime_type) = said.unwrap_or_default();
        if let Some(bare) = &mut seen.bare {
            bare.members.push(BareMember { name, offset, type_name, runtime_type });
        }
        seen.refers.push(ty);
    }
    Some(seen)
}
