//! Stolen time: how long a vCPU was ready to run and another one had the CPU.
//!
//! The scheduler measures it; the guest reads the sum in its own memory, and accounts for its tasks with it. Beside
//! it a byte says whether the vCPU has been taken off its CPU at this moment, so that others of its VM do not spin
//! for what it holds.

use memory::{GuestMemory, GuestPhys};

use super::clock::versioned;

/// The sum, a version, flags, the byte, padding.
pub(super) const AREA_BYTES: usize = 64;
const VERSION_OFFSET: u64 = 8;
const PREEMPTED_OFFSET: u64 = 16;
const PREEMPTED: u8 = 1;
const RUNNING: u8 = 0;

/// The stolen time of one vCPU.
#[derive(Debug, Default)]
pub struct StealTime {
    area: Option<GuestPhys>,
    stolen_ns: u64,
}

impl StealTime {
    pub(super) const fn area(&self) -> Option<GuestPhys> {
        self.area
    }

    /// The guest wants to be told there, or no longer.
    pub(super) fn announce(&mut self, memory: &impl GuestMemory, area: Option<GuestPhys>) {
        self.area = area;
        self.running(memory, 0);
    }

    /// Its turn begins, `waited_ns` nanoseconds after it had become ready.
    #[inline]
    pub fn running(&mut self, memory: &impl GuestMemory, waited_ns: u64) {
        // What went before it asked is its own as well: a CPU that is watched from its start loses nothing by it.
        self.stolen_ns = self.stolen_ns.wrapping_add(waited_ns);
        let Some(area) = self.area else { return };
        versioned(memory, area.wrapping_add(VERSION_OFFSET), |memory| {
            // It was RAM when it was announced, and RAM it stays.
            let _ = memory.write(area, &self.stolen_ns.to_le_bytes());
        });
        let _ = memory.write(area.wrapping_add(PREEMPTED_OFFSET), &[RUNNING]);
    }

    /// Its turn is over, though it would go on.
    #[inline]
    pub fn preempted(&mut self, memory: &impl GuestMemory) {
        if let Some(area) = self.area {
            let _ = memory.write(area.wrapping_add(PREEMPTED_OFFSET), &[PREEMPTED]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeMemory;

    const AREA: u64 = 0x40;

    #[test]
    fn waits_add_up_and_the_version_stays_even() {
        let memory = FakeMemory::new(0x1000);
        let mut steal = StealTime::default();
        steal.running(&memory, 5);
        steal.announce(&memory, Some(GuestPhys::new(AREA)));
        assert_eq!(memory.read_u64(GuestPhys::new(AREA)), Ok(5));
        steal.preempted(&memory);
        assert_eq!(memory.get::<1>(AREA + 16), [1]);
        steal.running(&memory, 7);
        assert_eq!(memory.read_u64(GuestPhys::new(AREA)), Ok(12));
        assert_eq!(memory.get::<1>(AREA + 16), [0]);
        let version = memory.get_u32(AREA + 8);
        assert!(version >= 4 && version.is_multiple_of(2), "{version}");
        assert_eq!(memory.get_u32(AREA + 12), 0, "no flags");
    }

    #[test]
    fn nothing_is_written_for_a_guest_that_has_not_asked_or_asks_no_more() {
        let memory = FakeMemory::new(0x1000);
        let mut steal = StealTime::default();
        steal.running(&memory, 5);
        steal.preempted(&memory);
        steal.announce(&memory, Some(GuestPhys::new(AREA)));
        steal.announce(&memory, None);
        memory.put(AREA, &[0xee; AREA_BYTES]);
        steal.running(&memory, 5);
        steal.preempted(&memory);
        assert_eq!(memory.get::<AREA_BYTES>(AREA), [0xee; AREA_BYTES]);
    }
}
