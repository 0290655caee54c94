//! image::symbols: the ELF symbol table, of the binary or of a separate debug file: address and name both ways.
//! Also finds separate debug files (build id directories, .gnu_debuglink, `--debug-file`).

use std::{
    hash::{DefaultHasher, Hasher},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use object::{
    LittleEndian as LE, elf as e,
    read::elf::{FileHeader, Sym},
};

use super::{
    ImageOptions,
    elf::{Bytes, Elf, debug_link},
};
use crate::base::{Addr, Diagnostics, bytes};

/// More symbols than the largest programs have.
const MAX_SYMBOLS: usize = 1 << 24;
const MAX_NAME: usize = 1 << 16;

struct Entry {
    addr: u64,
    size: u64,
    name: u32,
    data: bool,
}

/// A symbol with the address it has in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    pub addr: Addr,
    /// 0 where the table does not say.
    pub size: u64,
    pub name: &'a str,
    /// A variable, as opposed to a function.
    pub data: bool,
}

/// Defined functions and objects of one file, sorted by address.
pub struct Symbols {
    strings: Bytes,
    bias: u64,
    entries: Vec<Entry>,
    by_name: OnceLock<Vec<(u64, u32)>>,
}

impl Symbols {
    /// Reads `.symtab`; `None` when there is none (or none of use).
    pub fn read(elf: &Elf, bias: u64) -> Option<Symbols> {
        let data = elf.data();
        let header = e::FileHeader64::<LE>::parse(data).ok()?;
        let sections = header.sections(LE, data).ok()?;
        let table = sections.symbols(LE, data, e::SHT_SYMTAB).ok().filter(|t| !t.is_empty())?;
        let strings = elf.sections.get(table.string_section().0)?;
        let start = usize::try_from(strings.offset).ok()?;
        let end = start.checked_add(usize::try_from(strings.size).ok()?)?.min(data.len());
        let mut entries: Vec<Entry> = table
            .iter()
            .take(MAX_SYMBOLS)
            .filter(|s| s.st_shndx(LE) != e::SHN_UNDEF && s.st_value(LE) != 0)
            .filter(|s| matches!(s.st_type(), e::STT_FUNC | e::STT_OBJECT | e::STT_NOTYPE))
            .map(|s| Entry {
                addr: s.st_value(LE),
                size: s.st_size(LE),
                name: s.st_name(LE),
                data: s.st_type() != e::STT_FUNC,
            })
            .collect();
        if entries.is_empty() {
            return None;
        }
        // Longer symbols first at the same address: the last one not after an address is then the tightest.
        entries.sort_unstable_by_key(|s| (s.addr, std::cmp::Reverse(s.size)));
        Some(Symbols {
            strings: Bytes::Mapped { file: elf.file().clone(), range: start.min(end)..end },
            bias,
            entries,
            by_name: OnceLock::new(),
        })
    }

    /// A table of given variables: (address, size, name).
    pub fn of_variables(list: &[(Addr, u64, String)]) -> Symbols {
        let mut strings = Vec::new();
        let mut entries = Vec::with_capacity(list.len());
        for (addr, size, name) in list {
            entries.push(Entry { addr: addr.0, size: *size, name: strings.len() as u32, data: true });
            strings.extend(name.bytes().filter(|&b| b != 0).take(MAX_NAME - 1));
            strings.push(0);
        }
        entries.sort_unstable_by_key(|s| (s.addr, std::cmp::Reverse(s.size)));
        Symbols { strings: strings.into(), bias: 0, entries, by_name: OnceLock::new() }
    }

    fn name(&self, entry: &Entry) -> &str {
        bytes::cstr_at(&self.strings, entry.name as usize, MAX_NAME)
            .and_then(|n| std::str::from_utf8(n).ok())
            .unwrap_or("")
    }

    fn symbol<'a>(&'a self, entry: &Entry) -> Symbol<'a> {
        Symbol {
            addr: Addr(entry.addr.wrapping_add(self.bias)),
            size: entry.size,
            name: self.name(entry),
            data: entry.data,
        }
    }

    /// All symbols in address order.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        self.entries.iter().map(|entry| self.symbol(entry))
    }

    /// The symbol of exactly this name. The index of names is built on first use.
    pub fn find(&self, name: &str) -> Option<Symbol<'_>> {
        let hash = |s: &str| {
            let mut h = DefaultHasher::new();
            h.write(s.as_bytes());
            h.finish()
        };
        let index = self.by_name.get_or_init(|| {
            let mut index: Vec<_> =
                self.entries.iter().enumerate().map(|(i, entry)| (hash(self.name(entry)), i as u32)).collect();
            index.sort_unstable();
            index
        });
        let wanted = hash(name);
        let from = index.partition_point(|(h, _)| *h < wanted);
        index[from..]
            .iter()
            .take_while(|(h, _)| *h == wanted)
            .map(|(_, i)| self.symbol(&self.entries[*i as usize]))
            .find(|s| s.name == name)
    }

    /// The symbol that covers `addr`, and the offset in it. A symbol without a size covers what follows up to the next.
    pub fn at(&self, addr: Addr) -> Option<(Symbol<'_>, u64)> {
        let elf_addr = addr.0.wrapping_sub(self.bias);
        let end = self.entries.partition_point(|s| s.addr <= elf_addr);
        // Symbols may nest: look back a few. Marks of the linker (runtime.bss, runtime.etext) have no size and are a name
        // only where nothing else is.
        let near = || self.entries[..end].iter().rev().take(8);
        near()
            .find(|s| elf_addr - s.addr < s.size)
            .or_else(|| near().find(|s| s.size == 0 && elf_addr == s.addr))
            .map(|s| (self.symbol(s), elf_addr - s.addr))
    }
}

/// Opens the separate debug file that belongs to `elf`, if there is one.
pub fn open_debug_file(elf: &Elf, exe: &Path, opts: &ImageOptions, diag: &Diagnostics) -> Option<Elf> {
    if let Some(path) = &opts.debug_file {
        // Told by the user: say why it cannot be used rather than looking elsewhere.
        return match Elf::open(path) {
            Ok(debug) => match why_not(elf, &debug, None) {
                None => Some(debug),
                Some(why) => {
                    diag.note("debug file does not belong to the binary", format_args!("{}: {why}", path.display()));
                    None
                }
            },
            Err(error) => {
                diag.note("debug file unusable", error);
                None
            }
        };
    }
    let link = debug_link(elf);
    for path in candidates(elf, exe, link.as_ref().map(|l| &*l.0)) {
        let Some(debug) = path.is_file().then(|| Elf::open(&path).ok()).flatten() else { continue };
        match why_not(elf, &debug, link.as_ref().map(|l| l.1)) {
            None => return Some(debug),
            Some(why) => {
                diag.note("debug file does not belong to the binary", format_args!("{}: {why}", path.display()));
            }
        }
    }
    None
}

fn candidates(elf: &Elf, exe: &Path, link: Option<&str>) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let root = Path::new("/usr/lib/debug");
    if let Some(id) = elf.build_id.as_ref().filter(|id| id.len() > 1) {
        let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
        paths.push(root.join(".build-id").join(&hex[..2]).join(format!("{}.debug", &hex[2..])));
    }
    // A link is a bare file name; anything with a path in it is not what objcopy writes.
    if let (Some(name), Some(dir)) = (link.filter(|n| !n.contains('/')), exe.parent()) {
        paths.push(dir.join(name));
        paths.push(dir.join(".debug").join(name));
        if let Ok(inner) = dir.strip_prefix("/") {
            paths.push(root.join(inner).join(name));
        }
    }
    paths
}

/// Why `debug` cannot be the debug file of `elf`; `None` if it can.
fn why_not(elf: &Elf, debug: &Elf, crc: Option<u32>) -> Option<String> {
    if elf.arch != debug.arch {
        return Some("another architecture".into());
    }
    match (&elf.build_id, &debug.build_id) {
        (Some(a), Some(b)) => return (a != b).then(|| "another GNU build id".into()),
        _ => {
            if let (Some(a), Some(b)) = (&elf.go_build_id, &debug.go_build_id) {
                return (a != b).then(|| "another Go build id".into());
            }
        }
    }
    let crc = crc?;
    let found = crc32(debug.data());
    (found != crc).then(|| format!("checksum {found:08x}, .gnu_debuglink says {crc:08x}"))
}

/// The CRC of .gnu_debuglink (IEEE 802.3).
fn crc32(data: &[u8]) -> u32 {
    let table: [u32; 256] =
        std::array::from_fn(|i| (0..8).fold(i as u32, |c, _| if c & 1 != 0 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 }));
    !data.iter().fold(!0, |crc, &b| crc >> 8 ^ table[((crc ^ u32::from(b)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_standard_example() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
