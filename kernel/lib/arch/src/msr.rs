//! Model-specific registers by their architectural names (SDM vol. 4, Architectural MSRs).

macro_rules! msrs {
    ($($(#[$doc:meta])* $name:ident = $index:expr;)*) => {
        $($(#[$doc])* pub const $name: u32 = $index;)*

        /// The architectural name of the MSR, for messages, where this module knows it.
        pub const fn name(index: u32) -> Option<&'static str> {
            match index {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

msrs! {
    /// Machine-check address, a legacy pair with the type below.
    IA32_P5_MC_ADDR = 0x0;
    /// Machine-check type.
    IA32_P5_MC_TYPE = 0x1;
    /// Time-stamp counter.
    IA32_TIME_STAMP_COUNTER = 0x10;
    /// Platform identification (microcode slot).
    IA32_PLATFORM_ID = 0x17;
    /// Base address and mode of the local APIC.
    IA32_APIC_BASE = 0x1b;
    /// Which VMX and SMX uses the firmware allows, and the lock.
    IA32_FEATURE_CONTROL = 0x3a;
    /// Per-CPU adjustment of the TSC; CPUID.7.EBX\[1\].
    IA32_TSC_ADJUST = 0x3b;
    /// Speculation controls; CPUID.7.EDX\[26\], \[27\], \[31\].
    IA32_SPEC_CTRL = 0x48;
    /// Prediction commands (write only); CPUID.7.EDX\[26\].
    IA32_PRED_CMD = 0x49;
    /// Microcode revision.
    IA32_BIOS_SIGN_ID = 0x8b;
    /// Memory-type range registers: capability; CPUID.1.EDX\[12\].
    IA32_MTRRCAP = 0xfe;
    /// Architectural capabilities; CPUID.7.EDX\[29\].
    IA32_ARCH_CAPABILITIES = 0x10a;
    /// Flush commands (write only); CPUID.7.EDX\[28\].
    IA32_FLUSH_CMD = 0x10b;
    /// SYSENTER code segment.
    IA32_SYSENTER_CS = 0x174;
    /// SYSENTER stack pointer.
    IA32_SYSENTER_ESP = 0x175;
    /// SYSENTER entry point.
    IA32_SYSENTER_EIP = 0x176;
    /// Machine-check capability; CPUID.1.EDX\[14\].
    IA32_MCG_CAP = 0x179;
    /// Machine-check status.
    IA32_MCG_STATUS = 0x17a;
    /// Machine-check control.
    IA32_MCG_CTL = 0x17b;
    /// Miscellaneous features: fast strings, MONITOR, CPUID limit.
    IA32_MISC_ENABLE = 0x1a0;
    /// Debug controls: LBR, BTF.
    IA32_DEBUGCTL = 0x1d9;
    /// First of the variable-range MTRRs (base, mask pairs).
    IA32_MTRR_PHYSBASE0 = 0x200;
    /// Fixed-range MTRR of 0 to 512 KiB.
    IA32_MTRR_FIX64K_00000 = 0x250;
    /// Fixed-range MTRR of 512 to 640 KiB.
    IA32_MTRR_FIX16K_80000 = 0x258;
    /// Fixed-range MTRR of 640 to 768 KiB.
    IA32_MTRR_FIX16K_A0000 = 0x259;
    /// First of the fixed-range MTRRs in 4 KiB units.
    IA32_MTRR_FIX4K_C0000 = 0x268;
    /// Last of the fixed-range MTRRs in 4 KiB units.
    IA32_MTRR_FIX4K_F8000 = 0x26f;
    /// Page attribute table; CPUID.1.EDX\[16\].
    IA32_PAT = 0x277;
    /// Default memory type, MTRR enable.
    IA32_MTRR_DEF_TYPE = 0x2ff;
    /// Performance-monitoring global control; CPUID.0AH.
    IA32_PERF_GLOBAL_CTRL = 0x38f;
    /// Control of the first machine-check bank; status, address and more follow, then the next bank.
    IA32_MC0_CTL = 0x400;
    /// Basic VMX information.
    IA32_VMX_BASIC = 0x480;
    /// Allowed pin-based controls.
    IA32_VMX_PINBASED_CTLS = 0x481;
    /// Allowed primary processor-based controls.
    IA32_VMX_PROCBASED_CTLS = 0x482;
    /// Allowed VM-exit controls.
    IA32_VMX_EXIT_CTLS = 0x483;
    /// Allowed VM-entry controls.
    IA32_VMX_ENTRY_CTLS = 0x484;
    /// Miscellaneous VMX data.
    IA32_VMX_MISC = 0x485;
    /// CR0 bits that must be one in VMX operation.
    IA32_VMX_CR0_FIXED0 = 0x486;
    /// CR0 bits that may be one in VMX operation.
    IA32_VMX_CR0_FIXED1 = 0x487;
    /// CR4 bits that must be one in VMX operation.
    IA32_VMX_CR4_FIXED0 = 0x488;
    /// CR4 bits that may be one in VMX operation.
    IA32_VMX_CR4_FIXED1 = 0x489;
    /// Allowed secondary processor-based controls.
    IA32_VMX_PROCBASED_CTLS2 = 0x48b;
    /// EPT and VPID capabilities.
    IA32_VMX_EPT_VPID_CAP = 0x48c;
    /// Allowed pin-based controls, true form.
    IA32_VMX_TRUE_PINBASED_CTLS = 0x48d;
    /// Allowed primary processor-based controls, true form.
    IA32_VMX_TRUE_PROCBASED_CTLS = 0x48e;
    /// Allowed VM-exit controls, true form.
    IA32_VMX_TRUE_EXIT_CTLS = 0x48f;
    /// Allowed VM-entry controls, true form.
    IA32_VMX_TRUE_ENTRY_CTLS = 0x490;
    /// Allowed VM functions.
    IA32_VMX_VMFUNC = 0x491;
    /// Allowed tertiary processor-based controls.
    IA32_VMX_PROCBASED_CTLS3 = 0x492;
    /// Allowed secondary VM-exit controls.
    IA32_VMX_EXIT_CTLS2 = 0x493;
    /// TSC-deadline of the local APIC timer; CPUID.1.ECX\[24\].
    IA32_TSC_DEADLINE = 0x6e0;
    /// First of the x2APIC registers; CPUID.1.ECX\[21\].
    IA32_X2APIC_FIRST = 0x800;
    /// Last of the x2APIC registers.
    IA32_X2APIC_LAST = 0x8ff;
    /// Extended supervisor states; CPUID.(0DH,1).EAX\[3\].
    IA32_XSS = 0xda0;
    /// Extended features: SYSCALL, long mode, NX.
    IA32_EFER = 0xc000_0080;
    /// SYSCALL selectors and the 32-bit entry.
    IA32_STAR = 0xc000_0081;
    /// SYSCALL entry in 64-bit mode.
    IA32_LSTAR = 0xc000_0082;
    /// SYSCALL entry in compatibility mode (kept, not used, by Intel's processors).
    IA32_CSTAR = 0xc000_0083;
    /// SYSCALL flag mask.
    IA32_FMASK = 0xc000_0084;
    /// Base of FS.
    IA32_FS_BASE = 0xc000_0100;
    /// Base of GS.
    IA32_GS_BASE = 0xc000_0101;
    /// The GS base that SWAPGS exchanges.
    IA32_KERNEL_GS_BASE = 0xc000_0102;
    /// What RDTSCP and RDPID return beside the TSC; CPUID.80000001H.EDX\[27\].
    IA32_TSC_AUX = 0xc000_0103;
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_known_msr_has_the_manuals_name() {
        assert_eq!(super::name(0xc000_0080), Some("IA32_EFER"));
        assert_eq!(super::name(0xdead_beef), None);
    }
}
