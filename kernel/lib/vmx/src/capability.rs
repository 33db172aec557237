//! What this processor's VMX can do: the capability MSRs, decoded, and the one way to a control word.
//!
//! [`RawCapabilities`] are the MSR values, [`Capabilities`] answers questions about them, and
//! [`Capabilities::adjust`] makes a control word of what is wanted and what the MSRs allow. The table of all
//! features that matter to Plinth is in [`features`](crate::features). SDM vol. 3, VMX Capability Reporting
//! Facility.

mod msrs;
mod word;

use core::fmt;

use arch::{Cr0, Cr4};

pub use self::msrs::{Basic, EptVpid, Misc, RawCapabilities};
pub use self::word::{ControlNames, ControlWord, WordKind};

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
