//! The last exits of whoever runs on each CPU, for the epitaph of a bug of ours.

use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use vmm::trace::Trace;

use crate::cpu;
use crate::cpu::smp::MAX_CPUS;

/// For each CPU the trace of the vCPU that it runs, for the epitaph. Written and read by the CPU itself only.
static RUNNING: [AtomicPtr<Trace>; MAX_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

/// While it lives, an epitaph of this CPU shows the exits of one vCPU.
pub(super) struct LastExits;

impl LastExits {
    pub(super) fn are_those_of(trace: *const Trace) -> Self {
        Self::slot().store(trace.cast_mut(), Ordering::Relaxed);
        Self
    }

    fn slot() -> &'static AtomicPtr<Trace> {
        &RUNNING[cpu::this().id().index()]
    }
}

impl Drop for LastExits {
    fn drop(&mut self) {
        Self::slot().store(ptr::null_mut(), Ordering::Relaxed);
    }
}

/// Writes down the last exits of the vCPU that this CPU runs, if it runs one. For a panic: takes no lock.
pub(crate) fn write_last_exits(out: &mut dyn Write) -> fmt::Result {
    let trace = LastExits::slot().load(Ordering::Relaxed);
    // SAFETY: the trace stands there only while `run` of its vCPU is on this CPU's stack, and this CPU is in the
    // middle of that; nobody writes to it any more.
    match unsafe { trace.as_ref() } {
        Some(trace) => write!(out, "{trace}"),
        None => writeln!(out, "  no guest was running"),
    }
}
