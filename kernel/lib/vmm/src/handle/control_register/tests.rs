//! The rules about control registers, one by one.

use arch::{Gpr, Segment};

use super::*;
use crate::exit::VmExit;
use crate::handle::handle;
use crate::testing::{FakeCpu, FakeMachine, vcpu};

const ROOT: u64 = 0x10_0000;
const REFUSED: Result<Next, GuestFault> = Err(GuestFault::GP0);
const DONE: Result<Next, GuestFault> = Ok(Next::Resume);

fn run(cpu: &mut FakeCpu, access: ControlRegisterAccess) -> Result<Next, GuestFault> {
    let mut machine = FakeMachine::new(0x40_0000);
    handle(
        cpu,
        &mut vcpu(),
        &mut machine,
        VmExit::ControlRegister(access),
    )
}

fn write(cpu: &mut FakeCpu, register: ControlRegister, value: u64) -> Result<Next, GuestFault> {
    cpu.gprs.set(Gpr::R9, value);
    run(
        cpu,
        ControlRegisterAccess::Write {
            register,
            source: Gpr::R9,
        },
    )
}

fn cr0(cpu: &mut FakeCpu, value: u64) -> Result<Next, GuestFault> {
    write(cpu, ControlRegister::Cr0, value)
}

fn cr4(cpu: &mut FakeCpu, value: u64) -> Result<Next, GuestFault> {
    write(cpu, ControlRegister::Cr4, value)
}

const PE: u64 = 1;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const PGE: u64 = 1 << 7;
const PCIDE: u64 = 1 << 17;

#[test]
fn cr0_ignores_low_reserved_bits_and_refuses_high_ones() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    assert_eq!(cr0(&mut cpu, PG | PE | 1 << 32), REFUSED);
    assert_eq!(cpu.rip, 0x1000);
    assert_eq!(cr0(&mut cpu, PG | PE | 0x1f0a_ffc0), DONE);
    // ET stays one.
    assert_eq!(cpu.cr0.bits(), PG | PE | 0x10);
}

#[test]
fn cr0_refuses_combinations_that_make_no_sense() {
    let mut cpu = FakeCpu::protected_mode();
    assert_eq!(cr0(&mut cpu, PG), REFUSED);
    assert_eq!(cr0(&mut cpu, PE | NW), REFUSED);
    assert_eq!(cr0(&mut cpu, PE | NW | CD), DONE);
}

#[test]
fn paging_with_lme_activates_long_mode() {
    let mut cpu = FakeCpu::protected_mode();
    cpu.efer = Efer::LME;
    // Without PAE, and with a 64-bit code segment.
    assert_eq!(cr0(&mut cpu, PG | PE), REFUSED);
    cpu.cr4 = Cr4::PAE;
    cpu.segments[SegmentName::Cs as usize]
        .access
        .insert(AccessRights::LONG);
    assert_eq!(cr0(&mut cpu, PG | PE), REFUSED);
    cpu.segments[SegmentName::Cs as usize]
        .access
        .remove(AccessRights::LONG);
    assert_eq!(cr0(&mut cpu, PG | PE), DONE);
    assert_eq!(cpu.efer, Efer::LME | Efer::LMA);
    assert_eq!(cpu.full_flushes, 1);
}

#[test]
fn long_mode_is_not_activated_on_a_16_bit_tss() {
    let mut cpu = FakeCpu::protected_mode();
    cpu.efer = Efer::LME;
    cpu.cr4 = Cr4::PAE;
    let busy_16_bit = AccessRights::from_bits_retain(0x83);
    cpu.segments[SegmentName::Tr as usize] = Segment {
        access: busy_16_bit,
        ..Segment::default()
    };
    assert_eq!(cr0(&mut cpu, PG | PE), REFUSED);
}

#[test]
fn paging_is_not_switched_off_in_64_bit_mode() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    assert_eq!(cr0(&mut cpu, PE), REFUSED);
    // From compatibility mode it is, and long mode ends, unless PCIDs are in use.
    cpu.segments[SegmentName::Cs as usize]
        .access
        .remove(AccessRights::LONG);
    cpu.cr4.insert(Cr4::PCIDE);
    assert_eq!(cr0(&mut cpu, PE), REFUSED);
    cpu.cr4.remove(Cr4::PCIDE);
    assert_eq!(cr0(&mut cpu, PE), DONE);
    assert!(!cpu.efer.contains(Efer::LMA));
    assert!(cpu.efer.contains(Efer::LME));
}

#[test]
fn pae_paging_loads_its_four_entries() {
    let mut machine = FakeMachine::new(0x40_0000);
    for (i, entry) in [0x2001, 0x3001, 0, 0xffff_0000_0000_0000]
        .into_iter()
        .enumerate()
    {
        machine.memory.put_u64(0x1020 + 8 * i as u64, entry);
    }
    let mut cpu = FakeCpu::protected_mode().with(Gpr::Rax, PG | PE);
    cpu.cr3 = 0x1020;
    cpu.cr4 = Cr4::PAE;
    let exit = VmExit::ControlRegister(ControlRegisterAccess::Write {
        register: ControlRegister::Cr0,
        source: Gpr::Rax,
    });
    assert_eq!(handle(&mut cpu, &mut vcpu(), &mut machine, exit), DONE);
    // An entry that is not present may hold anything.
    assert_eq!(cpu.pdptes, [0x2001, 0x3001, 0, 0xffff_0000_0000_0000]);
    for reserved in [0x2003, 0x2005, 0x2021, 0x2101, 1 << 46 | 1, 1 << 63 | 1] {
        machine.memory.put_u64(0x1028, reserved);
        let mut cpu = FakeCpu::protected_mode().with(Gpr::Rax, PG | PE);
        cpu.cr3 = 0x1020;
        cpu.cr4 = Cr4::PAE;
        let result = handle(&mut cpu, &mut vcpu(), &mut machine, exit);
        assert_eq!(result, REFUSED, "{reserved:#x}");
        assert!(!cpu.cr0.contains(Cr0::PG));
    }
}

#[test]
fn pae_entries_outside_memory_are_refused() {
    let mut cpu = FakeCpu::protected_mode();
    cpu.cr3 = 0x4000_0000;
    cpu.cr4 = Cr4::PAE;
    assert_eq!(cr0(&mut cpu, PG | PE), REFUSED);
}

#[test]
fn cr3_refuses_bits_above_the_physical_address() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    let cr3 = |cpu: &mut FakeCpu, value| write(cpu, ControlRegister::Cr3, value);
    assert_eq!(cr3(&mut cpu, 1 << 46), REFUSED);
    assert_eq!(cr3(&mut cpu, 1 << 63), REFUSED);
    assert_eq!(cr3(&mut cpu, 0x3fff_ffff_f018), DONE);
    assert_eq!((cpu.cr3, cpu.full_flushes), (0x3fff_ffff_f018, 1));
    // With PCIDs bit 63 means no flush, and is not kept.
    cpu.cr4.insert(Cr4::PCIDE);
    assert_eq!(cr3(&mut cpu, 1 << 63 | 0x5007), DONE);
    assert_eq!((cpu.cr3, cpu.full_flushes), (0x5007, 1));
}

#[test]
fn cr4_takes_what_cpuid_shows() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    // VMXE, SMXE, the unnamed bit 15, KL, CET, PKS, and all above.
    for bit in [13, 14, 15, 19, 23, 24, 25, 32, 63] {
        assert_eq!(cr4(&mut cpu, PAE | 1 << bit), REFUSED, "bit {bit}");
    }
    // TSD, DE, PSE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP, PKE.
    for bit in [2, 3, 4, 6, 7, 8, 9, 10, 11, 16, 18, 20, 21, 22] {
        assert_eq!(cr4(&mut cpu, PAE | 1 << bit), DONE, "bit {bit}");
        assert_eq!(cpu.cr4.bits(), PAE | 1 << bit);
    }
}

#[test]
fn long_mode_keeps_pae_and_the_number_of_levels() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    assert_eq!(cr4(&mut cpu, 0), REFUSED);
    assert_eq!(cr4(&mut cpu, PAE | 1 << 12), REFUSED);
    let mut cpu = FakeCpu::protected_mode();
    assert_eq!(cr4(&mut cpu, PAE | 1 << 12), DONE);
}

#[test]
fn pcids_are_enabled_in_long_mode_with_pcid_0_only() {
    let mut cpu = FakeCpu::protected_mode();
    assert_eq!(cr4(&mut cpu, PAE | PCIDE), REFUSED);
    let mut cpu = FakeCpu::long_mode(ROOT | 0x18);
    assert_eq!(cr4(&mut cpu, PAE | PCIDE), REFUSED);
    cpu.cr3 = ROOT;
    assert_eq!(cr4(&mut cpu, PAE | PCIDE), DONE);
    // Later the low bits are the PCID.
    cpu.cr3 = ROOT | 5;
    assert_eq!(cr4(&mut cpu, PAE | PCIDE | PGE), DONE);
}

#[test]
fn a_change_that_concerns_translations_flushes_them() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    cr4(&mut cpu, PAE | 1 << 2).unwrap();
    assert_eq!(cpu.full_flushes, 0);
    cr4(&mut cpu, PAE | PGE).unwrap();
    assert_eq!(cpu.full_flushes, 1);
}

#[test]
fn cr8_is_the_task_priority_class() {
    let (mut cpu, mut vcpu) = (FakeCpu::long_mode(ROOT).with(Gpr::Rdx, 9), vcpu());
    let mut machine = FakeMachine::new(0);
    let mut run = |cpu: &mut FakeCpu, access| {
        handle(
            cpu,
            &mut vcpu,
            &mut machine,
            VmExit::ControlRegister(access),
        )
    };
    let set = ControlRegisterAccess::Write {
        register: ControlRegister::Cr8,
        source: Gpr::Rdx,
    };
    assert_eq!(run(&mut cpu, set), DONE);
    let get = ControlRegisterAccess::Read {
        register: ControlRegister::Cr8,
        target: Gpr::Rbx,
    };
    assert_eq!(run(&mut cpu, get), DONE);
    assert_eq!(cpu.gprs.get(Gpr::Rbx), 9);
    cpu.gprs.set(Gpr::Rdx, 16);
    assert_eq!(run(&mut cpu, set), REFUSED);
    assert_eq!(vcpu.lapic.task_priority(), 0x90);
}

#[test]
fn clts_clears_ts_and_nothing_else() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    let before = cpu.cr0;
    cpu.cr0 |= Cr0::TS;
    assert_eq!(run(&mut cpu, ControlRegisterAccess::Clts), DONE);
    assert_eq!(cpu.cr0, before);
}

#[test]
fn lmsw_sets_four_bits_and_never_clears_pe() {
    let mut cpu = FakeCpu::protected_mode();
    assert_eq!(run(&mut cpu, ControlRegisterAccess::Lmsw(0xfffe)), DONE);
    assert_eq!(cpu.cr0.bits() & 0xffff, 0x3f);
    assert_eq!(run(&mut cpu, ControlRegisterAccess::Lmsw(0)), DONE);
    assert_eq!(cpu.cr0.bits() & 0xf, 1);
    let mut cpu = FakeCpu::real_mode();
    assert_eq!(run(&mut cpu, ControlRegisterAccess::Lmsw(1)), DONE);
    assert!(cpu.cr0.contains(Cr0::PE));
}

#[test]
fn outside_64_bit_mode_registers_are_32_bits_wide() {
    let mut cpu = FakeCpu::protected_mode();
    cpu.cr3 = 0x1234_5000;
    assert_eq!(cr0(&mut cpu, 0xffff_ffff_0000_0001), DONE);
    cpu.gprs.set(Gpr::Rcx, u64::MAX);
    let get = ControlRegisterAccess::Read {
        register: ControlRegister::Cr3,
        target: Gpr::Rcx,
    };
    assert_eq!(run(&mut cpu, get), DONE);
    assert_eq!(cpu.gprs.get(Gpr::Rcx), 0x1234_5000);
}
