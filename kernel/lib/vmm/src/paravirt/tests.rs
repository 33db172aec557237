//! The MSRs and hypercalls of [`paravirt`](super), reached as a guest reaches them.

use alloc::vec;

use arch::{Gpr, msr};

use super::*;
use crate::handle::{Next, handle};
use crate::testing::{FakeCpu, FakeMachine, guest_cpu_config, vcpu, vcpu_with};
use crate::{GuestFault, VmExit};

const SYSTEM_TIME: u32 = 0x4b56_4d01;
const STEAL: u32 = 0x4b56_4d03;
const EOI: u32 = 0x4b56_4d04;
const MEMORY: usize = 0x4000;

fn write(vcpu: &mut VcpuState, machine: &FakeMachine, index: u32, value: u64) -> Option<()> {
    write_msr(vcpu, machine, index, value)
}

#[test]
fn an_msr_without_its_feature_is_not_there() {
    let mut config = guest_cpu_config();
    config.paravirt = Features::NOP_IO_DELAY;
    let (mut vcpu, machine) = (vcpu_with(&config), FakeMachine::new(MEMORY));
    for index in 0x4b56_4d00..=0x4b56_4dff {
        let features = vcpu.cpuid.paravirt();
        assert_eq!(vcpu.paravirt.read_msr(features, index), None);
        assert_eq!(write(&mut vcpu, &machine, index, 0), None, "{index:#x}");
    }
}

#[test]
fn numbers_that_no_feature_uses_are_not_there() {
    let (mut vcpu, machine) = (vcpu(), FakeMachine::new(MEMORY));
    for index in [
        0x4b56_4d02,
        0x4b56_4d05,
        0x4b56_4d06,
        0x4b56_4d08,
        0x4b56_4dff,
    ] {
        assert_eq!(write(&mut vcpu, &machine, index, 0), None, "{index:#x}");
    }
}

#[test]
fn only_aligned_ram_can_be_announced() {
    let (mut vcpu, machine) = (vcpu(), FakeMachine::new(MEMORY));
    let end = MEMORY as u64;
    for (index, wrong) in [
        (SYSTEM_TIME, 0x103),
        (SYSTEM_TIME, end | 1),
        (SYSTEM_TIME, (end - 16) | 1),
        (SYSTEM_TIME, 0xfee0_0001),
        (STEAL, 0x121),
        (STEAL, 0x102),
        (STEAL, end | 1),
        (EOI, 0x103),
        (EOI, 2),
        (EOI, end | 1),
        (EOI, !0 ^ 2),
    ] {
        assert_eq!(
            write(&mut vcpu, &machine, index, wrong),
            None,
            "{index:#x} {wrong:#x}"
        );
        let features = vcpu.cpuid.paravirt();
        assert_eq!(vcpu.paravirt.read_msr(features, index), Some(0));
    }
    for (index, right) in [(SYSTEM_TIME, 0x105), (STEAL, 0x141), (EOI, (end - 4) | 1)] {
        assert_eq!(write(&mut vcpu, &machine, index, right), Some(()));
        let features = vcpu.cpuid.paravirt();
        assert_eq!(vcpu.paravirt.read_msr(features, index), Some(right));
    }
}

#[test]
fn the_clock_says_when_the_tsc_was_zero_whatever_is_written_to_it() {
    let (mut vcpu, mut machine) = (vcpu(), FakeMachine::new(MEMORY));
    let mut cpu = FakeCpu::long_mode(0).with(Gpr::Rcx, u64::from(SYSTEM_TIME));
    cpu.tsc = 5000;
    let exit =
        |cpu: &mut FakeCpu, vcpu: &mut VcpuState, machine: &mut FakeMachine, index, value: u64| {
            cpu.set_gpr(Gpr::Rcx, u64::from(index));
            cpu.set_gpr(Gpr::Rax, value & 0xffff_ffff);
            cpu.set_gpr(Gpr::Rdx, value >> 32);
            assert_eq!(
                handle(cpu, vcpu, machine, VmExit::WriteMsr),
                Ok(Next::Resume)
            );
        };
    use crate::Cpu as _;
    exit(&mut cpu, &mut vcpu, &mut machine, SYSTEM_TIME, 0x101);
    let timestamp = |machine: &FakeMachine| u64::from_le_bytes(machine.memory.get(0x108));
    assert_eq!(timestamp(&machine), 0);
    exit(
        &mut cpu,
        &mut vcpu,
        &mut machine,
        msr::IA32_TIME_STAMP_COUNTER,
        7000,
    );
    assert_eq!((cpu.tsc, vcpu.msrs.tsc_adjust), (7000, 2000));
    assert_eq!(timestamp(&machine), 2000);
    exit(&mut cpu, &mut vcpu, &mut machine, msr::IA32_TSC_ADJUST, 500);
    assert_eq!((cpu.tsc, vcpu.msrs.tsc_adjust), (5500, 500));
    assert_eq!(timestamp(&machine), 500);
    // Off: nothing more is written.
    exit(&mut cpu, &mut vcpu, &mut machine, SYSTEM_TIME, 0x100);
    exit(&mut cpu, &mut vcpu, &mut machine, msr::IA32_TSC_ADJUST, 0);
    assert_eq!(timestamp(&machine), 500);
}

#[test]
fn init_ends_everything() {
    let (mut vcpu, machine) = (vcpu(), FakeMachine::new(MEMORY));
    for (index, value) in [(SYSTEM_TIME, 0x101), (STEAL, 0x201), (EOI, 0x301)] {
        assert_eq!(write(&mut vcpu, &machine, index, value), Some(()));
    }
    vcpu.paravirt.wake();
    crate::reset::init(&mut FakeCpu::long_mode(0), &mut vcpu);
    let features = vcpu.cpuid.paravirt();
    for index in [SYSTEM_TIME, STEAL, EOI] {
        assert_eq!(vcpu.paravirt.read_msr(features, index), Some(0));
    }
    assert!(!vcpu.paravirt.take_wake());
}

#[test]
fn a_wake_that_comes_before_the_halt_is_not_lost_and_counts_once() {
    let mut paravirt = Paravirt::default();
    assert!(!paravirt.take_wake());
    paravirt.wake();
    paravirt.wake();
    assert!(paravirt.take_wake());
    assert!(!paravirt.take_wake());
}

#[test]
fn the_hypercall_wakes_by_apic_id_where_it_is_offered() {
    let call = |vcpu: &mut VcpuState, cpl: u8| {
        let mut machine = FakeMachine::new(MEMORY);
        let mut cpu = FakeCpu::long_mode(0).with(Gpr::Rax, 5).with(Gpr::Rcx, 1);
        if cpl == 3 {
            cpu = cpu.in_ring_3();
        }
        let result = handle(&mut cpu, vcpu, &mut machine, VmExit::Hypercall);
        assert_eq!(result, Ok(Next::Resume));
        use crate::Cpu as _;
        (cpu.gpr(Gpr::Rax) as i64, machine.woken)
    };
    assert_eq!(call(&mut vcpu(), 0), (0, vec![1]));
    assert_eq!(call(&mut vcpu(), 3), (-1, vec![]));
    let mut config = guest_cpu_config();
    config.paravirt -= Features::PV_UNHALT;
    assert_eq!(call(&mut vcpu_with(&config), 0), (-1000, vec![]));
}

#[test]
fn without_an_invariant_tsc_no_clock_is_offered() {
    let host = |leaf, subleaf| match leaf {
        0x8000_0007 => arch::cpuid::CpuidResult::ZERO,
        _ => crate::testing::host_cpuid(leaf, subleaf),
    };
    let table = crate::CpuidTable::build(&host, &guest_cpu_config());
    assert_eq!(table.clock_scale(), None);
    assert_eq!(
        table.paravirt(),
        Features::NOP_IO_DELAY | Features::STEAL_TIME | Features::PV_EOI | Features::PV_UNHALT
    );
}

#[test]
fn a_guest_reads_the_date_at_its_start() {
    let (mut vcpu, mut machine) = (vcpu(), FakeMachine::new(MEMORY));
    machine.date_at_start_ns = 1_700_000_000_123_456_789;
    assert_eq!(write(&mut vcpu, &machine, 0x4b56_4d00, 0x40), Some(()));
    assert_eq!(machine.memory.get_u32(0x44), 1_700_000_000);
    assert_eq!(machine.memory.get_u32(0x48), 123_456_789);
    assert_eq!(write(&mut vcpu, &machine, 0x4b56_4d00, 0x41), None);
    let mut cpu = FakeCpu::long_mode(0)
        .with(Gpr::Rcx, 0x4b56_4d00)
        .with(Gpr::Rax, 0x41);
    let fault = handle(&mut cpu, &mut vcpu, &mut machine, VmExit::WriteMsr);
    assert_eq!(fault, Err(GuestFault::GP0));
}
