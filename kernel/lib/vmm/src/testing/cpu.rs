//! [`FakeCpu`].

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use arch::{
    AccessRights, Cr0, Cr4, DescriptorTable, Efer, Gpr, Gprs, Rflags, Segment, SegmentName, Xcr0,
    msr,
};
use machine::devices::lapic::{ApicMode, Lapic};
use memory::GuestVirt;

use crate::cpu::{Blocking, Cpu};

/// A CPU whose whole state is plain fields.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    reason = "the fields are the registers that they are named after"
)]
pub struct FakeCpu {
    pub gprs: Gprs,
    pub rip: u64,
    pub instruction_length: u8,
    pub rflags: Rflags,
    pub cr0: Cr0,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: Cr4,
    pub efer: Efer,
    pub pdptes: [u64; 4],
    pub xcr0: Xcr0,
    /// In the order of [`SegmentName::ALL`].
    pub segments: [Segment; 8],
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    /// DR0 to DR7; 4 and 5 stay unused.
    pub debug_registers: [u64; 8],
    /// The MSRs that the fake hardware keeps, with their values.
    pub hardware_msrs: BTreeMap<u32, u64>,
    pub blocking: Blocking,
    pub tsc: u64,
    /// The addresses of [`Cpu::flush_address`], in order.
    pub flushed: Vec<GuestVirt>,
    /// How often [`Cpu::flush_all`] was called.
    pub full_flushes: usize,
    /// The modes of [`Cpu::apic_mode_changed`], in order.
    pub apic_modes: Vec<ApicMode>,
    /// XMM0 to XMM15.
    pub vectors: [u128; 16],
    /// What AVX adds to them.
    pub upper_vectors: [u128; 16],
    /// MMX registers.
    pub mmx: [u64; 8],
    /// What [`Cpu::take_held_breakpoints`] takes.
    pub held_breakpoints: u64,
}

fn code_segment(selector: u16, access: AccessRights) -> Segment {
    let code = AccessRights::CODE
        | AccessRights::WRITABLE
        | AccessRights::ACCESSED
        | AccessRights::CODE_OR_DATA
        | AccessRights::PRESENT
        | AccessRights::GRANULARITY;
    Segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        access: code | access,
    }
}

fn data_segment(selector: u16) -> Segment {
    let access = AccessRights::WRITABLE
        | AccessRights::ACCESSED
        | AccessRights::CODE_OR_DATA
        | AccessRights::PRESENT
        | AccessRights::GRANULARITY
        | AccessRights::DEFAULT_BIG;
    Segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        access,
    }
}

impl FakeCpu {
    fn new(cr0: Cr0, code: Segment) -> Self {
        let data = data_segment(0x10);
        let busy_tss = AccessRights::from_bits_retain(0xb) | AccessRights::PRESENT;
        let tr = Segment {
            selector: 0x18,
            base: 0,
            limit: 0x67,
            access: busy_tss,
        };
        let mut segments = [data; 8];
        segments[SegmentName::Cs as usize] = code;
        segments[SegmentName::Ldtr as usize] = Segment::UNUSABLE;
        segments[SegmentName::Tr as usize] = tr;
        let switched = [
            msr::IA32_SYSENTER_CS,
            msr::IA32_SYSENTER_ESP,
            msr::IA32_SYSENTER_EIP,
            msr::IA32_DEBUGCTL,
            msr::IA32_STAR,
            msr::IA32_LSTAR,
            msr::IA32_CSTAR,
            msr::IA32_FMASK,
            msr::IA32_FS_BASE,
            msr::IA32_GS_BASE,
            msr::IA32_KERNEL_GS_BASE,
            msr::IA32_TSC_AUX,
        ];
        let mut hardware_msrs: BTreeMap<u32, u64> =
            switched.into_iter().map(|index| (index, 0)).collect();
        hardware_msrs.insert(msr::IA32_PAT, 0x0007_0406_0007_0406);
        Self {
            gprs: Gprs::new(),
            rip: 0x1000,
            instruction_length: 2,
            rflags: Rflags::ONE,
            cr0: cr0 | Cr0::ET | Cr0::NE,
            cr2: 0,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            pdptes: [0; 4],
            xcr0: Xcr0::X87,
            segments,
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            debug_registers: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            hardware_msrs,
            blocking: Blocking::empty(),
            tsc: 0,
            flushed: Vec::new(),
            full_flushes: 0,
            apic_modes: Vec::new(),
            vectors: [0; 16],
            upper_vectors: [0; 16],
            mmx: [0; 8],
            held_breakpoints: 0,
        }
    }

    /// Ring 0 of 64-bit mode, with paging by the tables at `cr3`.
    pub fn long_mode(cr3: u64) -> Self {
        let cr0 = Cr0::PE | Cr0::PG | Cr0::WP;
        let mut cpu = Self::new(cr0, code_segment(0x8, AccessRights::LONG));
        cpu.cr3 = cr3;
        cpu.cr4 = Cr4::PAE;
        cpu.efer = Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE;
        cpu
    }

    /// Ring 0 of 32-bit protected mode with flat segments and without paging.
    pub fn protected_mode() -> Self {
        Self::new(Cr0::PE, code_segment(0x8, AccessRights::DEFAULT_BIG))
    }

    /// Real mode at 0000:1000 with segments of 64 KiB at 0.
    pub fn real_mode() -> Self {
        let mut cpu = Self::new(Cr0::empty(), code_segment(0, AccessRights::empty()));
        for name in [
            SegmentName::Es,
            SegmentName::Cs,
            SegmentName::Ss,
            SegmentName::Ds,
            SegmentName::Fs,
            SegmentName::Gs,
        ] {
            let segment = &mut cpu.segments[name as usize];
            segment.selector = 0;
            segment.limit = 0xffff;
            segment
                .access
                .remove(AccessRights::GRANULARITY | AccessRights::DEFAULT_BIG);
        }
        cpu
    }

    /// Moves the CPU to ring 3 as far as SS tells it.
    #[must_use]
    pub fn in_ring_3(mut self) -> Self {
        self.segments[SegmentName::Ss as usize]
            .access
            .insert(AccessRights::DPL);
        self.segments[SegmentName::Cs as usize]
            .access
            .insert(AccessRights::DPL);
        self
    }

    /// The same CPU with this general-purpose register set.
    #[must_use]
    pub fn with(mut self, register: Gpr, value: u64) -> Self {
        self.gprs.set(register, value);
        self
    }
}

impl Cpu for FakeCpu {
    fn gpr(&self, register: Gpr) -> u64 {
        self.gprs.get(register)
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.gprs.set(register, value);
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
    }

    fn instruction_length(&self) -> u8 {
        self.instruction_length
    }

    fn rflags(&self) -> Rflags {
        self.rflags
    }

    fn set_rflags(&mut self, rflags: Rflags) {
        self.rflags = rflags;
    }

    fn cr0(&self) -> Cr0 {
        self.cr0
    }

    fn set_cr0(&mut self, cr0: Cr0) {
        self.cr0 = cr0;
    }

    fn cr2(&self) -> u64 {
        self.cr2
    }

    fn set_cr2(&mut self, cr2: u64) {
        self.cr2 = cr2;
    }

    fn cr3(&self) -> u64 {
        self.cr3
    }

    fn set_cr3(&mut self, cr3: u64) {
        self.cr3 = cr3;
    }

    fn cr4(&self) -> Cr4 {
        self.cr4
    }

    fn set_cr4(&mut self, cr4: Cr4) {
        self.cr4 = cr4;
    }

    fn efer(&self) -> Efer {
        self.efer
    }

    fn set_efer(&mut self, efer: Efer) {
        self.efer = efer;
    }

    fn pdptes(&self) -> [u64; 4] {
        self.pdptes
    }

    fn set_pdptes(&mut self, pdptes: [u64; 4]) {
        self.pdptes = pdptes;
    }

    fn xcr0(&self) -> Xcr0 {
        self.xcr0
    }

    fn set_xcr0(&mut self, xcr0: Xcr0) {
        self.xcr0 = xcr0;
    }

    fn vector(&self, number: u8) -> Option<u128> {
        Some(self.vectors[usize::from(number)])
    }

    fn set_vector(&mut self, number: u8, value: u128) -> bool {
        self.vectors[usize::from(number)] = value;
        true
    }

    fn wide_vector(&self, number: u8) -> Option<[u128; 2]> {
        let number = usize::from(number);
        Some([self.vectors[number], self.upper_vectors[number]])
    }

    fn set_wide_vector(&mut self, number: u8, [low, high]: [u128; 2]) -> bool {
        let number = usize::from(number);
        self.vectors[number] = low;
        self.upper_vectors[number] = high;
        true
    }

    fn mmx(&self, number: u8) -> Option<u64> {
        Some(self.mmx[usize::from(number)])
    }

    fn set_mmx(&mut self, number: u8, value: u64) -> bool {
        self.mmx[usize::from(number)] = value;
        true
    }

    fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.segments[name as usize] = segment;
    }

    fn gdtr(&self) -> DescriptorTable {
        self.gdtr
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.gdtr = table;
    }

    fn idtr(&self) -> DescriptorTable {
        self.idtr
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.idtr = table;
    }

    fn debug_register(&self, register: u8) -> u64 {
        assert!(
            !matches!(register, 4 | 5),
            "the aliases are the caller's business"
        );
        self.debug_registers[register as usize]
    }

    fn set_debug_register(&mut self, register: u8, value: u64) {
        assert!(
            !matches!(register, 4 | 5),
            "the aliases are the caller's business"
        );
        self.debug_registers[register as usize] = value;
    }

    fn hardware_msr(&self, index: u32) -> Option<u64> {
        self.hardware_msrs.get(&index).copied()
    }

    fn set_hardware_msr(&mut self, index: u32, value: u64) -> bool {
        self.hardware_msrs
            .get_mut(&index)
            .map(|slot| *slot = value)
            .is_some()
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }

    fn set_blocking(&mut self, blocking: Blocking) {
        self.blocking = blocking;
    }

    fn take_held_breakpoints(&mut self) -> u64 {
        core::mem::take(&mut self.held_breakpoints)
    }

    fn guest_tsc(&self) -> u64 {
        self.tsc
    }

    fn move_guest_tsc(&mut self, ticks: u64) {
        self.tsc = self.tsc.wrapping_add(ticks);
    }

    fn apic_mode_changed(&mut self, lapic: &Lapic) {
        self.apic_modes.push(lapic.mode());
    }

    fn flush_address(&mut self, gva: GuestVirt) {
        self.flushed.push(gva);
    }

    fn flush_all(&mut self) {
        self.full_flushes += 1;
    }
}
