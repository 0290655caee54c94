//! The table itself: rows and pools, lookups by address and by name.

use std::{collections::HashMap, ops::Range};

use super::{TypeId, names::Names};
use crate::base::Addr;

/// Kind of a type. 1 to 26 are abi.Kind of Go; the rest are things that exist in the heap without being Go types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    #[default]
    Unknown = 0,
    Bool,
    Int,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Uintptr,
    Float32,
    Float64,
    Complex64,
    Complex128,
    Array,
    Chan,
    Func,
    Interface,
    Map,
    Pointer,
    Slice,
    String,
    Struct,
    UnsafePointer,
    /// Backing array of a slice: `elem` repeated to the end of the object. Size is that of one element.
    Backing,
    /// What a map value points to: hmap (to Go 1.23) or maps.Map. `key` is the map type.
    MapHeader,
    /// Parts of a map behind its header: buckets, tables, groups, directory. `key` is the map type.
    MapPart,
    /// What a channel value points to. `key` is the channel type.
    ChanHeader,
    /// A closure object: code pointer and captured variables. `addr` is the function's entry.
    Closure,
    /// Bytes of a string.
    StringData,
    /// A 16-byte block in which small pointer-free objects share place.
    TinyBlock,
}

impl Kind {
    /// abi.Kind of a descriptor (low five bits).
    pub fn from_abi(kind: u8) -> Option<Kind> {
        const KINDS: [Kind; 26] = [
            Kind::Bool,
            Kind::Int,
            Kind::Int8,
            Kind::Int16,
            Kind::Int32,
            Kind::Int64,
            Kind::Uint,
            Kind::Uint8,
            Kind::Uint16,
            Kind::Uint32,
            Kind::Uint64,
            Kind::Uintptr,
            Kind::Float32,
            Kind::Float64,
            Kind::Complex64,
            Kind::Complex128,
            Kind::Array,
            Kind::Chan,
            Kind::Func,
            Kind::Interface,
            Kind::Map,
            Kind::Pointer,
            Kind::Slice,
            Kind::String,
            Kind::Struct,
            Kind::UnsafePointer,
        ];
        KINDS.get(usize::from(kind).checked_sub(1)?).copied()
    }

    /// The kind with this number.
    pub(super) fn of_number(n: u64) -> Option<Kind> {
        const MADE: [Kind; 7] = [
            Kind::Backing,
            Kind::MapHeader,
            Kind::MapPart,
            Kind::ChanHeader,
            Kind::Closure,
            Kind::StringData,
            Kind::TinyBlock,
        ];
        match n {
            0 => Some(Kind::Unknown),
            1..=26 => Kind::from_abi(n as u8),
            _ => MADE.into_iter().find(|&k| k as u64 == n),
        }
    }

    /// Values of this kind are one word that is a pointer.
    pub fn is_pointer_word(self) -> bool {
        matches!(self, Kind::Chan | Kind::Func | Kind::Map | Kind::Pointer | Kind::UnsafePointer)
    }

    /// Made of fields with offsets.
    pub fn has_fields(self) -> bool {
        matches!(self, Kind::Struct | Kind::MapHeader | Kind::MapPart | Kind::ChanHeader | Kind::Closure)
    }
}

/// Where a row comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// An abi.Type of a module (compiled in).
    #[default]
    Module,
    /// An abi.Type that the program made at run time (reflect), outside the modules.
    RunTime,
    Dwarf,
    /// Implied by another type: map headers, backing arrays, closures.
    Made,
}

/// Offset and length in the pool of names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct NameRef {
    pub start: u32,
    pub len: u32,
}

/// A member of a struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldInfo {
    pub(super) name: NameRef,
    /// Bytes from the start of the struct.
    pub offset: u64,
    pub ty: TypeId,
    pub embedded: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    pub kind: Kind,
    pub origin: Origin,
    /// The type has a name of its own (is defined, not composed).
    pub named: bool,
    /// Values sit in an interface's data word themselves.
    pub direct: bool,
    pub variadic: bool,
    /// abi.ChanDir: 1 receive, 2 send, 3 both.
    pub dir: u8,
    pub size: u64,
    /// Bytes up to and including the last pointer.
    pub ptr_bytes: u64,
    pub len: u64,
    pub name: NameRef,
    pub package: NameRef,
    pub elem: TypeId,
    pub key: TypeId,
    /// Map types: the bucket (to Go 1.23) or group type.
    pub part: TypeId,
    /// Range in the pool of fields; of a func type: parameters, then results.
    pub fields: (u32, u32),
    /// Func types: how many of `fields` are parameters. Map types: flags of the map type.
    pub extra: u32,
    /// Address of the descriptor, entry of the function for closures, null for others.
    pub addr: Addr,
}

/// All types that are known of one target. Rows are only ever added.
#[derive(Debug)]
pub struct TypeTable {
    pub(super) rows: Vec<Row>,
    pub(super) fields: Vec<FieldInfo>,
    pub(super) names: Names,
    pub(super) by_addr: HashMap<u64, TypeId>,
    pub(super) by_name: HashMap<NameRef, TypeId>,
    /// itab address → concrete type.
    pub(super) itabs: HashMap<u64, TypeId>,
    pub(super) backings: HashMap<TypeId, TypeId>,
    pub(super) pointers: HashMap<TypeId, TypeId>,
    /// map, channel → header type.
    pub(super) headers: HashMap<TypeId, TypeId>,
    pub(super) closures: HashMap<u64, TypeId>,
    pub(super) string_data: TypeId,
    pub(super) tiny_block: TypeId,
    pub(super) any_closure: TypeId,
}

impl Default for TypeTable {
    fn default() -> Self {
        TypeTable::new()
    }
}

impl TypeTable {
    /// A table that knows the unknown type only.
    pub fn new() -> TypeTable {
        let mut table = TypeTable {
            rows: Vec::new(),
            fields: Vec::new(),
            names: Names::default(),
            by_addr: HashMap::new(),
            by_name: HashMap::new(),
            itabs: HashMap::new(),
            backings: HashMap::new(),
            pointers: HashMap::new(),
            headers: HashMap::new(),
            closures: HashMap::new(),
            string_data: TypeId::UNKNOWN,
            tiny_block: TypeId::UNKNOWN,
            any_closure: TypeId::UNKNOWN,
        };
        table.add(Row::default(), "?");
        table.by_name.clear();
        table.pointers.clear();
        table.string_data = table
            .add(Row { kind: Kind::StringData, origin: Origin::Made, size: 1, ..Row::default() }, "string (bytes)");
        table.tiny_block =
            table.add(Row { kind: Kind::TinyBlock, origin: Origin::Made, size: 1, ..Row::default() }, "(tiny objects)");
        table.any_closure =
            table.add(Row { kind: Kind::Closure, origin: Origin::Made, size: 8, ..Row::default() }, "func (closure)");
        table
    }

    /// Adds a row; the first row of a name is the one that the name finds.
    pub(super) fn add(&mut self, mut row: Row, name: &str) -> TypeId {
        // Four bits of a packed reference are used for other things (see `plan`).
        debug_assert!(self.rows.len() < 1 << 28);
        let id = TypeId(self.rows.len() as u32);
        row.name = self.names.intern(name);
        self.by_name.entry(row.name).or_insert(id);
        self.rows.push(row);
        id
    }

    pub(super) fn row(&self, id: TypeId) -> &Row {
        self.rows.get(id.index()).unwrap_or(&self.rows[0])
    }

    /// Number of rows, the unknown type included; ids are below.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Nothing but the built-in rows.
    pub fn is_empty(&self) -> bool {
        self.by_addr.is_empty() && self.rows.iter().all(|r| r.origin == Origin::Made || r.kind == Kind::Unknown)
    }

    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        (1..self.rows.len() as u32).map(TypeId)
    }

    /// Whether objects of this type are the inside of a map (directory, tables, groups; buckets before 1.24): what a person
    /// who looks at values does not want to see.
    pub fn inside_map(&self, id: TypeId) -> bool {
        let row = self.row(id);
        row.kind == Kind::MapPart || row.kind == Kind::Backing && row.key.is_known()
    }

    pub fn kind(&self, id: TypeId) -> Kind {
        self.row(id).kind
    }

    pub fn origin(&self, id: TypeId) -> Origin {
        self.row(id).origin
    }

    /// Bytes of one value; of a backing array: of one element.
    pub fn size(&self, id: TypeId) -> u64 {
        self.row(id).size
    }

    /// Bytes up to and including the last pointer of a value.
    pub fn ptr_bytes(&self, id: TypeId) -> u64 {
        self.row(id).ptr_bytes
    }

    /// As Go users write it: `map[string]*main.User`.
    pub fn name(&self, id: TypeId) -> &str {
        self.names.get(self.row(id).name)
    }

    /// Import path of the package that defines the type, or the type of its elements; empty for built-in types.
    pub fn package(&self, id: TypeId) -> &str {
        let mut id = id;
        // Composed types belong to what they are composed of.
        for _ in 0..16 {
            let row = self.row(id);
            if row.package.len > 0 {
                return self.names.get(row.package);
            }
            let next = match row.kind {
                Kind::MapHeader | Kind::MapPart | Kind::ChanHeader => row.key,
                Kind::Map if self.package_of_defined(row.elem).is_none() => row.key,
                _ => row.elem,
            };
            if !next.is_known() {
                break;
            }
            id = next;
        }
        ""
    }

    fn package_of_defined(&self, mut id: TypeId) -> Option<NameRef> {
        for _ in 0..16 {
            let row = self.row(id);
            if row.package.len > 0 {
                return Some(row.package);
            }
            id = row.elem;
        }
        None
    }

    /// Element of pointers, slices, arrays, channels, maps and backing arrays.
    pub fn elem(&self, id: TypeId) -> TypeId {
        self.row(id).elem
    }

    /// Key of a map; of a map's or channel's header and parts: the map or channel type.
    pub fn key(&self, id: TypeId) -> TypeId {
        self.row(id).key
    }

    /// Group (Go 1.24+) or bucket type of a map type.
    pub fn map_part(&self, id: TypeId) -> TypeId {
        self.row(id).part
    }

    /// Flags of a map type as the compiler set them (indirect keys and the like).
    pub fn map_flags(&self, id: TypeId) -> u32 {
        self.row(id).extra
    }

    /// Length of an array type.
    pub fn len_of(&self, id: TypeId) -> u64 {
        self.row(id).len
    }

    /// Has a name of its own.
    pub fn is_named(&self, id: TypeId) -> bool {
        self.row(id).named
    }

    /// Values of this type are the data word of an interface, not what it points to.
    pub fn is_direct(&self, id: TypeId) -> bool {
        self.row(id).direct
    }

    /// Address of the descriptor; of a closure: entry of its function.
    pub fn addr(&self, id: TypeId) -> Addr {
        self.row(id).addr
    }

    /// Members in order of their offsets.
    pub fn fields(&self, id: TypeId) -> &[FieldInfo] {
        let row = self.row(id);
        if row.kind == Kind::Func { &[] } else { self.pool(row.fields) }
    }

    pub fn field_name(&self, field: &FieldInfo) -> &str {
        self.names.get(field.name)
    }

    /// Parameters and results of a func type.
    pub fn signature(&self, id: TypeId) -> (impl Iterator<Item = TypeId> + '_, impl Iterator<Item = TypeId> + '_) {
        let row = self.row(id);
        let all = if row.kind == Kind::Func { self.pool(row.fields) } else { &[] };
        let (params, results) = all.split_at(all.len().min(row.extra as usize));
        (params.iter().map(|f| f.ty), results.iter().map(|f| f.ty))
    }

    fn pool(&self, (start, end): (u32, u32)) -> &[FieldInfo] {
        self.fields.get(start as usize..end as usize).unwrap_or_default()
    }

    pub(super) fn push_fields(&mut self, fields: impl IntoIterator<Item = FieldInfo>) -> (u32, u32) {
        let start = self.fields.len() as u32;
        self.fields.extend(fields);
        (start, self.fields.len() as u32)
    }

    /// The type whose descriptor is at `addr`, if it was loaded.
    pub fn by_addr(&self, addr: Addr) -> Option<TypeId> {
        self.by_addr.get(&addr.0).copied().filter(|id| id.is_known())
    }

    /// The concrete type behind an interface's first word: a descriptor (`any`) or an itab.
    pub fn by_type_word(&self, word: Addr) -> Option<TypeId> {
        self.by_addr(word).or_else(|| self.itabs.get(&word.0).copied().filter(|id| id.is_known()))
    }

    /// First type of that name.
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(&self.names.find(name)?).copied()
    }

    /// The member of a struct that contains byte `offset`.
    pub fn field_at(&self, id: TypeId, offset: u64) -> Option<&FieldInfo> {
        let fields = self.fields(id);
        let i = fields.partition_point(|f| f.offset <= offset);
        // Members of no size share their offset with the next one: look back over them.
        fields[..i].iter().rev().find(|f| offset - f.offset < self.size(f.ty))
    }

    /// The itabs' concrete types: (itab, type).
    pub fn itabs(&self) -> impl Iterator<Item = (Addr, TypeId)> + '_ {
        self.itabs.iter().map(|(&a, &t)| (Addr(a), t))
    }

    /// All rows of kind `kind`.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = TypeId> + '_ {
        self.ids().filter(move |&id| self.kind(id) == kind)
    }

    pub(super) fn field_range(&self, id: TypeId) -> Range<usize> {
        let (a, b) = self.row(id).fields;
        a as usize..b as usize
    }
}
