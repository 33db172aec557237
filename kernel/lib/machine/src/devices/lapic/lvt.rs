//! The local sources of interrupts: the pins LINT0 and LINT1, the timer, and errors.
//!
//! After SDM vol. 3, Handling Local Interrupts, and Error Handling. The entries for the thermal sensor and the
//! performance counters hold what is written; nothing here raises them.

use arch::Vector;
use bitflags::bitflags;

use super::page::Register;
use super::{ApicMode, Clock, Deadline, Lapic};
use crate::{Level, TriggerMode};

/// All entries.
pub(super) const ENTRIES: [Register; 6] = [
    Register::LvtTimer,
    Register::LvtThermal,
    Register::LvtPerformance,
    Register::LvtLint0,
    Register::LvtLint1,
    Register::LvtError,
];

/// The mask bit of an entry, and an entry after reset.
pub(super) const MASKED: u32 = 1 << 16;
const LEVEL_TRIGGERED: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;

/// Whether an entry lets interrupts through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mask {
    Masked,
    Open,
}

impl Mask {
    pub(super) const fn of(entry: u32) -> Self {
        if entry & MASKED != 0 {
            Self::Masked
        } else {
            Self::Open
        }
    }
}

/// One of the two interrupt pins of a local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lint {
    /// LINT0, where the 8259A's INTR ends.
    Lint0,
    /// LINT1, where NMI ends.
    Lint1,
}

impl Lint {
    const fn register(self) -> Register {
        match self {
            Self::Lint0 => Register::LvtLint0,
            Self::Lint1 => Register::LvtLint1,
        }
    }

    const fn line(self) -> Lines {
        match self {
            Self::Lint0 => Lines::LINT0,
            Self::Lint1 => Lines::LINT1,
        }
    }

    /// The remote IRR, as software cannot touch it.
    const fn waits(self) -> Lines {
        match self {
            Self::Lint0 => Lines::LINT0_WAITS,
            Self::Lint1 => Lines::LINT1_WAITS,
        }
    }
}

bitflags! {
    /// The state of the pins.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Lines: u8 {
        /// Asserted.
        const LINT0 = 1 << 0;
        /// Asserted.
        const LINT1 = 1 << 1;
        /// A level-triggered interrupt of this pin waits for its EOI.
        const LINT0_WAITS = 1 << 2;
        /// A level-triggered interrupt of this pin waits for its EOI.
        const LINT1_WAITS = 1 << 3;
    }

    /// The error status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Errors: u32 {
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
        const ILLEGAL_REGISTER = 1 << 7;
    }
}

/// Errors since the last write of the ESR. The first of them raises the error interrupt; the write of the ESR
/// rearms that.
#[derive(Debug)]
pub(super) struct ErrorLog(Errors);

impl Default for ErrorLog {
    fn default() -> Self {
        Self(Errors::empty())
    }
}

impl ErrorLog {
    pub(super) fn take(&mut self) -> u32 {
        core::mem::take(self).0.bits()
    }
}

/// The delivery mode of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LocalDelivery {
    Fixed(Vector, TriggerMode),
    Nmi,
    Init,
    ExtInt,
    /// SMIs, which there are none of, and reserved encodings.
    Nothing,
}

impl LocalDelivery {
    const fn of(entry: u32) -> Self {
        match (entry >> 8) & 7 {
            0 if entry & LEVEL_TRIGGERED != 0 => {
                Self::Fixed(Vector(entry as u8), TriggerMode::Level)
            }
            0 => Self::Fixed(Vector(entry as u8), TriggerMode::Edge),
            4 => Self::Nmi,
            5 => Self::Init,
            7 => Self::ExtInt,
            _ => Self::Nothing,
        }
    }
}

impl Lapic {
    /// Sets the level of a pin.
    pub fn set_lint(&mut self, pin: Lint, level: Level) {
        let was_asserted = self.lints.contains(pin.line());
        self.lints.set(pin.line(), level == Level::Asserted);
        if level == Level::Deasserted {
            return;
        }
        if self.mode() == ApicMode::Disabled {
            if pin == Lint::Lint1 && !was_asserted {
                self.signals.add_nmi();
            }
            return;
        }
        let entry = self.page.get(pin.register());
        if Mask::of(entry) == Mask::Masked {
            return;
        }
        match LocalDelivery::of(entry) {
            LocalDelivery::Fixed(_, TriggerMode::Level) => self.sample_level(pin),
            LocalDelivery::Fixed(vector, TriggerMode::Edge) if !was_asserted => {
                self.accept(vector, TriggerMode::Edge);
            }
            LocalDelivery::Nmi if !was_asserted => self.signals.add_nmi(),
            LocalDelivery::Init if !was_asserted => self.signals.add_init(),
            // LINT0 is looked at when the CPU asks; the manual wants ExtINT on LINT1 unused.
            LocalDelivery::ExtInt
            | LocalDelivery::Fixed(..)
            | LocalDelivery::Nmi
            | LocalDelivery::Init
            | LocalDelivery::Nothing => {}
        }
    }

    /// Whether LINT0 brings an 8259A's request to the CPU.
    #[inline]
    pub(super) fn lint0_is_pic(&self) -> bool {
        if !self.lints.contains(Lines::LINT0) {
            return false;
        }
        if self.mode() == ApicMode::Disabled {
            return true;
        }
        let entry = self.page.get(Register::LvtLint0);
        Mask::of(entry) == Mask::Open && LocalDelivery::of(entry) == LocalDelivery::ExtInt
    }

    /// Whether the 8259A's wire may bring the CPU an NMI.
    pub fn may_take_nmi_from_pic(&self) -> bool {
        let entry = self.page.get(Register::LvtLint0);
        Mask::of(entry) == Mask::Open && LocalDelivery::of(entry) == LocalDelivery::Nmi
    }

    /// When [`expire`](Self::expire) is next due; `None` if no timer interrupt can come.
    #[inline]
    pub const fn next_deadline(&self) -> Option<Deadline> {
        match self.timer_mask {
            Mask::Masked => None,
            Mask::Open => self.timer.deadline(),
        }
    }

    /// Raises the timer's interrupt if its time has come. Calling it early or often is harmless.
    #[inline(always)]
    pub fn expire(&mut self, clock: &impl Clock) {
        if self.timer.expire(clock) {
            self.timer_has_ended();
        }
    }

    /// Raises the timer's interrupt, unless it is masked.
    #[inline]
    pub(super) fn timer_has_ended(&mut self) {
        if self.timer_mask == Mask::Open {
            self.accept(
                Vector(self.page.get(Register::LvtTimer) as u8),
                TriggerMode::Edge,
            );
        }
    }

    /// A write of a pin's entry, without what software cannot write.
    pub(super) fn store_lint(&mut self, pin: Lint, entry: u32) {
        if !matches!(
            LocalDelivery::of(entry),
            LocalDelivery::Fixed(_, TriggerMode::Level)
        ) {
            self.lints.remove(pin.waits());
        }
        let waits = if self.lints.contains(pin.waits()) {
            REMOTE_IRR
        } else {
            0
        };
        self.page.set(pin.register(), entry | waits);
        self.sample_level(pin);
    }

    /// Software has disabled the APIC: all entries become masked.
    pub(super) fn mask_all_entries(&mut self) {
        for entry in ENTRIES {
            self.page.set(entry, self.page.get(entry) | MASKED);
        }
        self.timer_mask = Mask::Masked;
    }

    /// A level-triggered interrupt has ended: the pin that raised it, if it was one, is looked at again.
    #[cold]
    pub(super) fn level_triggered_ended(&mut self, vector: Vector) {
        for pin in [Lint::Lint0, Lint::Lint1] {
            let entry = self.page.get(pin.register());
            if self.lints.contains(pin.waits()) && entry as u8 == vector.0 {
                self.lints.remove(pin.waits());
                self.page.set(pin.register(), entry & !REMOTE_IRR);
                self.sample_level(pin);
            }
        }
    }

    /// Raises the interrupt of a level-triggered fixed pin that is asserted and not yet waiting for its EOI.
    fn sample_level(&mut self, pin: Lint) {
        let entry = self.page.get(pin.register());
        let pins = self.lints & (pin.line() | pin.waits());
        if pins != pin.line() || Mask::of(entry) == Mask::Masked {
            return;
        }
        if let LocalDelivery::Fixed(vector, TriggerMode::Level) = LocalDelivery::of(entry) {
            self.lints.insert(pin.waits());
            self.page.set(pin.register(), entry | REMOTE_IRR);
            self.accept(vector, TriggerMode::Level);
        }
    }

    #[cold]
    pub(super) fn log_error(&mut self, error: Errors) {
        let first = self.errors.0.is_empty();
        self.errors.0 |= error;
        let entry = self.page.get(Register::LvtError);
        if first && Mask::of(entry) == Mask::Open {
            self.accept(Vector(entry as u8), TriggerMode::Edge);
        }
    }
}
