//! [`StartPlace`]: what a CPU finds that is being started, and who decides when it is too late.
//!
//! Each CPU has a place of its own, which it knows by its APIC ID and which is never given to another one: whenever it
//! starts, it finds nothing that is meant for somebody else. The boot CPU waits for some time and then gives it up;
//! the CPU comes in when it is ready. Both do so by one exchange, so that it is either in or out and both know.

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// No CPU has it: the broadcast in x2APIC mode.
const NOBODY: u32 = u32::MAX;

/// The place of one CPU. Its first steps read it where there is no stack yet, by the offsets below.
#[derive(Debug)]
#[repr(C)]
pub struct StartPlace {
    apic_id: AtomicU32,
    /// Whether it has come in, or was given up.
    is_decided: AtomicBool,
    /// Taken by the CPU, which leaves zero.
    stack_top: AtomicU64,
}

impl Default for StartPlace {
    fn default() -> Self {
        Self::new()
    }
}

impl StartPlace {
    /// Where the APIC ID is that the CPU compares with its own.
    pub const APIC_ID: usize = offset_of!(Self, apic_id);
    /// Where the top of its stack is, which it exchanges for zero; where that was zero before, it halts.
    pub const STACK_TOP: usize = offset_of!(Self, stack_top);

    /// Nobody's.
    pub const fn new() -> Self {
        Self {
            apic_id: AtomicU32::new(NOBODY),
            is_decided: AtomicBool::new(false),
            stack_top: AtomicU64::new(0),
        }
    }

    /// Makes it the place of the CPU with this APIC ID, which is started next.
    pub fn offer(&self, apic_id: u32, stack_top: u64) {
        self.stack_top.store(stack_top, Ordering::Relaxed);
        self.apic_id.store(apic_id, Ordering::Release);
    }

    /// The CPU is ready. False where it was given up: it must not go on.
    #[must_use]
    pub fn come_in(&self) -> bool {
        !self.is_decided.swap(true, Ordering::AcqRel)
    }

    /// The CPU has had its time. False where it has come in at the very end.
    #[must_use]
    pub fn give_up(&self) -> bool {
        let is_given_up = !self.is_decided.swap(true, Ordering::AcqRel);
        if is_given_up {
            self.stack_top.store(0, Ordering::Relaxed);
        }
        is_given_up
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    /// What the first steps of a CPU do.
    fn take_stack(places: &[StartPlace], apic_id: u32) -> Option<u64> {
        let place = places
            .iter()
            .find(|place| place.apic_id.load(Ordering::Acquire) == apic_id)?;
        let stack_top = place.stack_top.swap(0, Ordering::AcqRel);
        (stack_top != 0).then_some(stack_top)
    }

    #[test]
    fn a_cpu_that_starts_late_does_not_take_the_stack_of_the_next_one() {
        let places = [const { StartPlace::new() }; 4];
        places[0].offer(4, 0x1000);
        assert!(places[0].give_up());
        places[1].offer(6, 0x2000);
        assert_eq!(take_stack(&places, 4), None, "it was given up");
        assert_eq!(take_stack(&places, 6), Some(0x2000));
        assert_eq!(take_stack(&places, 6), None, "once");
        assert!(places[1].come_in() && !places[1].give_up());
        assert_eq!(take_stack(&places, 9), None, "nobody has called it");
    }

    #[test]
    fn a_cpu_that_has_its_stack_when_it_is_given_up_does_not_come_in() {
        let place = StartPlace::new();
        place.offer(1, 0x1000);
        assert_eq!(take_stack(core::slice::from_ref(&place), 1), Some(0x1000));
        assert!(place.give_up());
        assert!(!place.come_in());
    }

    #[test]
    fn a_cpu_that_arrives_as_it_is_given_up_is_in_or_out_and_both_know() {
        for _ in 0..500 {
            let place = StartPlace::new();
            let (is_in, is_out) = std::thread::scope(|scope| {
                let arriving = scope.spawn(|| place.come_in());
                (place.give_up(), arriving.join().unwrap())
            });
            assert_ne!(is_in, is_out);
        }
    }

    #[test]
    fn the_first_steps_find_what_they_look_for() {
        assert_eq!((StartPlace::APIC_ID, StartPlace::STACK_TOP), (0, 8));
        assert_eq!(size_of::<StartPlace>(), 16);
    }
}
