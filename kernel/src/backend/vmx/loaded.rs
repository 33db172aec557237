//! One vCPU on this CPU: its registers as the handlers see them, over the current VMCS.

use core::arch::asm;

use arch::{
    AccessRights, Cr0, Cr4, DescriptorTable, Efer, Gpr, Rflags, Segment, SegmentName, Xcr0, msr,
};
use machine::devices::lapic::Lapic;
use memory::GuestVirt;
use vmm::cpu::{Blocking, Cpu};
use vmx::access_rights::{from_vmcs, to_vmcs};
use vmx::apic::ApicMode;
use vmx::controls::EntryControls;
use vmx::fields::{self, SegmentFields};
use vmx::{PinControls, PrimaryControls, SecondaryControls};

use super::controls::CR0_GUEST_OWNED;
use super::vmcs::CurrentVmcs;
use super::{VmxVcpu, tlb, vector};
use crate::backend::Windows;
use crate::cpu::control;
use crate::cpu::msr::{read_msr, write_msr};
use crate::hw::clock;

/// A vCPU whose VMCS is current on this CPU and whose switched state is in its registers.
pub(crate) struct VmxLoaded<'a> {
    pub(super) vcpu: &'a mut VmxVcpu,
    pub(super) vmcs: CurrentVmcs,
}

/// Blocking by STI, in the VMCS's interruptibility state (SDM vol. 3, Guest Non-Register State).
const BLOCKING_BY_STI: u32 = 1 << 0;
/// Blocking by MOV SS.
const BLOCKING_BY_MOV_SS: u32 = 1 << 1;
/// Blocking by NMI.
pub(super) const BLOCKING_BY_NMI: u32 = 1 << 3;

impl VmxLoaded<'_> {
    /// Writes the primary controls, with the windows that are wanted.
    #[inline]
    pub(super) fn write_primary_controls(&self) {
        let windows = self.vcpu.windows;
        let mut primary = self.vcpu.primary;
        primary.set(
            PrimaryControls::INTERRUPT_WINDOW_EXITING,
            windows.contains(Windows::INTERRUPT),
        );
        primary.set(
            PrimaryControls::NMI_WINDOW_EXITING,
            windows.contains(Windows::NMI),
        );
        self.vmcs.write(fields::PRIMARY_CONTROLS, primary.bits());
    }

    /// Replaces some of the pin-based controls.
    pub(super) fn change_pin(&mut self, which: PinControls, now: PinControls) {
        let new = self.vcpu.pin.difference(which) | now;
        if new != self.vcpu.pin {
            self.vcpu.pin = new;
            self.vmcs.write(fields::PIN_BASED_CONTROLS, new.bits());
        }
    }

    /// Replaces some of the secondary controls.
    pub(super) fn change_secondary(&mut self, which: SecondaryControls, now: SecondaryControls) {
        let new = self.vcpu.secondary.difference(which) | now;
        if new != self.vcpu.secondary {
            self.vcpu.secondary = new;
            self.vmcs.write(fields::SECONDARY_CONTROLS, new.bits());
        }
    }
}

impl Cpu for VmxLoaded<'_> {
    #[inline]
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rsp => self.vmcs.read(fields::GUEST_RSP),
            _ => self.vcpu.frame.gprs.get(register),
        }
    }

    #[inline]
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rsp => self.vmcs.write(fields::GUEST_RSP, value),
            _ => self.vcpu.frame.gprs.set(register, value),
        }
    }

    #[inline]
    fn rip(&self) -> u64 {
        self.vmcs.read(fields::GUEST_RIP)
    }

    #[inline]
    fn set_rip(&mut self, rip: u64) {
        self.vmcs.write(fields::GUEST_RIP, rip);
    }

    #[inline]
    fn instruction_length(&self) -> u8 {
        self.vmcs.read(fields::EXIT_INSTRUCTION_LENGTH) as u8
    }

    #[inline]
    fn rflags(&self) -> Rflags {
        Rflags::from_bits_retain(self.vmcs.read(fields::GUEST_RFLAGS))
    }

    #[inline]
    fn set_rflags(&mut self, rflags: Rflags) {
        self.vmcs.write(fields::GUEST_RFLAGS, rflags.bits());
    }

    fn cr0(&self) -> Cr0 {
        let hardware = Cr0::from_bits_retain(self.vmcs.read(fields::GUEST_CR0));
        let shadow = Cr0::from_bits_retain(self.vmcs.read(fields::CR0_READ_SHADOW));
        (hardware & CR0_GUEST_OWNED) | (shadow & !CR0_GUEST_OWNED)
    }

    fn set_cr0(&mut self, cr0: Cr0) {
        let hardware = cr0 | self.vcpu.vmx.fixed.cr0_ones;
        self.vmcs.write(fields::GUEST_CR0, hardware.bits());
        self.vmcs.write(fields::CR0_READ_SHADOW, cr0.bits());
    }

    fn cr2(&self) -> u64 {
        let cr2: u64;
        // SAFETY: reads a register. It holds the guest's value: the hypervisor takes no page fault that it survives.
        unsafe { asm!("mov {0}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
        cr2
    }

    fn set_cr2(&mut self, cr2: u64) {
        // SAFETY: only a page-fault handler reads CR2.
        unsafe { asm!("mov cr2, {0}", in(reg) cr2, options(nomem, nostack, preserves_flags)) };
    }

    fn cr3(&self) -> u64 {
        self.vmcs.read(fields::GUEST_CR3)
    }

    fn set_cr3(&mut self, cr3: u64) {
        self.vmcs.write(fields::GUEST_CR3, cr3);
    }

    fn cr4(&self) -> Cr4 {
        let hardware = Cr4::from_bits_retain(self.vmcs.read(fields::GUEST_CR4));
        let shadow = Cr4::from_bits_retain(self.vmcs.read(fields::CR4_READ_SHADOW));
        let owned = self.vcpu.cr4_guest_owned;
        (hardware & owned) | (shadow & !owned)
    }

    fn set_cr4(&mut self, cr4: Cr4) {
        let hardware = cr4 | self.vcpu.vmx.fixed.cr4_ones;
        self.vmcs.write(fields::GUEST_CR4, hardware.bits());
        self.vmcs.write(fields::CR4_READ_SHADOW, cr4.bits());
    }

    fn efer(&self) -> Efer {
        Efer::from_bits_retain(self.vmcs.read(fields::GUEST_EFER))
    }

    fn set_efer(&mut self, efer: Efer) {
        self.vmcs.write(fields::GUEST_EFER, efer.bits());
        let mut controls = EntryControls::from_bits_retain(self.vmcs.read(fields::ENTRY_CONTROLS));
        controls.set(EntryControls::IA32E_MODE_GUEST, efer.contains(Efer::LMA));
        self.vmcs.write(fields::ENTRY_CONTROLS, controls.bits());
    }

    fn pdptes(&self) -> [u64; 4] {
        [
            self.vmcs.read(fields::GUEST_PDPTE0),
            self.vmcs.read(fields::GUEST_PDPTE1),
            self.vmcs.read(fields::GUEST_PDPTE2),
            self.vmcs.read(fields::GUEST_PDPTE3),
        ]
    }

    fn set_pdptes(&mut self, [pdpte0, pdpte1, pdpte2, pdpte3]: [u64; 4]) {
        self.vmcs.write(fields::GUEST_PDPTE0, pdpte0);
        self.vmcs.write(fields::GUEST_PDPTE1, pdpte1);
        self.vmcs.write(fields::GUEST_PDPTE2, pdpte2);
        self.vmcs.write(fields::GUEST_PDPTE3, pdpte3);
    }

    fn xcr0(&self) -> Xcr0 {
        self.vcpu.switched.xcr0
    }

    fn set_xcr0(&mut self, xcr0: Xcr0) {
        self.vcpu.switched.set_xcr0(xcr0);
    }

    fn pkru(&self) -> u32 {
        if !control::read_cr4().contains(Cr4::PKE) {
            return 0;
        }
        let value: u32;
        // SAFETY: reads a register, which holds the guest's value; CR4.PKE is set.
        unsafe {
            asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _, options(nomem, nostack, preserves_flags));
        }
        value
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let fields = SegmentFields::guest(name);
        Segment {
            selector: self.vmcs.read(fields.selector),
            base: self.vmcs.read(fields.base),
            limit: self.vmcs.read(fields.limit),
            access: from_vmcs(self.vmcs.read(fields.access_rights)),
        }
    }

    #[inline]
    fn access_rights(&self, name: SegmentName) -> AccessRights {
        from_vmcs(self.vmcs.read(SegmentFields::guest(name).access_rights))
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        let fields = SegmentFields::guest(name);
        self.vmcs.write(fields.selector, segment.selector);
        self.vmcs.write(fields.base, segment.base);
        self.vmcs.write(fields.limit, segment.limit);
        self.vmcs
            .write(fields.access_rights, to_vmcs(segment.access));
    }

    fn cpl(&self) -> u8 {
        AccessRights::from_bits_retain(self.vmcs.read(fields::GUEST_SS_ACCESS_RIGHTS)).dpl()
    }

    fn gdtr(&self) -> DescriptorTable {
        DescriptorTable {
            base: self.vmcs.read(fields::GUEST_GDTR_BASE),
            limit: self.vmcs.read(fields::GUEST_GDTR_LIMIT) as u16,
        }
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.vmcs.write(fields::GUEST_GDTR_BASE, table.base);
        self.vmcs
            .write(fields::GUEST_GDTR_LIMIT, u32::from(table.limit));
    }

    fn idtr(&self) -> DescriptorTable {
        DescriptorTable {
            base: self.vmcs.read(fields::GUEST_IDTR_BASE),
            limit: self.vmcs.read(fields::GUEST_IDTR_LIMIT) as u16,
        }
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.vmcs.write(fields::GUEST_IDTR_BASE, table.base);
        self.vmcs
            .write(fields::GUEST_IDTR_LIMIT, u32::from(table.limit));
    }

    fn debug_register(&self, register: u8) -> u64 {
        let value: u64;
        // SAFETY: reads a register that holds the guest's value while its vCPU is loaded.
        unsafe {
            match register {
                0 => asm!("mov {0}, dr0", out(reg) value, options(nomem, nostack)),
                1 => asm!("mov {0}, dr1", out(reg) value, options(nomem, nostack)),
                2 => asm!("mov {0}, dr2", out(reg) value, options(nomem, nostack)),
                3 => asm!("mov {0}, dr3", out(reg) value, options(nomem, nostack)),
                6 => asm!("mov {0}, dr6", out(reg) value, options(nomem, nostack)),
                _ => value = self.vmcs.read(fields::GUEST_DR7),
            }
        }
        value
    }

    fn set_debug_register(&mut self, register: u8, value: u64) {
        // SAFETY: DR7 of the host arms no breakpoint, and the handlers keep DR6 to 32 bits.
        unsafe {
            match register {
                0 => asm!("mov dr0, {0}", in(reg) value, options(nomem, nostack)),
                1 => asm!("mov dr1, {0}", in(reg) value, options(nomem, nostack)),
                2 => asm!("mov dr2, {0}", in(reg) value, options(nomem, nostack)),
                3 => asm!("mov dr3, {0}", in(reg) value, options(nomem, nostack)),
                6 => asm!("mov dr6, {0}", in(reg) value, options(nomem, nostack)),
                _ => self.vmcs.write(fields::GUEST_DR7, value),
            }
        }
    }

    fn vector(&self, number: u8) -> Option<u128> {
        vector::read(number)
    }

    fn set_vector(&mut self, number: u8, value: u128) -> bool {
        vector::write(number, value)
    }

    fn wide_vector(&self, number: u8) -> Option<[u128; 2]> {
        let has_avx = self.vcpu.switched.xcr0.contains(Xcr0::AVX);
        has_avx.then(|| vector::read_wide(number)).flatten()
    }

    fn set_wide_vector(&mut self, number: u8, value: [u128; 2]) -> bool {
        self.vcpu.switched.xcr0.contains(Xcr0::AVX) && vector::write_wide(number, value)
    }

    fn mmx(&self, number: u8) -> Option<u64> {
        vector::read_mmx(number)
    }

    fn set_mmx(&mut self, number: u8, value: u64) -> bool {
        vector::write_mmx(number, value)
    }

    fn hardware_msr(&self, index: u32) -> Option<u64> {
        Some(match index {
            msr::IA32_EFER => self.vmcs.read(fields::GUEST_EFER),
            msr::IA32_PAT => self.vmcs.read(fields::GUEST_PAT),
            msr::IA32_FS_BASE => self.vmcs.read(fields::GUEST_FS_BASE),
            msr::IA32_GS_BASE => self.vmcs.read(fields::GUEST_GS_BASE),
            msr::IA32_SYSENTER_CS => u64::from(self.vmcs.read(fields::GUEST_SYSENTER_CS)),
            msr::IA32_SYSENTER_ESP => self.vmcs.read(fields::GUEST_SYSENTER_ESP),
            msr::IA32_SYSENTER_EIP => self.vmcs.read(fields::GUEST_SYSENTER_EIP),
            msr::IA32_DEBUGCTL => self.vmcs.read(fields::GUEST_DEBUGCTL),
            msr::IA32_XSS => self.vcpu.switched.xss,
            msr::IA32_SPEC_CTRL if self.vcpu.vmx.guard.switches_spec_ctrl() => {
                self.vcpu.frame.guest_spec_ctrl
            }
            _ if self.vcpu.switched.switches(index) => read_msr(index),
            _ => return None,
        })
    }

    fn set_hardware_msr(&mut self, index: u32, value: u64) -> bool {
        match index {
            msr::IA32_EFER => self.set_efer(Efer::from_bits_retain(value)),
            msr::IA32_PAT => self.vmcs.write(fields::GUEST_PAT, value),
            msr::IA32_FS_BASE => self.vmcs.write(fields::GUEST_FS_BASE, value),
            msr::IA32_GS_BASE => self.vmcs.write(fields::GUEST_GS_BASE, value),
            msr::IA32_SYSENTER_CS => self.vmcs.write(fields::GUEST_SYSENTER_CS, value as u32),
            msr::IA32_SYSENTER_ESP => self.vmcs.write(fields::GUEST_SYSENTER_ESP, value),
            msr::IA32_SYSENTER_EIP => self.vmcs.write(fields::GUEST_SYSENTER_EIP, value),
            msr::IA32_DEBUGCTL => self.vmcs.write(fields::GUEST_DEBUGCTL, value),
            msr::IA32_XSS => self.vcpu.switched.set_xss(value),
            msr::IA32_SPEC_CTRL if self.vcpu.vmx.guard.switches_spec_ctrl() => {
                self.vcpu.frame.guest_spec_ctrl = value;
            }
            msr::IA32_PRED_CMD | msr::IA32_FLUSH_CMD
                if self.vcpu.vmx.guard.switches_spec_ctrl() =>
            {
                // SAFETY: CPUID shows the MSR, and the handlers let defined commands through only: the processor
                // forgets predictions, or what its cache holds.
                unsafe { write_msr(index, value) };
            }
            _ if self.vcpu.switched.switches(index) => {
                // SAFETY: the MSR is one that the hypervisor does not use; the handlers check the value as the
                // processor would (canonical addresses, reserved bits).
                unsafe { write_msr(index, value) };
            }
            _ => return false,
        }
        true
    }

    #[inline]
    fn blocking(&self) -> Blocking {
        let state = self.vmcs.read(fields::GUEST_INTERRUPTIBILITY);
        let mut blocking = Blocking::empty();
        blocking.set(Blocking::STI, state & BLOCKING_BY_STI != 0);
        blocking.set(Blocking::MOV_SS, state & BLOCKING_BY_MOV_SS != 0);
        blocking.set(Blocking::NMI, state & BLOCKING_BY_NMI != 0);
        blocking
    }

    fn set_blocking(&mut self, blocking: Blocking) {
        let mut state = 0;
        if blocking.contains(Blocking::STI) {
            state |= BLOCKING_BY_STI;
        }
        if blocking.contains(Blocking::MOV_SS) {
            state |= BLOCKING_BY_MOV_SS;
        }
        if blocking.contains(Blocking::NMI) {
            state |= BLOCKING_BY_NMI;
        }
        self.vmcs.write(fields::GUEST_INTERRUPTIBILITY, state);
    }

    fn take_held_breakpoints(&mut self) -> u64 {
        // SDM vol. 3, Guest Non-Register State: B0 to B3 may also be set for breakpoints that are not enabled.
        const BREAKPOINTS: u64 = 0xf;
        const ENABLED: u64 = 1 << 12;
        let pending = self.vmcs.read(fields::GUEST_PENDING_DEBUG_EXCEPTIONS);
        if pending & ENABLED == 0 {
            return 0;
        }
        self.vmcs.write(fields::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
        pending & BREAKPOINTS
    }

    #[inline]
    fn guest_tsc(&self) -> u64 {
        self.vcpu.tsc.at(clock::tsc())
    }

    fn move_guest_tsc(&mut self, ticks: u64) {
        self.vcpu.tsc.advance(ticks);
        self.vmcs.write(fields::TSC_OFFSET, self.vcpu.tsc.offset());
    }

    fn apic_mode_changed(&mut self, lapic: &Lapic) {
        let ram = self.vcpu.space.pieces();
        self.vcpu.peculiarity.hidden = lapic.mmio_base().filter(|&page| ram.contain(page));
        self.virtualise_apic(ApicMode::of(lapic));
        self.open_posts_here();
        // The manual wants it where the APIC-access page comes or goes.
        self.flush_all();
    }

    fn flush_address(&mut self, gva: GuestVirt) {
        tlb::flush_address(self.vcpu.vmx.tlb, self.vcpu.vpid, gva);
    }

    fn flush_all(&mut self) {
        tlb::flush_vpid(self.vcpu.vmx.tlb, self.vcpu.vpid);
    }
}
