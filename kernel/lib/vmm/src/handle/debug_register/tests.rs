//! Debug registers: aliases, reserved bits, general detect.

use arch::Gpr;

use super::*;
use crate::exit::VmExit;
use crate::handle::handle;
use crate::testing::{FakeCpu, FakeMachine, vcpu};

const REFUSED: Result<Next, GuestFault> = Err(GuestFault::GP0);

fn run(cpu: &mut FakeCpu, register: u8, direction: Direction) -> Result<Next, GuestFault> {
    let access = DebugRegisterAccess {
        register,
        direction,
        gpr: Gpr::Rbx,
    };
    handle(
        cpu,
        &mut vcpu(),
        &mut FakeMachine::new(0),
        VmExit::DebugRegister(access),
    )
}

fn write(cpu: &mut FakeCpu, register: u8, value: u64) -> Result<Next, GuestFault> {
    cpu.gprs.set(Gpr::Rbx, value);
    run(cpu, register, Direction::Out)
}

fn read(cpu: &mut FakeCpu, register: u8) -> Result<u64, GuestFault> {
    run(cpu, register, Direction::In).map(|_| cpu.gprs.get(Gpr::Rbx))
}

#[test]
fn breakpoint_addresses_take_any_value() {
    let mut cpu = FakeCpu::long_mode(0);
    for register in 0..4 {
        write(&mut cpu, register, 0x8123_4567_89ab_cdef).unwrap();
        assert_eq!(read(&mut cpu, register), Ok(0x8123_4567_89ab_cdef));
    }
}

#[test]
fn dr6_and_dr7_keep_their_fixed_bits() {
    let mut cpu = FakeCpu::long_mode(0);
    write(&mut cpu, 6, 0).unwrap();
    assert_eq!(read(&mut cpu, 6), Ok(0xffff_0ff0));
    write(&mut cpu, 6, 0xffff_ffff).unwrap();
    assert_eq!(read(&mut cpu, 6), Ok(0xffff_efff));
    write(&mut cpu, 7, 0).unwrap();
    assert_eq!(read(&mut cpu, 7), Ok(0x400));
    write(&mut cpu, 7, 0xffff_dfff).unwrap();
    assert_eq!(read(&mut cpu, 7), Ok(0xffff_07ff));
}

#[test]
fn the_upper_half_of_dr6_and_dr7_is_reserved() {
    let mut cpu = FakeCpu::long_mode(0);
    assert_eq!(write(&mut cpu, 6, 1 << 32), REFUSED);
    assert_eq!(write(&mut cpu, 7, 1 << 63), REFUSED);
    // Outside 64-bit mode there is no upper half.
    let mut cpu = FakeCpu::protected_mode();
    assert_eq!(write(&mut cpu, 7, 1 << 63 | 0x401), Ok(Next::Resume));
    assert_eq!(read(&mut cpu, 7), Ok(0x401));
}

#[test]
fn dr4_and_dr5_are_aliases_unless_de_is_set() {
    let mut cpu = FakeCpu::long_mode(0);
    write(&mut cpu, 5, 0x401).unwrap();
    assert_eq!(read(&mut cpu, 7), Ok(0x401));
    assert_eq!(read(&mut cpu, 4), Ok(0xffff_0ff0));
    cpu.cr4 |= Cr4::DE;
    assert_eq!(read(&mut cpu, 4), Err(GuestFault::InvalidOpcode));
    assert_eq!(write(&mut cpu, 5, 0), Err(GuestFault::InvalidOpcode));
}

#[test]
fn general_detect_traps_before_the_access() {
    let mut cpu = FakeCpu::long_mode(0);
    cpu.debug_registers[7] = 0x2400;
    assert_eq!(read(&mut cpu, 0), Err(GuestFault::Debug { dr6: 0x2000 }));
    assert_eq!(cpu.rip, 0x1000);
    let mut cpu = cpu.in_ring_3();
    assert_eq!(read(&mut cpu, 0), Err(GuestFault::GP0));
}
