//! One CPU's share of the work: it takes a vCPU from its queue, gives it a turn, and puts it back. Whose turn it
//! is and how long it lasts is the business of [`vmm::scheduler`]; which CPU has which vCPU that of `crew.rs`.
//!
//! A vCPU is owned by whoever holds it, a queue or the CPU that runs it, so it needs no lock. The last vCPU to run
//! stays loaded on its CPU until another one is to run there: where there is only one, nothing is ever switched, and
//! one that sleeps while nobody else runs wakes up loaded. A loaded vCPU does not move to another CPU.

mod answer;
mod sleep;

use alloc::boxed::Box;
use alloc::vec::Vec;

use vmm::panic_watch;
use vmm::scheduler::{
    Arrival, NEVER, Preemption, Share, Sleepers, Slice, Slot, Turn as SchedulerTurn,
};

use crate::backend::Backend;
use crate::cpu::{self, apic};
use crate::crew::{Crew, Member, Seat};
use crate::desk::Desk;
use crate::doorbell::Doorbell;
use crate::hw::console::Refresh;
use crate::hw::{clock, console};
use crate::keeper;
use crate::vcpu::{Turn, Vcpu};
use crate::vm::{Stance, Whereabouts};

use self::sleep::DROWSY_AT_MOST;

/// Gives turns on this CPU, for ever where nobody sits at the desk; else until the desk says that all is done.
pub(crate) fn work<B: Backend>(crew: &Crew<B>, desk: Option<Desk<'_, B>>) {
    if let Some(seat) = crew.seat(cpu::this().id()) {
        Turns {
            crew,
            seat,
            bell: Doorbell::here(),
            sleepers: Sleepers::new(),
            resident: Resident::None,
            arrivals: Vec::new(),
            woken: Vec::new(),
            drowsy: Vec::with_capacity(DROWSY_AT_MOST),
            timer_is_set: false,
            plan_version: 0,
            desk,
        }
        .give();
    }
}

/// The vCPUs that live on this CPU.
struct Turns<'a, B: Backend> {
    crew: &'a Crew<B>,
    seat: &'a Seat<B>,
    bell: &'static Doorbell,
    sleepers: Sleepers<Member<B>>,
    resident: Resident,
    /// Room for what the inbox and the bell hand over, empty in between.
    arrivals: Vec<(Member<B>, Arrival)>,
    woken: Vec<Slot>,
    /// Who has gone to sleep since this CPU was last idle, and may have begun a line that nobody has seen.
    drowsy: Vec<Slot>,
    /// The plan that was followed last.
    plan_version: u32,
    /// The CPU's timer was set for a halt, and may still be to fire.
    timer_is_set: bool,
    /// The boot CPU's, which alone listens to the operator.
    desk: Option<Desk<'a, B>>,
}

/// Who is loaded on this CPU and does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resident {
    None,
    /// One that sleeps.
    Asleep(Slot),
    /// One in the queue, which had it for itself when it joined.
    Queued,
}

impl<B: Backend> Turns<'_, B> {
    fn give(mut self) {
        loop {
            // Whatever others have left, they have rung after it.
            let is_rung = self.bell.answer();
            if let Some(desk) = &mut self.desk {
                desk.attend();
                if desk.is_done() {
                    return;
                }
                if let Some(machine) = desk.due_to_build() {
                    self.build(machine);
                }
            }
            if is_rung {
                self.welcome();
                self.follow_plan();
                self.wake_the_woken();
            }
            self.wake_the_due();
            cpu::report_news();
            if is_rung && let Some(number) = self.seat.take_question() {
                // Nobody comes any more until it is answered, but for those that must.
                self.welcome();
                self.answer(number);
            }
            self.balance();
            if let Some(turn) = self.choose() {
                self.turn(turn);
            } else {
                self.wait();
            }
        }
    }

    fn build(&mut self, machine: usize) {
        self.evict_resident();
        if let Some(desk) = &mut self.desk {
            desk.build(machine);
        }
    }

    /// Takes in those that have come from elsewhere. Somebody may own this CPU by now who did not when one was sent
    /// here: that one goes on. The plan is looked at afterwards: who changes it after this look rings once more.
    fn welcome(&mut self) {
        let mut arrivals = core::mem::take(&mut self.arrivals);
        self.seat.take_arrivals(&mut arrivals);
        for (member, arrival) in arrivals.drain(..) {
            self.send_away(member, arrival);
        }
        self.arrivals = arrivals;
    }

    /// If CPUs have changed hands, those leave that are to be elsewhere now: all but the one that owns this CPU, or those
    /// that were here only because theirs was somebody else's.
    fn follow_plan(&mut self) {
        let version = self.crew.plan_version();
        if version == self.plan_version {
            return;
        }
        self.plan_version = version;
        let mut queue = self.seat.queue.lock();
        queue.set_use(self.seat.cpu_use());
        let (crew, here) = (self.crew, self.seat.cpu);
        let leaving = queue.remove(|vcpu| !crew.may_run(vcpu, here));
        drop(queue);
        for member in leaving {
            self.send_away(member, Arrival::Moved);
        }
        let slots: Vec<_> = self.sleepers.slots().collect();
        for slot in slots {
            let stays = self
                .sleepers
                .get(slot)
                .is_none_or(|(vcpu, _)| crew.may_run(vcpu, here));
            if !stays && let Some(member) = self.take_sleeper(slot) {
                // It wakes up there, finds nothing, and sleeps there.
                self.send_away(member, Arrival::Moved);
            }
        }
    }

    /// Sends one that may not run here to a CPU where it may; it stays where there is none.
    fn send_away(&mut self, (mut vcpu, share): Member<B>, arrival: Arrival) {
        match self.crew.onward(self.seat, &vcpu) {
            Some(to) => {
                self.unload(&mut vcpu);
                self.crew.move_away(self.seat, to, (vcpu, share), arrival);
            }
            None => self.join(vcpu, share, arrival),
        }
    }

    /// Queues a vCPU. Nobody runs at this moment, so nobody has to make way for it.
    fn join(&mut self, vcpu: Box<Vcpu<B>>, share: Share, arrival: Arrival) {
        let mut queue = self.seat.queue.lock();
        if queue.is_empty() && arrival != Arrival::Again && !self.crew.is_of_one() {
            queue.set_elsewhere(self.crew.elsewhere(self.seat.cpu));
        }
        let _: Preemption = queue.enqueue(vcpu, share, arrival, clock::now_ns());
    }

    /// Sees what the other CPUs are at, and takes a vCPU from one that has too much to do, if this one has too little.
    fn balance(&mut self) {
        if self.crew.is_of_one() {
            return;
        }
        let own = self.seat.queue.lock().summary(clock::now_ns());
        let (elsewhere, taken) = self.crew.look_around(self.seat.cpu, &own);
        self.seat.queue.lock().set_elsewhere(elsewhere);
        if let Some((vcpu, share)) = taken {
            self.seat.came_by_theft();
            self.join(vcpu, share, Arrival::Moved);
        }
    }

    fn choose(&mut self) -> Option<SchedulerTurn<Box<Vcpu<B>>>> {
        let now_ns = clock::now_ns();
        let mut queue = self.seat.queue.lock();
        let turn = queue.choose(now_ns);
        if !self.crew.is_of_one() {
            self.seat.publish(&queue.summary(now_ns));
        }
        if turn.is_some()
            && !self.crew.is_of_one()
            && let Some(next) = queue.next()
        {
            self.crew.offer(self.seat.cpu, next);
        }
        turn
    }

    fn turn(&mut self, mut turn: SchedulerTurn<Box<Vcpu<B>>>) {
        let begin_tsc = clock::tsc();
        let is_here = self.crew.backend.is_loaded(turn.vcpu.backend());
        let stance = turn.vcpu.vm().stance();
        if stance == Stance::Run && !is_here {
            self.evict_resident();
            turn.vcpu.bring_here(&self.crew.backend);
        }
        let enter_tsc = clock::tsc();
        let end_tsc = match turn.slice {
            Slice::Ns(ns) => enter_tsc.wrapping_add(clock::ns_to_ticks(ns)),
            Slice::Unlimited => {
                self.stop_timer();
                NEVER
            }
        };
        let end_tsc = if turn.vcpu.vm().may_be_dead() {
            end_tsc.min(enter_tsc.wrapping_add(clock::ns_to_ticks(panic_watch::LOOK_NS)))
        } else {
            end_tsc
        };
        let outcome = match stance {
            Stance::End => Turn::Ended,
            Stance::Pause => Turn::Paused,
            Stance::Run => {
                // Somebody who wakes up by a timer meanwhile may go first, and the desk has its times, too.
                // The desk may always be due, and guests are to run none the less.
                let desk_tsc = self.desk.as_ref().map_or(NEVER, Desk::due_tsc);
                let desk_tsc = desk_tsc.max(begin_tsc + clock::ns_to_ticks(DESK_PAUSE_NS));
                self.bell
                    .begin_turn(end_tsc.min(self.sleepers.next_wake()).min(desk_tsc));
                turn.vcpu.run(&self.crew.backend, self.bell.turn_end())
            }
        };
        if is_here {
            self.resident = Resident::None;
        }
        let ran_ns = clock::ticks_to_ns(clock::tsc().wrapping_sub(begin_tsc));
        let mut end_ns = clock::now_ns();
        if outcome == Turn::Expired {
            let (entered_tsc, left_tsc) = turn.vcpu.ran_between();
            turn.forgive_switch(clock::ns_at(entered_tsc));
            end_ns = clock::ns_at(left_tsc);
        }
        let (mut vcpu, share) = self.seat.queue.lock().end_turn(turn, end_ns);
        vcpu.add_run_time(ran_ns);
        self.seat.figures.count_turn(ran_ns);
        match outcome {
            Turn::Ended => {
                drop(vcpu);
                self.seat.member_left();
                keeper::tell();
            }
            Turn::Expired => self.rejoin(vcpu, share),
            Turn::Yielded => {
                let left_ns = match end_tsc {
                    NEVER => NEVER,
                    end_tsc => clock::ticks_to_ns(end_tsc.saturating_sub(clock::tsc())),
                };
                self.give_way(vcpu, share, left_ns);
            }
            Turn::Asleep => self.lay_to_sleep((vcpu, share)),
            Turn::Paused => {
                if vcpu.park() {
                    vcpu.vm().show_prompt();
                    self.lay_to_sleep((vcpu, share));
                } else {
                    self.rejoin(vcpu, share);
                }
            }
        }
    }

    /// What the CPU's timer was set to when it last halted does not concern a turn without an end.
    fn stop_timer(&mut self) {
        if self.timer_is_set {
            self.timer_is_set = false;
            apic::stop_timer();
        }
    }

    /// Queues the vCPU that has just run, for another turn. Where that comes at once it stays loaded, unless somebody
    /// comes meanwhile.
    fn rejoin(&mut self, mut vcpu: Box<Vcpu<B>>, mut share: Share) {
        let goes_on = self.seat.queue.lock().goes_on(&mut share);
        self.prepare_to_wait(&mut vcpu, goes_on);
        self.join(vcpu, share, Arrival::Again);
    }

    fn prepare_to_wait(&mut self, vcpu: &mut Vcpu<B>, goes_on: bool) {
        vcpu.set_whereabouts(Whereabouts::Waiting);
        if !goes_on {
            self.unload(vcpu);
        } else if self.crew.backend.is_loaded(vcpu.backend()) {
            self.resident = Resident::Queued;
        }
    }

    /// A vCPU spins, for want of what another one of its VM is to do: that runs in its place. If it waits on another
    /// CPU, it comes here.
    fn give_way(&mut self, mut vcpu: Box<Vcpu<B>>, mut share: Share, left_ns: u64) {
        self.seat.figures.count_spin();
        if vcpu.vm().vcpus() > 1 {
            let is_here = self
                .seat
                .queue
                .lock()
                .has_helper(&share, |other| other.is_called());
            if !is_here
                && let Some((helper, its_share)) = self.crew.steal_helper(self.seat.cpu, &mut share)
            {
                self.seat.came_by_theft();
                self.join(helper, its_share, Arrival::Moved);
            }
        }
        let goes_on = self.seat.queue.lock().is_empty();
        self.prepare_to_wait(&mut vcpu, goes_on);
        let mut queue = self.seat.queue.lock();
        queue.give_way(vcpu, share, left_ns, |other| other.is_called());
    }

    fn publish(&self) {
        let queue = self.seat.queue.lock();
        self.seat.publish(&queue.summary(clock::now_ns()));
    }

    /// Takes a vCPU off this CPU, if it is loaded.
    fn unload(&mut self, vcpu: &mut Vcpu<B>) {
        if self.crew.backend.is_loaded(vcpu.backend()) {
            self.crew.backend.unload(vcpu.backend_mut());
            self.resident = Resident::None;
        }
    }

    /// Another vCPU is to be loaded: who is makes way.
    fn evict_resident(&mut self) {
        match core::mem::replace(&mut self.resident, Resident::None) {
            Resident::None => {}
            Resident::Asleep(slot) => {
                if let Some((vcpu, _)) = self.sleepers.get_mut(slot) {
                    self.crew.backend.unload(vcpu.backend_mut());
                }
            }
            // It had the queue for itself, and then somebody came who goes first.
            Resident::Queued => {
                let backend = &self.crew.backend;
                let mut queue = self.seat.queue.lock();
                let loaded = queue.remove(|vcpu| backend.is_loaded(vcpu.backend()));
                for (mut vcpu, share) in loaded {
                    backend.unload(vcpu.backend_mut());
                    let _: Preemption = queue.enqueue(vcpu, share, Arrival::Again, clock::now_ns());
                }
            }
        }
    }

    /// Halts the CPU until an interrupt: a timer of a sleeping vCPU, somebody's ring, a key. One that came since
    /// the lists were looked at is not lost: interrupts are off until the processor halts.
    fn wait(&mut self) {
        self.show_prompts();
        console::refresh(Refresh::WhenDue);
        let screen_tsc = console::screen_due_ns().map_or(NEVER, clock::tsc_at);
        self.bell.give_no_turn();
        // The others have been told that this CPU is idle. What came to them before that is looked for once more.
        self.balance();
        let queue = self.seat.queue.lock();
        if self.bell.is_ringing() || queue.ready() > 0 {
            return;
        }
        // A cap's period may end before anybody wakes up.
        let released_at = queue.next_event_ns().map_or(NEVER, clock::tsc_at);
        drop(queue);
        let desk_tsc = self.desk.as_ref().map_or(NEVER, Desk::due_tsc);
        let until_tsc = self
            .sleepers
            .next_wake()
            .min(released_at)
            .min(desk_tsc)
            .min(screen_tsc);
        if until_tsc != NEVER {
            self.timer_is_set = true;
            apic::set_timer(until_tsc);
        }
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }
}

/// A turn that the desk ends lasts so long at least.
const DESK_PAUSE_NS: u64 = 1_000_000;
