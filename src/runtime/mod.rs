//! runtime: the Go runtime as a model: layouts, globals, types, heap, goroutines, stacks.
//! Reads target memory through `view` with offsets from `layout`. Used by `graph` and `analysis`.
//! Does not know questions, reports or output.

use std::{path::Path, sync::Arc};

use crate::{
    base::{Addr, Diagnostics},
    image::{Image, ImageError, ImageOptions},
    target::Target,
};

pub mod globals;
pub mod heap;
pub mod layout;
pub mod sched;
pub mod stack;
pub mod types;
pub mod view;

use globals::Globals;
use layout::{Global, Layout, LayoutError};

/// Everything that is needed to read runtime structures of one target.
#[derive(Clone)]
pub struct Runtime {
    pub target: Arc<Target>,
    pub image: Arc<Image>,
    pub layout: Arc<Layout>,
    pub globals: Arc<Globals>,
    pub diag: Arc<Diagnostics>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl Runtime {
    /// Opens the binary of `target`, resolves layouts and locates the runtime's globals.
    pub fn open(target: Arc<Target>, exe: Option<&Path>) -> Result<Runtime, OpenError> {
        let diag = Diagnostics::default();
        let opts = ImageOptions { exe: exe.map(Path::to_owned), ..ImageOptions::default() };
        let image = Image::open(&target, &opts, &|name| layout::wants(name), &diag)?;
        let dwarf = image
            .dwarf
            .as_ref()
            .ok_or_else(|| ImageError::NoDwarf { path: image.path.clone(), go_version: image.go_version.clone() })?;
        let layout = Layout::from_dwarf(dwarf)?;
        let globals = Globals::locate(&target, &image, &layout, &diag);
        Ok(Runtime {
            target,
            image: Arc::new(image),
            layout: Arc::new(layout),
            globals: Arc::new(globals),
            diag: Arc::new(diag),
        })
    }

    /// Value of a 4-byte global, if it was located.
    pub fn global_u32(&self, g: Global) -> Option<u32> {
        self.target.read_u32(self.globals.get(g)?).ok()
    }

    /// Value of an 8-byte global or pointer, if it was located.
    pub fn global_ptr(&self, g: Global) -> Option<Addr> {
        self.target.read_ptr(self.globals.get(g)?).ok()
    }
}
