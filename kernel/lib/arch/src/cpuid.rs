//! CPUID as data: the four registers of one leaf, and the feature bits by their names.
//!
//! The layout is that of the SDM, vol. 2, CPUID; a bit has the name that it has there.

#![allow(
    missing_docs,
    reason = "feature bits and registers have the manual's names"
)]

use bitflags::bitflags;

/// What CPUID is asked: EAX and ECX.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuidLeaf {
    /// EAX.
    pub leaf: u32,
    /// ECX; ignored by leaves that have no subleaves.
    pub subleaf: u32,
}

impl CpuidLeaf {
    /// A leaf without subleaves, or its first.
    pub const fn new(leaf: u32) -> Self {
        Self { leaf, subleaf: 0 }
    }

    /// The highest basic leaf, and the vendor.
    pub const VENDOR: u32 = 0x0;
    /// Family, model, stepping and the oldest features.
    pub const FEATURES: u32 = 0x1;
    /// Caches and TLBs, by descriptors.
    pub const CACHE_DESCRIPTORS: u32 = 0x2;
    /// Caches, by subleaf.
    pub const CACHES: u32 = 0x4;
    /// Power and thermal management.
    pub const POWER: u32 = 0x6;
    /// Structured extended features.
    pub const EXTENDED_FEATURES: u32 = 0x7;
    /// Extended topology.
    pub const TOPOLOGY: u32 = 0xb;
    /// Extended state (XSAVE).
    pub const XSAVE: u32 = 0xd;
    /// TSC and core crystal clock.
    pub const TSC_FREQUENCY: u32 = 0x15;
    /// Processor frequency.
    pub const PROCESSOR_FREQUENCY: u32 = 0x16;
    /// First of the leaves that hypervisors use for themselves.
    pub const HYPERVISOR: u32 = 0x4000_0000;
    /// The highest extended leaf.
    pub const EXTENDED: u32 = 0x8000_0000;
    /// Extended processor features.
    pub const EXTENDED_PROCESSOR: u32 = 0x8000_0001;
    /// First of the three leaves with the brand string.
    pub const BRAND: u32 = 0x8000_0002;
    /// The second-level cache.
    pub const SECOND_LEVEL_CACHE: u32 = 0x8000_0006;
    /// Invariant TSC.
    pub const ADVANCED_POWER: u32 = 0x8000_0007;
    /// Widths of addresses.
    pub const ADDRESS_SIZES: u32 = 0x8000_0008;
}

/// What CPUID returns for one leaf and subleaf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl CpuidResult {
    /// A leaf that has nothing to say.
    pub const ZERO: Self = Self {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };
}

bitflags! {
    /// Leaf 1, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf1Ecx: u32 {
        const SSE3 = 1 << 0;
        const PCLMULQDQ = 1 << 1;
        const DTES64 = 1 << 2;
        const MONITOR = 1 << 3;
        const DS_CPL = 1 << 4;
        const VMX = 1 << 5;
        const SMX = 1 << 6;
        const EIST = 1 << 7;
        const TM2 = 1 << 8;
        const SSSE3 = 1 << 9;
        const CNXT_ID = 1 << 10;
        const SDBG = 1 << 11;
        const FMA = 1 << 12;
        const CMPXCHG16B = 1 << 13;
        const XTPR = 1 << 14;
        const PDCM = 1 << 15;
        const PCID = 1 << 17;
        const DCA = 1 << 18;
        const SSE4_1 = 1 << 19;
        const SSE4_2 = 1 << 20;
        const X2APIC = 1 << 21;
        const MOVBE = 1 << 22;
        const POPCNT = 1 << 23;
        const TSC_DEADLINE = 1 << 24;
        const AESNI = 1 << 25;
        const XSAVE = 1 << 26;
        const OSXSAVE = 1 << 27;
        const AVX = 1 << 28;
        const F16C = 1 << 29;
        const RDRAND = 1 << 30;
        /// Zero on bare hardware; one under a hypervisor by convention.
        const HYPERVISOR = 1 << 31;
    }

    /// Leaf 1, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf1Edx: u32 {
        const FPU = 1 << 0;
        const VME = 1 << 1;
        const DE = 1 << 2;
        const PSE = 1 << 3;
        const TSC = 1 << 4;
        const MSR = 1 << 5;
        const PAE = 1 << 6;
        const MCE = 1 << 7;
        const CX8 = 1 << 8;
        const APIC = 1 << 9;
        const SEP = 1 << 11;
        const MTRR = 1 << 12;
        const PGE = 1 << 13;
        const MCA = 1 << 14;
        const CMOV = 1 << 15;
        const PAT = 1 << 16;
        const PSE36 = 1 << 17;
        const PSN = 1 << 18;
        const CLFSH = 1 << 19;
        const DS = 1 << 21;
        const ACPI = 1 << 22;
        const MMX = 1 << 23;
        const FXSR = 1 << 24;
        const SSE = 1 << 25;
        const SSE2 = 1 << 26;
        const SS = 1 << 27;
        const HTT = 1 << 28;
        const TM = 1 << 29;
        const PBE = 1 << 31;
    }

    /// Leaf 6, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf6Eax: u32 {
        const DIGITAL_THERMAL_SENSOR = 1 << 0;
        const TURBO_BOOST = 1 << 1;
        /// The timer of the local APIC runs in all power states.
        const ARAT = 1 << 2;
        const PLN = 1 << 4;
        const ECMD = 1 << 5;
        const PTM = 1 << 6;
        const HWP = 1 << 7;
    }

    /// Leaf 7, subleaf 0, EBX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7Ebx: u32 {
        const FSGSBASE = 1 << 0;
        const TSC_ADJUST = 1 << 1;
        const SGX = 1 << 2;
        const BMI1 = 1 << 3;
        const HLE = 1 << 4;
        const AVX2 = 1 << 5;
        const FDP_EXCPTN_ONLY = 1 << 6;
        const SMEP = 1 << 7;
        const BMI2 = 1 << 8;
        const ERMS = 1 << 9;
        const INVPCID = 1 << 10;
        const RTM = 1 << 11;
        const RDT_M = 1 << 12;
        const NO_FPU_CS_DS = 1 << 13;
        const MPX = 1 << 14;
        const RDT_A = 1 << 15;
        const AVX512F = 1 << 16;
        const AVX512DQ = 1 << 17;
        const RDSEED = 1 << 18;
        const ADX = 1 << 19;
        const SMAP = 1 << 20;
        const AVX512_IFMA = 1 << 21;
        const CLFLUSHOPT = 1 << 23;
        const CLWB = 1 << 24;
        const PROCESSOR_TRACE = 1 << 25;
        const AVX512PF = 1 << 26;
        const AVX512ER = 1 << 27;
        const AVX512CD = 1 << 28;
        const SHA = 1 << 29;
        const AVX512BW = 1 << 30;
        const AVX512VL = 1 << 31;
    }

    /// Leaf 7, subleaf 0, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7Ecx: u32 {
        const PREFETCHWT1 = 1 << 0;
        const AVX512_VBMI = 1 << 1;
        const UMIP = 1 << 2;
        const PKU = 1 << 3;
        const OSPKE = 1 << 4;
        const WAITPKG = 1 << 5;
        const AVX512_VBMI2 = 1 << 6;
        const CET_SS = 1 << 7;
        const GFNI = 1 << 8;
        const VAES = 1 << 9;
        const VPCLMULQDQ = 1 << 10;
        const AVX512_VNNI = 1 << 11;
        const AVX512_BITALG = 1 << 12;
        const TME = 1 << 13;
        const AVX512_VPOPCNTDQ = 1 << 14;
        const LA57 = 1 << 16;
        const RDPID = 1 << 22;
        const KEY_LOCKER = 1 << 23;
        const CLDEMOTE = 1 << 25;
        const MOVDIRI = 1 << 27;
        const MOVDIR64B = 1 << 28;
        const ENQCMD = 1 << 29;
        const SGX_LC = 1 << 30;
        const PKS = 1 << 31;
    }

    /// Leaf 7, subleaf 0, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7Edx: u32 {
        const AVX512_4VNNIW = 1 << 2;
        const AVX512_4FMAPS = 1 << 3;
        const FAST_SHORT_REP_MOV = 1 << 4;
        const UINTR = 1 << 5;
        const AVX512_VP2INTERSECT = 1 << 8;
        const MD_CLEAR = 1 << 10;
        const SERIALIZE = 1 << 14;
        const TSXLDTRK = 1 << 16;
        const PCONFIG = 1 << 18;
        const CET_IBT = 1 << 20;
        const AMX_BF16 = 1 << 22;
        const AVX512_FP16 = 1 << 23;
        const AMX_TILE = 1 << 24;
        const AMX_INT8 = 1 << 25;
        /// IA32_SPEC_CTRL.IBRS and IA32_PRED_CMD.
        const SPEC_CTRL = 1 << 26;
        /// IA32_SPEC_CTRL.STIBP.
        const STIBP = 1 << 27;
        /// IA32_FLUSH_CMD.
        const FLUSH_CMD = 1 << 28;
        const ARCH_CAPABILITIES = 1 << 29;
        const CORE_CAPABILITIES = 1 << 30;
        /// IA32_SPEC_CTRL.SSBD.
        const SSBD = 1 << 31;
    }

    /// Leaf 7, subleaf 1, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7s1Eax: u32 {
        const AVX_VNNI = 1 << 4;
        const AVX512_BF16 = 1 << 5;
        /// Fast zero-length REP MOVSB.
        const FAST_ZERO_REP_MOVSB = 1 << 10;
        /// Fast short REP STOSB.
        const FAST_SHORT_REP_STOSB = 1 << 11;
        /// Fast short REP CMPSB and SCASB.
        const FAST_SHORT_REP_CMPSB = 1 << 12;
    }

    /// Leaf 0DH, subleaf 1, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LeafDs1Eax: u32 {
        const XSAVEOPT = 1 << 0;
        const XSAVEC = 1 << 1;
        /// XGETBV with ECX = 1.
        const XGETBV_IN_USE = 1 << 2;
        /// XSAVES, XRSTORS and IA32_XSS.
        const XSAVES = 1 << 3;
        const XFD = 1 << 4;
    }

    /// Leaf 80000001H, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ExtendedEcx: u32 {
        const LAHF_SAHF = 1 << 0;
        const LZCNT = 1 << 5;
        const PREFETCHW = 1 << 8;
    }

    /// Leaf 80000001H, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ExtendedEdx: u32 {
        const SYSCALL = 1 << 11;
        const NX = 1 << 20;
        const PAGES_1G = 1 << 26;
        const RDTSCP = 1 << 27;
        const LONG_MODE = 1 << 29;
    }

    /// Leaf 0DH, subleaves from 2 on, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct XsaveComponentEcx: u32 {
        /// The component belongs to IA32_XSS rather than XCR0.
        const SUPERVISOR = 1 << 0;
        /// In the compacted format it starts at a multiple of 64 bytes.
        const ALIGNED_64 = 1 << 1;
    }

    /// Leaf 80000007H, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AdvancedPowerEdx: u32 {
        /// The TSC runs at one rate in all power states.
        const INVARIANT_TSC = 1 << 8;
    }
}

/// Leaf 80000008H, EAX: the widths of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressSizes {
    /// MAXPHYADDR.
    pub physical_bits: u8,
    /// Bits of linear addresses: 48 or 57.
    pub linear_bits: u8,
}

impl AddressSizes {
    /// As EAX says it.
    pub const fn from_eax(eax: u32) -> Self {
        Self {
            physical_bits: eax as u8,
            linear_bits: (eax >> 8) as u8,
        }
    }

    /// As EAX says it.
    pub const fn to_eax(self) -> u32 {
        (self.linear_bits as u32) << 8 | self.physical_bits as u32
    }
}

/// The kind of one level in leaves 0BH and 1FH, as ECX bits 15 to 8 number it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TopologyLevel {
    /// No such level: the list ends here.
    Invalid = 0,
    /// Logical processors of a core.
    Thread = 1,
    /// Cores of the next level.
    Core = 2,
    /// Modules (leaf 1FH only).
    Module = 3,
    /// Tiles (leaf 1FH only).
    Tile = 4,
    /// Dies (leaf 1FH only).
    Die = 5,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_sizes_survive_a_round_trip() {
        let sizes = AddressSizes {
            physical_bits: 39,
            linear_bits: 48,
        };
        assert_eq!(AddressSizes::from_eax(0x3027), sizes);
        assert_eq!(
            AddressSizes {
                physical_bits: 52,
                linear_bits: 57
            }
            .to_eax(),
            0x3934
        );
    }
}
