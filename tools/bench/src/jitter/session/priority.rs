// SPDX-License-Identifier: MPL-2.0
//! Before what else the machine does: to a jitter buffer, a process that waits
//! for a core is a network with jitter.

/// For the calling thread and all threads and processes that it starts. Whether
/// it was allowed.
pub fn real_time() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeros is a value of this plain structure.
        let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
        // The lowest is above all that is not real-time.
        param.sched_priority = 1;
        // SAFETY: 0 is the calling thread, and the call only reads `param`,
        // which outlives it.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const param) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// For the calling thread: as a plain program has it, so after the rest of a
/// process with real-time priority.
pub fn background() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeros is a value of this plain structure.
        let param: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: 0 is the calling thread, and the call only reads `param`,
        // which outlives it. Where it fails nothing has changed.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param) };
    }
}
