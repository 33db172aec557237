//! [`PostedInterrupts`]: the mailbox through which everybody but its owner reaches a local APIC.
//!
//! Writers: any CPU. Reader: the physical CPU that runs the vCPU, before it enters the guest. There are no
//! locks. The order of operations is the whole argument:
//!
//! - A poster first puts the message into a word and then sets `outstanding`. The reader first clears
//!   `outstanding` and then empties the words. Whatever the interleaving, a message that the reader missed is
//!   followed by a set `outstanding`.
//! - A poster that finds `outstanding` set does not kick. The swap that clears the flag then reads a value from
//!   that poster's own swap or a later one; both are acquire-release, so the reader sees the poster's message.
//! - The kick itself: the owner announces that it is about to enter the guest (or to sleep) and then tests
//!   [`is_outstanding`](PostedInterrupts::is_outstanding); a poster sets `outstanding` and then looks at
//!   the announcement. Both sides of this are sequentially consistent, so at least one sees the other,
//!   provided that the announcement is a sequentially consistent store, too.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use arch::Vector;

use super::{Lapic, Lint};
use crate::{DeliveryMode, InterruptMessage, Level, TriggerMode};

/// Whether the owner of a mailbox must be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Kick {
    /// Wake or interrupt the CPU that runs the vCPU.
    Needed,
    /// Somebody has done so already, or there is nothing to tell.
    NotNeeded,
}

/// What is for the CPU rather than for its local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Signals(u32);

impl Signals {
    /// None at all.
    pub const NONE: Self = Self(0);

    const NMIS: u32 = 3;
    const INIT: u32 = 1 << 2;
    const START_UP: u32 = 1 << 3;
    const EXT_INT: u32 = 1 << 4;
    const INTR: u32 = 1 << 5;
    const TIMER: u32 = 1 << 6;
    const WAKE: u32 = 1 << 7;
    const A20: u32 = 1 << 16;
    const START_UP_SHIFT: u32 = 8;
    const START_UP_VECTOR: u32 = 0xff << Self::START_UP_SHIFT;

    /// What the CPU is to be told; the rest is the local APIC's.
    const FOR_CPU: u32 = Self::NMIS
        | Self::INIT
        | Self::START_UP
        | Self::START_UP_VECTOR
        | Self::TIMER
        | Self::WAKE
        | Self::A20;

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many NMIs: 0 to 2, more than which no processor remembers.
    pub const fn nmis(self) -> u8 {
        (self.0 & Self::NMIS) as u8
    }

    /// Whether there is an INIT. It came before the start-up IPI, if there is one of these, too.
    pub const fn init(self) -> bool {
        self.0 & Self::INIT != 0
    }

    /// The vector of a start-up IPI.
    pub const fn start_up(self) -> Option<Vector> {
        if self.0 & Self::START_UP == 0 {
            return None;
        }
        Some(Vector((self.0 >> Self::START_UP_SHIFT) as u8))
    }

    /// Whether somebody wants the timers looked at.
    pub const fn timer(self) -> bool {
        self.0 & Self::TIMER != 0
    }

    /// Whether another CPU wants it to go on if it has halted.
    pub const fn wake(self) -> bool {
        self.0 & Self::WAKE != 0
    }

    /// Whether the gate of address line 20 has moved.
    pub const fn a20(self) -> bool {
        self.0 & Self::A20 != 0
    }

    pub(super) const fn add_nmi(&mut self) {
        self.0 = with_nmi(self.0);
    }

    pub(super) const fn add_init(&mut self) {
        self.0 = with_init(self.0);
    }

    /// These, and then those.
    const fn then(self, later: Self) -> Self {
        let mut all = self.0;
        if later.init() {
            all = with_init(all);
        }
        if let Some(vector) = later.start_up() {
            all = with_start_up(all, vector);
        }
        let mut nmis = later.nmis();
        while nmis > 0 {
            all = with_nmi(all);
            nmis -= 1;
        }
        Self(all | later.0 & (Self::TIMER | Self::WAKE | Self::A20))
    }
}

/// One more NMI, up to two.
const fn with_nmi(signals: u32) -> u32 {
    if signals & Signals::NMIS < 2 {
        signals + 1
    } else {
        signals
    }
}

/// INIT makes what a start-up IPI before it began undone.
const fn with_init(signals: u32) -> u32 {
    signals & !(Signals::START_UP | Signals::START_UP_VECTOR) | Signals::INIT
}

/// Of several start-up IPIs the first counts.
const fn with_start_up(signals: u32, vector: Vector) -> u32 {
    if signals & Signals::START_UP != 0 {
        return signals;
    }
    signals | Signals::START_UP | (vector.0 as u32) << Signals::START_UP_SHIFT
}

/// The mailbox of one vCPU; 128-byte aligned, so that two never share a cache line or its prefetched pair.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PostedInterrupts {
    /// The vectors.
    requests: [AtomicU64; 4],
    /// Those of them that are level-triggered. Kept when a vector is taken: most vectors never change.
    levels: [AtomicU64; 4],
    /// The layout of [`Signals`].
    signals: AtomicU32,
    outstanding: AtomicBool,
}

impl PostedInterrupts {
    /// An empty mailbox.
    pub const fn new() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; 4],
            levels: [const { AtomicU64::new(0) }; 4],
            signals: AtomicU32::new(0),
            outstanding: AtomicBool::new(false),
        }
    }

    /// Leaves a message for the local APIC. SMIs are dropped: the virtual machine has no SMM.
    #[inline]
    pub fn post(&self, message: &InterruptMessage) -> Kick {
        match message.delivery_mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.post_vector(message.vector, message.trigger_mode)
            }
            DeliveryMode::Nmi => self.post_signals(with_nmi),
            DeliveryMode::Init => self.post_signals(with_init),
            DeliveryMode::StartUp => {
                self.post_signals(|signals| with_start_up(signals, message.vector))
            }
            DeliveryMode::ExtInt => self.post_signals(|signals| signals | Signals::EXT_INT),
            DeliveryMode::Smi => Kick::NotNeeded,
        }
    }

    /// Leaves a fixed interrupt.
    #[inline]
    pub fn post_vector(&self, vector: Vector, trigger_mode: TriggerMode) -> Kick {
        let bit = 1u64 << (vector.0 & 63);
        let index = usize::from(vector.0 >> 6);
        let level = Self::word(&self.levels, index);
        let is_level = level.load(Relaxed) & bit != 0;
        match trigger_mode {
            TriggerMode::Level if !is_level => {
                level.fetch_or(bit, Relaxed);
            }
            TriggerMode::Edge if is_level => {
                level.fetch_and(!bit, Relaxed);
            }
            TriggerMode::Level | TriggerMode::Edge => {}
        }
        // Released by the swap in `announce`; the reader that takes the bit without it (because of somebody
        // else's `announce`) must see the trigger mode as well.
        Self::word(&self.requests, index).fetch_or(bit, Release);
        self.announce()
    }

    /// Whether the vector was last sent as level-triggered.
    #[inline]
    pub fn is_level(&self, vector: Vector) -> bool {
        let word = Self::word(&self.levels, usize::from(vector.0 >> 6));
        word.load(Relaxed) & 1 << (vector.0 & 63) != 0
    }

    /// Makes the owner look, though nothing new lies here.
    pub fn nudge(&self) -> Kick {
        self.announce()
    }

    /// Sets the level of the 8259A's INTR wire at this CPU's LINT0.
    pub fn set_intr(&self, level: Level) -> Kick {
        self.post_signals(|signals| match level {
            Level::Asserted => signals | Signals::INTR,
            Level::Deasserted => signals & !Signals::INTR,
        })
    }

    /// Sets that level where it is the owner itself that has just learned it, from the 8259A's answer. It is no news to
    /// be announced: the owner is past looking at its mailbox, and whoever comes next would think that it was told.
    pub fn answer_intr(&self, level: Level) {
        match level {
            Level::Asserted => self.signals.fetch_or(Signals::INTR, Release),
            Level::Deasserted => self.signals.fetch_and(!Signals::INTR, Release),
        };
    }

    /// Asks the owner to look at its timers.
    pub fn post_timer(&self) -> Kick {
        self.post_signals(|signals| signals | Signals::TIMER)
    }

    /// Makes the CPU go on if it has halted, interrupts off or not.
    pub fn post_wake(&self) -> Kick {
        self.post_signals(|signals| signals | Signals::WAKE)
    }

    /// Tells the CPU that the gate of address line 20 has moved.
    pub fn post_a20(&self) -> Kick {
        self.post_signals(|signals| signals | Signals::A20)
    }

    /// Whether there may be something to drain.
    #[inline]
    pub fn is_outstanding(&self) -> bool {
        self.outstanding.load(SeqCst)
    }

    /// Hands everything to the local APIC, and what is not for that to the caller.
    #[inline]
    pub fn drain(&self, lapic: &mut Lapic) -> Signals {
        if self.is_outstanding() {
            self.take(lapic);
        }
        if lapic.signals.is_empty() {
            return Signals::NONE;
        }
        core::mem::replace(&mut lapic.signals, Signals::NONE)
    }

    fn take(&self, lapic: &mut Lapic) {
        self.outstanding.swap(false, SeqCst);
        for index in 0..4 {
            let requests = Self::word(&self.requests, index);
            if requests.load(Relaxed) != 0 {
                let vectors = requests.swap(0, Acquire);
                let levels = Self::word(&self.levels, index).load(Relaxed);
                lapic.accept_word(index, vectors, levels);
            }
        }
        let signals = self.signals.load(Relaxed);
        let intr = Level::asserted_if(signals & Signals::INTR != 0);
        lapic.set_lint(Lint::Lint0, intr);
        if signals & !Signals::INTR != 0 {
            // The wire's level stays; the rest is taken.
            let taken = self.signals.fetch_and(Signals::INTR, Acquire);
            if taken & Signals::EXT_INT != 0 {
                lapic.accept_ext_int();
            }
            lapic.signals = lapic.signals.then(Signals(taken & Signals::FOR_CPU));
        }
    }

    fn post_signals(&self, change: impl Fn(u32) -> u32) -> Kick {
        let result = self.signals.fetch_update(Release, Relaxed, |old| {
            let new = change(old);
            (new != old).then_some(new)
        });
        match result {
            Ok(_) => self.announce(),
            // It is there already, and so is its announcement or about to be.
            Err(_) => Kick::NotNeeded,
        }
    }

    #[inline]
    fn announce(&self) -> Kick {
        if self.outstanding.swap(true, SeqCst) {
            Kick::NotNeeded
        } else {
            Kick::Needed
        }
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "the mask keeps the index below the length"
    )]
    const fn word(words: &[AtomicU64; 4], index: usize) -> &AtomicU64 {
        &words[index & 3]
    }
}
