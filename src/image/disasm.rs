//! image::disasm: which addresses the instructions of a function refer to. amd64: RIP-relative and absolute operands
//! (iced-x86); arm64: ADRP with the ADD, load or store behind it. Knows instructions, not what the addresses mean.

use iced_x86::{Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::{Func, Image};
use crate::{base::Addr, target::Arch};

/// How an instruction uses an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Takes the address itself (LEA, ADRP+ADD).
    Address,
    Load,
    /// Stores, or both (read-modify-write).
    Store,
}

/// One reference to a fixed address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Address of the instruction.
    pub pc: Addr,
    pub addr: Addr,
    pub how: Use,
    /// Bytes read or written; 0 for `Address`.
    pub size: u8,
}

/// Calls `found` for each reference in `code`, which lies at `base` in memory. Cost: one decoding pass.
pub fn references(arch: Arch, code: &[u8], base: Addr, found: impl FnMut(Reference)) {
    match arch {
        Arch::Amd64 => amd64(code, base, found),
        Arch::Arm64 => arm64(code, base, found),
    }
}

fn amd64(code: &[u8], base: Addr, mut found: impl FnMut(Reference)) {
    let mut decoder = Decoder::with_ip(64, code, base.0, DecoderOptions::NONE);
    let mut i = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut i);
        if i.memory_displ_size() < 4 {
            continue;
        }
        let absolute = match i.memory_base() {
            Register::RIP => true,
            // `table(SB)(AX*8)` in position-dependent code: the displacement is the address.
            Register::None => i.segment_prefix() == Register::None,
            // The same with the index in the base; small displacements are fields and never fall into data segments.
            _ => i.memory_displ_size() == 4 && i.memory_displacement64() >> 31 == 0,
        };
        if !absolute || !(0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
            continue;
        }
        let how = match i.mnemonic() {
            Mnemonic::Lea => Use::Address,
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Ucomisd | Mnemonic::Bt => Use::Load,
            _ if i.op0_kind() == OpKind::Memory => Use::Store,
            _ => Use::Load,
        };
        let size = if how == Use::Address { 0 } else { width(i.memory_size()) };
        found(Reference { pc: Addr(i.ip()), addr: Addr(i.memory_displacement64()), how, size });
    }
}

/// Bytes of an integer or float operand; 0 for what globals of the runtime are not accessed as (vectors, x87, ...).
fn width(size: MemorySize) -> u8 {
    use MemorySize::*;
    match size {
        UInt8 | Int8 => 1,
        UInt16 | Int16 => 2,
        UInt32 | Int32 | Float32 => 4,
        UInt64 | Int64 | Float64 | QwordOffset => 8,
        UInt128 | Packed128_Float32 | Packed128_Float64 | Packed128_Int64 | Packed128_UInt64 => 16,
        _ => 0,
    }
}

/// Instructions between ADRP and its use: the assembler puts them side by side, the compiler may schedule a few between.
const ADRP_REACH: u64 = 16;

fn arm64(code: &[u8], base: Addr, mut found: impl FnMut(Reference)) {
    // Per register: value it was given, and the pc up to which that is believed.
    let mut known = [(0u64, 0u64); 32];
    for (n, word) in code.chunks_exact(4).enumerate() {
        let w = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let pc = base.0.wrapping_add(4 * n as u64);
        let (rd, rn) = ((w & 31) as usize, (w >> 5 & 31) as usize);
        let value = |r: usize| (known[r].1 > pc).then_some(known[r].0);
        if w & 0x1f00_0000 == 0x1000_0000 {
            // ADR, ADRP: 21-bit signed immediate, split.
            let imm = i64::from((((w >> 5 & 0x7_ffff) << 2 | w >> 29 & 3) << 11) as i32 >> 11);
            if w >> 31 == 1 {
                known[rd] = ((pc & !0xfff).wrapping_add((imm << 12) as u64), pc + 4 * ADRP_REACH);
            } else {
                found(Reference { pc: Addr(pc), addr: Addr(pc.wrapping_add(imm as u64)), how: Use::Address, size: 0 });
            }
        } else if w & 0xff80_0000 == 0x9100_0000 {
            let imm = u64::from(w >> 10 & 0xfff) << if w >> 22 & 1 == 1 { 12 } else { 0 };
            match value(rn) {
                Some(v) => {
                    let addr = v.wrapping_add(imm);
                    found(Reference { pc: Addr(pc), addr: Addr(addr), how: Use::Address, size: 0 });
                    // Go 1.19 adds first and loads through the sum.
                    known[rd] = (addr, pc + 12);
                }
                None => known[rd].1 = 0,
            }
        } else if w & 0x3b00_0000 == 0x3900_0000 {
            // Load or store with an unsigned, scaled immediate.
            let vector = w >> 26 & 1 == 1;
            let scale = if vector && w >> 23 & 1 == 1 { 4 } else { w >> 30 };
            let store = if vector { w >> 22 & 1 == 0 } else { w >> 22 & 3 == 0 };
            if let Some(v) = value(rn) {
                let addr = v.wrapping_add(u64::from(w >> 10 & 0xfff) << scale);
                let how = if store { Use::Store } else { Use::Load };
                found(Reference { pc: Addr(pc), addr: Addr(addr), how, size: 1 << scale });
            }
            if !store && !vector {
                known[rd].1 = 0;
            }
        }
    }
}

impl Image {
    /// Machine code of a function (with the padding behind it).
    pub fn code_of(&self, f: &Func<'_>) -> Option<&[u8]> {
        let len = usize::try_from(f.end().distance_from(f.entry())?).ok()?;
        let code = self.code_from(f.entry())?;
        code.get(..len.min(code.len()))
    }

    /// What a function refers to inside the segments of global variables.
    pub fn global_references(&self, f: &Func<'_>) -> Vec<Reference> {
        let mut out = Vec::new();
        if let Some(code) = self.code_of(f) {
            references(self.elf.arch, code, f.entry(), |r| {
                if self.modules.iter().any(|m| m.is_global(r.addr)) {
                    out.push(r);
                }
            });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(arch: Arch, code: &[u8], base: u64) -> Vec<(u64, Use, u8)> {
        let mut out = Vec::new();
        references(arch, code, Addr(base), |r| out.push((r.addr.0, r.how, r.size)));
        out
    }

    /// Encodings as `objdump -d` shows them.
    #[test]
    fn amd64_operands() {
        // lea rax,[rip+0x10]; mov rcx,[rip+8]; cmp dword [rip+4],0; mov [rip+1],bl
        let code = [
            0x48, 0x8d, 0x05, 0x10, 0, 0, 0, 0x48, 0x8b, 0x0d, 8, 0, 0, 0, 0x83, 0x3d, 4, 0, 0, 0, 0, 0x88, 0x1d, 1, 0,
            0, 0,
        ];
        let at = |end: u64, disp: u64| 0x1000 + end + disp;
        assert_eq!(
            refs(Arch::Amd64, &code, 0x1000),
            [
                (at(7, 0x10), Use::Address, 0),
                (at(14, 8), Use::Load, 8),
                (at(21, 4), Use::Load, 4),
                (at(27, 1), Use::Store, 1)
            ]
        );
    }

    #[test]
    fn arm64_pairs() {
        // adrp x27, 0x3000 (from 0x1000); add x0, x27, #0x28; adrp x27, 0x3000; ldr x1, [x27, #0x30]; str w2, [x27, #8]
        let words: [u32; 5] = [0xd000_001b, 0x9100_a360, 0xd000_001b, 0xf940_1b61, 0xb900_0b62];
        let code: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(
            refs(Arch::Arm64, &code, 0x1000),
            [(0x3028, Use::Address, 0), (0x3030, Use::Load, 8), (0x3008, Use::Store, 4)]
        );
    }
}
