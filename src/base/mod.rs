//! base: words that every room shares. Owns addresses and ids, bitmaps, evidence, diagnostics, units, Go versions.
//! Reads nothing; imports nothing from the crate; does not know processes, files or Go's memory.

pub mod addr;
pub mod bitmap;
pub mod bytes;
pub mod diag;
pub mod evidence;
pub mod goversion;
pub mod units;

pub use addr::{Addr, Goid, ObjectId};
pub use bitmap::Bitmap;
pub use diag::Diagnostics;
pub use evidence::KnownBy;
pub use goversion::GoVersion;
