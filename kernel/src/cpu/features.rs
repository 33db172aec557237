//! What the processor must have for anything to work at all, and what to say when it lacks it.
//!
//! The finer requirements of VMX (EPT, unrestricted guest ...) are the backend's.

use core::arch::x86_64::__cpuid_count;
use core::fmt;

use arch::cpuid::{CpuidLeaf, CpuidResult};
use raw_cpuid::{CpuId, CpuIdReaderNative};

/// Why this machine cannot run guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Missing {
    /// The processor is not made for VT-x.
    Vmx,
    /// The processor has AMD's virtualisation instead.
    Svm,
    /// The processor has no local APIC, or the firmware has hidden it.
    LocalApic,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmx => f.write_str(
                "VT-x is missing: this processor does not offer Intel's virtualisation extension. Use a machine with an Intel \
                 processor that has VT-x and switch it on in the firmware's set-up; under QEMU use KVM with nested VMX \
                 (-enable-kvm -cpu host,migratable=no,+vmx,+invtsc), or run Plinth in Bochs (cargo xtask run --engine bochs)",
            ),
            Self::Svm => f.write_str(
                "VT-x is missing: this is an AMD processor, whose virtualisation extension (SVM) Plinth does not use. Use a \
                 machine with an Intel processor that has VT-x, or run Plinth in Bochs (cargo xtask run --engine bochs)",
            ),
            Self::LocalApic => f.write_str(
                "the local APIC is missing: Plinth needs it for timers and for the other processors. Switch it on in the \
                 firmware's set-up",
            ),
        }
    }
}

/// Checks this CPU.
///
/// # Errors
/// The first thing that is missing.
pub(crate) fn check() -> Result<(), Missing> {
    let cpuid = CpuId::with_cpuid_reader(CpuIdReaderNative);
    let basic = cpuid.get_feature_info();
    if !basic.as_ref().is_some_and(|features| features.has_vmx()) {
        let svm = cpuid
            .get_extended_processor_and_feature_identifiers()
            .is_some_and(|features| features.has_svm());
        return Err(if svm { Missing::Svm } else { Missing::Vmx });
    }
    if !basic.is_some_and(|features| features.has_apic()) {
        return Err(Missing::LocalApic);
    }
    Ok(())
}

/// Bytes of PKRU in an XSAVE area.
const PKRU_BYTES: u32 = 8;

/// CPUID of the CPU that this runs on, with what it does not say about itself: where XSAVE puts PKRU.
pub(crate) fn cpuid(leaf: u32, subleaf: u32, pkru_offset: Option<u32>) -> CpuidResult {
    let mut found = __cpuid_count(leaf, subleaf);
    if let (CpuidLeaf::XSAVE, 9, Some(offset)) = (leaf, subleaf, pkru_offset) {
        (found.eax, found.ebx) = (PKRU_BYTES, offset);
    }
    CpuidResult {
        eax: found.eax,
        ebx: found.ebx,
        ecx: found.ecx,
        edx: found.edx,
    }
}

/// Says which processor this is.
pub(crate) fn report() {
    let cpuid = CpuId::with_cpuid_reader(CpuIdReaderNative);
    if let Some(brand) = cpuid.get_processor_brand_string() {
        log::info!(target: "cpu", "{}", brand.as_str().trim());
    }
    let invariant = cpuid
        .get_advanced_power_mgmt_info()
        .is_some_and(|features| features.has_invariant_tsc());
    if !invariant {
        log::debug!(target: "cpu", "the TSC is not said to be invariant: time may drift with the processor's power states");
    }
}

/// Whether this machine is itself emulated or virtual, so that nobody looks at its screen and its end is
/// watched.
pub(crate) fn is_emulated() -> bool {
    let hypervisor = CpuId::with_cpuid_reader(CpuIdReaderNative)
        .get_feature_info()
        .is_some_and(|features| features.has_hypervisor());
    // Bochs does not set the bit; its debug port, where it is switched on, reads as its own number.
    // SAFETY: reading this port has no effect on any PC.
    hypervisor || unsafe { x86_64::instructions::port::Port::<u8>::new(0xe9).read() } == 0xe9
}
