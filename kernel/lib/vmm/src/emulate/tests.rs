//! The emulator on a fake CPU and machine: each instruction, each mode, each fault.
//!
//! A test runs every instruction twice, once with the linear address that the hardware gives and once
//! without, and wants the same result.

use alloc::vec::Vec;

use arch::walk::PageFaultCode;
use arch::{AccessKind, AccessRights, Cr4, Gpr, Rflags, SegmentName, Vector, Width};
use memory::{GuestPhys, GuestVirt};

use super::*;
use crate::cpu::Blocking;
use crate::fault::Event;
use crate::testing::{FakeCpu, FakeMachine, vcpu};

/// Where the code lies, linear and physical.
const CODE: u64 = 0x1000;
/// RAM for data.
const RAM: u64 = 0x8000;
/// A device's registers, behind the end of RAM.
const DEVICE: u64 = 0x2000_0000;
const ROOT: u64 = 0x10_0000;
const RAM_BYTES: usize = 0x20_0000;

struct Run {
    cpu: FakeCpu,
    machine: FakeMachine,
    result: Result<Next, GuestFault>,
}

impl Run {
    fn gpr(&self, register: Gpr) -> u64 {
        self.cpu.gprs.get(register)
    }

    /// The status flags.
    fn status(&self) -> Rflags {
        self.cpu.rflags & arithmetic::STATUS
    }

    /// Checks that the instruction was finished, and its length.
    fn ended(self, length: u64) -> Self {
        assert_eq!(self.result, Ok(Next::Resume));
        assert_eq!(self.cpu.rip, CODE + length);
        self
    }
}

/// A machine whose devices read as set here.
fn machine(registers: &[(u64, u64)]) -> FakeMachine {
    let mut machine = FakeMachine::new(RAM_BYTES);
    machine.memory.identity_map_long_mode(ROOT);
    machine.mmio.extend(registers.iter().copied());
    machine
}

fn long() -> FakeCpu {
    FakeCpu::long_mode(ROOT)
}

/// Runs one instruction with this report of the hardware.
fn run_with(mut cpu: FakeCpu, bytes: &[u8], mut machine: FakeMachine, access: MemoryAccess) -> Run {
    machine.memory.put(cpu.rip, bytes);
    let result = emulate(&mut cpu, &mut vcpu(), &mut machine, access);
    Run {
        cpu,
        machine,
        result,
    }
}

fn access(gpa: u64, gva: Option<u64>, kind: AccessKind) -> MemoryAccess {
    MemoryAccess {
        gpa: GuestPhys::new(gpa),
        gva: gva.map(GuestVirt::new),
        kind,
        during_page_walk: false,
    }
}

/// Runs one instruction that accesses the device at its start, with and without the linear address.
fn both_ways(cpu: &FakeCpu, bytes: &[u8], registers: &[(u64, u64)], kind: AccessKind) -> Run {
    let with = access(DEVICE, Some(DEVICE), kind);
    let without = access(DEVICE, None, kind);
    let first = run_with(cpu.clone(), bytes, machine(registers), with);
    let second = run_with(cpu.clone(), bytes, machine(registers), without);
    assert_eq!(first.result, second.result);
    assert_eq!(first.cpu.gprs, second.cpu.gprs);
    assert_eq!(first.cpu.rflags, second.cpu.rflags);
    assert_eq!(first.cpu.rip, second.cpu.rip);
    assert_eq!(first.machine.mmio_reads, second.machine.mmio_reads);
    assert_eq!(first.machine.mmio_writes, second.machine.mmio_writes);
    first
}

fn read(cpu: &FakeCpu, bytes: &[u8], value: u64) -> Run {
    both_ways(cpu, bytes, &[(DEVICE, value)], AccessKind::Read)
}

fn write(cpu: &FakeCpu, bytes: &[u8], value: u64) -> Run {
    both_ways(cpu, bytes, &[(DEVICE, value)], AccessKind::Write)
}

/// RDI and RSI at the device, RBX in RAM.
fn cpu() -> FakeCpu {
    long()
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rsi, DEVICE)
        .with(Gpr::Rbx, RAM)
}

#[test]
fn loads_of_every_width_write_what_an_instruction_writes() {
    let old = cpu().with(Gpr::Rax, 0x1111_2222_3333_4444);
    let value = 0x8877_6655_4433_22f1;
    for (bytes, width, expected) in [
        (&[0x8a, 0x07][..], Width::Byte, 0x1111_2222_3333_44f1),
        (&[0x8a, 0x27], Width::Byte, 0x1111_2222_3333_f144),
        (&[0x66, 0x8b, 0x07], Width::Word, 0x1111_2222_3333_22f1),
        (&[0x8b, 0x07], Width::Dword, 0x4433_22f1),
        (&[0x48, 0x8b, 0x07], Width::Qword, value),
        (&[0x0f, 0xb6, 0x07], Width::Byte, 0xf1),
        (&[0x0f, 0xbe, 0x07], Width::Byte, 0xffff_fff1),
        (
            &[0x48, 0x0f, 0xbe, 0x07],
            Width::Byte,
            0xffff_ffff_ffff_fff1,
        ),
        (
            &[0x66, 0x0f, 0xb6, 0x07],
            Width::Byte,
            0x1111_2222_3333_00f1,
        ),
        (&[0x0f, 0xb7, 0x07], Width::Word, 0x22f1),
        (&[0x48, 0x63, 0x07], Width::Dword, 0x4433_22f1),
        (&[0x0f, 0x38, 0xf0, 0x07], Width::Dword, 0xf122_3344),
        (
            &[0x66, 0x0f, 0x38, 0xf0, 0x07],
            Width::Word,
            0x1111_2222_3333_f122,
        ),
    ] {
        let run = read(&old, bytes, value).ended(bytes.len() as u64);
        assert_eq!(run.gpr(Gpr::Rax), expected, "{bytes:x?}");
        assert_eq!(run.machine.mmio_reads, [(DEVICE, width)], "{bytes:x?}");
        assert!(run.machine.mmio_writes.is_empty());
    }
}

#[test]
fn stores_of_every_width_reach_the_device_as_one_write() {
    let cpu = cpu().with(Gpr::Rax, 0x8877_6655_4433_22f1);
    for (bytes, width, expected) in [
        (&[0x88, 0x07][..], Width::Byte, 0xf1),
        (&[0x88, 0x27], Width::Byte, 0x22),
        (&[0x66, 0x89, 0x07], Width::Word, 0x22f1),
        (&[0x89, 0x07], Width::Dword, 0x4433_22f1),
        (&[0x48, 0x89, 0x07], Width::Qword, 0x8877_6655_4433_22f1),
        (&[0xc6, 0x07, 0x5a], Width::Byte, 0x5a),
        (&[0xc7, 0x07, 1, 2, 3, 0x84], Width::Dword, 0x8403_0201),
        (
            &[0x48, 0xc7, 0x07, 1, 2, 3, 0x84],
            Width::Qword,
            0xffff_ffff_8403_0201,
        ),
        (&[0x0f, 0xc3, 0x07], Width::Dword, 0x4433_22f1),
        (&[0x0f, 0x38, 0xf1, 0x07], Width::Dword, 0xf122_3344),
        (&[0x8c, 0x1f], Width::Word, 0x10),
        (&[0xa2, 0, 0, 0, 0x20, 0, 0, 0, 0], Width::Byte, 0xf1),
    ] {
        let run = write(&cpu, bytes, 0).ended(bytes.len() as u64);
        assert_eq!(
            run.machine.mmio_writes,
            [(DEVICE, width, expected)],
            "{bytes:x?}"
        );
        assert!(run.machine.mmio_reads.is_empty(), "{bytes:x?}");
    }
}

#[test]
fn read_modify_write_does_one_read_and_one_write() {
    let cpu = cpu().with(Gpr::Rax, 0x0f).with(Gpr::Rcx, 4);
    let before = 0x8000_00f1;
    for (bytes, expected, status) in [
        (&[0x09, 0x07][..], 0x8000_00ff, Rflags::SF | Rflags::PF),
        (&[0x21, 0x07], 0x01, Rflags::empty()),
        (&[0x31, 0x07], 0x8000_00fe, Rflags::SF),
        (
            &[0xf0, 0x01, 0x07],
            0x8000_0100,
            Rflags::SF | Rflags::AF | Rflags::PF,
        ),
        (
            &[0x29, 0x07],
            0x8000_00e2,
            Rflags::SF | Rflags::AF | Rflags::PF,
        ),
        (&[0x83, 0x0f, 0x02], 0x8000_00f3, Rflags::SF | Rflags::PF),
        (&[0xff, 0x07], 0x8000_00f2, Rflags::SF),
        (&[0xff, 0x0f], 0x8000_00f0, Rflags::SF | Rflags::PF),
        (
            &[0xf7, 0x1f],
            0x7fff_ff0f,
            Rflags::CF | Rflags::AF | Rflags::PF,
        ),
        (&[0xf7, 0x17], 0x7fff_ff0e, Rflags::empty()),
        (
            &[0xd1, 0x27],
            0x0000_01e2,
            Rflags::CF | Rflags::OF | Rflags::PF,
        ),
        (&[0xd3, 0x2f], 0x0800_000f, Rflags::PF | Rflags::OF),
        (&[0x0f, 0xba, 0x2f, 1], 0x8000_00f3, Rflags::empty()),
        (&[0x0f, 0xba, 0x37, 31], 0x0000_00f1, Rflags::CF),
    ] {
        let run = write(&cpu, bytes, before).ended(bytes.len() as u64);
        assert_eq!(
            run.machine.mmio_reads,
            [(DEVICE, Width::Dword)],
            "{bytes:x?}"
        );
        assert_eq!(
            run.machine.mmio_writes,
            [(DEVICE, Width::Dword, expected)],
            "{bytes:x?}"
        );
        assert_eq!(run.status(), status, "{bytes:x?}");
    }
}

#[test]
fn compares_and_loads_that_compute_do_not_write_the_device() {
    let cpu = cpu().with(Gpr::Rax, 0xffff_ffff_0000_0005);
    // cmp eax, [rdi]; cmp [rdi], eax; test [rdi], eax
    let run = read(&cpu, &[0x3b, 0x07], 6).ended(2);
    assert_eq!(
        run.status(),
        Rflags::CF | Rflags::SF | Rflags::AF | Rflags::PF
    );
    let run = read(&cpu, &[0x39, 0x07], 6).ended(2);
    assert_eq!(run.status(), Rflags::empty());
    let run = read(&cpu, &[0x85, 0x07], 2).ended(2);
    assert_eq!(run.status(), Rflags::ZF | Rflags::PF);
    assert!(run.machine.mmio_writes.is_empty());
    // add eax, [rdi]
    let run = read(&cpu, &[0x03, 0x07], 6).ended(2);
    assert_eq!(run.gpr(Gpr::Rax), 11);
    // bt dword [rdi], 4
    let run = read(&cpu, &[0x0f, 0xba, 0x27, 4], 0x10).ended(4);
    assert!(run.cpu.rflags.contains(Rflags::CF));
    assert!(run.machine.mmio_writes.is_empty());
}

#[test]
fn bit_offsets_in_registers_reach_beyond_the_operand() {
    // bts [rdi], eax with bit 69 and bit -1: the dwords 8 bytes up and 4 bytes down.
    for (offset, place, mask) in [(69u64, DEVICE + 8, 1 << 5), (u64::MAX, DEVICE - 4, 1 << 31)] {
        let cpu = cpu().with(Gpr::Rax, offset);
        let access = access(place, Some(place), AccessKind::Write);
        let run = run_with(cpu, &[0x0f, 0xab, 0x07], machine(&[(place, 0)]), access).ended(3);
        assert_eq!(run.machine.mmio_writes, [(place, Width::Dword, mask)]);
    }
}

#[test]
fn exchanges_write_both_sides() {
    let cpu = cpu()
        .with(Gpr::Rcx, 0xffff_ffff_0000_0007)
        .with(Gpr::Rax, 5);
    let run = write(&cpu, &[0x87, 0x0f], 0x8000_0000).ended(2);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Dword, 7)]);
    assert_eq!(run.gpr(Gpr::Rcx), 0x8000_0000);
    // lock xadd [rdi], ecx
    let run = write(&cpu, &[0xf0, 0x0f, 0xc1, 0x0f], 0xffff_fffe).ended(4);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Dword, 5)]);
    assert_eq!(run.gpr(Gpr::Rcx), 0xffff_fffe);
    assert!(run.status().contains(Rflags::CF));
    // lock cmpxchg [rdi], ecx: equal, and not.
    let run = write(&cpu, &[0xf0, 0x0f, 0xb1, 0x0f], 5).ended(4);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Dword, 7)]);
    assert!(run.status().contains(Rflags::ZF));
    assert_eq!(run.gpr(Gpr::Rax), 5);
    let run = write(&cpu, &[0xf0, 0x0f, 0xb1, 0x0f], 0x8000_0006).ended(4);
    assert_eq!(
        run.machine.mmio_writes,
        [(DEVICE, Width::Dword, 0x8000_0006)]
    );
    assert!(!run.status().contains(Rflags::ZF));
    assert_eq!(run.gpr(Gpr::Rax), 0x8000_0006);
}

#[test]
fn pairs_are_compared_and_exchanged_as_one() {
    let cpu = cpu()
        .with(Gpr::Rax, 1)
        .with(Gpr::Rdx, 2)
        .with(Gpr::Rbx, 0x11)
        .with(Gpr::Rcx, 0x22);
    let registers = [(DEVICE, 1), (DEVICE + 4, 2)];
    let hit = both_ways(&cpu, &[0x0f, 0xc7, 0x0f], &registers, AccessKind::Write).ended(3);
    assert_eq!(
        hit.machine.mmio_writes,
        [
            (DEVICE, Width::Dword, 0x11),
            (DEVICE + 4, Width::Dword, 0x22)
        ]
    );
    assert_eq!(hit.status(), Rflags::ZF);
    let registers = [(DEVICE, 1), (DEVICE + 8, 3)];
    let miss = both_ways(
        &cpu,
        &[0x48, 0x0f, 0xc7, 0x0f],
        &registers,
        AccessKind::Write,
    )
    .ended(4);
    assert_eq!((miss.gpr(Gpr::Rax), miss.gpr(Gpr::Rdx)), (1, 3));
    assert_eq!(miss.status(), Rflags::empty());
    let crooked = cpu.with(Gpr::Rdi, DEVICE + 8);
    let run = both_ways(
        &crooked,
        &[0x48, 0x0f, 0xc7, 0x0f],
        &registers,
        AccessKind::Write,
    );
    assert_eq!(
        run.result,
        Err(GuestFault::GP0),
        "CMPXCHG16B wants its operand at 16"
    );
}

#[test]
fn stack_instructions_move_between_device_and_stack() {
    let cpu = cpu().with(Gpr::Rsp, RAM + 0x100);
    // push qword [rdi]
    let run = read(&cpu, &[0xff, 0x37], 0x1234_5678_9abc_def0).ended(2);
    assert_eq!(run.gpr(Gpr::Rsp), RAM + 0xf8);
    assert_eq!(
        run.machine.memory.get(RAM + 0xf8),
        0x1234_5678_9abc_def0u64.to_le_bytes()
    );
    // pop qword [rdi]
    let device = machine(&[]);
    device.memory.put_u64(RAM + 0x100, 77);
    let access = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let run = run_with(cpu.clone(), &[0x8f, 0x07], device, access).ended(2);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Qword, 77)]);
    assert_eq!(run.gpr(Gpr::Rsp), RAM + 0x108);
    // call [rdi] and jmp [rdi]
    let run = read(&cpu, &[0xff, 0x17], 0x5000);
    assert_eq!((run.result, run.cpu.rip), (Ok(Next::Resume), 0x5000));
    assert_eq!(run.machine.memory.get(RAM + 0xf8), (CODE + 2).to_le_bytes());
    assert_eq!(run.gpr(Gpr::Rsp), RAM + 0xf8);
    let run = read(&cpu, &[0xff, 0x27], 0x5000);
    assert_eq!((run.cpu.rip, run.gpr(Gpr::Rsp)), (0x5000, RAM + 0x100));
    let run = read(&cpu, &[0xff, 0x17], 0x8000_0000_0000);
    assert_eq!((run.result, run.cpu.rip), (Err(GuestFault::GP0), CODE));
    assert_eq!(run.gpr(Gpr::Rsp), RAM + 0x100, "the call has not happened");
}

#[test]
fn pop_computes_an_address_with_rsp_after_the_increment() {
    let cpu = cpu().with(Gpr::Rsp, DEVICE - 8);
    // pop qword [rsp]: from below the device into it. The stack itself is no RAM here.
    let registers = machine(&[(DEVICE - 8, 99)]);
    let access = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let run = run_with(cpu, &[0x8f, 0x04, 0x24], registers, access).ended(3);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Qword, 99)]);
    assert_eq!(run.gpr(Gpr::Rsp), DEVICE);
}

#[test]
fn a_stack_on_a_device_is_pushed_to_and_popped_from() {
    let stack = cpu()
        .with(Gpr::Rsp, DEVICE + 8)
        .with(Gpr::Rbp, 0x1234_5678_9abc)
        .with(Gpr::Rbx, 77);
    let wrote = |bytes: &[u8], value, rsp| {
        let run = write(&stack, bytes, 0);
        assert_eq!(run.result, Ok(Next::Resume), "{bytes:x?}");
        let wanted = [(DEVICE, Width::Qword, value)];
        assert_eq!(run.machine.mmio_writes, wanted, "{bytes:x?}");
        assert_eq!(run.gpr(Gpr::Rsp), rsp, "{bytes:x?}");
        run
    };
    // push rbx, push -2, push fs
    wrote(&[0x53], 77, DEVICE).ended(1);
    wrote(&[0x6a, 0xfe], 2u64.wrapping_neg(), DEVICE).ended(2);
    wrote(&[0x0f, 0xa0], 0x10, DEVICE).ended(2);
    // pushfq
    let flags = stack.rflags.bits();
    wrote(&[0x9c], flags, DEVICE).ended(1);
    // call +0x10
    let run = wrote(&[0xe8, 0x10, 0, 0, 0], CODE + 5, DEVICE);
    assert_eq!(run.cpu.rip, CODE + 0x15);
    // enter 0x20, 0
    let run = wrote(&[0xc8, 0x20, 0, 0], 0x1234_5678_9abc, DEVICE - 0x20).ended(4);
    assert_eq!(run.gpr(Gpr::Rbp), DEVICE);

    let top = stack.with(Gpr::Rsp, DEVICE).with(Gpr::Rbp, DEVICE);
    // pop rbx
    let run = read(&top, &[0x5b], 99).ended(1);
    assert_eq!((run.gpr(Gpr::Rbx), run.gpr(Gpr::Rsp)), (99, DEVICE + 8));
    // ret and ret 0x18
    let run = read(&top, &[0xc3], 0x5000);
    assert_eq!((run.cpu.rip, run.gpr(Gpr::Rsp)), (0x5000, DEVICE + 8));
    let run = read(&top, &[0xc2, 0x18, 0], 0x5000);
    assert_eq!((run.cpu.rip, run.gpr(Gpr::Rsp)), (0x5000, DEVICE + 0x20));
    let run = read(&top, &[0xc3], 0x8000_0000_0000);
    assert_eq!((run.result, run.cpu.rip), (Err(GuestFault::GP0), CODE));
    assert_eq!(run.gpr(Gpr::Rsp), DEVICE, "the return has not happened");
    // leave, from far below
    let run = read(&top.clone().with(Gpr::Rsp, RAM), &[0xc9], 0x4000).ended(1);
    assert_eq!((run.gpr(Gpr::Rbp), run.gpr(Gpr::Rsp)), (0x4000, DEVICE + 8));
    // pop fs, of a null selector
    let run = read(&top, &[0x0f, 0xa1], 0).ended(2);
    assert_eq!(run.gpr(Gpr::Rsp), DEVICE + 8);
    assert!(!run.cpu.segments[SegmentName::Fs as usize].is_usable());
}

#[test]
fn flags_popped_from_a_device_change_as_far_as_the_privilege_level_may() {
    let all = 0x3f_7fd5u64;
    let top = cpu().with(Gpr::Rsp, DEVICE);
    let run = read(&top, &[0x9d], all & !0x100).ended(1);
    let changed = Rflags::IOPL | Rflags::IF | Rflags::AC | Rflags::ID | Rflags::NT | Rflags::DF;
    assert!(run.cpu.rflags.contains(changed));
    assert!(!run.cpu.rflags.intersects(Rflags::VM | Rflags::RF));
    // popf of 16 bits
    let run = read(&top, &[0x66, 0x9d], all & !0x100).ended(2);
    assert!(!run.cpu.rflags.intersects(Rflags::AC | Rflags::ID));
    assert_eq!(run.gpr(Gpr::Rsp), DEVICE + 2);
    // The trap flag counts from the next instruction on, and clearing it comes too late for this one.
    let run = read(&top, &[0x9d], 0x102).ended(1);
    assert!(run.cpu.rflags.contains(Rflags::TF));
    let mut stepping = top;
    stepping.rflags |= Rflags::TF;
    let run = read(&stepping, &[0x9d], 2);
    assert!(matches!(run.result, Err(GuestFault::Debug { .. })));
    assert!(!run.cpu.rflags.contains(Rflags::TF));
}

#[test]
fn all_registers_go_to_a_device_and_come_back_but_for_the_stack_pointer() {
    let values: [u16; 8] = [1, 2, 3, 4, 0x20, 6, 7, 8];
    let mut before = real_at_device();
    let ds = before.segments[SegmentName::Ds as usize];
    before.segments[SegmentName::Ss as usize] = ds;
    for (number, value) in values.into_iter().enumerate() {
        before = before.with(Gpr::from_number(number as u8), value.into());
    }
    let at = access(DEVICE + 0x1e, None, AccessKind::Write);
    let run = run_with(before.clone(), &[0x60], machine(&[]), at).ended(1);
    assert_eq!(run.gpr(Gpr::Rsp), 0x10);
    let wrote = run.machine.mmio_writes.to_vec();
    let wanted = values.iter().enumerate().map(|(index, &value)| {
        let down = 2 * index as u64;
        (DEVICE + 0x1e - down, Width::Word, u64::from(value))
    });
    assert_eq!(wrote, wanted.collect::<Vec<_>>());

    let registers = (0..8).map(|index| (DEVICE + 0x20 + 2 * index, 0x100 + index));
    let registers: Vec<_> = registers.collect();
    let at = access(DEVICE + 0x20, None, AccessKind::Read);
    let run = run_with(before, &[0x61], machine(&registers), at).ended(1);
    assert_eq!(run.gpr(Gpr::Rsp), 0x30);
    assert_eq!((run.gpr(Gpr::Rdi), run.gpr(Gpr::Rax)), (0x100, 0x107));
    assert_eq!((run.gpr(Gpr::Rbp), run.gpr(Gpr::Rbx)), (0x102, 0x104));
}

#[test]
fn a_second_operand_on_a_device_is_behind_a_closed_a20_gate_too() {
    let mut device = machine(&[(DEVICE, 7)]);
    device.memory.bus_mask = !(1 << 20);
    // movsq
    let cpu = cpu().with(Gpr::Rdi, DEVICE + 0x10_0008);
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Read);
    let run = run_with(cpu, &[0x48, 0xa5], device, stopped).ended(2);
    assert_eq!(run.machine.mmio_writes, [(DEVICE + 8, Width::Qword, 7)]);
}

#[test]
fn conditions_read_and_write_as_the_manual_says() {
    let mut cpu = cpu().with(Gpr::Rax, 0xffff_ffff_ffff_ffff);
    cpu.rflags |= Rflags::ZF;
    let run = write(&cpu, &[0x0f, 0x94, 0x07], 0).ended(3);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Byte, 1)]);
    let run = write(&cpu, &[0x0f, 0x95, 0x07], 0).ended(3);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Byte, 0)]);
    // cmove and cmovne eax, [rdi]: both read, and both clear the upper half.
    let run = read(&cpu, &[0x0f, 0x44, 0x07], 5).ended(3);
    assert_eq!(run.gpr(Gpr::Rax), 5);
    let run = read(&cpu, &[0x0f, 0x45, 0x07], 5).ended(3);
    assert_eq!(run.gpr(Gpr::Rax), 0xffff_ffff);
    assert_eq!(run.machine.mmio_reads.len(), 1);
}

#[test]
fn string_instructions_move_pointers_and_count() {
    // rep movsd from RAM to the device
    let cpu = long()
        .with(Gpr::Rsi, RAM)
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rcx, 3);
    let device = machine(&[]);
    for (index, value) in [10u32, 20, 30].into_iter().enumerate() {
        device.memory.put_u32(RAM + 4 * index as u64, value);
    }
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let run = run_with(cpu, &[0xf3, 0xa5], device, stopped).ended(2);
    assert_eq!(
        run.machine.mmio_writes,
        [
            (DEVICE, Width::Dword, 10),
            (DEVICE + 4, Width::Dword, 20),
            (DEVICE + 8, Width::Dword, 30)
        ]
    );
    assert_eq!(
        (run.gpr(Gpr::Rsi), run.gpr(Gpr::Rdi)),
        (RAM + 12, DEVICE + 12)
    );
    assert_eq!(run.gpr(Gpr::Rcx), 0);

    // movsb downwards from the device to RAM
    let mut cpu = long().with(Gpr::Rsi, DEVICE).with(Gpr::Rdi, RAM);
    cpu.rflags |= Rflags::DF;
    let run = read(&cpu, &[0xa4], 0x5a).ended(1);
    assert_eq!(run.machine.memory.get(RAM), [0x5a]);
    assert_eq!(
        (run.gpr(Gpr::Rsi), run.gpr(Gpr::Rdi)),
        (DEVICE - 1, RAM - 1)
    );

    // rep stosq, lodsw
    let cpu = long()
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rax, 7)
        .with(Gpr::Rcx, 2);
    let run = write(&cpu, &[0xf3, 0x48, 0xab], 0).ended(3);
    assert_eq!(
        run.machine.mmio_writes,
        [(DEVICE, Width::Qword, 7), (DEVICE + 8, Width::Qword, 7)]
    );
    let cpu = long().with(Gpr::Rsi, DEVICE).with(Gpr::Rax, 0xffff_ffff);
    let run = read(&cpu, &[0x66, 0xad], 0x1234).ended(2);
    assert_eq!(run.gpr(Gpr::Rax), 0xffff_1234);
}

#[test]
fn repeated_compares_stop_at_the_first_difference() {
    // repe cmpsb of RAM with the device's registers
    let cpu = long()
        .with(Gpr::Rsi, RAM)
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rcx, 5);
    let device = machine(&[(DEVICE, 1), (DEVICE + 1, 2), (DEVICE + 2, 9)]);
    device.memory.put(RAM, &[1, 2, 3, 4, 5]);
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Read);
    let run = run_with(cpu, &[0xf3, 0xa6], device, stopped).ended(2);
    assert_eq!(run.gpr(Gpr::Rcx), 2);
    assert_eq!(run.gpr(Gpr::Rdi), DEVICE + 3);
    assert!(run.status().contains(Rflags::CF), "3 is less than 9");

    // repne scasb for 9
    let cpu = long()
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rcx, 5)
        .with(Gpr::Rax, 9);
    let device = machine(&[(DEVICE, 1), (DEVICE + 1, 2), (DEVICE + 2, 9)]);
    let run = run_with(cpu, &[0xf2, 0xae], device, stopped).ended(2);
    assert_eq!((run.gpr(Gpr::Rcx), run.gpr(Gpr::Rdi)), (2, DEVICE + 3));
    assert!(run.status().contains(Rflags::ZF));
}

#[test]
fn a_count_of_zero_moves_nothing() {
    let cpu = long()
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rcx, 0xffff_ffff_0000_0000);
    // rep stosb with 32-bit addresses: only ECX counts.
    let run = write(&cpu, &[0x67, 0xf3, 0xaa], 0).ended(3);
    assert!(run.machine.mmio_writes.is_empty());
}

#[test]
fn long_repetitions_come_back_to_the_guest_with_rip_unchanged() {
    let cpu = long().with(Gpr::Rdi, DEVICE).with(Gpr::Rcx, 1000);
    let mut run = write(&cpu, &[0xf3, 0xaa], 0);
    let mut entries = 1;
    while run.cpu.rip == CODE {
        assert_eq!(run.result, Ok(Next::Resume));
        assert!(
            run.cpu.rflags.contains(Rflags::RF),
            "no second instruction breakpoint"
        );
        let at = run.cpu.gprs.get(Gpr::Rdi);
        let stopped = access(at, Some(at), AccessKind::Write);
        run = run_with(run.cpu, &[0xf3, 0xaa], run.machine, stopped);
        entries += 1;
    }
    assert_eq!(entries, 42);
    assert_eq!(run.machine.mmio_writes.len(), 1000);
    assert_eq!((run.gpr(Gpr::Rcx), run.gpr(Gpr::Rdi)), (0, DEVICE + 1000));
    assert!(!run.cpu.rflags.contains(Rflags::RF));
}

#[test]
fn a_fault_in_the_middle_of_a_repetition_keeps_what_is_done() {
    // rep movsb from the last 3 bytes of mapped RAM to the device.
    let device = machine(&[]);
    let last = 0x1ff000;
    device.memory.put_u64(ROOT + 0x2000, (ROOT + 0x3000) | 3);
    for page in 0..512 {
        let present = if page * 0x1000 == last + 0x1000 - 0x1000 {
            3
        } else {
            0
        };
        device
            .memory
            .put_u64(ROOT + 0x3000 + page * 8, page << 12 | present);
    }
    device.memory.put_u64(ROOT + 0x3000 + 8, CODE | 3);
    device.memory.put_u64(ROOT + 0x2008, 0);
    let cpu = long()
        .with(Gpr::Rsi, last + 0xffd)
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rcx, 9);
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let run = run_with(cpu, &[0xf3, 0xa4], device, stopped);
    let address = GuestVirt::new(last + 0x1000);
    assert_eq!(
        run.result,
        Err(GuestFault::PageFault {
            address,
            error_code: 0
        })
    );
    assert_eq!((run.gpr(Gpr::Rcx), run.cpu.rip), (6, CODE));
    assert_eq!(run.machine.mmio_writes.len(), 3);
}

#[test]
fn vectors_move_in_pieces_of_eight_bytes() {
    let mut cpu = cpu();
    cpu.vectors[3] = 0x1111_2222_3333_4444_5555_6666_7777_8888;
    // movups [rdi], xmm3 and movups xmm3, [rdi]
    let run = write(&cpu, &[0x0f, 0x11, 0x1f], 0).ended(3);
    assert_eq!(
        run.machine.mmio_writes,
        [
            (DEVICE, Width::Qword, 0x5555_6666_7777_8888),
            (DEVICE + 8, Width::Qword, 0x1111_2222_3333_4444)
        ]
    );
    let registers = [(DEVICE, 1), (DEVICE + 8, 2)];
    let load = run_load(&cpu, &[0x0f, 0x10, 0x1f], &registers);
    assert_eq!(load.cpu.vectors[3], 2 << 64 | 1);
    // movd and movq clear, movhps merges.
    assert_eq!(
        run_load(&cpu, &[0x66, 0x0f, 0x6e, 0x1f], &registers)
            .cpu
            .vectors[3],
        1
    );
    assert_eq!(
        run_load(&cpu, &[0xf3, 0x0f, 0x7e, 0x1f], &registers)
            .cpu
            .vectors[3],
        1
    );
    assert_eq!(
        run_load(&cpu, &[0x0f, 0x16, 0x1f], &registers).cpu.vectors[3],
        1 << 64 | 0x5555_6666_7777_8888
    );
    // movaps wants its operand at 16.
    let crooked = cpu.with(Gpr::Rdi, DEVICE + 8);
    let run = both_ways(&crooked, &[0x0f, 0x28, 0x1f], &registers, AccessKind::Read);
    assert_eq!(run.result, Err(GuestFault::GP0));
}

fn run_load(cpu: &FakeCpu, bytes: &[u8], registers: &[(u64, u64)]) -> Run {
    both_ways(cpu, bytes, registers, AccessKind::Read).ended(bytes.len() as u64)
}

#[test]
fn an_instruction_that_crosses_a_page_is_fetched_from_both() {
    let mut cpu = cpu();
    cpu.rip = CODE + 0xffe;
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    // mov dword [rdi], 0x04030201
    let run = run_with(cpu, &[0xc7, 0x07, 1, 2, 3, 4], machine(&[]), stopped);
    assert_eq!((run.result, run.cpu.rip), (Ok(Next::Resume), CODE + 0x1004));
    assert_eq!(
        run.machine.mmio_writes,
        [(DEVICE, Width::Dword, 0x0403_0201)]
    );
}

/// Maps linear 0x0060_0000 and the page behind it by 4 KiB entries with these values.
fn map_pages(machine: &FakeMachine, first: u64, second: u64) {
    machine
        .memory
        .put_u64(ROOT + 0x2000 + 3 * 8, (ROOT + 0x3000) | 7);
    machine.memory.put_u64(ROOT + 0x3000, first);
    machine.memory.put_u64(ROOT + 0x3008, second);
}

const PAGES: u64 = 0x60_0000;

#[test]
fn an_instruction_that_ends_with_its_page_needs_no_other() {
    let device = machine(&[]);
    map_pages(&device, 0x3003, 0);
    device.memory.put(0x3ffe, &[0x89, 0x07]);
    let mut cpu = cpu();
    cpu.rip = PAGES + 0xffe;
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let mut device = device;
    assert_eq!(
        emulate(&mut cpu, &mut vcpu(), &mut device, stopped),
        Ok(Next::Resume)
    );
    assert_eq!(cpu.rip, PAGES + 0x1000);

    // One that goes on there faults there, as a fetch.
    device.memory.put(0x3ffe, &[0xc7, 0x07]);
    cpu.rip = PAGES + 0xffe;
    let error_code = PageFaultCode::FETCH.bits();
    let address = GuestVirt::new(PAGES + 0x1000);
    assert_eq!(
        emulate(&mut cpu, &mut vcpu(), &mut device, stopped),
        Err(GuestFault::PageFault {
            address,
            error_code
        })
    );
}

#[test]
fn an_operand_may_lie_in_ram_and_device_at_once() {
    // The first page is RAM, the second the device.
    let device = machine(&[(DEVICE, 0xbbaa)]);
    map_pages(&device, 0x5003, DEVICE | 3);
    device.memory.put(0x5ffe, &[0x11, 0x22]);
    let cpu = long()
        .with(Gpr::Rdi, PAGES + 0xffe)
        .with(Gpr::Rax, 0x4433_2211);
    let stopped = access(DEVICE, Some(PAGES + 0x1000), AccessKind::Read);
    let run = run_with(cpu.clone(), &[0x8b, 0x07], device, stopped).ended(2);
    assert_eq!(run.gpr(Gpr::Rax), 0xbbaa_2211);
    assert_eq!(run.machine.mmio_reads, [(DEVICE, Width::Word)]);
    let stopped = access(DEVICE, Some(PAGES + 0x1000), AccessKind::Write);
    let run = run_with(cpu, &[0x89, 0x07], run.machine, stopped).ended(2);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Word, 0x4433)]);
    assert_eq!(run.machine.memory.get(0x5ffe), [0x11, 0x22]);
}

#[test]
fn an_odd_operand_is_split_at_its_alignment() {
    let cpu = cpu().with(Gpr::Rdi, DEVICE + 1).with(Gpr::Rax, 0x4433_2211);
    let stopped = access(DEVICE + 1, Some(DEVICE + 1), AccessKind::Write);
    let run = run_with(cpu, &[0x89, 0x07], machine(&[]), stopped).ended(2);
    assert_eq!(
        run.machine.mmio_writes,
        [
            (DEVICE + 1, Width::Byte, 0x11),
            (DEVICE + 2, Width::Word, 0x3322),
            (DEVICE + 4, Width::Byte, 0x44)
        ]
    );
}

#[test]
fn a_fault_of_one_operand_leaves_the_other_untouched() {
    // movsd from the device to an unmapped page: the device must not be read.
    let device = machine(&[(DEVICE, 1)]);
    map_pages(&device, 0, 0);
    let cpu = long().with(Gpr::Rsi, DEVICE).with(Gpr::Rdi, PAGES + 8);
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Read);
    let run = run_with(cpu.clone(), &[0xa5], device, stopped);
    let fault = GuestFault::PageFault {
        address: GuestVirt::new(PAGES + 8),
        error_code: PageFaultCode::WRITE.bits(),
    };
    assert_eq!(run.result, Err(fault));
    assert!(run.machine.mmio_reads.is_empty());
    assert_eq!(run.cpu.gprs, cpu.gprs);
    assert_eq!(run.cpu.rip, CODE);
}

#[test]
fn ring_3_faults_where_hardware_would() {
    // The second operand of push is on a supervisor's page.
    let device = machine(&[(DEVICE, 1)]);
    for entry in [ROOT, ROOT + 0x1000, ROOT + 0x2000, ROOT + 0x2000 + 256 * 8] {
        let value = u64::from_le_bytes(device.memory.get(entry));
        device.memory.put_u64(entry, value | 4);
    }
    map_pages(&device, 0x5003, 0);
    let cpu = cpu().with(Gpr::Rsp, PAGES + 0x80).in_ring_3();
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Read);
    let run = run_with(cpu, &[0xff, 0x37], device, stopped);
    let code = PageFaultCode::PRESENT | PageFaultCode::WRITE | PageFaultCode::USER;
    let address = GuestVirt::new(PAGES + 0x78);
    assert_eq!(
        run.result,
        Err(GuestFault::PageFault {
            address,
            error_code: code.bits()
        })
    );
}

#[test]
fn real_mode_addresses_are_segment_and_offset() {
    let mut cpu = FakeCpu::real_mode()
        .with(Gpr::Rbx, 0xffff_0004)
        .with(Gpr::Rax, 0xbeef);
    cpu.segments[SegmentName::Ds as usize].base = 0xa_0000;
    // mov [bx + 4], ax: 0xa0008, which is RAM here, so take the device's window above it.
    cpu.segments[SegmentName::Ds as usize].base = DEVICE - 8;
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let run = run_with(cpu.clone(), &[0x89, 0x47, 0x04], machine(&[]), stopped).ended(3);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Word, 0xbeef)]);
    // Two bytes at offset 0xffff pass the limit.
    let cpu = cpu.with(Gpr::Rbx, 0xfffb);
    let run = run_with(cpu, &[0x89, 0x47, 0x04], machine(&[]), stopped);
    assert_eq!(run.result, Err(GuestFault::GP0));
}

#[test]
fn protected_mode_segments_have_types_and_limits() {
    let mut cpu = FakeCpu::protected_mode()
        .with(Gpr::Rdi, 0x10)
        .with(Gpr::Rax, 5);
    let segment = &mut cpu.segments[SegmentName::Es as usize];
    segment.base = DEVICE - 0x10;
    segment.limit = 0x13;
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    // mov es:[edi], eax; then with the limit one byte lower; then with a read-only segment
    let bytes = [0x26, 0x89, 0x07];
    let run = run_with(cpu.clone(), &bytes, machine(&[]), stopped).ended(3);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Dword, 5)]);
    let mut short = cpu.clone();
    short.segments[SegmentName::Es as usize].limit = 0x12;
    assert_eq!(
        run_with(short, &bytes, machine(&[]), stopped).result,
        Err(GuestFault::GP0)
    );
    let mut read_only = cpu.clone();
    read_only.segments[SegmentName::Es as usize].access -= AccessRights::WRITABLE;
    assert_eq!(
        run_with(read_only, &bytes, machine(&[]), stopped).result,
        Err(GuestFault::GP0)
    );
    // mov ss:[edi], eax
    let mut stack = cpu;
    stack.segments[SegmentName::Ss as usize].limit = 0xf;
    stack.segments[SegmentName::Ss as usize].access -= AccessRights::GRANULARITY;
    let run = run_with(stack, &[0x36, 0x89, 0x07], machine(&[]), stopped);
    assert_eq!(run.result, Err(GuestFault::StackFault(0)));
}

#[test]
fn rip_and_fs_are_part_of_addresses_in_64_bit_mode() {
    // mov eax, [rip + d]
    let distance = (DEVICE - CODE - 6) as u32;
    let mut bytes = [0x8b, 0x05, 0, 0, 0, 0];
    bytes[2..].copy_from_slice(&distance.to_le_bytes());
    assert_eq!(read(&long(), &bytes, 42).ended(6).gpr(Gpr::Rax), 42);
    // mov eax, fs:[rbx]
    let mut cpu = long().with(Gpr::Rbx, 0x10);
    cpu.segments[SegmentName::Fs as usize].base = DEVICE - 0x10;
    assert_eq!(
        read(&cpu, &[0x64, 0x8b, 0x03], 43).ended(3).gpr(Gpr::Rax),
        43
    );
    // mov eax, [ebx]: the upper half does not count.
    let cpu = long().with(Gpr::Rbx, 0xffff_ffff_0000_0000 | DEVICE);
    assert_eq!(
        read(&cpu, &[0x67, 0x8b, 0x03], 44).ended(3).gpr(Gpr::Rax),
        44
    );
}

#[test]
fn the_instruction_ends_like_any_other() {
    let mut cpu = cpu();
    cpu.rflags |= Rflags::RF;
    cpu.blocking = Blocking::STI | Blocking::NMI;
    let run = read(&cpu, &[0x8b, 0x07], 1).ended(2);
    assert!(!run.cpu.rflags.contains(Rflags::RF));
    assert_eq!(run.cpu.blocking, Blocking::NMI);

    cpu.rflags |= Rflags::TF;
    let run = read(&cpu, &[0x8b, 0x07], 1);
    assert_eq!(run.result, Err(GuestFault::Debug { dr6: 1 << 14 }));
    assert_eq!(run.cpu.rip, CODE + 2, "a trap comes behind the instruction");
}

#[test]
fn single_steps_stop_after_each_element_of_a_repetition() {
    let mut cpu = long().with(Gpr::Rdi, DEVICE).with(Gpr::Rcx, 3);
    cpu.rflags |= Rflags::TF;
    let run = write(&cpu, &[0xf3, 0xaa], 0);
    assert_eq!(run.result, Err(GuestFault::Debug { dr6: 1 << 14 }));
    assert_eq!((run.cpu.rip, run.gpr(Gpr::Rcx)), (CODE, 2));
}

#[test]
fn data_breakpoints_see_emulated_accesses() {
    let mut cpu = cpu();
    cpu.debug_registers[1] = DEVICE + 2;
    // DR1: enabled, 2 bytes; on writes, then on reads and writes.
    let on_write = 0x400 | 1 << 2 | 0b01 << 20 | 0b01 << 22;
    let on_both = 0x400 | 1 << 2 | 0b11 << 20 | 0b01 << 22;
    cpu.debug_registers[7] = on_write;
    let run = write(&cpu, &[0x89, 0x07], 0);
    assert_eq!(run.result, Err(GuestFault::Debug { dr6: 2 }));
    assert_eq!(run.cpu.rip, CODE + 2);
    assert_eq!(read(&cpu, &[0x8b, 0x07], 0).result, Ok(Next::Resume));
    cpu.debug_registers[7] = on_both;
    assert_eq!(
        read(&cpu, &[0x8b, 0x07], 0).result,
        Err(GuestFault::Debug { dr6: 2 })
    );
    assert_eq!(
        read(&cpu, &[0x66, 0x8b, 0x07], 0).result,
        Ok(Next::Resume),
        "2 bytes end before"
    );
}

#[test]
fn what_cannot_be_done_raises_ud() {
    let mut state = vcpu();
    let mut device = machine(&[]);
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Read);
    // fld dword [rdi], fnsave [rdi], enter 0, 1
    for (index, bytes) in [&[0xd9, 0x07][..], &[0xdd, 0x37], &[0xc8, 0, 0, 1]]
        .into_iter()
        .enumerate()
    {
        let mut cpu = cpu().with(Gpr::Rsp, RAM);
        device.memory.put(CODE, bytes);
        let result = emulate(&mut cpu, &mut state, &mut device, stopped);
        assert_eq!(result, Err(GuestFault::InvalidOpcode), "{bytes:x?}");
        assert_eq!(cpu.rip, CODE);
        assert_eq!(state.emulator.failures, index as u32 + 1);
    }
    // What is no instruction anywhere is no failure of ours.
    device.memory.put(CODE, &[0xf0, 0x8b, 0x07]);
    let result = emulate(&mut cpu(), &mut state, &mut device, stopped);
    assert_eq!(
        (result, state.emulator.failures),
        (Err(GuestFault::InvalidOpcode), 3)
    );
}

#[test]
fn a_guest_full_of_unknown_instructions_does_not_fill_the_log_and_the_operator_knows() {
    let mut state = vcpu();
    let mut device = machine(&[]);
    device.memory.put(CODE, &[0xd9, 0x07]);
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Read);
    for _ in 0..100 {
        let result = emulate(&mut cpu(), &mut state, &mut device, stopped);
        assert_eq!(result, Err(GuestFault::InvalidOpcode));
    }
    let warnings = device.warnings.borrow();
    let (last, others) = warnings.split_last().expect("there are some");
    assert_eq!(warnings.len(), LOGGED_FAILURES as usize);
    assert!(last.ends_with("is not shown"), "{last}");
    assert!(others.iter().all(|line| line.ends_with("gets #UD")));
}

#[test]
fn code_where_nothing_is_reads_as_ones_and_raises_ud() {
    let mut cpu = long();
    cpu.rip = DEVICE;
    let mut device = machine(&[]);
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Execute);
    assert_eq!(
        emulate(&mut cpu, &mut vcpu(), &mut device, stopped),
        Err(GuestFault::InvalidOpcode)
    );
}

#[test]
fn an_event_that_cannot_be_delivered_stops_the_vm() {
    let mut state = vcpu();
    let mut device = machine(&[]);
    device.memory.put(CODE, &[0x8b, 0x07]);
    state
        .pending
        .interrupted(Some(Event::Interrupt(Vector(0x30))));
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let before = cpu();
    let mut cpu = before.clone();
    let result = emulate(&mut cpu, &mut state, &mut device, stopped);
    assert_eq!(
        result,
        Ok(Next::Stop(VmError::Unbacked(GuestPhys::new(DEVICE))))
    );
    assert_eq!((cpu.rip, cpu.gprs), (before.rip, before.gprs));
    assert!(device.mmio_reads.is_empty() && device.mmio_writes.is_empty());
}

#[test]
fn a_store_to_read_only_memory_reaches_the_machine() {
    // The page can be read as RAM; the hardware stopped the write.
    let cpu = long().with(Gpr::Rdi, DEVICE).with(Gpr::Rax, 1);
    let run = write(&cpu, &[0x09, 0x07], 0xf0).ended(2);
    assert_eq!(run.machine.mmio_writes, [(DEVICE, Width::Dword, 0xf1)]);
}

#[test]
fn the_local_apic_answers_at_its_page() {
    let page = 0xfee0_0000u64;
    let mut state = vcpu();
    let mut device = machine(&[]);
    // 0xfee0_0000 is above the first GiB: map it by a 1 GiB page.
    device.memory.put_u64(ROOT + 0x1000 + 3 * 8, 0xc000_0083);
    let mut cpu = long().with(Gpr::Rdi, page + 0x80).with(Gpr::Rax, 0x20);
    let stopped = |kind| access(page + 0x80, Some(page + 0x80), kind);
    device.memory.put(CODE, &[0x89, 0x07, 0x8b, 0x0f]);
    for kind in [AccessKind::Write, AccessKind::Read] {
        assert_eq!(
            emulate(&mut cpu, &mut state, &mut device, stopped(kind)),
            Ok(Next::Resume)
        );
    }
    assert_eq!(
        cpu.gprs.get(Gpr::Rcx),
        0x20,
        "the task priority that was written"
    );
    assert!(device.mmio_reads.is_empty() && device.mmio_writes.is_empty());
}

#[test]
fn smap_stops_an_emulated_access_that_the_hardware_has_not_checked() {
    // rep movsb from a user page to the device, SMAP on: the source must fault.
    let device = machine(&[]);
    for entry in [ROOT, ROOT + 0x1000] {
        let value = u64::from_le_bytes(device.memory.get(entry));
        device.memory.put_u64(entry, value | 4);
    }
    map_pages(&device, 0x5007, 0);
    let mut cpu = long()
        .with(Gpr::Rsi, PAGES)
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rcx, 1);
    cpu.cr4 |= Cr4::SMAP;
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let run = run_with(cpu.clone(), &[0xf3, 0xa4], device, stopped);
    let address = GuestVirt::new(PAGES);
    assert_eq!(
        run.result,
        Err(GuestFault::PageFault {
            address,
            error_code: 1
        })
    );
    cpu.rflags |= Rflags::AC;
    run_with(cpu, &[0xf3, 0xa4], run.machine, stopped).ended(2);
}

#[test]
fn no_bytes_and_registers_make_the_emulator_panic() {
    use proptest::prelude::*;
    proptest!(ProptestConfig::with_cases(3000), |(
        bytes in any::<[u8; 15]>(),
        values in any::<[u64; 16]>(),
        near in any::<[bool; 16]>(),
        rflags in any::<u32>(),
        mode in 0..3,
    )| {
        let mut cpu = match mode {
            0 => long(),
            1 => FakeCpu::protected_mode(),
            _ => FakeCpu::real_mode(),
        };
        for (register, (value, near)) in Gpr::ALL.into_iter().zip(values.into_iter().zip(near)) {
            cpu.gprs.set(register, if near { DEVICE + value % 16 } else { value });
        }
        cpu.rflags = (Rflags::from_bits_retain(u64::from(rflags)) - Rflags::VM) | Rflags::ONE;
        let stopped = access(DEVICE, None, AccessKind::Write);
        let run = run_with(cpu, &bytes, machine(&[]), stopped);
        let _: Vec<_> = run.machine.mmio_writes;
    });
}

#[test]
fn moves_by_vex_reach_the_upper_half_and_clear_what_they_do_not_reach() {
    let mut cpu = cpu();
    cpu.vectors[1] = 0x1111_2222_3333_4444_5555_6666_7777_8888;
    cpu.upper_vectors[1] = 0x9999_aaaa_bbbb_cccc_dddd_eeee_ffff_0000;
    // vmovdqu [rdi], ymm1
    let stored = run_with(
        cpu.clone(),
        &[0xc5, 0xfe, 0x7f, 0x0f],
        machine(&[]),
        access(DEVICE, Some(DEVICE), AccessKind::Write),
    )
    .ended(4);
    assert_eq!(
        stored.machine.mmio_writes,
        [
            (DEVICE, Width::Qword, 0x5555_6666_7777_8888),
            (DEVICE + 8, Width::Qword, 0x1111_2222_3333_4444),
            (DEVICE + 16, Width::Qword, 0xdddd_eeee_ffff_0000),
            (DEVICE + 24, Width::Qword, 0x9999_aaaa_bbbb_cccc),
        ]
    );
    // vmovq xmm1, qword ptr [rdi]
    let loaded = read(&cpu, &[0xc5, 0xfa, 0x7e, 0x0f], 0x1234).ended(4);
    assert_eq!(
        (loaded.cpu.vectors[1], loaded.cpu.upper_vectors[1]),
        (0x1234, 0)
    );
    // vmovaps ymm1, [rdi], not at a multiple of 32.
    let unaligned = run_with(
        cpu.with(Gpr::Rdi, DEVICE + 16),
        &[0xc5, 0xfc, 0x28, 0x0f],
        machine(&[]),
        access(DEVICE + 16, Some(DEVICE + 16), AccessKind::Read),
    );
    assert_eq!(unaligned.result, Err(GuestFault::GP0));
}

#[test]
fn mmx_registers_are_loaded_whole() {
    let mut cpu = cpu();
    cpu.mmx[1] = u64::MAX;
    // movd mm1, [rdi]
    let loaded = read(&cpu, &[0x0f, 0x6e, 0x0f], 0x1_2345_6789).ended(3);
    assert_eq!(loaded.cpu.mmx[1], 0x2345_6789);
    // movq [rdi], mm1
    let stored = write(&cpu, &[0x0f, 0x7f, 0x0f], 0).ended(3);
    assert_eq!(
        stored.machine.mmio_writes,
        [(DEVICE, Width::Qword, u64::MAX)]
    );
}

/// Real mode with its data segment at the device.
fn real_at_device() -> FakeCpu {
    let mut cpu = FakeCpu::real_mode().with(Gpr::Rsp, 0x7000);
    cpu.rip = CODE;
    cpu.segments[SegmentName::Cs as usize].base = 0;
    cpu.segments[SegmentName::Ss as usize].base = 0;
    cpu.segments[SegmentName::Ds as usize].base = DEVICE;
    cpu
}

#[test]
fn segment_registers_are_loaded_as_real_mode_does() {
    // mov es, [0]
    let at = access(DEVICE, None, AccessKind::Read);
    let bytes = [0x8e, 0x06, 0, 0];
    let run = run_with(real_at_device(), &bytes, machine(&[(DEVICE, 0x1234)]), at).ended(4);
    let es = run.cpu.segments[SegmentName::Es as usize];
    assert_eq!((es.selector, es.base), (0x1234, 0x1_2340));
    // mov ss, [0]: nothing comes between it and the next instruction.
    let bytes = [0x8e, 0x16, 0, 0];
    let loaded = || machine(&[(DEVICE, 0x1234)]);
    let run = run_with(real_at_device(), &bytes, loaded(), at).ended(4);
    assert!(run.cpu.blocking.contains(Blocking::MOV_SS));
    // Nor does a single-step trap; a shadow in which none is pending is no state to enter with.
    let mut cpu = real_at_device();
    cpu.rflags |= Rflags::TF;
    let run = run_with(cpu, &bytes, loaded(), at).ended(4);
    assert_eq!(run.cpu.blocking, Blocking::empty());
    assert!(run.cpu.rflags.contains(Rflags::TF));
}

#[test]
fn far_pointers_in_device_memory_lead_where_they_say() {
    let pointer = [(DEVICE, 0x5678), (DEVICE + 2, 0x1000)];
    let at = access(DEVICE, None, AccessKind::Read);
    // jmp far [0]
    let jump = run_with(real_at_device(), &[0xff, 0x2e, 0, 0], machine(&pointer), at);
    assert_eq!(jump.result, Ok(Next::Resume));
    let cs = jump.cpu.segments[SegmentName::Cs as usize];
    assert_eq!(
        (cs.selector, cs.base, jump.cpu.rip),
        (0x1000, 0x1_0000, 0x5678)
    );
    // call far [0]
    let call = run_with(real_at_device(), &[0xff, 0x1e, 0, 0], machine(&pointer), at);
    assert_eq!((call.cpu.rip, call.gpr(Gpr::Rsp)), (0x5678, 0x6ffc));
    let pushed: [u8; 4] = call.machine.memory.get(0x6ffc);
    let selector = real_at_device().segments[SegmentName::Cs as usize].selector;
    assert_eq!(
        pushed,
        [
            (CODE + 4).to_le_bytes()[..2].to_vec(),
            selector.to_le_bytes().to_vec()
        ]
        .concat()[..]
    );
    // les bx, [0]
    let loaded = run_with(real_at_device(), &[0xc4, 0x1e, 0, 0], machine(&pointer), at).ended(4);
    let es = loaded.cpu.segments[SegmentName::Es as usize];
    assert_eq!((es.selector, loaded.gpr(Gpr::Rbx)), (0x1000, 0x5678));
}

#[test]
fn selectors_in_device_memory_are_checked_against_their_descriptors() {
    const GDT: u64 = 0x9000;
    let with = |selector: u64, bytes: &[u8]| {
        let mut cpu = cpu();
        cpu.gdtr = arch::DescriptorTable {
            base: GDT,
            limit: 0x2f,
        };
        let machine = machine(&[(DEVICE, 0x5678), (DEVICE + 4, selector)]);
        for (index, descriptor) in [
            0,
            0x00af_9a00_0000_ffff,
            0x00cf_9200_0000_ffff,
            0x00cf_1200_0000_ffff,
            0x00af_fa00_0000_ffff,
            0x00cf_8c00_0000_0000,
        ]
        .into_iter()
        .enumerate()
        {
            machine.memory.put_u64(GDT + 8 * index as u64, descriptor);
        }
        run_with(cpu, bytes, machine, access(DEVICE, None, AccessKind::Read))
    };
    // lfs edx, [rdi]: data, absent data, null, beyond the table.
    let lfs = &[0x0f, 0xb4, 0x17];
    let good = with(0x10, lfs).ended(3);
    let fs = good.cpu.segments[SegmentName::Fs as usize];
    assert_eq!((fs.selector, fs.limit), (0x10, u32::MAX));
    assert_eq!(good.gpr(Gpr::Rdx), 0x5678);
    assert_eq!(
        good.machine.memory.get(GDT + 0x15),
        [0x93],
        "the descriptor is marked as accessed"
    );
    assert!(!with(0, lfs).ended(3).cpu.segments[SegmentName::Fs as usize].is_usable());
    assert_eq!(
        with(0x18, lfs).result,
        Err(GuestFault::SegmentNotPresent(0x18))
    );
    assert_eq!(
        with(0x30, lfs).result,
        Err(GuestFault::GeneralProtection(0x30))
    );
    // lss edx, [rdi]: code is no stack.
    let lss = &[0x0f, 0xb2, 0x17];
    assert_eq!(with(8, lss).result, Err(GuestFault::GeneralProtection(8)));
    // jmp fword ptr [rdi]: code, data, ring 3's code, a gate.
    let jmp = &[0xff, 0x2f];
    let jumped = with(8, jmp);
    assert_eq!((jumped.result, jumped.cpu.rip), (Ok(Next::Resume), 0x5678));
    assert_eq!(
        with(0x10, jmp).result,
        Err(GuestFault::GeneralProtection(0x10))
    );
    assert_eq!(
        with(0x23, jmp).result,
        Err(GuestFault::GeneralProtection(0x20))
    );
    assert_eq!(with(0, jmp).result, Err(GuestFault::GP0));
    assert_eq!(with(0x28, jmp).result, Err(GuestFault::InvalidOpcode));
}

#[test]
fn descriptor_tables_and_cr0_go_to_device_memory_and_come_from_it() {
    let mut cpu = cpu();
    cpu.gdtr = arch::DescriptorTable {
        base: 0xffff_8000_1234_5678,
        limit: 0x7f,
    };
    // sgdt [rdi]
    let stored = write(&cpu, &[0x0f, 0x01, 0x07], 0).ended(3);
    let bytes: u64 = stored
        .machine
        .mmio_writes
        .iter()
        .take(1)
        .map(|(_, _, value)| *value)
        .sum();
    assert_eq!(bytes, 0x8000_1234_5678_007f);
    // lgdt [rdi]
    let table = [(DEVICE, 0x1234_5678_00ff), (DEVICE + 8, 0)];
    let loaded = both_ways(&cpu, &[0x0f, 0x01, 0x17], &table, AccessKind::Read).ended(3);
    let gdtr = loaded.cpu.gdtr;
    assert_eq!((gdtr.base, gdtr.limit), (0x1234_5678, 0xff));
    // smsw [rdi]
    let status = write(&cpu, &[0x0f, 0x01, 0x27], 0).ended(3);
    let cr0 = cpu.cr0.bits() & 0xffff;
    assert_eq!(status.machine.mmio_writes, [(DEVICE, Width::Word, cr0)]);
    // lmsw [rdi]: TS on.
    let loaded = read(&cpu, &[0x0f, 0x01, 0x37], 0x9).ended(3);
    assert!(loaded.cpu.cr0.contains(arch::Cr0::TS));
    // clflush [rdi]
    let flushed = read(&cpu, &[0x0f, 0xae, 0x3f], 0).ended(3);
    assert!(flushed.machine.mmio_reads.is_empty());
}

#[test]
fn code_that_another_cpu_has_changed_meanwhile_gets_no_rights_by_that() {
    // The access that exited was a move of ring 3; what is fetched now is smsw [rdi], and then lmsw [rdi].
    let user_machine = || {
        let machine = machine(&[(DEVICE, 0x8)]);
        let entries = [0, 0x1000, 0x2000, 0x2000 + (DEVICE >> 21) * 8];
        for entry in entries.map(|offset| ROOT + offset) {
            let value = u64::from_le_bytes(machine.memory.get(entry));
            machine.memory.put_u64(entry, value | 4);
        }
        machine
    };
    let mut cpu = cpu();
    cpu.segments[SegmentName::Ss as usize].access |= AccessRights::DPL;
    cpu.cr4 |= Cr4::UMIP;
    let stopped = access(DEVICE, Some(DEVICE), AccessKind::Write);
    let refused = Err(GuestFault::GP0);
    for bytes in [[0x0f, 0x01, 0x27], [0x0f, 0x01, 0x37]] {
        let run = run_with(cpu.clone(), &bytes, user_machine(), stopped);
        assert_eq!(run.result, refused, "{bytes:02x?}");
    }
    cpu.cr4 -= Cr4::UMIP;
    run_with(cpu, &[0x0f, 0x01, 0x27], user_machine(), stopped).ended(3);
}

#[test]
fn lar_lsl_verr_and_verw_ask_about_selectors_in_device_memory() {
    const GDT: u64 = 0x9000;
    const OLD: u64 = 0x1111_2222_3333_4444;
    let ask = |cpu: FakeCpu, selector: u64, bytes: &[u8]| {
        let machine = machine(&[(DEVICE, selector)]);
        for (index, descriptor) in [
            0,
            0x00af_9a00_0000_ffff,
            0x00cf_9200_0000_ffff,
            0x0000_8c00_0000_0000,
        ]
        .into_iter()
        .enumerate()
        {
            machine.memory.put_u64(GDT + 8 * index as u64, descriptor);
        }
        run_with(cpu, bytes, machine, access(DEVICE, None, AccessKind::Read))
    };
    let mut cpu = cpu().with(Gpr::Rax, OLD);
    cpu.gdtr = arch::DescriptorTable {
        base: GDT,
        limit: 0x1f,
    };
    let of = |selector, bytes: &[u8]| {
        let run = ask(cpu.clone(), selector, bytes).ended(3);
        (run.cpu.rflags.contains(Rflags::ZF), run.gpr(Gpr::Rax))
    };
    // lar eax, [rdi]; lsl eax, [rdi]; verr [rdi]; verw [rdi]
    let (lar, lsl) = (&[0x0f, 0x02, 0x07], &[0x0f, 0x03, 0x07]);
    let (verr, verw) = (&[0x0f, 0x00, 0x27], &[0x0f, 0x00, 0x2f]);
    assert_eq!(of(0x08, lar), (true, 0x00a0_9a00));
    assert_eq!(of(0x10, lar), (true, 0x00c0_9200));
    assert_eq!(of(0x18, lar), (true, 0x8c00));
    assert_eq!(of(0x08, lsl), (true, 0xffff_ffff));
    let no = (false, OLD);
    // A gate has no limit; null; beyond the table; rights of ring 3 alone.
    for selector in [0x18, 0, 0x20, 0x13] {
        assert_eq!(of(selector, lsl), no, "{selector:#x}");
    }
    let yes = (true, OLD);
    assert_eq!([of(0x08, verr), of(0x08, verw)], [yes, no]);
    assert_eq!([of(0x10, verr), of(0x10, verw)], [yes, yes]);
    assert_eq!([of(0x18, verr), of(0x18, verw)], [no, no]);
    // verr [0] is no instruction of real mode.
    let run = ask(real_at_device(), 8, &[0x0f, 0x00, 0x26, 0, 0]);
    assert_eq!(run.result, Err(GuestFault::InvalidOpcode));
}
