//! Fakes for host tests: a CPU of plain fields, memory in a vector, and a machine that plays a script.
//!
//! They are compiled for this crate's own tests and, with the feature `testing`, for those of others. Being
//! test code, they panic where a test has set them up wrongly.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use arch::cpuid::CpuidResult;
use arch::{
    AccessRights, Cr0, Cr4, DescriptorTable, Efer, Gpr, Gprs, Rflags, Segment, SegmentName, Vector,
    Width, Xcr0, msr,
};
use machine::devices::lapic::{ApicMode, Ipi, Lapic, LapicConfig, LapicFeatures, Role};
use machine::devices::routing::Route;
use memory::{GuestMemory, GuestPhys, GuestVirt, Unbacked};

use crate::cpu::{Blocking, Cpu};
use crate::cpuid::{Backing, CpuidTable, GuestCpuConfig};
use crate::machine::Machine;
use crate::state::VcpuState;

/// A CPU whose whole state is plain fields.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the registers that they are named after")]
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
}

fn code_segment(selector: u16, access: AccessRights) -> Segment {
    let code = AccessRights::CODE
        | AccessRights::WRITABLE
        | AccessRights::ACCESSED
        | AccessRights::CODE_OR_DATA
        | AccessRights::PRESENT
        | AccessRights::GRANULARITY;
    Segment { selector, base: 0, limit: 0xffff_ffff, access: code | access }
}

fn data_segment(selector: u16) -> Segment {
    let access = AccessRights::WRITABLE
        | AccessRights::ACCESSED
        | AccessRights::CODE_OR_DATA
        | AccessRights::PRESENT
        | AccessRights::GRANULARITY
        | AccessRights::DEFAULT_BIG;
    Segment { selector, base: 0, limit: 0xffff_ffff, access }
}

impl FakeCpu {
    fn new(cr0: Cr0, code: Segment) -> Self {
        let data = data_segment(0x10);
        let busy_tss = AccessRights::from_bits_retain(0xb) | AccessRights::PRESENT;
        let tr = Segment { selector: 0x18, base: 0, limit: 0x67, access: busy_tss };
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
            segment.access.remove(AccessRights::GRANULARITY | AccessRights::DEFAULT_BIG);
        }
        cpu
    }

    /// Moves the CPU to ring 3 as far as SS tells it.
    #[must_use]
    pub fn in_ring_3(mut self) -> Self {
        self.segments[SegmentName::Ss as usize].access.insert(AccessRights::DPL);
        self.segments[SegmentName::Cs as usize].access.insert(AccessRights::DPL);
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
        assert!(!matches!(register, 4 | 5), "the aliases are the caller's business");
        self.debug_registers[register as usize]
    }

    fn set_debug_register(&mut self, register: u8, value: u64) {
        assert!(!matches!(register, 4 | 5), "the aliases are the caller's business");
        self.debug_registers[register as usize] = value;
    }

    fn hardware_msr(&self, index: u32) -> Option<u64> {
        self.hardware_msrs.get(&index).copied()
    }

    fn set_hardware_msr(&mut self, index: u32, value: u64) -> bool {
        self.hardware_msrs.get_mut(&index).map(|slot| *slot = value).is_some()
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }

    fn set_blocking(&mut self, blocking: Blocking) {
        self.blocking = blocking;
    }

    fn guest_tsc(&self) -> u64 {
        self.tsc
    }

    fn set_guest_tsc(&mut self, tsc: u64) {
        self.tsc = tsc;
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

/// RAM from guest-physical 0 on, in a vector.
#[derive(Clone, Debug)]
pub struct FakeMemory {
    bytes: RefCell<Vec<u8>>,
}

impl FakeMemory {
    /// This many bytes of zeroes.
    pub fn new(bytes: usize) -> Self {
        Self { bytes: RefCell::new(vec![0; bytes]) }
    }

    fn span(&self, gpa: GuestPhys, len: usize) -> Result<core::ops::Range<usize>, Unbacked> {
        let size = self.bytes.borrow().len() as u64;
        let end = gpa.checked_add(len as u64).ok_or(Unbacked(gpa))?.as_u64();
        if end > size {
            return Err(Unbacked(GuestPhys::new(gpa.as_u64().max(size))));
        }
        Ok(gpa.as_u64() as usize..end as usize)
    }

    /// Stores a 64-bit value; for setting up a test.
    pub fn put_u64(&self, gpa: u64, value: u64) {
        self.write(GuestPhys::new(gpa), &value.to_le_bytes()).expect("a test's own address");
    }

    /// Stores a 32-bit value; for setting up a test.
    pub fn put_u32(&self, gpa: u64, value: u32) {
        self.write(GuestPhys::new(gpa), &value.to_le_bytes()).expect("a test's own address");
    }

    /// Stores bytes; for setting up a test.
    pub fn put(&self, gpa: u64, bytes: &[u8]) {
        self.write(GuestPhys::new(gpa), bytes).expect("a test's own address");
    }

    /// Loads bytes; for looking at a result.
    pub fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(GuestPhys::new(gpa), &mut bytes).expect("a test's own address");
        bytes
    }

    /// Loads a 32-bit value; for looking at a result.
    pub fn get_u32(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.get(gpa))
    }

    /// Loads a 16-bit value; for looking at a result.
    pub fn get_u16(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.get(gpa))
    }

    /// Builds 4-level tables at `root` (7 pages from there) that map linear 0 to 1 GiB onto itself with 2 MiB
    /// pages, and the linear GiB from 0xffff_8000_0000_0000 likewise; all writable and for supervisors.
    pub fn identity_map_long_mode(&self, root: u64) {
        let (pdpt, pd) = (root + 0x1000, root + 0x2000);
        self.put_u64(root, pdpt | 3);
        self.put_u64(root + 256 * 8, pdpt | 3);
        self.put_u64(pdpt, pd | 3);
        for i in 0..512 {
            self.put_u64(pd + i * 8, (i << 21) | 0x83);
        }
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), Unbacked> {
        let span = self.span(gpa, buffer.len())?;
        buffer.copy_from_slice(&self.bytes.borrow()[span]);
        Ok(())
    }

    fn write(&self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), Unbacked> {
        let span = self.span(gpa, bytes.len())?;
        self.bytes.borrow_mut()[span].copy_from_slice(bytes);
        Ok(())
    }

    fn compare_exchange_u64(
        &self,
        gpa: GuestPhys,
        current: u64,
        new: u64,
    ) -> Result<u64, Unbacked> {
        if !gpa.as_u64().is_multiple_of(8) {
            return Err(Unbacked(gpa));
        }
        let found = self.read_u64(gpa)?;
        if found == current {
            self.write(gpa, &new.to_le_bytes())?;
        }
        Ok(found)
    }

    fn compare_exchange_u32(
        &self,
        gpa: GuestPhys,
        current: u32,
        new: u32,
    ) -> Result<u32, Unbacked> {
        if !gpa.as_u64().is_multiple_of(4) {
            return Err(Unbacked(gpa));
        }
        let found = self.read_u32(gpa)?;
        if found == current {
            self.write(gpa, &new.to_le_bytes())?;
        }
        Ok(found)
    }
}

/// A machine that answers from scripts and writes down what is asked of it.
#[derive(Debug)]
pub struct FakeMachine {
    /// Its RAM.
    pub memory: FakeMemory,
    /// What successive reads of a port return; with an empty script all ones.
    pub port_script: BTreeMap<u16, VecDeque<u32>>,
    /// All port reads, in order.
    pub port_reads: Vec<(u16, Width)>,
    /// All port writes, in order.
    pub port_writes: Vec<(u16, Width, u32)>,
    /// What memory-mapped registers read as; all ones where nothing is set.
    pub mmio: BTreeMap<u64, u64>,
    /// All reads of memory-mapped registers, in order.
    pub mmio_reads: Vec<(u64, Width)>,
    /// All writes of memory-mapped registers, in order.
    pub mmio_writes: Vec<(u64, Width, u64)>,
    /// The interprocessor interrupts sent, in order.
    pub ipis: Vec<Ipi>,
    /// The routes published, in order.
    pub routes: Vec<Route>,
    /// The EOIs that reached the I/O APIC, in order.
    pub ends_of_interrupt: Vec<Vector>,
    /// What the clock reads.
    pub now_ns: u64,
}

impl FakeMachine {
    /// A machine with this many bytes of RAM at 0.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            memory: FakeMemory::new(memory_bytes),
            port_script: BTreeMap::new(),
            port_reads: Vec::new(),
            port_writes: Vec::new(),
            mmio: BTreeMap::new(),
            mmio_reads: Vec::new(),
            mmio_writes: Vec::new(),
            ipis: Vec::new(),
            routes: Vec::new(),
            ends_of_interrupt: Vec::new(),
            now_ns: 0,
        }
    }

    /// Lets successive reads of a port return these values.
    pub fn script_port(&mut self, port: u16, values: &[u32]) {
        self.port_script.entry(port).or_default().extend(values);
    }
}

impl Machine for FakeMachine {
    type Memory = FakeMemory;

    fn memory(&self) -> &FakeMemory {
        &self.memory
    }

    fn read_port(&mut self, port: u16, width: Width) -> u32 {
        self.port_reads.push((port, width));
        let value = self.port_script.get_mut(&port).and_then(VecDeque::pop_front);
        width.truncate(u64::from(value.unwrap_or(u32::MAX))) as u32
    }

    fn write_port(&mut self, port: u16, width: Width, value: u32) {
        self.port_writes.push((port, width, value));
    }

    fn read_mmio(&mut self, gpa: GuestPhys, width: Width) -> u64 {
        self.mmio_reads.push((gpa.as_u64(), width));
        width.truncate(self.mmio.get(&gpa.as_u64()).copied().unwrap_or(u64::MAX))
    }

    fn write_mmio(&mut self, gpa: GuestPhys, width: Width, value: u64) {
        self.mmio_writes.push((gpa.as_u64(), width, value));
        self.mmio.insert(gpa.as_u64(), value);
    }

    fn send(&mut self, ipi: Ipi) {
        self.ipis.push(ipi);
    }

    fn reroute(&mut self, route: Route) {
        self.routes.push(route);
    }

    fn end_of_interrupt(&mut self, vector: Vector) {
        self.ends_of_interrupt.push(vector);
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

/// CPUID of a host much like a server processor of 2017, with more shown than a guest should see.
pub fn host_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let regs = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
    match (leaf, subleaf) {
        (0, _) => regs(0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
        (1, _) => regs(0x0005_0654, 0x0310_0800, 0x7ffe_fbff, 0xbfeb_fbff),
        (2, _) => regs(0x7603_6301, 0x00f0_b5ff, 0, 0x00c3_0000),
        (4, 0) => regs(0x7c00_4121, 0x01c0_003f, 0x3f, 0),
        (4, 1) => regs(0x7c00_4122, 0x01c0_003f, 0x3f, 0),
        (4, 2) => regs(0x7c00_4143, 0x03c0_003f, 0x3ff, 0),
        (4, 3) => regs(0x7c07_c163, 0x0280_003f, 0x4fff, 4),
        (6, _) => regs(0xff, 2, 9, 0),
        (7, 0) => regs(0, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff),
        (0xa, _) => regs(0x0730_0404, 0, 0, 0x603),
        (0xd, 0) => regs(0x2ff, 0xa88, 0xa88, 0),
        (0xd, 1) => regs(0xf, 0xa08, 0x100, 0),
        (0xd, 2) => regs(0x100, 0x240, 0, 0),
        (0xd, 3) => regs(0x40, 0x3c0, 0, 0),
        (0xd, 4) => regs(0x40, 0x400, 0, 0),
        (0xd, 5) => regs(0x40, 0x440, 0, 0),
        (0xd, 6) => regs(0x200, 0x480, 0, 0),
        (0xd, 7) => regs(0x400, 0x680, 0, 0),
        (0xd, 8) => regs(0x80, 0, 1, 0),
        (0xd, 9) => regs(8, 0xa80, 0, 0),
        (0x15, _) => regs(2, 280, 25_000_000, 0),
        (0x16, _) => regs(3500, 4000, 100, 0),
        (0x8000_0000, _) => regs(0x8000_0008, 0, 0, 0),
        (0x8000_0001, _) => regs(0, 0, 0x121, 0x2c10_0800),
        (0x8000_0002, _) => regs(0x6574_6e49, 0x2952_286c, 0x6f65_5820, 0x2952_286e),
        (0x8000_0006, _) => regs(0, 0, 0x0100_8040, 0),
        (0x8000_0007, _) => regs(0, 0, 0, 0x100),
        (0x8000_0008, _) => regs(0x302e, 0, 0, 0),
        _ => CpuidResult::ZERO,
    }
}

/// A configuration for two vCPUs with everything on.
pub fn guest_cpu_config() -> GuestCpuConfig {
    GuestCpuConfig {
        vcpus: 2,
        apic_id: 0,
        tsc_hz: 3_500_000_000,
        crystal_hz: 25_000_000,
        xcr0: Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512 | Xcr0::PKRU,
        backing: Backing::all(),
    }
}

/// A vCPU after reset that sees [`host_cpuid`] by [`guest_cpu_config`].
pub fn vcpu() -> VcpuState {
    vcpu_with(&guest_cpu_config())
}

/// A vCPU after reset that sees [`host_cpuid`] by this configuration.
pub fn vcpu_with(config: &GuestCpuConfig) -> VcpuState {
    let cpuid = CpuidTable::build(&host_cpuid, config);
    let lapic = Lapic::new(LapicConfig {
        id: config.apic_id,
        role: Role::Bootstrap,
        features: LapicFeatures::all(),
        bus_hz: config.crystal_hz,
        physical_address_bits: cpuid.physical_address_bits(),
    });
    VcpuState::new(cpuid, lapic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_memory_ends_where_it_ends() {
        let memory = FakeMemory::new(0x1000);
        assert_eq!(memory.write(GuestPhys::new(0xffc), &[1; 4]), Ok(()));
        let end = Unbacked(GuestPhys::new(0x1000));
        assert_eq!(memory.write(GuestPhys::new(0xffd), &[1; 4]), Err(end));
        assert!(memory.read_u64(GuestPhys::new(u64::MAX)).is_err());
    }

    #[test]
    fn a_scripted_port_returns_its_script_and_then_all_ones() {
        let mut machine = FakeMachine::new(0);
        machine.script_port(0x40, &[0x112, 3]);
        assert_eq!(machine.read_port(0x40, Width::Byte), 0x12);
        assert_eq!(machine.read_port(0x40, Width::Word), 3);
        assert_eq!(machine.read_port(0x40, Width::Word), 0xffff);
    }
}
