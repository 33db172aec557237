//! Which CPU a vCPU runs on: the sets that it may use, and when one CPU takes a vCPU from another.

use core::sync::atomic::{AtomicU64, Ordering};

use super::VirtualTime;

/// How far a queue may fall behind another before it loses a vCPU: a round over this.
const TOLERATED: u64 = 2;
/// How far a vCPU runs ahead of one that waits elsewhere before its CPU looks whether to take that one, in halves of a
/// round.
const HORIZON_HALF_ROUNDS: u64 = 3;
/// So many queues are tried in which nobody may leave for the CPU that looks for work.
const QUEUES_TRIED: usize = 4;

/// CPUs of the host that there can be.
pub const MAX_CPUS: usize = 256;

/// A set of the host's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; MAX_CPUS / 64]);

    /// CPUs 0 up to but not including `count`.
    pub fn first(count: usize) -> Self {
        (0..count.min(MAX_CPUS) as u16).collect()
    }

    /// Whether the CPU is in it.
    pub fn contains(&self, cpu: u16) -> bool {
        self.0
            .get(usize::from(cpu) / 64)
            .is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// Adds a CPU; one that cannot be is left out.
    pub fn insert(&mut self, cpu: u16) {
        if let Some(word) = self.0.get_mut(usize::from(cpu) / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: u16) {
        if let Some(word) = self.0.get_mut(usize::from(cpu) / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The CPUs that are in this set and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine & !theirs)
    }

    /// The CPUs that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine & theirs)
    }

    fn combine(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut words = self.0;
        for (word, theirs) in words.iter_mut().zip(other.0) {
            *word = f(*word, theirs);
        }
        Self(words)
    }

    /// The CPUs, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..MAX_CPUS as u16).filter(|cpu| self.contains(*cpu))
    }
}

impl FromIterator<u16> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u16>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl FromIterator<u32> for CpuSet {
    /// As a configuration has the numbers; those of CPUs that cannot be are left out.
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let cpus = cpus.into_iter();
        cpus.filter_map(|cpu| u16::try_from(cpu).ok()).collect()
    }
}

/// Who may use which CPU of the host.
#[derive(Clone, Debug)]
pub struct Plan {
    all: CpuSet,
    dedicated: CpuSet,
}

impl Plan {
    /// All of these CPUs, shared by everybody.
    pub const fn new(all: CpuSet) -> Self {
        Self {
            all,
            dedicated: CpuSet::EMPTY,
        }
    }

    /// Makes one of the allowed CPUs (an empty set allows all) the property of one vCPU; one that others ask for is taken
    /// only where there is no other. `None` where there is none to give: the first CPU of the machine stays for
    /// everybody else and for the host's own affairs.
    pub fn dedicate(&mut self, affinity: &CpuSet, others_want: &CpuSet) -> Option<u16> {
        let mut free = self.all.without(&self.dedicated);
        free.remove(0);
        let wanted = if affinity.is_empty() {
            free
        } else {
            free.and(affinity)
        };
        let unwanted = wanted.without(others_want);
        let cpu = unwanted.iter().last().or_else(|| wanted.iter().last())?;
        self.dedicated.insert(cpu);
        Some(cpu)
    }

    /// Gives a dedicated CPU back.
    pub fn release(&mut self, cpu: u16) {
        self.dedicated.remove(cpu);
    }

    /// The CPUs that are shared.
    pub fn shared(&self) -> CpuSet {
        self.all.without(&self.dedicated)
    }

    /// The CPUs that have to look at who is there once this one has changed hands: itself, and all where somebody may be
    /// who may not use it any more, or again. On a CPU that is another vCPU's own there is nobody else.
    pub fn concerned(&self, changed: u16) -> CpuSet {
        let mut cpus = self.shared();
        cpus.insert(changed);
        cpus
    }
}

/// The CPUs that a vCPU with this affinity may use of the shared ones. Where none of those that it asks for is
/// among them, it may use all ([`is_kept`] tells).
pub fn allowed(shared: &CpuSet, affinity: &CpuSet) -> CpuSet {
    let wanted = shared.and(affinity);
    if wanted.is_empty() { *shared } else { wanted }
}

/// Whether a vCPU with this affinity finds one of its CPUs among the shared ones; an empty affinity asks for none.
pub fn is_kept(shared: &CpuSet, affinity: &CpuSet) -> bool {
    affinity.is_empty() || !shared.and(affinity).is_empty()
}

/// A [`CpuSet`] that some CPU changes and all read. A reader may see some of a change before the rest.
#[derive(Debug, Default)]
pub struct SharedCpuSet([AtomicU64; MAX_CPUS / 64]);

impl SharedCpuSet {
    /// Replaces the set.
    pub fn set(&self, set: &CpuSet) {
        for (word, value) in self.0.iter().zip(set.0) {
            word.store(value, Ordering::Release);
        }
    }

    /// The set.
    pub fn get(&self) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for (value, word) in set.0.iter_mut().zip(&self.0) {
            *value = word.load(Ordering::Acquire);
        }
        set
    }
}

/// What one CPU lets the others know about its queue, without a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// vCPUs that wait there.
    pub waiting: usize,
    /// Whether one runs there.
    pub occupied: Occupied,
    /// The virtual time of the one whose turn is next.
    pub next_waiting: Option<VirtualTime>,
    /// The virtual time of the one that is furthest behind, the running one included.
    pub furthest_behind: Option<VirtualTime>,
    /// By how much virtual time advances there in a round.
    pub round: VirtualTime,
}

/// Whether a vCPU runs on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Occupied {
    /// None does.
    #[default]
    No,
    /// One does.
    Yes,
}

/// Where a CPU lets the others see its [`Summary`]. Written by whoever has its queue's lock. A reader may see parts of different
/// ages, which matters little: it acts on what it finds once it holds the queue's lock.
#[derive(Debug)]
pub struct Published {
    /// How many wait, and in the lowest bit whether one runs.
    vcpus: AtomicU64,
    next_waiting: AtomicU64,
    furthest_behind: AtomicU64,
    round: AtomicU64,
}

/// In place of a time that there is not.
const NO_TIME: u64 = u64::MAX;

impl Default for Published {
    fn default() -> Self {
        Self::new()
    }
}

impl Published {
    /// Of a CPU with nothing to do.
    pub const fn new() -> Self {
        Self {
            vcpus: AtomicU64::new(0),
            next_waiting: AtomicU64::new(NO_TIME),
            furthest_behind: AtomicU64::new(NO_TIME),
            round: AtomicU64::new(0),
        }
    }

    /// Shows a new summary.
    pub fn set(&self, summary: &Summary) {
        let pack = |time: Option<VirtualTime>| time.map_or(NO_TIME, |VirtualTime(time)| time);
        self.next_waiting
            .store(pack(summary.next_waiting), Ordering::Relaxed);
        self.furthest_behind
            .store(pack(summary.furthest_behind), Ordering::Relaxed);
        self.round.store(summary.round.0, Ordering::Relaxed);
        let occupied = u64::from(summary.occupied == Occupied::Yes);
        // A CPU that goes idle says so and then looks at the others once more; one that has somebody waiting says
        // so and then looks for an idle one. So one of the two sees the other.
        self.vcpus
            .store((summary.waiting as u64) << 1 | occupied, Ordering::SeqCst);
    }

    /// The last summary.
    pub fn get(&self) -> Summary {
        let vcpus = self.vcpus.load(Ordering::SeqCst);
        let unpack = |word: &AtomicU64| {
            let time = word.load(Ordering::Relaxed);
            (time != NO_TIME).then_some(VirtualTime(time))
        };
        Summary {
            waiting: (vcpus >> 1) as usize,
            occupied: if vcpus & 1 != 0 {
                Occupied::Yes
            } else {
                Occupied::No
            },
            next_waiting: unpack(&self.next_waiting),
            furthest_behind: unpack(&self.furthest_behind),
            round: VirtualTime(self.round.load(Ordering::Relaxed)),
        }
    }
}

/// Whether a CPU that is about to choose had better take a vCPU from another's queue.
///
/// A CPU with nothing to do takes what waits elsewhere. One that has something takes from a queue that has
/// fallen behind by more than the usual inaccuracy: its vCPUs get less than their share.
pub fn should_steal(own: &Summary, other: &Summary) -> bool {
    let Some(theirs) = other.next_waiting else {
        return false;
    };
    match own.furthest_behind {
        None => true,
        Some(ours) => {
            let tolerated = own.round.min(other.round).fraction(TOLERATED);
            theirs.saturating_add(tolerated) < ours
        }
    }
}

/// What a CPU has seen of the others before it chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    /// Nobody waits there who might run here.
    Calm {
        /// The virtual time that all who run there have reached.
        reached: Option<VirtualTime>,
        /// The latest that one of them has.
        latest: Option<VirtualTime>,
    },
    /// Somebody waits there.
    Waiting {
        /// The virtual time of the first of them.
        next: VirtualTime,
        /// By how much virtual time advances there in a round.
        round: VirtualTime,
        /// The latest virtual time at which one who runs there has begun.
        running: VirtualTime,
    },
}

impl Elsewhere {
    /// There is no other CPU.
    pub const NOWHERE: Self = Self::Calm {
        reached: None,
        latest: None,
    };

    /// What these CPUs are at.
    pub fn of(others: impl Iterator<Item = Summary>) -> Self {
        let mut elsewhere = Self::NOWHERE;
        for other in others {
            elsewhere = elsewhere.and(&other);
        }
        elsewhere
    }

    fn and(self, other: &Summary) -> Self {
        let Some(theirs) = other.furthest_behind else {
            return self;
        };
        match self {
            Self::Calm { reached, latest } => match other.next_waiting {
                None => Self::Calm {
                    reached: Some(reached.map_or(theirs, |reached| reached.min(theirs))),
                    latest: latest.max(Some(theirs)),
                },
                Some(next) => Self::Waiting {
                    next,
                    round: other.round,
                    running: theirs.max(latest.unwrap_or_default()),
                },
            },
            Self::Waiting {
                next,
                round,
                running,
            } => {
                let running = running.max(theirs);
                let (next, round) = match other.next_waiting {
                    Some(earlier) if earlier < next => (earlier, other.round),
                    _ => (next, round),
                };
                Self::Waiting {
                    next,
                    round,
                    running,
                }
            }
        }
    }

    /// Whether nobody runs or waits there.
    pub(super) const fn is_deserted(&self) -> bool {
        matches!(self, Self::Calm { reached: None, .. })
    }

    /// The virtual time that the other CPUs have reached: that of those who wait. One who runs all the time may have a
    /// weight that is worth more than a CPU, and of one that waits it may be worth nearly nothing, but not all of those
    /// who run are behind.
    pub(super) fn reached(&self) -> Option<VirtualTime> {
        match self {
            Self::Calm { reached, .. } => *reached,
            Self::Waiting { next, running, .. } => Some(*next.min(running)),
        }
    }

    /// Up to which virtual time a vCPU may run on a CPU with such rounds before that looks around once more.
    pub(super) fn horizon(&self, round: VirtualTime) -> Option<VirtualTime> {
        match self {
            Self::Calm { .. } => None,
            Self::Waiting {
                next,
                round: theirs,
                ..
            } => {
                let ahead = round.min(*theirs).times(HORIZON_HALF_ROUNDS).fraction(2);
                Some(next.saturating_add(ahead))
            }
        }
    }
}

/// What came of taking a vCPU from another CPU's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Theft<T> {
    /// This one has been taken.
    Done(T),
    /// Somebody is at work there, or was sooner; there is always another turn.
    TooLate,
    /// Of those that are first there nobody may leave for here.
    Bound,
}

/// Before a CPU chooses: it takes a vCPU from the queue that has fallen furthest behind, if it [should](should_steal),
/// and sees how far the others are. Those whose vCPUs may not run here are left out of that: their time is not that of
/// this CPU.
pub fn look_around<T, I: Iterator<Item = (u16, Summary)>>(
    own: &Summary,
    others: impl Fn() -> I,
    mut steal: impl FnMut(u16) -> Theft<T>,
) -> (Elsewhere, Option<T>) {
    let place = |(cpu, summary): &(u16, Summary)| Some((summary.next_waiting?, *cpu));
    // The first who has somebody waiting comes first, and up to this one nobody may leave.
    let mut bound = None;
    let mut taken = None;
    for _ in 0..QUEUES_TRIED {
        let victim = others()
            .filter(|other| place(other).is_some_and(|place| Some(place) > bound))
            .min_by_key(place)
            .filter(|(_, theirs)| should_steal(own, theirs));
        let Some(victim) = victim else { break };
        match steal(victim.0) {
            Theft::Done(vcpu) => taken = Some(vcpu),
            Theft::TooLate => {}
            Theft::Bound => {
                bound = place(&victim);
                continue;
            }
        }
        break;
    }
    let free = others().filter(|other| place(other).is_none_or(|place| Some(place) > bound));
    (Elsewhere::of(free.map(|(_, summary)| summary)), taken)
}

/// The CPU for a vCPU that becomes ready: where it last was, if that is free, then any free one, then where it
/// last was. `None` where it may not run anywhere.
pub fn place(allowed: &CpuSet, last: Option<u16>, summary: impl Fn(u16) -> Summary) -> Option<u16> {
    let is_free = |cpu: u16| {
        let summary = summary(cpu);
        summary.waiting == 0 && summary.occupied == Occupied::No
    };
    let last = last.filter(|cpu| allowed.contains(*cpu));
    if let Some(cpu) = last
        && is_free(cpu)
    {
        return Some(cpu);
    }
    allowed
        .iter()
        .find(|cpu| is_free(*cpu))
        .or(last)
        .or_else(|| allowed.iter().min_by_key(|cpu| summary(*cpu).waiting))
}

/// Where a vCPU goes that is on a CPU where it may not run; `None` where it may, or where there is nowhere to go. One
/// that comes from a CPU that knew another plan is sent on by this, once for each change of the plan at most.
pub fn onward(allowed: &CpuSet, here: u16, summary: impl Fn(u16) -> Summary) -> Option<u16> {
    if allowed.contains(here) {
        return None;
    }
    place(allowed, None, summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Weight;

    fn set(cpus: &[u16]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn sets_of_cpus_reach_to_the_last_one() {
        let mut cpus = set(&[0, 63, 64, 255, 256, 1000]);
        assert_eq!(
            cpus.iter().collect::<alloc::vec::Vec<_>>(),
            [0, 63, 64, 255]
        );
        cpus.remove(64);
        assert_eq!(
            (cpus.len(), cpus.contains(64), cpus.contains(300)),
            (3, false, false)
        );
        assert_eq!(CpuSet::first(3), set(&[0, 1, 2]));
    }

    #[test]
    fn a_dedicated_cpu_is_nobody_elses() {
        let mut plan = Plan::new(CpuSet::first(4));
        assert_eq!(plan.dedicate(&set(&[1, 2]), &CpuSet::EMPTY), Some(2));
        let shared = |plan: &Plan, affinity| allowed(&plan.shared(), &affinity);
        assert_eq!(shared(&plan, CpuSet::EMPTY), set(&[0, 1, 3]));
        assert_eq!(shared(&plan, set(&[2, 3])), set(&[3]));
        // What it asked for is taken: it may use the rest.
        assert_eq!(shared(&plan, set(&[2])), set(&[0, 1, 3]));
        plan.release(2);
        assert_eq!(shared(&plan, set(&[2])), set(&[2]));
    }

    #[test]
    fn who_was_displaced_did_not_come_back_when_its_cpu_was_given_back() {
        let mut plan = Plan::new(CpuSet::first(4));
        let affinity = set(&[2]);
        assert_eq!(plan.dedicate(&set(&[3]), &CpuSet::EMPTY), Some(3));
        assert_eq!(plan.dedicate(&affinity, &CpuSet::EMPTY), Some(2));
        // Where it was it may not stay, which is told there.
        assert!(plan.concerned(2).contains(2));
        // It has gone to another one, and is there when its own is given back: it may not stay there either.
        let refuge = 0;
        assert!(allowed(&plan.shared(), &affinity).contains(refuge));
        plan.release(2);
        assert!(!allowed(&plan.shared(), &affinity).contains(refuge));
        assert_eq!(
            plan.concerned(2),
            set(&[0, 1, 2]),
            "who owns 3 is left alone"
        );
    }

    #[test]
    fn a_cpu_that_another_machine_asks_for_is_dedicated_last() {
        let mut plan = Plan::new(CpuSet::first(4));
        let others_want = set(&[3]);
        let mut dedicate = || plan.dedicate(&CpuSet::EMPTY, &others_want);
        let given = [dedicate(), dedicate(), dedicate(), dedicate()];
        assert_eq!(given, [Some(2), Some(1), Some(3), None]);
    }

    #[test]
    fn an_affinity_is_kept_while_one_of_its_cpus_is_shared() {
        let shared = set(&[0, 1]);
        for (affinity, kept) in [(set(&[1, 2]), true), (set(&[2]), false), (set(&[]), true)] {
            assert_eq!(is_kept(&shared, &affinity), kept);
        }
    }

    #[test]
    fn the_first_cpu_is_never_dedicated() {
        let mut plan = Plan::new(CpuSet::first(2));
        assert_eq!(plan.dedicate(&set(&[0]), &CpuSet::EMPTY), None);
        assert_eq!(plan.dedicate(&CpuSet::EMPTY, &CpuSet::EMPTY), Some(1));
        assert_eq!(plan.dedicate(&CpuSet::EMPTY, &CpuSet::EMPTY), None);
    }

    #[test]
    fn what_a_cpu_publishes_is_what_others_read() {
        let published = Published::default();
        assert_eq!(published.get(), Summary::default());
        for shown in [
            Summary::default(),
            summary(0, Occupied::Yes, None),
            summary(3, Occupied::No, Some(70)),
        ] {
            published.set(&shown);
            assert_eq!(published.get(), shown);
        }
        let cpus = SharedCpuSet::default();
        cpus.set(&set(&[1, 200]));
        assert_eq!(cpus.get(), set(&[1, 200]));
    }

    fn summary(waiting: usize, occupied: Occupied, time: Option<u64>) -> Summary {
        let time = time.map(|ns| VirtualTime::of(ns, Weight::DEFAULT));
        let round = VirtualTime::of(10_000_000, Weight::DEFAULT);
        Summary {
            waiting,
            occupied,
            next_waiting: time,
            furthest_behind: time,
            round,
        }
    }

    #[test]
    fn an_idle_cpu_takes_what_waits_elsewhere() {
        let idle = Summary::default();
        assert!(should_steal(&idle, &summary(1, Occupied::Yes, Some(7))));
        assert!(!should_steal(&idle, &summary(0, Occupied::Yes, None)));
    }

    #[test]
    fn a_busy_cpu_takes_from_a_queue_that_has_fallen_behind() {
        let own = summary(1, Occupied::No, Some(100_000_000));
        assert!(should_steal(
            &own,
            &summary(3, Occupied::Yes, Some(90_000_000))
        ));
        assert!(!should_steal(
            &own,
            &summary(3, Occupied::Yes, Some(98_000_000))
        ));
        assert!(!should_steal(
            &own,
            &summary(3, Occupied::Yes, Some(110_000_000))
        ));
    }

    #[test]
    fn a_vcpu_that_was_on_its_way_to_a_cpu_when_somebody_got_that_does_not_stay_there() {
        let mut plan = Plan::new(CpuSet::first(4));
        let now_allowed = |plan: &Plan| allowed(&plan.shared(), &CpuSet::EMPTY);
        let free = Summary::default();
        // CPU 3 gets an owner, and sends what it has to CPU 2, which is free.
        assert_eq!(plan.dedicate(&set(&[3]), &CpuSet::EMPTY), Some(3));
        let idle = |cpu| {
            if cpu == 2 {
                free
            } else {
                summary(1, Occupied::Yes, Some(0))
            }
        };
        assert_eq!(onward(&now_allowed(&plan), 3, idle), Some(2));
        // Before it arrives that has an owner, too, and looks as free as before.
        assert_eq!(plan.dedicate(&set(&[2]), &CpuSet::EMPTY), Some(2));
        let next = onward(&now_allowed(&plan), 2, idle).unwrap();
        assert!(next < 2, "it is on CPU {next}");
        // There it stays, whoever else is free.
        assert_eq!(onward(&now_allowed(&plan), next, idle), None);
        assert_eq!(onward(&CpuSet::EMPTY, 2, idle), None);
    }

    #[test]
    fn a_vcpu_goes_back_where_it_was_unless_another_cpu_is_free() {
        let busy = summary(1, Occupied::Yes, Some(0));
        let free = Summary::default();
        let all = CpuSet::first(3);
        assert_eq!(place(&all, Some(1), |_| free), Some(1));
        assert_eq!(
            place(&all, Some(1), |cpu| if cpu == 2 { free } else { busy }),
            Some(2)
        );
        assert_eq!(place(&all, Some(1), |_| busy), Some(1));
        assert_eq!(place(&set(&[2]), Some(1), |_| busy), Some(2));
        let waiting = |cpu| summary(usize::from(3 - cpu), Occupied::Yes, Some(0));
        assert_eq!(place(&all, None, waiting), Some(2));
        assert_eq!(place(&CpuSet::EMPTY, None, |_| free), None);
    }
}
