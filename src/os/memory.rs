//! Our own memory.

/// Gives freed memory back to the kernel. The C library keeps what was freed in pieces, and the large arrays that follow
/// are taken from the kernel anew: our peak would count both. Cost: a system call for each stretch of free pages.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
