//! runtime::types: one table of Go types, from abi.Type descriptors of the target and, where present, DWARF.
//! Owns `TypeTable`. Reads type descriptors (internal/abi/type.go). Used by `graph`, `analysis`, `values`.

/// Dense index into a `TypeTable`; 0 is "unknown".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TypeId(pub u32);
