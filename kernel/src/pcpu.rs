//! One CPU's share of the work: it takes a vCPU from the queue, gives it a turn, and puts it back.
//!
//! A vCPU is owned by whoever holds it, the queue or the CPU that runs it, so it needs no lock. The last vCPU to run
//! stays loaded on its CPU until another one is to run there: where there is only one, nothing is ever switched.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::backend::Backend;
use crate::cpu::{self, apic};
use crate::hw::console::Refresh;
use crate::hw::screen::Colour;
use crate::hw::{clock, console};
use crate::operator::{Operator, Wish};
use crate::vcpu::{Turn, Vcpu};
use crate::vm::VmId;

/// How long a vCPU runs before the next one's turn.
const TURN_NS: u64 = 10_000_000;

/// The vCPUs that live on this CPU.
struct Turns<B: Backend> {
    ready: VecDeque<Box<Vcpu<B>>>,
    asleep: Vec<Box<Vcpu<B>>>,
    turn_ticks: u64,
    operator: Operator,
    /// The guest that gets the keys.
    focus: Option<VmId>,
}

/// Gives turns to `vcpus` until all of their VMs have ended.
pub(crate) fn run<B: Backend>(backend: &B, vcpus: impl IntoIterator<Item = Box<Vcpu<B>>>) {
    let ready: VecDeque<_> = vcpus.into_iter().collect();
    for vcpu in &ready {
        vcpu.settle_on(cpu::this().id());
    }
    let mut turns =
        Turns {
            focus: ready.front().map(|vcpu| vcpu.vm().id()),
            ready,
            asleep: Vec::new(),
            turn_ticks: clock::ns_to_ticks(TURN_NS),
            operator: Operator::new(),
        };
    while turns.next(backend) {}
}

impl<B: Backend> Turns<B> {
    /// Gives one turn, or waits; `false` once nobody is left.
    fn next(&mut self, backend: &B) -> bool {
        self.hear(backend);
        self.wake();
        let Some(mut vcpu) = self.ready.pop_front() else {
            if self.asleep.is_empty() {
                return false;
            }
            self.wait();
            return true;
        };
        let turn = vcpu.run(backend, clock::tsc().wrapping_add(self.turn_ticks));
        match turn {
            Turn::Ended => {
                let vm = Arc::clone(vcpu.vm());
                drop(vcpu);
                vm.vcpu_left();
            }
            Turn::Expired | Turn::Yielded => {
                self.make_way(backend, &mut vcpu);
                self.ready.push_back(vcpu);
            }
            Turn::Asleep => {
                self.make_way(backend, &mut vcpu);
                self.asleep.push(vcpu);
            }
        }
        true
    }

    /// Takes a vCPU off the CPU if there is any other that may want it.
    fn make_way(&self, backend: &B, vcpu: &mut Vcpu<B>) {
        if !self.ready.is_empty() || !self.asleep.is_empty() {
            backend.unload(vcpu.backend_mut());
        }
    }

    /// Moves those that have a reason to wake up from one list to the other.
    fn wake(&mut self) {
        let now_tsc = clock::tsc();
        let mut index = 0;
        while let Some(vcpu) = self.asleep.get(index) {
            if vcpu.has_reason_to_wake(now_tsc) {
                let vcpu = self.asleep.swap_remove(index);
                self.ready.push_back(vcpu);
            } else {
                index += 1;
            }
        }
    }

    /// Does what the operator wants.
    fn hear(&mut self, backend: &B) {
        while let Some(wish) = self.operator.listen() {
            match wish {
                Wish::Dump => self.dump(backend),
                Wish::NextGuest => self.focus_next(),
            }
        }
        let focused = self.all().find(|vcpu| Some(vcpu.vm().id()) == self.focus);
        if let Some(vm) = focused.map(|vcpu| Arc::clone(vcpu.vm())) {
            self.operator.offer(|bytes| vm.receive(bytes));
        } else {
            self.focus_next();
        }
    }

    fn all(&self) -> impl Iterator<Item = &Box<Vcpu<B>>> {
        self.ready.iter().chain(&self.asleep)
    }

    fn focus_next(&mut self) {
        let ids = || self.all().map(|vcpu| vcpu.vm().id());
        self.focus = ids().filter(|id| Some(*id) > self.focus).min().or_else(|| ids().min());
    }

    #[cold]
    fn dump(&mut self, backend: &B) {
        for vcpu in self.ready.iter_mut().chain(&mut self.asleep) {
            let mut text = String::new();
            // Writing to a string fails only where memory has run out, and then what is there must do.
            let _ = vcpu.describe(backend, &mut text);
            for line in text.lines() {
                console::line(Colour::Text, format_args!("plinth: {line}"));
            }
            backend.unload(vcpu.backend_mut());
        }
    }

    /// Halts the CPU until an interrupt: a timer of a sleeping vCPU, or somebody's kick. A kick that came since
    /// `wake` looked is not lost: interrupts are off until the processor halts.
    fn wait(&self) {
        for vcpu in &self.asleep {
            vcpu.vm().show_prompt();
        }
        console::refresh(Refresh::WhenDue);
        let wakes_at = self.asleep.iter().map(|vcpu| vcpu.wakes_at()).min().unwrap_or(u64::MAX);
        if wakes_at != u64::MAX {
            apic::set_timer(wakes_at);
        }
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }
}
