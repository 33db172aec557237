//! [`Transmitter`]: the sending half of the chip, as far as there is a wire behind it that others use, too.
//!
//! A character is on its way as soon as it is sent. What the transmitter adds is that a guest that has sent much finds it
//! full for a while, as it would behind a slow wire, and so sends no faster than that takes it.

/// For how long drivers that poll find the transmitter full at most. Linux polls 10,000 times, a microsecond each or
/// more, before it takes the chip for broken and sends all the same; others wait for less.
pub(super) const FULL_NS: u64 = 5_000_000;
/// Whether the wire is free is looked at so often: it takes the characters of a FIFO in this time.
pub(super) const WIRE_NS: u64 = 1_400_000;

/// For how long the wire is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WireHold {
    /// It is free.
    Not,
    /// The guest has had its share of it: as long as its driver waits, one that polls for [`FULL_NS`] and one that waits
    /// for an interrupt for as long as it takes.
    WhileDriversWait,
    /// Nobody has room for more.
    UntilFree,
}

/// How a driver learns that the transmitter is empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Driver {
    Polls,
    WaitsForInterrupt,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Transmitter {
    /// Until when the wire is busy, or is not looked at.
    busy_until_ns: u64,
    /// Since when there are characters in the transmitter: they were sent while the wire was busy.
    full_since_ns: Option<u64>,
    /// How many.
    count: usize,
}

impl Transmitter {
    pub(super) const fn new() -> Self {
        Self {
            busy_until_ns: 0,
            full_since_ns: None,
            count: 0,
        }
    }

    /// Whether characters are in it.
    #[inline]
    pub(super) const fn is_full(&self) -> bool {
        self.full_since_ns.is_some()
    }

    /// How many are in it.
    #[inline]
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Whether what is sent now stays in it for a while.
    #[inline]
    pub(super) const fn is_busy(&self, now_ns: u64) -> bool {
        now_ns < self.busy_until_ns
    }

    /// Whether it is full, and it is time to look whether it still has to be.
    #[inline]
    pub(super) const fn is_due(&self, now_ns: u64) -> bool {
        self.is_full() && !self.is_busy(now_ns)
    }

    /// When it is to be looked at next.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.full_since_ns.map(|_| self.busy_until_ns)
    }

    /// A character is sent. Whether the transmitter is empty again at once.
    pub(super) fn send(&mut self, now_ns: u64) -> bool {
        let is_busy = self.is_busy(now_ns);
        if is_busy {
            self.full_since_ns.get_or_insert(now_ns);
            self.count += 1;
        }
        !is_busy
    }

    /// The wire was looked at.
    pub(super) fn hold(&mut self, hold: WireHold, driver: Driver, now_ns: u64) {
        let next_ns = now_ns.saturating_add(WIRE_NS);
        self.busy_until_ns = match (hold, driver, self.full_since_ns) {
            (WireHold::Not, ..) => 0,
            (WireHold::WhileDriversWait, Driver::Polls, Some(since_ns)) => {
                next_ns.min(since_ns.saturating_add(FULL_NS))
            }
            _ => next_ns,
        };
    }

    /// Empties it if it is due.
    pub(super) fn expire(&mut self, now_ns: u64) -> bool {
        let is_due = self.is_due(now_ns);
        if is_due {
            *self = Self::new();
        }
        is_due
    }
}
