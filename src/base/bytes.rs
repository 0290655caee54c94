//! Little-endian decoding from byte slices that may be too short: every function answers `None` instead of panicking.
//! All targets in scope (linux/amd64, linux/arm64) are little endian.

pub fn u8_at(b: &[u8], off: usize) -> Option<u8> {
    b.get(off).copied()
}

pub fn u16_at(b: &[u8], off: usize) -> Option<u16> {
    b.get(off..off.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

#[inline]
pub fn u32_at(b: &[u8], off: usize) -> Option<u32> {
    b.get(off..off.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

pub fn i32_at(b: &[u8], off: usize) -> Option<i32> {
    u32_at(b, off).map(|v| v as i32)
}

#[inline]
pub fn u64_at(b: &[u8], off: usize) -> Option<u64> {
    b.get(off..off.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// An unsigned integer of 1, 2, 4 or 8 bytes, zero-extended.
pub fn uint_at(b: &[u8], off: usize, width: usize) -> Option<u64> {
    match width {
        1 => u8_at(b, off).map(u64::from),
        2 => u16_at(b, off).map(u64::from),
        4 => u32_at(b, off).map(u64::from),
        8 => u64_at(b, off),
        _ => None,
    }
}

/// Unsigned LEB128 of at most 64 bits: the value and the bytes it took.
pub fn uvarint(b: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &byte) in b.iter().enumerate().take(10) {
        let shift = 7 * i as u32;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// The bytes up to the next NUL (or `None` if there is none within `max`).
pub fn cstr_at(b: &[u8], off: usize, max: usize) -> Option<&[u8]> {
    let tail = b.get(off..)?;
    let tail = &tail[..tail.len().min(max)];
    tail.iter().position(|&c| c == 0).map(|n| &tail[..n])
}

/// The notes of an ELF note area: (name with its zero, kind, descriptor). Stops at the first that does not fit.
pub fn notes(mut data: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    std::iter::from_fn(move || {
        let (namesz, descsz, kind) = (u32_at(data, 0)? as usize, u32_at(data, 4)? as usize, u32_at(data, 8)?);
        let name = data.get(12..12usize.checked_add(namesz)?)?;
        let at = 12 + namesz.checked_next_multiple_of(4)?;
        let desc = data.get(at..at.checked_add(descsz)?)?;
        data = data.get(at + descsz.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((name, kind, desc))
    })
}
