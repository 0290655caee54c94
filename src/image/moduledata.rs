//! `runtime.moduledata` (runtime/symtab.go): bounds of text, data and types, and the pointer masks of data and bss.

use super::{Image, ImageError, Module, SegmentMask};
use crate::{
    base::{Addr, bytes},
    target::Target,
};

/// Modules followed through `next`: one for the program, one for each plugin.
const MAX_MODULES: usize = 64;
/// Largest data or bss segment whose mask is read, in bytes.
const MAX_SEGMENT: u64 = 8 << 30;

pub fn read_all(target: &Target, image: &Image) -> Result<Vec<Module>, ImageError> {
    let mut at = image
        .variable("runtime.firstmoduledata")
        .ok_or(ImageError::Inconsistent { what: "runtime.firstmoduledata", why: "DWARF does not name it".into() })?;
    let layout = image.dwarf.as_ref().and_then(|d| d.structs.get("runtime.moduledata"));
    let Some(layout) = layout else {
        return Err(ImageError::Inconsistent { what: "runtime.moduledata", why: "DWARF does not describe it".into() });
    };
    let offset = |name: &str| layout.members.iter().find(|m| m.path == name).map(|m| m.offset as usize);
    let mut modules = Vec::new();
    while !at.is_null() && modules.len() < MAX_MODULES {
        let raw = target
            .read_vec(at, layout.size, 4096)
            .map_err(|f| ImageError::Inconsistent { what: "runtime.moduledata", why: f.to_string() })?;
        let word = |name: &str, i: usize| offset(name).and_then(|o| bytes::u64_at(&raw, o + 8 * i)).unwrap_or(0);
        let addr = |name: &str| Addr(word(name, 0));
        let mask = |name: &str, start: Addr, end: Addr| -> Result<SegmentMask, ImageError> {
            let inconsistent = |why: String| ImageError::Inconsistent { what: "a segment's pointer mask", why };
            let len = end
                .distance_from(start)
                .filter(|&l| l <= MAX_SEGMENT)
                .ok_or_else(|| inconsistent(format!("{name}: segment {start}..{end}")))?;
            let nbits = word(name, 0) & 0xffff_ffff;
            if nbits > len / 8 {
                return Err(inconsistent(format!("{name} has {nbits} bits for {} words", len / 8)));
            }
            let bits = target
                .read_vec(Addr(word(name, 1)), nbits.div_ceil(8), MAX_SEGMENT / 64)
                .map_err(|f| inconsistent(format!("{name}: {f}")))?;
            Ok(SegmentMask { start, end, bits })
        };
        let module = Module {
            addr: at,
            text: addr("text"),
            etext: addr("etext"),
            noptrdata: addr("noptrdata"),
            enoptrdata: addr("enoptrdata"),
            data: addr("data"),
            edata: addr("edata"),
            bss: addr("bss"),
            ebss: addr("ebss"),
            noptrbss: addr("noptrbss"),
            enoptrbss: addr("enoptrbss"),
            types: addr("types"),
            etypes: addr("etypes"),
            rodata: addr("rodata"),
            gofunc: addr("gofunc"),
            typedesclen: word("typedesclen", 0),
            itaboffset: word("itaboffset", 0),
            itabsize: word("itabsize", 0),
            typelinks: (addr("typelinks"), word("typelinks", 1)),
            itablinks: (addr("itablinks"), word("itablinks", 1)),
            data_mask: mask("gcdatamask", addr("data"), addr("edata"))?,
            bss_mask: mask("gcbssmask", addr("bss"), addr("ebss"))?,
            pc_header: addr("pcHeader"),
        };
        if word("bad", 0) & 0xff == 0 || modules.is_empty() {
            modules.push(module);
        }
        at = addr("next");
    }
    Ok(modules)
}
