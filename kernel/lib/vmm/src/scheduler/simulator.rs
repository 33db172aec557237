//! A machine of CPUs and vCPUs in virtual time, which does with the policy what the kernel does with it.

use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

mod fair;
mod gang;

pub(super) use self::fair::{fair_shares, fair_shares_of_vms};
use self::gang::Gang;
use super::balance::look_around;
use super::placement::place;
use super::{
    Account, Arrival, Cap, CpuSet, Elsewhere, Preemption, RunQueue, Share, Slice, Summary, Turn,
    Use, Weight,
};

/// What a vCPU does with its time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    /// It always has something to do.
    Hog,
    /// It runs for a random time up to `run_ns`, and then sleeps for a random time from half of `sleep_ns` on.
    Interactive { run_ns: u64, sleep_ns: u64 },
    /// It runs for a random time up to `run_ns`, and then wakes up the next one of its VM and sleeps, until it is woken up.
    Relay { run_ns: u64 },
    /// It runs for a random time up to `run_ns`, and then lets others go first, as one does that waits for a lock.
    Spinner { run_ns: u64 },
    /// It works for a random time up to `work_ns`, and then spins until all of its gang have done so. A loop of
    /// PAUSEs is noticed after `window_ns`.
    Gang { work_ns: u64, window_ns: u64 },
}

/// One vCPU and what happened to it.
#[derive(Debug)]
pub(super) struct Vcpu {
    behaviour: Behaviour,
    allowed: CpuSet,
    share: Option<Share>,
    gang: Option<usize>,
    /// Whom it wakes up when it falls asleep, if it does that.
    relays_to: usize,
    /// How many meetings of its gang it has seen, if it spins for the next.
    waits_since: Option<u64>,
    last_cpu: Option<u16>,
    /// What is left of its present burst.
    burst_ns: u64,
    ready_since_ns: u64,
    woke_ns: Option<u64>,
    /// What it has run in all.
    pub(super) ran_ns: u64,
    /// The longest that it waited while it was ready.
    pub(super) longest_wait_ns: u64,
    /// How long it took from each wake-up to its next turn.
    pub(super) wake_latencies_ns: Vec<u64>,
}

struct Running {
    turn: Turn<usize>,
    began_ns: u64,
    ends_ns: u64,
    /// When its turn ends at the latest.
    slice_ends_ns: u64,
    /// Since when it does what it does now.
    since_ns: u64,
}

struct Cpu {
    queue: RunQueue<usize>,
    running: Option<Running>,
    /// What the others know.
    published: Summary,
}

/// The machine.
pub(super) struct Simulator {
    cpus: Vec<Cpu>,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) gangs: Vec<Gang>,
    wake_ups: BinaryHeap<Reverse<(u64, usize)>>,
    pub(super) now_ns: u64,
    random: u64,
    /// How often a vCPU was taken from another CPU.
    pub(super) steals: usize,
}

impl Simulator {
    pub(super) fn new(cpus: usize, seed: u64) -> Self {
        let cpu = |_| Cpu {
            queue: match cpus {
                1 => RunQueue::new(Use::Shared).of_only_cpu(),
                _ => RunQueue::new(Use::Shared),
            },
            running: None,
            published: Summary::default(),
        };
        Self {
            cpus: (0..cpus).map(cpu).collect(),
            vcpus: Vec::new(),
            gangs: Vec::new(),
            wake_ups: BinaryHeap::new(),
            now_ns: 0,
            random: seed | 1,
            steals: 0,
        }
    }

    pub(super) fn add(&mut self, behaviour: Behaviour, share: Share) -> usize {
        self.add_with_affinity(behaviour, share, CpuSet::first(self.cpus.len()))
    }

    pub(super) fn add_with_affinity(
        &mut self,
        behaviour: Behaviour,
        share: Share,
        allowed: CpuSet,
    ) -> usize {
        self.add_vcpu(behaviour, share, allowed, None)
    }

    /// A VM whose vCPUs do this, each its own.
    pub(super) fn add_vm(
        &mut self,
        weight: Weight,
        cap: Option<&Arc<Cap>>,
        vcpus: &[Behaviour],
    ) -> Range<usize> {
        let account = Arc::new(Account::new(weight));
        let first = self.vcpus.len();
        for behaviour in vcpus {
            self.add(*behaviour, Share::of_several(&account, cap.cloned()));
        }
        let all = first..self.vcpus.len();
        for number in all.clone() {
            let next = number + 1;
            self.vcpus[number].relays_to = if next < all.end { next } else { first };
        }
        all
    }

    /// A VM whose vCPUs wait for each other.
    pub(super) fn add_gang(&mut self, weight: Weight, vcpus: usize, behaviour: Behaviour) {
        let account = Arc::new(Account::new(weight));
        let gang = self.gangs.len();
        self.gangs.push(Gang::of(vcpus));
        for _ in 0..vcpus {
            let share = Share::of_several(&account, None);
            let all = CpuSet::first(self.cpus.len());
            self.add_vcpu(behaviour, share, all, Some(gang));
        }
    }

    fn add_vcpu(
        &mut self,
        behaviour: Behaviour,
        share: Share,
        allowed: CpuSet,
        gang: Option<usize>,
    ) -> usize {
        let number = self.vcpus.len();
        self.vcpus.push(Vcpu {
            behaviour,
            allowed,
            share: Some(share),
            gang,
            relays_to: number,
            waits_since: None,
            last_cpu: None,
            burst_ns: 0,
            ready_since_ns: self.now_ns,
            woke_ns: None,
            ran_ns: 0,
            longest_wait_ns: 0,
            wake_latencies_ns: Vec::new(),
        });
        self.begin_burst(number);
        self.make_ready(number, Arrival::New);
        number
    }

    /// Forgets the figures, not the state.
    pub(super) fn reset_figures(&mut self) {
        for vcpu in &mut self.vcpus {
            vcpu.ran_ns = 0;
            vcpu.longest_wait_ns = 0;
            vcpu.wake_latencies_ns.clear();
        }
    }

    /// What each vCPU has run up to now, turns that are not over included.
    pub(super) fn run_times(&self) -> Vec<u64> {
        let mut times: Vec<_> = self.vcpus.iter().map(|vcpu| vcpu.ran_ns).collect();
        for running in self.cpus.iter().filter_map(|cpu| cpu.running.as_ref()) {
            times[running.turn.vcpu] += self.now_ns - running.began_ns;
        }
        times
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    fn begin_burst(&mut self, number: usize) {
        self.vcpus[number].burst_ns = match self.vcpus[number].behaviour {
            Behaviour::Hog => u64::MAX,
            Behaviour::Interactive { run_ns, .. }
            | Behaviour::Spinner { run_ns }
            | Behaviour::Relay { run_ns } => 1 + self.random(run_ns),
            Behaviour::Gang { work_ns, .. } => 1 + self.random(work_ns),
        };
    }

    fn publish(&mut self, cpu: usize) {
        self.cpus[cpu].published = self.cpus[cpu].queue.summary(self.now_ns);
    }

    /// What a CPU can know of the others.
    fn others(&self, cpu: usize) -> impl Iterator<Item = (u16, Summary)> {
        let all = (0..).zip(&self.cpus).map(|(cpu, its)| (cpu, its.published));
        all.filter(move |(other, _)| usize::from(*other) != cpu)
    }

    fn make_ready(&mut self, number: usize, arrival: Arrival) {
        let vcpu = &self.vcpus[number];
        let published = |cpu: u16| self.cpus[usize::from(cpu)].published;
        let target = usize::from(place(&vcpu.allowed, vcpu.last_cpu, published).unwrap());
        let elsewhere = Elsewhere::of(self.others(target).map(|(_, summary)| summary));
        self.vcpus[number].ready_since_ns = self.now_ns;
        let mut share = self.vcpus[number].share.take().unwrap();
        if self.vcpus[number].last_cpu != Some(target as u16) {
            share.leave();
        }
        let queue = &mut self.cpus[target].queue;
        if queue.is_empty() {
            queue.set_elsewhere(elsewhere);
        }
        match queue.enqueue(number, share, arrival, self.now_ns) {
            Preemption::Now => {
                self.end_turn(target);
            }
            Preemption::Within { ns } => {
                if let Some(running) = &mut self.cpus[target].running {
                    running.slice_ends_ns = running.slice_ends_ns.min(self.now_ns + ns);
                    running.ends_ns = running.ends_ns.min(running.slice_ends_ns);
                }
            }
            Preemption::NotNow => {}
        }
        self.publish(target);
        self.dispatch_idle();
    }

    fn dispatch_idle(&mut self) {
        for cpu in 0..self.cpus.len() {
            if self.cpus[cpu].running.is_none() {
                self.dispatch(cpu);
            }
        }
    }

    /// Ends the turn on a CPU; its vCPU waits for another one, or sleeps.
    fn end_turn(&mut self, cpu: usize) {
        // What it has done up to now.
        let _: bool = self.meet(cpu);
        let Some(Running {
            turn,
            began_ns,
            since_ns,
            slice_ends_ns,
            ..
        }) = self.cpus[cpu].running.take()
        else {
            return;
        };
        let (number, mut share) = self.cpus[cpu].queue.end_turn(turn, self.now_ns);
        let ran_ns = self.now_ns - began_ns;
        let vcpu = &mut self.vcpus[number];
        vcpu.ran_ns += ran_ns;
        let did_ns = self.now_ns - since_ns;
        vcpu.burst_ns = vcpu.burst_ns.saturating_sub(did_ns);
        vcpu.last_cpu = Some(cpu as u16);
        match vcpu.behaviour {
            Behaviour::Interactive { sleep_ns, .. } if vcpu.burst_ns == 0 => {
                share.sleep();
                vcpu.share = Some(share);
                let pause = sleep_ns / 2 + self.random(sleep_ns);
                self.wake_ups.push(Reverse((self.now_ns + pause, number)));
            }
            Behaviour::Relay { .. } if vcpu.burst_ns == 0 => {
                share.sleep();
                vcpu.share = Some(share);
                let next = vcpu.relays_to;
                self.wake_ups.push(Reverse((self.now_ns, next)));
            }
            Behaviour::Spinner { .. } if vcpu.burst_ns == 0 => {
                vcpu.ready_since_ns = self.now_ns;
                let left_ns = slice_ends_ns - self.now_ns;
                self.give_way(cpu, number, share, left_ns);
                self.begin_burst(number);
            }
            Behaviour::Gang { .. } if vcpu.burst_ns == 0 && vcpu.waits_since.is_some() => {
                vcpu.ready_since_ns = self.now_ns;
                let left_ns = slice_ends_ns - self.now_ns;
                self.give_way(cpu, number, share, left_ns);
            }
            _ => {
                vcpu.ready_since_ns = self.now_ns;
                let _ = self.cpus[cpu]
                    .queue
                    .enqueue(number, share, Arrival::Again, self.now_ns);
            }
        }
    }

    /// As the kernel does it: a sibling that waits elsewhere comes here.
    fn give_way(&mut self, cpu: usize, number: usize, share: Share, left_ns: u64) {
        let is_called = |_: &usize| false;
        if !self.cpus[cpu].queue.has_helper(&share, is_called) {
            let helper = (0..self.cpus.len())
                .filter(|other| *other != cpu)
                .find_map(|other| {
                    let vcpus = &self.vcpus;
                    let may_move = |number: &usize| vcpus[*number].allowed.contains(cpu as u16);
                    let queue = &mut self.cpus[other].queue;
                    queue.steal_helper(&share, is_called, may_move)
                });
            if let Some((helper, its_share)) = helper {
                let queue = &mut self.cpus[cpu].queue;
                let _ = queue.enqueue(helper, its_share, Arrival::Moved, self.now_ns);
            }
        }
        let queue = &mut self.cpus[cpu].queue;
        queue.give_way(number, share, left_ns, is_called);
    }

    fn dispatch(&mut self, cpu: usize) {
        self.steal(cpu);
        let turn = self.cpus[cpu].queue.choose(self.now_ns);
        self.publish(cpu);
        let Some(turn) = turn else { return };
        self.look_whether_all_have_met(turn.vcpu);
        let vcpu = &mut self.vcpus[turn.vcpu];
        vcpu.longest_wait_ns = vcpu.longest_wait_ns.max(self.now_ns - vcpu.ready_since_ns);
        if let Some(woke_ns) = vcpu.woke_ns.take() {
            vcpu.wake_latencies_ns.push(self.now_ns - woke_ns);
        }
        let Slice::Ns(slice_ns) = turn.slice else {
            panic!("no CPU is dedicated here")
        };
        assert!(slice_ns > 0);
        let ends_ns = self.now_ns + slice_ns.min(vcpu.burst_ns);
        self.cpus[cpu].running = Some(Running {
            turn,
            began_ns: self.now_ns,
            ends_ns,
            slice_ends_ns: self.now_ns + slice_ns,
            since_ns: self.now_ns,
        });
    }

    fn steal(&mut self, cpu: usize) {
        let here = cpu as u16;
        let own = self.cpus[cpu].queue.summary(self.now_ns);
        let others: Vec<_> = self.others(cpu).collect();
        let now_ns = self.now_ns;
        let (elsewhere, taken) = look_around(
            &own,
            || others.iter().copied(),
            |victim| {
                let vcpus = &self.vcpus;
                let may_move = |number: &usize| vcpus[*number].allowed.contains(here);
                let Cpu {
                    queue, published, ..
                } = &mut self.cpus[usize::from(victim)];
                let theft = queue.steal_for(&own, may_move, now_ns);
                *published = queue.summary(now_ns);
                theft
            },
        );
        let queue = &mut self.cpus[cpu].queue;
        queue.set_elsewhere(elsewhere);
        if let Some((number, share)) = taken {
            let _ = queue.enqueue(number, share, Arrival::Moved, self.now_ns);
            self.steals += 1;
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, ns: u64) {
        let end_ns = self.now_ns + ns;
        while let Some(next_ns) = self.next_event().filter(|next_ns| *next_ns <= end_ns) {
            self.now_ns = self.now_ns.max(next_ns);
            for cpu in 0..self.cpus.len() {
                let is_over = self.cpus[cpu]
                    .running
                    .as_ref()
                    .is_some_and(|r| r.ends_ns <= self.now_ns);
                if is_over && !self.meet(cpu) {
                    self.end_turn(cpu);
                }
            }
            while let Some(Reverse((at, number))) = self.wake_ups.peek().copied()
                && at <= self.now_ns
            {
                self.wake_ups.pop();
                if self.vcpus[number].share.is_none() {
                    // A sibling has been sooner.
                    continue;
                }
                self.begin_burst(number);
                self.vcpus[number].woke_ns = Some(self.now_ns);
                self.make_ready(number, Arrival::Woken);
            }
            self.dispatch_idle();
        }
        self.now_ns = end_ns;
    }

    fn next_event(&self) -> Option<u64> {
        let ends = self.cpus.iter().filter_map(|cpu| match &cpu.running {
            Some(running) => Some(running.ends_ns),
            None => cpu.queue.next_event_ns(),
        });
        let wakes = self.wake_ups.peek().map(|Reverse((at, _))| *at);
        ends.chain(wakes).min()
    }
}
