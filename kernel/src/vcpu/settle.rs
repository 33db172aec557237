//! What a vCPU takes at its next entry.

use vmm::inject::{Activity, Delivery, decide};

use super::{Inner, timing};
use crate::backend::{Backend, LoadedVcpu, Windows};
use crate::hw::clock;
use crate::vm::Vm;

impl Inner {
    /// Fires the timers that are due, takes what others have left, and prepares what the vCPU takes at its next
    /// entry. It may be awake or asleep after this.
    pub(super) fn settle<B: Backend, C: LoadedVcpu>(&mut self, vm: &Vm<B>, cpu: &mut C) {
        self.state.unsettled = false;
        let now_tsc = clock::tsc();
        if vm.board_deadline_tsc(self.index) <= now_tsc {
            vm.expire_board();
        }
        let was = self.activity;
        let due_tsc = self.timing.due_tsc(was, now_tsc);
        if due_tsc.is_some() {
            self.expire_timer(vm, cpu, now_tsc);
        }
        let signals = vm.mailbox(self.index).drain(&mut self.state.lapic);
        if signals.wake() {
            self.state.paravirt.wake();
        }
        if signals.a20() {
            cpu.set_a20(vm.memory().a20());
        }
        if let Some(restart) =
            self.state
                .pending
                .note(signals, self.activity, self.state.lapic.role())
        {
            self.restart(restart, vm, cpu);
        }
        let state = &mut self.state;
        state.paravirt.eoi().collect(vm.memory(), &mut state.lapic);
        let decision = decide(
            &mut self.state.pending,
            cpu,
            &mut self.state.lapic,
            self.activity,
            cpu.delivery(),
            || vm.acknowledge_pic(self.index),
        );
        if decision.wake_from_halt
            || self.activity == Activity::Halted && self.state.paravirt.take_wake()
        {
            self.activity = Activity::Active;
        }
        // Where the local APIC is out of the hardware's reach, it may be software's although the flag is not shown.
        if cpu.delivery() == Delivery::Software {
            let state = &mut self.state;
            state.paravirt.eoi().offer(vm.memory(), &state.lapic);
        }
        if let Some(event) = decision.event {
            cpu.inject(event);
        }
        let mut windows = Windows::empty();
        windows.set(Windows::INTERRUPT, decision.want_interrupt_window);
        windows.set(Windows::NMI, decision.want_nmi_window);
        cpu.request_windows(windows);
        cpu.present(&mut self.state.lapic);
        self.look_ahead(vm, cpu, now_tsc);
        if let Some(due_tsc) = due_tsc {
            if self.activity == Activity::Active {
                self.timing.meet(cpu, due_tsc, was);
            } else {
                timing::wait_until(due_tsc);
            }
        }
    }
}
