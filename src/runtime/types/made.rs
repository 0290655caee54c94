//! Types that have no descriptor of their own but are what objects in the heap are: the header behind a map or channel
//! value, a map's buckets, tables and groups, the backing array of a slice, closures.
//! Facts: runtime/map.go (hmap, mapextra; to Go 1.23), internal/runtime/maps (Map, table, groupReference; from 1.24),
//! runtime/chan.go.

use std::collections::BTreeMap;

use super::{
    Kind, Origin, TypeId, TypeTable,
    descriptor::MapAbi,
    table::{FieldInfo, Row},
};
use crate::{
    base::Addr,
    image::dwarf::{BareMember, BareType},
};

const WORD: u64 = 8;

impl TypeTable {
    /// What the backing array of `[]elem` is: `elem` repeated to the end of the object.
    pub fn backing(&mut self, elem: TypeId) -> TypeId {
        if let Some(&id) = self.backings.get(&elem) {
            return id;
        }
        let name = format!("[]{}", self.name(elem));
        let id = self.repeated(elem, &name);
        self.backings.insert(elem, id);
        id
    }

    /// `*elem`: the descriptor's row if there is one, else a made one.
    pub fn pointer_to(&mut self, elem: TypeId) -> TypeId {
        if let Some(&id) = self.pointers.get(&elem) {
            return id;
        }
        let name = format!("*{}", self.name(elem));
        let row = Row {
            kind: Kind::Pointer,
            origin: Origin::Made,
            direct: true,
            size: WORD,
            ptr_bytes: WORD,
            elem,
            ..Row::default()
        };
        let id = self.add(row, &name);
        self.pointers.insert(elem, id);
        id
    }

    /// `[]elem`: the descriptor's row if there is one, else a made one.
    pub fn slice_of(&mut self, elem: TypeId) -> TypeId {
        let name = format!("[]{}", self.name(elem));
        let found = self.by_name(&name).filter(|&id| self.kind(id) == Kind::Slice && self.elem(id) == elem);
        found.unwrap_or_else(|| {
            self.backing(elem);
            let row = Row {
                kind: Kind::Slice,
                origin: Origin::Made,
                size: 3 * WORD,
                ptr_bytes: WORD,
                elem,
                ..Row::default()
            };
            self.add(row, &name)
        })
    }

    /// The type that DWARF calls `name` (with whole import paths): one of the table, or a pointer, slice or map of such.
    pub fn by_dwarf_name(&mut self, name: &str) -> Option<TypeId> {
        const MAX_NAME: usize = 4096;
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        // Descriptors of one short name may belong to several packages: the import path decides.
        let package = super::in_package(name);
        let short = super::shorten(name);
        // Backing arrays and headers share their names with the slices, maps and channels that they belong to.
        let value = |t: &TypeTable, id: TypeId| (t.kind(id) as u8) <= Kind::UnsafePointer as u8;
        if let Some(id) = self.by_name(&short).filter(|&id| value(self, id)) {
            if package.is_empty() || self.package(id) == package {
                return Some(id);
            }
            let same = |&id: &TypeId| value(self, id) && self.name(id) == short && self.package(id) == package;
            let other = self.ids().find(same);
            return other.or(Some(id));
        }
        if let Some(elem) = name.strip_prefix('*') {
            let elem = self.by_dwarf_name(elem)?;
            return Some(self.pointer_to(elem));
        }
        if name.starts_with("func(") {
            return Some(self.add(
                Row { kind: Kind::Func, origin: Origin::Dwarf, size: 8, ptr_bytes: 8, ..Row::default() },
                &short,
            ));
        }
        if let Some(elem) = name.strip_prefix("[]") {
            let elem = self.by_dwarf_name(elem)?;
            return Some(self.slice_of(elem));
        }
        let (len, elem) = name.strip_prefix('[')?.split_once(']')?;
        let (len, elem) = (len.parse::<u64>().ok()?, self.by_dwarf_name(elem)?);
        let (each, last) = (self.size(elem), self.ptr_bytes(elem));
        let size = each.checked_mul(len)?;
        let ptr_bytes = if last == 0 || len == 0 { 0 } else { size - each + last };
        let row = Row { kind: Kind::Array, origin: Origin::Dwarf, size, ptr_bytes, len, elem, ..Row::default() };
        Some(self.add(row, &short))
    }

    /// Adds types that only DWARF knows. `descriptor`: the type whose descriptor lies that far from `runtime.types`.
    pub fn learn(&mut self, bare: &BTreeMap<String, BareType>, descriptor: impl Fn(&TypeTable, u64) -> Option<TypeId>) {
        // Names first, so that members may refer to any of them, in circles as well.
        let mut added = Vec::new();
        for (full, ty) in bare {
            let Some(kind) = Kind::from_abi(ty.kind) else { continue };
            let (short, package) = (super::shorten(full), super::in_package(full));
            if self.by_name(&short).is_some_and(|id| package.is_empty() || self.package(id) == package) {
                continue;
            }
            let package = self.names.intern(package);
            let named = kind == Kind::Struct && !full.starts_with("struct ");
            let row = Row { kind, origin: Origin::Dwarf, named, size: ty.size, package, ..Row::default() };
            added.push((self.add(row, &short), ty));
        }
        for &(id, ty) in &added {
            let fields = self.members(&ty.members, &descriptor);
            self.rows[id.index()].fields = self.push_fields(fields);
        }
        // Sizes up to the last pointer, from the inside out; structs hold each other by value only so deep.
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            for &(id, _) in &added {
                let last = match self.kind(id) {
                    Kind::Func => 8,
                    Kind::Interface => 16,
                    _ => {
                        let end =
                            |f: &FieldInfo| Some(f.offset + self.ptr_bytes(f.ty)).filter(|_| self.ptr_bytes(f.ty) > 0);
                        self.fields(id).iter().filter_map(end).max().unwrap_or(0)
                    }
                };
                self.rows[id.index()].ptr_bytes = last;
            }
        }
    }

    fn members(
        &mut self,
        list: &[BareMember],
        descriptor: &impl Fn(&TypeTable, u64) -> Option<TypeId>,
    ) -> Vec<FieldInfo> {
        let mut fields: Vec<FieldInfo> = Vec::new();
        for m in list {
            let by_descriptor = m.runtime_type.and_then(|off| descriptor(self, off));
            if let Some(ty) = by_descriptor.or_else(|| self.by_dwarf_name(&m.type_name)) {
                let name = self.names.intern(&m.name);
                fields.push(FieldInfo { name, offset: m.offset, ty, embedded: false });
            }
        }
        fields.sort_by_key(|f| f.offset);
        fields
    }

    /// The struct of a closure that captures `list`, for `closure`.
    pub fn captured(
        &mut self,
        function: &str,
        list: &[BareMember],
        descriptor: impl Fn(&TypeTable, u64) -> Option<TypeId>,
    ) -> TypeId {
        let fields = self.members(list, &descriptor);
        self.closure_struct(function, fields)
    }

    /// The struct behind a method value: `main.(*Conn).handle-fm` keeps a `*main.Conn` behind the code pointer. `None`
    /// for other functions and for receivers that are not known.
    pub fn bound_method(&mut self, function: &str) -> Option<TypeId> {
        let (receiver, _) = function.strip_suffix("-fm")?.rsplit_once('.')?;
        let name = match receiver.split_once("(*") {
            Some((package, ty)) => format!("*{package}{}", ty.strip_suffix(')')?),
            None => receiver.to_owned(),
        };
        let ty = self.by_dwarf_name(&name)?;
        let field = FieldInfo { name: self.names.intern("R"), offset: WORD, ty, embedded: false };
        Some(self.closure_struct(function, vec![field]))
    }

    fn closure_struct(&mut self, function: &str, fields: Vec<FieldInfo>) -> TypeId {
        let size = fields.iter().map(|f| f.offset + self.size(f.ty)).max().unwrap_or(WORD);
        let last = |f: &FieldInfo| Some(self.ptr_bytes(f.ty)).filter(|&p| p > 0).map(|p| f.offset + p);
        let ptr_bytes = fields.iter().filter_map(last).max().unwrap_or(0);
        let fields = self.push_fields(fields);
        let row = Row { kind: Kind::Struct, origin: Origin::Dwarf, size, ptr_bytes, fields, ..Row::default() };
        self.add(row, &format!("closure of {function}"))
    }

    /// Further addresses of types that are known.
    pub fn alias(&mut self, addrs: impl IntoIterator<Item = (Addr, TypeId)>) {
        self.by_addr.extend(addrs.into_iter().map(|(addr, ty)| (addr.0, ty)));
    }

    /// The backing array type of `elem` if it was made (it is for every slice, channel and map of the table).
    pub fn backing_of(&self, elem: TypeId) -> Option<TypeId> {
        self.backings.get(&elem).copied()
    }

    /// The header type behind values of a map or channel type.
    pub fn header_of(&self, id: TypeId) -> Option<TypeId> {
        self.headers.get(&id).copied()
    }

    /// Bytes of a string's contents.
    pub fn string_data(&self) -> TypeId {
        self.string_data
    }

    pub fn tiny_block(&self) -> TypeId {
        self.tiny_block
    }

    /// A closure object whose function is not known.
    pub fn any_closure(&self) -> TypeId {
        self.any_closure
    }

    /// The type of closure objects of the function at `entry`. `captured`: the struct of code pointer and captured
    /// variables where it is known. A later call with a struct refines an earlier one without.
    pub fn closure(&mut self, entry: Addr, function: &str, captured: Option<TypeId>) -> TypeId {
        let shape = captured.map(|c| *self.row(c)).unwrap_or(Row { size: WORD, ..Row::default() });
        if let Some(&id) = self.closures.get(&entry.0) {
            let row = &mut self.rows[id.index()];
            if row.fields.0 == row.fields.1 && captured.is_some() {
                (row.size, row.ptr_bytes, row.fields) = (shape.size, shape.ptr_bytes, shape.fields);
            }
            return id;
        }
        let row = Row {
            kind: Kind::Closure,
            origin: Origin::Made,
            size: shape.size,
            ptr_bytes: shape.ptr_bytes,
            fields: shape.fields,
            addr: entry,
            ..Row::default()
        };
        let id = self.add(row, &format!("func {function}"));
        self.rows[id.index()].package = self.names.intern(super::function_package(function));
        self.closures.insert(entry.0, id);
        id
    }

    pub fn closure_at(&self, entry: Addr) -> Option<TypeId> {
        self.closures.get(&entry.0).copied()
    }

    fn repeated(&mut self, elem: TypeId, name: &str) -> TypeId {
        let (size, ptr_bytes) = (self.size(elem), self.ptr_bytes(elem));
        self.add(Row { kind: Kind::Backing, origin: Origin::Made, size, ptr_bytes, elem, ..Row::default() }, name)
    }

    /// A made row of fields, sorted by offset; fields of unknown type are left out.
    fn record(&mut self, kind: Kind, size: u64, of: TypeId, name: &str, fields: &[(&str, u64, TypeId)]) -> TypeId {
        let list: Vec<_> = fields
            .iter()
            .filter(|f| f.2.is_known())
            .map(|&(name, offset, ty)| FieldInfo { name: self.names.intern(name), offset, ty, embedded: false })
            .collect();
        let ptr_bytes = list.iter().map(|f| f.offset + self.ptr_bytes(f.ty)).max().unwrap_or(0);
        let fields = self.push_fields(list);
        self.add(Row { kind, origin: Origin::Made, size, ptr_bytes, key: of, fields, ..Row::default() }, name)
    }

    /// Makes what the rows imply and is not there yet. Called after every load.
    pub(super) fn complete(&mut self, maps: MapAbi) {
        let mut i = 1;
        // Rows that are made here are looked at as well, but imply nothing new: the loop ends.
        while i < self.rows.len() {
            let id = TypeId(i as u32);
            let row = self.rows[i];
            match row.kind {
                Kind::Pointer if row.elem.is_known() => {
                    self.pointers.entry(row.elem).or_insert(id);
                }
                Kind::Slice if row.elem.is_known() => {
                    self.backing(row.elem);
                }
                Kind::Map if !self.headers.contains_key(&id) => {
                    let header = match maps {
                        MapAbi::Buckets => self.bucket_map(id),
                        MapAbi::Swiss | MapAbi::SwissStrides => self.swiss_map(id),
                    };
                    self.headers.insert(id, header);
                }
                Kind::Chan if !self.headers.contains_key(&id) => {
                    let header = self.channel(id);
                    self.headers.insert(id, header);
                }
                _ => {}
            }
            i += 1;
        }
    }

    /// hmap {count, flags, B, noverflow, hash0, buckets @16, oldbuckets @24, nevacuate, extra @40}.
    fn bucket_map(&mut self, map: TypeId) -> TypeId {
        let name = self.name(map).to_owned();
        let bucket = self.map_part(map);
        let int = self.by_name("int").unwrap_or_default();
        let mut fields = vec![("count", 0, int)];
        if bucket.is_known() {
            let buckets = self.repeated(bucket, &format!("{name} (buckets)"));
            self.rows[buckets.index()].key = map;
            self.backings.insert(bucket, buckets);
            let to_buckets = self.pointer_to(buckets);
            self.link_overflow(bucket, to_buckets);
            // mapextra {overflow, oldoverflow *[]*bmap, nextOverflow *bmap}.
            let list = self.repeated(to_buckets, &format!("{name} (overflow list)"));
            self.rows[list.index()].key = map;
            let slice = self.add(
                Row {
                    kind: Kind::Slice,
                    origin: Origin::Made,
                    size: 3 * WORD,
                    ptr_bytes: WORD,
                    elem: to_buckets,
                    key: map,
                    ..Row::default()
                },
                &format!("{name} (overflow)"),
            );
            self.backings.insert(to_buckets, list);
            let to_slice = self.pointer_to(slice);
            let extra = self.record(
                Kind::MapPart,
                3 * WORD,
                map,
                &format!("{name} (overflow)"),
                &[("overflow", 0, to_slice), ("oldoverflow", 8, to_slice), ("nextOverflow", 16, to_buckets)],
            );
            let to_extra = self.pointer_to(extra);
            fields.extend([("buckets", 16, to_buckets), ("oldbuckets", 24, to_buckets), ("extra", 40, to_extra)]);
        }
        self.record(Kind::MapHeader, 48, map, &name, &fields)
    }

    /// The last word of a bucket is the pointer to its overflow bucket; the compiler declares it as unsafe.Pointer.
    fn link_overflow(&mut self, bucket: TypeId, to_buckets: TypeId) {
        let size = self.size(bucket);
        let range = self.field_range(bucket);
        if let Some(last) = self.fields.get_mut(range).and_then(|f| f.last_mut())
            && last.offset.checked_add(WORD) == Some(size)
        {
            last.ty = if self.rows[last.ty.index()].kind == Kind::Uintptr { last.ty } else { to_buckets };
        }
    }

    /// Map {used, seed, dirPtr @16, ...}: dirPtr leads to the only group or to the directory of tables.
    /// table {used, capacity, growthLeft, localDepth, index, groups {data @16, lengthMask}}.
    fn swiss_map(&mut self, map: TypeId) -> TypeId {
        let name = self.name(map).to_owned();
        let group = self.map_part(map);
        let uint = self.by_name("uint64").unwrap_or_default();
        let mut fields = vec![("used", 0, uint)];
        if group.is_known() {
            let groups = self.repeated(group, &format!("{name} (groups)"));
            self.rows[groups.index()].key = map;
            self.backings.insert(group, groups);
            let to_groups = self.pointer_to(groups);
            let table =
                self.record(Kind::MapPart, 32, map, &format!("{name} (table)"), &[("groups.data", 16, to_groups)]);
            let to_table = self.pointer_to(table);
            let directory = self.repeated(to_table, &format!("{name} (directory)"));
            self.rows[directory.index()].key = map;
            // Typing decides between the two by what the object looks like: see `PtrTo::Directory`.
            self.rows[directory.index()].part = groups;
            let to_directory = self.pointer_to(directory);
            fields.push(("dirPtr", 16, to_directory));
        }
        self.record(Kind::MapHeader, 48, map, &name, &fields)
    }

    /// hchan as this release has it, with the buffer typed.
    fn channel(&mut self, chan: TypeId) -> TypeId {
        let name = self.name(chan).to_owned();
        let elem = self.elem(chan);
        let buffer = self.backing(elem);
        let to_buffer = self.pointer_to(buffer);
        let header = self.by_name("runtime.hchan").filter(|&h| self.kind(h) == Kind::Struct);
        let id = match header {
            Some(header) => {
                let row = *self.row(header);
                let mut fields = self.fields(header).to_vec();
                for f in &mut fields {
                    if self.names.get(f.name) == "buf" {
                        f.ty = to_buffer;
                    }
                }
                let fields = self.push_fields(fields);
                let (size, ptr_bytes) = (row.size, row.ptr_bytes);
                self.add(
                    Row {
                        kind: Kind::ChanHeader,
                        origin: Origin::Made,
                        size,
                        ptr_bytes,
                        key: chan,
                        fields,
                        ..Row::default()
                    },
                    &name,
                )
            }
            // The smallest of all releases: a fit must not fail for want of the exact size.
            None => self.record(Kind::ChanHeader, 96, chan, &name, &[("buf", 16, to_buffer)]),
        };
        self.rows[id.index()].elem = elem;
        id
    }
}
