//! runtime::types: one table of Go types, from abi.Type descriptors of the target and, where present, DWARF.
//! Owns `TypeTable`: flat rows with pools for fields, parameters and names, indexed by `TypeId`. Reads type descriptors
//! (internal/abi/type.go), itabs, moduledata. Used by `graph::typing`, `analysis`, `runtime::values`.
//! Does not know which object has which type.
//!
//! | file         | does |
//! |--------------|------|
//! | `table`      | rows, lookups by address and by name |
//! | `descriptor` | decodes one abi.Type from bytes, with all its checks |
//! | `discover`   | finds descriptors: typelinks, itabs, the walk of Go 1.27, and all that they refer to |
//! | `made`       | types that have no descriptor but exist in the heap: map headers and tables, channel headers, closures |
//! | `names`      | names as Go users write them, packages |
//! | `plan`       | what the pointer at a given offset of a type points to |
//! | `saved`      | the table as a snapshot keeps it |
//! | `paths`      | names of places inside a type: `.Inner.A[1].Street` |

mod descriptor;
mod discover;
mod made;
mod names;
mod paths;
mod plan;
mod saved;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use descriptor::{Abi, MapAbi};
pub use discover::{Sources, word_ranges};
pub use names::{function_package, in_package, shorten};
pub use paths::path_at;
pub use plan::{Plan, PtrTo};
pub(crate) use saved::SavedType;
pub use table::{FieldInfo, Kind, Origin, TypeTable};
#[cfg(test)]
pub use testing::TestTypes;

/// Dense index into a `TypeTable`; 0 is "unknown".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TypeId(pub u32);

impl TypeId {
    pub const UNKNOWN: TypeId = TypeId(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }

    pub fn is_known(self) -> bool {
        self.0 != 0
    }
}
