//! [`Lapic`]: the local APIC of one vCPU, in xAPIC and x2APIC mode.
//!
//! A `Lapic` belongs to the physical CPU that runs its vCPU; nobody else touches it. Other CPUs, devices and
//! timers post to the vCPU's [`PostedInterrupts`], which the owner drains into the `Lapic` before it enters
//! the guest. Who is meant by a message is the business of [`routing`](super::routing).
//!
//! All registers that hardware may virtualise live in the [`ApicPage`] and nowhere else, so the same code serves
//! with and without APIC virtualisation. Use APIC-register virtualisation and virtual-interrupt delivery both
//! or neither: without the latter nobody keeps the PPR word of the page up to date.
//!
//! After SDM vol. 3, Advanced Programmable Interrupt Controller (APIC). Six LVT entries, no CMCI, no
//! suppression of EOI broadcasts, no SMIs.
//!
//! The files: `page` the registers, `access` how guests reach them, `priority` IRR, ISR, TMR and PPR, `icr` the
//! sending of IPIs, `lvt` the local sources, `timer` time, `posted` the mailbox.

mod access;
mod icr;
mod lvt;
mod page;
mod posted;
mod priority;
mod timer;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use arch::Vector;
use bitflags::bitflags;
use memory::{GuestPhys, PageSize};

use super::routing::Route;
pub use icr::{Ipi, Shorthand};
pub use lvt::Lint;
pub use page::ApicPage;
use page::Register;
pub use posted::{Kick, PostedInterrupts, Signals};
pub use priority::PendingInterrupt;
use timer::Timer;
pub use timer::{Armed, Clock, Deadline, Now};

bitflags! {
    /// What a local APIC can do beyond the xAPIC; CPUID must say the same.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LapicFeatures: u8 {
        /// The x2APIC mode; CPUID.1.ECX\[21\].
        const X2APIC = 1 << 0;
        /// The TSC-deadline mode of the timer; CPUID.1.ECX\[24\].
        const TSC_DEADLINE = 1 << 1;
    }

    /// The bits of IA32_APIC_BASE below the address (SDM vol. 3, Local APIC Status and Location).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct BaseFlags: u64 {
        /// This is the bootstrap processor.
        const BSP = 1 << 8;
        /// x2APIC mode.
        const EXTD = 1 << 10;
        /// The APIC is enabled.
        const EN = 1 << 11;
    }
}

/// Whether a CPU starts the system or waits for a start-up IPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The bootstrap processor.
    Bootstrap,
    /// An application processor.
    Application,
}

/// What differs between local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LapicConfig {
    /// The x2APIC ID; its low byte is the xAPIC ID.
    pub id: u32,
    /// What the CPU is at power-on.
    pub role: Role,
    /// What it can do.
    pub features: LapicFeatures,
    /// The frequency of the count-down timer before its divisor; CPUID.15H:ECX must say the same.
    pub bus_hz: u32,
    /// MAXPHYADDR of the guest: how wide the address in IA32_APIC_BASE is.
    pub physical_address_bits: u8,
}

/// How software reaches the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    /// Globally disabled: the CPU has no APIC, and LINT0 and LINT1 are INTR and NMI.
    Disabled,
    /// By memory.
    Xapic,
    /// By MSRs.
    X2apic,
}

/// The access breaks a rule of the x2APIC or of IA32_APIC_BASE: #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidAccess;

/// What a register write wants done outside the local APIC. Whatever it is, a new vector may be pending and
/// the timer's deadline may have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum ApicAction {
    /// Nothing.
    None,
    /// An interrupt message to other local APICs, perhaps to this one too.
    Send(Ipi),
    /// The I/O APIC is to be told that this level-triggered interrupt was handled.
    EndOfInterrupt(Vector),
    /// [`Lapic::route`] has changed and is to be published.
    Rerouted,
    /// IA32_APIC_BASE has changed: the mode or the address of the registers, and [`Lapic::route`].
    ModeChanged,
}

/// The local APIC of one vCPU.
#[derive(Debug)]
pub struct Lapic {
    page: Arc<ApicPage>,
    config: LapicConfig,
    /// IA32_APIC_BASE.
    base: u64,
    timer: Timer,
    /// The initial count, which the hardware overwrites in the page even where such a write is to be ignored.
    initial_count: u32,
    /// Whether the timer's LVT entry was masked when it was last written.
    timer_mask: lvt::Mask,
    /// The pins now.
    lints: lvt::Lines,
    ext_int: priority::ExtIntRequest,
    /// For the CPU, from this APIC's own pins and commands.
    signals: Signals,
    errors: lvt::ErrorLog,
    stale: priority::Stale,
    /// The highest vector that was requested since virtual-interrupt delivery was last told; 0 for none.
    raised: u8,
}

impl Lapic {
    /// Where the registers are after power-on.
    pub const DEFAULT_BASE: GuestPhys = GuestPhys::new(0xfee0_0000);

    /// Version 0x14 (an integrated APIC) with LVT entries 0 to 5.
    const VERSION: u32 = 0x0005_0014;

    /// A local APIC after power-on.
    pub fn new(config: LapicConfig) -> Self {
        let mut lapic = Self {
            page: Arc::new(ApicPage::new()),
            config,
            base: 0,
            timer: Timer::new(config.bus_hz),
            initial_count: 0,
            timer_mask: lvt::Mask::Masked,
            lints: lvt::Lines::empty(),
            ext_int: priority::ExtIntRequest::None,
            signals: Signals::NONE,
            errors: lvt::ErrorLog::default(),
            stale: priority::Stale::all(),
            raised: 0,
        };
        lapic.power_on();
        lapic
    }

    /// Power-on reset.
    pub fn power_on(&mut self) {
        let mut flags = BaseFlags::EN;
        flags.set(BaseFlags::BSP, self.config.role == Role::Bootstrap);
        self.base = Self::DEFAULT_BASE.as_u64() | flags.bits();
        self.reset_registers();
    }

    /// INIT: all registers but the ID and IA32_APIC_BASE (SDM vol. 3, Local APIC State After an INIT Reset;
    /// x2APIC After Reset).
    pub fn init(&mut self) {
        self.reset_registers();
    }

    /// What PC firmware leaves behind on the bootstrap processor: enabled, the 8259A through LINT0 and NMI
    /// through LINT1 (the virtual wire mode of the MultiProcessor Specification). For guests that are started
    /// without firmware.
    pub fn set_virtual_wire(&mut self) {
        self.page.set(Register::SpuriousVector, 0x10f);
        self.page.set(Register::LvtLint0, 0x700);
        self.page.set(Register::LvtLint1, 0x400);
    }

    /// The registers; their host-physical address is the hardware's virtual-APIC address. Whoever tells the
    /// hardware of it keeps a reference for as long.
    pub const fn page(&self) -> &Arc<ApicPage> {
        &self.page
    }

    /// The x2APIC ID.
    pub const fn id(&self) -> u32 {
        self.config.id
    }

    /// The mode that IA32_APIC_BASE selects.
    #[inline]
    pub const fn mode(&self) -> ApicMode {
        let flags = BaseFlags::from_bits_truncate(self.base);
        if !flags.contains(BaseFlags::EN) {
            ApicMode::Disabled
        } else if flags.contains(BaseFlags::EXTD) {
            ApicMode::X2apic
        } else {
            ApicMode::Xapic
        }
    }

    /// Whether IA32_APIC_BASE has the APIC enabled, in whatever mode.
    #[inline]
    pub(super) const fn is_enabled(&self) -> bool {
        self.base & BaseFlags::EN.bits() != 0
    }

    /// Whether the registers are MSRs.
    #[inline]
    const fn is_x2apic(&self) -> bool {
        const BOTH: u64 = BaseFlags::EN.union(BaseFlags::EXTD).bits();
        self.base & BOTH == BOTH
    }

    /// Whether INIT makes the CPU restart as the bootstrap processor does, or wait for a start-up IPI.
    pub const fn role(&self) -> Role {
        if self.base & BaseFlags::BSP.bits() != 0 {
            Role::Bootstrap
        } else {
            Role::Application
        }
    }

    /// Where the register page is in guest-physical memory; `None` unless in xAPIC mode.
    #[inline]
    pub const fn mmio_base(&self) -> Option<GuestPhys> {
        match self.mode() {
            ApicMode::Xapic => {
                Some(GuestPhys::new(self.base & self.address_mask()).align_down(PageSize::Size4K))
            }
            ApicMode::Disabled | ApicMode::X2apic => None,
        }
    }

    /// IA32_APIC_BASE.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// A write of IA32_APIC_BASE (SDM vol. 3, x2APIC State Transitions).
    ///
    /// # Errors
    /// [`InvalidAccess`] for reserved bits and for transitions that the mode diagram does not have.
    pub fn write_base(&mut self, value: u64) -> Result<ApicAction, InvalidAccess> {
        let mut allowed = BaseFlags::BSP | BaseFlags::EN;
        allowed.set(
            BaseFlags::EXTD,
            self.config.features.contains(LapicFeatures::X2APIC),
        );
        if value & !(self.address_mask() | allowed.bits()) != 0 {
            return Err(InvalidAccess);
        }
        let old = self.mode();
        let flags = BaseFlags::from_bits_truncate(value);
        let enabled = flags.contains(BaseFlags::EN);
        let extended = flags.contains(BaseFlags::EXTD);
        let new = match (enabled, extended, old) {
            (false, false, _) => ApicMode::Disabled,
            (true, false, ApicMode::Disabled | ApicMode::Xapic) => ApicMode::Xapic,
            (true, true, ApicMode::Xapic | ApicMode::X2apic) => ApicMode::X2apic,
            (false, true, _)
            | (true, false, ApicMode::X2apic)
            | (true, true, ApicMode::Disabled) => return Err(InvalidAccess),
        };
        if value == self.base {
            return Ok(ApicAction::None);
        }
        self.base = value;
        match (old, new) {
            (ApicMode::Xapic | ApicMode::X2apic, ApicMode::Disabled) => self.reset_registers(),
            (ApicMode::Xapic, ApicMode::X2apic) => {
                self.set_identity();
                self.page.set(Register::InterruptCommandHigh, 0);
            }
            _ => self.set_identity(),
        }
        Ok(ApicAction::ModeChanged)
    }

    /// How messages find this APIC, for the table that all senders read.
    pub fn route(&self) -> Route {
        let ldr = self.page.get(Register::LogicalDestination);
        let dfr = self.page.get(Register::DestinationFormat);
        Route::new(
            self.mode(),
            self.is_software_enabled(),
            (ldr >> 24) as u8,
            (dfr >> 28) as u8,
        )
    }

    const fn address_mask(&self) -> u64 {
        let bits = self.config.physical_address_bits;
        let bits = if bits > 52 { 52 } else { bits as u32 };
        ((1u64 << bits) - 1) & !0xfff
    }

    /// Sets what the mode decides: ID and LDR.
    fn set_identity(&mut self) {
        let id = self.config.id;
        match self.mode() {
            ApicMode::Disabled | ApicMode::Xapic => self.page.set(Register::Id, id << 24),
            ApicMode::X2apic => {
                self.page.set(Register::Id, id);
                self.page.set(Register::LogicalDestination, x2apic_ldr(id));
            }
        }
    }

    fn reset_registers(&mut self) {
        self.page.clear();
        self.page.set(Register::Version, Self::VERSION);
        self.page.set(Register::DestinationFormat, u32::MAX);
        self.page.set(Register::SpuriousVector, 0xff);
        for entry in lvt::ENTRIES {
            self.page.set(entry, lvt::MASKED);
        }
        self.set_identity();
        self.timer.reset();
        self.initial_count = 0;
        self.timer_mask = lvt::Mask::Masked;
        self.lints
            .remove(lvt::Lines::LINT0_WAITS | lvt::Lines::LINT1_WAITS);
        self.ext_int = priority::ExtIntRequest::None;
        self.errors = lvt::ErrorLog::default();
        self.stale = priority::Stale::all();
    }
}

/// The logical destination of an x2APIC (SDM vol. 3, Deriving Logical x2APIC ID from the Local x2APIC ID).
pub(super) const fn x2apic_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}
