//! image::dwarf: types, variables and constants from DWARF 4 and 5. gimli stays inside this room.

/// DWARF of one binary, indexed on first use.
pub struct Dwarf {}
