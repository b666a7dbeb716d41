//! Two hints about memory that safe code cannot give. Neither changes what memory holds.

/// Begins to fetch the cache line of `value`. Changes nothing but time.
#[allow(unsafe_code)]
#[inline(always)]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults and changes no memory, whatever the address; this one is
        // that of a live reference. SSE is part of every x86_64 target.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages under large tables: fewer TLB misses while they are used, and they are given
/// back many times quicker when the process dies. False if the kernel refuses, which only costs time.
#[allow(unsafe_code)]
pub(super) fn prefer_huge_pages<T>(memory: &[T]) -> bool {
    let begin = memory.as_ptr().addr();
    let (first, end) = (begin.next_multiple_of(HUGE_PAGE), begin + size_of_val(memory));
    let Some(length) = end.checked_sub(first).filter(|length| *length >= HUGE_PAGE) else {
        return true; // too small to matter
    };
    let pages = memory.as_ptr().with_addr(first).cast_mut().cast();
    // SAFETY: the range lies within the borrowed slice, and MADV_HUGEPAGE changes neither its
    // contents nor its protection.
    unsafe { libc::madvise(pages, length, libc::MADV_HUGEPAGE) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_leave_memory_alone() {
        let memory = vec![7u64; 3 * HUGE_PAGE / 8];
        prefetch(&memory[0]);
        prefer_huge_pages(&memory);
        prefer_huge_pages::<u64>(&[]);
        assert!(memory.iter().all(|word| *word == 7));
    }
}
