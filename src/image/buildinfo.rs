//! Build info: the version string that `go build` leaves in every binary (debug/buildinfo).

use object::{Object, ObjectSection};

use crate::base::bytes;

const MARK: &[u8] = b"\xff Go buildinf:";

/// From the section.
pub fn version(elf: &object::File) -> Option<String> {
    parse(elf.section_by_name(".go.buildinfo")?.data().ok()?)
}

/// From anywhere in the file: sections may be stripped. The mark is aligned to 16.
pub fn scan(file: &[u8]) -> Option<String> {
    file.chunks_exact(16).enumerate().filter(|(_, c)| c.starts_with(MARK)).find_map(|(i, _)| parse(file.get(i * 16..)?))
}

/// Go 1.18 and later: flags bit 1, then at +32 a length and the version string.
fn parse(b: &[u8]) -> Option<String> {
    if !b.starts_with(MARK) || bytes::u8_at(b, 15)? & 2 == 0 {
        return None;
    }
    let (len, n) = bytes::uvarint(b.get(32..)?)?;
    let text = b.get(32 + n..(32 + n).checked_add(usize::try_from(len).ok().filter(|&l| l < 256)?)?)?;
    String::from_utf8(text.to_vec()).ok()
}
