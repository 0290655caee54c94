//! One function of pclntab, borrowed from the table's bytes.

use super::{
    FuncId, Pclntab, SavedFrame, SavedFunc, funcdata, pcdata,
    saved::{self},
    text,
};
use crate::base::{Addr, bytes};

/// Deeper inlining than the compiler ever does: a damaged inline tree.
const MAX_INLINE: u32 = 1000;

/// `_func.flag`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FuncFlags(pub u8);

impl FuncFlags {
    /// Outermost frame of a stack: stop unwinding here.
    pub fn top_frame(self) -> bool {
        self.0 & 1 != 0
    }

    /// Writes SP in ways that pcsp does not tell: cannot be unwound through, except at its own traps.
    pub fn sp_write(self) -> bool {
        self.0 & 2 != 0
    }

    pub fn asm(self) -> bool {
        self.0 & 4 != 0
    }
}

/// A function. Copies are cheap; nothing here allocates.
#[derive(Clone, Copy)]
pub struct Func<'a> {
    pub(super) tab: &'a Pclntab,
    /// From the start of the func record to the end of the table.
    pub(super) record: &'a [u8],
    pub(super) index: u32,
    /// From a snapshot: there is no table, only what was kept.
    pub(super) saved: Option<&'a SavedFunc>,
}

/// One logical frame of a physical one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frame<'a> {
    /// Full name, such as `main.(*Cache).Put`.
    pub function: &'a str,
    /// Empty where the compiler recorded none.
    pub file: &'a str,
    /// 0 where unknown.
    pub line: u32,
    pub func_id: FuncId,
    /// Inlined into the next frame of the list.
    pub inlined: bool,
    /// Line on which the function starts; 0 where unknown (before Go 1.20).
    pub start_line: u32,
}

impl<'a> Func<'a> {
    fn word(&self, off: usize) -> u32 {
        bytes::u32_at(self.record, off).unwrap_or(0)
    }

    fn byte(&self, off_from_end: usize) -> u8 {
        self.record[self.tab.record_len - off_from_end]
    }

    /// Position in address order.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    fn entry_off(&self) -> u32 {
        self.tab.entry_offset(self.index as usize).unwrap_or(0)
    }

    fn size(&self) -> u32 {
        self.tab.entry_offset(self.index as usize + 1).unwrap_or(0).saturating_sub(self.entry_off())
    }

    pub fn entry(&self) -> Addr {
        if let Some(f) = self.saved {
            return f.entry;
        }
        self.tab.text_addr(self.entry_off())
    }

    /// Exclusive; padding behind the function included.
    pub fn end(&self) -> Addr {
        if let Some(f) = self.saved {
            return f.end;
        }
        self.entry().offset(u64::from(self.size()))
    }

    pub fn raw_name(&self) -> &'a [u8] {
        if let Some(f) = self.saved {
            return f.name.as_bytes();
        }
        self.tab.str_at(self.tab.names, u64::from(self.word(4)))
    }

    /// The symbol name, such as `net/http.(*conn).serve`; `?` where the table is damaged.
    pub fn name(&self) -> &'a str {
        text(self.raw_name()).unwrap_or("?")
    }

    /// Bytes of stack arguments and results; negative: unknown (assembly).
    pub fn args(&self) -> i32 {
        self.word(8) as i32
    }

    /// Offset of the call of `deferreturn` from the entry, 0 = none.
    pub fn deferreturn(&self) -> u32 {
        self.word(12)
    }

    pub fn func_id(&self) -> FuncId {
        if let Some(f) = self.saved {
            return f.func_id;
        }
        FuncId::of(self.tab.place.minor, self.byte(4))
    }

    pub fn flags(&self) -> FuncFlags {
        if let Some(f) = self.saved {
            return saved::flags(f);
        }
        FuncFlags(self.byte(3))
    }

    /// Line of the `func` keyword; 0 before Go 1.20.
    pub fn start_line(&self) -> u32 {
        if let Some(f) = self.saved {
            return f.start_line;
        }
        if self.tab.record_len >= 44 { self.word(36) } else { 0 }
    }

    /// Offset of `pc` behind the entry; `None` outside the function.
    fn within(&self, pc: Addr) -> Option<u64> {
        pc.distance_from(self.entry()).filter(|d| *d < u64::from(self.size()))
    }

    fn value(&self, table_off: u32, pc: Addr) -> Option<i32> {
        self.tab.pc_value(table_off, self.entry_off(), self.size(), self.within(pc)?)
    }

    /// Bytes that SP lies below its value at entry, when the instruction at `pc` is about to run.
    pub fn pcsp(&self, pc: Addr) -> Option<i32> {
        self.value(self.word(16), pc)
    }

    /// Value of a PCDATA table (`pclntab::pcdata`); `None` where the function has no such table. -1 is the usual default.
    pub fn pcdata(&self, table: u32, pc: Addr) -> Option<i32> {
        if table >= self.word(28) {
            return None;
        }
        let at = self.tab.record_len.checked_add(4 * table as usize)?;
        self.value(bytes::u32_at(self.record, at)?, pc)
    }

    /// Address of a FUNCDATA record (`pclntab::funcdata`).
    pub fn funcdata(&self, index: u32) -> Option<Addr> {
        self.funcdata_offset(index).map(|off| self.tab.place.gofunc.offset(u64::from(off)))
    }

    fn funcdata_offset(&self, index: u32) -> Option<u32> {
        if index >= u32::from(self.byte(1)) {
            return None;
        }
        let slot = u64::from(self.word(28)) + u64::from(index);
        let at = self.tab.record_len.checked_add(usize::try_from(slot.checked_mul(4)?).ok()?)?;
        bytes::u32_at(self.record, at).filter(|off| *off != u32::MAX)
    }

    /// Bytes of a FUNCDATA record, from its start to the end of the segment: without a read of target memory. `None`
    /// where the module's file is not at hand.
    pub fn funcdata_bytes(&self, index: u32) -> Option<&'a [u8]> {
        let bytes: &'a [u8] = &self.tab.place.gofunc_bytes;
        bytes.get(self.funcdata_offset(index)? as usize..)
    }

    /// File and line of the code at `pc`: of the innermost inlined function there.
    pub fn file_line(&self, pc: Addr) -> Option<(&'a str, u32)> {
        if let Some(f) = self.saved {
            return f.lines.get(&pc)?.first().map(|x| (x.file.as_str(), x.line));
        }
        let line = u32::try_from(self.value(self.word(24), pc)?).ok()?;
        let file = self.value(self.word(20), pc).and_then(|number| self.tab.file(self.word(32), number));
        Some((file.unwrap_or(""), line))
    }

    /// The logical frames at `pc`, innermost first; the last one is the function itself. For a return address ask
    /// with `pc - 1`, so that the call's own line and inlining are meant.
    pub fn inline_frames(&self, pc: Addr) -> InlineFrames<'a> {
        let kept = self.saved.map(|f| f.lines.get(&pc).map_or(&[][..], Vec::as_slice).iter());
        InlineFrames { func: *self, pc: Some(pc), position: None, steps: 0, kept }
    }

    /// One entry of the inline tree: (funcID, name offset, parent pc, start line, position in the parent).
    fn inline_entry(&self, index: u32) -> Option<InlineEntry> {
        let tree = self.funcdata_bytes(funcdata::INL_TREE)?;
        let word = |at: usize| bytes::i32_at(tree, at);
        // Go 1.20 shortened the entry: file and line of the call are found by looking up parentPc.
        Some(if self.tab.record_len >= 44 {
            let at = 16 * index as usize;
            InlineEntry {
                func_id: bytes::u8_at(tree, at)?,
                name: word(at + 4)?,
                parent_pc: word(at + 8)?,
                start_line: word(at + 12)?,
                position: None,
            }
        } else {
            let at = 20 * index as usize;
            InlineEntry {
                func_id: bytes::u8_at(tree, at + 2)?,
                name: word(at + 12)?,
                parent_pc: word(at + 16)?,
                start_line: 0,
                position: Some((word(at + 4)?, word(at + 8)?)),
            }
        })
    }
}

struct InlineEntry {
    func_id: u8,
    name: i32,
    parent_pc: i32,
    start_line: i32,
    /// (file number, line) of the call, in Go 1.18 and 1.19.
    position: Option<(i32, i32)>,
}

/// Iterator over the logical frames at one pc.
pub struct InlineFrames<'a> {
    func: Func<'a>,
    /// Where to look next; `None` when done.
    pc: Option<Addr>,
    /// File and line of the coming frame where the inner one told them (Go 1.19).
    position: Option<(&'a str, u32)>,
    steps: u32,
    /// Frames from a snapshot, instead of all of the above.
    kept: Option<std::slice::Iter<'a, SavedFrame>>,
}

impl<'a> Iterator for InlineFrames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        if let Some(kept) = &mut self.kept {
            return kept.next().map(SavedFrame::frame);
        }
        let f = self.func;
        let pc = self.pc.take()?;
        self.steps += 1;
        let (file, line) = self.position.take().or_else(|| f.file_line(pc)).unwrap_or_default();
        let inlined = f
            .pcdata(pcdata::INL_TREE_INDEX, pc)
            .and_then(|i| u32::try_from(i).ok())
            .filter(|_| self.steps < MAX_INLINE)
            .and_then(|i| f.inline_entry(i));
        let Some(entry) = inlined else {
            return Some(Frame {
                function: f.name(),
                file,
                line,
                func_id: f.func_id(),
                inlined: false,
                start_line: f.start_line(),
            });
        };
        self.pc = Some(f.entry().offset(entry.parent_pc.max(0) as u64));
        self.position = entry
            .position
            .and_then(|(number, line)| Some((f.tab.file(f.word(32), number)?, u32::try_from(line).ok()?)));
        let name = u64::try_from(entry.name).ok().and_then(|off| text(f.tab.str_at(f.tab.names, off)));
        Some(Frame {
            function: name.unwrap_or("?"),
            file,
            line,
            func_id: FuncId::of(f.tab.place.minor, entry.func_id),
            inlined: true,
            start_line: entry.start_line.max(0) as u32,
        })
    }
}
