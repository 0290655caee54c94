//! ptrace in the form that disturbs least: SEIZE and INTERRUPT, stops looked at without consuming them.
//!
//! A stop is observed with waitid(WNOWAIT). That matters for signal-delivery stops: once a tracer has *consumed* such a
//! stop, the kernel forgets the signal unless the tracer passes it on; left unconsumed, the signal is delivered even if
//! the tracer is killed with SIGKILL (kernel/signal.c ptrace_stop, kernel/exit.c wait_task_stopped). Go's scheduler
//! never recovers from a lost SIGURG.

use std::io;

use crate::{base::Addr, target::Registers};

/// PTRACE_EVENT_STOP, absent from some libc versions.
const EVENT_STOP: i32 = 128;

/// What state a traced thread is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Not stopped yet.
    Running,
    /// Stopped by INTERRUPT or by a group stop: nothing was consumed.
    Event,
    /// Stopped on the way to a signal handler: this signal must be given back when it goes on.
    Signal(i32),
    /// The thread is gone.
    Exited,
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the C library calls an operation of ptrace: its own header decides.
#[cfg(target_env = "musl")]
type Operation = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Operation = libc::c_uint;

fn request(op: Operation, tid: u32, addr: usize, data: usize) -> io::Result<()> {
    // SAFETY: every operation passed here takes plain numbers, or `data` points to memory that the caller keeps alive.
    check(unsafe { libc::ptrace(op, tid as libc::pid_t, addr, data) })
}

/// Attaches without stopping the thread. `options` are PTRACE_O_* bits.
pub fn seize(tid: u32, options: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, options as usize)
}

pub fn interrupt(tid: u32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Lets the thread go for good; `signal` (0 for none) is delivered with its original siginfo.
pub fn detach(tid: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize)
}

/// Looks at the thread without consuming its stop.
pub fn look(tid: u32) -> io::Result<Stop> {
    wait(tid, libc::WSTOPPED | libc::WNOWAIT)
}

/// Takes note of a thread's exit, so that the kernel can forget it. `Running`: it has not ended, and nothing happened.
pub fn reap(tid: u32) -> io::Result<Stop> {
    wait(tid, 0)
}

fn wait(tid: u32, flags: i32) -> io::Result<Stop> {
    // SAFETY: an all-zero siginfo_t is valid, and waitid only writes into it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::__WALL | flags;
    // SAFETY: `info` outlives the call.
    let r = unsafe { libc::waitid(libc::P_PID, tid, &raw mut info, options) };
    if r == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the child-status part of the union (or left it zero).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(Stop::Running);
    }
    Ok(match info.si_code {
        libc::CLD_TRAPPED | libc::CLD_STOPPED if status >> 8 == EVENT_STOP => Stop::Event,
        libc::CLD_TRAPPED | libc::CLD_STOPPED if status >> 8 == 0 => Stop::Signal(status & 0xff),
        libc::CLD_TRAPPED | libc::CLD_STOPPED => Stop::Event,
        _ => Stop::Exited,
    })
}

/// What a wait that takes the stop away found. Only for threads whose stops this tool caused itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Running,
    /// Entry or exit of a system call (PTRACE_O_TRACESYSGOOD).
    Syscall,
    /// PTRACE_EVENT_*: clone, INTERRUPT and the like.
    Event(i32),
    Signal(i32),
    Exited,
}

pub const EVENT_CLONE: i32 = libc::PTRACE_EVENT_CLONE;
pub const EVENT_INTERRUPT: i32 = EVENT_STOP;
pub const OPTION_SYSGOOD: i32 = libc::PTRACE_O_TRACESYSGOOD;
pub const OPTION_CLONE: i32 = libc::PTRACE_O_TRACECLONE;
pub const OPTION_EXITKILL: i32 = libc::PTRACE_O_EXITKILL;

/// Waits for nothing; takes the stop that there is.
pub fn take(tid: u32) -> io::Result<Taken> {
    // SAFETY: an all-zero siginfo_t is valid, and waitid only writes into it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::__WALL;
    // SAFETY: `info` outlives the call.
    if unsafe { libc::waitid(libc::P_PID, tid, &raw mut info, options) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the child-status part of the union (or left it zero).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if pid == 0 => Taken::Running,
        libc::CLD_TRAPPED | libc::CLD_STOPPED if status == libc::SIGTRAP | 0x80 => Taken::Syscall,
        libc::CLD_TRAPPED | libc::CLD_STOPPED if status >> 8 != 0 => Taken::Event(status >> 8),
        libc::CLD_TRAPPED | libc::CLD_STOPPED => Taken::Signal(status & 0xff),
        _ => Taken::Exited,
    })
}

/// Lets a stopped thread run up to the next entry or exit of a system call.
pub fn to_syscall(tid: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize)
}

pub fn resume(tid: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize)
}

pub fn set_options(tid: u32, options: i32) -> io::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize)
}

/// The number that belongs to the event of this stop: the child's id after a clone.
pub fn event_message(tid: u32) -> io::Result<u64> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).expose_provenance())?;
    Ok(message)
}

/// PTRACE_GETSIGMASK and PTRACE_SETSIGMASK (linux/ptrace.h).
const GETSIGMASK: Operation = 0x420a;
const SETSIGMASK: Operation = 0x420b;

/// Signals that the thread blocks, one bit each.
pub fn signal_mask(tid: u32) -> io::Result<u64> {
    let mut mask = 0u64;
    request(GETSIGMASK, tid, 8, (&raw mut mask).expose_provenance())?;
    Ok(mask)
}

pub fn set_signal_mask(tid: u32, mask: u64) -> io::Result<()> {
    request(SETSIGMASK, tid, 8, (&raw const mask).expose_provenance())
}

/// Sets the general registers, in the form of `general_registers`.
pub fn set_general_registers(tid: u32, words: &[u64]) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: words.as_ptr().cast_mut().cast(), iov_len: 8 * words.len() };
    // SAFETY: `iov` and the words behind it live across the call; the kernel only reads them.
    check(unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid as libc::pid_t, NT_PRSTATUS, &raw mut iov) })
}

/// Ends a process at once.
pub fn kill(pid: u32) -> io::Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) } == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Leaves the session and process group of the parent, so that signals to those do not reach this process.
pub fn own_session() {
    // SAFETY: no arguments; fails only for a group leader, which a fresh child is not.
    unsafe { libc::setsid() };
}

const NT_PRSTATUS: usize = 1;
const NT_FPREGSET: usize = 2;

/// Raw register set `kind` of a stopped thread.
fn regset(tid: u32, kind: usize, buf: &mut [u8]) -> io::Result<usize> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `iov` and the buffer behind it live across the call; the kernel writes at most iov_len bytes.
    check(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid as libc::pid_t, kind, &raw mut iov) })?;
    Ok(iov.iov_len)
}

/// General registers as the kernel's user_regs_struct (27 words on amd64, 34 on arm64).
pub fn general_registers(tid: u32) -> io::Result<Vec<u64>> {
    let mut buf = [0u8; 512];
    let n = regset(tid, NT_PRSTATUS, &mut buf)?;
    Ok(buf[..n].chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunks of eight"))).collect())
}

/// Floating point registers as the kernel writes them into a core.
pub fn fp_registers(tid: u32) -> io::Result<Vec<u8>> {
    let mut buf = vec![0u8; 4096];
    let n = regset(tid, NT_FPREGSET, &mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

/// Names the general registers of user_regs_struct. `None` if the block is too short.
#[must_use]
pub fn decode_amd64(words: &[u64]) -> Option<Registers> {
    // r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs
    let at = |i: usize| words.get(i).copied();
    Some(Registers {
        pc: Addr(at(16)?),
        sp: Addr(at(19)?),
        fp: Addr(at(4)?),
        lr: Addr::NULL,
        g: Addr(at(1)?),
        tls: Addr(at(21)?),
        general: words.to_vec(),
    })
}

/// The same for arm64: x0..x30, sp, pc, pstate.
#[must_use]
pub fn decode_arm64(words: &[u64]) -> Option<Registers> {
    let at = |i: usize| words.get(i).copied();
    Some(Registers {
        pc: Addr(at(32)?),
        sp: Addr(at(31)?),
        fp: Addr(at(29)?),
        lr: Addr(at(30)?),
        g: Addr(at(28)?),
        tls: Addr::NULL,
        general: words.to_vec(),
    })
}
