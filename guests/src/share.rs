//! How much of a CPU a guest gets, measured by itself.
//!
//! Work comes in batches that are short against a turn. The quickest of them is what a batch costs while nobody
//! takes the CPU away; so many of those fit into the time that all have taken, and so many were done.

use core::fmt;

use crate::cpu::rdtsc;
use crate::x86;

/// Rounds of the loop in a batch.
const BATCH_ROUNDS: u64 = 500;

/// The work so far.
pub struct Share {
    batches: u64,
    ticks: u64,
    quickest_ticks: u64,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            batches: 0,
            ticks: 0,
            quickest_ticks: u64::MAX,
        }
    }
}

impl Share {
    /// Does some batches, one right after the other.
    pub fn work(&mut self, batches: u64) {
        let mut began = rdtsc();
        for _ in 0..batches {
            x86!("2: dec {}", "jnz 2b", inout(reg) BATCH_ROUNDS => _, options(nomem, nostack));
            let ended = rdtsc();
            let ticks = ended - began;
            began = ended;
            self.batches += 1;
            self.ticks += ticks;
            self.quickest_ticks = self.quickest_ticks.min(ticks);
        }
    }

    /// Thousandths of the time that the guest had a CPU for itself.
    pub fn thousandths(&self) -> u64 {
        self.parts(1000)
    }

    /// The same in millionths, for those that are many.
    pub fn millionths(&self) -> u64 {
        self.parts(1_000_000)
    }

    fn parts(&self, whole: u64) -> u64 {
        (self.batches * self.quickest_ticks * whole)
            .checked_div(self.ticks)
            .unwrap_or(0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} thousandths of a CPU", self.thousandths())
    }
}
