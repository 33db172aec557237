//! The register file of the vCPU that has just exited, as the handlers see it.

use arch::{
    AccessRights, Cr0, Cr4, DescriptorTable, Efer, Gpr, Rflags, Segment, SegmentName, Width, Xcr0,
};
use machine::devices::lapic::Lapic;
use memory::GuestVirt;

/// One vCPU's architectural state. A backend implements it over what the hardware keeps; the tests over
/// plain fields. Methods read and write lazily: what a handler does not ask for costs nothing.
///
/// Setters store what they are given; whether a guest may write a value is the handlers' business, and they
/// ask before they set.
pub trait Cpu {
    /// A general-purpose register, RSP included.
    fn gpr(&self, register: Gpr) -> u64;
    /// Sets all 64 bits of a general-purpose register, RSP included.
    fn set_gpr(&mut self, register: Gpr, value: u64);
    /// RIP.
    fn rip(&self) -> u64;
    /// Sets RIP.
    fn set_rip(&mut self, rip: u64);
    /// Bytes of the instruction that exited; meaningful for exits by an instruction only.
    fn instruction_length(&self) -> u8;
    /// RFLAGS.
    fn rflags(&self) -> Rflags;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, rflags: Rflags);
    /// CR0 as the guest reads it.
    fn cr0(&self) -> Cr0;
    /// Sets CR0 as the guest is to read it, and what follows for the hardware (LMA is the caller's business).
    fn set_cr0(&mut self, cr0: Cr0);
    /// CR2.
    fn cr2(&self) -> u64;
    /// Sets CR2.
    fn set_cr2(&mut self, cr2: u64);
    /// CR3.
    fn cr3(&self) -> u64;
    /// Sets CR3.
    fn set_cr3(&mut self, cr3: u64);
    /// CR4 as the guest reads it.
    fn cr4(&self) -> Cr4;
    /// Sets CR4 as the guest is to read it, and what follows for the hardware.
    fn set_cr4(&mut self, cr4: Cr4);
    /// IA32_EFER.
    fn efer(&self) -> Efer;
    /// Sets IA32_EFER, and what follows for the hardware (such as the mode of the next entry).
    fn set_efer(&mut self, efer: Efer);
    /// The four page-directory-pointer entries that PAE paging keeps in the CPU.
    fn pdptes(&self) -> [u64; 4];
    /// Sets them.
    fn set_pdptes(&mut self, pdptes: [u64; 4]);
    /// XCR0.
    fn xcr0(&self) -> Xcr0;
    /// Sets XCR0.
    fn set_xcr0(&mut self, xcr0: Xcr0);
    /// PKRU; a backend whose guests are shown no protection keys has none to tell.
    fn pkru(&self) -> u32 {
        0
    }
    /// The XMM register with this number, or `None` where the backend cannot reach them: instructions that move
    /// one to or from a device are then unknown to the emulator.
    fn vector(&self, number: u8) -> Option<u128> {
        let _ = number;
        None
    }
    /// Sets an XMM register, the rest of the vector register left alone; `false` where that cannot be done.
    fn set_vector(&mut self, number: u8, value: u128) -> bool {
        let _ = (number, value);
        false
    }
    /// The YMM register with this number, or `None` where the backend cannot reach it.
    fn wide_vector(&self, number: u8) -> Option<[u128; 2]> {
        let _ = number;
        None
    }
    /// Sets a YMM register, and clears the rest of the vector register; `false` where that cannot be done.
    fn set_wide_vector(&mut self, number: u8, value: [u128; 2]) -> bool {
        let _ = (number, value);
        false
    }
    /// The MMX register with this number, as an instruction reads it, or `None` where the backend cannot reach it.
    fn mmx(&self, number: u8) -> Option<u64> {
        let _ = number;
        None
    }
    /// Sets an MMX register, as an instruction does; `false` where that cannot be done.
    fn set_mmx(&mut self, number: u8, value: u64) -> bool {
        let _ = (number, value);
        false
    }
    /// A segment register with its hidden part.
    fn segment(&self, name: SegmentName) -> Segment;
    /// The access rights of a segment register alone.
    fn access_rights(&self, name: SegmentName) -> AccessRights {
        self.segment(name).access
    }
    /// Sets a segment register with its hidden part.
    fn set_segment(&mut self, name: SegmentName, segment: Segment);
    /// GDTR.
    fn gdtr(&self) -> DescriptorTable;
    /// Sets GDTR.
    fn set_gdtr(&mut self, table: DescriptorTable);
    /// IDTR.
    fn idtr(&self) -> DescriptorTable;
    /// Sets IDTR.
    fn set_idtr(&mut self, table: DescriptorTable);
    /// DR0 to DR3, DR6 or DR7 (4 and 5 are aliases, which the caller resolves).
    fn debug_register(&self, register: u8) -> u64;
    /// Sets DR0 to DR3, DR6 or DR7.
    fn set_debug_register(&mut self, register: u8, value: u64);
    /// An MSR that the hardware switches with the guest (SYSENTER, STAR, FS base, PAT …), or `None` where it
    /// keeps no such MSR for the guest.
    fn hardware_msr(&self, index: u32) -> Option<u64>;
    /// Sets such an MSR; `false` where the hardware keeps none.
    fn set_hardware_msr(&mut self, index: u32, value: u64) -> bool;
    /// Whether delivery of interrupts is blocked, and by what.
    fn blocking(&self) -> Blocking;
    /// Sets it.
    fn set_blocking(&mut self, blocking: Blocking);
    /// Data breakpoints that MOV SS has met and the hardware has held back for the instruction behind it, as bits of
    /// DR6. They are the caller's from then on.
    fn take_held_breakpoints(&mut self) -> u64;
    /// The time-stamp counter as the guest would read it now.
    fn guest_tsc(&self) -> u64;
    /// Adds `ticks` to the guest's time-stamp counter, modulo 2^64. By how much it is moved, and not to where, so that
    /// the time that this takes is not lost.
    fn move_guest_tsc(&mut self, ticks: u64);
    /// The guest has moved its local APIC or changed its mode; a backend whose hardware virtualises the APIC
    /// adapts to it.
    fn apic_mode_changed(&mut self, lapic: &Lapic);
    /// Forgets cached translations of one linear address.
    fn flush_address(&mut self, gva: GuestVirt);
    /// Forgets all cached translations of this vCPU.
    fn flush_all(&mut self);

    /// Writes a general-purpose register as an instruction of this width does.
    #[inline]
    fn write_gpr(&mut self, register: Gpr, width: Width, value: u64) {
        let merged = match width {
            Width::Qword => value,
            _ => arch::gpr::merge(self.gpr(register), width, value),
        };
        self.set_gpr(register, merged);
    }

    /// The privilege level: the DPL of SS.
    fn cpl(&self) -> u8 {
        self.segment(SegmentName::Ss).access.dpl()
    }
}

bitflags::bitflags! {
    /// What holds back interrupts at this instruction boundary (SDM vol. 3, Guest Non-Register State).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Blocking: u8 {
        /// The instruction after STI.
        const STI = 1 << 0;
        /// The instruction after MOV SS or POP SS.
        const MOV_SS = 1 << 1;
        /// An NMI is being handled, until IRET.
        const NMI = 1 << 2;
    }
}
