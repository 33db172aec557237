//! When the devices of a board have to be looked after.

/// When each device that waits for something is due; `u64::MAX` where it waits for nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    pub(super) uart: u64,
    pub(super) pit: u64,
    pub(super) rtc: u64,
    pub(super) pm: u64,
    pub(super) keyboard: u64,
    pub(super) firmware: u64,
    /// The least of the others.
    pub(super) next: u64,
}

impl Deadlines {
    pub(super) const NONE: Self = Self {
        uart: u64::MAX,
        pit: u64::MAX,
        rtc: u64::MAX,
        pm: u64::MAX,
        keyboard: u64::MAX,
        firmware: u64::MAX,
        next: u64::MAX,
    };

    pub(super) fn settle(&mut self) {
        let isa = self.uart.min(self.pit).min(self.rtc);
        self.next = isa.min(self.pm).min(self.keyboard).min(self.firmware);
    }
}
