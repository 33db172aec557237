//! The processor's own instructions as functions: ports, CPUID, control registers, MSRs.
//!
//! Those that may fault on a machine that lacks something come as `try_…` and return the [`Fault`].

use crate::exceptions::{Fault, probe};
use crate::x86;

/// CPUID.01H:ECX.
pub mod leaf1_ecx {
    /// VMX.
    pub const VMX: u32 = 1 << 5;
    /// MONITOR and MWAIT.
    pub const MONITOR: u32 = 1 << 3;
    /// PCID.
    pub const PCID: u32 = 1 << 17;
    /// x2APIC mode.
    pub const X2APIC: u32 = 1 << 21;
    /// TSC deadline mode of the APIC timer.
    pub const TSC_DEADLINE: u32 = 1 << 24;
    /// XSAVE, XRSTOR, XGETBV, XSETBV.
    pub const XSAVE: u32 = 1 << 26;
    /// The operating system's CR4.OSXSAVE, mirrored.
    pub const OSXSAVE: u32 = 1 << 27;
    /// AVX.
    pub const AVX: u32 = 1 << 28;
    /// RDRAND.
    pub const RDRAND: u32 = 1 << 30;
    /// A hypervisor is present.
    pub const HYPERVISOR: u32 = 1 << 31;
}

/// CPUID.01H:EDX.
pub mod leaf1_edx {
    /// Debugging extensions: CR4.DE.
    pub const DE: u32 = 1 << 2;
    /// Machine check architecture.
    pub const MCA: u32 = 1 << 14;
    /// MTRRs.
    pub const MTRR: u32 = 1 << 12;
    /// A local APIC.
    pub const APIC: u32 = 1 << 9;
    /// SYSENTER and SYSEXIT.
    pub const SEP: u32 = 1 << 11;
    /// Global pages.
    pub const PGE: u32 = 1 << 13;
    /// PAT.
    pub const PAT: u32 = 1 << 16;
}

/// CPUID.07H:EBX.
pub mod leaf7_ebx {
    /// RDFSBASE and its like.
    pub const FSGSBASE: u32 = 1 << 0;
    /// IA32_TSC_ADJUST.
    pub const TSC_ADJUST: u32 = 1 << 1;
    /// SMEP.
    pub const SMEP: u32 = 1 << 7;
    /// INVPCID.
    pub const INVPCID: u32 = 1 << 10;
    /// AVX-512 foundation.
    pub const AVX512F: u32 = 1 << 16;
    /// RDSEED.
    pub const RDSEED: u32 = 1 << 18;
    /// SMAP.
    pub const SMAP: u32 = 1 << 20;
}

/// CPUID.07H:ECX.
pub mod leaf7_ecx {
    /// UMIP.
    pub const UMIP: u32 = 1 << 2;
    /// Protection keys for user pages.
    pub const PKU: u32 = 1 << 3;
    /// Five levels of page tables.
    pub const LA57: u32 = 1 << 16;
    /// RDPID.
    pub const RDPID: u32 = 1 << 22;
}

/// CPUID.80000001H:EDX.
pub mod extended_edx {
    /// SYSCALL and SYSRET in 64-bit mode.
    pub const SYSCALL: u32 = 1 << 11;
    /// EFER.NXE and the XD bit of page-table entries.
    pub const NX: u32 = 1 << 20;
    /// 1 GiB pages.
    pub const PAGE_1G: u32 = 1 << 26;
    /// RDTSCP and IA32_TSC_AUX.
    pub const RDTSCP: u32 = 1 << 27;
    /// Long mode.
    pub const LONG_MODE: u32 = 1 << 29;
}

/// The bits of CR0.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type: reads as 1.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// The bits of CR4.
pub mod cr4 {
    /// Time stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check enable.
    pub const MCE: u64 = 1 << 6;
    /// Page global enable.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC at any privilege level.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// Unmasked SIMD exceptions raise #XM.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// Five-level paging.
    pub const LA57: u64 = 1 << 12;
    /// VMX.
    pub const VMXE: u64 = 1 << 13;
    /// RDFSBASE and its like.
    pub const FSGSBASE: u64 = 1 << 16;
    /// PCIDs.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE and extended states.
    pub const OSXSAVE: u64 = 1 << 18;
    /// SMEP.
    pub const SMEP: u64 = 1 << 20;
    /// SMAP.
    pub const SMAP: u64 = 1 << 21;
}

/// The MSRs that guests use, by the manuals' names.
pub mod msr {
    /// Time stamp counter.
    pub const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
    /// APIC base.
    pub const IA32_APIC_BASE: u32 = 0x1b;
    /// Feature control.
    pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
    /// TSC adjust.
    pub const IA32_TSC_ADJUST: u32 = 0x3b;
    /// MTRR capabilities.
    pub const IA32_MTRRCAP: u32 = 0xfe;
    /// SYSENTER: CS.
    pub const IA32_SYSENTER_CS: u32 = 0x174;
    /// SYSENTER: stack pointer.
    pub const IA32_SYSENTER_ESP: u32 = 0x175;
    /// SYSENTER: entry point.
    pub const IA32_SYSENTER_EIP: u32 = 0x176;
    /// Miscellaneous enables.
    pub const IA32_MISC_ENABLE: u32 = 0x1a0;
    /// The first variable-range MTRR: base.
    pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
    /// Page attribute table.
    pub const IA32_PAT: u32 = 0x277;
    /// Default memory type.
    pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
    /// Extended features.
    pub const IA32_EFER: u32 = 0xc000_0080;
    /// SYSCALL: selectors.
    pub const IA32_STAR: u32 = 0xc000_0081;
    /// SYSCALL: 64-bit entry point.
    pub const IA32_LSTAR: u32 = 0xc000_0082;
    /// SYSCALL: entry point in compatibility mode.
    pub const IA32_CSTAR: u32 = 0xc000_0083;
    /// SYSCALL: flag mask.
    pub const IA32_FMASK: u32 = 0xc000_0084;
    /// FS base.
    pub const IA32_FS_BASE: u32 = 0xc000_0100;
    /// GS base.
    pub const IA32_GS_BASE: u32 = 0xc000_0101;
    /// What SWAPGS exchanges the GS base with.
    pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
    /// RDTSCP's ECX.
    pub const IA32_TSC_AUX: u32 = 0xc000_0103;

    /// Those that take any canonical address.
    pub const OF_ADDRESSES: [u32; 7] = [
        IA32_SYSENTER_ESP,
        IA32_SYSENTER_EIP,
        IA32_LSTAR,
        IA32_CSTAR,
        IA32_FS_BASE,
        IA32_GS_BASE,
        IA32_KERNEL_GS_BASE,
    ];
}

/// The bits of IA32_EFER.
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
}

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpuid {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// CPUID with the given EAX and ECX.
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let (eax, ecx, edx): (u32, u32, u32);
    let ebx: u64;
    // RBX is the compiler's own, so it travels through another register.
    x86!(
        "xchg {rbx}, rbx", "cpuid", "xchg {rbx}, rbx",
        rbx = inout(reg) 0u64 => ebx,
        inout("eax") leaf => eax,
        inout("ecx") subleaf => ecx,
        out("edx") edx,
        options(nostack),
    );
    Cpuid {
        eax,
        ebx: ebx as u32,
        ecx,
        edx,
    }
}

/// CPUID leaf 7, or zeroes where it is above the highest basic leaf.
pub fn leaf7() -> Cpuid {
    if cpuid(0, 0).eax < 7 {
        Cpuid::default()
    } else {
        cpuid(7, 0)
    }
}

/// CPUID leaf 8000_0001H, or zeroes where there is none.
pub fn extended() -> Cpuid {
    if cpuid(0x8000_0000, 0).eax < 0x8000_0001 {
        Cpuid::default()
    } else {
        cpuid(0x8000_0001, 0)
    }
}

/// The signature of the hypervisor that CPUID leaf 4000_0000H shows, if one says that it is present.
pub fn hypervisor() -> Option<[u8; 12]> {
    if cpuid(1, 0).ecx & leaf1_ecx::HYPERVISOR == 0 {
        return None;
    }
    let leaf = cpuid(0x4000_0000, 0);
    let mut signature = [0; 12];
    for (bytes, register) in signature
        .chunks_exact_mut(4)
        .zip([leaf.ebx, leaf.ecx, leaf.edx])
    {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    Some(signature)
}

/// True under Plinth, by its signature at 4000_0000H or, behind another interface, up to 4000_FF00H.
pub fn is_plinth() -> bool {
    hypervisor().is_some()
        && (0x4000_0000u32..0x4001_0000)
            .step_by(0x100)
            .any(|base| cpuid(base, 0).ebx == u32::from_le_bytes(*b"Plin"))
}

/// The bits of a physical address (MAXPHYADDR).
pub fn physical_address_bits() -> u32 {
    if cpuid(0x8000_0000, 0).eax < 0x8000_0008 {
        36
    } else {
        cpuid(0x8000_0008, 0).eax & 0xff
    }
}

/// Reads an 8-bit port.
pub fn inb(port: u16) -> u8 {
    let value;
    x86!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    value
}

/// Reads a 16-bit port.
pub fn inw(port: u16) -> u16 {
    let value;
    x86!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags));
    value
}

/// Reads a 32-bit port.
pub fn inl(port: u16) -> u32 {
    let value;
    x86!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
    value
}

/// Writes an 8-bit port.
pub fn outb(port: u16, value: u8) {
    x86!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
}

/// Writes a 16-bit port.
pub fn outw(port: u16, value: u16) {
    x86!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags));
}

/// Writes a 32-bit port.
pub fn outl(port: u16, value: u32) {
    x86!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
}

macro_rules! register {
    ($name:literal, $read:ident, $write:ident, $try_write:ident) => {
        #[doc = concat!("Reads ", $name, ".")]
        pub fn $read() -> u64 {
            let value;
            x86!(concat!("mov {}, ", $name), out(reg) value, options(nostack, preserves_flags));
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        pub fn $write(value: u64) {
            x86!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }

        #[doc = concat!("Writes ", $name, ", or says how that faults.")]
        pub fn $try_write(value: u64) -> Result<(), Fault> {
            probe(|| $write(value))
        }
    };
}

register!("cr0", read_cr0, write_cr0, try_write_cr0);
register!("cr2", read_cr2, write_cr2, try_write_cr2);
register!("cr3", read_cr3, write_cr3, try_write_cr3);
register!("cr4", read_cr4, write_cr4, try_write_cr4);
register!("cr8", read_cr8, write_cr8, try_write_cr8);
register!("dr0", read_dr0, write_dr0, try_write_dr0);
register!("dr1", read_dr1, write_dr1, try_write_dr1);
register!("dr2", read_dr2, write_dr2, try_write_dr2);
register!("dr3", read_dr3, write_dr3, try_write_dr3);
register!("dr6", read_dr6, write_dr6, try_write_dr6);
register!("dr7", read_dr7, write_dr7, try_write_dr7);

/// RDMSR.
pub fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    x86!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags));
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
pub fn wrmsr(msr: u32, value: u64) {
    x86!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
}

/// RDMSR, or how it faults.
pub fn try_rdmsr(msr: u32) -> Result<u64, Fault> {
    let mut value = 0;
    probe(|| value = rdmsr(msr))?;
    Ok(value)
}

/// WRMSR, or how it faults.
pub fn try_wrmsr(msr: u32, value: u64) -> Result<(), Fault> {
    probe(|| wrmsr(msr, value))
}

/// XGETBV of XCR0. Needs CR4.OSXSAVE.
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    x86!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    u64::from(high) << 32 | u64::from(low)
}

/// XSETBV, or how it faults.
pub fn try_xsetbv(register: u32, value: u64) -> Result<(), Fault> {
    probe(|| {
        x86!("xsetbv", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    })
}

/// RDTSC.
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    x86!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    u64::from(high) << 32 | u64::from(low)
}

/// Turns on SSE, NX, and the XSAVE states x87, SSE, AVX and AVX-512 as far as CPUID shows them; the x87 unit
/// and MXCSR get the state that FNINIT defines and their reset value.
pub fn enable_extended_state() {
    write_cr4(read_cr4() | cr4::OSFXSR | cr4::OSXMMEXCPT);
    let mxcsr = 0x1f80u32;
    x86!("fninit", "ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack));
    if extended().edx & extended_edx::NX != 0 {
        wrmsr(msr::IA32_EFER, rdmsr(msr::IA32_EFER) | efer::NXE);
    }
    if cpuid(1, 0).ecx & leaf1_ecx::XSAVE != 0 {
        write_cr4(read_cr4() | cr4::OSXSAVE);
        let mut wanted = 0x3;
        let shown = cpuid(0xd, 0).eax;
        if shown & 0x4 != 0 {
            wanted |= 0x4;
            if shown & 0xe0 == 0xe0 {
                wanted |= 0xe0;
            }
        }
        x86!("xsetbv", in("ecx") 0, in("eax") wanted, in("edx") 0, options(nostack));
    }
}
