//! One CPU's share of the work: it takes a vCPU from its queue, gives it a turn, and puts it back. Whose turn it
//! is and how long it lasts is the business of [`vmm::scheduler`].
//!
//! A vCPU is owned by whoever holds it, a queue or the CPU that runs it, so it needs no lock. The last vCPU to run
//! stays loaded on its CPU until another one is to run there: where there is only one, nothing is ever switched.
//! New vCPUs come through the CPU's inbox; the only other things that CPUs share here are the list of VMs and the
//! count of those that have not ended.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use spin::Mutex;
use vmm::scheduler::{Arrival, Preemption, RunQueue, Share, Slice, Turn as SchedulerTurn, Use};

use crate::backend::Backend;
use crate::cpu::interrupts::HostVector;
use crate::cpu::{self, PcpuId, apic};
use crate::hw::console::Refresh;
use crate::hw::screen::Colour;
use crate::hw::{clock, console, power};
use crate::operator::{Operator, Wish};
use crate::vcpu::{Turn, Vcpu};
use crate::vm::{Vm, VmId};

/// A vCPU and the scheduler's part of it.
pub(crate) type Member<B> = (Box<Vcpu<B>>, Share);

/// What all CPUs share.
pub(crate) struct Crew<B: Backend> {
    backend: B,
    seats: Box<[Seat<B>]>,
    /// All VMs, in the order of their numbers. Only the boot CPU adds to it.
    vms: Mutex<Vec<Arc<Vm<B>>>>,
    /// VMs that have not ended.
    running: AtomicUsize,
}

/// How other CPUs reach one.
struct Seat<B: Backend> {
    cpu: PcpuId,
    inbox: Mutex<Vec<Member<B>>>,
    /// It is to write down what its vCPUs do.
    dump: AtomicBool,
}

impl<B: Backend> Crew<B> {
    /// The crew of these CPUs, all of which can run guests.
    pub(crate) fn new(backend: B, cpus: impl IntoIterator<Item = PcpuId>) -> Self {
        let seat = |cpu| Seat {
            cpu,
            inbox: Mutex::new(Vec::new()),
            dump: AtomicBool::new(false),
        };
        Self {
            backend,
            seats: cpus.into_iter().map(seat).collect(),
            vms: Mutex::new(Vec::new()),
            running: AtomicUsize::new(0),
        }
    }

    /// Hands out the vCPUs of a new VM, to each CPU in turn.
    pub(crate) fn add(&self, vm: Arc<Vm<B>>, vcpus: impl IntoIterator<Item = Member<B>>) {
        let first = vm.id().0 as usize;
        self.running.fetch_add(1, Ordering::Relaxed);
        self.vms.lock().push(vm);
        for (seat, vcpu) in self
            .seats
            .iter()
            .cycle()
            .skip(first % self.seats.len())
            .zip(vcpus)
        {
            vcpu.0.settle_on(seat.cpu);
            seat.inbox.lock().push(vcpu);
            kick(seat.cpu);
        }
    }

    /// Gives turns on this CPU. The boot CPU returns once all VMs have ended, the others never.
    pub(crate) fn work(&self) {
        let here = cpu::this().id();
        let Some(seat) = self.seats.iter().find(|seat| seat.cpu == here) else {
            return;
        };
        Turns {
            crew: self,
            seat,
            queue: RunQueue::new(Use::Shared),
            asleep: Vec::new(),
            desk: (here == PcpuId::BOOT).then(Desk::new),
        }
        .give();
    }

    /// The next VM after this one, in a circle, that has not ended.
    fn next_after(&self, id: Option<VmId>) -> Option<VmId> {
        let vms = self.vms.lock();
        let live = || vms.iter().filter(|vm| vm.end().is_none()).map(|vm| vm.id());
        live()
            .find(|other| Some(*other) > id)
            .or_else(|| live().next())
    }

    fn vm_ended(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            kick(PcpuId::BOOT);
        }
    }
}

/// Makes another CPU look at what was left for it.
fn kick(cpu: PcpuId) {
    if cpu != cpu::this().id()
        && let Some(target) = cpu::smp::cpu(cpu)
    {
        apic::send(target.apic_id(), HostVector::Kick);
    }
}

/// The vCPUs that live on this CPU.
struct Turns<'a, B: Backend> {
    crew: &'a Crew<B>,
    seat: &'a Seat<B>,
    queue: RunQueue<Box<Vcpu<B>>>,
    asleep: Vec<Member<B>>,
    /// The boot CPU's, which alone listens to the operator.
    desk: Option<Desk>,
}

/// The operator's place.
struct Desk {
    operator: Operator,
    /// The guest that gets the keys.
    focus: Option<VmId>,
}

impl Desk {
    const fn new() -> Self {
        Self {
            operator: Operator::new(),
            focus: None,
        }
    }
}

impl<B: Backend> Turns<'_, B> {
    fn give(mut self) {
        loop {
            self.welcome();
            self.hear();
            if self.seat.dump.swap(false, Ordering::Relaxed) {
                self.dump();
            }
            self.wake();
            if let Some(turn) = self.queue.choose(clock::now_ns()) {
                self.turn(turn);
            } else if self.desk.is_some() && self.crew.running.load(Ordering::Acquire) == 0 {
                return;
            } else {
                self.wait();
            }
        }
    }

    /// Takes in those that are new here.
    fn welcome(&mut self) {
        let new = core::mem::take(&mut *self.seat.inbox.lock());
        if new.is_empty() {
            return;
        }
        // One that has been alone until now is still loaded, and nobody may be loaded over it.
        let mut ready = self.queue.remove(|_| true);
        for (vcpu, _) in ready.iter_mut().chain(&mut self.asleep) {
            self.crew.backend.unload(vcpu.backend_mut());
        }
        for (vcpu, share) in ready {
            self.join(vcpu, share, Arrival::Again);
        }
        for (vcpu, share) in new {
            self.join(vcpu, share, Arrival::New);
        }
    }

    /// Queues a vCPU. Nobody runs at this moment, so nobody has to make way for it.
    fn join(&mut self, vcpu: Box<Vcpu<B>>, share: Share, arrival: Arrival) {
        let _: Preemption = self.queue.enqueue(vcpu, share, arrival, clock::now_ns());
    }

    fn turn(&mut self, mut turn: SchedulerTurn<Box<Vcpu<B>>>) {
        let end_tsc = match turn.slice {
            Slice::Ns(ns) => clock::tsc().wrapping_add(clock::ns_to_ticks(ns)),
            Slice::Unlimited => u64::MAX,
        };
        // Somebody who wakes up by a timer meanwhile may go first.
        let until_tsc = end_tsc.min(self.wakes_at());
        let outcome = turn.vcpu.run(&self.crew.backend, until_tsc);
        let (mut vcpu, share) = self.queue.end_turn(turn, clock::now_ns());
        match outcome {
            Turn::Ended => {
                let vm = Arc::clone(vcpu.vm());
                drop(vcpu);
                if vm.vcpu_left() {
                    self.crew.vm_ended();
                }
            }
            Turn::Expired | Turn::Yielded => {
                self.make_way(&mut vcpu);
                self.join(vcpu, share, Arrival::Again);
            }
            Turn::Asleep => {
                self.make_way(&mut vcpu);
                self.asleep.push((vcpu, share));
            }
        }
    }

    /// Takes a vCPU off the CPU if there is any other that may want it. Those that come later see to it themselves
    /// ([`welcome`](Self::welcome)).
    fn make_way(&self, vcpu: &mut Vcpu<B>) {
        if !self.queue.is_empty() || !self.asleep.is_empty() {
            self.crew.backend.unload(vcpu.backend_mut());
        }
    }

    /// Queues those that have a reason to wake up.
    fn wake(&mut self) {
        let now_tsc = clock::tsc();
        let mut index = 0;
        while let Some((vcpu, _)) = self.asleep.get(index) {
            if vcpu.has_reason_to_wake(now_tsc) {
                let (mut vcpu, share) = self.asleep.swap_remove(index);
                vcpu.woken();
                self.join(vcpu, share, Arrival::Woken);
            } else {
                index += 1;
            }
        }
    }

    /// The host's TSC when the first of the sleepers wakes up by a timer; `u64::MAX` for never.
    fn wakes_at(&self) -> u64 {
        self.asleep
            .iter()
            .map(|(vcpu, _)| vcpu.wakes_at())
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Halts the CPU until an interrupt: a timer of a sleeping vCPU, somebody's kick, a key. One that came since
    /// the lists were looked at is not lost: interrupts are off until the processor halts.
    fn wait(&self) {
        for (vcpu, _) in &self.asleep {
            vcpu.vm().show_prompt();
        }
        console::refresh(Refresh::WhenDue);
        // A cap's period may end before anybody wakes up.
        let released_at = self.queue.next_event_ns().map_or(u64::MAX, clock::tsc_at);
        let until_tsc = self.wakes_at().min(released_at);
        if until_tsc != u64::MAX {
            apic::set_timer(until_tsc);
        }
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }

    /// Does what the operator wants.
    fn hear(&mut self) {
        let Some(desk) = &mut self.desk else { return };
        while let Some(wish) = desk.operator.listen() {
            match wish {
                Wish::Dump => {
                    for seat in &self.crew.seats {
                        seat.dump.store(true, Ordering::Relaxed);
                        kick(seat.cpu);
                    }
                }
                Wish::Reset => power::reset(),
                Wish::PowerOff => power::power_off(),
                Wish::NextGuest => desk.focus = self.crew.next_after(desk.focus),
            }
        }
        let focused = {
            let vms = self.crew.vms.lock();
            vms.iter()
                .find(|vm| Some(vm.id()) == desk.focus && vm.end().is_none())
                .map(Arc::clone)
        };
        match focused {
            Some(vm) => desk.operator.offer(|bytes| vm.receive(bytes)),
            None => desk.focus = self.crew.next_after(desk.focus),
        }
    }

    #[cold]
    fn dump(&mut self) {
        let mut ready = self.queue.remove(|_| true);
        for (vcpu, _) in ready.iter_mut().chain(&mut self.asleep) {
            let mut text = String::new();
            // Writing to a string fails only where memory has run out, and then what is there must do.
            let _ = vcpu.describe(&self.crew.backend, &mut text);
            for line in text.lines() {
                console::line(Colour::Text, format_args!("plinth: {line}"));
            }
            self.crew.backend.unload(vcpu.backend_mut());
        }
        for (vcpu, share) in ready {
            self.join(vcpu, share, Arrival::Again);
        }
    }
}
