//! [`PanicWatch`]: whether a VM whose kernel has said its last word is dead.
//!
//! A Linux kernel that panics without a driver of pvpanic, and without being told to restart (`panic=0`, the usual
//! setting), ends its report with a line of its own and then turns in a circle for ever, with interrupts on. The line
//! alone proves nothing: whoever looks at an old log on the console says it, too. But that guest says something else
//! soon, or runs a program, or halts and waits. One that does none of these through several turns and for some time is
//! dead.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How long it has to be silent.
const SILENCE_NS: u64 = 2_000_000_000;
/// How many turns of its vCPUs it has to spend in its circle.
const TURNS: u32 = 4;
const OFF: u64 = u64::MAX;

/// What a vCPU was found doing at the end of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// It runs a program, or waits for interrupts: its kernel lives.
    Alive,
    /// It runs code of the kernel.
    Busy,
    /// It has stopped, and no interrupt starts it again: as those CPUs do that have not panicked themselves.
    Stopped,
}

/// The watch over one VM. Written under the lock of its console, and by its vCPUs.
#[derive(Debug)]
pub struct PanicWatch {
    /// The VM's time when the last word was said; [`OFF`] where it was not the last.
    since_ns: AtomicU64,
    /// Turns since then that ended in the kernel.
    turns: AtomicU32,
}

impl Default for PanicWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl PanicWatch {
    /// Nothing to be watched.
    pub const fn new() -> Self {
        Self {
            since_ns: AtomicU64::new(OFF),
            turns: AtomicU32::new(0),
        }
    }

    /// The last word of a panic was said.
    pub fn begin(&self, now_ns: u64) {
        self.turns.store(0, Ordering::Relaxed);
        self.since_ns.store(now_ns, Ordering::Relaxed);
    }

    /// It was not the last.
    #[inline]
    pub fn end(&self) {
        self.since_ns.store(OFF, Ordering::Relaxed);
    }

    /// Whether vCPUs are to be looked at.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.since_ns.load(Ordering::Relaxed) != OFF
    }

    /// A vCPU was looked at; whether the VM is dead.
    pub fn look(&self, sight: Sight, now_ns: u64) -> bool {
        match sight {
            Sight::Alive => self.end(),
            Sight::Stopped => {}
            Sight::Busy => {
                let turns = self.turns.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                let since_ns = self.since_ns.load(Ordering::Relaxed);
                return since_ns != OFF
                    && turns >= TURNS
                    && now_ns.saturating_sub(since_ns) >= SILENCE_NS;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_kernel_that_turns_in_a_circle_is_dead_after_a_while() {
        let watch = PanicWatch::new();
        assert!(!watch.is_on());
        watch.begin(10 * S);
        assert!(watch.is_on());
        for tenth in 1..20 {
            assert!(!watch.look(Sight::Busy, 10 * S + tenth * S / 10));
        }
        assert!(watch.look(Sight::Busy, 12 * S));
    }

    #[test]
    fn cpus_that_have_stopped_say_nothing_about_the_one_that_has_not() {
        let watch = PanicWatch::new();
        watch.begin(0);
        for _ in 0..TURNS - 1 {
            assert!(!watch.look(Sight::Stopped, 20 * S));
            assert!(!watch.look(Sight::Busy, 20 * S));
        }
        assert!(!watch.look(Sight::Stopped, 20 * S));
        assert!(watch.look(Sight::Busy, 20 * S));
    }

    #[test]
    fn a_program_that_runs_or_a_cpu_that_waits_is_life() {
        let watch = PanicWatch::new();
        watch.begin(0);
        assert!(!watch.look(Sight::Busy, S));
        assert!(!watch.look(Sight::Alive, S));
        assert!(!watch.is_on());
        for _ in 0..10 {
            assert!(!watch.look(Sight::Busy, 100 * S));
        }
    }

    #[test]
    fn a_vm_that_says_more_lives_and_can_die_later() {
        let watch = PanicWatch::new();
        watch.begin(0);
        for _ in 0..10 {
            watch.look(Sight::Busy, S);
        }
        watch.end();
        assert!(!watch.look(Sight::Busy, 5 * S));
        watch.begin(6 * S);
        assert!(!watch.look(Sight::Busy, 9 * S), "its turns count anew");
    }

    #[test]
    fn a_vm_that_hardly_gets_a_turn_is_given_time() {
        let watch = PanicWatch::new();
        watch.begin(0);
        assert!(!watch.look(Sight::Busy, 1000 * S));
    }
}
