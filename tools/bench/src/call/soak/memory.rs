// SPDX-License-Identifier: MPL-2.0
//! What a process takes, as the kernel and the C library see it.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, in KiB.
    pub rss_kib: u64,
    /// The same with shared pages divided among those who share them.
    pub pss_kib: u64,
    /// What was allocated by malloc and not freed, in KiB.
    pub heap_kib: u64,
    pub threads: u64,
    pub files: u64,
}

impl Memory {
    pub fn now() -> Self {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
        let count = |folder: &str| {
            std::fs::read_dir(folder).map_or(0, |entries| entries.flatten().count() as u64)
        };
        Self {
            rss_kib: field(&rollup, "Rss:"),
            pss_kib: field(&rollup, "Pss:"),
            heap_kib: heap() / 1024,
            threads: count("/proc/self/task"),
            files: count("/proc/self/fd"),
        }
    }
}

/// The value of a line such as `Pss:   1234 kB`.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn heap() -> u64 {
    // SAFETY: it only reads.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_seen() {
        let before = Memory::now();
        assert!(before.pss_kib > 0 && before.rss_kib >= before.pss_kib);
        assert!(before.threads >= 1 && before.files >= 3);
        // By mmap, and each page is touched.
        let held = vec![1u8; 64 << 20];
        let after = Memory::now();
        assert!(after.pss_kib >= before.pss_kib + (60 << 10), "{after:?}");
        assert!(after.heap_kib >= before.heap_kib + (60 << 10), "{after:?}");
        drop(held);
        assert_eq!(field("Rss: 12 kB\nPss:   7 kB\n", "Pss:"), 7);
        assert_eq!(field("", "Pss:"), 0);
    }
}
