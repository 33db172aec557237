//! When the host's own timer is to be set for a guest: on processors whose VMX-preemption timer is missing, or wrong, it
//! ends the guest's turn, as an interrupt.

/// What is to be done about the timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the guest is entered until the timer fires"]
pub enum Order {
    /// Nothing: it is as it has to be already, as after most exits.
    Keep,
    /// Set it to the deadline.
    Set,
    /// Stop it: the guest has its CPU for itself.
    Stop,
}

/// What a vCPU knows of the timer of the CPU that it is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostTimer {
    /// When it fires, unless it has or somebody else has set it.
    armed_tsc: Option<u64>,
}

impl HostTimer {
    /// Nothing is known of the timer: the vCPU has come to a CPU, the CPU has had the timer for something else, or an
    /// interrupt has come, which may have been the timer's.
    #[inline]
    pub const fn is_anybodys(&mut self) {
        self.armed_tsc = None;
    }

    /// A guest is to be entered until the TSC reaches `deadline_tsc`, or without an end where that is `u64::MAX`.
    #[inline]
    pub fn arm(&mut self, deadline_tsc: u64) -> Order {
        if self.armed_tsc == Some(deadline_tsc) {
            return Order::Keep;
        }
        self.armed_tsc = Some(deadline_tsc);
        if deadline_tsc == u64::MAX {
            Order::Stop
        } else {
            Order::Set
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn a_turn_that_somebody_ended_before_its_first_entry_had_no_timer() {
        // Who rings for a CPU sets the end of its turn to 0.
        let mut timer = HostTimer::default();
        assert_eq!(timer.arm(0), Order::Set);
        assert_eq!(timer.arm(0), Order::Keep);
        timer.is_anybodys();
        assert_eq!(timer.arm(0), Order::Set);
    }

    #[test]
    fn a_guest_with_a_cpu_for_itself_was_woken_by_the_timer_of_the_one_before_it() {
        let mut timer = HostTimer::default();
        assert_eq!(timer.arm(u64::MAX), Order::Stop);
        assert_eq!(timer.arm(u64::MAX), Order::Keep);
        assert_eq!(timer.arm(500), Order::Set);
        assert_eq!(timer.arm(u64::MAX), Order::Stop);
    }

    /// A CPU's timer as the APIC has it: one shot, set anew by each write.
    #[derive(Clone, Copy, Default)]
    struct Apic {
        fires_at: Option<u64>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Enter until this deadline, or without one; the guest exits by itself after so long, or the timer ends it.
        Enter { deadline: Option<u64>, ticks: u64 },
        /// An interrupt of something else ends the guest's run.
        Interrupt,
        /// The turn is over, and the CPU sets the timer for itself before it comes back.
        Turn { cpu: usize, own: Option<u64> },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (prop::option::weighted(0.8, 0u64..40), 1u64..12).prop_map(|(deadline, ticks)| Step::Enter { deadline, ticks }),
            1 => Just(Step::Interrupt),
            2 => (0usize..2, prop::option::of(0u64..2000)).prop_map(|(cpu, own)| Step::Turn { cpu, own }),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn no_guest_runs_without_a_timer_that_ends_it_in_time(steps in steps()) {
            let mut apics = [Apic::default(); 2];
            let (mut here, mut now, mut timer) = (0, 100u64, HostTimer::default());
            let mut base = now;
            for step in steps {
                match step {
                    Step::Enter { deadline, ticks } => {
                        // Some deadlines stay the same over several entries, some have passed.
                        let deadline = deadline.map(|deadline| (base + deadline).saturating_sub(10));
                        match timer.arm(deadline.unwrap_or(u64::MAX)) {
                            Order::Keep => {}
                            Order::Set => apics[here].fires_at = deadline,
                            Order::Stop => apics[here].fires_at = None,
                        }
                        let fires_at = apics[here].fires_at;
                        prop_assert_eq!(fires_at, deadline);
                        let end = now + ticks;
                        if fires_at.is_some_and(|at| at <= end) {
                            apics[here].fires_at = None;
                            timer.is_anybodys();
                            base = end;
                        }
                        now = end;
                    }
                    Step::Interrupt => timer.is_anybodys(),
                    Step::Turn { cpu, own } => {
                        apics[here].fires_at = own.map(|ticks| now + ticks);
                        here = cpu;
                        timer.is_anybodys();
                        base = now;
                    }
                }
            }
        }
    }
}
