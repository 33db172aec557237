//! String port instructions in their forms, and I/O breakpoints.

use alloc::vec;
use alloc::vec::Vec;

use arch::{AccessRights, Cr4, Segment, Width};

use super::*;
use crate::exit::VmExit;
use crate::handle::handle;
use crate::testing::{FakeCpu, FakeMachine, vcpu};

const ROOT: u64 = 0x10_0000;

fn machine() -> FakeMachine {
    let machine = FakeMachine::new(0x40_0000);
    machine.memory.identity_map_long_mode(ROOT);
    machine
}

fn exit(direction: Direction, width: Width, repeat: Repeat, address_width: Width) -> VmExit {
    let segment = match direction {
        Direction::In => SegmentName::Es,
        Direction::Out => SegmentName::Ds,
    };
    let string = Some(StringIo {
        repeat,
        address_width,
        segment,
    });
    VmExit::PortIo(PortIo {
        port: 0x3f8,
        width,
        direction,
        string,
    })
}

fn rep_outsb() -> VmExit {
    exit(Direction::Out, Width::Byte, Repeat::ByCount, Width::Qword)
}

fn rep_insb() -> VmExit {
    exit(Direction::In, Width::Byte, Repeat::ByCount, Width::Qword)
}

fn run(cpu: &mut FakeCpu, machine: &mut FakeMachine, exit: VmExit) -> Result<Next, GuestFault> {
    handle(cpu, &mut vcpu(), machine, exit)
}

fn written(machine: &FakeMachine) -> Vec<u32> {
    machine
        .port_writes
        .iter()
        .map(|(_, _, value)| *value)
        .collect()
}

#[test]
fn a_single_outs_moves_one_element() {
    let mut machine = machine();
    machine.memory.put(0x5000, b"abcd");
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rsi, 0x5000)
        .with(Gpr::Rcx, 7);
    let outsw = exit(Direction::Out, Width::Word, Repeat::Once, Width::Qword);
    assert_eq!(run(&mut cpu, &mut machine, outsw), Ok(Next::Resume));
    assert_eq!(machine.port_writes, [(0x3f8, Width::Word, 0x6261)]);
    assert_eq!(
        (cpu.gprs.get(Gpr::Rsi), cpu.gprs.get(Gpr::Rcx)),
        (0x5002, 7)
    );
    assert_eq!(cpu.rip, 0x1002);
}

#[test]
fn rep_outs_sends_all_and_counts_down() {
    let mut machine = machine();
    machine.memory.put(0x5000, b"hello");
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rsi, 0x5000)
        .with(Gpr::Rcx, 5);
    assert_eq!(run(&mut cpu, &mut machine, rep_outsb()), Ok(Next::Resume));
    assert_eq!(written(&machine), b"hello".map(u32::from));
    assert_eq!(
        (cpu.gprs.get(Gpr::Rsi), cpu.gprs.get(Gpr::Rcx), cpu.rip),
        (0x5005, 0, 0x1002)
    );
}

#[test]
fn a_count_of_zero_does_nothing() {
    let mut machine = machine();
    let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rsi, 0x5000);
    run(&mut cpu, &mut machine, rep_outsb()).unwrap();
    assert_eq!((machine.port_writes.len(), cpu.rip), (0, 0x1002));
}

#[test]
fn with_df_elements_go_downwards() {
    let mut machine = machine();
    machine.script_port(0x3f8, &[0x1111, 0x2222]);
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rdi, 0x5002)
        .with(Gpr::Rcx, 2);
    cpu.rflags |= Rflags::DF;
    run(
        &mut cpu,
        &mut machine,
        exit(Direction::In, Width::Word, Repeat::ByCount, Width::Qword),
    )
    .unwrap();
    assert_eq!(machine.memory.get_u32(0x5000), 0x1111_2222);
    assert_eq!(cpu.gprs.get(Gpr::Rdi), 0x4ffe);
}

#[test]
fn a_long_run_is_cut_and_goes_on_where_it_was() {
    let mut machine = machine();
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rsi, 0x5000)
        .with(Gpr::Rcx, 1000);
    let mut exits = 0;
    while cpu.rip == 0x1000 {
        assert_eq!(run(&mut cpu, &mut machine, rep_outsb()), Ok(Next::Resume));
        exits += 1;
    }
    assert_eq!(
        (machine.port_writes.len(), cpu.gprs.get(Gpr::Rsi)),
        (1000, 0x53e8)
    );
    assert!(exits > 1);
}

#[test]
fn elements_that_cross_pages_are_whole() {
    let mut machine = machine();
    machine.script_port(0x3f8, &[0x4433_2211, 0x8877_6655]);
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rdi, 0x5ffa)
        .with(Gpr::Rcx, 2);
    run(
        &mut cpu,
        &mut machine,
        exit(Direction::In, Width::Dword, Repeat::ByCount, Width::Qword),
    )
    .unwrap();
    assert_eq!(
        machine.memory.get(0x5ffa),
        [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]
    );
}

#[test]
fn a_page_fault_keeps_the_elements_done_and_reads_no_port() {
    let mut machine = machine();
    // The second 2 MiB page is not there.
    machine.memory.put_u64(ROOT + 0x2000 + 8, 0);
    machine.script_port(0x3f8, &[1, 2, 3, 4]);
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rdi, 0x1f_fffe)
        .with(Gpr::Rcx, 4);
    let fault = GuestFault::PageFault {
        address: GuestVirt::new(0x20_0000),
        error_code: 2,
    };
    assert_eq!(run(&mut cpu, &mut machine, rep_insb()), Err(fault));
    assert_eq!(machine.memory.get(0x1f_fffe), [1, 2]);
    assert_eq!(
        (cpu.gprs.get(Gpr::Rcx), cpu.gprs.get(Gpr::Rdi)),
        (2, 0x20_0000)
    );
    assert_eq!((cpu.rip, machine.port_reads.len()), (0x1000, 2));
}

#[test]
fn a_32_bit_address_size_wraps_and_clears_the_upper_half() {
    let mut machine = machine();
    machine.memory.put(0, &[9]);
    let mut cpu = FakeCpu::protected_mode()
        .with(Gpr::Rsi, 0xffff_ffff_ffff_ffff)
        .with(Gpr::Rcx, 0xffff_ffff_0000_0002);
    run(
        &mut cpu,
        &mut machine,
        exit(Direction::Out, Width::Byte, Repeat::ByCount, Width::Dword),
    )
    .unwrap();
    assert_eq!(written(&machine), [0xff, 9]);
    assert_eq!((cpu.gprs.get(Gpr::Rsi), cpu.gprs.get(Gpr::Rcx)), (1, 0));
}

#[test]
fn a_16_bit_address_size_uses_and_keeps_16_bits() {
    let mut machine = machine();
    let mut cpu = FakeCpu::real_mode()
        .with(Gpr::Rdi, 0xabcd_ffff)
        .with(Gpr::Rcx, 0x5_0002);
    cpu.segments[SegmentName::Es as usize].base = 0x2_0000;
    machine.script_port(0x3f8, &[7, 8]);
    run(
        &mut cpu,
        &mut machine,
        exit(Direction::In, Width::Byte, Repeat::ByCount, Width::Word),
    )
    .unwrap();
    assert_eq!(
        (machine.memory.get(0x2_ffff), machine.memory.get(0x2_0000)),
        ([7], [8])
    );
    assert_eq!(
        (cpu.gprs.get(Gpr::Rdi), cpu.gprs.get(Gpr::Rcx)),
        (0xabcd_0001, 0x5_0000)
    );
}

#[test]
fn segments_are_checked_before_the_port_is_touched() {
    let mut machine = machine();
    let mut cpu = FakeCpu::protected_mode()
        .with(Gpr::Rdi, 0x1000)
        .with(Gpr::Rsi, 0x1000);
    let read_only = Segment {
        limit: 0xfff,
        ..cpu.segments[0]
    };
    cpu.segments[SegmentName::Es as usize] = Segment {
        access: read_only.access - AccessRights::WRITABLE,
        limit: u32::MAX,
        ..read_only
    };
    let insb = exit(Direction::In, Width::Byte, Repeat::Once, Width::Dword);
    assert_eq!(run(&mut cpu, &mut machine, insb), Err(GuestFault::GP0));
    cpu.segments[SegmentName::Ss as usize].limit = 0xfff;
    let string = Some(StringIo {
        repeat: Repeat::Once,
        address_width: Width::Dword,
        segment: SegmentName::Ss,
    });
    let outsb = PortIo {
        port: 0x3f8,
        width: Width::Byte,
        direction: Direction::Out,
        string,
    };
    let result = run(&mut cpu, &mut machine, VmExit::PortIo(outsb));
    assert_eq!(result, Err(GuestFault::StackFault(0)));
    assert_eq!(
        (machine.port_reads.len(), machine.port_writes.len()),
        (0, 0)
    );
}

#[test]
fn the_trap_flag_traps_after_every_element() {
    let mut machine = machine();
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rsi, 0x5000)
        .with(Gpr::Rcx, 2);
    cpu.rflags |= Rflags::TF;
    let trap = Err(GuestFault::Debug { dr6: 0x4000 });
    assert_eq!(run(&mut cpu, &mut machine, rep_outsb()), trap);
    assert_eq!((cpu.rip, cpu.gprs.get(Gpr::Rcx)), (0x1000, 1));
    assert_eq!(run(&mut cpu, &mut machine, rep_outsb()), trap);
    assert_eq!((cpu.rip, cpu.gprs.get(Gpr::Rcx)), (0x1002, 0));
}

#[test]
fn an_io_breakpoint_traps_behind_the_instruction() {
    let mut machine = machine();
    let mut cpu = FakeCpu::long_mode(ROOT);
    // DR2: two bytes of ports from 0x3f8 on.
    cpu.debug_registers[2] = 0x3f8;
    cpu.debug_registers[7] = 0x400 | 1 << 4 | 0b0110 << 24;
    let out = |port, width| {
        VmExit::PortIo(PortIo {
            port,
            width,
            direction: Direction::Out,
            string: None,
        })
    };
    assert_eq!(
        run(&mut cpu, &mut machine, out(0x3f9, Width::Byte)),
        Ok(Next::Resume)
    );
    cpu.cr4 |= Cr4::DE;
    let trap = Err(GuestFault::Debug { dr6: 4 });
    assert_eq!(run(&mut cpu, &mut machine, out(0x3f9, Width::Byte)), trap);
    assert_eq!(cpu.rip, 0x1004);
    assert_eq!(
        run(&mut cpu, &mut machine, out(0x3fa, Width::Byte)),
        Ok(Next::Resume)
    );
    assert_eq!(run(&mut cpu, &mut machine, out(0x3f6, Width::Dword)), trap);
    cpu.rflags |= Rflags::TF;
    let both = Err(GuestFault::Debug { dr6: 0x4004 });
    assert_eq!(run(&mut cpu, &mut machine, out(0x3f8, Width::Byte)), both);
}

#[test]
fn a_data_breakpoint_sees_what_ins_writes() {
    let mut machine = machine();
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rdi, 0x5000)
        .with(Gpr::Rcx, 4);
    // DR0: writes to four bytes, the second doubleword of the transfer.
    cpu.debug_registers[0] = 0x5004;
    cpu.debug_registers[7] = 0x400 | 1 | 0b1101 << 16;
    let insw = exit(Direction::In, Width::Word, Repeat::ByCount, Width::Qword);
    assert_eq!(run(&mut cpu, &mut machine, insw), Ok(Next::Resume));
    assert_eq!(run(&mut cpu, &mut machine, insw), Ok(Next::Resume));
    assert_eq!(
        run(&mut cpu, &mut machine, insw),
        Err(GuestFault::Debug { dr6: 1 })
    );
    assert_eq!((cpu.gprs.get(Gpr::Rdi), cpu.rip), (0x5006, 0x1000));
    // What OUTS reads is no write.
    let outsw = exit(Direction::Out, Width::Word, Repeat::Once, Width::Qword);
    cpu.gprs.set(Gpr::Rsi, 0x5004);
    assert_eq!(run(&mut cpu, &mut machine, outsw), Ok(Next::Resume));
}

#[test]
fn string_output_can_come_from_a_device() {
    let mut machine = machine();
    machine.mmio.insert(0x80_0000, 0x55);
    let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rsi, 0x80_0000);
    run(
        &mut cpu,
        &mut machine,
        exit(Direction::Out, Width::Byte, Repeat::Once, Width::Qword),
    )
    .unwrap();
    assert_eq!(
        (written(&machine), &machine.mmio_reads[..]),
        (vec![0x55], &[(0x80_0000, Width::Byte)][..])
    );
}

#[test]
fn string_instructions_reach_the_registers_of_the_local_apic() {
    const TASK_PRIORITY: u64 = 0xfee0_0080;
    let mut machine = machine();
    // The fourth GiB, by 1 GiB page.
    machine
        .memory
        .put_u64(ROOT + 0x1000 + 3 * 8, 0xc000_0000 | 0x83);
    machine.script_port(0x3f8, &[0x30]);
    let mut vcpu = vcpu();
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rdi, TASK_PRIORITY)
        .with(Gpr::Rsi, TASK_PRIORITY);
    let ins = exit(Direction::In, Width::Dword, Repeat::Once, Width::Qword);
    assert_eq!(
        handle(&mut cpu, &mut vcpu, &mut machine, ins),
        Ok(Next::Resume)
    );
    assert_eq!(vcpu.lapic.task_priority(), 0x30);
    let outs = exit(Direction::Out, Width::Dword, Repeat::Once, Width::Qword);
    assert_eq!(
        handle(&mut cpu, &mut vcpu, &mut machine, outs),
        Ok(Next::Resume)
    );
    assert_eq!(written(&machine), [0x30]);
    assert!(machine.mmio_reads.is_empty() && machine.mmio_writes.is_empty());
}

#[test]
fn a_byte_that_the_device_does_not_take_yet_was_lost() {
    let mut machine = machine();
    let mut cpu = FakeCpu::long_mode(ROOT);
    let out = VmExit::PortIo(PortIo {
        port: 0x3f8,
        width: Width::Byte,
        direction: Direction::Out,
        string: None,
    });
    let rip = cpu.rip();
    cpu.set_gpr(Gpr::Rax, 0x41);
    machine.takes_writes = Some(0);
    for _ in 0..3 {
        assert_eq!(run(&mut cpu, &mut machine, out), Ok(Next::Resume));
        assert_eq!((cpu.rip(), written(&machine)), (rip, vec![]));
    }
    machine.takes_writes = Some(1);
    assert_eq!(run(&mut cpu, &mut machine, out), Ok(Next::Resume));
    assert_ne!(cpu.rip(), rip);
    assert_eq!(written(&machine), [0x41]);
}

#[test]
fn a_string_of_which_the_device_takes_a_part_goes_on_behind_that() {
    let mut machine = machine();
    machine.memory.put(0x20_0000, b"0123456789");
    let mut cpu = FakeCpu::long_mode(ROOT);
    let rip = cpu.rip();
    cpu.set_gpr(Gpr::Rsi, 0x20_0000);
    cpu.set_gpr(Gpr::Rcx, 10);
    for (takes, left) in [(4, 6), (0, 6), (5, 1)] {
        machine.takes_writes = Some(takes);
        assert_eq!(run(&mut cpu, &mut machine, rep_outsb()), Ok(Next::Resume));
        assert_eq!((cpu.rip(), cpu.gpr(Gpr::Rcx)), (rip, left));
        assert_eq!(cpu.gpr(Gpr::Rsi), 0x20_000a - left);
    }
    machine.takes_writes = None;
    assert_eq!(run(&mut cpu, &mut machine, rep_outsb()), Ok(Next::Resume));
    assert_ne!(cpu.rip(), rip);
    let said: Vec<u32> = (0x30..0x3a).collect();
    assert_eq!(written(&machine), said);
}
