//! The CPUID view of one vCPU: a table made once, in which a lookup is an index.
//!
//! [`CpuidTable::build`] (in `filter`) decides what the guest sees, by an allow-list (in `features`) over what
//! the host has; [`CpuidTable::lookup`] answers the instruction. What depends on the vCPU's state at that moment
//! comes from a [`Live`] that the caller hands in. The table also knows what follows from it for the registers:
//! which bits of CR4, EFER and XCR0 the guest may set, and how wide its addresses are. `difference` compares what two CPUs
//! of a machine would have it say.

mod difference;
mod features;
mod filter;
mod frequency;
mod xsave;

use alloc::vec::Vec;

use arch::cpuid::{
    CpuidLeaf, CpuidResult, ExtendedEdx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx,
    LeafDs1Eax,
};
use arch::{Cr4, Efer, Xcr0};

pub use difference::Lacking;
pub use filter::{Backing, GuestCpuConfig};
use xsave::XsaveLayout;

use crate::paravirt::{self, clock::Scale};

/// The highest basic leaf that a guest sees (0x16, processor frequency information).
const MAX_BASIC: u32 = 0x16;
/// The highest extended leaf that a guest sees.
const MAX_EXTENDED: u32 = 0x8000_0008;

const BASIC_LEAVES: usize = MAX_BASIC as usize + 1;
const EXTENDED_LEAVES: usize = (MAX_EXTENDED - CpuidLeaf::EXTENDED) as usize + 1;

/// What CPUID says to one vCPU.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    basic: [Entry; BASIC_LEAVES],
    extended: [Entry; EXTENDED_LEAVES],
    /// Leaves from 0x4000_0000 on, sorted.
    hypervisor: Vec<(u32, CpuidResult)>,
    /// The subleaves of all leaves that have any; an [`Entry`] says which are its own.
    subleaves: Vec<CpuidResult>,
    xsave: XsaveLayout,
    paravirt: paravirt::Features,
    clock_scale: Option<Scale>,
    allowed_cr4: Cr4,
    allowed_efer: Efer,
    physical_address_bits: u8,
    linear_address_bits: u8,
}

/// One leaf.
#[derive(Clone, Copy, Debug)]
struct Entry {
    registers: CpuidResult,
    rule: Rule,
}

/// How a leaf's answer is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// As stored.
    Fixed,
    /// As stored, but for OSXSAVE and APIC.
    Features,
    /// As stored, but for SYSCALL.
    ExtendedFeatures,
    /// By subleaf; zeroes past the last.
    BySubleaf { first: u8, count: u8 },
    /// By subleaf, and OSPKE in the first.
    StructuredFeatures { first: u8, count: u8 },
    /// By subleaf; past the last, the subleaf's number and the x2APIC ID.
    Topology { first: u8, count: u8 },
    /// XSAVE: computed from the layout.
    Xsave,
}

impl Entry {
    const ZERO: Self = Self::fixed(CpuidResult::ZERO);

    const fn fixed(registers: CpuidResult) -> Self {
        Self {
            registers,
            rule: Rule::Fixed,
        }
    }
}

/// The state that some leaves show.
pub trait Live {
    /// CR4.
    fn cr4(&self) -> Cr4;
    /// XCR0.
    fn xcr0(&self) -> Xcr0;
    /// IA32_XSS.
    fn xss(&self) -> u64;
    /// Whether the local APIC is enabled in IA32_APIC_BASE.
    fn apic_enabled(&self) -> bool;
    /// Whether the instruction was executed in 64-bit mode.
    fn in_64_bit_mode(&self) -> bool;
}

impl CpuidTable {
    /// What CPUID returns to the guest.
    ///
    /// A leaf above the highest of its range is answered with the data of the highest basic leaf, as Intel's
    /// processors do (SDM vol. 2, CPUID).
    #[inline]
    pub fn lookup(&self, leaf: u32, subleaf: u32, live: &impl Live) -> CpuidResult {
        let entry = match self.basic.get(leaf as usize) {
            Some(entry) => entry,
            None => match self
                .extended
                .get(leaf.wrapping_sub(CpuidLeaf::EXTENDED) as usize)
            {
                Some(entry) => entry,
                None => match self.hypervisor_leaf(leaf) {
                    Some(registers) => return registers,
                    None => &self.basic[BASIC_LEAVES - 1],
                },
            },
        };
        match entry.rule {
            Rule::Fixed => entry.registers,
            rule => self.resolve(entry.registers, rule, subleaf, live),
        }
    }

    #[cold]
    fn hypervisor_leaf(&self, leaf: u32) -> Option<CpuidResult> {
        let at = self
            .hypervisor
            .binary_search_by_key(&leaf, |(number, _)| *number)
            .ok()?;
        self.hypervisor.get(at).map(|(_, registers)| *registers)
    }

    fn resolve(
        &self,
        stored: CpuidResult,
        rule: Rule,
        subleaf: u32,
        live: &impl Live,
    ) -> CpuidResult {
        let mut result = stored;
        match rule {
            Rule::Fixed => {}
            Rule::Features => {
                if live.cr4().contains(Cr4::OSXSAVE) {
                    result.ecx |= Leaf1Ecx::OSXSAVE.bits();
                }
                if !live.apic_enabled() {
                    result.edx &= !Leaf1Edx::APIC.bits();
                }
            }
            Rule::ExtendedFeatures => {
                if !live.in_64_bit_mode() {
                    result.edx &= !ExtendedEdx::SYSCALL.bits();
                }
            }
            Rule::BySubleaf { first, count } => {
                result = self
                    .subleaf(first, count, subleaf)
                    .unwrap_or(CpuidResult::ZERO);
            }
            Rule::StructuredFeatures { first, count } => {
                result = self
                    .subleaf(first, count, subleaf)
                    .unwrap_or(CpuidResult::ZERO);
                if subleaf == 0 && live.cr4().contains(Cr4::PKE) {
                    result.ecx |= Leaf7Ecx::OSPKE.bits();
                }
            }
            Rule::Topology { first, count } => {
                result = self.subleaf(first, count, subleaf).unwrap_or(CpuidResult {
                    ecx: subleaf & 0xff,
                    ..stored
                });
            }
            Rule::Xsave => result = self.xsave.leaf(subleaf, live),
        }
        result
    }

    fn subleaf(&self, first: u8, count: u8, subleaf: u32) -> Option<CpuidResult> {
        if subleaf >= u32::from(count) {
            return None;
        }
        self.subleaves
            .get(usize::from(first) + subleaf as usize)
            .copied()
    }

    /// The bits of CR4 that the guest may set.
    pub const fn allowed_cr4(&self) -> Cr4 {
        self.allowed_cr4
    }

    /// The bits of IA32_EFER that the guest may set, LMA among them.
    pub const fn allowed_efer(&self) -> Efer {
        self.allowed_efer
    }

    /// The bits of XCR0 that the guest may set; empty without XSAVE.
    pub const fn allowed_xcr0(&self) -> Xcr0 {
        self.xsave.allowed()
    }

    /// The bits of IA32_XSS that the guest may set, or `None` where it has no such register.
    pub fn allowed_xss(&self) -> Option<u64> {
        self.xsave
            .features()
            .contains(LeafDs1Eax::XSAVES)
            .then_some(0)
    }

    /// What the guest is offered as one that knows that it is a guest.
    pub const fn paravirt(&self) -> paravirt::Features {
        self.paravirt
    }

    /// How the ticks of its TSC become nanoseconds; there whenever the clock is offered.
    pub const fn clock_scale(&self) -> Option<Scale> {
        self.clock_scale
    }

    /// The x2APIC ID.
    pub const fn apic_id(&self) -> u32 {
        self.basic[0xb].registers.edx
    }

    /// MAXPHYADDR.
    pub const fn physical_address_bits(&self) -> u8 {
        self.physical_address_bits
    }

    /// Width of linear addresses under the largest paging mode of this CPU: 48 or 57.
    pub const fn linear_address_bits(&self) -> u8 {
        self.linear_address_bits
    }

    /// The bits of a physical address that must be zero.
    pub const fn reserved_physical_bits(&self) -> u64 {
        !0 << self.physical_address_bits
    }

    /// Leaf 1, EAX: family, model and stepping, which RDX holds after reset.
    pub const fn leaf_1_eax(&self) -> u32 {
        self.basic[1].registers.eax
    }

    /// Leaf 1, ECX, without what depends on state.
    pub const fn leaf_1_ecx(&self) -> Leaf1Ecx {
        Leaf1Ecx::from_bits_retain(self.basic[1].registers.ecx)
    }

    /// Leaf 1, EDX.
    pub const fn leaf_1_edx(&self) -> Leaf1Edx {
        Leaf1Edx::from_bits_retain(self.basic[1].registers.edx)
    }

    /// Leaf 7, subleaf 0, EBX.
    pub const fn leaf_7_ebx(&self) -> Leaf7Ebx {
        Leaf7Ebx::from_bits_retain(self.basic[7].registers.ebx)
    }

    /// Leaf 7, subleaf 0, ECX, without what depends on state.
    pub const fn leaf_7_ecx(&self) -> Leaf7Ecx {
        Leaf7Ecx::from_bits_retain(self.basic[7].registers.ecx)
    }

    /// Leaf 7, subleaf 0, EDX.
    pub const fn leaf_7_edx(&self) -> Leaf7Edx {
        Leaf7Edx::from_bits_retain(self.basic[7].registers.edx)
    }

    /// Leaf 80000001H, EDX.
    pub const fn extended_1_edx(&self) -> ExtendedEdx {
        ExtendedEdx::from_bits_retain(self.extended[1].registers.edx)
    }
}
