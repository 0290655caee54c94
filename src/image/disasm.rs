//! image::disasm: addresses that the instructions of a function refer to.
