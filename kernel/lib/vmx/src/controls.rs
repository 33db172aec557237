//! The control words of the VMCS as flags under the manual's names.
//!
//! A word for the VMCS is made by [`Capabilities::adjust`](crate::Capabilities::adjust) alone, which knows
//! the capability MSR of each. Names: SDM vol. 3, VM-Execution Control Fields, VM-Exit Control Fields and
//! VM-Entry Control Fields.

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls; gated by IA32_VMX_(TRUE_)PINBASED_CTLS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PinControls: u32 {
        /// External interrupts exit.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// NMIs exit.
        const NMI_EXITING = 1 << 3;
        /// The guest has NMI blocking of its own.
        const VIRTUAL_NMIS = 1 << 5;
        /// The VMX-preemption timer counts down in the guest.
        const ACTIVATE_PREEMPTION_TIMER = 1 << 6;
        /// Posted interrupts are delivered without an exit.
        const PROCESS_POSTED_INTERRUPTS = 1 << 7;
        const _ = !0;
    }

    /// Primary processor-based VM-execution controls; gated by IA32_VMX_(TRUE_)PROCBASED_CTLS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PrimaryControls: u32 {
        /// Exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// Add the TSC offset to what the guest reads.
        const USE_TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT_EXITING = 1 << 7;
        /// INVLPG (and INVPCID) exits.
        const INVLPG_EXITING = 1 << 9;
        /// MWAIT exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC exits.
        const RDPMC_EXITING = 1 << 11;
        /// RDTSC (and RDTSCP) exits.
        const RDTSC_EXITING = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD_EXITING = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE_EXITING = 1 << 16;
        /// The tertiary controls count.
        const ACTIVATE_TERTIARY_CONTROLS = 1 << 17;
        /// MOV to CR8 exits.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// CR8 is that of the virtual-APIC page.
        const USE_TPR_SHADOW = 1 << 21;
        /// Exit as soon as the guest can take an NMI.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV to and from debug registers exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every port access exits.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// The I/O bitmaps say which port accesses exit.
        const USE_IO_BITMAPS = 1 << 25;
        /// Exit after one instruction.
        const MONITOR_TRAP_FLAG = 1 << 27;
        /// The MSR bitmaps say which RDMSR and WRMSR exit.
        const USE_MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR_EXITING = 1 << 29;
        /// PAUSE exits.
        const PAUSE_EXITING = 1 << 30;
        /// The secondary controls count.
        const ACTIVATE_SECONDARY_CONTROLS = 1 << 31;
        const _ = !0;
    }

    /// Secondary processor-based VM-execution controls; gated by IA32_VMX_PROCBASED_CTLS2.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SecondaryControls: u32 {
        /// Accesses to the APIC-access page are virtualised.
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        /// Guest-physical addresses go through EPT.
        const ENABLE_EPT = 1 << 1;
        /// LGDT, SGDT, LIDT, SIDT, LLDT, SLDT, LTR and STR exit.
        const DESCRIPTOR_TABLE_EXITING = 1 << 2;
        /// RDTSCP is there (and RDPID).
        const ENABLE_RDTSCP = 1 << 3;
        /// RDMSR and WRMSR of x2APIC MSRs are virtualised.
        const VIRTUALIZE_X2APIC_MODE = 1 << 4;
        /// Translations are tagged with the VPID.
        const ENABLE_VPID = 1 << 5;
        /// WBINVD (and WBNOINVD) exits.
        const WBINVD_EXITING = 1 << 6;
        /// The guest may run unpaged and in real mode.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// Most APIC registers read and write without an exit.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Pending virtual interrupts are evaluated and delivered without an exit.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// A loop of PAUSEs exits.
        const PAUSE_LOOP_EXITING = 1 << 10;
        /// RDRAND exits.
        const RDRAND_EXITING = 1 << 11;
        /// INVPCID is there.
        const ENABLE_INVPCID = 1 << 12;
        /// VMFUNC is there.
        const ENABLE_VM_FUNCTIONS = 1 << 13;
        /// VMREAD and VMWRITE of the guest may reach a shadow VMCS.
        const VMCS_SHADOWING = 1 << 14;
        /// ENCLS goes by its exiting bitmap.
        const ENABLE_ENCLS_EXITING = 1 << 15;
        /// RDSEED exits.
        const RDSEED_EXITING = 1 << 16;
        /// Pages whose EPT dirty flag becomes set are logged.
        const ENABLE_PML = 1 << 17;
        /// Some EPT violations are #VE to the guest.
        const EPT_VIOLATION_VE = 1 << 18;
        /// Processor Trace does not show VMX transitions.
        const CONCEAL_VMX_FROM_PT = 1 << 19;
        /// XSAVES and XRSTORS are there.
        const ENABLE_XSAVES = 1 << 20;
        /// ENQCMD translates PASIDs.
        const PASID_TRANSLATION = 1 << 21;
        /// EPT has execute rights for user and supervisor addresses apart.
        const MODE_BASED_EXECUTE_CONTROL = 1 << 22;
        /// EPT may allow writes by 128-byte sub-page.
        const SUB_PAGE_WRITE_PERMISSIONS = 1 << 23;
        /// Processor Trace output addresses are guest-physical.
        const PT_USES_GUEST_PHYSICAL = 1 << 24;
        /// RDTSC multiplies by the TSC multiplier.
        const USE_TSC_SCALING = 1 << 25;
        /// TPAUSE, UMONITOR and UMWAIT are there.
        const ENABLE_USER_WAIT_AND_PAUSE = 1 << 26;
        /// PCONFIG is there.
        const ENABLE_PCONFIG = 1 << 27;
        /// ENCLV goes by its exiting bitmap.
        const ENABLE_ENCLV_EXITING = 1 << 28;
        /// A bus lock exits.
        const BUS_LOCK_DETECTION = 1 << 30;
        /// A guest that opens no instruction boundary for too long exits.
        const INSTRUCTION_TIMEOUT = 1 << 31;
        const _ = !0;
    }

    /// Tertiary processor-based VM-execution controls; gated by IA32_VMX_PROCBASED_CTLS3.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct TertiaryControls: u64 {
        /// LOADIWKEY exits.
        const LOADIWKEY_EXITING = 1 << 0;
        /// Hypervisor-managed linear-address translation.
        const ENABLE_HLAT = 1 << 1;
        /// EPT has a right of its own for writes by page walks.
        const EPT_PAGING_WRITE_CONTROL = 1 << 2;
        /// Guest-paging verification.
        const GUEST_PAGING_VERIFICATION = 1 << 3;
        /// ICR writes send posted interrupts without an exit.
        const IPI_VIRTUALIZATION = 1 << 4;
        /// RDMSR and WRMSR of IA32_SPEC_CTRL go by mask and shadow.
        const VIRTUALIZE_SPEC_CTRL = 1 << 7;
        const _ = !0;
    }

    /// Primary VM-exit controls; gated by IA32_VMX_(TRUE_)EXIT_CTLS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        /// The host runs in 64-bit mode.
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 12;
        /// An external interrupt that exits is acknowledged, and its vector reported.
        const ACKNOWLEDGE_INTERRUPT_ON_EXIT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// What is left of the VMX-preemption timer is saved.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        /// IA32_BNDCFGS is cleared.
        const CLEAR_BNDCFGS = 1 << 23;
        /// Processor Trace does not show the exit.
        const CONCEAL_VMX_FROM_PT = 1 << 24;
        /// IA32_RTIT_CTL is cleared.
        const CLEAR_RTIT_CTL = 1 << 25;
        /// IA32_LBR_CTL is cleared.
        const CLEAR_LBR_CTL = 1 << 26;
        /// UINV is cleared.
        const CLEAR_UINV = 1 << 27;
        /// The CET state is loaded.
        const LOAD_CET_STATE = 1 << 28;
        /// IA32_PKRS is loaded.
        const LOAD_PKRS = 1 << 29;
        /// IA32_PERF_GLOBAL_CTRL is saved.
        const SAVE_PERF_GLOBAL_CTRL = 1 << 30;
        /// The secondary VM-exit controls count.
        const ACTIVATE_SECONDARY_CONTROLS = 1 << 31;
        const _ = !0;
    }

    /// Secondary VM-exit controls; gated by IA32_VMX_EXIT_CTLS2.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SecondaryExitControls: u64 {
        /// The FRED MSRs are saved.
        const SAVE_FRED = 1 << 0;
        /// The FRED MSRs are loaded.
        const LOAD_FRED = 1 << 1;
        /// Exits report a shadow stack left prematurely busy.
        const PREMATURELY_BUSY_SHADOW_STACK = 1 << 3;
        const _ = !0;
    }

    /// VM-entry controls; gated by IA32_VMX_(TRUE_)ENTRY_CTLS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        /// The guest is in IA-32e mode after the entry.
        const IA32E_MODE_GUEST = 1 << 9;
        /// The guest is in SMM after the entry.
        const ENTRY_TO_SMM = 1 << 10;
        /// The default treatment of SMIs is in force after the entry.
        const DEACTIVATE_DUAL_MONITOR = 1 << 11;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 13;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
        /// IA32_BNDCFGS is loaded.
        const LOAD_BNDCFGS = 1 << 16;
        /// Processor Trace does not show the entry.
        const CONCEAL_VMX_FROM_PT = 1 << 17;
        /// IA32_RTIT_CTL is loaded.
        const LOAD_RTIT_CTL = 1 << 18;
        /// UINV is loaded.
        const LOAD_UINV = 1 << 19;
        /// The CET state is loaded.
        const LOAD_CET_STATE = 1 << 20;
        /// IA32_LBR_CTL is loaded.
        const LOAD_LBR_CTL = 1 << 21;
        /// IA32_PKRS is loaded.
        const LOAD_PKRS = 1 << 22;
        /// The FRED MSRs are loaded.
        const LOAD_FRED = 1 << 23;
        const _ = !0;
    }
}
