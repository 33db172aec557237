//! The CPUs at work, as they see each other: where a vCPU goes that becomes ready, and who takes one from whom. Who may
//! be where says `seating.rs`; how one CPU asks the others about theirs, `question.rs`.
//!
//! Each CPU has a [`Seat`]. Its queue is behind a lock, which others take only to take a vCPU out; what comes to it
//! goes into its inbox. What a CPU has to do is published without a lock, so that looking at all of them costs one
//! of them nothing. Lock order: queue, inbox; never two queues.

mod question;
mod seat;
mod seating;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use spin::Mutex;
use vmm::scheduler::balance::{self, Theft};
use vmm::scheduler::placement;
use vmm::scheduler::plan::{Plan, allowed};
use vmm::scheduler::{
    Arrival, CpuSet, Elsewhere, Occupied, RunQueue, Share, SharedCpuSet, Summary, Use,
};

use crate::backend::Backend;
use crate::cpu::PcpuId;
use crate::doorbell;
use crate::hw::clock;
use crate::vcpu::Vcpu;

use self::question::Questions;
pub(crate) use self::question::{About, Question};
pub(crate) use self::seat::{Member, Seat};
pub(crate) use self::seating::{Contention, Seating};

/// What all CPUs share.
pub(crate) struct Crew<B: Backend> {
    pub(crate) backend: B,
    /// By the number of the CPU; those that cannot run guests have none.
    seats: Box<[Option<Seat<B>>]>,
    /// Who owns which CPU. Changed by the boot CPU only.
    plan: Mutex<Plan>,
    /// The CPUs that nobody owns, as everybody reads it.
    shared: SharedCpuSet,
    /// How often the plan has changed.
    plan_version: AtomicU32,
    questions: Questions,
}

impl<B: Backend> Crew<B> {
    /// The crew of these CPUs, all of which can run guests.
    pub(crate) fn new(backend: B, cpus: &[PcpuId]) -> Self {
        let last = cpus.iter().map(|cpu| cpu.index()).max().unwrap_or(0);
        let mut seats: Vec<Option<Seat<B>>> = Vec::new();
        seats.resize_with(last + 1, || None);
        for cpu in cpus {
            let queue = match cpus {
                [_] => RunQueue::new(Use::Shared).of_only_cpu(),
                _ => RunQueue::new(Use::Shared),
            };
            seats[cpu.index()] = Some(Seat::new(*cpu, queue));
        }
        let all: CpuSet = cpus.iter().map(|cpu| cpu.0 as u16).collect();
        let shared = SharedCpuSet::default();
        shared.set(&all);
        Self {
            backend,
            seats: seats.into_boxed_slice(),
            plan: Mutex::new(Plan::new(all)),
            shared,
            plan_version: AtomicU32::new(0),
            questions: Questions::new(),
        }
    }

    /// All seats, in the order of the CPUs' numbers.
    pub(crate) fn seats(&self) -> impl Iterator<Item = &Seat<B>> {
        self.seats.iter().flatten()
    }

    /// Whether there is one CPU only, and so nowhere to go.
    pub(crate) fn is_of_one(&self) -> bool {
        self.seats.len() == 1
    }

    /// The seat of a CPU.
    pub(crate) fn seat(&self, cpu: PcpuId) -> Option<&Seat<B>> {
        self.seats.get(cpu.index())?.as_ref()
    }

    fn others(&self, here: PcpuId) -> impl Iterator<Item = &Seat<B>> {
        self.seats().filter(move |seat| seat.cpu != here)
    }

    /// The CPUs that a vCPU may use.
    fn allowed(&self, vcpu: &Vcpu<B>) -> CpuSet {
        match vcpu.seating() {
            Seating::Owner(cpu) => core::iter::once(cpu.0 as u16).collect(),
            Seating::Shared(affinity) => allowed(&self.shared.get(), &affinity),
        }
    }

    /// Whether a vCPU may run on a CPU.
    pub(crate) fn may_run(&self, vcpu: &Vcpu<B>, cpu: PcpuId) -> bool {
        self.allowed(vcpu).contains(cpu.0 as u16)
    }

    /// Hands out the vCPUs of a new VM, each to the CPU that has the fewest.
    pub(crate) fn add(&self, vcpus: impl IntoIterator<Item = Member<B>>) {
        for member in vcpus {
            let allowed = self.allowed(&member.0);
            let fewest = self
                .seats()
                .filter(|seat| allowed.contains(seat.cpu.0 as u16))
                .min_by_key(|seat| seat.members());
            if let Some(seat) = fewest {
                self.send(seat, member, Arrival::New);
            }
        }
    }

    /// Puts a vCPU into the inbox of another CPU. It is not loaded here any more.
    fn send(&self, seat: &Seat<B>, member: Member<B>, arrival: Arrival) {
        seat.put(&mut seat.inbox.lock(), member, arrival);
        doorbell::ring(seat.cpu);
    }

    /// Sends a vCPU that lives here, and does not run, to another CPU, unless there is a question: then it comes back.
    pub(crate) fn offer_member(
        &self,
        from: &Seat<B>,
        to: &Seat<B>,
        (vcpu, mut share): Member<B>,
        arrival: Arrival,
    ) -> Result<(), Member<B>> {
        // Under the lock: the other CPU empties its inbox before it answers.
        let mut inbox = to.inbox.lock();
        if self.is_asking() {
            return Err((vcpu, share));
        }
        share.leave();
        to.put(&mut inbox, (vcpu, share), arrival);
        drop(inbox);
        from.member_left();
        doorbell::ring(to.cpu);
        Ok(())
    }

    /// Sends a vCPU that may not stay here, and does not run, to another CPU.
    pub(crate) fn move_away(
        &self,
        from: &Seat<B>,
        to: &Seat<B>,
        (vcpu, mut share): Member<B>,
        arrival: Arrival,
    ) {
        from.member_left();
        share.leave();
        self.send(to, (vcpu, share), arrival);
    }

    /// Where else a vCPU should go that becomes ready on the CPU of this seat; nowhere where it is to stay.
    pub(crate) fn better_place(&self, here: &Seat<B>, vcpu: &Vcpu<B>) -> Option<&Seat<B>> {
        let last = Some(here.cpu.0 as u16);
        let cpu = placement::place(&self.allowed(vcpu), last, |cpu| self.summary_of(cpu))?;
        self.seat(PcpuId(cpu.into()))
            .filter(|seat| seat.cpu != here.cpu)
    }

    /// Where a vCPU goes that may not run on the CPU of this seat; nowhere where it may.
    pub(crate) fn onward(&self, here: &Seat<B>, vcpu: &Vcpu<B>) -> Option<&Seat<B>> {
        let (allowed, here) = (self.allowed(vcpu), here.cpu.0 as u16);
        let cpu = placement::onward(&allowed, here, |cpu| self.summary_of(cpu))?;
        self.seat(PcpuId(cpu.into()))
    }

    fn summary_of(&self, cpu: u16) -> Summary {
        // A CPU that is not there is taken.
        let taken = Summary {
            waiting: usize::MAX,
            ..Summary::default()
        };
        self.seat(PcpuId(cpu.into())).map_or(taken, Seat::summary)
    }

    fn summaries_of_others(&self, here: PcpuId) -> impl Iterator<Item = (u16, Summary)> {
        self.others(here)
            .map(|seat| (seat.cpu.0 as u16, seat.published()))
    }

    /// What the other CPUs are at.
    pub(crate) fn elsewhere(&self, here: PcpuId) -> Elsewhere {
        Elsewhere::of(self.summaries_of_others(here).map(|(_, summary)| summary))
    }

    /// Looks at the other CPUs, and takes a vCPU from one that has fallen behind one with `own` to do.
    pub(crate) fn look_around(
        &self,
        here: PcpuId,
        own: &Summary,
    ) -> (Elsewhere, Option<Member<B>>) {
        balance::look_around(
            own,
            || self.summaries_of_others(here),
            |victim| self.steal(here, own, PcpuId(victim.into())),
        )
    }

    fn steal(&self, here: PcpuId, own: &Summary, victim: PcpuId) -> Theft<Member<B>> {
        let Some((victim, mut queue)) = self
            .seat(victim)
            .and_then(|victim| Some((victim, victim.queue.try_lock()?)))
        else {
            return Theft::TooLate;
        };
        // Under the lock, which whoever answers takes, too: what is taken now is told here.
        if self.is_asking() {
            return Theft::TooLate;
        }
        let now_ns = clock::now_ns();
        let theft = queue.steal_for(own, |vcpu| self.may_take(vcpu, here), now_ns);
        if matches!(theft, Theft::Done(_)) {
            victim.publish(&queue.summary(now_ns));
            victim.member_left();
        }
        theft
    }

    /// Takes a vCPU from any CPU where it waits that can do something for a sibling that spins here. One that has to
    /// stay where it is gets the spinner's time there.
    pub(crate) fn steal_helper(&self, here: PcpuId, spinner: &mut Share) -> Option<Member<B>> {
        if self.is_asking() {
            return None;
        }
        for seat in self
            .others(here)
            .filter(|seat| seat.published().waiting > 0)
        {
            // Whoever holds the lock is at work there; there is always another turn.
            let Some(mut queue) = seat.queue.try_lock() else {
                continue;
            };
            if self.is_asking() {
                return None;
            }
            let helper = queue.steal_helper(
                spinner,
                |vcpu| vcpu.is_called(),
                |vcpu| self.may_take(vcpu, here),
            );
            if let Some(member) = helper {
                drop(queue);
                seat.member_left();
                return Some(member);
            }
            queue.lend_to_one(spinner, |vcpu| vcpu.is_called());
        }
        None
    }

    /// Whether a vCPU in somebody else's queue may run here, and nothing of it is left in that CPU.
    fn may_take(&self, vcpu: &Vcpu<B>, here: PcpuId) -> bool {
        !self.backend.is_loaded(vcpu.backend()) && self.may_run(vcpu, here)
    }

    /// Tells an idle CPU that somebody waits here, if there is one that may run it.
    pub(crate) fn offer(&self, here: PcpuId, next: &Vcpu<B>) {
        let allowed = self.allowed(next);
        let idle = self.others(here).find(|seat| {
            let summary = seat.summary();
            summary.waiting == 0
                && summary.occupied == Occupied::No
                && allowed.contains(seat.cpu.0 as u16)
        });
        if let Some(seat) = idle {
            doorbell::ring(seat.cpu);
        }
    }
}
