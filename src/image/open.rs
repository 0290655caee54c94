//! Opening an image: file, pclntab, moduledata, release, symbols, in this order, each step verified by the next.

use std::{path::PathBuf, sync::OnceLock};

use super::{
    BuildInfo, FoundBy, Functions, Image, ImageError, ImageOptions, Module,
    dwarf::{Dwarf, Variable},
    elf::{Bytes, Elf},
    moduledata,
    pclntab::{self, Pclntab, Place, SavedFunc},
    release,
    symbols::{Symbols, open_debug_file},
};
use crate::{
    base::{Addr, Diagnostics, GoVersion},
    target::Target,
};

/// Newest release that the tables of this program know.
pub const NEWEST_KNOWN: u32 = 27;
/// Oldest release whose pclntab and moduledata have a form that is read here.
pub const OLDEST_KNOWN: u32 = 18;
/// Copies of a table from memory are refused beyond this size.
const MAX_TABLE: u64 = 512 << 20;
/// A binary may embed other Go binaries, each with its header; none embeds this many.
const MAX_HEADERS: usize = 64;

/// A pclntab header that was found, and where the rest of the table is to be had.
struct Found {
    addr: Addr,
    bytes: Bytes,
}

/// What a snapshot keeps of the binary.
pub struct SavedImage {
    pub path: PathBuf,
    pub arch: crate::target::Arch,
    pub bias: u64,
    pub build_id: Option<Vec<u8>>,
    pub go_build_id: Option<String>,
    pub build_info: Option<BuildInfo>,
    pub go_version: GoVersion,
    pub go_version_source: FoundBy,
    pub has_symtab: bool,
    /// Bounds only.
    pub modules: Vec<Module>,
    pub functions: Vec<SavedFunc>,
    /// Variables that hold roots.
    pub variables: Vec<SavedVariable>,
}

/// A global variable that holds roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedVariable {
    pub addr: Addr,
    /// Up to the last root in it.
    pub size: u64,
    pub name: String,
    /// Empty where it is not known.
    pub type_name: String,
}

impl Image {
    /// The binary as a snapshot remembers it: no file, no code.
    pub fn of_saved(s: SavedImage) -> Image {
        let names: Vec<_> = s.variables.iter().map(|v| (v.addr, v.size, v.name.clone())).collect();
        let mut typed: Vec<Variable> = s
            .variables
            .into_iter()
            .filter(|v| !v.type_name.is_empty())
            .map(|v| Variable {
                name: v.name,
                addr: v.addr.0.wrapping_sub(s.bias),
                type_name: v.type_name,
                runtime_type: None,
            })
            .collect();
        typed.sort_by_key(|v| v.addr);
        Image {
            elf: Elf::absent(&s.path, s.arch),
            path: s.path,
            bias: s.bias,
            build_id: s.build_id,
            go_build_id: s.go_build_id,
            build_info: s.build_info,
            pclntab: Functions::of_saved(s.functions, s.go_version.minor),
            go_version: s.go_version,
            go_version_source: s.go_version_source,
            has_symtab: s.has_symtab,
            modules: s.modules,
            modules_found_by: FoundBy::Told,
            dwarf: (!typed.is_empty()).then(|| Dwarf::of_variables(typed)),
            symbols: Some(Symbols::of_variables(&names)),
            debug_path: None,
            code_index: OnceLock::new(),
            code_types: OnceLock::new(),
        }
    }

    /// Opens the target's executable and finds Go's static data in it and in memory. Everything is verified against
    /// the target's memory; what is only missing (DWARF, symbols, build info) is left out without an error.
    ///
    /// `want` says which structs DWARF should keep.
    pub fn open(
        target: &Target,
        opts: &ImageOptions,
        want: &(dyn Fn(&str) -> bool + Sync),
        diag: &Diagnostics,
    ) -> Result<Image, ImageError> {
        let path = opts.exe.clone().or_else(|| target.exe_file.clone()).ok_or(ImageError::NoExecutable)?;
        let mut elf = Elf::open(&path)?;
        if elf.arch != target.arch {
            return Err(ImageError::BadElf {
                path,
                why: format!("it is for {:?}, the target runs on {:?}", elf.arch, target.arch),
            });
        }
        elf.locate(target);
        check_build_id(&elf, target)?;
        let build_info = BuildInfo::of(&elf);
        let named = opts.exe.clone().or_else(|| target.exe.clone()).unwrap_or_else(|| path.clone());
        let debug_elf = if opts.nameless { None } else { open_debug_file(&elf, &named, opts, diag) };
        let symbols = if opts.nameless { None } else { Symbols::read(&elf, elf.bias) }
            .or_else(|| debug_elf.as_ref().and_then(|d| Symbols::read(d, elf.bias)));

        let told = opts.assume_go.clone().map(|v| (v, FoundBy::Told));
        let written =
            build_info.as_ref().and_then(|b| GoVersion::parse(&b.go_version)).map(|v| (v, FoundBy::BuildInfo));
        let known = told.or(written);
        let minor = known.as_ref().map(|(v, _)| v.minor);
        if let Some(minor) = minor.filter(|m| !(OLDEST_KNOWN..=NEWEST_KNOWN).contains(m)) {
            if minor < OLDEST_KNOWN {
                return Err(ImageError::TooOld { path, version: format!("go1.{minor}") });
            }
            diag.note("Go release newer than this program knows", format_args!("go1.{minor}"));
        }

        let (found, raw, modules_found_by) =
            find_module(&elf, target, symbols.as_ref(), minor, build_info.is_some(), opts)?;
        let shape = raw.minors();
        if let Some(minor) = minor.filter(|m| !(shape.0..=shape.1).contains(m)) {
            diag.note(
                "moduledata has the shape of another Go release",
                format_args!(
                    "the binary says go1.{minor}, the shape is of go1.{} to go1.{}",
                    shape.0,
                    shape.1.min(NEWEST_KNOWN)
                ),
            );
        }
        let (go_version, go_version_source) = match known {
            Some(k) => k,
            None => {
                let place = Place { addr: found.addr, ..Place::default() };
                let tab = Pclntab::parse(found.bytes.clone(), place)?;
                let minor = release::infer(&tab, shape)
                    .ok_or_else(|| ImageError::UnknownRelease { path: path.clone(), shape })?;
                (GoVersion::minor(minor), FoundBy::Pattern)
            }
        };
        let raw = if minor.is_none() { raw.narrowed(go_version.minor) } else { raw };
        let modules = moduledata::read_all(target, raw, Some(go_version.minor), diag);
        // Copies from memory, of all modules together.
        let mut copied = 0;
        let mut pclntabs = Vec::with_capacity(modules.len());
        for (i, m) in modules.iter().enumerate() {
            let bytes = if i == 0 { found.bytes.clone() } else { table_bytes(&elf, target, m.pc_header) };
            let place = Place {
                addr: m.pc_header,
                text: m.text,
                etext: m.maxpc,
                gofunc: m.gofunc,
                gofunc_bytes: table_bytes(&elf, target, m.gofunc),
                sections: moduledata::text_sections(target, m),
                minor: go_version.minor,
            };
            copied += [&bytes, &place.gofunc_bytes].iter().map(|b| b.copied()).sum::<u64>();
            if i > 0 && copied > MAX_TABLE {
                diag.note("function table of a further module unusable", format_args!("tables of {copied} bytes"));
                break;
            }
            match Pclntab::parse(bytes, place) {
                Ok(tab) => pclntabs.push(tab),
                Err(e) if i == 0 => return Err(e.into()),
                Err(e) => {
                    diag.note("function table of a further module unusable", e);
                    break;
                }
            }
        }
        let with_dwarf =
            [Some(&elf), debug_elf.as_ref()].into_iter().flatten().find(|e| !opts.nameless && e.has_dwarf());
        let dwarf = with_dwarf.and_then(|e| {
            Dwarf::open(e.file(), want).unwrap_or_else(|error| {
                diag.note("DWARF unusable", format_args!("{}: {error}", e.path.display()));
                None
            })
        });
        Ok(Image {
            path,
            bias: elf.bias,
            build_id: elf.build_id.clone(),
            go_build_id: elf.go_build_id.clone(),
            build_info,
            go_version,
            go_version_source,
            has_symtab: symbols.is_some(),
            modules,
            modules_found_by,
            pclntab: Functions::new(pclntabs),
            dwarf,
            symbols,
            elf,
            debug_path: debug_elf.map(|e| e.path),
            code_index: OnceLock::new(),
            code_types: OnceLock::new(),
        })
    }
}

/// A binary that was rebuilt since the core was written gives nonsense that looks like an answer.
fn check_build_id(elf: &Elf, target: &Target) -> Result<(), ImageError> {
    let wrong = |file: String, memory: String| ImageError::WrongBinary { path: elf.path.clone(), file, memory };
    if let (Some(file), Some(memory)) = (&elf.build_id, elf.build_id_in(target))
        && *file != memory
    {
        let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
        return Err(wrong(hex(file), hex(&memory)));
    }
    if let (Some(file), Some(memory)) = (&elf.go_build_id, elf.go_build_id_in(target))
        && *file != memory
    {
        return Err(wrong(file.clone(), memory));
    }
    Ok(())
}

/// Bytes from a run-time address on: of the file where it has them, else a copy from memory up to the mapping's end.
/// Tables that this is used for hold no relocated words.
fn table_bytes(elf: &Elf, target: &Target, addr: Addr) -> Bytes {
    if let Some(b) = elf.initial_slice(addr, None) {
        return b;
    }
    let Some(m) = target.mapping_at(addr) else { return Bytes::default() };
    target.read_vec(addr, m.end.0 - addr.0, MAX_TABLE).unwrap_or_default().into()
}

/// Finds a pclntab and the moduledata that points to it.
fn find_module(
    elf: &Elf,
    target: &Target,
    symbols: Option<&Symbols>,
    minor: Option<u32>,
    is_go: bool,
    opts: &ImageOptions,
) -> Result<(Found, moduledata::Raw, FoundBy), ImageError> {
    let mut tried = Vec::new();
    let symbol = |name| symbols.and_then(|s| s.find(name)).map(|s| s.addr);

    // The short way: the linker's own names.
    let told = [
        (symbol("runtime.firstmoduledata"), FoundBy::Symtab, "symbol runtime.firstmoduledata"),
        (moduledata::section(elf), FoundBy::Section, "section .go.module"),
    ];
    for (addr, by, what) in told {
        let Some(addr) = addr else {
            tried.push(format!("{what}: absent"));
            continue;
        };
        match moduledata::Raw::read(target, addr, minor) {
            Ok(raw) => match header_at(elf, target, raw.pc_header()) {
                Some(found) => return Ok((found, raw, by)),
                None => tried.push(format!("{what}: no pclntab at {}", raw.pc_header())),
            },
            Err(e) => tried.push(format!("{what}: {e}")),
        }
    }

    // The long way: a pclntab, then a word in writable memory that points to it.
    let mut headers = Vec::new();
    for any_magic in [false, true] {
        if headers.is_empty() {
            headers = headers_in_file(elf, any_magic);
        }
    }
    tried.push(format!("pclntab headers in the file: {}", headers.len()));
    let mut in_memory = false;
    loop {
        for found in &headers {
            let Some(h) = pclntab::Header::parse(&found.bytes, true) else { continue };
            let names = found.addr.offset(h.tables[0]);
            let mut raws = moduledata::scan(target, writable_ranges(elf, target, in_memory), found.addr, names, minor);
            // A copy of the structure (a snapshot on the heap, say) has the same words: prefer what its masks prove.
            raws.sort_by_key(|r| !r.proven);
            if raws.len() > 1 {
                tracing::debug!(count = raws.len(), header = %found.addr, "more than one moduledata");
            }
            if !raws.is_empty() {
                let found = Found { addr: found.addr, bytes: found.bytes.clone() };
                return Ok((found, raws.swap_remove(0), FoundBy::Pattern));
            }
            tried.push(format!("moduledata that points to the pclntab at {}: none in writable memory", found.addr));
        }
        if in_memory {
            break;
        }
        // Packed programs hold their tables in memory only.
        in_memory = true;
        headers = headers_in_memory(target);
        tried.push(format!("pclntab headers in memory: {}", headers.len()));
    }
    let path = opts.exe.clone().unwrap_or_else(|| elf.path.clone());
    let tried = tried.join("; ");
    if is_go || !headers.is_empty() {
        Err(ImageError::NoModuledata { path, tried })
    } else {
        Err(ImageError::NotGo { path, hint: foreign_hint(elf), tried })
    }
}

fn header_at(elf: &Elf, target: &Target, addr: Addr) -> Option<Found> {
    let bytes = table_bytes(elf, target, addr);
    pclntab::Header::parse(&bytes, true)?;
    Some(Found { addr, bytes })
}

/// Headers in the file: in the sections that are named after it, else anywhere in loaded bytes.
fn headers_in_file(elf: &Elf, any_magic: bool) -> Vec<Found> {
    let mut out = Vec::new();
    for name in [".gopclntab", ".data.rel.ro.gopclntab"] {
        if let Some(s) = elf.section(name).filter(|s| s.addr != 0)
            && let Some(bytes) = elf.initial_slice(elf.run_time(s.addr), None)
            && pclntab::Header::parse(&bytes, any_magic).is_some()
        {
            out.push(Found { addr: elf.run_time(s.addr), bytes });
        }
    }
    if !out.is_empty() {
        return out;
    }
    // Linkers put it into read-only data or, in a PIE, into data that becomes read-only: never into code.
    for s in elf.segments.iter().filter(|s| !s.exec).chain(elf.segments.iter().filter(|s| s.exec)) {
        let start = elf.run_time(s.vaddr);
        let skew = (8 - s.vaddr % 8) % 8;
        let Some(data) = elf.initial_bytes(start.offset(skew)) else { continue };
        let mut from = 0;
        while let Some(at) = pclntab::find_header(data, from, any_magic) {
            let addr = start.offset(skew + at as u64);
            if let Some(bytes) = elf.initial_slice(addr, None) {
                out.push(Found { addr, bytes });
            }
            if out.len() >= MAX_HEADERS {
                return out;
            }
            from = at + 8;
        }
    }
    out
}

fn headers_in_memory(target: &Target) -> Vec<Found> {
    const BUDGET: u64 = 1 << 30;
    let mut read = 0;
    let mut out = Vec::new();
    for m in target.mappings.iter().filter(|m| m.readable && m.path.as_ref().is_none_or(|p| !p.ends_with(".so"))) {
        let len = m.end.0.saturating_sub(m.start.0);
        if len > MAX_TABLE || read + len > BUDGET {
            continue;
        }
        read += len;
        let Ok(data) = target.read_vec(m.start, len, MAX_TABLE) else { continue };
        if let Some(at) = pclntab::find_header(&data, 0, false) {
            out.push(Found { addr: m.start.offset(at as u64), bytes: data[at..].to_vec().into() });
        }
    }
    out
}

/// Writable memory of the image itself; with `everywhere` of the whole process (small mappings only: no heap arenas).
fn writable_ranges<'a>(
    elf: &'a Elf,
    target: &'a Target,
    everywhere: bool,
) -> Box<dyn Iterator<Item = (Addr, Addr)> + 'a> {
    const LARGEST: u64 = 256 << 20;
    if everywhere {
        let small = |m: &&crate::target::Mapping| m.readable && m.writable && m.end.0 - m.start.0 <= LARGEST;
        return Box::new(target.mappings.iter().filter(small).map(|m| (m.start, m.end)));
    }
    Box::new(elf.segments.iter().filter(|s| s.write).map(|s| {
        // moduledata is initialised: it lies in the part that the file has.
        let start = s.vaddr.next_multiple_of(8);
        // A damaged header may promise more than there is in the file.
        let stored = s.filesz.min((elf.data().len() as u64).saturating_sub(s.offset));
        (elf.run_time(start), elf.run_time(s.vaddr.saturating_add(stored).max(start)))
    }))
}

/// What else the program might be, from words that other toolchains leave behind.
fn foreign_hint(elf: &Elf) -> &'static str {
    let has = |needle: &[u8]| elf.data().windows(needle.len()).any(|w| w == needle);
    if elf.section(".go_export").is_some() || has(b"libgo.so") {
        "; it looks like a gccgo program, whose runtime gosleuth does not read"
    } else if has(b"UPX!") {
        "; it is packed by UPX and its memory shows no Go tables either"
    } else if has(b"tinygo") || has(b"TinyGo") {
        "; it looks like a TinyGo program, whose runtime gosleuth does not read"
    } else {
        ""
    }
}
