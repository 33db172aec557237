//! One CPU as the others see it: [`Seat`], and the vCPUs that live there.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use vmm::monitor::inquiry::Number;
use vmm::scheduler::{Arrival, Published, RunQueue, Share, Summary, Use};

use crate::backend::Backend;
use crate::cpu::PcpuId;
use crate::vcpu::Vcpu;

/// A vCPU and the scheduler's part of it.
pub(crate) type Member<B> = (Box<Vcpu<B>>, Share);

/// What is on its way to a CPU.
pub(super) type Inbox<B> = Vec<(Member<B>, Arrival)>;

/// One CPU as the others see it.
pub(crate) struct Seat<B: Backend> {
    pub(crate) cpu: PcpuId,
    pub(crate) queue: Mutex<RunQueue<Box<Vcpu<B>>>>,
    pub(super) inbox: Mutex<Inbox<B>>,
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

impl<B: Backend> Seat<B> {
    pub(super) fn new(cpu: PcpuId, queue: RunQueue<Box<Vcpu<B>>>) -> Self {
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

    /// What there is to do here, but for those on their way.
    pub(super) fn published(&self) -> Summary {
        self.published.get()
    }

    /// Puts a vCPU into the inbox, which is this seat's.
    pub(super) fn put(&self, inbox: &mut Inbox<B>, member: Member<B>, arrival: Arrival) {
        self.members.fetch_add(1, Ordering::Relaxed);
        inbox.push((member, arrival));
        self.arriving.fetch_add(1, Ordering::SeqCst);
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

    /// One vCPU owns the CPU from now on, or none does.
    pub(super) fn set_use(&self, cpu_use: Use) {
        self.owned
            .store(cpu_use == Use::Dedicated, Ordering::Release);
    }

    /// The CPU is to answer the question of this number, and no other.
    pub(super) fn ask(&self, number: Number) {
        self.asked.store(number.0, Ordering::Release);
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
