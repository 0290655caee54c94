//! Tables of types written down by hand, for tests.

use super::{
    Kind, TypeId, TypeTable,
    descriptor::MapAbi,
    table::{FieldInfo, Row},
};
use crate::base::Addr;

/// Builds a table type by type.
#[derive(Default)]
pub struct TestTypes {
    table: TypeTable,
}

impl TestTypes {
    pub fn basic(&mut self, kind: Kind, name: &str, size: u64) -> TypeId {
        let ptr_bytes = match kind {
            Kind::String | Kind::Slice | Kind::UnsafePointer | Kind::Func => 8,
            Kind::Interface => 16,
            _ => 0,
        };
        let direct = kind.is_pointer_word();
        self.table.add(Row { kind, size, ptr_bytes, direct, named: true, ..Row::default() }, name)
    }

    /// A struct whose members come later.
    pub fn declare(&mut self, name: &str, size: u64) -> TypeId {
        self.table.add(Row { kind: Kind::Struct, size, named: true, ..Row::default() }, name)
    }

    pub fn define(&mut self, id: TypeId, fields: &[(&str, u64, TypeId)]) {
        let list: Vec<_> = fields
            .iter()
            .map(|&(name, offset, ty)| FieldInfo { name: self.table.names.intern(name), offset, ty, embedded: false })
            .collect();
        let ptr_bytes = list
            .iter()
            .filter(|f| self.table.ptr_bytes(f.ty) > 0)
            .map(|f| f.offset + self.table.ptr_bytes(f.ty))
            .max()
            .unwrap_or(0);
        let fields = self.table.push_fields(list);
        let row = &mut self.table.rows[id.index()];
        (row.fields, row.ptr_bytes) = (fields, ptr_bytes);
    }

    pub fn pointer(&mut self, elem: TypeId) -> TypeId {
        self.table.pointer_to(elem)
    }

    pub fn slice(&mut self, elem: TypeId) -> TypeId {
        let name = format!("[]{}", self.table.name(elem));
        self.table.add(Row { kind: Kind::Slice, size: 24, ptr_bytes: 8, elem, ..Row::default() }, &name)
    }

    pub fn array(&mut self, elem: TypeId, len: u64) -> TypeId {
        let name = format!("[{len}]{}", self.table.name(elem));
        let (size, ptr_bytes) = (self.table.size(elem) * len, self.table.ptr_bytes(elem));
        let ptr_bytes = if ptr_bytes == 0 { 0 } else { self.table.size(elem) * (len - 1) + ptr_bytes };
        self.table.add(Row { kind: Kind::Array, size, ptr_bytes, elem, len, ..Row::default() }, &name)
    }

    pub fn map(&mut self, key: TypeId, elem: TypeId, part: TypeId) -> TypeId {
        let name = format!("map[{}]{}", self.table.name(key), self.table.name(elem));
        let row = Row { kind: Kind::Map, size: 8, ptr_bytes: 8, direct: true, key, elem, part, ..Row::default() };
        self.table.add(row, &name)
    }

    pub fn chan(&mut self, elem: TypeId) -> TypeId {
        let name = format!("chan {}", self.table.name(elem));
        let row = Row { kind: Kind::Chan, size: 8, ptr_bytes: 8, direct: true, elem, ..Row::default() };
        self.table.add(row, &name)
    }

    /// Gives a type a descriptor address.
    pub fn place(&mut self, id: TypeId, addr: u64) {
        Self::place_in(&mut self.table, id, addr);
    }

    pub fn place_in(table: &mut TypeTable, id: TypeId, addr: u64) {
        table.rows[id.index()].addr = Addr(addr);
        table.by_addr.insert(addr, id);
    }

    pub fn finish(self) -> TypeTable {
        self.finish_with(MapAbi::Swiss)
    }

    pub fn finish_with(mut self, maps: MapAbi) -> TypeTable {
        self.table.complete(maps);
        self.table
    }
}
