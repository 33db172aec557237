//! What this processor's VMX can do: the capability MSRs, decoded, and the one way to a control word.
//!
//! [`RawCapabilities`] are the MSR values, [`Capabilities`] answers questions about them, and
//! [`Capabilities::adjust`] makes a control word of what is wanted and what the MSRs allow. The table of all
//! features that matter to Plinth is in [`features`](crate::features). SDM vol. 3, VMX Capability Reporting
//! Facility.

use core::fmt;

use arch::{Cr0, Cr4, msr};
use bitflags::{Flags, bitflags};

use crate::controls::{
    EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls,
    SecondaryExitControls, TertiaryControls,
};

/// The capability MSRs as read; those that the processor does not have are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "each is the MSR IA32_VMX_ of its name")]
pub struct RawCapabilities {
    pub basic: u64,
    pub pin: u64,
    pub primary: u64,
    pub exit: u64,
    pub entry: u64,
    pub misc: u64,
    pub cr0_fixed0: u64,
    pub cr0_fixed1: u64,
    pub cr4_fixed0: u64,
    pub cr4_fixed1: u64,
    pub secondary: u64,
    pub ept_vpid: u64,
    pub true_pin: u64,
    pub true_primary: u64,
    pub true_exit: u64,
    pub true_entry: u64,
    pub vmfunc: u64,
    pub tertiary: u64,
    pub secondary_exit: u64,
}

impl RawCapabilities {
    /// Reads them, and only those that exist: each later one is announced by an earlier one.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let mut raw = Self {
            basic: rdmsr(msr::IA32_VMX_BASIC),
            pin: rdmsr(msr::IA32_VMX_PINBASED_CTLS),
            primary: rdmsr(msr::IA32_VMX_PROCBASED_CTLS),
            exit: rdmsr(msr::IA32_VMX_EXIT_CTLS),
            entry: rdmsr(msr::IA32_VMX_ENTRY_CTLS),
            misc: rdmsr(msr::IA32_VMX_MISC),
            cr0_fixed0: rdmsr(msr::IA32_VMX_CR0_FIXED0),
            cr0_fixed1: rdmsr(msr::IA32_VMX_CR0_FIXED1),
            cr4_fixed0: rdmsr(msr::IA32_VMX_CR4_FIXED0),
            cr4_fixed1: rdmsr(msr::IA32_VMX_CR4_FIXED1),
            ..Self::default()
        };
        if Basic::from_bits_retain(raw.basic).contains(Basic::TRUE_CONTROLS) {
            raw.true_pin = rdmsr(msr::IA32_VMX_TRUE_PINBASED_CTLS);
            raw.true_primary = rdmsr(msr::IA32_VMX_TRUE_PROCBASED_CTLS);
            raw.true_exit = rdmsr(msr::IA32_VMX_TRUE_EXIT_CTLS);
            raw.true_entry = rdmsr(msr::IA32_VMX_TRUE_ENTRY_CTLS);
        }
        if Capabilities::new(raw).allows(PrimaryControls::ACTIVATE_SECONDARY_CONTROLS) {
            raw.secondary = rdmsr(msr::IA32_VMX_PROCBASED_CTLS2);
        }
        if Capabilities::new(raw).allows(PrimaryControls::ACTIVATE_TERTIARY_CONTROLS) {
            raw.tertiary = rdmsr(msr::IA32_VMX_PROCBASED_CTLS3);
        }
        if Capabilities::new(raw).allows(ExitControls::ACTIVATE_SECONDARY_CONTROLS) {
            raw.secondary_exit = rdmsr(msr::IA32_VMX_EXIT_CTLS2);
        }
        let caps = Capabilities::new(raw);
        if caps.allows(SecondaryControls::ENABLE_EPT) || caps.allows(SecondaryControls::ENABLE_VPID)
        {
            raw.ept_vpid = rdmsr(msr::IA32_VMX_EPT_VPID_CAP);
        }
        if caps.allows(SecondaryControls::ENABLE_VM_FUNCTIONS) {
            raw.vmfunc = rdmsr(msr::IA32_VMX_VMFUNC);
        }
        raw
    }
}

bitflags! {
    /// The single bits of IA32_VMX_BASIC (SDM vol. 3, Basic VMX Information).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Basic: u64 {
        /// VMX structures must lie below 4 GiB.
        const ADDRESSES_32_BIT = 1 << 48;
        /// The dual-monitor treatment of SMIs is there.
        const DUAL_MONITOR = 1 << 49;
        /// Exits by INS and OUTS fill the instruction-information field.
        const INS_OUTS_INFORMATION = 1 << 54;
        /// The default1 controls can be cleared where the TRUE MSRs say so.
        const TRUE_CONTROLS = 1 << 55;
        /// An exception can be injected with or without an error code, whatever its vector.
        const ANY_ERROR_CODE = 1 << 56;
        const _ = !0;
    }

    /// The single bits of IA32_VMX_MISC (SDM vol. 3, Miscellaneous Data).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Misc: u64 {
        /// An exit stores EFER.LMA into the "IA-32e mode guest" control.
        const STORES_LMA = 1 << 5;
        /// A guest can be entered in the HLT activity state.
        const HLT_STATE = 1 << 6;
        /// A guest can be entered in the shutdown activity state.
        const SHUTDOWN_STATE = 1 << 7;
        /// A guest can be entered in the wait-for-SIPI activity state.
        const WAIT_FOR_SIPI_STATE = 1 << 8;
        /// Processor Trace works in VMX operation.
        const PROCESSOR_TRACE = 1 << 14;
        /// VMWRITE takes read-only fields too.
        const VMWRITE_ALL = 1 << 29;
        /// Software events can be injected with an instruction length of 0.
        const ZERO_LENGTH_INJECTION = 1 << 30;
        const _ = !0;
    }

    /// IA32_VMX_EPT_VPID_CAP (SDM vol. 3, VPID and EPT Capabilities).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EptVpid: u64 {
        /// Entries may allow execution without reading.
        const EXECUTE_ONLY = 1 << 0;
        /// Four levels.
        const WALK_4 = 1 << 6;
        /// Five levels.
        const WALK_5 = 1 << 7;
        /// The paging structures may be uncacheable.
        const UNCACHEABLE = 1 << 8;
        /// The paging structures may be write-back.
        const WRITE_BACK = 1 << 14;
        /// 2 MiB pages.
        const PAGE_2M = 1 << 16;
        /// 1 GiB pages.
        const PAGE_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags.
        const ACCESSED_DIRTY = 1 << 21;
        /// EPT violations report the guest's own page rights.
        const ADVANCED_EXIT_INFORMATION = 1 << 22;
        /// Supervisor shadow-stack control.
        const SUPERVISOR_SHADOW_STACK = 1 << 23;
        /// INVEPT of one EPT.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT of all.
        const INVEPT_ALL = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID of one linear address.
        const INVVPID_ADDRESS = 1 << 40;
        /// INVVPID of one VPID.
        const INVVPID_SINGLE = 1 << 41;
        /// INVVPID of all.
        const INVVPID_ALL = 1 << 42;
        /// INVVPID of one VPID but for global translations.
        const INVVPID_SINGLE_NON_GLOBAL = 1 << 43;
        const _ = !0;
    }
}

/// Which bits of a word must be one and which may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Bits that cannot be zero.
    pub must_be_one: u64,
    /// Bits that can be one.
    pub may_be_one: u64,
}

impl Allowed {
    /// From a 32-bit capability MSR: allowed-0 settings below, allowed-1 settings above.
    const fn from_msr(value: u64) -> Self {
        Self {
            must_be_one: value & 0xffff_ffff,
            may_be_one: value >> 32,
        }
    }

    /// The bits of `word` that break a rule: ones that may not be, zeroes that must not be.
    pub const fn wrong_bits(self, word: u64) -> u64 {
        (word & !self.may_be_one) | (!word & self.must_be_one)
    }

    /// `word` with the fixed bits put right.
    pub const fn apply(self, word: u64) -> u64 {
        (word | self.must_be_one) & self.may_be_one
    }
}

/// One of the seven control words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manual's names")]
pub enum WordKind {
    Pin,
    Primary,
    Secondary,
    Tertiary,
    Exit,
    SecondaryExit,
    Entry,
}

impl WordKind {
    /// The manual's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin-based VM-execution controls",
            Self::Primary => "primary processor-based VM-execution controls",
            Self::Secondary => "secondary processor-based VM-execution controls",
            Self::Tertiary => "tertiary processor-based VM-execution controls",
            Self::Exit => "primary VM-exit controls",
            Self::SecondaryExit => "secondary VM-exit controls",
            Self::Entry => "VM-entry controls",
        }
    }
}

/// A control word that a capability MSR gates.
pub trait ControlWord: Flags + Copy {
    /// Which one.
    const KIND: WordKind;
    /// Its bits, widened.
    fn to_bits(self) -> u64;
    /// The word with these bits.
    fn of_bits(bits: u64) -> Self;
}

macro_rules! control_word {
    ($($word:ident = $kind:ident: $bits:ty;)*) => {
        $(impl ControlWord for $word {
            const KIND: WordKind = WordKind::$kind;

            fn to_bits(self) -> u64 {
                self.bits().into()
            }

            fn of_bits(bits: u64) -> Self {
                Self::from_bits_retain(bits as $bits)
            }
        })*

        /// Writes the names of the set bits of a control word, or their numbers where they have no name.
        fn write_names(f: &mut fmt::Formatter<'_>, kind: WordKind, bits: u64) -> fmt::Result {
            match kind {
                $(WordKind::$kind => write_set(f, $word::of_bits(bits)),)*
            }
        }
    };
}

control_word! {
    PinControls = Pin: u32;
    PrimaryControls = Primary: u32;
    SecondaryControls = Secondary: u32;
    TertiaryControls = Tertiary: u64;
    ExitControls = Exit: u32;
    SecondaryExitControls = SecondaryExit: u64;
    EntryControls = Entry: u32;
}

fn write_set<W: ControlWord>(f: &mut fmt::Formatter<'_>, word: W) -> fmt::Result {
    let mut unnamed = word.to_bits();
    let mut comma = "";
    for (name, flag) in word.iter_names() {
        write!(f, "{comma}{name}")?;
        unnamed &= !flag.to_bits();
        comma = ", ";
    }
    if unnamed != 0 {
        write!(f, "{comma}bits {unnamed:#x}")?;
    }
    Ok(())
}

/// Bits of a control word under their names, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlNames {
    /// Which word.
    pub word: WordKind,
    /// Its bits.
    pub bits: u64,
}

impl fmt::Display for ControlNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.word, self.bits)
    }
}

/// Required controls that the capability MSR does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MissingControls(pub ControlNames);

impl fmt::Display for MissingControls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this processor's VMX lacks {} in its {}",
            self.0,
            self.0.word.name()
        )
    }
}

impl core::error::Error for MissingControls {}

/// How many bits of an address this processor has (CPUID.80000008H:EAX).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressWidths {
    /// MAXPHYADDR.
    pub physical: u8,
    /// Bits of a linear address.
    pub linear: u8,
}

/// The decoded capabilities of this processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    raw: RawCapabilities,
    widths: AddressWidths,
}

impl Capabilities {
    /// Of these MSR values, with the widest addresses that the format of page tables has room for.
    pub const fn new(raw: RawCapabilities) -> Self {
        Self {
            raw,
            widths: AddressWidths {
                physical: 52,
                linear: 57,
            },
        }
    }

    /// The same with this processor's own address widths, which only the checks in
    /// [`entry_checks`](crate::entry_checks) and [`ept`](crate::ept) ask for.
    #[must_use]
    pub const fn with_address_widths(self, widths: AddressWidths) -> Self {
        Self { widths, ..self }
    }

    /// The address widths.
    pub const fn address_widths(&self) -> AddressWidths {
        self.widths
    }

    /// The MSR values, for the log and for comparing processors.
    pub const fn raw(&self) -> &RawCapabilities {
        &self.raw
    }

    /// What the capability MSR of a control word allows.
    pub const fn allowed(&self, word: WordKind) -> Allowed {
        let raw = &self.raw;
        let exact = self.basic().contains(Basic::TRUE_CONTROLS);
        match word {
            WordKind::Pin => Allowed::from_msr(if exact { raw.true_pin } else { raw.pin }),
            WordKind::Primary => {
                Allowed::from_msr(if exact { raw.true_primary } else { raw.primary })
            }
            WordKind::Exit => Allowed::from_msr(if exact { raw.true_exit } else { raw.exit }),
            WordKind::Entry => Allowed::from_msr(if exact { raw.true_entry } else { raw.entry }),
            WordKind::Secondary => Allowed::from_msr(raw.secondary),
            WordKind::Tertiary => Allowed {
                must_be_one: 0,
                may_be_one: raw.tertiary,
            },
            WordKind::SecondaryExit => Allowed {
                must_be_one: 0,
                may_be_one: raw.secondary_exit,
            },
        }
    }

    /// Whether all these controls may be one.
    pub fn allows<W: ControlWord>(&self, controls: W) -> bool {
        controls.to_bits() & !self.allowed(W::KIND).may_be_one == 0
    }

    /// The control word with all of `required`, those of `optional` that this processor has, and what it
    /// insists on.
    ///
    /// # Errors
    /// [`MissingControls`] names the required ones that it lacks.
    pub fn adjust<W: ControlWord>(&self, required: W, optional: W) -> Result<W, MissingControls> {
        let allowed = self.allowed(W::KIND);
        let missing = required.to_bits() & !allowed.may_be_one;
        if missing != 0 {
            return Err(MissingControls(ControlNames {
                word: W::KIND,
                bits: missing,
            }));
        }
        let wanted = required.to_bits() | (optional.to_bits() & allowed.may_be_one);
        Ok(W::of_bits(wanted | allowed.must_be_one))
    }

    /// The single bits of IA32_VMX_BASIC.
    pub const fn basic(&self) -> Basic {
        Basic::from_bits_retain(self.raw.basic)
    }

    /// The revision identifier that heads the VMXON region and every VMCS region.
    pub const fn revision(&self) -> u32 {
        self.raw.basic as u32 & 0x7fff_ffff
    }

    /// Bytes of the VMXON region and of a VMCS region, at most 4096.
    pub const fn region_bytes(&self) -> u32 {
        (self.raw.basic >> 32) as u32 & 0x1fff
    }

    /// The single bits of IA32_VMX_MISC.
    pub const fn misc(&self) -> Misc {
        Misc::from_bits_retain(self.raw.misc)
    }

    /// The VMX-preemption timer counts down once every 2 to this power TSC ticks.
    pub const fn preemption_timer_shift(&self) -> u32 {
        (self.raw.misc & 0x1f) as u32
    }

    /// The largest CR3-target count.
    pub const fn cr3_targets(&self) -> u32 {
        (self.raw.misc >> 16) as u32 & 0x1ff
    }

    /// The recommended longest MSR-load and MSR-store lists.
    pub const fn msr_list_length(&self) -> u32 {
        512 * (((self.raw.misc >> 25) as u32 & 7) + 1)
    }

    /// IA32_VMX_EPT_VPID_CAP.
    pub const fn ept_vpid(&self) -> EptVpid {
        EptVpid::from_bits_retain(self.raw.ept_vpid)
    }

    /// The VM functions that may be enabled, as IA32_VMX_VMFUNC says.
    pub const fn vm_functions(&self) -> u64 {
        self.raw.vmfunc
    }

    /// What CR0 must and may be in VMX operation.
    pub const fn cr0(&self) -> Allowed {
        Allowed {
            must_be_one: self.raw.cr0_fixed0,
            may_be_one: self.raw.cr0_fixed1,
        }
    }

    /// What CR0 must and may be in an unrestricted guest, which may clear PE and PG.
    pub const fn unrestricted_cr0(&self) -> Allowed {
        let free = Cr0::PE.union(Cr0::PG).bits();
        Allowed {
            must_be_one: self.raw.cr0_fixed0 & !free,
            may_be_one: self.raw.cr0_fixed1,
        }
    }

    /// What CR4 must and may be in VMX operation.
    pub const fn cr4(&self) -> Allowed {
        Allowed {
            must_be_one: self.raw.cr4_fixed0,
            may_be_one: self.raw.cr4_fixed1,
        }
    }

    /// What a guest's CR4 holds whatever it thinks: what VMX insists on, and machine-check exceptions where the host has
    /// them. Without those a machine check that meets the guest would shut the processor down instead of exiting (SDM
    /// vol. 3, Control Registers: CR4.MCE).
    pub const fn guest_cr4_ones(&self, host: Cr4) -> Cr4 {
        let fixed = Cr4::from_bits_retain(self.cr4().must_be_one);
        fixed.union(host.intersection(Cr4::MCE))
    }

    /// The host's CR0 with the fixed bits put right for VMXON.
    pub const fn host_cr0(&self, cr0: Cr0) -> Cr0 {
        Cr0::from_bits_retain(self.cr0().apply(cr0.bits()))
    }

    /// The host's CR4 with the fixed bits put right for VMXON.
    pub const fn host_cr4(&self, cr4: Cr4) -> Cr4 {
        Cr4::from_bits_retain(self.cr4().apply(cr4.bits()))
    }
}

#[cfg(test)]
mod tests;
