//! [`Elsewhere`]: what a CPU has seen of the others before it chooses.

use super::{Summary, VirtualTime};

/// How far a vCPU runs ahead of one that waits elsewhere before its CPU looks whether to take that one, in halves of a
/// round.
const HORIZON_HALF_ROUNDS: u64 = 3;

/// What the other CPUs are at.
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
