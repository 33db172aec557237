//! [`Summary`]: what one CPU lets the others know about its queue; [`Published`]: where they see it.

use core::sync::atomic::{AtomicU64, Ordering};

use super::VirtualTime;
#[cfg(test)]
use super::Weight;

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

#[cfg(test)]
impl Summary {
    /// Of a CPU where so many wait, and all are at this time.
    pub(super) fn sample(waiting: usize, occupied: Occupied, ns: Option<u64>) -> Self {
        let time = ns.map(|ns| VirtualTime::of(ns, Weight::DEFAULT));
        Self {
            waiting,
            occupied,
            next_waiting: time,
            furthest_behind: time,
            round: VirtualTime::of(10_000_000, Weight::DEFAULT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cpu_publishes_is_what_others_read() {
        let published = Published::default();
        assert_eq!(published.get(), Summary::default());
        for shown in [
            Summary::default(),
            Summary::sample(0, Occupied::Yes, None),
            Summary::sample(3, Occupied::No, Some(70)),
        ] {
            published.set(&shown);
            assert_eq!(published.get(), shown);
        }
    }
}
