//! The CPUs at work, as they see each other: where a vCPU goes that becomes ready, who takes one from whom, and how
//! one CPU asks the others about theirs.
//!
//! Each CPU has a [`Seat`]. Its queue is behind a lock, which others take only to take a vCPU out; what comes to it
//! goes into its inbox. What a CPU has to do is published without a lock, so that looking at all of them costs one
//! of them nothing. Lock order: queue, inbox; never two queues.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ::log::{info, warn};
use bundle::{Placement, VmConfig};
use spin::Mutex;
use vmm::monitor::command::EntryPart;
use vmm::monitor::inquiry::{Inquiry, Number};
use vmm::monitor::top::VcpuSample;
use vmm::scheduler::balance::{
    self, CpuSet, Elsewhere, Occupied, Plan, Published, SharedCpuSet, Summary, Theft, allowed,
};
use vmm::scheduler::{Arrival, RunQueue, Share, Use};

use crate::backend::Backend;
use crate::cpu::PcpuId;
use crate::doorbell;
use crate::hw::clock;
use crate::vcpu::Vcpu;
use crate::vm::VmId;

/// A vCPU and the scheduler's part of it.
pub(crate) type Member<B> = (Box<Vcpu<B>>, Share);

/// What is on its way to a CPU.
type Inbox<B> = Vec<(Member<B>, Arrival)>;

/// Where a vCPU may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seating {
    /// On the shared CPUs, as far as this set allows; an empty one allows all.
    Shared(CpuSet),
    /// On a CPU of its own.
    Owner(PcpuId),
}

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
    /// What was asked last, and by what number.
    question: Mutex<Option<(Number, Question)>>,
    inquiry: Inquiry,
    /// What was answered about figures.
    samples: Mutex<Vec<VcpuSample>>,
}

/// One CPU as the others see it.
pub(crate) struct Seat<B: Backend> {
    pub(crate) cpu: PcpuId,
    pub(crate) queue: Mutex<RunQueue<Box<Vcpu<B>>>>,
    inbox: Mutex<Inbox<B>>,
    /// How many lie in the inbox.
    arriving: AtomicU32,
    /// vCPUs that live here, wherever they are just now.
    members: AtomicU32,
    published: Published,
    /// One vCPU owns the CPU.
    owned: AtomicBool,
    /// The number of a question that it has to answer; 0 for none.
    asked: AtomicU32,
    pub(crate) figures: SeatFigures,
}

/// What a CPU has done since it came up. Written by the CPU itself.
#[derive(Default)]
pub(crate) struct SeatFigures {
    /// For how long it has given turns.
    pub(crate) busy_ns: AtomicU64,
    /// How many.
    pub(crate) turns: AtomicU64,
    /// vCPUs that it has taken from others.
    pub(crate) stolen: AtomicU64,
    /// Turns that ended because the vCPU was spinning.
    pub(crate) yielded: AtomicU64,
}

impl SeatFigures {
    /// Counts a turn.
    pub(crate) fn count_turn(&self, ran_ns: u64) {
        add(&self.busy_ns, ran_ns);
        add(&self.turns, 1);
    }

    /// A turn has ended because the vCPU was spinning.
    pub(crate) fn count_spin(&self) {
        add(&self.yielded, 1);
    }
}

/// Adds to a figure that one CPU alone writes: that needs no atomic addition.
fn add(figure: &AtomicU64, what: u64) {
    let sum = figure.load(Ordering::Relaxed).wrapping_add(what);
    figure.store(sum, Ordering::Relaxed);
}

/// Whether vCPUs may be ready and have to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contention {
    /// There is a CPU for each vCPU.
    None,
    /// There are more vCPUs than CPUs, or rules about who runs where and for how long.
    Possible,
}

/// What a CPU is asked about the vCPUs that it has.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) about: About,
    /// Of this VM only.
    pub(crate) vm: Option<VmId>,
}

/// What is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum About {
    /// Registers, last exits and figures.
    Everything,
    /// Registers.
    Registers,
    /// Last exits.
    Trace,
    /// What the exits were, and what they cost.
    Exits,
    /// Nothing but that its next entry will fail, which is to be done to it.
    Spoil(EntryPart),
    /// The figures for the live view, which go to [`Crew::samples`].
    Figures,
}

impl<B: Backend> Seat<B> {
    fn new(cpu: PcpuId, queue: RunQueue<Box<Vcpu<B>>>) -> Self {
        Self {
            cpu,
            queue: Mutex::new(queue),
            inbox: Mutex::new(Vec::new()),
            arriving: AtomicU32::new(0),
            members: AtomicU32::new(0),
            published: Published::new(),
            owned: AtomicBool::new(false),
            asked: AtomicU32::new(0),
            figures: SeatFigures::default(),
        }
    }

    /// Lets the others see what there is to do here. Whoever does has the queue's lock.
    pub(crate) fn publish(&self, summary: &Summary) {
        self.published.set(summary);
    }

    /// What there is to do here, those on their way included.
    pub(crate) fn summary(&self) -> Summary {
        let mut summary = self.published.get();
        summary.waiting += self.arriving.load(Ordering::SeqCst) as usize;
        summary
    }

    /// Takes what has arrived. `into` is empty, and is what comes next is put into.
    pub(crate) fn take_arrivals(&self, into: &mut Vec<(Member<B>, Arrival)>) {
        let mut inbox = self.inbox.lock();
        core::mem::swap(&mut *inbox, into);
        self.arriving.store(0, Ordering::SeqCst);
    }

    /// A vCPU lives here now that was taken from another CPU.
    pub(crate) fn came_by_theft(&self) {
        self.members.fetch_add(1, Ordering::Relaxed);
        self.figures.stolen.fetch_add(1, Ordering::Relaxed);
    }

    /// One of those that live here is no more.
    pub(crate) fn member_left(&self) {
        self.members.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many vCPUs live here.
    pub(crate) fn members(&self) -> u32 {
        self.members.load(Ordering::Relaxed)
    }

    /// Whether one vCPU owns the CPU.
    pub(crate) fn cpu_use(&self) -> Use {
        if self.owned.load(Ordering::Acquire) {
            Use::Dedicated
        } else {
            Use::Shared
        }
    }

    /// The question that the CPU has to answer, once. It counts as answered from the call of
    /// [`Crew::answered`] on.
    pub(crate) fn take_question(&self) -> Option<Number> {
        if self.asked.load(Ordering::Relaxed) == 0 {
            return None;
        }
        match self.asked.swap(0, Ordering::AcqRel) {
            0 => None,
            number => Some(Number(number)),
        }
    }
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
            question: Mutex::new(None),
            inquiry: Inquiry::new(),
            samples: Mutex::new(Vec::new()),
        }
    }

    /// All seats, in the order of the CPUs' numbers.
    pub(crate) fn seats(&self) -> impl Iterator<Item = &Seat<B>> {
        self.seats.iter().flatten()
    }

    /// Whether vCPUs would have to wait for each other, or for their caps, were all of these VMs running.
    pub(crate) fn contention<'a>(&self, configs: impl Iterator<Item = &'a VmConfig>) -> Contention {
        let (mut vcpus, mut has_rules) = (0, false);
        for config in configs {
            vcpus += config.cpus as usize;
            has_rules |= config.cap_percent.is_some() || !config.affinity.is_empty();
        }
        if has_rules || vcpus > self.seats().count() {
            Contention::Possible
        } else {
            Contention::None
        }
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

    /// Gives a vCPU a CPU of its own, if there is one to give.
    fn dedicate(&self, affinity: &CpuSet, others_want: &CpuSet) -> Option<PcpuId> {
        let mut plan = self.plan.lock();
        let cpu = PcpuId(plan.dedicate(affinity, others_want)?.into());
        self.changes_hands(&plan, cpu, Use::Dedicated);
        Some(cpu)
    }

    /// Everybody may use this CPU again.
    pub(crate) fn give_back(&self, cpu: PcpuId) {
        let mut plan = self.plan.lock();
        plan.release(cpu.0 as u16);
        self.changes_hands(&plan, cpu, Use::Shared);
    }

    /// Lets everybody see the new plan, and those look at their vCPUs who may have some that are to be elsewhere now.
    fn changes_hands(&self, plan: &Plan, cpu: PcpuId, now: Use) {
        if let Some(seat) = self.seat(cpu) {
            seat.owned.store(now == Use::Dedicated, Ordering::Release);
        }
        self.shared.set(&plan.shared());
        // Behind what it tells of.
        self.plan_version.fetch_add(1, Ordering::Release);
        for concerned in plan.concerned(cpu.0 as u16).iter() {
            doorbell::ring(PcpuId(concerned.into()));
        }
    }

    /// Differs from an earlier answer if CPUs have changed hands since.
    pub(crate) fn plan_version(&self) -> u32 {
        self.plan_version.load(Ordering::Acquire)
    }

    /// Where the vCPUs of a machine may run. CPUs that they are to own are theirs from now on, if it can be without
    /// those that `others` ask for.
    pub(crate) fn seatings<'a>(
        &self,
        config: &VmConfig,
        others: impl Iterator<Item = &'a VmConfig>,
    ) -> Vec<Seating> {
        let affinity = config.affinity.iter().copied().collect();
        let others_want = others.flat_map(|other| other.affinity.iter().copied());
        let others_want = others_want.collect();
        if config.placement == Placement::Shared
            && !balance::is_kept(&self.plan.lock().shared(), &affinity)
        {
            warn!(
                target: "vm",
                "{}: none of the CPUs that it asks for is shared now: it may use all that are", config.name
            );
        }
        (0..config.cpus)
            .map(|vcpu| {
                let owned = match config.placement {
                    Placement::Shared => return Seating::Shared(affinity),
                    Placement::Dedicated => self.dedicate(&affinity, &others_want),
                };
                match owned {
                    Some(cpu) => {
                        info!(target: "vm", "{}: CPU {cpu} is vCPU {vcpu}'s own", config.name);
                        Seating::Owner(cpu)
                    }
                    None => {
                        warn!(
                            target: "vm",
                            "{}: no CPU is left to be vCPU {vcpu}'s own: it shares one", config.name
                        );
                        Seating::Shared(affinity)
                    }
                }
            })
            .collect()
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
        self.put(seat, &mut seat.inbox.lock(), member, arrival);
        doorbell::ring(seat.cpu);
    }

    fn put(&self, seat: &Seat<B>, inbox: &mut Inbox<B>, member: Member<B>, arrival: Arrival) {
        seat.members.fetch_add(1, Ordering::Relaxed);
        inbox.push((member, arrival));
        seat.arriving.fetch_add(1, Ordering::SeqCst);
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
        self.put(to, &mut inbox, (vcpu, share), arrival);
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
        let cpu = balance::place(&self.allowed(vcpu), last, |cpu| self.summary_of(cpu))?;
        self.seat(PcpuId(cpu.into()))
            .filter(|seat| seat.cpu != here.cpu)
    }

    /// Where a vCPU goes that may not run on the CPU of this seat; nowhere where it may.
    pub(crate) fn onward(&self, here: &Seat<B>, vcpu: &Vcpu<B>) -> Option<&Seat<B>> {
        let (allowed, here) = (self.allowed(vcpu), here.cpu.0 as u16);
        let cpu = balance::onward(&allowed, here, |cpu| self.summary_of(cpu))?;
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
            .map(|seat| (seat.cpu.0 as u16, seat.published.get()))
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
            .filter(|seat| seat.published.get().waiting > 0)
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

    /// Asks all CPUs. A question that was not answered yet is forgotten.
    pub(crate) fn ask(&self, question: Question) {
        let mut asked = self.question.lock();
        let number = self.inquiry.begin(self.seats().count() as u32);
        *asked = Some((number, question));
        self.samples.lock().clear();
        for seat in self.seats() {
            seat.asked.store(number.0, Ordering::Release);
            doorbell::ring(seat.cpu);
        }
    }

    /// What a CPU answers about figures, if that is still the question.
    pub(crate) fn note(&self, number: Number, samples: impl Iterator<Item = VcpuSample>) {
        let asked = self.question.lock();
        if asked.as_ref().is_some_and(|(last, _)| *last == number) {
            self.samples.lock().extend(samples);
        }
    }

    /// What the CPUs have answered about figures, once.
    pub(crate) fn samples(&self) -> Vec<VcpuSample> {
        core::mem::take(&mut *self.samples.lock())
    }

    /// Whether not all CPUs have answered. Until then no vCPU moves but those that must, or it would be told twice or
    /// not at all.
    pub(crate) fn is_asking(&self) -> bool {
        self.inquiry.is_open()
    }

    /// The question of this number; nothing where there is another one by now, for which each CPU is asked again.
    pub(crate) fn question(&self, number: Number) -> Option<Question> {
        let asked = self.question.lock();
        let (last, question) = asked.as_ref()?;
        (*last == number).then(|| question.clone())
    }

    /// One CPU has answered the question of this number.
    pub(crate) fn answered(&self, number: Number) {
        self.inquiry.answered(number);
        doorbell::ring(PcpuId::BOOT);
    }
}
