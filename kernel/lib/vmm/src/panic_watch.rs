//! [`PanicWatch`]: whether a VM whose kernel has said its last word is dead.
//!
//! A Linux kernel that panics without a driver of pvpanic, and without being told to restart (`panic=0`, the usual
//! setting), ends its report with a line of its own and then turns in a circle for ever, with interrupts on: it waits for
//! a time to pass, looks at the TSC and pauses by turns. The line alone proves nothing: whoever looks at an old log on the
//! console says it, too. But that guest says something else soon, or runs a program, or halts and waits, or works in its
//! kernel, for however long, without a PAUSE. One that does none of these for some time, and pauses in the same few
//! instructions and one address space turn after turn, is dead. What would be taken for dead wrongly is a kernel that has
//! said the line last, and then waits in one place for four seconds without letting anything else run; on a guest's other
//! processors nothing runs meanwhile either.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How long it has to be silent.
const SILENCE_NS: u64 = 4_000_000_000;
/// By how many more turns of its vCPUs have to end in its circle than elsewhere: interrupts lead out of it for a moment.
const TURNS: u32 = 16;
/// How large the circle is at most, both ways from where it was found first.
const CIRCLE_BYTES: u64 = 256;
/// How long the turns of a vCPU are at most that has to be looked at, so that there are enough of them.
pub const LOOK_NS: u64 = 50_000_000;
const OFF: u64 = u64::MAX;

/// What a vCPU was found doing at the end of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// It runs a program, or waits for interrupts: its kernel lives.
    Alive,
    /// It pauses in code of the kernel, here and in this address space.
    Pausing {
        /// RIP.
        rip: u64,
        /// CR3.
        cr3: u64,
    },
    /// It runs code of the kernel that does not pause.
    Working,
    /// It has stopped, and no interrupt starts it again: as those CPUs do that have not panicked themselves.
    Stopped,
}

/// The watch over one VM. Written under the lock of its console, and by its vCPUs.
#[derive(Debug)]
pub struct PanicWatch {
    /// The VM's time when the last word was said; [`OFF`] where it was not the last.
    since_ns: AtomicU64,
    /// Where the circle seems to be, and CR3 in it.
    rip: AtomicU64,
    cr3: AtomicU64,
    /// By how many more turns since then have ended in the circle than elsewhere in the kernel.
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
            rip: AtomicU64::new(0),
            cr3: AtomicU64::new(0),
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
            Sight::Working => self.turn_elsewhere(),
            Sight::Pausing { rip, cr3 } => {
                let turns = self.turns_in_circle(rip, cr3);
                let since_ns = self.since_ns.load(Ordering::Relaxed);
                return since_ns != OFF
                    && turns >= TURNS
                    && now_ns.saturating_sub(since_ns) >= SILENCE_NS;
            }
        }
        false
    }

    /// Counts a turn that ended elsewhere than in the circle.
    fn turn_elsewhere(&self) {
        let turns = self.turns.load(Ordering::Relaxed).saturating_sub(1);
        self.turns.store(turns, Ordering::Relaxed);
    }

    /// Counts a turn that ended here. What other vCPUs count at the same time may be lost: they come again.
    fn turns_in_circle(&self, rip: u64, cr3: u64) -> u32 {
        let turns = self.turns.load(Ordering::Relaxed);
        let is_elsewhere = self.cr3.load(Ordering::Relaxed) != cr3;
        let is_in_circle = self.rip.load(Ordering::Relaxed).abs_diff(rip) <= CIRCLE_BYTES;
        let turns = if turns == 0 || is_elsewhere {
            self.rip.store(rip, Ordering::Relaxed);
            self.cr3.store(cr3, Ordering::Relaxed);
            1
        } else if is_in_circle {
            turns.saturating_add(1)
        } else {
            turns - 1
        };
        self.turns.store(turns, Ordering::Relaxed);
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const PAUSING: Sight = Sight::Pausing {
        rip: 0xffff_ffff_8100_0000,
        cr3: 0x1000,
    };

    /// Whether it is taken for dead within 20 seconds in which it is seen so, ten times a second.
    fn is_dead_when_seen(sight: impl Fn(u64) -> Sight) -> bool {
        let watch = PanicWatch::new();
        watch.begin(0);
        (1..200).any(|turn| watch.look(sight(turn), turn * S / 10))
    }

    /// The same of one that pauses in these places, each an RIP and a CR3.
    fn is_dead_when_it_pauses(place: impl Fn(u64) -> (u64, u64)) -> bool {
        is_dead_when_seen(|turn| {
            let (rip, cr3) = place(turn);
            Sight::Pausing { rip, cr3 }
        })
    }

    #[test]
    fn a_quiet_guest_in_one_long_loop_of_its_kernel_was_taken_for_dead() {
        // A large piece of memory that is cleared or copied, which takes no PAUSE.
        assert!(!is_dead_when_seen(|_| Sight::Working));
        // The same with a lock now and then, whose waiters pause.
        let now_and_then = |turn| {
            if turn % 3 == 0 {
                PAUSING
            } else {
                Sight::Working
            }
        };
        assert!(!is_dead_when_seen(now_and_then));
        // But a tick of the clock in the circle is no life.
        let ticks = |turn| {
            if turn % 3 == 0 {
                Sight::Working
            } else {
                PAUSING
            }
        };
        assert!(is_dead_when_seen(ticks));
    }

    #[test]
    fn a_quiet_guest_at_work_in_its_kernel_was_taken_for_dead() {
        assert!(!is_dead_when_it_pauses(|turn| (turn * 0x1000, 1)));
        // Two programs by turns in the same function of the kernel.
        assert!(!is_dead_when_it_pauses(|turn| (0x1000, turn / 8 % 2)));
        // Half of its time in one.
        assert!(!is_dead_when_it_pauses(|turn| (
            turn % 2 * turn * 0x1000,
            1
        )));
    }

    #[test]
    fn ticks_of_the_clock_do_not_hide_a_circle() {
        let tick = |turn| {
            if turn % 4 == 0 {
                0x9000 + turn * 0x1000
            } else {
                0x1000 + turn % 0x60
            }
        };
        assert!(is_dead_when_it_pauses(|turn| (tick(turn), 1)));
    }

    #[test]
    fn a_kernel_that_turns_in_a_circle_is_dead_after_a_while() {
        let watch = PanicWatch::new();
        assert!(!watch.is_on());
        watch.begin(10 * S);
        assert!(watch.is_on());
        for tenth in 1..40 {
            assert!(!watch.look(PAUSING, 10 * S + tenth * S / 10));
        }
        assert!(watch.look(PAUSING, 14 * S));
    }

    #[test]
    fn cpus_that_have_stopped_say_nothing_about_the_one_that_has_not() {
        let watch = PanicWatch::new();
        watch.begin(0);
        for _ in 0..TURNS - 1 {
            assert!(!watch.look(Sight::Stopped, 20 * S));
            assert!(!watch.look(PAUSING, 20 * S));
        }
        assert!(!watch.look(Sight::Stopped, 20 * S));
        assert!(watch.look(PAUSING, 20 * S));
    }

    #[test]
    fn a_program_that_runs_or_a_cpu_that_waits_is_life() {
        let watch = PanicWatch::new();
        watch.begin(0);
        assert!(!watch.look(PAUSING, S));
        assert!(!watch.look(Sight::Alive, S));
        assert!(!watch.is_on());
        for _ in 0..2 * TURNS {
            assert!(!watch.look(PAUSING, 100 * S));
        }
    }

    #[test]
    fn a_vm_that_says_more_lives_and_can_die_later() {
        let watch = PanicWatch::new();
        watch.begin(0);
        for _ in 0..2 * TURNS {
            watch.look(PAUSING, S);
        }
        watch.end();
        assert!(!watch.look(PAUSING, 5 * S));
        watch.begin(6 * S);
        assert!(!watch.look(PAUSING, 11 * S), "its turns count anew");
    }

    #[test]
    fn a_vm_that_hardly_gets_a_turn_is_given_time() {
        let watch = PanicWatch::new();
        watch.begin(0);
        assert!(!watch.look(PAUSING, 1000 * S));
    }
}
