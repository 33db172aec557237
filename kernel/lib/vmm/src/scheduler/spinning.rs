//! What becomes of a vCPU that spins: it waits for what another one of its VM does, and gives way to that.
//!
//! A turn that ends because of a loop of PAUSEs marks its vCPU as one that *spins*, until it has had a turn that ends
//! otherwise. While one of its siblings has something to do, the two exchange their places in virtual time: the
//! one that works runs on the time of the one that waits, as long as there is one that waits, and the VM as a whole
//! gets what it is due, neither more nor less. The one that spins is tried again after a while, and the more often
//! in a row it does nothing but spin, the longer that is.
//!
//! Of several siblings the one is chosen that has been sent something and waits for its turn to take it: whoever
//! spins probably waits for an answer. Then comes one that did something useful in its last turn. Where all spin they
//! take turns strictly one after the other, since each may be the next to be needed.
//!
//! KVM and Xen have the same idea in other forms: a directed yield that only says who is next, without the time
//! that belongs to it.

use super::queue::RunQueue;
use super::waiting::{Favoured, Ready};
use super::{CATCH_UP_ROUNDS, Share, VirtualTime};

/// Of a long queue so many are looked at in search of a spinner's siblings.
const LOOKED_AT: usize = 64;
/// How long one that spins waits before it is tried again, at first, as a part of a round; and how often that doubles.
const FIRST_WAIT: u64 = 8;
const MOST_DOUBLINGS: u8 = 4;

/// How many turns in a row have ended because the vCPU was spinning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Spins(u8);

impl Spins {
    /// It does something.
    pub(super) const NONE: Self = Self(0);

    const fn one_more(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// How long it should wait before it is tried again.
    fn wait(self, round: VirtualTime) -> VirtualTime {
        let doublings = self.0.saturating_sub(1).min(MOST_DOUBLINGS);
        round.times(1 << doublings).fraction(FIRST_WAIT)
    }
}

/// What a sibling can do for one that spins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Help {
    /// It has been sent something that it has not taken yet.
    Answer,
    /// It did something in its last turn.
    Work,
}

impl Share {
    /// Who is to run next has the earlier of the two times.
    fn lend_to(&mut self, next: &mut Self) {
        if self.virtual_time < next.virtual_time {
            core::mem::swap(&mut self.virtual_time, &mut next.virtual_time);
        }
    }
}

impl<T> RunQueue<T> {
    /// A vCPU that spins has ended its turn with so much of it left: a sibling gets that, if one waits here that can
    /// do something. `is_called` tells whether a vCPU has been sent something.
    pub fn give_way(
        &mut self,
        vcpu: T,
        mut share: Share,
        left_ns: u64,
        is_called: impl Fn(&T) -> bool,
    ) {
        share.spins = share.spins.one_more();
        share.borrowing_ns = 0;
        self.has_spinners = true;
        let round = self.round();
        let mut earliest = VirtualTime(0);
        if let Some(next) = self.ready.peek() {
            // Who lets others go first saves nothing up by that.
            let least = next.share.virtual_time;
            let least = least.saturating_sub(round.times(CATCH_UP_ROUNDS));
            share.move_to(share.virtual_time.max(least));
            earliest = next.key;
        }
        match self.helper_of(&share, is_called) {
            Some(at) => {
                let helper_time = self.lend(&mut share, at, left_ns);
                earliest = helper_time.saturating_add(share.spins.wait(round));
            }
            None => {
                // Behind all who spin for the same reason.
                let siblings = self.ready.iter().take(LOOKED_AT);
                let last = siblings
                    .filter(|ready| ready.share.is_sibling(&share))
                    .map(|ready| ready.key)
                    .max();
                earliest = earliest.max(last.unwrap_or_default());
            }
        }
        let _ = self.push(vcpu, share, earliest);
    }

    /// Whether a sibling waits here that can do something for one that spins.
    pub fn has_helper(&self, spinner: &Share, is_called: impl Fn(&T) -> bool) -> bool {
        self.helper_of(spinner, is_called).is_some()
    }

    /// Lends the time of a spinner elsewhere to a sibling that waits here and cannot leave.
    pub fn lend_to_one(&mut self, spinner: &mut Share, is_called: impl Fn(&T) -> bool) {
        let is_near = |at: &usize| {
            let helper = self.ready.iter().nth(*at);
            helper.is_some_and(|helper| spinner.is_of_one_time_with(&helper.share))
        };
        if let Some(at) = self.helper_of(spinner, is_called).filter(is_near) {
            let _ = self.lend(spinner, at, 0);
        }
    }

    /// Takes a sibling of a spinner elsewhere out, if one waits here that can do something and may move.
    pub fn steal_helper(
        &mut self,
        spinner: &Share,
        is_called: impl Fn(&T) -> bool,
        may_move: impl Fn(&T) -> bool,
    ) -> Option<(T, Share)> {
        let at = self.best(|ready| {
            let help = help(spinner, ready, &is_called)?;
            may_move(&ready.vcpu).then_some(help)
        })?;
        let Ready {
            vcpu, mut share, ..
        } = self.take(at)?;
        share.leave();
        Some((vcpu, share))
    }

    /// One that works has used up its turn and will be queued again: it goes on in the time of a sibling that spins.
    pub(super) fn draw_on_spinners(&mut self, share: &mut Share) {
        if !self.has_spinners {
            return;
        }
        let mut seen = false;
        let lender = self
            .ready
            .iter()
            .take(LOOKED_AT)
            .enumerate()
            .filter(|(_, ready)| ready.share.spins > Spins::NONE)
            .inspect(|_| seen = true)
            .filter(|(_, ready)| ready.share.is_sibling(share))
            .min_by_key(|(_, ready)| ready.share.virtual_time)
            .map(|(at, ready)| (at, ready.share.virtual_time));
        self.has_spinners = seen || self.ready.len() > LOOKED_AT;
        if let Some((at, time)) = lender
            && time < share.virtual_time
            && let Some(mut ready) = self.take(at)
        {
            ready.share.lend_to(share);
            // Its turn comes when it was to come, or it would be put off for ever.
            self.push_at(ready.key, ready.vcpu, ready.share);
        }
    }

    /// The vCPU at a place gets the spinner's time if that is earlier, and is the next to run. Returns its time.
    fn lend(&mut self, spinner: &mut Share, at: usize, left_ns: u64) -> VirtualTime {
        let Some(mut helper) = self.take(at) else {
            return VirtualTime(0);
        };
        spinner.lend_to(&mut helper.share);
        let time = helper.share.virtual_time;
        if left_ns > 0 {
            self.favoured = Some(Favoured {
                order: self.arrivals,
                most_ns: left_ns,
            });
        }
        let _ = self.push(helper.vcpu, helper.share, VirtualTime(0));
        time
    }

    fn take(&mut self, at: usize) -> Option<Ready<T>> {
        let ready = self.ready.remove(at)?;
        self.total_weight -= u64::from(ready.share.weight.parts());
        Some(ready)
    }

    fn helper_of(&self, spinner: &Share, is_called: impl Fn(&T) -> bool) -> Option<usize> {
        self.best(|ready| help(spinner, ready, &is_called))
    }

    /// The place of the one that helps most, and of several the one whose turn comes first.
    fn best(&self, help: impl Fn(&Ready<T>) -> Option<Help>) -> Option<usize> {
        self.ready
            .iter()
            .take(LOOKED_AT)
            .enumerate()
            .filter_map(|(at, ready)| Some((help(ready)?, ready.key, ready.order, at)))
            .min()
            .map(|(.., at)| at)
    }
}

/// What a vCPU that waits can do for one that spins, if it is its sibling.
fn help<T>(spinner: &Share, ready: &Ready<T>, is_called: impl Fn(&T) -> bool) -> Option<Help> {
    if !ready.share.is_sibling(spinner) {
        None
    } else if is_called(&ready.vcpu) {
        Some(Help::Answer)
    } else {
        (ready.share.spins == Spins::NONE).then_some(Help::Work)
    }
}
