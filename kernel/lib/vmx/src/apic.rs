//! APIC virtualisation: which controls make up which level, and the structures that the processor reads.
//!
//! SDM vol. 3, APIC Virtualization and Virtual Interrupts; Posted-Interrupt Processing.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use arch::Vector;
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

/// Whether the other CPU must be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use = "the guest does not see the interrupt before its CPU is notified"]
pub enum Notify {
    /// Send the notification vector.
    Send,
    /// A notification is on its way already, or is suppressed.
    NotNeeded,
}

/// A posted-interrupt descriptor, in the processor's layout. Any CPU posts; the one that runs the vCPU takes the
/// requests, or the processor does when the notification arrives. Not the mailbox of a local APIC in software,
/// which has more to tell than vectors.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PostedInterruptDescriptor {
    /// A bit for each vector that is requested.
    requests: [AtomicU64; 4],
    /// ON and SN in bits 0 and 1, the notification vector in bits 23:16, the APIC ID from bit 32 on.
    control: AtomicU64,
    /// Bits that software may use.
    available: [AtomicU64; 3],
}

const _: () = assert!(size_of::<PostedInterruptDescriptor>() == 64);

impl PostedInterruptDescriptor {
    const OUTSTANDING: u64 = 1 << 0;
    const SUPPRESSED: u64 = 1 << 1;

    /// Nothing requested, notifications suppressed.
    pub fn new() -> Self {
        Self {
            control: AtomicU64::new(Self::SUPPRESSED),
            ..Self::default()
        }
    }

    /// Requests an interrupt. The request is visible before the notification, as the manual wants.
    pub fn post(&self, vector: Vector) -> Notify {
        if let Some(word) = self.requests.get(usize::from(vector.0 / 64)) {
            word.fetch_or(1 << (vector.0 % 64), Ordering::SeqCst);
        }
        let told = self.control.fetch_or(Self::OUTSTANDING, Ordering::SeqCst);
        if told & (Self::OUTSTANDING | Self::SUPPRESSED) == 0 {
            Notify::Send
        } else {
            Notify::NotNeeded
        }
    }

    /// Says where notifications go from now on: the vCPU runs on the CPU with this APIC ID (in xAPIC mode the
    /// field wants it shifted left by 8). Whatever [`is_pending`](Self::is_pending) then was posted before and
    /// has notified nobody: it is to be taken before the entry.
    pub fn run_on(&self, apic_id: u32, notification: Vector) {
        let target = u64::from(apic_id) << 32 | u64::from(notification.0) << 16;
        self.set_target(target);
    }

    /// The vCPU runs nowhere: requests are kept, and nobody is notified.
    pub fn suspend(&self) {
        self.set_target(Self::SUPPRESSED);
    }

    /// Replaces all but ON, which belongs to those who post.
    fn set_target(&self, target: u64) {
        let mut old = self.control.load(Ordering::Relaxed);
        while let Err(current) = self.control.compare_exchange_weak(
            old,
            target | (old & Self::OUTSTANDING),
            Ordering::SeqCst,
            Ordering::Relaxed,
        ) {
            old = current;
        }
    }

    /// Takes all requests: the bits of vectors 0 to 63, and so on.
    pub fn take(&self) -> [u64; 4] {
        // ON first: a request that comes after it is cleared notifies again.
        self.control.fetch_and(!Self::OUTSTANDING, Ordering::SeqCst);
        self.requests
            .each_ref()
            .map(|word| word.swap(0, Ordering::SeqCst))
    }

    /// Whether something was posted since the last [`take`](Self::take).
    pub fn is_pending(&self) -> bool {
        self.control.load(Ordering::SeqCst) & Self::OUTSTANDING != 0
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

    #[test]
    fn only_the_first_post_to_a_running_vcpu_notifies() {
        let posted = PostedInterruptDescriptor::new();
        assert_eq!(
            posted.post(Vector(0x31)),
            Notify::NotNeeded,
            "it runs nowhere"
        );
        assert!(posted.is_pending());
        assert_eq!(posted.take(), [1 << 0x31, 0, 0, 0]);
        posted.run_on(3, Vector(0xf2));
        assert_eq!(posted.post(Vector(0x31)), Notify::Send);
        assert_eq!(posted.post(Vector(0xff)), Notify::NotNeeded);
        assert_eq!(posted.take(), [1 << 0x31, 0, 0, 1 << 63]);
        assert_eq!(posted.take(), [0; 4]);
        assert!(!posted.is_pending());
        posted.suspend();
        assert_eq!(posted.post(Vector(0x40)), Notify::NotNeeded);
    }

    #[test]
    fn the_descriptor_has_the_manuals_layout() {
        let posted = PostedInterruptDescriptor::new();
        posted.run_on(0x0102_0304, Vector(0xf2));
        let _ = posted.post(Vector(0x31));
        assert_eq!(
            posted.control.load(Ordering::Relaxed),
            0x0102_0304_00f2_0001
        );
        assert_eq!(
            core::mem::offset_of!(PostedInterruptDescriptor, control),
            32
        );
        posted.suspend();
        assert_eq!(
            posted.control.load(Ordering::Relaxed),
            3,
            "what is outstanding stays so"
        );
    }
}
