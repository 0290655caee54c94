//! image::codeindex: which code refers to which global variable, from one decoding pass over the text of the program.
//! Gives names to globals of stripped binaries: `global near main.(*Cache).Put`. Owns `CodeIndex`.
//! Cost: measured about 10 ms a MiB of text on one core, spread over all cores; nothing is stored on disk therefore.

use rayon::prelude::*;

use super::{Image, Module, disasm};
use crate::base::Addr;

/// A variable may be larger than this, but code that refers to its start from further away proves little.
const NEAR: u64 = 4096;
/// Referring instructions that are looked at for a name.
const MAX_REFERRERS: usize = 64;

/// Marks references from initialisers; text is smaller than 2 GiB.
const INITIALISER: u64 = 1 << 31;

/// References from code to global variables of the program's own module, sorted by address.
#[derive(Default)]
pub struct CodeIndex {
    /// Lowest address of data segments, and of text.
    data: u64,
    text: u64,
    /// Offset of the address from `data` in the upper half, of the instruction from `text` in the lower, with
    /// `INITIALISER` set where that belongs to one.
    refs: Vec<u64>,
}

impl CodeIndex {
    fn build(image: &Image) -> CodeIndex {
        let (Some(module), Some(tab)) = (image.modules.first(), image.pclntab.tables().first()) else {
            return CodeIndex::default();
        };
        let segments = module.data_segments();
        let data = segments.iter().filter(|s| s.1 < s.2).map(|s| s.1.0).min().unwrap_or(0);
        let text = module.text.0;
        let mut refs: Vec<u64> = (0..tab.len())
            .into_par_iter()
            .with_min_len(256)
            .fold(Vec::new, |mut out, i| {
                if let Some(f) = tab.func(i)
                    && let Some(code) = image.code_of(&f)
                {
                    let mark = if initialises(f.name()) { INITIALISER } else { 0 };
                    disasm::references(image.elf.arch, code, f.entry(), |r| {
                        let (to, from) = (r.addr.0.wrapping_sub(data), r.pc.0.wrapping_sub(text));
                        if module.is_global(r.addr) && to <= u32::MAX.into() && from < INITIALISER {
                            out.push(to << 32 | mark | from);
                        }
                    });
                }
                out
            })
            .reduce(Vec::new, |mut a, mut b| {
                a.append(&mut b);
                a
            });
        refs.par_sort_unstable();
        refs.dedup();
        CodeIndex { data, text, refs }
    }

    /// Number of references.
    pub fn len(&self) -> usize {
        self.refs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.refs.is_empty()
    }

    /// The referenced address at or nearest below `addr`.
    pub fn nearest(&self, addr: Addr) -> Option<Addr> {
        let to = u32::try_from(addr.0.checked_sub(self.data)?).ok()?;
        let end = self.refs.partition_point(|r| (r >> 32) as u32 <= to);
        Some(Addr(self.data + (self.refs[..end].last()? >> 32)))
    }

    /// Instructions that refer to exactly `addr`.
    pub fn referrers(&self, addr: Addr) -> impl Iterator<Item = Addr> + '_ {
        let to = addr.0.checked_sub(self.data).and_then(|d| u32::try_from(d).ok());
        let start = to.map_or(self.refs.len(), |to| self.refs.partition_point(|r| ((r >> 32) as u32) < to));
        self.refs[start..]
            .iter()
            .take_while(move |r| Some((*r >> 32) as u32) == to)
            .map(|r| Addr(self.text + (r & (INITIALISER - 1))))
    }

    /// Does no code but initialisers refer to an address from `start` to `end`, both included? So it is with what the
    /// compiler lays out for `var x = &T{...}`: all other code goes through x.
    pub fn only_initialised(&self, start: Addr, end: Addr) -> bool {
        let offset = |a: Addr| a.0.checked_sub(self.data).and_then(|d| u32::try_from(d).ok());
        let (Some(start), Some(end)) = (offset(start), offset(end)) else { return false };
        let from = self.refs.partition_point(|r| ((r >> 32) as u32) < start);
        self.refs[from..].iter().take_while(|r| (*r >> 32) as u32 <= end).all(|r| r & INITIALISER != 0)
    }
}

impl Image {
    /// The index, built on first use.
    pub fn code_index(&self) -> &CodeIndex {
        self.code_index.get_or_init(|| CodeIndex::build(self))
    }

    /// A name for the global variable at (or around) `addr`: its symbol, with an offset where `addr` lies inside, else
    /// `global near F`, where F is a function whose code refers to it. `None` outside global variables, or where no
    /// code refers to it.
    pub fn name_global(&self, addr: Addr) -> Option<String> {
        let module = self.modules.iter().find(|m| m.is_global(addr))?;
        if let Some((symbol, off)) = self.symbols.as_ref().and_then(|s| s.at(addr)).filter(|(s, _)| s.data) {
            return Some(if off == 0 { symbol.name.to_owned() } else { format!("{}+{off:#x}", symbol.name) });
        }
        let index = self.code_index();
        let start = index.nearest(addr).filter(|s| addr.0 - s.0 <= NEAR && same_segment(module, *s, addr))?;
        let function = index
            .referrers(start)
            .take(MAX_REFERRERS)
            .filter_map(|pc| self.accessor(pc))
            .min_by_key(|name| rank(name))?;
        let off = addr.0 - start.0;
        Some(if off == 0 { format!("global near {function}") } else { format!("global near {function} (+{off:#x})") })
    }

    /// The function that was written with the access at `pc` in it, inlining undone: where a method of the standard
    /// library was inlined (`sync.(*Map).Store`), the program's function that calls it.
    fn accessor(&self, pc: Addr) -> Option<&str> {
        let names = || self.pclntab.find(pc).into_iter().flat_map(|f| f.inline_frames(pc)).map(|f| f.function);
        names().find(|n| rank(n).1 < 2).or_else(|| names().next()).filter(|n| *n != "?")
    }
}

fn same_segment(m: &Module, a: Addr, b: Addr) -> bool {
    m.data_segments().iter().any(|(_, start, end)| *start <= a && a < *end && *start <= b && b < *end)
}

/// Lower is the better name: the program's own code before libraries, functions that a person wrote before
/// initialisers and what the compiler made.
fn rank(name: &str) -> (u8, u8) {
    let package = name.rsplit_once('/').map_or(name, |(_, last)| last).split('.').next().unwrap_or(name);
    let made = name.starts_with("type:") || name.starts_with("type..") || name.starts_with("go:");
    let init = initialises(name);
    let origin = if name.starts_with("main.") {
        0
    } else if name.split('/').next().is_some_and(|first| name.contains('/') && first.contains('.')) {
        1
    } else if package == "runtime" {
        3
    } else {
        2
    };
    (if made { 2 } else { u8::from(init) }, origin)
}

/// The initialiser of a package, not a closure in one (`init.func1`, to Go 1.20 `glob..func1`), which is code that a person
/// wrote.
fn initialises(name: &str) -> bool {
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    let rest = last.find('.').map_or("", |dot| &last[dot..]);
    let numbered = rest.strip_prefix(".init.").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    rest == ".init" || numbered || rest.starts_with(".map.init")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_names_first() {
        let mut names =
            ["runtime.gcStart", "type:.eq.main.T", "main.init", "net/http.Serve", "github.com/a/b.(*C).D", "main.main"];
        names.sort_by_key(|n| rank(n));
        assert_eq!(
            names,
            ["main.main", "github.com/a/b.(*C).D", "net/http.Serve", "runtime.gcStart", "main.init", "type:.eq.main.T"]
        );
    }
}
