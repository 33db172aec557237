//! What a guest is told of the host's features.
//!
//! An allow-list: a bit is passed on only where it is named here, where the host has it, and where what it
//! promises works in a guest. Bits unknown today stay hidden from guests for ever, or until they are named.

use alloc::vec::Vec;

use arch::cpuid::{
    AddressSizes, AdvancedPowerEdx, CpuidLeaf, CpuidResult, ExtendedEcx, ExtendedEdx, Leaf1Ecx,
    Leaf1Edx, Leaf6Eax, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, Leaf7s1Eax, LeafDs1Eax, TopologyLevel,
};
use arch::{Cr4, Efer, Xcr0};
use bitflags::bitflags;

use super::xsave::XsaveLayout;
use super::{
    BASIC_LEAVES, CpuidTable, EXTENDED_LEAVES, Entry, MAX_BASIC, MAX_EXTENDED, Rule, frequency,
};

/// "PlinthPlinth" as EBX, ECX and EDX spell it.
const SIGNATURE: [u32; 3] = [
    u32::from_le_bytes(*b"Plin"),
    u32::from_le_bytes(*b"thPl"),
    u32::from_le_bytes(*b"inth"),
];
/// The version of the hypercall interface, leaf 0x4000_0001, EAX.
const INTERFACE_VERSION: u32 = 1;
/// A host leaf with subleaves is asked for at most so many.
const MAX_SUBLEAVES: u32 = 8;

bitflags! {
    /// What the backend lets a guest do beyond what every VT-x processor does; each flag stands for an
    /// execution control or a piece of state that it handles.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Backing: u32 {
        /// INVPCID executes in the guest.
        const INVPCID = 1 << 0;
        /// RDTSCP and RDPID execute in the guest, and IA32_TSC_AUX is the guest's own.
        const RDTSCP = 1 << 1;
        /// XSAVES and XRSTORS execute in the guest.
        const XSAVES = 1 << 2;
        /// IA32_SPEC_CTRL is the guest's own, IA32_PRED_CMD and IA32_FLUSH_CMD reach the processor.
        const SPECULATION_CONTROL = 1 << 3;
        /// The guest may read RDRAND and RDSEED; without it two runs can be identical.
        const RANDOM = 1 << 4;
        /// Second-level paging allows 5-level paging in the guest.
        const LA57 = 1 << 5;
        /// What XSAVEC writes, XRSTOR reads: not so on every emulated processor that shows XSAVEC.
        const COMPACTION = 1 << 6;
    }
}

/// What is particular to one vCPU's view.
#[derive(Clone, Copy, Debug)]
pub struct GuestCpuConfig {
    /// vCPUs of the VM: cores of one package, one thread each, with APIC IDs from 0 on.
    pub vcpus: u32,
    /// The APIC ID of this one.
    pub apic_id: u32,
    /// What the guest's TSC counts in a second.
    pub tsc_hz: u64,
    /// What its local APIC timer counts in a second, before the divider (CPUID calls it the crystal clock).
    pub crystal_hz: u32,
    /// The state components that are switched with the guest.
    pub xcr0: Xcr0,
    /// What the backend provides.
    pub backing: Backing,
}

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
    .union(SPECULATION_EDX)
    .union(Leaf7Edx::ARCH_CAPABILITIES);

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
struct Features {
    leaf_1_ecx: Leaf1Ecx,
    leaf_1_edx: Leaf1Edx,
    leaf_7_ebx: Leaf7Ebx,
    leaf_7_ecx: Leaf7Ecx,
    leaf_7_edx: Leaf7Edx,
    leaf_7_1_eax: Leaf7s1Eax,
    leaf_d_1_eax: LeafDs1Eax,
    extended_1_ecx: ExtendedEcx,
    extended_1_edx: ExtendedEdx,
    xsave: XsaveLayout,
}

impl Features {
    fn new(host: &impl Fn(u32, u32) -> CpuidResult, config: &GuestCpuConfig) -> Self {
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
        if config.vcpus > 1 {
            self.leaf_1_edx.insert(Leaf1Edx::HTT);
        }
    }

    fn allowed_cr4(&self) -> Cr4 {
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

    fn allowed_efer(&self) -> Efer {
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

impl CpuidTable {
    /// The view of one vCPU on a host whose CPUID is `host` (leaf, subleaf), executed in 64-bit mode.
    pub fn build(host: &impl Fn(u32, u32) -> CpuidResult, config: &GuestCpuConfig) -> Self {
        let features = Features::new(host, config);
        let physical_address_bits = physical_address_bits(host);
        let linear_address_bits = if features.leaf_7_ecx.contains(Leaf7Ecx::LA57) {
            57
        } else {
            48
        };
        let mut table = Self {
            basic: [Entry::ZERO; BASIC_LEAVES],
            extended: [Entry::ZERO; EXTENDED_LEAVES],
            hypervisor: Vec::new(),
            subleaves: Vec::new(),
            allowed_cr4: features.allowed_cr4(),
            allowed_efer: features.allowed_efer(),
            xsave: features.xsave.clone(),
            physical_address_bits,
            linear_address_bits,
        };
        table.fill_basic(host, config, &features);
        table.fill_extended(host, &features);
        table.fill_hypervisor();
        table
    }

    fn set(&mut self, leaf: u32, registers: CpuidResult, rule: Rule) {
        let entry = if leaf < CpuidLeaf::EXTENDED {
            self.basic.get_mut(leaf as usize)
        } else {
            self.extended.get_mut((leaf - CpuidLeaf::EXTENDED) as usize)
        };
        if let Some(entry) = entry {
            *entry = Entry { registers, rule };
        }
    }

    fn add_subleaves(&mut self, subleaves: &[CpuidResult]) -> (u8, u8) {
        let first = self.subleaves.len() as u8;
        self.subleaves.extend_from_slice(subleaves);
        (first, subleaves.len() as u8)
    }

    fn fill_basic(
        &mut self,
        host: &impl Fn(u32, u32) -> CpuidResult,
        config: &GuestCpuConfig,
        features: &Features,
    ) {
        let leaf_0 = host(0, 0);
        let host_has = |leaf| leaf <= leaf_0.eax;
        self.set(
            0,
            CpuidResult {
                eax: MAX_BASIC,
                ..leaf_0
            },
            Rule::Fixed,
        );
        let leaf_1 = host(1, 0);
        let logical_processors = config.vcpus.max(1).next_power_of_two().min(255);
        let brand_and_clflush = leaf_1.ebx & 0xffff;
        self.set(
            1,
            CpuidResult {
                eax: leaf_1.eax & 0x0fff_3fff,
                ebx: (config.apic_id & 0xff) << 24 | logical_processors << 16 | brand_and_clflush,
                ecx: features.leaf_1_ecx.bits(),
                edx: features.leaf_1_edx.bits(),
            },
            Rule::Features,
        );
        if host_has(2) {
            self.set(2, host(2, 0), Rule::Fixed);
        }
        if host_has(4) {
            let caches: Vec<_> = (0..MAX_SUBLEAVES)
                .map(|subleaf| host(4, subleaf))
                .take_while(|cache| cache.eax & 0x1f != 0)
                .map(|cache| share_cache(cache, config.vcpus))
                .collect();
            let (first, count) = self.add_subleaves(&caches);
            self.set(4, CpuidResult::ZERO, Rule::BySubleaf { first, count });
        }
        // The local APIC timer keeps running whatever the CPU sleeps in (ARAT); nothing else of leaf 6.
        self.set(
            6,
            CpuidResult {
                eax: Leaf6Eax::ARAT.bits(),
                ..CpuidResult::ZERO
            },
            Rule::Fixed,
        );
        self.fill_structured(features);
        self.fill_topology(config);
        if features.leaf_1_ecx.contains(Leaf1Ecx::XSAVE) {
            self.set(0xd, CpuidResult::ZERO, Rule::Xsave);
        }
        self.fill_frequencies(config);
    }

    fn fill_structured(&mut self, features: &Features) {
        let main = CpuidResult {
            eax: 1,
            ebx: features.leaf_7_ebx.bits(),
            ecx: features.leaf_7_ecx.bits(),
            edx: features.leaf_7_edx.bits(),
        };
        let more = CpuidResult {
            eax: features.leaf_7_1_eax.bits(),
            ..CpuidResult::ZERO
        };
        let (first, count) = self.add_subleaves(&[main, more]);
        self.set(7, main, Rule::StructuredFeatures { first, count });
    }

    fn fill_topology(&mut self, config: &GuestCpuConfig) {
        const THREAD: u32 = (TopologyLevel::Thread as u32) << 8;
        const CORE: u32 = (TopologyLevel::Core as u32) << 8;
        let x2apic_id = config.apic_id;
        let cores = config.vcpus.max(1);
        let threads = CpuidResult {
            eax: 0,
            ebx: 1,
            ecx: THREAD,
            edx: x2apic_id,
        };
        let package = CpuidResult {
            eax: bits_for(cores),
            ebx: cores,
            ecx: CORE | 1,
            edx: x2apic_id,
        };
        let (first, count) = self.add_subleaves(&[threads, package]);
        let beyond = CpuidResult {
            edx: x2apic_id,
            ..CpuidResult::ZERO
        };
        self.set(0xb, beyond, Rule::Topology { first, count });
    }

    fn fill_frequencies(&mut self, config: &GuestCpuConfig) {
        if let Some((numerator, denominator)) = frequency::ratio(config.tsc_hz, config.crystal_hz) {
            let registers = CpuidResult {
                eax: denominator,
                ebx: numerator,
                ecx: config.crystal_hz,
                edx: 0,
            };
            self.set(0x15, registers, Rule::Fixed);
        }
        let megahertz = u32::try_from(config.tsc_hz / 1_000_000)
            .unwrap_or(0)
            .min(0xffff);
        let bus = 100;
        let registers = CpuidResult {
            eax: megahertz,
            ebx: megahertz,
            ecx: bus,
            edx: 0,
        };
        self.set(0x16, registers, Rule::Fixed);
    }

    fn fill_extended(&mut self, host: &impl Fn(u32, u32) -> CpuidResult, features: &Features) {
        let max = host(CpuidLeaf::EXTENDED, 0).eax;
        let asked = |leaf| {
            if leaf <= max {
                host(leaf, 0)
            } else {
                CpuidResult::ZERO
            }
        };
        let first = CpuidResult {
            eax: MAX_EXTENDED,
            ..CpuidResult::ZERO
        };
        self.set(CpuidLeaf::EXTENDED, first, Rule::Fixed);
        let registers = CpuidResult {
            ecx: features.extended_1_ecx.bits(),
            edx: features.extended_1_edx.bits(),
            ..CpuidResult::ZERO
        };
        self.set(
            CpuidLeaf::EXTENDED_PROCESSOR,
            registers,
            Rule::ExtendedFeatures,
        );
        // The brand string.
        for leaf in 0x8000_0002..=0x8000_0004 {
            self.set(leaf, asked(leaf), Rule::Fixed);
        }
        // Size, ways and line of the second-level cache.
        let cache = CpuidResult {
            ecx: asked(0x8000_0006).ecx,
            ..CpuidResult::ZERO
        };
        self.set(0x8000_0006, cache, Rule::Fixed);
        // The TSC never stops and never changes its rate.
        let invariant = CpuidResult {
            edx: asked(CpuidLeaf::ADVANCED_POWER).edx & AdvancedPowerEdx::INVARIANT_TSC.bits(),
            ..CpuidResult::ZERO
        };
        self.set(CpuidLeaf::ADVANCED_POWER, invariant, Rule::Fixed);
        let sizes = AddressSizes {
            physical_bits: self.physical_address_bits,
            linear_bits: self.linear_address_bits,
        };
        self.set(
            CpuidLeaf::ADDRESS_SIZES,
            CpuidResult {
                eax: sizes.to_eax(),
                ..CpuidResult::ZERO
            },
            Rule::Fixed,
        );
    }

    fn fill_hypervisor(&mut self) {
        let [ebx, ecx, edx] = SIGNATURE;
        let last = CpuidLeaf::HYPERVISOR + 1;
        self.hypervisor.push((
            CpuidLeaf::HYPERVISOR,
            CpuidResult {
                eax: last,
                ebx,
                ecx,
                edx,
            },
        ));
        self.hypervisor.push((
            last,
            CpuidResult {
                eax: INTERFACE_VERSION,
                ..CpuidResult::ZERO
            },
        ));
    }
}

/// MAXPHYADDR of the host, which is the width of guest-physical addresses (SDM vol. 3, EPT).
fn physical_address_bits(host: &impl Fn(u32, u32) -> CpuidResult) -> u8 {
    let bits = if host(CpuidLeaf::EXTENDED, 0).eax >= MAX_EXTENDED {
        u32::from(AddressSizes::from_eax(host(MAX_EXTENDED, 0).eax).physical_bits)
    } else {
        36
    };
    bits.clamp(32, 52) as u8
}

/// The bits that number `count` things.
const fn bits_for(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// One subleaf of leaf 4 for our topology: caches up to the second level belong to one core, larger ones to
/// the package.
fn share_cache(cache: CpuidResult, vcpus: u32) -> CpuidResult {
    let level = cache.eax >> 5 & 7;
    let ids = vcpus.max(1).next_power_of_two();
    let sharing = if level >= 3 { (ids - 1).min(0xfff) } else { 0 };
    let cores = (ids - 1).min(0x3f);
    CpuidResult {
        eax: cache.eax & 0x3fff | sharing << 14 | cores << 26,
        ..cache
    }
}

#[cfg(test)]
mod tests;
