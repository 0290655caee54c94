//! analysis: one file per question, plain results, no text. Reads `graph` and `runtime`. Used by `report`.

pub mod diff;
pub mod dominators;
pub mod fields;
pub mod goroutines;
pub mod groups;
pub mod histogram;
pub mod holders;
pub mod keepers;
pub mod leaks;
pub mod ledger;
pub mod liveness;
pub mod locals;
pub mod locks;
pub mod paths;
pub mod places;
pub mod profiles;
pub mod retained;
pub mod selection;
pub mod trend;
pub mod waste;
