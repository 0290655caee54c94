//! runtime: the Go runtime as a model: layouts, globals, types, heap, goroutines, stacks, values.
//! Reads target memory through `view` with offsets from `layout`. Used by `graph` and `analysis`.
//! Does not know questions, reports or output.

use std::sync::Arc;

use crate::{base::Diagnostics, image::Image, target::Target};

pub mod globals;
pub mod heap;
pub mod layout;
pub mod sched;
pub mod stack;
pub mod types;
pub mod values;
pub mod view;

/// Everything that is needed to read runtime structures of one target.
#[derive(Clone)]
pub struct Runtime {
    pub target: Arc<Target>,
    pub image: Arc<Image>,
    pub layout: Arc<layout::Layout>,
    pub globals: Arc<globals::Globals>,
    pub diag: Arc<Diagnostics>,
}
