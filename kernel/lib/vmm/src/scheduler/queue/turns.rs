//! The turns that a [`RunQueue`] gives: who is next, for how long, and what it is charged in the end.

use super::super::turn::{Granted, Running, Slice, Turn};
use super::super::waiting::{Favoured, Ready, Throttled};
use super::super::{
    BALANCE_NS, Elsewhere, Grant, LOOK_AGAIN_NS, MIN_SLICE_NS, ROUND_NS, Share, VirtualTime, Weight,
};
use super::{RunQueue, Use};

impl<T> RunQueue<T> {
    /// Chooses the vCPU that runs now. It is the caller's until [`end_turn`](Self::end_turn).
    pub fn choose(&mut self, now_ns: u64) -> Option<Turn<T>> {
        if now_ns >= self.next_release_ns {
            self.release(now_ns);
        }
        if let Some(turn) = self.choose_favoured(now_ns) {
            return Some(turn);
        }
        loop {
            let ready = self.ready.pop()?;
            if let Some(turn) = self.begin(ready, u64::MAX, now_ns) {
                return Some(turn);
            }
        }
    }

    /// The one that is to run out of its turn, if it is still here.
    fn choose_favoured(&mut self, now_ns: u64) -> Option<Turn<T>> {
        let Favoured { order, most_ns } = self.favoured.take()?;
        let at = self.ready.iter().position(|ready| ready.order == order)?;
        let ready = self.ready.remove(at)?;
        self.begin(ready, most_ns, now_ns)
    }

    /// Begins the turn of a vCPU that is not in the queue any more; throttles it where its VM has used up its cap.
    fn begin(&mut self, ready: Ready<T>, most_ns: u64, now_ns: u64) -> Option<Turn<T>> {
        let Ready {
            key,
            vcpu,
            mut share,
            ..
        } = ready;
        let next = self.ready.peek().map(|next| next.share.virtual_time);
        let is_wanted = match (self.elsewhere, self.elsewhere.reached()) {
            (Elsewhere::Waiting { round, .. }, Some(reached)) => {
                share.lift(next.map_or(reached, |next| next.min(reached)), round);
                true
            }
            _ => next.is_some(),
        };
        let charged_from_ns = is_wanted.then_some(now_ns);
        // Those whose cap has a new period are not to wait for the end of a long turn.
        let most_ns = most_ns.min(self.next_release_ns.saturating_sub(now_ns));
        let slice_ns = self
            .slice(key, share.weight, share.borrowing_ns)
            .min(most_ns.max(MIN_SLICE_NS));
        let (slice, granted) = match share.cap.as_deref() {
            None if self.cpu_use == Use::Dedicated => (Slice::Unlimited, None),
            None => (Slice::Ns(slice_ns), None),
            // It takes its time beforehand, and leaves some to its siblings.
            Some(cap) => match cap.take(now_ns, slice_ns.min(BALANCE_NS)) {
                Grant::Run { ns } => {
                    let taken_ns = now_ns;
                    (Slice::Ns(ns), Some(Granted { ns, taken_ns }))
                }
                Grant::Wait { until_ns } => {
                    share.sleep();
                    self.next_release_ns = self.next_release_ns.min(until_ns);
                    self.total_weight -= u64::from(share.weight.parts());
                    self.throttled.push(Throttled {
                        until_ns,
                        vcpu,
                        share,
                    });
                    return None;
                }
            },
        };
        self.running = Some(Running {
            began_ns: now_ns,
            charged_from_ns,
            virtual_time: share.virtual_time,
            borrowing_ns: share.borrowing_ns,
            weight: share.weight,
            key,
            slice,
        });
        self.advance(now_ns);
        Some(Turn {
            vcpu,
            share,
            slice,
            began_ns: now_ns,
            granted,
        })
    }

    /// How long the vCPU may run before the one behind it has its turn, or one that waits elsewhere may have to be
    /// taken here.
    pub(super) fn slice(&self, key: VirtualTime, weight: Weight, borrowing_ns: u64) -> u64 {
        let until_ns = |until: VirtualTime| until.saturating_sub(key).to_ns(weight);
        let most = self
            .elsewhere
            .horizon(self.round())
            .map_or(u64::MAX, |horizon| until_ns(horizon).max(LOOK_AGAIN_NS))
            .min(self.alone_ns.max(ROUND_NS));
        let Some(next) = self.ready.peek() else {
            return self.alone_ns.min(most);
        };
        // Those that sleep do not count: the round is theirs that are ready.
        let slice = until_ns(next.key.saturating_add(self.round()));
        let slice = slice.min(most).max(MIN_SLICE_NS);
        // Borrowed time is for a moment; after it the turn is decided anew.
        if borrowing_ns > 0 {
            slice.min(borrowing_ns)
        } else {
            slice
        }
    }

    /// Lets those go whose cap has a new period.
    #[cold]
    fn release(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.next_release_ns = u64::MAX;
        let mut at = 0;
        while let Some(throttled) = self.throttled.get(at) {
            if throttled.until_ns > now_ns {
                self.next_release_ns = self.next_release_ns.min(throttled.until_ns);
                at += 1;
                continue;
            }
            let Throttled {
                vcpu, mut share, ..
            } = self.throttled.swap_remove(at);
            self.wake(&mut share);
            let _ = self.push(vcpu, share, VirtualTime(0));
        }
    }

    /// Ends a turn: charges what the vCPU ran, up to now, and hands it back for the caller to enqueue it
    /// [`Again`](Arrival::Again), or to let it sleep.
    pub fn end_turn(&mut self, turn: Turn<T>, now_ns: u64) -> (T, Share) {
        let Turn {
            vcpu,
            mut share,
            began_ns,
            granted,
            slice: _,
        } = turn;
        let ran_ns = now_ns.saturating_sub(began_ns);
        self.advance(now_ns);
        let charged_from_ns = match self.running.take() {
            Some(mut running) => {
                self.total_weight -= u64::from(share.weight.parts());
                let charged_from_ns = running.charged_from_ns.unwrap_or(now_ns);
                let unclaimed = running.is_wanted_from(now_ns);
                self.unclaimed = self.unclaimed.saturating_add(unclaimed);
                charged_from_ns.max(began_ns)
            }
            None => began_ns,
        };
        let unclaimed_ns = charged_from_ns.saturating_sub(began_ns);
        share.give_back(unclaimed_ns, self.passed, &self.elsewhere);
        let charged_ns = now_ns.saturating_sub(charged_from_ns);
        share.charge(ran_ns, charged_ns, self.unclaimed);
        if let (Some(cap), Some(Granted { ns, taken_ns })) = (&share.cap, granted) {
            cap.settle(taken_ns, ns, ran_ns, now_ns);
        }
        (vcpu, share)
    }
}
