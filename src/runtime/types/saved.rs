//! The table as a snapshot keeps it: the rows that objects need, and what those are made of.

use super::{Kind, TypeId, TypeTable, table::FieldInfo, table::NameRef, table::Origin, table::Row};
use crate::base::Addr;

/// Rows that every table has (`TypeTable::new`).
const BUILT_IN: usize = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SavedType {
    pub name: String,
    pub package: String,
    /// kind, flags (named, direct, variadic), channel direction, size, pointer bytes, length, element, key, part, extra,
    /// address of the descriptor or entry.
    pub numbers: [u64; 11],
    /// Name, offset, type, embedded.
    pub fields: Vec<(String, u64, u32, bool)>,
}

impl TypeTable {
    /// The types of `used` and all that they are made of, renumbered; and the new number of each old one (0 for those left
    /// out). The first `BUILT_IN` rows keep their numbers.
    pub(crate) fn save(&self, used: impl IntoIterator<Item = TypeId>) -> (Vec<SavedType>, Vec<u32>) {
        let mut wanted = vec![false; self.rows.len()];
        let mut todo: Vec<TypeId> = used.into_iter().chain((0..BUILT_IN as u32).map(TypeId)).collect();
        while let Some(id) = todo.pop() {
            match wanted.get_mut(id.index()) {
                Some(w) if !*w => *w = true,
                _ => continue,
            }
            let row = self.row(id);
            todo.extend([row.elem, row.key, row.part]);
            todo.extend(self.fields.get(self.field_range(id)).unwrap_or_default().iter().map(|f| f.ty));
        }
        let mut number = vec![0u32; self.rows.len()];
        let kept = number.iter_mut().zip(&wanted).filter(|(_, w)| **w);
        kept.enumerate().for_each(|(next, (n, _))| *n = next as u32);
        let at = |id: TypeId| number.get(id.index()).copied().unwrap_or(0);
        let out = (0..self.rows.len())
            .filter(|&i| wanted[i])
            .map(|i| {
                let (id, r) = (TypeId(i as u32), &self.rows[i]);
                let flags = u64::from(r.named) | u64::from(r.direct) << 1 | u64::from(r.variadic) << 2;
                SavedType {
                    name: self.names.get(r.name).to_owned(),
                    package: self.names.get(r.package).to_owned(),
                    numbers: [
                        r.kind as u64,
                        flags,
                        r.dir.into(),
                        r.size,
                        r.ptr_bytes,
                        r.len,
                        at(r.elem).into(),
                        at(r.key).into(),
                        at(r.part).into(),
                        r.extra.into(),
                        r.addr.0,
                    ],
                    fields: self
                        .fields
                        .get(self.field_range(id))
                        .unwrap_or_default()
                        .iter()
                        .map(|f| (self.names.get(f.name).to_owned(), f.offset, at(f.ty), f.embedded))
                        .collect(),
                }
            })
            .collect();
        (out, number)
    }

    /// The table that `save` made. `None` if numbers do not fit.
    pub(crate) fn restore(saved: &[SavedType]) -> Option<TypeTable> {
        let mut table = TypeTable::new();
        if saved.len() < BUILT_IN || saved.len() >= 1 << 28 {
            return None;
        }
        let id = |n: u64| (n < saved.len() as u64).then_some(TypeId(n as u32));
        for (i, s) in saved.iter().enumerate() {
            let [kind, flags, dir, size, ptr_bytes, len, elem, key, part, extra, addr] = s.numbers;
            let mut fields = Vec::with_capacity(s.fields.len());
            for (name, offset, ty, embedded) in &s.fields {
                fields.push(FieldInfo {
                    name: table.names.intern(name),
                    offset: *offset,
                    ty: id((*ty).into())?,
                    embedded: *embedded,
                });
            }
            // Looked up by offset.
            if kind != Kind::Func as u64 {
                fields.sort_by_key(|f| f.offset);
            }
            let row = Row {
                kind: Kind::of_number(kind)?,
                origin: Origin::Made,
                named: flags & 1 != 0,
                direct: flags & 2 != 0,
                variadic: flags & 4 != 0,
                dir: dir as u8,
                size,
                ptr_bytes,
                len,
                name: NameRef::default(),
                package: if s.package.is_empty() { NameRef::default() } else { table.names.intern(&s.package) },
                elem: id(elem)?,
                key: id(key)?,
                part: id(part)?,
                fields: table.push_fields(fields),
                extra: u32::try_from(extra).ok()?,
                addr: Addr(addr),
            };
            if i >= BUILT_IN {
                table.add(row, &s.name);
            }
        }
        Some(table)
    }
}
