//! When a vCPU has to be looked after for the sake of a timer: [`Timing`], and the short ways of the run loop for the
//! two exits that a guest's timer takes, its end and its being set anew.

use machine::devices::lapic::{Armed, Clock, Deadline};
use vmm::advance::Advance;
use vmm::inject::{Activity, Delivery};

use super::{Flow, Inner};
use crate::backend::{Backend, LoadedVcpu};
use crate::hw::clock;
use crate::vm::Vm;

/// By how much timers begin early at first, and at most, in ticks: an exit and an entry, or the end of a halt and the
/// way to the run loop. The guest waits for so long at most, in its own turn.
const RUNNING_GUESS: u64 = 256;
const RUNNING_MOST: u64 = 4096;
const HALTED_GUESS: u64 = 1024;
const HALTED_MOST: u64 = 16384;

/// The local APIC's timer and the board's, as times of the host's TSC.
pub(super) struct Timing {
    /// When its local APIC's timer is due; `u64::MAX` for never.
    timer_tsc: u64,
    /// When it has to be looked after while it runs: some time before `timer_tsc`, or when a timer of the board is due.
    deadline_tsc: u64,
    /// How long before `timer_tsc` to begin: while it runs, and while it is halted.
    running_advance: Advance,
    halted_advance: Advance,
    /// The deadline that an entry was held for, and what the vCPU was doing before; 0 for none that is yet to be learned
    /// from.
    met_tsc: u64,
    met_activity: Activity,
}

impl Timing {
    pub(super) const fn new() -> Self {
        Self {
            timer_tsc: u64::MAX,
            deadline_tsc: u64::MAX,
            running_advance: Advance::new(RUNNING_GUESS, RUNNING_MOST),
            halted_advance: Advance::new(HALTED_GUESS, HALTED_MOST),
            met_tsc: 0,
            met_activity: Activity::Active,
        }
    }

    /// When the guest's run has to end at the latest.
    #[inline]
    pub(super) const fn deadline_tsc(&self) -> u64 {
        self.deadline_tsc
    }

    /// When to begin with what has to be done for the local APIC's timer.
    #[inline]
    pub(super) fn begins_at(&self, activity: Activity) -> u64 {
        let advance = match activity {
            Activity::Halted => &self.halted_advance,
            Activity::Active | Activity::WaitingForStartUp => &self.running_advance,
        };
        match self.timer_tsc {
            u64::MAX => u64::MAX,
            timer_tsc => timer_tsc.saturating_sub(advance.ticks()),
        }
    }

    /// When the local APIC's timer is due, if it is time to begin.
    #[inline]
    pub(super) fn due_tsc(&self, activity: Activity, now_tsc: u64) -> Option<u64> {
        (self.begins_at(activity) <= now_tsc).then_some(self.timer_tsc)
    }

    /// All is decided for the guest to take its timer's interrupt: the entry waits for the moment, which is not far.
    #[inline(always)]
    pub(super) fn meet<C: LoadedVcpu>(&mut self, cpu: &mut C, due_tsc: u64, was: Activity) {
        self.learn(cpu);
        self.met_tsc = due_tsc;
        self.met_activity = was;
        cpu.hold_until(due_tsc);
    }

    /// The turn ends, perhaps instead of the entry that was to be held: time must not stand still before the moment for
    /// which the timer has ended already.
    #[cold]
    pub(super) fn wait_out(&self) {
        wait_until(self.met_tsc);
    }

    /// How it went the last time, if that is not known yet. Best called where nobody waits: what learning costs would
    /// otherwise be learned.
    #[inline(always)]
    fn learn<C: LoadedVcpu>(&mut self, cpu: &C) {
        let met_tsc = core::mem::replace(&mut self.met_tsc, 0);
        if met_tsc != 0 {
            let advance = match self.met_activity {
                Activity::Halted => &mut self.halted_advance,
                Activity::Active | Activity::WaitingForStartUp => &mut self.running_advance,
            };
            advance.learn(cpu.ready_tsc(), met_tsc);
        }
    }
}

/// Waits for a moment that is at most an advance away, or over.
#[cold]
pub(super) fn wait_until(tsc: u64) {
    while clock::tsc() < tsc {
        core::hint::spin_loop();
    }
}

/// The clocks of a vCPU as they will be when the host's TSC reads this.
struct ClockAt<'a, B: Backend, C> {
    vm: &'a Vm<B>,
    cpu: &'a C,
    tsc: u64,
}

impl<B: Backend, C: LoadedVcpu> Clock for ClockAt<'_, B, C> {
    #[inline]
    fn guest_tsc(&self) -> u64 {
        self.cpu.guest_tsc_at(self.tsc)
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        clock::ticks_to_ns(self.tsc.wrapping_sub(self.vm.origin_tsc()))
    }
}

impl Inner {
    /// The host's timer has ended a vCPU's run. If it was for the local APIC's timer, and the hardware does the rest,
    /// nothing else has to be decided.
    #[inline(always)]
    pub(super) fn fire<B: Backend, C: LoadedVcpu>(
        &mut self,
        vm: &Vm<B>,
        cpu: &mut C,
        now_tsc: u64,
    ) -> Flow {
        let Some(due_tsc) = self.timing.due_tsc(Activity::Active, now_tsc) else {
            return Flow::Settle;
        };
        if cpu.delivery() != Delivery::Hardware || vm.board_deadline_tsc(self.index) <= now_tsc {
            return Flow::Settle;
        }
        self.expire_timer(vm, cpu, now_tsc);
        cpu.present(&mut self.state.lapic);
        self.look_ahead(vm, cpu, now_tsc);
        self.timing.meet(cpu, due_tsc, Activity::Active);
        Flow::Enter
    }

    /// The guest has set its timer, which is all.
    #[inline(always)]
    pub(super) fn armed<B: Backend, C: LoadedVcpu>(
        &mut self,
        vm: &Vm<B>,
        cpu: &C,
        armed: Armed,
        now_tsc: u64,
    ) -> Flow {
        self.timing.learn(cpu);
        self.look_ahead(vm, cpu, now_tsc);
        match armed {
            Armed::ForLater if self.timing.deadline_tsc > now_tsc => Flow::Enter,
            Armed::ForLater | Armed::Fired => Flow::Settle,
        }
    }

    /// The local APIC's timer is due, or will be when the guest runs again: it is told that time.
    #[inline(always)]
    pub(super) fn expire_timer<B: Backend, C: LoadedVcpu>(
        &mut self,
        vm: &Vm<B>,
        cpu: &C,
        now_tsc: u64,
    ) {
        let tsc = self.timing.timer_tsc.max(now_tsc);
        self.state.lapic.expire(&ClockAt { vm, cpu, tsc });
    }

    /// When the vCPU has to be looked after next for the sake of a timer.
    #[inline(always)]
    pub(super) fn look_ahead<B: Backend, C: LoadedVcpu>(
        &mut self,
        vm: &Vm<B>,
        cpu: &C,
        now_tsc: u64,
    ) {
        self.timing.timer_tsc = match self.state.lapic.next_deadline() {
            None => u64::MAX,
            Some(Deadline::Nanoseconds(ns)) => vm.tsc_at(ns),
            Some(Deadline::GuestTsc(tsc)) => cpu.host_tsc_at(tsc, now_tsc),
        };
        self.timing.deadline_tsc = self
            .timing
            .begins_at(Activity::Active)
            .min(vm.board_deadline_tsc(self.index));
    }
}
