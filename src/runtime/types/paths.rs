//! Names of places inside a type: which member, element or part holds a given byte.

use super::{Kind, TypeId, TypeTable};

const MAX_DEPTH: usize = 32;

impl TypeTable {
    /// The reverse of `path_at`: offset and type of what lies at `path` in a value of type `id`; of a backing array whatever
    /// its length.
    pub fn place_of(&self, id: TypeId, path: &str) -> Option<(u64, TypeId)> {
        let (mut id, mut offset, mut rest) = (id, 0u64, path);
        while !rest.is_empty() {
            if let Some(index) = rest.strip_prefix('[') {
                let (number, behind) = index.split_once(']')?;
                if !matches!(self.kind(id), Kind::Array | Kind::Backing) {
                    return None;
                }
                id = self.elem(id);
                offset = offset.checked_add(number.parse::<u64>().ok()?.checked_mul(self.size(id))?)?;
                rest = behind;
            } else {
                let name = rest.strip_prefix('.')?;
                let end = name.find(['.', '[']).unwrap_or(name.len());
                let fits = |f: &&super::table::FieldInfo| self.field_name(f) == &name[..end];
                let field = self.fields(id).iter().find(fits).filter(|_| self.kind(id).has_fields())?;
                (id, offset) = (field.ty, offset.checked_add(field.offset)?);
                rest = &name[end..];
            }
        }
        Some((offset, id))
    }
}

/// `.Inner.A[1].Street` for a byte of a struct, `[3].Name` for a byte of a backing array, empty for offset 0 of a plain
/// value. Members of no name are shown by their offset.
pub fn path_at(table: &TypeTable, id: TypeId, offset: u64) -> String {
    let (mut id, mut offset) = (id, offset);
    let mut path = String::new();
    for _ in 0..MAX_DEPTH {
        let kind = table.kind(id);
        match kind {
            Kind::Array | Kind::Backing => {
                let elem = table.elem(id);
                let size = table.size(elem);
                if size == 0 {
                    break;
                }
                path.push_str(&format!("[{}]", offset / size));
                (id, offset) = (elem, offset % size);
            }
            _ if kind.has_fields() => match table.field_at(id, offset) {
                Some(f) => {
                    path.push('.');
                    path.push_str(table.field_name(f));
                    (id, offset) = (f.ty, offset - f.offset);
                }
                None => {
                    if offset > 0 || kind != Kind::Struct {
                        path.push_str(&format!("+{offset}"));
                    }
                    break;
                }
            },
            _ => break,
        }
    }
    path
}
