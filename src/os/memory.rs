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

/// An empty vector with room for `n` elements, in huge pages where they are to be had: arrays that are read all over cost
/// fewer faults and fewer look-ups of pages then. What is not written takes up to 2 MiB more.
pub fn large<T>(n: usize) -> Vec<T> {
    let mut room: Vec<T> = Vec::with_capacity(n);
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let part = room.spare_capacity_mut();
        let from = (part.as_ptr() as usize).next_multiple_of(HUGE);
        let to = (part.as_ptr() as usize + size_of_val(part)) / HUGE * HUGE;
        if from < to {
            // SAFETY: the pages lie wholly in memory that `room` owns, and this changes nothing in them.
            unsafe {
                libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE);
            }
        }
    }
    room
}
