//! One vCPU and its run loop: settle what it is to take (`settle.rs`), enter, handle the exit (`round.rs`), and again.

mod describe;
mod last_exits;
mod restart;
mod round;
mod settle;
mod stop;
mod timing;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use arch::Rflags;
use machine::devices::lapic::Role;
use vmm::VcpuState;
use vmm::freeze::Pause;
use vmm::inject::Activity;
use vmm::metrics::{ExitKind, Metrics};
use vmm::panic_watch::Sight;
use vmm::trace::Trace;

use crate::backend::{Backend, LoadedVcpu, Pauses};
use crate::cpu;
use crate::crew::Seating;
use crate::hw::clock;
use crate::startup;
use crate::vm::{Stance, Vm, Whereabouts};

use self::last_exits::LastExits;
pub(crate) use self::last_exits::write_last_exits;
use self::round::{Flow, Round};
use self::timing::Timing;

/// A vCPU: what the hardware keeps of it, what the handlers keep, and the VM that it belongs to.
pub(crate) struct Vcpu<B: Backend> {
    /// Dropped first: whoever finds that the VM's last vCPU is gone takes its memory, and all must be known then that
    /// the hardware has noted about that.
    backend: B::Vcpu,
    vm: Arc<Vm<B>>,
    seating: Seating,
    /// The pause of its VM in which it stands still.
    parked: Option<Pause>,
    inner: Inner,
}

/// The part of a vCPU that no backend knows.
struct Inner {
    index: u8,
    state: VcpuState,
    activity: Activity,
    timing: Timing,
    /// The last exit of this turn, and the host's TSC at it; 0 for none.
    exit_kind: ExitKind,
    exit_tsc: u64,
    /// The host's TSC when it was ready to be entered for the first time in this turn.
    entered_tsc: u64,
    /// Why the turn is over, once it is.
    end: Turn,
    /// What the backend was last told that its PAUSEs are.
    pauses: Pauses,
    /// The host's TSC since when it has been waiting for a turn; `None` while it has one, or waits for an event.
    ready_tsc: Option<u64>,
    sleep: Sleep,
    metrics: Metrics,
    trace: Trace,
    /// Where the VM's time began when the vCPU's TSC was last set right.
    origin_tsc: u64,
    /// What it has run.
    ran_ns: u64,
}

/// What a sleeping vCPU can be woken by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sleep {
    /// By interrupts; or it does not sleep.
    Light,
    /// By another vCPU only.
    Deep,
}

/// Why a vCPU's turn on a CPU ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// Its time was up.
    Expired,
    /// It spins; another one had better run.
    Yielded,
    /// It waits for an interrupt, or to be started.
    Asleep,
    /// Its VM stands still.
    Paused,
    /// Its VM has ended.
    Ended,
}

impl<B: Backend> Vcpu<B> {
    /// A vCPU after power-on: the bootstrap processor is ready to run, the others wait to be started.
    pub(crate) fn new(
        vm: Arc<Vm<B>>,
        index: u8,
        seating: Seating,
        backend: B::Vcpu,
        state: VcpuState,
    ) -> Self {
        let activity = match state.lapic.role() {
            Role::Bootstrap => Activity::Active,
            Role::Application => Activity::WaitingForStartUp,
        };
        let inner = Inner {
            index,
            state,
            activity,
            timing: Timing::new(),
            exit_kind: ExitKind::Fatal,
            exit_tsc: 0,
            entered_tsc: 0,
            end: Turn::Expired,
            pauses: Pauses::Run,
            ready_tsc: None,
            sleep: Sleep::Light,
            metrics: Metrics::new(),
            trace: Trace::new(),
            origin_tsc: vm.origin_tsc(),
            ran_ns: 0,
        };
        Self {
            vm,
            seating,
            backend,
            parked: None,
            inner,
        }
    }

    /// The VM that it belongs to.
    pub(crate) fn vm(&self) -> &Arc<Vm<B>> {
        &self.vm
    }

    /// Where it may run.
    pub(crate) fn seating(&self) -> Seating {
        self.seating
    }

    /// Whether it has been sent something that it has not taken yet.
    pub(crate) fn is_called(&self) -> bool {
        self.vm.mailbox(self.inner.index).is_called()
    }

    /// The vCPU at rest, for the backend to be looked at.
    pub(crate) fn backend(&self) -> &B::Vcpu {
        &self.backend
    }

    /// The vCPU at rest, for the backend.
    pub(crate) fn backend_mut(&mut self) -> &mut B::Vcpu {
        &mut self.backend
    }

    /// Its number in its VM.
    pub(crate) fn index(&self) -> u8 {
        self.inner.index
    }

    /// It stands still from now on, if its VM does. False where the pause is over.
    pub(crate) fn park(&mut self) -> bool {
        self.parked = self.vm.park(self.parked);
        self.parked.is_some()
    }

    /// Notes what it has run.
    pub(crate) fn add_run_time(&mut self, ns: u64) {
        self.inner.ran_ns = self.inner.ran_ns.wrapping_add(ns);
    }

    /// Says where it is from now on.
    pub(crate) fn set_whereabouts(&self, whereabouts: Whereabouts) {
        self.vm.set_whereabouts(self.inner.index, whereabouts);
    }

    /// Whether a sleeping vCPU has something to wake up for at this time of the host's TSC.
    pub(crate) fn has_reason_to_wake(&self, now_tsc: u64) -> bool {
        match self.vm.stance() {
            Stance::Run => {
                self.parked.is_some()
                    || self.vm.mailbox(self.inner.index).is_called()
                    || self.wakes_at() <= now_tsc
            }
            // To come to a stand, asleep as it is.
            Stance::Pause => self.vm.wants_to_pause(self.parked),
            Stance::End => true,
        }
    }

    /// The host's TSC when it wakes up by a timer; `u64::MAX` for never.
    pub(crate) fn wakes_at(&self) -> u64 {
        self.inner
            .timing
            .begins_at(Activity::Halted)
            .min(self.vm.board_deadline_tsc(self.inner.index))
    }

    /// Loads it on this CPU, where no other is loaded.
    pub(crate) fn bring_here(&mut self, backend: &B) {
        let _: B::Loaded<'_> = backend.load(&mut self.backend);
    }

    /// The host's TSC when the guest was entered in the last turn, and when it was left.
    pub(crate) fn ran_between(&self) -> (u64, u64) {
        let entered_tsc = self.inner.entered_tsc;
        (entered_tsc, self.inner.exit_tsc.max(entered_tsc))
    }

    /// It has become ready, and waits for a turn from now on.
    pub(crate) fn woken(&mut self) {
        self.inner.ready_tsc = Some(clock::tsc());
    }

    /// Runs it on this CPU until its turn ends, at the latest when the host's TSC reaches `turn_end`, which others
    /// may set to an earlier time meanwhile. Interrupts are off all the while.
    pub(crate) fn run(&mut self, backend: &B, turn_end: &AtomicU64) -> Turn {
        let waited_ns = self.inner.ready_tsc.take().map_or(0, |since| {
            clock::ticks_to_ns(clock::tsc().wrapping_sub(since))
        });
        self.parked = None;
        let memory = self.vm.memory();
        self.inner.state.paravirt.steal().running(memory, waited_ns);
        let turn = self.run_turn(backend, turn_end);
        // The exit that ended the turn.
        let inner = &mut self.inner;
        if inner.exit_tsc != 0 {
            let ticks = clock::tsc().wrapping_sub(inner.exit_tsc);
            inner.metrics.count(inner.exit_kind, ticks);
        }
        if let Turn::Expired | Turn::Yielded = turn {
            self.inner.ready_tsc = Some(clock::tsc());
            let memory = self.vm.memory();
            self.inner.state.paravirt.steal().preempted(memory);
        }
        turn
    }

    fn run_turn(&mut self, backend: &B, turn_end: &AtomicU64) -> Turn {
        let Self {
            vm,
            backend: vcpu,
            inner,
            ..
        } = self;
        let vm: &Vm<B> = vm;
        vm.set_whereabouts(inner.index, Whereabouts::Running(cpu::this().id()));
        let mut cpu = backend.load(vcpu);
        inner.make_up_for_pauses(vm, &mut cpu);
        let _epitaph = LastExits::are_those_of(&raw const inner.trace);
        inner.exit_tsc = 0;
        inner.entered_tsc = clock::tsc();
        startup::entering(inner.entered_tsc);
        let pauses = if vm.may_be_dead() {
            Pauses::Exit
        } else {
            Pauses::Run
        };
        if pauses != inner.pauses {
            inner.pauses = pauses;
            cpu.watch_pauses(pauses);
        }
        cpu.open_posts();
        let turn = inner.rounds(vm, &mut cpu, turn_end);
        cpu.close_posts();
        if vm.may_be_dead() {
            vm.seen(inner.sight(&cpu, turn));
        }
        turn
    }
}

impl Inner {
    /// Enters the guest again and again until its turn is over. In a function of its own, whose registers are for this
    /// alone.
    #[inline(never)]
    fn rounds<B: Backend, C: LoadedVcpu>(
        &mut self,
        vm: &Vm<B>,
        cpu: &mut C,
        turn_end: &AtomicU64,
    ) -> Turn {
        let index = self.index;
        let posted = vm.mailbox(index).posted();
        // Whether what the vCPU takes next has to be decided anew.
        let mut unsettled = true;
        loop {
            match vm.stance() {
                Stance::Run => {}
                Stance::Pause => {
                    self.timing.wait_out();
                    return Turn::Paused;
                }
                Stance::End => return Turn::Ended,
            }
            if unsettled || posted.is_outstanding() {
                if self.sleep == Sleep::Deep {
                    self.sleep = Sleep::Light;
                    vm.rests_no_more(index);
                }
                self.settle(vm, cpu);
                if self.activity != Activity::Active {
                    if !self.wakes_by_interrupts(cpu) {
                        self.sleep = Sleep::Deep;
                        vm.rests(index);
                    }
                    return Turn::Asleep;
                }
            }
            let deadline = turn_end
                .load(Ordering::Relaxed)
                .min(self.timing.deadline_tsc());
            let entry_tsc = clock::tsc();
            if self.exit_tsc != 0 {
                let ticks = entry_tsc.wrapping_sub(self.exit_tsc);
                self.metrics.count(self.exit_kind, ticks);
            }
            let round = Round {
                vm,
                inner: self,
                turn_end,
            };
            unsettled = match cpu.enter(entry_tsc, deadline, round) {
                Flow::Enter => false,
                Flow::Settle => true,
                Flow::End => return self.end,
            };
        }
    }

    /// What the vCPU was doing when its turn ended.
    fn sight<C: LoadedVcpu>(&self, cpu: &C, turn: Turn) -> Sight {
        match turn {
            Turn::Asleep if !self.wakes_by_interrupts(cpu) => Sight::Stopped,
            Turn::Yielded if cpu.cpl() == 0 => Sight::Pausing {
                rip: cpu.rip(),
                cr3: cpu.cr3(),
            },
            Turn::Expired if cpu.cpl() == 0 => Sight::Working,
            Turn::Paused | Turn::Ended => Sight::Stopped,
            Turn::Asleep | Turn::Expired | Turn::Yielded => Sight::Alive,
        }
    }

    /// What the VM's time has stood still since this vCPU last ran, its TSC has not gone on either.
    #[inline]
    fn make_up_for_pauses<B: Backend, C: LoadedVcpu>(&mut self, vm: &Vm<B>, cpu: &mut C) {
        let origin_tsc = vm.origin_tsc();
        if origin_tsc != self.origin_tsc {
            cpu.move_tsc_origin(self.origin_tsc, origin_tsc);
            self.origin_tsc = origin_tsc;
        }
    }

    /// Whether anything but another vCPU of its VM ends its sleep.
    fn wakes_by_interrupts<C: LoadedVcpu>(&self, cpu: &C) -> bool {
        self.activity == Activity::Halted
            && (cpu.rflags().contains(Rflags::IF) || self.state.lapic.may_take_nmi_from_pic())
    }
}
