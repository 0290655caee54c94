//! Where the instructions of a function lead: calls, jumps, ends. Of amd64 and arm64 alike; what they do to registers and memory is
//! not told here (`analysis::locks::machine` does that, for amd64).

use iced_x86::{Decoder, DecoderOptions, FlowControl};

use super::{Func, Image};
use crate::{base::Addr, target::Arch};

/// Instructions of one function that are looked at.
const MAX_FUNCTION: usize = 1 << 17;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// The next instruction follows; so it does after calls through registers.
    Next,
    /// A direct call.
    Call(Addr),
    Jump(Addr),
    /// There, or on to the next one.
    Branch(Addr),
    /// A return, a trap or a jump through a register.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub pc: Addr,
    /// Of the instruction behind it.
    pub next: Addr,
    pub flow: Flow,
}

/// The steps of `code`, which lies at `base` in memory. Cost: one decoding pass.
pub fn steps(arch: Arch, code: &[u8], base: Addr) -> Vec<Step> {
    match arch {
        Arch::Amd64 => amd64(code, base),
        Arch::Arm64 => arm64(code, base),
    }
}

fn amd64(code: &[u8], base: Addr) -> Vec<Step> {
    let mut d = Decoder::with_ip(64, code, base.0, DecoderOptions::NONE);
    let mut out = Vec::new();
    while d.can_decode() && out.len() < MAX_FUNCTION {
        let i = d.decode();
        let to = Addr(i.near_branch_target());
        let flow = match i.flow_control() {
            FlowControl::Call if i.is_call_near() => Flow::Call(to),
            FlowControl::UnconditionalBranch => Flow::Jump(to),
            FlowControl::ConditionalBranch => Flow::Branch(to),
            FlowControl::Return | FlowControl::Exception | FlowControl::Interrupt | FlowControl::IndirectBranch => {
                Flow::End
            }
            _ => Flow::Next,
        };
        out.push(Step { pc: Addr(i.ip()), next: Addr(i.next_ip()), flow });
    }
    out
}

/// Arm Architecture Reference Manual, C4.1 (branches): offsets are signed and count instructions.
fn arm64(code: &[u8], base: Addr) -> Vec<Step> {
    let words = code.chunks_exact(4).take(MAX_FUNCTION).zip((base.0..).step_by(4));
    let step = |(raw, pc): (&[u8], u64)| {
        let w = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
        let to = |shift: u32, bits: u32| {
            let offset = ((w << (32 - bits - shift)) as i32) >> (32 - bits);
            Addr(pc.wrapping_add_signed(i64::from(offset) * 4))
        };
        let flow = match w >> 26 {
            0b10_0101 => Flow::Call(to(0, 26)),
            0b00_0101 => Flow::Jump(to(0, 26)),
            // b.cond; cbz, cbnz; tbz, tbnz.
            _ if w >> 24 == 0x54 || w >> 25 & 0x3f == 0x1a => Flow::Branch(to(5, 19)),
            _ if w >> 25 & 0x3f == 0x1b => Flow::Branch(to(5, 14)),
            // br, ret; brk; all zero between functions.
            _ if w & 0xffff_fc1f == 0xd61f_0000 || w & 0xffff_fc1f == 0xd65f_0000 => Flow::End,
            _ if w & 0xffe0_001f == 0xd420_0000 || w == 0 => Flow::End,
            _ => Flow::Next,
        };
        Step { pc: Addr(pc), next: Addr(pc.wrapping_add(4)), flow }
    };
    words.map(step).collect()
}

impl Image {
    /// The steps of one function; none where its code is not there.
    pub fn flow(&self, f: &Func<'_>) -> Vec<Step> {
        self.code_of(f).map(|code| steps(self.elf.arch, code, f.entry())).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(arch: Arch, code: &[u8]) -> Vec<Flow> {
        steps(arch, code, Addr(0x1000)).iter().map(|s| s.flow).collect()
    }

    /// Encodings as `objdump -d` shows them.
    #[test]
    fn branches_of_both() {
        let words: Vec<u8> = [
            0x9400_0002u32, // bl 0x1008
            0x17ff_ffff,    // b 0x1000
            0x5400_0040,    // b.eq 0x1010
            0xb4ff_ffa0,    // cbz x0, 0x1000
            0x3600_0040,    // tbz w0, #0, 0x1018
            0xd63f_0040,    // blr x2
            0xd61f_0040,    // br x2
            0xd65f_03c0,    // ret
            0xd420_0000,    // brk #0
            0xf940_0000,    // ldr x0, [x0]
        ]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
        let to = |a: u64| Addr(a);
        assert_eq!(
            flows(Arch::Arm64, &words),
            [
                Flow::Call(to(0x1008)),
                Flow::Jump(to(0x1000)),
                Flow::Branch(to(0x1010)),
                Flow::Branch(to(0x1000)),
                Flow::Branch(to(0x1018)),
                Flow::Next,
                Flow::End,
                Flow::End,
                Flow::End,
                Flow::Next,
            ]
        );
        // call 0x100a; jmp 0x1005; je 0x1009; call rax; ret
        let code = [0xe8, 5, 0, 0, 0, 0xeb, 0xfe, 0x74, 0, 0xff, 0xd0, 0xc3];
        assert_eq!(
            flows(Arch::Amd64, &code),
            [Flow::Call(to(0x100a)), Flow::Jump(to(0x1005)), Flow::Branch(to(0x1009)), Flow::Next, Flow::End]
        );
    }
}
