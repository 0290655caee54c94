//! Reading another process's memory: process_vm_readv, and /proc/PID/mem where the kernel forbids that.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Most ranges one process_vm_readv call takes (UIO_MAXIOV).
pub const MAX_RANGES: usize = 1024;

/// Copies from `pid` into the buffers, range by range, in one system call. Answers the bytes copied: fewer than asked
/// for when a range (or a part of it) is not readable; copying stops there.
pub fn read_ranges(pid: u32, ranges: &mut [(u64, &mut [u8])]) -> io::Result<usize> {
    debug_assert!(ranges.len() <= MAX_RANGES);
    let local: Vec<libc::iovec> = ranges
        .iter_mut()
        .map(|(_, buf)| libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() })
        .collect();
    let remote: Vec<libc::iovec> = ranges
        .iter()
        .map(|(addr, buf)| libc::iovec { iov_base: *addr as *mut libc::c_void, iov_len: buf.len() })
        .collect();
    // SAFETY: the local vectors describe buffers that live, mutably borrowed, across the call; remote addresses are
    // only interpreted in the other process.
    let n = unsafe {
        libc::process_vm_readv(
            pid as libc::pid_t,
            local.as_ptr(),
            local.len() as libc::c_ulong,
            remote.as_ptr(),
            remote.len() as libc::c_ulong,
            0,
        )
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Reads through /proc/PID/mem.
pub fn read_mem_file(file: &File, addr: u64, buf: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(buf, addr)
}

/// Number of CPUs and page size of this machine.
pub fn page_size() -> u64 {
    // SAFETY: sysconf only reads a constant.
    let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if n > 0 { n as u64 } else { 4096 }
}
