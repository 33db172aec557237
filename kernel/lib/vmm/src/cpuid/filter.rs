//! What a guest is told of its processor: the leaves of a [`CpuidTable`], made from the host's and from a
//! [`GuestCpuConfig`]. Which features are passed on is decided in `features`.

use alloc::vec::Vec;

use arch::Xcr0;
use arch::cpuid::{
    AddressSizes, AdvancedPowerEdx, CpuidLeaf, CpuidResult, Leaf1Ecx, Leaf6Eax, Leaf7Ecx,
    TopologyLevel,
};
use bitflags::bitflags;

use super::features::Features;
use super::{
    BASIC_LEAVES, CpuidTable, EXTENDED_LEAVES, Entry, MAX_BASIC, MAX_EXTENDED, Rule, frequency,
};
use crate::paravirt::{self, Features as ParavirtFeatures, clock::Scale};

/// "PlinthPlinth" as EBX, ECX and EDX spell it.
const SIGNATURE: [u32; 3] = [
    u32::from_le_bytes(*b"Plin"),
    u32::from_le_bytes(*b"thPl"),
    u32::from_le_bytes(*b"inth"),
];
/// The version of the hypercall interface, leaf 0x4000_0001, EAX.
const INTERFACE_VERSION: u32 = 1;
const ADVANCED_POWER_INDEX: usize = (CpuidLeaf::ADVANCED_POWER - CpuidLeaf::EXTENDED) as usize;
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
    /// What the run loop does for guests that know that they are guests.
    pub paravirt: paravirt::Features,
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
            paravirt: paravirt::Features::empty(),
            clock_scale: None,
            allowed_cr4: features.allowed_cr4(),
            allowed_efer: features.allowed_efer(),
            xsave: features.xsave.clone(),
            physical_address_bits,
            linear_address_bits,
        };
        table.fill_basic(host, config, &features);
        table.fill_extended(host, &features);
        table.fill_hypervisor(config);
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
        let leaf_0 = host(CpuidLeaf::VENDOR, 0);
        let host_has = |leaf| leaf <= leaf_0.eax;
        self.set(
            CpuidLeaf::VENDOR,
            CpuidResult {
                eax: MAX_BASIC,
                ..leaf_0
            },
            Rule::Fixed,
        );
        let leaf_1 = host(CpuidLeaf::FEATURES, 0);
        let logical_processors = config.vcpus.max(1).next_power_of_two().min(255);
        let brand_and_clflush = leaf_1.ebx & 0xffff;
        self.set(
            CpuidLeaf::FEATURES,
            CpuidResult {
                eax: leaf_1.eax & 0x0fff_3fff,
                ebx: (config.apic_id & 0xff) << 24 | logical_processors << 16 | brand_and_clflush,
                ecx: features.leaf_1_ecx.bits(),
                edx: features.leaf_1_edx.bits(),
            },
            Rule::Features,
        );
        if host_has(CpuidLeaf::CACHE_DESCRIPTORS) {
            let descriptors = host(CpuidLeaf::CACHE_DESCRIPTORS, 0);
            self.set(CpuidLeaf::CACHE_DESCRIPTORS, descriptors, Rule::Fixed);
        }
        if host_has(CpuidLeaf::CACHES) {
            let caches: Vec<_> = (0..MAX_SUBLEAVES)
                .map(|subleaf| host(CpuidLeaf::CACHES, subleaf))
                .take_while(|cache| cache.eax & 0x1f != 0)
                .map(|cache| share_cache(cache, config.vcpus))
                .collect();
            let (first, count) = self.add_subleaves(&caches);
            let rule = Rule::BySubleaf { first, count };
            self.set(CpuidLeaf::CACHES, CpuidResult::ZERO, rule);
        }
        // The local APIC timer keeps running whatever the CPU sleeps in (ARAT); nothing else of leaf 6.
        self.set(
            CpuidLeaf::POWER,
            CpuidResult {
                eax: Leaf6Eax::ARAT.bits(),
                ..CpuidResult::ZERO
            },
            Rule::Fixed,
        );
        self.fill_structured(features);
        self.fill_topology(config);
        if features.leaf_1_ecx.contains(Leaf1Ecx::XSAVE) {
            self.set(CpuidLeaf::XSAVE, CpuidResult::ZERO, Rule::Xsave);
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
        let rule = Rule::StructuredFeatures { first, count };
        self.set(CpuidLeaf::EXTENDED_FEATURES, main, rule);
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
        self.set(CpuidLeaf::TOPOLOGY, beyond, Rule::Topology { first, count });
    }

    fn fill_frequencies(&mut self, config: &GuestCpuConfig) {
        if let Some((numerator, denominator)) = frequency::ratio(config.tsc_hz, config.crystal_hz) {
            let registers = CpuidResult {
                eax: denominator,
                ebx: numerator,
                ecx: config.crystal_hz,
                edx: 0,
            };
            self.set(CpuidLeaf::TSC_FREQUENCY, registers, Rule::Fixed);
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
        self.set(CpuidLeaf::PROCESSOR_FREQUENCY, registers, Rule::Fixed);
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
        for leaf in CpuidLeaf::BRAND..CpuidLeaf::BRAND + 3 {
            self.set(leaf, asked(leaf), Rule::Fixed);
        }
        // Size, ways and line of the second-level cache.
        let cache = CpuidResult {
            ecx: asked(CpuidLeaf::SECOND_LEVEL_CACHE).ecx,
            ..CpuidResult::ZERO
        };
        self.set(CpuidLeaf::SECOND_LEVEL_CACHE, cache, Rule::Fixed);
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

    fn fill_hypervisor(&mut self, config: &GuestCpuConfig) {
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
        self.fill_paravirt(config);
    }

    /// KVM's leaves. A clock that is nothing but a factor needs a TSC that never changes its rate.
    fn fill_paravirt(&mut self, config: &GuestCpuConfig) {
        let [ebx, ecx, edx] = paravirt::KVM_SIGNATURE;
        let invariant = self
            .extended
            .get(ADVANCED_POWER_INDEX)
            .is_some_and(|entry| {
                AdvancedPowerEdx::from_bits_retain(entry.registers.edx)
                    .contains(AdvancedPowerEdx::INVARIANT_TSC)
            });
        self.clock_scale = Scale::of(config.tsc_hz).filter(|_| invariant);
        self.paravirt = config.paravirt;
        if self.clock_scale.is_none() {
            self.paravirt -= ParavirtFeatures::CLOCKSOURCE2 | ParavirtFeatures::CLOCKSOURCE_STABLE;
        }
        let last = paravirt::KVM_LEAF + 1;
        self.hypervisor.push((
            paravirt::KVM_LEAF,
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
                eax: self.paravirt.bits(),
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
