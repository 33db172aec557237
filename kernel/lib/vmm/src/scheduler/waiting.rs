//! Those that wait in a queue: [`Ready`] for their turn, [`Throttled`] for their VM's next budget.

use core::cmp::Ordering;

use super::{Share, VirtualTime};

/// One that waits for its turn. The least is the next.
#[derive(Debug)]
pub(super) struct Ready<T> {
    pub(super) key: VirtualTime,
    /// The order of arrival, among equals.
    pub(super) order: u64,
    pub(super) vcpu: T,
    pub(super) share: Share,
}

/// Who runs next, whatever the order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Favoured {
    /// By its order of arrival.
    pub(super) order: u64,
    /// For so long at most.
    pub(super) most_ns: u64,
}

impl<T> PartialEq for Ready<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Ready<T> {}

impl<T> PartialOrd for Ready<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ready<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.key, self.order).cmp(&(other.key, other.order))
    }
}

/// One whose VM has used up its cap.
#[derive(Debug)]
pub(super) struct Throttled<T> {
    pub(super) until_ns: u64,
    pub(super) vcpu: T,
    pub(super) share: Share,
}
