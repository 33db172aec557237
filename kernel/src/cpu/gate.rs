//! [`Gate`]: the last look of a CPU before it enters a guest.
//!
//! Whoever wants a CPU to look at what was left for it interrupts it, and a guest that runs there exits. While the
//! hypervisor runs, on its way to the next entry, an interrupt waits by itself and ends the guest's run before its first
//! instruction. An NMI does not wait: its handler has come and gone by then. So it closes the gate, and an entry that finds
//! the gate closed turns back. Between that look and the entry itself there are some instructions more; an NMI that
//! comes there has its handler return to where the entry turns back, as the table of [windows](turned_back) says.
//!
//! The word that says whether the gate is closed lies beside the backend's own about the next entry, and an entry
//! looks at both in one comparison: the gate costs no instruction.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use super::PerCpu;

/// Both words, which are read as one.
#[repr(C, align(8))]
pub(crate) struct Gate {
    /// What the next entry takes, as the backend has it. Written by its CPU, and by no handler there.
    flags: AtomicU32,
    /// Not 0: the next entry is to turn back. Set by the handler of NMIs on its CPU, cleared by the code that it
    /// interrupts.
    closed: AtomicU32,
}

impl Gate {
    /// Where a CPU's gate is, from the base of GS: the flags in the lower half of eight bytes.
    pub(crate) const OFFSET: usize = offset_of!(PerCpu, gate);
    /// The same of the word that is not 0 while it is closed.
    pub(crate) const CLOSED_OFFSET: usize = Self::OFFSET + offset_of!(Self, closed);

    pub(super) const fn new() -> Self {
        Self {
            flags: AtomicU32::new(0),
            closed: AtomicU32::new(0),
        }
    }

    /// What the next entry takes.
    #[inline]
    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Says what the next entry takes. To be called on the gate's CPU.
    #[inline]
    pub(crate) fn set_flags(&self, flags: u32) {
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// The next entry turns back.
    pub(super) fn close(&self) {
        self.closed.store(1, Ordering::Relaxed);
    }

    /// The next entry happens. To be called before a look at all that others may have left: what comes after that look
    /// closes the gate again.
    pub(crate) fn open(&self) {
        self.closed.store(0, Ordering::Relaxed);
    }
}

/// Instructions between the look at the gate and the entry.
#[repr(C)]
struct Window {
    from: u64,
    /// Behind the last of them.
    to: u64,
    /// Where the entry turns back.
    back: u64,
}

unsafe extern "C" {
    static windows_start: Window;
    static windows_end: Window;
}

/// Where code goes on that an NMI has interrupted at `rip`, if it was about to enter a guest.
pub(super) fn turned_back(rip: u64) -> Option<u64> {
    let start = &raw const windows_start;
    let count = (&raw const windows_end as usize - start as usize) / size_of::<Window>();
    // SAFETY: the linker script sets the two symbols around the table, whose entries are three addresses each.
    let table = unsafe { core::slice::from_raw_parts(start, count) };
    table
        .iter()
        .find(|window| (window.from..window.to).contains(&rip))
        .map(|window| window.back)
}
