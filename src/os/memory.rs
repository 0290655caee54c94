//! Our own memory.

use std::sync::atomic::AtomicU32;

/// Gives freed memory back to the kernel. The C library keeps what was freed in pieces, and the large arrays that follow
/// are taken from the kernel anew: our peak would count both. Cost: a system call for each stretch of free pages.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks the processor to have an element at hand soon; beyond the end nothing happens. Of use where many elements that lie
/// anywhere are looked at one after another, and which ones is known in advance.
#[inline(always)]
pub fn fetch<T>(of: &[T], i: usize) {
    let Some(at) = of.get(i) else { return };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the address is that of an element; the instruction changes nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) std::ptr::from_ref(at), options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// An empty vector with room for `n` elements, in huge pages where they are to be had: arrays that are read all over cost
/// fewer faults and fewer look-ups of pages then. What is not written takes up to 2 MiB more.
pub fn large<T>(n: usize) -> Vec<T> {
    let mut room: Vec<T> = Vec::with_capacity(n);
    in_huge_pages(room.spare_capacity_mut());
    room
}

/// The same numbers for several threads to write.
pub fn atomic(values: Vec<u32>) -> Vec<AtomicU32> {
    let values = std::mem::ManuallyDrop::new(values);
    // SAFETY: the vector is not used any more, and its elements have the size, alignment and bits of the new ones.
    unsafe { Vec::from_raw_parts(values.as_ptr().cast_mut().cast(), values.len(), values.capacity()) }
}

/// The numbers in a vector that no other thread writes any more.
pub fn plain(values: Vec<AtomicU32>) -> Vec<u32> {
    let values = std::mem::ManuallyDrop::new(values);
    // SAFETY: as in `atomic`.
    unsafe { Vec::from_raw_parts(values.as_ptr().cast_mut().cast(), values.len(), values.capacity()) }
}

/// The same for the room of an empty vector, of which little may be used: small ones are left as they are.
pub fn huge<T>(v: &mut Vec<T>) {
    const SMALLEST: usize = 32 << 20;
    if v.capacity().saturating_mul(size_of::<T>()) >= SMALLEST {
        in_huge_pages(v.spare_capacity_mut());
    }
}

fn in_huge_pages<T>(part: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let from = (part.as_ptr() as usize).next_multiple_of(HUGE);
        let to = (part.as_ptr() as usize + size_of_val(part)) / HUGE * HUGE;
        if from < to {
            // SAFETY: the pages lie wholly in memory that the caller owns, and this changes nothing in them.
            unsafe {
                libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE);
            }
        }
    }
}
