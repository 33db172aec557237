//! [`Timer`]: the local APIC's timer, computed from time instead of counted.
//!
//! The count-down timer runs on the APIC bus clock, whose frequency is the board's choice (CPUID leaf 0x15
//! must give the same, see SDM vol. 3, APIC Timer) and which derives from guest time in nanoseconds. The
//! TSC-deadline timer runs on the guest's TSC. So there are two kinds of [`Deadline`], and a [`Clock`] that
//! tells both times.

/// The shortest period for which interrupts are delivered one by one. A guest that asks for less gets the
/// same interrupts merged, as if it were slow to take them; otherwise it could keep its host CPU busy with
/// nothing but timer exits.
const MIN_PERIOD_NS: u64 = 50_000;

/// The two clocks of a vCPU. Reading one may cost; a method reads only what it needs.
pub trait Clock {
    /// The guest's TSC now.
    fn guest_tsc(&self) -> u64;
    /// Guest time in nanoseconds now; never runs backwards, stands still while the VM is paused.
    fn now_ns(&self) -> u64;
}

/// Both times, already read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// The guest's TSC.
    pub guest_tsc: u64,
    /// Guest time in nanoseconds.
    pub ns: u64,
}

impl Clock for Now {
    #[inline]
    fn guest_tsc(&self) -> u64 {
        self.guest_tsc
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.ns
    }
}

/// When the timer fires next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// When the guest's TSC reaches this value.
    GuestTsc(u64),
    /// At this guest time in nanoseconds.
    Nanoseconds(u64),
}

/// What a write of IA32_TSC_DEADLINE has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Armed {
    /// Nothing but perhaps another [`Deadline`].
    ForLater,
    /// An interrupt.
    Fired,
}

/// The mode that bits 17 and 18 of the timer's LVT entry select.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    /// The encoding 3: no timer at all.
    Reserved,
}

impl Mode {
    pub(super) const fn from_lvt(lvt: u32) -> Self {
        match (lvt >> 17) & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    const fn counts_down(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// What the timer is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Stopped,
    /// Counting down `count` times the divisor bus ticks from `start`.
    Counting {
        /// In bus ticks, modulo 2^64: a new divisor may put it before the beginning of time.
        start: u64,
        /// The initial count.
        count: u32,
        /// When the host is to look again.
        deadline_ns: u64,
    },
    /// Waiting for the TSC.
    Waiting {
        tsc: u64,
    },
}

#[derive(Debug)]
pub(super) struct Timer {
    mode: Mode,
    state: State,
    /// log2 of the divisor.
    divide_shift: u32,
    /// Bus ticks in a nanosecond, times 2^61 and rounded up, so that whole results come out whole.
    ticks_per_ns: u64,
    /// Nanoseconds in a bus tick, times 2^32.
    ns_per_tick: u64,
}

impl Timer {
    pub(super) fn new(bus_hz: u32) -> Self {
        let hz = u64::from(bus_hz.max(1));
        let mut timer = Self {
            mode: Mode::OneShot,
            state: State::Stopped,
            divide_shift: 0,
            // Fits: 32 bits of hertz over 10^9 are less than 8.
            ticks_per_ns: (u128::from(hz) << 61).div_ceil(1_000_000_000) as u64,
            ns_per_tick: (1_000_000_000 << 32) / hz,
        };
        timer.reset();
        timer
    }

    pub(super) fn reset(&mut self) {
        self.mode = Mode::OneShot;
        self.state = State::Stopped;
        self.divide_shift = divide_shift(0);
    }

    /// When [`expire`](Self::expire) has something to do.
    #[inline]
    pub(super) const fn deadline(&self) -> Option<Deadline> {
        match self.state {
            State::Stopped => None,
            State::Counting { deadline_ns, .. } => Some(Deadline::Nanoseconds(deadline_ns)),
            State::Waiting { tsc } => Some(Deadline::GuestTsc(tsc)),
        }
    }

    /// Brings the timer up to the present; `true` if it has run out since the last call.
    #[inline(always)]
    pub(super) fn expire(&mut self, clock: &impl Clock) -> bool {
        match self.state {
            State::Stopped => false,
            State::Waiting { tsc } => {
                let expired = clock.guest_tsc() >= tsc;
                if expired {
                    self.state = State::Stopped;
                }
                expired
            }
            State::Counting { start, count, .. } => self.expire_count(start, count, clock.now_ns()),
        }
    }

    #[inline(never)]
    fn expire_count(&mut self, start: u64, count: u32, now_ns: u64) -> bool {
        let elapsed = self.elapsed(start, now_ns);
        let period = self.period(count);
        if elapsed < period {
            // Either too early, or the deadline lay a rounding error before the end.
            self.count_from(start, count, now_ns, 0);
            return false;
        }
        if matches!(self.mode, Mode::Periodic) {
            let whole_periods = elapsed - elapsed % period;
            self.count_from(
                start.wrapping_add(whole_periods),
                count,
                now_ns,
                MIN_PERIOD_NS,
            );
        } else {
            self.state = State::Stopped;
        }
        true
    }

    /// Whether the mode uses the counts at all.
    #[inline]
    pub(super) const fn counts_down(&self) -> bool {
        self.mode.counts_down()
    }

    /// A write of the initial count, in a mode that counts down. Stops the timer if it is 0.
    pub(super) fn set_initial_count(&mut self, count: u32, clock: &impl Clock) {
        if count == 0 {
            self.state = State::Stopped;
            return;
        }
        let now_ns = clock.now_ns();
        self.count_from(self.bus_ticks(now_ns), count, now_ns, 0);
    }

    /// What the count has come down to.
    pub(super) fn current_count(&self, clock: &impl Clock) -> u32 {
        let State::Counting { start, count, .. } = self.state else {
            return 0;
        };
        let elapsed = self.elapsed(start, clock.now_ns());
        let elapsed = match self.mode {
            Mode::Periodic => elapsed % self.period(count),
            _ => elapsed,
        };
        let counted = elapsed >> self.divide_shift;
        u64::from(count).saturating_sub(counted) as u32
    }

    /// A write of the divide configuration. A running count goes on from where it is.
    pub(super) fn set_divide(&mut self, register: u32, clock: &impl Clock) {
        let shift = divide_shift(register);
        if shift == self.divide_shift {
            return;
        }
        if let State::Counting { count, .. } = self.state {
            let left = self.current_count(clock);
            self.divide_shift = shift;
            let now_ns = clock.now_ns();
            let done = u64::from(count.saturating_sub(left)) << shift;
            self.count_from(self.bus_ticks(now_ns).wrapping_sub(done), count, now_ns, 0);
        }
        self.divide_shift = shift;
    }

    /// A write of the timer's LVT entry. Between one-shot and periodic a running count goes on; into and out of
    /// the TSC-deadline mode the timer is disarmed (SDM vol. 3, TSC-Deadline Mode).
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if !(mode.counts_down() && self.mode.counts_down()) && mode != self.mode {
            self.state = State::Stopped;
        }
        self.mode = mode;
    }

    /// IA32_TSC_DEADLINE.
    #[inline]
    pub(super) const fn tsc_deadline(&self) -> u64 {
        match self.state {
            State::Waiting { tsc } => tsc,
            _ => 0,
        }
    }

    /// A write of IA32_TSC_DEADLINE, which counts in TSC-deadline mode only; `true` if this deadline, or the one before
    /// it, has come.
    #[inline]
    pub(super) fn set_tsc_deadline(&mut self, tsc: u64, clock: &impl Clock) -> bool {
        if !matches!(self.mode, Mode::TscDeadline) {
            return false;
        }
        let now_tsc = clock.guest_tsc();
        let was_due = matches!(self.state, State::Waiting { tsc } if tsc <= now_tsc);
        if tsc > now_tsc {
            self.state = State::Waiting { tsc };
            return was_due;
        }
        self.state = State::Stopped;
        was_due || tsc != 0
    }

    fn period(&self, count: u32) -> u64 {
        u64::from(count) << self.divide_shift
    }

    /// Counts `count` from `start` on, and has the host look not earlier than `hold_ns` from now.
    fn count_from(&mut self, start: u64, count: u32, now_ns: u64, hold_ns: u64) {
        let left = self
            .period(count)
            .saturating_sub(self.elapsed(start, now_ns));
        // One more than the product, which is rounded down.
        let left_ns = scale(left, self.ns_per_tick, 32).saturating_add(1);
        let deadline_ns = now_ns.saturating_add(left_ns.max(hold_ns));
        self.state = State::Counting {
            start,
            count,
            deadline_ns,
        };
    }

    /// Bus ticks from `start` to now; none if a clock that is slightly behind says so.
    fn elapsed(&self, start: u64, now_ns: u64) -> u64 {
        let elapsed = self.bus_ticks(now_ns).wrapping_sub(start);
        if elapsed.cast_signed() < 0 {
            0
        } else {
            elapsed
        }
    }

    fn bus_ticks(&self, now_ns: u64) -> u64 {
        scale(now_ns, self.ticks_per_ns, 61)
    }
}

/// `value` times `factor` / 2^`shift`.
#[inline]
fn scale(value: u64, factor: u64, shift: u32) -> u64 {
    let product = (u128::from(value) * u128::from(factor)) >> shift;
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// log2 of the divisor that bits 0, 1 and 3 of the divide configuration register select: 2, 4, … 128, 1.
const fn divide_shift(register: u32) -> u32 {
    ((register & 3 | (register >> 1) & 4) + 1) & 7
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ns: u64) -> Now {
        Now { guest_tsc: 0, ns }
    }

    #[test]
    fn the_divide_configuration_is_the_manuals_table() {
        // SDM vol. 3, Divide Configuration Register.
        let table = [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
        ];
        for (register, divisor) in table {
            assert_eq!(1 << divide_shift(register), divisor, "{register:#x}");
        }
    }

    #[test]
    fn a_one_shot_count_ends_once() {
        let mut timer = Timer::new(1_000_000_000);
        timer.set_divide(0b1011, &at(0));
        timer.set_initial_count(1000, &at(500));
        assert_eq!(timer.current_count(&at(500)), 1000);
        assert_eq!(timer.current_count(&at(501)), 999);
        assert!(!timer.expire(&at(1499)));
        assert!(timer.expire(&at(1500)));
        assert!(!timer.expire(&at(1_000_000)));
        assert_eq!(timer.deadline(), None);
        assert_eq!(timer.current_count(&at(1_000_000)), 0);
    }

    #[test]
    fn a_periodic_count_keeps_its_phase_however_late_it_is_served() {
        let mut timer = Timer::new(1_000_000_000);
        timer.set_mode(Mode::Periodic);
        timer.set_divide(0b1011, &at(0));
        timer.set_initial_count(100_000, &at(0));
        assert!(timer.expire(&at(350_000)));
        assert!(!timer.expire(&at(399_999)));
        assert_eq!(timer.current_count(&at(399_999)), 1);
        assert!(timer.expire(&at(400_000)));
        assert_eq!(timer.current_count(&at(400_000)), 100_000);
    }

    #[test]
    fn a_tiny_period_does_not_keep_the_host_busy() {
        let mut timer = Timer::new(1_000_000_000);
        timer.set_mode(Mode::Periodic);
        timer.set_divide(0b1011, &at(0));
        timer.set_initial_count(1, &at(0));
        assert!(timer.expire(&at(10)));
        assert_eq!(
            timer.deadline(),
            Some(Deadline::Nanoseconds(10 + MIN_PERIOD_NS))
        );
    }

    #[test]
    fn a_new_divisor_applies_to_what_is_left_of_the_count() {
        let mut timer = Timer::new(1_000_000_000);
        timer.set_divide(0b1011, &at(0));
        timer.set_initial_count(1000, &at(0));
        timer.set_divide(0b0000, &at(400));
        assert_eq!(timer.current_count(&at(400)), 600);
        assert_eq!(timer.current_count(&at(600)), 500);
        assert!(!timer.expire(&at(1599)));
        assert!(timer.expire(&at(1600)));
    }

    #[test]
    fn the_count_goes_on_when_one_shot_becomes_periodic() {
        let mut timer = Timer::new(1_000_000_000);
        timer.set_divide(0b1011, &at(0));
        timer.set_initial_count(100_000, &at(0));
        timer.set_mode(Mode::Periodic);
        assert!(timer.expire(&at(100_000)));
        assert!(timer.expire(&at(200_000)));
    }

    #[test]
    fn entering_and_leaving_the_deadline_mode_disarms() {
        let mut timer = Timer::new(1_000_000_000);
        timer.set_initial_count(1000, &at(0));
        timer.set_mode(Mode::TscDeadline);
        assert_eq!(timer.deadline(), None);
        assert!(!timer.counts_down());
        assert!(!timer.set_tsc_deadline(77, &at(0)));
        assert_eq!(timer.deadline(), Some(Deadline::GuestTsc(77)));
        timer.set_mode(Mode::OneShot);
        assert_eq!(timer.deadline(), None);
        assert!(!timer.set_tsc_deadline(77, &at(0)));
        assert_eq!(timer.tsc_deadline(), 0);
    }

    proptest! {
        #[test]
        fn a_host_that_looks_at_the_deadlines_only_sees_every_end_at_once(
            hz in prop_oneof![
                Just(1_000_000_000u32), Just(24_000_000), Just(25_000_000), Just(19_200_000),
                Just(33_333_333), 1_000_000u32..2_000_000_000],
            count in 1u32..,
            divide in 0u32..16,
            start_ns in 0u64..1_000_000_000_000_000,
        ) {
            let mut timer = Timer::new(hz);
            timer.set_divide(divide, &at(start_ns));
            timer.set_initial_count(count, &at(start_ns));
            let exact_ns = u128::from(count) * (1u128 << timer.divide_shift) * 1_000_000_000 / u128::from(hz);
            let mut looks = 0;
            let end_ns = loop {
                let Some(Deadline::Nanoseconds(deadline_ns)) = timer.deadline() else {
                    panic!("stopped before its end");
                };
                looks += 1;
                prop_assert!(looks <= 4, "the host spins");
                if timer.expire(&at(deadline_ns)) {
                    break deadline_ns;
                }
            };
            let error_ns = (i128::from(end_ns - start_ns) - exact_ns as i128).abs();
            let allowed_ns = 2 + 2 * 1_000_000_000 / i128::from(hz) + exact_ns as i128 / 50_000_000;
            prop_assert!(error_ns <= allowed_ns, "off by {error_ns} ns");
        }
    }
}
