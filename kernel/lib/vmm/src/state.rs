//! What a vCPU has beyond the registers that the hardware keeps.

use machine::devices::lapic::{ApicMode, Lapic};

use crate::cpuid::CpuidTable;
use crate::emulate::Emulator;
use crate::mtrr::Mtrrs;
use crate::paravirt::Paravirt;
use crate::pending::Pending;

/// The state of one vCPU that the handlers own.
#[derive(Debug)]
pub struct VcpuState {
    /// What CPUID says to it.
    pub cpuid: CpuidTable,
    /// The MSRs that only software keeps.
    pub msrs: SoftMsrs,
    /// Its local APIC.
    pub lapic: Lapic,
    /// The events that it has yet to take.
    pub pending: Pending,
    /// What the emulator remembers.
    pub emulator: Emulator,
    /// A handler has done something that what the vCPU takes next depends on.
    pub unsettled: bool,
    /// What it has asked for as a guest that knows that it is one.
    pub paravirt: Paravirt,
}

/// MSRs whose value is kept here, because the hardware has no guest copy of them.
#[derive(Clone, Debug)]
pub struct SoftMsrs {
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// The memory-type range registers.
    pub mtrrs: Mtrrs,
    /// IA32_BIOS_SIGN_ID: the microcode revision in the upper half. Never changes.
    pub microcode: u64,
    /// IA32_PLATFORM_ID. Never changes.
    pub platform_id: u64,
    /// IA32_ARCH_CAPABILITIES. Never changes.
    pub arch_capabilities: u64,
}

impl VcpuState {
    /// A vCPU after reset that sees this CPUID.
    pub fn new(cpuid: CpuidTable, lapic: Lapic) -> Self {
        let msrs = SoftMsrs {
            tsc_adjust: 0,
            misc_enable: MISC_ENABLE_AT_RESET,
            mcg_status: 0,
            xss: 0,
            mtrrs: Mtrrs::default(),
            microcode: 0,
            platform_id: 0,
            arch_capabilities: 0,
        };
        Self {
            cpuid,
            msrs,
            lapic,
            pending: Pending::new(),
            emulator: Emulator::new(),
            unsettled: true,
            paravirt: Paravirt::default(),
        }
    }

    /// Whether IA32_APIC_BASE has the local APIC enabled.
    pub fn apic_enabled(&self) -> bool {
        self.lapic.mode() != ApicMode::Disabled
    }
}

/// Fast strings on; no branch trace store, no precise event sampling.
const MISC_ENABLE_AT_RESET: u64 = 1 | 1 << 11 | 1 << 12;
