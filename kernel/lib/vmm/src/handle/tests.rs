//! The handlers against fakes: completion of instructions, and each instruction's results.

use arch::{Cr4, Exception, Gpr, Rflags, Vector, Width};
use memory::{GuestPhys, GuestVirt};

use super::*;
use crate::exit::{Direction, ExceptionInfo, PortIo};
use crate::testing::{FakeCpu, FakeMachine, vcpu};

const ROOT: u64 = 0x10_0000;

/// Runs one exit on a fresh vCPU and an empty machine.
pub(super) fn run(cpu: &mut FakeCpu, exit: VmExit) -> Result<Next, GuestFault> {
    handle(cpu, &mut vcpu(), &mut FakeMachine::new(0x1000), exit)
}

#[test]
fn a_finished_instruction_is_stepped_past_by_its_length() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    cpu.instruction_length = 3;
    assert_eq!(run(&mut cpu, VmExit::Wbinvd), Ok(Next::Resume));
    assert_eq!(cpu.rip, 0x1003);
}

#[test]
fn a_faulting_instruction_leaves_rip_where_it_is() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    assert_eq!(run(&mut cpu, VmExit::Rdpmc), Err(GuestFault::GP0));
    assert_eq!(run(&mut cpu, VmExit::Mwait), Err(GuestFault::InvalidOpcode));
    assert_eq!(cpu.rip, 0x1000);
}

#[test]
fn encls_where_the_processor_has_it_and_its_guests_do_not_was_an_exit_that_nobody_expected() {
    // As exits decode that only a processor with SGX makes, and all others of this kind.
    let mut cpu = FakeCpu::long_mode(ROOT);
    let raised = run(&mut cpu, VmExit::NoSuchInstruction);
    assert_eq!(raised, Err(GuestFault::InvalidOpcode));
    assert_eq!(cpu.rip, 0x1000);
}

#[test]
fn rip_wraps_at_4_gib_in_32_bit_code_only() {
    let mut cpu = FakeCpu::protected_mode();
    cpu.rip = 0xffff_ffff;
    run(&mut cpu, VmExit::Cpuid).unwrap();
    assert_eq!(cpu.rip, 1);
    let mut cpu = FakeCpu::long_mode(ROOT);
    cpu.rip = 0xffff_ffff;
    run(&mut cpu, VmExit::Cpuid).unwrap();
    assert_eq!(cpu.rip, 0x1_0000_0001);
    cpu.rip = u64::MAX;
    run(&mut cpu, VmExit::Cpuid).unwrap();
    assert_eq!(cpu.rip, 1);
}

#[test]
fn the_shadow_of_sti_ends_with_the_instruction_and_nmi_blocking_does_not() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    cpu.blocking = Blocking::STI | Blocking::NMI;
    run(&mut cpu, VmExit::Cpuid).unwrap();
    assert_eq!(cpu.blocking, Blocking::NMI);
    cpu.blocking = Blocking::MOV_SS;
    run(&mut cpu, VmExit::Rdpmc).unwrap_err();
    assert_eq!(cpu.blocking, Blocking::MOV_SS);
}

#[test]
fn the_trap_flag_traps_behind_the_instruction() {
    for exit in [VmExit::Cpuid, VmExit::Hlt, VmExit::Pause] {
        let mut cpu = FakeCpu::long_mode(ROOT);
        cpu.rflags |= Rflags::TF | Rflags::RF;
        assert_eq!(run(&mut cpu, exit), Err(GuestFault::Debug { dr6: 0x4000 }));
        assert_eq!(cpu.rip, 0x1002);
        assert!(!cpu.rflags.contains(Rflags::RF));
        assert!(cpu.rflags.contains(Rflags::TF));
    }
}

#[test]
fn a_breakpoint_that_mov_ss_met_is_not_lost_behind_an_emulated_instruction() {
    for (flags, dr6) in [(Rflags::empty(), 2), (Rflags::TF, 0x4002)] {
        let mut cpu = FakeCpu::long_mode(ROOT);
        cpu.blocking = Blocking::MOV_SS;
        cpu.held_breakpoints = 2;
        cpu.rflags |= flags;
        assert_eq!(run(&mut cpu, VmExit::Cpuid), Err(GuestFault::Debug { dr6 }));
        assert_eq!((cpu.rip, cpu.blocking), (0x1002, Blocking::empty()));
        cpu.rflags -= Rflags::TF;
        assert_eq!(run(&mut cpu, VmExit::Cpuid), Ok(Next::Resume));
    }
}

#[test]
fn with_btf_the_trap_flag_lets_what_is_no_branch_pass() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    cpu.rflags |= Rflags::TF;
    cpu.hardware_msrs.insert(0x1d9, 2);
    assert_eq!(run(&mut cpu, VmExit::Cpuid), Ok(Next::Resume));
}

#[test]
fn a_halt_is_behind_its_instruction() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    assert_eq!(run(&mut cpu, VmExit::Hlt), Ok(Next::Halt));
    assert_eq!(cpu.rip, 0x1002);
    assert_eq!(run(&mut cpu, VmExit::Pause), Ok(Next::Yield));
}

#[test]
fn host_exits_change_nothing() {
    for exit in [
        VmExit::HostInterrupt(None),
        VmExit::HostNmi,
        VmExit::HostTimer,
        VmExit::InterruptWindow,
        VmExit::NmiWindow,
        VmExit::DirtyLogFull,
    ] {
        let mut cpu = FakeCpu::long_mode(ROOT);
        assert_eq!(run(&mut cpu, exit), Ok(Next::Resume));
        assert_eq!(cpu.rip, 0x1000);
    }
}

#[test]
fn what_cannot_go_on_stops_with_its_reason() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    let gpa = GuestPhys::new(0x1234);
    for (exit, error) in [
        (VmExit::TripleFault, VmError::TripleFault),
        (VmExit::HostMachineCheck, VmError::MachineCheck),
        (VmExit::EntryMachineCheck, VmError::MachineCheck),
        (
            VmExit::MemoryMisconfigured(gpa),
            VmError::MemoryMisconfigured(gpa),
        ),
        (VmExit::EntryRefused { code: 33 }, VmError::EntryRefused(33)),
        (VmExit::Unexpected { code: 99 }, VmError::UnexpectedExit(99)),
    ] {
        assert_eq!(run(&mut cpu, exit), Ok(Next::Stop(error)));
    }
}

#[test]
fn cpuid_clears_the_upper_halves() {
    let mut cpu = FakeCpu::long_mode(ROOT)
        .with(Gpr::Rax, 0xffff_ffff_0000_0000)
        .with(Gpr::Rbx, u64::MAX)
        .with(Gpr::Rcx, u64::MAX)
        .with(Gpr::Rdx, u64::MAX);
    run(&mut cpu, VmExit::Cpuid).unwrap();
    assert_eq!(cpu.gprs.get(Gpr::Rax), 0x16);
    assert_eq!(cpu.gprs.get(Gpr::Rbx), 0x756e_6547);
    assert_eq!(cpu.gprs.get(Gpr::Rcx), 0x6c65_746e);
    assert_eq!(cpu.gprs.get(Gpr::Rdx), 0x4965_6e69);
}

#[test]
fn cpuid_shows_osxsave_as_cr4_has_it() {
    let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rax, 1);
    run(&mut cpu, VmExit::Cpuid).unwrap();
    assert_eq!(cpu.gprs.get(Gpr::Rcx) & 1 << 27, 0);
    cpu.cr4 |= Cr4::OSXSAVE;
    cpu.gprs.set(Gpr::Rax, 1);
    run(&mut cpu, VmExit::Cpuid).unwrap();
    assert_ne!(cpu.gprs.get(Gpr::Rcx) & 1 << 27, 0);
}

fn port(direction: Direction, width: Width) -> VmExit {
    VmExit::PortIo(PortIo {
        port: 0x80,
        width,
        direction,
        string: None,
    })
}

#[test]
fn in_writes_its_width_and_out_sends_its_width() {
    let mut machine = FakeMachine::new(0);
    for (width, expected) in [
        (Width::Byte, 0x1111_2222_3333_44dd),
        (Width::Word, 0x1111_2222_3333_ccdd),
        (Width::Dword, 0xaabb_ccdd),
    ] {
        machine.script_port(0x80, &[0xaabb_ccdd]);
        let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rax, 0x1111_2222_3333_4444);
        handle(
            &mut cpu,
            &mut vcpu(),
            &mut machine,
            port(Direction::In, width),
        )
        .unwrap();
        assert_eq!(cpu.gprs.get(Gpr::Rax), expected);
        let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rax, 0x1111_2222_3333_4444);
        handle(
            &mut cpu,
            &mut vcpu(),
            &mut machine,
            port(Direction::Out, width),
        )
        .unwrap();
        assert_eq!(cpu.rip, 0x1002);
    }
    let sent = [(0x80, Width::Byte, 0x44), (0x80, Width::Word, 0x4444)];
    assert_eq!(machine.port_writes[..2], sent);
    assert_eq!(machine.port_writes[2], (0x80, Width::Dword, 0x3333_4444));
}

#[test]
fn an_unknown_hypercall_returns_an_error_code() {
    let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rax, 0x1234);
    assert_eq!(run(&mut cpu, VmExit::Hypercall), Ok(Next::Resume));
    assert_eq!(cpu.gprs.get(Gpr::Rax) as i64, -1000);
    let mut cpu = FakeCpu::protected_mode().with(Gpr::Rax, 0x1234);
    run(&mut cpu, VmExit::Hypercall).unwrap();
    assert_eq!(cpu.gprs.get(Gpr::Rax), (-1000i32 as u32).into());
}

#[test]
fn a_hypercall_from_ring_3_is_not_permitted() {
    let mut cpu = FakeCpu::long_mode(ROOT)
        .in_ring_3()
        .with(Gpr::Rax, 0x504c_0000);
    run(&mut cpu, VmExit::Hypercall).unwrap();
    assert_eq!(cpu.gprs.get(Gpr::Rax) as i64, -1);
    let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rax, 0x504c_0000);
    run(&mut cpu, VmExit::Hypercall).unwrap();
    assert_eq!(cpu.gprs.get(Gpr::Rax), 1);
}

#[test]
fn xsetbv_takes_what_makes_sense_and_nothing_else() {
    let attempt = |index: u64, value: u64| {
        let mut cpu = FakeCpu::long_mode(ROOT)
            .with(Gpr::Rcx, index)
            .with(Gpr::Rax, value & 0xffff_ffff)
            .with(Gpr::Rdx, value >> 32);
        run(&mut cpu, VmExit::Xsetbv).map(|_| cpu.xcr0.bits())
    };
    for valid in [1, 3, 7, 0xe7, 0x2e7, 0x203] {
        assert_eq!(attempt(0, valid), Ok(valid));
    }
    // No x87; AVX without SSE; a part of AVX-512; AVX-512 without AVX; MPX, which is hidden; unknown bits.
    for invalid in [0, 6, 5, 0x27, 0x67, 0xe3, 0x1f, 1 << 63 | 7, 1 << 8 | 1] {
        assert_eq!(attempt(0, invalid), Err(GuestFault::GP0), "{invalid:#x}");
    }
    assert_eq!(attempt(1, 7), Err(GuestFault::GP0));
}

#[test]
fn rdtscp_returns_counter_and_processor() {
    let mut cpu = FakeCpu::long_mode(ROOT).with(Gpr::Rdx, u64::MAX);
    cpu.tsc = 0x1122_3344_5566_7788;
    cpu.hardware_msrs.insert(0xc000_0103, 5);
    run(&mut cpu, VmExit::Rdtscp).unwrap();
    assert_eq!(cpu.gprs.get(Gpr::Rax), 0x5566_7788);
    assert_eq!(cpu.gprs.get(Gpr::Rdx), 0x1122_3344);
    assert_eq!(cpu.gprs.get(Gpr::Rcx), 5);
}

#[test]
fn invlpg_forgets_one_address() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    run(&mut cpu, VmExit::Invlpg(GuestVirt::new(0x7000))).unwrap();
    assert_eq!(cpu.flushed, [GuestVirt::new(0x7000)]);
}

#[test]
fn an_exception_that_exited_goes_back_to_the_guest() {
    let mut cpu = FakeCpu::long_mode(ROOT);
    cpu.instruction_length = 1;
    let reflect = |cpu: &mut FakeCpu, exception, error_code, detail| {
        run(
            cpu,
            VmExit::Exception(ExceptionInfo {
                exception,
                error_code,
                detail,
            }),
        )
    };
    let fault = GuestFault::PageFault {
        address: GuestVirt::new(0x5000),
        error_code: 6,
    };
    assert_eq!(
        reflect(&mut cpu, Exception::PageFault, Some(6), 0x5000),
        Err(fault)
    );
    let debug = reflect(&mut cpu, Exception::Debug, None, 0x4001);
    assert_eq!(debug, Err(GuestFault::Debug { dr6: 0x4001 }));
    let int1 = Event::PrivilegedSoftwareException { length: 1 };
    assert_eq!(
        reflect(&mut cpu, Exception::Debug, None, 0),
        Ok(Next::Inject(int1))
    );
    let breakpoint = Event::SoftwareException {
        exception: Exception::Breakpoint,
        length: 1,
    };
    assert_eq!(
        reflect(&mut cpu, Exception::Breakpoint, None, 0),
        Ok(Next::Inject(breakpoint))
    );
    let gp = Event::Exception {
        exception: Exception::GeneralProtection,
        error_code: Some(8),
    };
    assert_eq!(
        reflect(&mut cpu, Exception::GeneralProtection, Some(8), 0),
        Ok(Next::Inject(gp))
    );
    assert_eq!(cpu.rip, 0x1000);
}

#[test]
fn the_io_apic_hears_of_an_eoi_that_the_hardware_did() {
    let mut machine = FakeMachine::new(0);
    let mut cpu = FakeCpu::long_mode(ROOT);
    let exit = VmExit::ApicEoi(Vector(0x31));
    assert_eq!(
        handle(&mut cpu, &mut vcpu(), &mut machine, exit),
        Ok(Next::Resume)
    );
    assert_eq!(machine.ends_of_interrupt, [Vector(0x31)]);
}
