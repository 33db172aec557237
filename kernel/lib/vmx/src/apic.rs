//! APIC virtualisation: which controls make up which level, and the structures that the processor reads.
//!
//! SDM vol. 3, APIC Virtualization and Virtual Interrupts. Interrupts from other CPUs are in `posted.rs`.

use core::fmt;

use machine::devices::lapic::{self, Lapic};

use crate::bitmap::{Intercept, MsrAccess, MsrBitmap};
use crate::controls::{PrimaryControls, SecondaryControls};
use crate::features::{Feature, Features};

/// How much of a guest's local APIC the processor does itself; each level includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ApicLevel {
    /// Nothing: CR8 exits too.
    None,
    /// The task priority.
    TaskPriority,
    /// Reads of registers, EOI, self-IPI and the delivery of pending interrupts as well; other writes exit after
    /// the fact. Register virtualisation alone is no level: nobody would keep the PPR up to date.
    Delivery,
}

impl fmt::Display for ApicLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "software",
            Self::TaskPriority => "software, the task priority by the processor",
            Self::Delivery => "by the processor",
        })
    }
}

/// How a guest reaches its local APIC, as far as a processor can help.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ApicMode {
    /// Nowhere, since it is disabled; or at an address of its own choice, where software answers.
    Elsewhere,
    /// By registers in memory, where they are after reset: there lies the APIC-access page.
    Xapic,
    /// By registers as MSRs.
    X2apic,
}

impl ApicMode {
    /// The mode that IA32_APIC_BASE selects now.
    pub fn of(lapic: &Lapic) -> Self {
        match lapic.mode() {
            lapic::ApicMode::X2apic => Self::X2apic,
            lapic::ApicMode::Xapic if lapic.mmio_base() == Some(Lapic::DEFAULT_BASE) => Self::Xapic,
            lapic::ApicMode::Xapic | lapic::ApicMode::Disabled => Self::Elsewhere,
        }
    }
}

/// The MSRs of an x2APIC that the virtual-APIC page answers for, beside the bit vectors: ID, version, TPR, PPR
/// and SVR. Not the LDR, which reads 0 in Bochs 2.7, nor what counts or sends.
const READABLE: [u32; 5] = [0x802, 0x803, 0x808, 0x80a, 0x80f];
/// ISR, TMR and IRR.
const BIT_VECTORS: core::ops::Range<u32> = 0x810..0x828;
const TPR: u32 = 0x808;
const EOI: u32 = 0x80b;
const SELF_IPI: u32 = 0x83f;

impl ApicLevel {
    /// The highest level that this processor has.
    pub const fn best(features: &Features) -> Self {
        if !features.has(Feature::TprShadow) {
            Self::None
        } else if features.has(Feature::ApicRegisterVirtualization)
            && features.has(Feature::VirtualInterruptDelivery)
        {
            Self::Delivery
        } else {
            Self::TaskPriority
        }
    }

    /// The controls to be set for a guest with its APIC in this mode; all others that concern the APIC are to
    /// be clear. The entry checks want it so: x2APIC mode excludes the APIC-access page.
    pub const fn controls(
        self,
        mode: ApicMode,
        features: &Features,
    ) -> (PrimaryControls, SecondaryControls) {
        let cr8_exits = PrimaryControls::CR8_LOAD_EXITING.union(PrimaryControls::CR8_STORE_EXITING);
        let shadow = PrimaryControls::USE_TPR_SHADOW;
        let access = match mode {
            ApicMode::Xapic if features.has(Feature::VirtualizeApicAccesses) => {
                SecondaryControls::VIRTUALIZE_APIC_ACCESSES
            }
            ApicMode::X2apic if features.has(Feature::VirtualX2apic) => {
                SecondaryControls::VIRTUALIZE_X2APIC_MODE
            }
            // CR8 is a register of its own, and works whatever becomes of the others.
            _ if matches!(self, Self::None) => return (cr8_exits, SecondaryControls::empty()),
            _ => return (shadow, SecondaryControls::empty()),
        };
        match self {
            Self::None => (cr8_exits, SecondaryControls::empty()),
            Self::TaskPriority => (shadow, access),
            Self::Delivery => (
                shadow,
                access
                    .union(SecondaryControls::APIC_REGISTER_VIRTUALIZATION)
                    .union(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY),
            ),
        }
    }

    /// Lets those x2APIC MSRs pass that the processor then takes from the virtual-APIC page. Only for guests
    /// that run with [`VIRTUALIZE_X2APIC_MODE`](SecondaryControls::VIRTUALIZE_X2APIC_MODE): without it, they
    /// would reach the host's APIC.
    pub fn pass_x2apic(self, bitmap: &mut MsrBitmap) {
        // The MSRs of the x2APIC all have bits, so that setting one cannot fail.
        let mut pass = |msr, access| bitmap.set(msr, access, Intercept::Pass).unwrap_or(());
        if self >= Self::TaskPriority {
            pass(TPR, MsrAccess::Read);
            pass(TPR, MsrAccess::Write);
        }
        if self >= Self::Delivery {
            for msr in READABLE.into_iter().chain(BIT_VECTORS) {
                pass(msr, MsrAccess::Read);
            }
            pass(EOI, MsrAccess::Write);
            pass(SELF_IPI, MsrAccess::Write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Capabilities;
    use crate::testing::skylake;
    use std::vec::Vec;

    fn features(change: impl FnOnce(&mut crate::RawCapabilities)) -> Features {
        let mut raw = skylake();
        change(&mut raw);
        Features::new(&Capabilities::new(raw))
    }

    #[test]
    fn the_level_is_what_the_processor_has_without_gaps() {
        assert_eq!(ApicLevel::best(&features(|_| {})), ApicLevel::Delivery);
        let without_delivery = features(|raw| raw.secondary &= !(1 << (32 + 9)));
        assert_eq!(ApicLevel::best(&without_delivery), ApicLevel::TaskPriority);
        let without_registers = features(|raw| raw.secondary &= !(1 << (32 + 8)));
        assert_eq!(ApicLevel::best(&without_registers), ApicLevel::TaskPriority);
        let without_shadow = features(|raw| raw.true_primary &= !(1 << (32 + 21)));
        assert_eq!(ApicLevel::best(&without_shadow), ApicLevel::None);
    }

    #[test]
    fn each_mode_has_the_controls_that_go_together() {
        let features = features(|_| {});
        let controls = |level: ApicLevel, mode| {
            let (primary, secondary) = level.controls(mode, &features);
            (primary.bits(), secondary.bits())
        };
        let (shadow, cr8) = (1 << 21, 1 << 19 | 1 << 20);
        for mode in [ApicMode::Elsewhere, ApicMode::Xapic, ApicMode::X2apic] {
            assert_eq!(controls(ApicLevel::None, mode), (cr8, 0));
        }
        assert_eq!(
            controls(ApicLevel::Delivery, ApicMode::Elsewhere),
            (shadow, 0)
        );
        assert_eq!(
            controls(ApicLevel::TaskPriority, ApicMode::Xapic),
            (shadow, 1)
        );
        assert_eq!(
            controls(ApicLevel::Delivery, ApicMode::Xapic),
            (shadow, 0x301)
        );
        assert_eq!(
            controls(ApicLevel::TaskPriority, ApicMode::X2apic),
            (shadow, 0x10)
        );
        assert_eq!(
            controls(ApicLevel::Delivery, ApicMode::X2apic),
            (shadow, 0x310)
        );
    }

    #[test]
    fn without_the_access_control_only_cr8_is_virtualised() {
        let features = features(|raw| raw.secondary &= !(1 << 32 | 1 << (32 + 4)));
        for mode in [ApicMode::Xapic, ApicMode::X2apic] {
            let (primary, secondary) = ApicLevel::Delivery.controls(mode, &features);
            assert_eq!((primary.bits(), secondary.bits()), (1 << 21, 0));
        }
    }

    #[test]
    fn x2apic_msrs_pass_only_as_far_as_the_level_serves_them() {
        let passing = |level: ApicLevel, access| -> Vec<u32> {
            let mut bitmap = MsrBitmap::ALL_EXIT;
            level.pass_x2apic(&mut bitmap);
            (0..0x2000)
                .filter(|&msr| bitmap.get(msr, access) == Intercept::Pass)
                .collect()
        };
        assert_eq!(passing(ApicLevel::None, MsrAccess::Read), []);
        assert_eq!(passing(ApicLevel::TaskPriority, MsrAccess::Read), [0x808]);
        assert_eq!(passing(ApicLevel::TaskPriority, MsrAccess::Write), [0x808]);
        assert_eq!(
            passing(ApicLevel::Delivery, MsrAccess::Write),
            [0x808, 0x80b, 0x83f]
        );
        let readable = passing(ApicLevel::Delivery, MsrAccess::Read);
        let expected: Vec<u32> = [0x802, 0x803, 0x808, 0x80a, 0x80f]
            .into_iter()
            .chain(0x810..0x828)
            .collect();
        assert_eq!(readable, expected);
        assert!(readable.into_iter().all(Lapic::reads_from_page));
    }

    #[test]
    fn an_apic_that_was_moved_is_none_that_the_hardware_finds() {
        use machine::devices::lapic::{LapicConfig, LapicFeatures, Role};
        let mut lapic = Lapic::new(LapicConfig {
            id: 0,
            role: Role::Bootstrap,
            features: LapicFeatures::all(),
            bus_hz: 1_000_000,
            physical_address_bits: 40,
        });
        let mut after = |base: u64| {
            let _ = lapic.write_base(base).unwrap();
            ApicMode::of(&lapic)
        };
        assert_eq!(after(0xfee0_0900), ApicMode::Xapic);
        assert_eq!(after(0xfed0_0900), ApicMode::Elsewhere);
        assert_eq!(after(0xfee0_0100), ApicMode::Elsewhere);
        assert_eq!(after(0xfee0_0900), ApicMode::Xapic);
        assert_eq!(after(0xfee0_0d00), ApicMode::X2apic);
    }
}
