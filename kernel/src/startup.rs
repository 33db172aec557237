//! How long bring-up takes: the TSC at the end of each phase, told in one line once the first guest has run.
//!
//! The last phase ends with the first turn of the first vCPU, right before its VM entry. Turns look at one word for this,
//! exits at nothing.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::hw::clock;
use crate::memory;

/// The phases, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// From the first instruction until something can be logged.
    Console,
    /// The memory map, frames, the hypervisor's own address space.
    Memory,
    /// ACPI, clocks, interrupt controllers.
    Platform,
    /// The other CPUs.
    Cpus,
    /// VT-x on all of them.
    Vtx,
    /// Memory and vCPUs of all guests that start by themselves.
    Guests,
    /// From there to the first entry of a guest, whichever it is.
    Entry,
}

impl Phase {
    const ALL: [Self; 7] = [
        Self::Console,
        Self::Memory,
        Self::Platform,
        Self::Cpus,
        Self::Vtx,
        Self::Guests,
        Self::Entry,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Memory => "memory",
            Self::Platform => "platform",
            Self::Cpus => "cpus",
            Self::Vtx => "vt-x",
            Self::Guests => "guests",
            Self::Entry => "entry",
        }
    }
}

/// The TSC at the first instruction, and at the end of each phase. The boot CPU writes them, but for the last, which is
/// whose vCPU is first.
static ENTRY: AtomicU64 = AtomicU64::new(0);
static ENDS: [AtomicU64; Phase::ALL.len()] = [const { AtomicU64::new(0) }; Phase::ALL.len()];
/// What was in use before there were guests.
static OWN_BYTES: AtomicU64 = AtomicU64::new(0);

/// At the first instruction.
pub(crate) fn begin() {
    ENTRY.store(clock::tsc(), Ordering::Relaxed);
}

/// At the end of a phase.
pub(crate) fn end(phase: Phase) {
    ENDS[phase as usize].store(clock::tsc(), Ordering::Relaxed);
    if phase == Phase::Vtx {
        OWN_BYTES.store(memory::used_bytes(), Ordering::Relaxed);
    }
}

/// A vCPU is about to be entered at this time.
#[inline(always)]
pub(crate) fn entering(tsc: u64) {
    if ENDS[Phase::Entry as usize].load(Ordering::Relaxed) == 0 {
        first_entry(tsc);
    }
}

#[cold]
#[inline(never)]
fn first_entry(tsc: u64) {
    // Whoever loses was later.
    let _ =
        ENDS[Phase::Entry as usize].compare_exchange(0, tsc, Ordering::Relaxed, Ordering::Relaxed);
}

/// Logs the line, which `cargo xtask bench` reads, once a guest has been entered. For the boot CPU, between turns.
pub(crate) fn report_when_done() {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if IS_TOLD.load(Ordering::Relaxed) || ENDS[Phase::Entry as usize].load(Ordering::Relaxed) == 0 {
        return;
    }
    IS_TOLD.store(true, Ordering::Relaxed);
    log::info!(target: "startup", "{Ticks}; {} KiB in use before the guests", OWN_BYTES.load(Ordering::Relaxed) >> 10);
}

/// `123 ticks: console 1, memory 2, ...`
struct Ticks;

impl fmt::Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = ENTRY.load(Ordering::Relaxed);
        let end_of = |phase: Phase| ENDS[phase as usize].load(Ordering::Relaxed);
        write!(f, "{} ticks: ", end_of(Phase::Entry).wrapping_sub(entry))?;
        let mut from = entry;
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let to = end_of(phase);
            write!(f, "{separator}{} {}", phase.name(), to.wrapping_sub(from))?;
            from = to;
        }
        Ok(())
    }
}
