//! [`RawCapabilities`]: the capability MSRs as they are read, and the bits of those that are flags.

use arch::msr;
use bitflags::bitflags;

use super::Capabilities;
use crate::controls::{ExitControls, PrimaryControls, SecondaryControls};

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
