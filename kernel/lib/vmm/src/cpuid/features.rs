//! The feature bits that a guest sees, consistent with each other.
//!
//! An allow-list: a bit is passed on only where it is named here, where the host has it, and where what it
//! promises works in a guest. Bits unknown today stay hidden from guests for ever, or until they are named.
//! `filter` puts them into the table.

use arch::cpuid::{
    CpuidLeaf, CpuidResult, ExtendedEcx, ExtendedEdx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx,
    Leaf7Edx, Leaf7s1Eax, LeafDs1Eax,
};
use arch::{Cr4, Efer, Xcr0};

use super::filter::{Backing, GuestCpuConfig};
use super::xsave::XsaveLayout;

const LEAF_1_ECX: Leaf1Ecx = Leaf1Ecx::SSE3
    .union(Leaf1Ecx::PCLMULQDQ)
    .union(Leaf1Ecx::SSSE3)
    .union(Leaf1Ecx::FMA)
    .union(Leaf1Ecx::CMPXCHG16B)
    .union(Leaf1Ecx::PCID)
    .union(Leaf1Ecx::SSE4_1)
    .union(Leaf1Ecx::SSE4_2)
    .union(Leaf1Ecx::MOVBE)
    .union(Leaf1Ecx::POPCNT)
    .union(Leaf1Ecx::AESNI)
    .union(Leaf1Ecx::XSAVE)
    .union(Leaf1Ecx::AVX)
    .union(Leaf1Ecx::F16C)
    .union(Leaf1Ecx::RDRAND);

const LEAF_1_EDX: Leaf1Edx = Leaf1Edx::FPU
    .union(Leaf1Edx::VME)
    .union(Leaf1Edx::DE)
    .union(Leaf1Edx::PSE)
    .union(Leaf1Edx::TSC)
    .union(Leaf1Edx::MSR)
    .union(Leaf1Edx::PAE)
    .union(Leaf1Edx::MCE)
    .union(Leaf1Edx::CX8)
    .union(Leaf1Edx::SEP)
    .union(Leaf1Edx::MTRR)
    .union(Leaf1Edx::PGE)
    .union(Leaf1Edx::MCA)
    .union(Leaf1Edx::CMOV)
    .union(Leaf1Edx::PAT)
    .union(Leaf1Edx::PSE36)
    .union(Leaf1Edx::CLFSH)
    .union(Leaf1Edx::MMX)
    .union(Leaf1Edx::FXSR)
    .union(Leaf1Edx::SSE)
    .union(Leaf1Edx::SSE2)
    .union(Leaf1Edx::SS);

const LEAF_7_EBX: Leaf7Ebx = Leaf7Ebx::FSGSBASE
    .union(Leaf7Ebx::BMI1)
    .union(Leaf7Ebx::AVX2)
    .union(Leaf7Ebx::FDP_EXCPTN_ONLY)
    .union(Leaf7Ebx::SMEP)
    .union(Leaf7Ebx::BMI2)
    .union(Leaf7Ebx::ERMS)
    .union(Leaf7Ebx::INVPCID)
    .union(Leaf7Ebx::NO_FPU_CS_DS)
    .union(AVX512_EBX)
    .union(Leaf7Ebx::RDSEED)
    .union(Leaf7Ebx::ADX)
    .union(Leaf7Ebx::SMAP)
    .union(Leaf7Ebx::CLFLUSHOPT)
    .union(Leaf7Ebx::CLWB)
    .union(Leaf7Ebx::SHA);

const LEAF_7_ECX: Leaf7Ecx = Leaf7Ecx::PREFETCHWT1
    .union(Leaf7Ecx::UMIP)
    .union(Leaf7Ecx::PKU)
    .union(Leaf7Ecx::GFNI)
    .union(Leaf7Ecx::VAES)
    .union(Leaf7Ecx::VPCLMULQDQ)
    .union(AVX512_ECX)
    .union(Leaf7Ecx::LA57)
    .union(Leaf7Ecx::RDPID)
    .union(Leaf7Ecx::CLDEMOTE)
    .union(Leaf7Ecx::MOVDIRI)
    .union(Leaf7Ecx::MOVDIR64B);

const LEAF_7_EDX: Leaf7Edx = Leaf7Edx::FAST_SHORT_REP_MOV
    .union(AVX512_EDX)
    .union(Leaf7Edx::MD_CLEAR)
    .union(Leaf7Edx::SERIALIZE)
    .union(SPECULATION_EDX);

const LEAF_7_1_EAX: Leaf7s1Eax = Leaf7s1Eax::AVX_VNNI
    .union(Leaf7s1Eax::AVX512_BF16)
    .union(Leaf7s1Eax::FAST_ZERO_REP_MOVSB)
    .union(Leaf7s1Eax::FAST_SHORT_REP_STOSB)
    .union(Leaf7s1Eax::FAST_SHORT_REP_CMPSB);

const EXTENDED_ECX: ExtendedEcx = ExtendedEcx::LAHF_SAHF
    .union(ExtendedEcx::LZCNT)
    .union(ExtendedEcx::PREFETCHW);

const EXTENDED_EDX: ExtendedEdx = ExtendedEdx::SYSCALL
    .union(ExtendedEdx::NX)
    .union(ExtendedEdx::PAGES_1G)
    .union(ExtendedEdx::RDTSCP)
    .union(ExtendedEdx::LONG_MODE);

const AVX512_EBX: Leaf7Ebx = Leaf7Ebx::AVX512F
    .union(Leaf7Ebx::AVX512DQ)
    .union(Leaf7Ebx::AVX512_IFMA)
    .union(Leaf7Ebx::AVX512PF)
    .union(Leaf7Ebx::AVX512ER)
    .union(Leaf7Ebx::AVX512CD)
    .union(Leaf7Ebx::AVX512BW)
    .union(Leaf7Ebx::AVX512VL);

const AVX512_ECX: Leaf7Ecx = Leaf7Ecx::AVX512_VBMI
    .union(Leaf7Ecx::AVX512_VBMI2)
    .union(Leaf7Ecx::AVX512_VNNI)
    .union(Leaf7Ecx::AVX512_BITALG)
    .union(Leaf7Ecx::AVX512_VPOPCNTDQ);

const AVX512_EDX: Leaf7Edx = Leaf7Edx::AVX512_4VNNIW
    .union(Leaf7Edx::AVX512_4FMAPS)
    .union(Leaf7Edx::AVX512_VP2INTERSECT)
    .union(Leaf7Edx::AVX512_FP16);

const SPECULATION_EDX: Leaf7Edx = Leaf7Edx::SPEC_CTRL
    .union(Leaf7Edx::STIBP)
    .union(Leaf7Edx::FLUSH_CMD)
    .union(Leaf7Edx::SSBD);

/// The feature words while they are being made consistent with each other.
pub(super) struct Features {
    pub(super) leaf_1_ecx: Leaf1Ecx,
    pub(super) leaf_1_edx: Leaf1Edx,
    pub(super) leaf_7_ebx: Leaf7Ebx,
    pub(super) leaf_7_ecx: Leaf7Ecx,
    pub(super) leaf_7_edx: Leaf7Edx,
    pub(super) leaf_7_1_eax: Leaf7s1Eax,
    pub(super) leaf_d_1_eax: LeafDs1Eax,
    pub(super) extended_1_ecx: ExtendedEcx,
    pub(super) extended_1_edx: ExtendedEdx,
    pub(super) xsave: XsaveLayout,
}

impl Features {
    pub(super) fn new(host: &impl Fn(u32, u32) -> CpuidResult, config: &GuestCpuConfig) -> Self {
        let max_basic = host(0, 0).eax;
        let asked = |leaf: u32, subleaf| {
            if leaf <= max_basic {
                host(leaf, subleaf)
            } else {
                CpuidResult::ZERO
            }
        };
        let leaf_1 = asked(1, 0);
        let leaf_7 = asked(7, 0);
        let leaf_7_1 = if leaf_7.eax >= 1 {
            asked(7, 1)
        } else {
            CpuidResult::ZERO
        };
        let extended_1 = if host(CpuidLeaf::EXTENDED, 0).eax > CpuidLeaf::EXTENDED {
            host(CpuidLeaf::EXTENDED + 1, 0)
        } else {
            CpuidResult::ZERO
        };
        let mut features = Self {
            leaf_1_ecx: LEAF_1_ECX & Leaf1Ecx::from_bits_truncate(leaf_1.ecx),
            leaf_1_edx: LEAF_1_EDX & Leaf1Edx::from_bits_truncate(leaf_1.edx),
            leaf_7_ebx: LEAF_7_EBX & Leaf7Ebx::from_bits_truncate(leaf_7.ebx),
            leaf_7_ecx: LEAF_7_ECX & Leaf7Ecx::from_bits_truncate(leaf_7.ecx),
            leaf_7_edx: LEAF_7_EDX & Leaf7Edx::from_bits_truncate(leaf_7.edx),
            leaf_7_1_eax: LEAF_7_1_EAX & Leaf7s1Eax::from_bits_truncate(leaf_7_1.eax),
            leaf_d_1_eax: LeafDs1Eax::empty(),
            extended_1_ecx: EXTENDED_ECX & ExtendedEcx::from_bits_truncate(extended_1.ecx),
            extended_1_edx: EXTENDED_EDX & ExtendedEdx::from_bits_truncate(extended_1.edx),
            xsave: XsaveLayout::default(),
        };
        features.drop_what_the_backend_lacks(config.backing);
        features.settle_xsave(&asked, config);
        // Both are hints about REP MOVSB that only mean something on top of ERMS.
        if !features.leaf_7_ebx.contains(Leaf7Ebx::ERMS) {
            features.leaf_7_edx.remove(Leaf7Edx::FAST_SHORT_REP_MOV);
            features.leaf_7_1_eax.remove(
                Leaf7s1Eax::FAST_ZERO_REP_MOVSB
                    | Leaf7s1Eax::FAST_SHORT_REP_STOSB
                    | Leaf7s1Eax::FAST_SHORT_REP_CMPSB,
            );
        }
        features.add_what_we_emulate(config);
        features
    }

    fn drop_what_the_backend_lacks(&mut self, backing: Backing) {
        if !backing.contains(Backing::INVPCID) {
            self.leaf_7_ebx.remove(Leaf7Ebx::INVPCID);
        }
        if !backing.contains(Backing::RDTSCP) {
            self.extended_1_edx.remove(ExtendedEdx::RDTSCP);
            self.leaf_7_ecx.remove(Leaf7Ecx::RDPID);
        }
        if !backing.contains(Backing::SPECULATION_CONTROL) {
            self.leaf_7_edx.remove(SPECULATION_EDX);
        }
        if !backing.contains(Backing::RANDOM) {
            self.leaf_1_ecx.remove(Leaf1Ecx::RDRAND);
            self.leaf_7_ebx.remove(Leaf7Ebx::RDSEED);
        }
        if !backing.contains(Backing::LA57) {
            self.leaf_7_ecx.remove(Leaf7Ecx::LA57);
        }
    }

    /// Brings XSAVE, its components, and the instruction sets that need them into agreement.
    fn settle_xsave(&mut self, host: &impl Fn(u32, u32) -> CpuidResult, config: &GuestCpuConfig) {
        if self.leaf_1_ecx.contains(Leaf1Ecx::XSAVE) {
            let mut wanted = config.xcr0 & (Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512);
            if !self.leaf_1_ecx.contains(Leaf1Ecx::AVX) {
                wanted.remove(Xcr0::AVX | Xcr0::AVX512);
            }
            if !self.leaf_7_ebx.contains(Leaf7Ebx::AVX512F) {
                wanted.remove(Xcr0::AVX512);
            }
            if self.leaf_7_ecx.contains(Leaf7Ecx::PKU) {
                wanted.insert(config.xcr0 & Xcr0::PKRU);
            }
            self.leaf_d_1_eax = LeafDs1Eax::from_bits_truncate(host(0xd, 1).eax)
                & (LeafDs1Eax::XSAVEOPT
                    | LeafDs1Eax::XSAVEC
                    | LeafDs1Eax::XGETBV_IN_USE
                    | LeafDs1Eax::XSAVES);
            if !config.backing.contains(Backing::XSAVES) {
                self.leaf_d_1_eax.remove(LeafDs1Eax::XSAVES);
            }
            if !config.backing.contains(Backing::COMPACTION) {
                self.leaf_d_1_eax
                    .remove(LeafDs1Eax::XSAVEC | LeafDs1Eax::XSAVES);
            }
            self.xsave = XsaveLayout::new(host, wanted, self.leaf_d_1_eax);
        }
        let allowed = self.xsave.allowed();
        if !allowed.contains(Xcr0::PKRU) {
            self.leaf_7_ecx.remove(Leaf7Ecx::PKU);
        }
        if !allowed.contains(Xcr0::AVX) {
            self.leaf_1_ecx
                .remove(Leaf1Ecx::AVX | Leaf1Ecx::FMA | Leaf1Ecx::F16C);
            self.leaf_7_ebx.remove(Leaf7Ebx::AVX2);
            self.leaf_7_ecx
                .remove(Leaf7Ecx::VAES | Leaf7Ecx::VPCLMULQDQ);
            self.leaf_7_1_eax.remove(Leaf7s1Eax::AVX_VNNI);
        }
        if !allowed.contains(Xcr0::AVX512) {
            self.leaf_7_ebx.remove(AVX512_EBX);
            self.leaf_7_ecx.remove(AVX512_ECX);
            self.leaf_7_edx.remove(AVX512_EDX);
            self.leaf_7_1_eax.remove(Leaf7s1Eax::AVX512_BF16);
        }
    }

    fn add_what_we_emulate(&mut self, config: &GuestCpuConfig) {
        self.leaf_1_ecx
            .insert(Leaf1Ecx::X2APIC | Leaf1Ecx::TSC_DEADLINE | Leaf1Ecx::HYPERVISOR);
        self.leaf_1_edx
            .insert(Leaf1Edx::APIC | Leaf1Edx::MTRR | Leaf1Edx::MCE | Leaf1Edx::MCA);
        self.leaf_7_ebx.insert(Leaf7Ebx::TSC_ADJUST);
        self.leaf_7_edx.insert(Leaf7Edx::ARCH_CAPABILITIES);
        if config.vcpus > 1 {
            self.leaf_1_edx.insert(Leaf1Edx::HTT);
        }
    }

    pub(super) fn allowed_cr4(&self) -> Cr4 {
        let mut cr4 = Cr4::TSD | Cr4::MCE | Cr4::PCE;
        let mut allow = |shown: bool, bits| {
            if shown {
                cr4.insert(bits);
            }
        };
        allow(self.leaf_1_edx.contains(Leaf1Edx::VME), Cr4::VME | Cr4::PVI);
        allow(self.leaf_1_edx.contains(Leaf1Edx::DE), Cr4::DE);
        allow(self.leaf_1_edx.contains(Leaf1Edx::PSE), Cr4::PSE);
        allow(self.leaf_1_edx.contains(Leaf1Edx::PAE), Cr4::PAE);
        allow(self.leaf_1_edx.contains(Leaf1Edx::PGE), Cr4::PGE);
        allow(self.leaf_1_edx.contains(Leaf1Edx::FXSR), Cr4::OSFXSR);
        allow(self.leaf_1_edx.contains(Leaf1Edx::SSE), Cr4::OSXMMEXCPT);
        allow(self.leaf_1_ecx.contains(Leaf1Ecx::PCID), Cr4::PCIDE);
        allow(self.leaf_1_ecx.contains(Leaf1Ecx::XSAVE), Cr4::OSXSAVE);
        allow(self.leaf_7_ebx.contains(Leaf7Ebx::FSGSBASE), Cr4::FSGSBASE);
        allow(self.leaf_7_ebx.contains(Leaf7Ebx::SMEP), Cr4::SMEP);
        allow(self.leaf_7_ebx.contains(Leaf7Ebx::SMAP), Cr4::SMAP);
        allow(self.leaf_7_ecx.contains(Leaf7Ecx::UMIP), Cr4::UMIP);
        allow(self.leaf_7_ecx.contains(Leaf7Ecx::PKU), Cr4::PKE);
        allow(self.leaf_7_ecx.contains(Leaf7Ecx::LA57), Cr4::LA57);
        cr4
    }

    pub(super) fn allowed_efer(&self) -> Efer {
        let mut efer = Efer::empty();
        if self.extended_1_edx.contains(ExtendedEdx::LONG_MODE) {
            efer |= Efer::LME | Efer::LMA;
        }
        if self.extended_1_edx.contains(ExtendedEdx::SYSCALL) {
            efer |= Efer::SCE;
        }
        if self.extended_1_edx.contains(ExtendedEdx::NX) {
            efer |= Efer::NXE;
        }
        efer
    }
}
