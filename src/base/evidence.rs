//! How sure a statement is. Every inferred fact carries one of these to the user.

use serde::Serialize;

/// How a type (or another inferred fact) is known; the order is from weakest to strongest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum KnownBy {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Fits by size class and pointer mask only.
    Guessed,
    /// Follows from the type of a holder that points here.
    Propagated,
    /// Written down in the target: malloc header, interface word, DWARF, runtime structure.
    Exact,
}
