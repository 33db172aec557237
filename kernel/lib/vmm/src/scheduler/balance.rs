//! When one CPU takes a vCPU from another's queue.

use super::{Elsewhere, Summary};

/// How far a queue may fall behind another before it loses a vCPU: a round over this.
const TOLERATED: u64 = 2;
/// So many queues are tried in which nobody may leave for the CPU that looks for work.
const QUEUES_TRIED: usize = 4;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Occupied;

    #[test]
    fn an_idle_cpu_takes_what_waits_elsewhere() {
        let idle = Summary::default();
        assert!(should_steal(
            &idle,
            &Summary::sample(1, Occupied::Yes, Some(7))
        ));
        assert!(!should_steal(
            &idle,
            &Summary::sample(0, Occupied::Yes, None)
        ));
    }

    #[test]
    fn a_busy_cpu_takes_from_a_queue_that_has_fallen_behind() {
        let own = Summary::sample(1, Occupied::No, Some(100_000_000));
        assert!(should_steal(
            &own,
            &Summary::sample(3, Occupied::Yes, Some(90_000_000))
        ));
        assert!(!should_steal(
            &own,
            &Summary::sample(3, Occupied::Yes, Some(98_000_000))
        ));
        assert!(!should_steal(
            &own,
            &Summary::sample(3, Occupied::Yes, Some(110_000_000))
        ));
    }
}
