//! runtime: the Go runtime as a model: layouts, globals, types, heap, goroutines, stacks.
//! Reads target memory through `view` with offsets from `layout`. Used by `graph` and `analysis`.
//! Does not know questions, reports or output.

use std::{path::PathBuf, sync::Arc};

use crate::{
    base::{Addr, Diagnostics, GoVersion},
    image::{Image, ImageError, ImageOptions, NEWEST_KNOWN, OLDEST_KNOWN, dwarf::Dwarf},
    target::Target,
};

pub mod globals;
pub mod heap;
pub mod layout;
pub mod sched;
pub mod stack;
pub mod types;
pub mod view;

use globals::{Globals, MissingGlobal};
use layout::{Global, Layout, LayoutError, Need};

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
    #[error(
        "{go_version} cannot be read with the layouts of {layouts}: {missing}",
        layouts = match layout.source {
            layout::LayoutSource::Dwarf => "its DWARF".to_owned(),
            layout::LayoutSource::Table => format!("Go 1.{} from the table", layout.minor.unwrap_or(0)),
        }
    )]
    Global { go_version: GoVersion, layout: Arc<Layout>, missing: MissingGlobal },
}

/// Where layouts of runtime structures come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LayoutChoice {
    /// DWARF where there is some, else the table.
    #[default]
    Auto,
    /// The binary's DWARF only.
    Dwarf,
    /// The built-in table only.
    Table,
}

/// What the user may say about the binary and how to read it.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    pub exe: Option<PathBuf>,
    pub debug_file: Option<PathBuf>,
    pub assume_go: Option<GoVersion>,
    pub layout: LayoutChoice,
    pub nameless: bool,
}

impl Runtime {
    /// Opens the binary of `target`, resolves layouts and locates the runtime's globals. Whether those that are
    /// needed were found is asked by `on`, since a search in a moving process may miss.
    pub fn open(target: Arc<Target>, opts: &OpenOptions) -> Result<Runtime, OpenError> {
        let diag = Diagnostics::default();
        let image_options = ImageOptions {
            exe: opts.exe.clone(),
            debug_file: opts.debug_file.clone(),
            assume_go: opts.assume_go.clone(),
            nameless: opts.nameless,
        };
        let image = Image::open(&target, &image_options, &|name| layout::wants(name), &diag)?;
        let layout = resolve(&target, &image, opts.layout, &diag)?;
        let globals = Globals::locate(&target, &image, &layout, &diag);
        Ok(Runtime {
            target,
            image: Arc::new(image),
            layout: Arc::new(layout),
            globals: Arc::new(globals),
            diag: Arc::new(diag),
        })
    }

    /// The same binary, read through a still view of the process. What was found by content in a moving process is
    /// searched again, without the disassembly (a few milliseconds); an error names what an answer cannot do without.
    pub fn on(self, target: Arc<Target>) -> Result<Runtime, OpenError> {
        // A core was still from the beginning.
        let again = (!Arc::ptr_eq(&target, &self.target))
            .then(|| self.globals.again(&target, &self.image, &self.layout, &self.diag))
            .flatten();
        let globals = again.map_or_else(|| self.globals.clone(), Arc::new);
        for &g in Global::ALL.iter().filter(|g| g.need() == Need::Required) {
            globals.need(g).map_err(|missing| OpenError::Global {
                go_version: self.image.go_version.clone(),
                layout: self.layout.clone(),
                missing,
            })?;
        }
        Ok(Runtime { target, globals, ..self })
    }

    /// A runtime of which only a snapshot is left: names and places, no memory.
    pub fn of_snapshot(target: Target, image: Image, globals: Globals) -> Result<Runtime, OpenError> {
        let known = layout::releases(target.arch);
        let minor = image.go_version.minor;
        let nearest = known.iter().copied().find(|&m| m >= minor).or(known.last().copied()).unwrap_or(NEWEST_KNOWN);
        let layout = Layout::from_table(nearest, None, target.arch)?;
        Ok(Runtime {
            target: Arc::new(target),
            image: Arc::new(image),
            layout: Arc::new(layout),
            globals: Arc::new(globals),
            diag: Arc::new(Diagnostics::default()),
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

/// Layouts from DWARF or the table, as chosen and as there is.
fn resolve(target: &Target, image: &Image, choice: LayoutChoice, diag: &Diagnostics) -> Result<Layout, OpenError> {
    let from_dwarf = |d: &Dwarf| Layout::from_dwarf(d);
    match (choice, &image.dwarf) {
        (LayoutChoice::Dwarf, Some(d)) => return Ok(from_dwarf(d)?),
        (LayoutChoice::Dwarf, None) => {
            return Err(ImageError::NoDwarf { path: image.path.clone(), why: ", which --layout dwarf asks for" }.into());
        }
        (LayoutChoice::Auto, Some(d)) => match from_dwarf(d) {
            Ok(mut layout) => {
                // The linker leaves out types that nothing uses; the runtime's assembly and we may need them still.
                if let Ok(table) =
                    Layout::from_table(image.go_version.minor, image.go_version.known_patch(), target.arch)
                {
                    layout.fill_from(&table);
                }
                return Ok(layout);
            }
            Err(why) => diag.note("DWARF has no usable layouts: the table is used", why),
        },
        (LayoutChoice::Auto | LayoutChoice::Table, _) => {}
    }
    let minor = image.go_version.minor;
    let known = layout::releases(target.arch);
    // A release between two known ones is tried with the next, a newer one with the newest; the check of what the
    // variables hold decides.
    let nearest = known.iter().copied().find(|&m| m >= minor).or(known.last().copied()).unwrap_or(NEWEST_KNOWN);
    if nearest != minor {
        diag.note(
            "layouts of another Go release are used",
            format_args!(
                "go1.{minor} is not in the table, which has 1.{} to 1.{NEWEST_KNOWN}; what is read with the layouts \
                 of go1.{nearest} was checked for plausibility only",
                known.first().copied().unwrap_or(OLDEST_KNOWN)
            ),
        );
    }
    let patch = image.go_version.known_patch().filter(|_| nearest == minor);
    Ok(Layout::from_table(nearest, patch, target.arch)?)
}
