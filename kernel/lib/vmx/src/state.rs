//! The register states in which a vCPU starts, as data.
//!
//! [`GuestState`] is what the loaders and the emulation of RESET, INIT and start-up IPIs choose from; the
//! tests run each through the model of the entry checks. The fixed bits that VMX wants in CR0 and CR4 are not
//! in here: the backend adds them where the guest cannot see them.

use arch::mtrr::PAT_AT_RESET;
use arch::{
    AccessRights, Cr0, Cr4, DescriptorTable, Efer, Gpr, Gprs, Rflags, Segment, SegmentName, Vector,
    msr,
};
use vmm::Cpu;

/// The registers of a vCPU that is about to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestState {
    /// General-purpose registers, RSP included.
    pub gprs: Gprs,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: Rflags,
    /// CR0 as the guest is to see it.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest is to see it.
    pub cr4: Cr4,
    /// IA32_EFER.
    pub efer: Efer,
    /// The segment registers, by number.
    pub segments: [Segment; 8],
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// IA32_PAT.
    pub pat: u64,
}

/// Where a guest in a flat address space starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlatStart {
    /// The first instruction.
    pub rip: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// The selector of the flat code segment.
    pub code: u16,
    /// The selector of the flat data segment.
    pub data: u16,
    /// The table that holds the two.
    pub gdtr: DescriptorTable,
}

const DR6_AT_RESET: u64 = 0xffff_0ff0;
const DR7_AT_RESET: u64 = 0x400;
const RESET_TABLE: DescriptorTable = DescriptorTable { base: 0, limit: 0xffff };

const DATA: AccessRights = AccessRights::from_bits_retain(0x93);
const FLAT_DATA: AccessRights = AccessRights::from_bits_retain(0xc093);
const FLAT_CODE_32: AccessRights = AccessRights::from_bits_retain(0xc09b);
const FLAT_CODE_64: AccessRights = AccessRights::from_bits_retain(0xa09b);
const LDT: AccessRights = AccessRights::from_bits_retain(0x82);
const BUSY_TSS: AccessRights = AccessRights::from_bits_retain(0x8b);
const VIRTUAL_8086: AccessRights = AccessRights::from_bits_retain(0xf3);

/// A segment register as a load in real mode leaves it: 16 times the selector, 64 KiB.
///
/// The type is what the entry checks take for an unrestricted guest, accessed read/write data everywhere.
pub const fn real_mode_segment(selector: u16) -> Segment {
    Segment { selector, base: (selector as u64) << 4, limit: 0xffff, access: DATA }
}

/// A segment register as a load in virtual-8086 mode leaves it.
pub const fn virtual_8086_segment(selector: u16) -> Segment {
    Segment { access: VIRTUAL_8086, ..real_mode_segment(selector) }
}

/// The access-rights field for a segment register: the layouts are the same, and bits that the entry checks
/// want to be 0 are 0.
pub const fn to_vmcs(access: AccessRights) -> u32 {
    access.bits() & 0x1_f0ff
}

/// Access rights out of a VMCS. Of an unusable register all is undefined but the DPL, which for SS is the CPL
/// (SDM vol. 3, Saving Segment Registers and Descriptor-Table Registers).
pub const fn from_vmcs(field: u32) -> AccessRights {
    let access = AccessRights::from_bits_retain(field & 0x1_f0ff);
    if access.contains(AccessRights::UNUSABLE) {
        access.intersection(AccessRights::UNUSABLE.union(AccessRights::DPL))
    } else {
        access
    }
}

/// TR's access rights when a guest enters IA-32e mode: a busy 16-bit TSS, which was right until then, would
/// break an entry check, and the hidden type means nothing to the guest before it loads TR again.
pub const fn long_mode_tr(access: AccessRights) -> AccessRights {
    AccessRights::from_bits_retain(access.bits() & !0xf | 0xb)
}

impl GuestState {
    /// After a hardware reset (SDM vol. 3, Processor State After Reset). `signature` is CPUID.1:EAX, which
    /// EDX holds then.
    pub fn reset(signature: u32) -> Self {
        let mut gprs = Gprs::new();
        gprs.set(Gpr::Rdx, signature.into());
        let mut state = Self {
            gprs,
            rip: 0xfff0,
            rflags: Rflags::ONE,
            cr0: Cr0::CD | Cr0::NW | Cr0::ET,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            segments: [real_mode_segment(0); 8],
            gdtr: RESET_TABLE,
            idtr: RESET_TABLE,
            dr6: DR6_AT_RESET,
            dr7: DR7_AT_RESET,
            pat: PAT_AT_RESET,
        };
        // The one place where the base of CS is not 16 times the selector: the first fetch is just below 4 GiB.
        let reset_cs = Segment { base: 0xffff_0000, ..real_mode_segment(0xf000) };
        state.set_segment(SegmentName::Cs, reset_cs);
        state.set_segment(SegmentName::Ldtr, Segment { access: LDT, ..real_mode_segment(0) });
        state.set_segment(SegmentName::Tr, Segment { access: BUSY_TSS, ..real_mode_segment(0) });
        state
    }

    /// After an INIT, which is a reset that leaves CR0's cache bits and most MSRs, the PAT among them, as they
    /// are; a start-up IPI is to follow.
    pub fn init(signature: u32, cr0: Cr0, pat: u64) -> Self {
        let cache = cr0 & (Cr0::CD | Cr0::NW);
        Self { cr0: cache | Cr0::ET, pat, ..Self::reset(signature) }
    }

    /// After the start-up IPI with this vector: real mode at the start of the page that the vector numbers.
    #[must_use]
    pub fn started_up(mut self, vector: Vector) -> Self {
        self.set_segment(SegmentName::Cs, real_mode_segment(u16::from(vector.0) << 8));
        self.rip = 0;
        self
    }

    /// Real mode at `segment:offset`, all segments the same.
    pub fn real_mode(segment: u16, offset: u16) -> Self {
        let mut state = Self::reset(0);
        state.cr0 = Cr0::ET;
        for name in [
            SegmentName::Es,
            SegmentName::Cs,
            SegmentName::Ss,
            SegmentName::Ds,
            SegmentName::Fs,
            SegmentName::Gs,
        ] {
            state.set_segment(name, real_mode_segment(segment));
        }
        // Software that never loads it expects the vector table at 0.
        state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
        state.rip = offset.into();
        state
    }

    /// 32-bit protected mode, flat, without paging, interrupts off.
    pub fn protected_mode(start: &FlatStart) -> Self {
        let mut state = Self::flat(start, FLAT_CODE_32);
        state.cr0 = Cr0::PE | Cr0::ET;
        state
    }

    /// 64-bit mode with the page tables at `cr3`, interrupts off.
    pub fn long_mode(start: &FlatStart, cr3: u64) -> Self {
        let mut state = Self::flat(start, FLAT_CODE_64);
        state.cr0 = Cr0::PE | Cr0::ET | Cr0::PG;
        state.cr3 = cr3;
        state.cr4 = Cr4::PAE;
        state.efer = Efer::LME | Efer::LMA;
        state
    }

    fn flat(start: &FlatStart, code: AccessRights) -> Self {
        let mut state = Self::reset(0);
        let flat = |selector, access| Segment { selector, base: 0, limit: u32::MAX, access };
        for name in
            [SegmentName::Es, SegmentName::Ss, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs]
        {
            state.set_segment(name, flat(start.data, FLAT_DATA));
        }
        state.set_segment(SegmentName::Cs, flat(start.code, code));
        state.set_segment(SegmentName::Ldtr, Segment::UNUSABLE);
        state.gdtr = start.gdtr;
        // No vector works before the guest has a table: a fault is a triple fault, and seen at once.
        state.idtr = DescriptorTable { base: 0, limit: 0 };
        state.gprs.set(Gpr::Rsp, start.rsp);
        state.rip = start.rip;
        state
    }

    /// A segment register.
    pub fn segment(&self, name: SegmentName) -> Segment {
        self.segments.get(name as usize).copied().unwrap_or(Segment::UNUSABLE)
    }

    /// Sets a segment register.
    pub fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        if let Some(slot) = self.segments.get_mut(name as usize) {
            *slot = segment;
        }
    }

    /// Loads all of it into a vCPU, and clears what it does not name (CR2, DR0 to DR3, blocking).
    pub fn load(&self, cpu: &mut impl Cpu) {
        for register in Gpr::ALL {
            cpu.set_gpr(register, self.gprs.get(register));
        }
        for name in SegmentName::ALL {
            cpu.set_segment(name, self.segment(name));
        }
        cpu.set_gdtr(self.gdtr);
        cpu.set_idtr(self.idtr);
        cpu.set_rip(self.rip);
        cpu.set_rflags(self.rflags);
        cpu.set_cr0(self.cr0);
        cpu.set_cr2(0);
        cpu.set_cr3(self.cr3);
        cpu.set_cr4(self.cr4);
        cpu.set_efer(self.efer);
        for register in 0..4 {
            cpu.set_debug_register(register, 0);
        }
        cpu.set_debug_register(6, self.dr6);
        cpu.set_debug_register(7, self.dr7);
        cpu.set_hardware_msr(msr::IA32_PAT, self.pat);
        cpu.set_pdptes([0; 4]);
        cpu.set_blocking(vmm::cpu::Blocking::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_starts_16_bytes_below_4_gib_with_the_manuals_registers() {
        let state = GuestState::reset(0x5_0654);
        let cs = state.segment(SegmentName::Cs);
        assert_eq!(cs.base + state.rip, 0xffff_fff0);
        assert_eq!(cs.selector, 0xf000);
        assert_eq!(state.cr0.bits(), 0x6000_0010);
        assert_eq!(state.rflags.bits(), 2);
        assert_eq!(state.gprs.get(Gpr::Rdx), 0x5_0654);
        assert_eq!((state.dr6, state.dr7), (0xffff_0ff0, 0x400));
        assert_eq!(state.pat, 0x0007_0406_0007_0406);
        assert_eq!(state.gdtr, DescriptorTable { base: 0, limit: 0xffff });
    }

    #[test]
    fn an_init_keeps_the_cache_bits_and_the_pat() {
        let state = GuestState::init(0x5_0654, Cr0::PE | Cr0::PG | Cr0::CD, 0x0606_0606_0606_0606);
        assert_eq!(state.cr0.bits(), 0x4000_0010);
        assert_eq!(state.pat, 0x0606_0606_0606_0606);
        assert_eq!(state.segment(SegmentName::Cs).base, 0xffff_0000);
    }

    #[test]
    fn a_start_up_ipi_starts_the_page_of_its_vector() {
        let state = GuestState::init(0, Cr0::empty(), 0).started_up(Vector(0x9a));
        let cs = state.segment(SegmentName::Cs);
        assert_eq!((cs.selector, cs.base, state.rip), (0x9a00, 0x9_a000, 0));
    }

    #[test]
    fn real_mode_segments_follow_their_selectors() {
        let state = GuestState::real_mode(0x07c0, 0x10);
        for name in [SegmentName::Cs, SegmentName::Ss, SegmentName::Gs] {
            assert_eq!(state.segment(name).base, 0x7c00);
            assert_eq!(state.segment(name).limit, 0xffff);
        }
        assert_eq!(state.rip, 0x10);
        assert_eq!(virtual_8086_segment(0x1234).access.bits(), 0xf3);
    }

    #[test]
    fn access_rights_lose_only_what_is_reserved_or_undefined() {
        assert_eq!(to_vmcs(AccessRights::from_bits_retain(0xff_af9b)), 0x1_a09b);
        assert_eq!(from_vmcs(0xa09b).bits(), 0xa09b);
        assert_eq!(from_vmcs(0x1_c0f3).bits(), 0x1_0060);
        assert_eq!(long_mode_tr(AccessRights::from_bits_retain(0x83)).bits(), 0x8b);
    }
}
