//! Gives freed memory back to the system.
//!
//! glibc keeps what is freed below something that is still used, in every arena: of 300 MiB of messages 230 to 290 MiB were resident
//! 15 s after they had gone. A node judges by what is resident whether it can take more, so it might never take more again.
//! jemalloc left 80 MiB, but needs more to be built than a C compiler; with mimalloc 3 a node did not come below its mark in the time that
//! the tests of overload give it.
//!
//! Elsewhere there is nothing to do: musl and the allocators of other systems give memory back themselves, or offer no such call.

/// Gives freed memory back, all of it. That takes some ten milliseconds for each 100 MiB, during which others who allocate may wait.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::malloc_trim(0);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    #![expect(unsafe_code, reason = "measured, see the documentation of the crate")]

    // SAFETY: this is how malloc.h of glibc declares it. It may be called at any time by any thread.
    unsafe extern "C" {
        /// Returns 1 where some memory was given back.
        pub(super) safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::{fs, thread};

    use super::*;

    #[test]
    fn what_is_freed_goes_back_though_some_above_it_is_used() {
        let fill = || -> Vec<Vec<u8>> {
            let blocks: Vec<Vec<u8>> = (0..50_000).map(|number| vec![1; 200 + number % 1_000]).collect();
            blocks.into_iter().step_by(500).collect()
        };
        let kept: Vec<_> = (0..4).map(|_| thread::spawn(fill)).collect();
        let kept: Vec<Vec<Vec<u8>>> =
            kept.into_iter().map(|thread| thread.join().expect("it ends")).collect();
        let before = resident_pages();
        trim();
        let after = resident_pages();
        assert!(after < before / 2, "{after} pages of {before}");
        assert!(kept.iter().flatten().flatten().all(|byte| *byte == 1));
    }

    fn resident_pages() -> u64 {
        let statm = fs::read_to_string("/proc/self/statm").expect("it is Linux");
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number")
    }
}
