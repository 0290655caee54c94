//! One object as its type lays it out: every member with what it points at and how long it is. The contents of user
//! memory (strings, numbers) are read out only on request.

use serde::Serialize;

use crate::{
    base::{Addr, KnownBy, ObjectId, bytes},
    graph::typing::Typed,
    runtime::{
        Runtime,
        heap::Heap,
        types::{Kind, TypeId},
    },
    target::Fault,
};

/// Bytes of an object that are read; members behind them are counted as left out.
const MAX_BYTES: u64 = 1 << 20;
const MAX_DEPTH: usize = 16;
/// Bytes of a string that are shown.
const MAX_TEXT: u64 = 256;

/// A member, or an element of an array.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// From the first byte of the object's slot.
    pub offset: u64,
    /// `.Inner.Name`, `[3].Key`; `+40` where the type is not known.
    pub path: String,
    #[serde(rename = "type")]
    pub type_name: String,
    /// What it points at, null where it holds no pointer or nil.
    pub to: Option<Pointee>,
    /// Strings, slices, maps, channels: elements in it.
    pub len: Option<u64>,
    /// Slices and channels.
    pub cap: Option<u64>,
    /// What it holds, where the user asked for values, and `nil` always.
    pub value: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Pointee {
    pub addr: Addr,
    /// Type of the heap object, dynamic type of an interface, function of a func value, where known.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Size of the heap object; null where it points outside the heap.
    pub bytes: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Fields {
    pub addr: Addr,
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    pub known_by: KnownBy,
    /// Size of the slot.
    pub bytes: u64,
    pub members: Vec<Member>,
    /// Members that are not listed.
    pub left_out: u64,
}

pub struct Reader<'a> {
    pub rt: &'a Runtime,
    pub heap: &'a Heap,
    pub typed: &'a Typed,
    /// Numbers and texts are read out.
    pub values: bool,
    /// Members to list.
    pub limit: usize,
}

impl Reader<'_> {
    /// The members of `id`. The target must still be held. Cost: one read of the object and one per string, map or
    /// channel shown. Errors: the object's memory cannot be read.
    pub fn object(&self, id: ObjectId) -> Result<Fields, Fault> {
        let (addr, size) = self.heap.extent(id);
        let data = self.rt.target.read_vec(addr, size.min(MAX_BYTES), MAX_BYTES)?;
        let ty = self.typed.typing.type_of(id);
        let mut out = Fields {
            addr,
            type_name: self.typed.name(id).map(str::to_owned),
            known_by: self.typed.typing.known_by(id),
            bytes: size,
            members: Vec::new(),
            left_out: 0,
        };
        let begin = self.typed.begin(self.heap, id);
        if ty.is_known() && self.typed.types.kind(ty) != Kind::TinyBlock {
            self.value(&data, begin, String::new(), ty, 0, &mut out);
        } else if !self.heap.span_of(id).noscan {
            self.words(&data, &mut out);
        }
        Ok(out)
    }

    /// What lies at `path` in the object (as `Member::path` has it), in words: a text, a number, or the members of a struct as
    /// `{ID: 7, Name: "x"}`. `None` where there is no such place, or nothing that can be said. The target must still be held. Cost: one read
    /// of the value, one per string in it.
    pub fn said(&self, id: ObjectId, path: &str) -> Option<String> {
        const MAX_VALUE: u64 = 4096;
        let (addr, size) = self.heap.extent(id);
        let (offset, ty) = self.typed.types.place_of(self.typed.typing.type_of(id), path)?;
        let begin = self.typed.begin(self.heap, id).checked_add(offset).filter(|&b| b < size)?;
        let len = self.typed.types.size(ty).min(MAX_VALUE).min(size - begin);
        let data = self.rt.target.read_vec(addr.offset(begin), len, MAX_VALUE).ok()?;
        let mut out = Fields {
            addr,
            type_name: None,
            known_by: self.typed.typing.known_by(id),
            bytes: len,
            members: Vec::new(),
            left_out: 0,
        };
        self.value(&data, 0, String::new(), ty, 0, &mut out);
        match out.members.as_slice() {
            [one] if one.path.is_empty() => one.value.clone(),
            members => {
                let each =
                    members.iter().map(|m| Some(format!("{}: {}", m.path.trim_start_matches('.'), m.value.as_ref()?)));
                let all: Vec<String> = each.collect::<Option<_>>()?;
                (!all.is_empty()).then(|| format!("{{{}}}", all.join(", ")))
            }
        }
    }

    /// Every word that points into the heap, where no type tells what is there.
    fn words(&self, data: &[u8], out: &mut Fields) {
        for at in (0..data.len()).step_by(8) {
            let Some(word) = bytes::u64_at(data, at).map(Addr) else { break };
            if self.heap.find(word).is_some() {
                let m = self.member(at as u64, format!("+{at}"), "?".to_owned());
                self.push(out, Member { to: self.pointee(word), ..m });
            }
        }
    }

    fn member(&self, offset: u64, path: String, type_name: String) -> Member {
        Member { offset, path, type_name, to: None, len: None, cap: None, value: None }
    }

    fn push(&self, out: &mut Fields, m: Member) {
        if out.members.len() < self.limit { out.members.push(m) } else { out.left_out += 1 }
    }

    fn pointee(&self, addr: Addr) -> Option<Pointee> {
        if addr.is_null() {
            return None;
        }
        let at = self.heap.find(addr).map(|(id, _)| id);
        let type_name = match at {
            Some(id) => self.typed.name(id).map(str::to_owned),
            None => self.rt.image.name_global(addr),
        };
        Some(Pointee { addr, type_name, bytes: at.map(|id| self.heap.extent(id).1) })
    }

    fn value(&self, data: &[u8], at: u64, path: String, ty: TypeId, depth: usize, out: &mut Fields) {
        let types = &self.typed.types;
        let kind = types.kind(ty);
        let size = data.len() as u64;
        if at >= size || depth > MAX_DEPTH {
            out.left_out += u64::from(at < size);
            return;
        }
        match kind {
            Kind::Array | Kind::Backing => {
                let elem = types.elem(ty);
                let each = types.size(elem).max(1);
                let fits = (size - at) / each;
                let n = if kind == Kind::Array { types.len_of(ty).min(fits) } else { fits };
                // Bytes are shown as one value: one row each would say nothing.
                if matches!(types.kind(elem), Kind::Uint8 | Kind::Int8 | Kind::Bool) {
                    let value = self.values.then(|| text(&data[at as usize..(at + n) as usize]));
                    let m = self.member(at, path, types.name(ty).to_owned());
                    return self.push(out, Member { len: Some(n), value, ..m });
                }
                // Numbers are not shown unless asked for: one row says that they are there.
                if !self.values && number_kind(types.kind(elem)) {
                    let m = self.member(at, path, types.name(ty).to_owned());
                    return self.push(out, Member { len: Some(n), ..m });
                }
                for i in 0..n {
                    if out.members.len() >= self.limit {
                        out.left_out += n - i;
                        return;
                    }
                    self.value(data, at + i * each, format!("{path}[{i}]"), elem, depth + 1, out);
                }
            }
            _ if kind.has_fields() => {
                for f in types.fields(ty) {
                    let path = format!("{path}.{}", types.field_name(f));
                    self.value(data, at + f.offset, path, f.ty, depth + 1, out);
                }
            }
            _ => {
                let mut m = self.member(at, path, types.name(ty).to_owned());
                self.leaf(data, at, kind, types.size(ty), &mut m);
                self.push(out, m);
            }
        }
    }

    fn leaf(&self, data: &[u8], at: u64, kind: Kind, size: u64, m: &mut Member) {
        let word = |i: u64| bytes::u64_at(data, (at + 8 * i) as usize).unwrap_or_default();
        let first = Addr(word(0));
        let nil = || Some("nil".to_owned());
        match kind {
            Kind::String => {
                m.to = self.pointee(first);
                m.len = Some(word(1));
                if self.values {
                    m.value = self.rt.target.read_vec(first, word(1).min(MAX_TEXT), MAX_TEXT).ok().map(|b| text(&b));
                }
            }
            Kind::Slice => {
                m.to = self.pointee(first);
                (m.len, m.cap) = (Some(word(1)), Some(word(2)));
            }
            Kind::Map | Kind::Chan => {
                m.to = self.pointee(first);
                match m.to {
                    // Both maps keep the number of entries in the first word, channels number and size of the buffer.
                    Some(_) => {
                        m.len = self.rt.target.read_u64(first).ok();
                        m.cap = self.rt.target.read_u64(first.offset(8)).ok().filter(|_| kind == Kind::Chan);
                    }
                    None => m.value = nil(),
                }
            }
            Kind::Interface => {
                let types = &self.typed.types;
                let concrete = types.by_type_word(first).or_else(|| types.by_addr(first));
                m.to = self.pointee(Addr(word(1)));
                match (&mut m.to, concrete) {
                    (Some(to), Some(ty)) => to.type_name = Some(types.name(ty).to_owned()),
                    (None, _) if first.is_null() => m.value = nil(),
                    _ => {}
                }
            }
            Kind::Func => {
                m.to = self.pointee(first);
                let entry = self.rt.target.read_ptr(first).ok().and_then(|e| self.rt.image.pclntab.find(e));
                match (&mut m.to, entry) {
                    (Some(to), Some(f)) => to.type_name = Some(f.name().to_owned()),
                    (None, _) => m.value = nil(),
                    _ => {}
                }
            }
            Kind::Pointer | Kind::UnsafePointer => {
                m.to = self.pointee(first);
                if m.to.is_none() {
                    m.value = nil();
                }
            }
            _ if self.values => m.value = number(data, at as usize, kind, size),
            _ => {}
        }
    }
}

fn number_kind(kind: Kind) -> bool {
    (Kind::Bool as u8..=Kind::Complex128 as u8).contains(&(kind as u8))
}

fn number(data: &[u8], at: usize, kind: Kind, size: u64) -> Option<String> {
    let raw = bytes::uint_at(data, at, size.min(8) as usize)?;
    let signed = || {
        let unused = 64 - 8 * size.clamp(1, 8) as u32;
        ((raw << unused) as i64) >> unused
    };
    let float = |off: usize| bytes::u64_at(data, at + off).map(f64::from_bits);
    let single = |off: usize| bytes::u32_at(data, at + off).map(f32::from_bits);
    Some(match kind {
        Kind::Bool => (raw != 0).to_string(),
        Kind::Int | Kind::Int8 | Kind::Int16 | Kind::Int32 | Kind::Int64 => signed().to_string(),
        Kind::Float32 => single(0)?.to_string(),
        Kind::Float64 => float(0)?.to_string(),
        Kind::Complex64 => format!("({}+{}i)", single(0)?, single(4)?),
        Kind::Complex128 => format!("({}+{}i)", float(0)?, float(8)?),
        Kind::Uintptr => format!("{raw:#x}"),
        _ => raw.to_string(),
    })
}

/// Quoted, with everything escaped that a terminal could take for a command.
fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(MAX_TEXT as usize)];
    let more = if bytes.len() > shown.len() { "..." } else { "" };
    format!("\"{}\"{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_by_kind() {
        let data = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x40, 0, 0];
        assert_eq!(number(&data, 0, Kind::Int8, 1).as_deref(), Some("-1"));
        assert_eq!(number(&data, 0, Kind::Uint16, 2).as_deref(), Some("65535"));
        assert_eq!(number(&data, 4, Kind::Float32, 4).as_deref(), Some("2"));
        assert_eq!(number(&data, 8, Kind::Uint64, 8), None, "a value beyond the end of the object");
    }

    #[test]
    fn texts_cannot_drive_a_terminal() {
        assert_eq!(text(b"a\x1b[2J\""), "\"a\\x1b[2J\\\"\"");
    }
}
