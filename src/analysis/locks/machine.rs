//! The copy on which `forward` runs code: registers, changed words, and what instructions do to them. What is not known stays not
//! known. amd64 only; nothing in the target is touched.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{ConditionCode, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::forward::Thing;
use crate::{base::Addr, runtime::Runtime};

#[derive(Clone, Copy, Debug, Default)]
pub enum Flags {
    #[default]
    Unknown,
    /// Of a comparison of two values of so many bytes.
    Compare(u64, u64, u32),
    /// Only zero and sign are known, of a result.
    Result(u64, u32),
}

#[derive(Clone, Debug)]
pub struct State {
    pub pc: u64,
    pub regs: [Option<u64>; 16],
    pub xmm: [Option<u128>; 16],
    pub flags: Flags,
    /// Words changed on this way, by address / 8; `None`: changed to what is not known.
    pub memory: BTreeMap<u64, Option<u64>>,
    pub balance: BTreeMap<Thing, i8>,
    pub released: BTreeSet<Thing>,
    /// Deferred functions registered on this way: (sp of the frame, function value).
    pub defers: Vec<(u64, u64)>,
    pub depth: u32,
    /// A loop was run for long enough: from here on conditions that this way has come to before are not decided, so that the
    /// loop's ends are found.
    pub wide: bool,
    /// Branches that known values have decided on this way.
    pub decided: BTreeSet<u64>,
}

pub const RSP: usize = 4;
pub const RDX: usize = 2;

fn number(r: Register) -> Option<usize> {
    let full = r.full_register();
    full.is_gpr64().then(|| full.number())
}

fn mask(size: u32) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

impl State {
    pub fn reg(&self, r: Register) -> Option<u64> {
        if matches!(r, Register::AH | Register::BH | Register::CH | Register::DH) {
            return None;
        }
        Some(self.regs[number(r)?]? & mask(r.size() as u32))
    }

    pub fn set(&mut self, r: Register, value: Option<u64>) {
        let Some(n) = number(r) else { return };
        let size = r.size() as u32;
        self.regs[n] = match (value, size) {
            _ if matches!(r, Register::AH | Register::BH | Register::CH | Register::DH) => None,
            // 32-bit writes clear the upper half; of narrower ones only the written part is asked for later.
            (Some(v), 4) => Some(v & mask(4)),
            (Some(v), 1 | 2) => Some(self.regs[n].unwrap_or(0) & !mask(size) | v & mask(size)),
            (v, _) => v,
        };
    }
}

/// Works out instructions on a `State`; reads what was not changed from the target.
pub struct Machine<'r> {
    pub rt: &'r Runtime,
    info: InstructionInfoFactory,
}

impl<'r> Machine<'r> {
    pub fn new(rt: &'r Runtime) -> Machine<'r> {
        Machine { rt, info: InstructionInfoFactory::new() }
    }

    fn load_word(&self, s: &State, number: u64) -> Option<u64> {
        match s.memory.get(&number) {
            Some(&v) => v,
            None => self.rt.target.read_u64(Addr(number.checked_mul(8)?)).ok(),
        }
    }

    pub fn load(&self, s: &State, at: u64, size: u32) -> Option<u64> {
        if !matches!(size, 1 | 2 | 4 | 8) {
            return None;
        }
        let low = self.load_word(s, at / 8)?;
        let off = at % 8;
        let mut value = low >> (8 * off);
        if off + u64::from(size) > 8 {
            value |= self.load_word(s, (at / 8).checked_add(1)?)? << (64 - 8 * off);
        }
        Some(value & mask(size))
    }

    pub fn store(&self, s: &mut State, at: u64, size: u32, value: Option<u64>) {
        for byte in 0..u64::from(size.min(64)) {
            let Some(to) = at.checked_add(byte) else { return };
            if byte > 0 && to % 8 != 0 {
                continue;
            }
            // The part of the value that falls into this word.
            let (off, first) = (to % 8, byte);
            let n = (u64::from(size) - first).min(8 - off) as u32;
            let word = match value {
                None => None,
                Some(v) => {
                    let part = if first >= 8 { 0 } else { v >> (8 * first) } & mask(n);
                    if n == 8 {
                        Some(part)
                    } else {
                        self.load_word(s, to / 8).map(|old| old & !(mask(n) << (8 * off)) | part << (8 * off))
                    }
                }
            };
            s.memory.insert(to / 8, word);
        }
    }

    pub fn address(&self, s: &State, i: &Instruction) -> Option<u64> {
        if i.segment_prefix() != Register::None {
            return None;
        }
        let base = match i.memory_base() {
            Register::None => 0,
            Register::RIP => return Some(i.memory_displacement64()),
            r => s.reg(r)?,
        };
        let index = match i.memory_index() {
            Register::None => 0,
            r => s.reg(r)?.wrapping_mul(i.memory_index_scale().into()),
        };
        Some(base.wrapping_add(index).wrapping_add(i.memory_displacement64()))
    }

    pub fn operand(&self, s: &State, i: &Instruction, n: u32) -> Option<u64> {
        match i.op_kind(n) {
            OpKind::Register => s.reg(i.op_register(n)),
            OpKind::Memory => self.load(s, self.address(s, i)?, i.memory_size().size() as u32),
            k if (OpKind::Immediate8..=OpKind::Immediate32to64).contains(&k) => Some(i.immediate(n)),
            _ => None,
        }
    }

    fn size(i: &Instruction, n: u32) -> u32 {
        match i.op_kind(n) {
            OpKind::Register => i.op_register(n).size() as u32,
            OpKind::Memory => i.memory_size().size() as u32,
            _ => 8,
        }
    }

    fn assign(&self, s: &mut State, i: &Instruction, value: Option<u64>) {
        match i.op0_kind() {
            OpKind::Register => s.set(i.op0_register(), value),
            OpKind::Memory => {
                if let Some(at) = self.address(s, i) {
                    self.store(s, at, i.memory_size().size() as u32, value);
                }
            }
            _ => {}
        }
    }

    pub fn condition(flags: Flags, c: ConditionCode) -> Option<bool> {
        use ConditionCode as C;
        let (a, b, size, full) = match flags {
            Flags::Unknown => return None,
            Flags::Compare(a, b, n) => (a & mask(n), b & mask(n), n, true),
            Flags::Result(r, n) => (r & mask(n), 0, n, false),
        };
        let shift = 64 - 8 * size.clamp(1, 8);
        let (sa, sb) = ((a << shift) as i64, (b << shift) as i64);
        Some(match c {
            C::e => a == b,
            C::ne => a != b,
            C::s => ((a.wrapping_sub(b) << shift) as i64) < 0,
            C::ns => ((a.wrapping_sub(b) << shift) as i64) >= 0,
            _ if !full => return None,
            C::l => sa < sb,
            C::le => sa <= sb,
            C::g => sa > sb,
            C::ge => sa >= sb,
            C::b => a < b,
            C::be => a <= b,
            C::a => a > b,
            C::ae => a >= b,
            _ => return None,
        })
    }

    /// A call: everything but the stack pointer is lost.
    pub fn forget(s: &mut State) {
        let sp = s.regs[RSP];
        s.regs = [None; 16];
        s.regs[RSP] = sp;
        s.xmm = [None; 16];
        s.xmm[15] = Some(0);
        s.flags = Flags::Unknown;
    }

    /// Everything that does not change the course.
    pub fn plain(&mut self, s: &mut State, i: &Instruction) {
        use Mnemonic as M;
        match i.mnemonic() {
            M::Nop | M::Endbr64 | M::Prefetcht0 | M::Prefetchnta | M::Pause => {}
            // `xchg ax,ax` is the assembler's no-op.
            M::Xchg if i.op0_kind() == OpKind::Register && i.op0_register() == i.op1_register() => {}
            M::Mov | M::Movzx => {
                let v = self.operand(s, i, 1);
                self.assign(s, i, v);
            }
            M::Movsx | M::Movsxd => {
                let shift = 64 - 8 * Self::size(i, 1).clamp(1, 8);
                let v = self.operand(s, i, 1).map(|v| ((v << shift) as i64 >> shift) as u64);
                self.assign(s, i, v);
            }
            M::Lea => {
                let v = self.address(s, i);
                self.assign(s, i, v);
            }
            M::Push => {
                let v = self.operand(s, i, 0);
                if let Some(sp) = s.regs[RSP].map(|sp| sp.wrapping_sub(8)) {
                    s.regs[RSP] = Some(sp);
                    self.store(s, sp, 8, v);
                }
            }
            M::Pop => {
                if let Some(sp) = s.regs[RSP] {
                    let v = self.load(s, sp, 8);
                    s.regs[RSP] = Some(sp.wrapping_add(8));
                    self.assign(s, i, v);
                }
            }
            M::Cmp | M::Test => {
                let n = Self::size(i, 0);
                s.flags = match (self.operand(s, i, 0), self.operand(s, i, 1)) {
                    (Some(a), Some(b)) if i.mnemonic() == M::Cmp => Flags::Compare(a, b, n),
                    (Some(a), Some(b)) => Flags::Compare(a & b & mask(n), 0, n),
                    _ => Flags::Unknown,
                };
            }
            M::Xor | M::Sub
                if i.op0_kind() == OpKind::Register
                    && i.op1_kind() == OpKind::Register
                    && i.op0_register() == i.op1_register() =>
            {
                s.set(i.op0_register(), Some(0));
                s.flags = Flags::Compare(0, 0, 8);
            }
            M::Add | M::Sub | M::And | M::Or | M::Xor if !i.has_lock_prefix() => {
                let n = Self::size(i, 0);
                let v = match (self.operand(s, i, 0), self.operand(s, i, 1)) {
                    (Some(a), Some(b)) => {
                        let v = match i.mnemonic() {
                            M::Add => a.wrapping_add(b),
                            M::Sub => a.wrapping_sub(b),
                            M::And => a & b,
                            M::Or => a | b,
                            _ => a ^ b,
                        } & mask(n);
                        s.flags = match i.mnemonic() {
                            M::Sub => Flags::Compare(a, b, n),
                            M::Add => Flags::Result(v, n),
                            _ => Flags::Compare(v, 0, n),
                        };
                        Some(v)
                    }
                    _ => {
                        s.flags = Flags::Unknown;
                        None
                    }
                };
                self.assign(s, i, v);
            }
            M::Shl | M::Shr => {
                let n = Self::size(i, 0);
                let v = self.operand(s, i, 0).zip(self.operand(s, i, 1)).map(|(a, by)| {
                    let by = (by & if n == 8 { 63 } else { 31 }) as u32;
                    (if i.mnemonic() == M::Shl { a << by } else { a >> by }) & mask(n)
                });
                s.flags = Flags::Unknown;
                self.assign(s, i, v);
            }
            M::Inc | M::Dec if !i.has_lock_prefix() => {
                let n = Self::size(i, 0);
                let step = if i.mnemonic() == M::Inc { 1 } else { u64::MAX };
                let v = self.operand(s, i, 0).map(|a| a.wrapping_add(step) & mask(n));
                s.flags = v.map_or(Flags::Unknown, |v| Flags::Result(v, n));
                self.assign(s, i, v);
            }
            M::Movups | M::Movaps | M::Movdqu | M::Movdqa | M::Movq | M::Movd if i.op_count() == 2 => self.vector(s, i),
            _ => self.other(s, i),
        }
    }

    /// Copies through vector registers: zeroing, pairs of words, spills.
    fn vector(&mut self, s: &mut State, i: &Instruction) {
        let n = if matches!(i.mnemonic(), Mnemonic::Movq) {
            8
        } else if matches!(i.mnemonic(), Mnemonic::Movd) {
            4
        } else {
            16
        };
        let value: Option<u128> = match i.op1_kind() {
            OpKind::Register if i.op1_register().is_xmm() => s.xmm[i.op1_register().number() & 15],
            OpKind::Register => s.reg(i.op1_register()).map(u128::from),
            OpKind::Memory => self.address(s, i).and_then(|at| {
                let low = self.load(s, at, n.min(8))?;
                let high = if n == 16 { self.load(s, at.wrapping_add(8), 8)? } else { 0 };
                Some(u128::from(low) | u128::from(high) << 64)
            }),
            _ => None,
        };
        match i.op0_kind() {
            OpKind::Register if i.op0_register().is_xmm() => s.xmm[i.op0_register().number() & 15] = value,
            OpKind::Register => s.set(i.op0_register(), value.map(|v| v as u64)),
            OpKind::Memory => {
                if let Some(at) = self.address(s, i) {
                    self.store(s, at, n.min(8), value.map(|v| v as u64));
                    if n == 16 {
                        self.store(s, at.wrapping_add(8), 8, value.map(|v| (v >> 64) as u64));
                    }
                }
            }
            _ => {}
        }
    }

    /// An instruction whose result is not worked out: what it writes is not known.
    fn other(&mut self, s: &mut State, i: &Instruction) {
        let info = self.info.info(i);
        let writes = |a: OpAccess| {
            matches!(a, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
        };
        for r in info.used_registers().iter().filter(|r| writes(r.access())) {
            if r.register().is_xmm() || r.register().is_ymm() || r.register().is_zmm() {
                s.xmm[r.register().number() & 15] = None;
            } else {
                s.set(r.register().full_register(), None);
            }
        }
        let stores: Vec<(Register, u32)> = info
            .used_memory()
            .iter()
            .filter(|m| writes(m.access()))
            .map(|m| (m.base(), m.memory_size().size() as u32))
            .collect();
        for (_, n) in stores {
            if let Some(at) = self.address(s, i) {
                self.store(s, at, n, None);
            }
        }
        s.flags = Flags::Unknown;
    }
}
