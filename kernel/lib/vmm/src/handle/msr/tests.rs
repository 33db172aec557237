//! The allow-list, register by register.

use arch::Xcr0;
use machine::DeliveryMode;
use machine::devices::lapic::ApicMode;

use super::*;
use crate::cpuid::{Backing, GuestCpuConfig};
use crate::exit::VmExit;
use crate::handle::{Next, handle};
use crate::testing::{FakeCpu, FakeMachine, guest_cpu_config, vcpu, vcpu_with};

const REFUSED: Result<u64, GuestFault> = Err(GuestFault::GP0);

struct Bench {
    cpu: FakeCpu,
    vcpu: VcpuState,
    machine: FakeMachine,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            cpu: FakeCpu::long_mode(0x1000),
            vcpu: vcpu(),
            machine: FakeMachine::new(0x1000),
        };
        for index in [0x48, 0x49, 0x10b] {
            bench.cpu.hardware_msrs.insert(index, 0);
        }
        bench
    }

    fn read(&mut self, index: u32) -> Result<u64, GuestFault> {
        self.cpu
            .gprs
            .set(Gpr::Rcx, 0xffff_ffff_0000_0000 | u64::from(index));
        self.cpu.gprs.set(Gpr::Rax, u64::MAX);
        self.cpu.gprs.set(Gpr::Rdx, u64::MAX);
        handle(
            &mut self.cpu,
            &mut self.vcpu,
            &mut self.machine,
            VmExit::ReadMsr,
        )?;
        let (low, high) = (self.cpu.gprs.get(Gpr::Rax), self.cpu.gprs.get(Gpr::Rdx));
        assert_eq!((low >> 32, high >> 32), (0, 0));
        Ok(high << 32 | low)
    }

    fn write(&mut self, index: u32, value: u64) -> Result<u64, GuestFault> {
        self.cpu.gprs.set(Gpr::Rcx, index.into());
        self.cpu
            .gprs
            .set(Gpr::Rax, 0xabcd_ef01_0000_0000 | value & 0xffff_ffff);
        self.cpu
            .gprs
            .set(Gpr::Rdx, 0xabcd_ef01_0000_0000 | value >> 32);
        let next = handle(
            &mut self.cpu,
            &mut self.vcpu,
            &mut self.machine,
            VmExit::WriteMsr,
        )?;
        assert_eq!(next, Next::Resume);
        Ok(0)
    }

    /// Writes and reads back.
    fn round_trip(&mut self, index: u32, value: u64) -> Result<u64, GuestFault> {
        self.write(index, value)?;
        self.read(index)
    }
}

#[test]
fn an_unknown_msr_is_a_general_protection_fault() {
    let mut bench = Bench::new();
    // Nothing, performance counters, RAPL, VMX, Hyper-V, AMD, KVM.
    for index in [
        2,
        0xc1,
        0x186,
        0x38f,
        0x606,
        0x480,
        0x4000_0000,
        0xc001_0015,
        0x4b56_4d02,
    ] {
        assert_eq!(bench.read(index), REFUSED, "{index:#x}");
        assert_eq!(bench.write(index, 0), REFUSED, "{index:#x}");
    }
    assert_eq!(bench.cpu.rip, 0x1000);
}

#[test]
fn efer_keeps_its_rules() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0xc000_0080), Ok(0xd01));
    // LMA cannot be written, NXE and SCE can.
    assert_eq!(bench.round_trip(0xc000_0080, 0x100), Ok(0x500));
    assert_eq!(bench.cpu.full_flushes, 1);
    // LME with paging on, reserved bits.
    assert_eq!(bench.write(0xc000_0080, 0), REFUSED);
    assert_eq!(bench.write(0xc000_0080, 0x1102), REFUSED);
    bench.cpu.cr0.remove(Cr0::PG);
    bench.cpu.efer = Efer::empty();
    assert_eq!(bench.round_trip(0xc000_0080, 0x500), Ok(0x100));
}

#[test]
fn addresses_must_be_canonical() {
    let config = GuestCpuConfig {
        backing: Backing::empty(),
        ..guest_cpu_config()
    };
    for index in [
        0x175,
        0x176,
        0xc000_0082,
        0xc000_0083,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
    ] {
        let mut bench = Bench {
            vcpu: vcpu_with(&config),
            ..Bench::new()
        };
        let address = 0xffff_8000_1234_5678;
        assert_eq!(bench.round_trip(index, address), Ok(address), "{index:#x}");
        assert_eq!(bench.write(index, 0x8000_0000_0000), REFUSED, "{index:#x}");
        assert_eq!(bench.read(index), Ok(address));
    }
    // With 57 bits of linear address more is canonical.
    assert_eq!(Bench::new().write(0xc000_0082, 0x8000_0000_0000), Ok(0));
}

#[test]
fn sysenter_and_syscall_registers_are_kept_at_their_width() {
    let mut bench = Bench::new();
    assert_eq!(bench.round_trip(0x174, 0xffff_ffff_0000_0010), Ok(0x10));
    assert_eq!(bench.round_trip(0xc000_0084, 0x4_7700), Ok(0x4_7700));
    assert_eq!(bench.round_trip(0xc000_0081, u64::MAX), Ok(u64::MAX));
}

#[test]
fn the_pat_takes_memory_types_that_exist() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x277), Ok(0x0007_0406_0007_0406));
    let linux = 0x0407_0506_0007_0106;
    assert_eq!(bench.round_trip(0x277, linux), Ok(linux));
    for wrong in [2, 3, 8, 0x0300_0000_0000_0000, 0xff00] {
        assert_eq!(bench.write(0x277, wrong), REFUSED, "{wrong:#x}");
    }
}

#[test]
fn mtrrs_are_there_with_their_rules() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0xfe), Ok(0x508));
    assert_eq!(bench.write(0xfe, 0x508), REFUSED);
    assert_eq!(bench.round_trip(0x2ff, 0xc06), Ok(0xc06));
    assert_eq!(bench.write(0x200, 1 << 46), REFUSED);
    assert_eq!(bench.round_trip(0x200, 1 << 45 | 6), Ok(1 << 45 | 6));
}

#[test]
fn a_written_tsc_moves_tsc_adjust_and_the_other_way_round() {
    let mut bench = Bench::new();
    bench.cpu.tsc = 1000;
    bench.write(0x10, 5000).unwrap();
    assert_eq!((bench.cpu.tsc, bench.read(0x3b)), (5000, Ok(4000)));
    assert_eq!(bench.round_trip(0x3b, 0), Ok(0));
    assert_eq!(bench.read(0x10), Ok(1000));
    bench.write(0x3b, (-100i64) as u64).unwrap();
    assert_eq!(bench.read(0x10), Ok(900));
}

#[test]
fn only_fast_strings_can_be_switched_in_misc_enable() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x1a0), Ok(0x1801));
    assert_eq!(bench.round_trip(0x1a0, 0x1800), Ok(0x1800));
    // Writes to the two read-only bits are ignored, MONITOR and XD disable are not there.
    assert_eq!(bench.round_trip(0x1a0, 1), Ok(0x1801));
    assert_eq!(bench.write(0x1a0, 0x4_1801), REFUSED);
    assert_eq!(bench.write(0x1a0, 1 << 34 | 0x1801), REFUSED);
}

#[test]
fn feature_control_is_locked_without_vmx() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x3a), Ok(1));
    assert_eq!(bench.write(0x3a, 5), REFUSED);
}

#[test]
fn the_microcode_revision_survives_the_zero_that_software_writes_first() {
    let mut bench = Bench::new();
    bench.vcpu.msrs.microcode = 0x0200_0065 << 32;
    assert_eq!(bench.round_trip(0x8b, 0), Ok(0x0200_0065_0000_0000));
    assert_eq!(bench.read(0x17), Ok(0));
    assert_eq!(bench.write(0x17, 0), REFUSED);
}

#[test]
fn there_are_no_machine_check_banks() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x179), Ok(0));
    assert_eq!(bench.write(0x179, 0), REFUSED);
    assert_eq!(bench.round_trip(0x17a, 5), Ok(5));
    assert_eq!(bench.write(0x17a, 8), REFUSED);
    assert_eq!(bench.read(0x17b), REFUSED);
    assert_eq!(bench.read(0x400), REFUSED);
}

#[test]
fn speculation_controls_follow_cpuid() {
    let mut bench = Bench::new();
    assert_eq!(bench.round_trip(0x48, 7), Ok(7));
    assert_eq!(bench.write(0x48, 8), REFUSED);
    assert_eq!(bench.write(0x49, 1), Ok(0));
    assert_eq!(bench.write(0x49, 2), REFUSED);
    assert_eq!(bench.read(0x49), REFUSED);
    assert_eq!(bench.write(0x10b, 1), Ok(0));
    assert_eq!(bench.read(0x10b), REFUSED);
    assert_eq!(bench.read(0x10a), Ok(0));
    assert_eq!(bench.write(0x10a, 0), REFUSED);
    let config = GuestCpuConfig {
        backing: Backing::empty(),
        ..guest_cpu_config()
    };
    let mut bench = Bench {
        vcpu: vcpu_with(&config),
        ..Bench::new()
    };
    for index in [0x48, 0x49, 0x10b, 0xc000_0103] {
        assert_eq!(bench.read(index), REFUSED, "{index:#x}");
        assert_eq!(bench.write(index, 0), REFUSED, "{index:#x}");
    }
}

#[test]
fn tsc_aux_has_32_bits() {
    let mut bench = Bench::new();
    assert_eq!(bench.round_trip(0xc000_0103, 0xffff_ffff), Ok(0xffff_ffff));
    assert_eq!(bench.write(0xc000_0103, 1 << 32), REFUSED);
}

#[test]
fn debugctl_keeps_btf_and_lets_lbr_pass() {
    let mut bench = Bench::new();
    assert_eq!(bench.round_trip(0x1d9, 3), Ok(2));
    assert_eq!(bench.write(0x1d9, 1 << 6), REFUSED);
}

#[test]
fn xss_is_there_with_xsaves_and_has_no_bit() {
    let mut bench = Bench::new();
    assert_eq!(bench.round_trip(0xda0, 0), Ok(0));
    assert_eq!(bench.write(0xda0, 1 << 8), REFUSED);
    let config = GuestCpuConfig {
        backing: Backing::all() - Backing::XSAVES,
        xcr0: Xcr0::X87,
        ..guest_cpu_config()
    };
    let mut bench = Bench {
        vcpu: vcpu_with(&config),
        ..Bench::new()
    };
    assert_eq!(bench.read(0xda0), REFUSED);
}

#[test]
fn x2apic_registers_are_there_in_x2apic_mode_only() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x1b), Ok(0xfee0_0900));
    assert_eq!(bench.read(0x802), REFUSED);
    assert_eq!(bench.write(0x808, 0), REFUSED);
    assert_eq!(bench.round_trip(0x1b, 0xfee0_0d00), Ok(0xfee0_0d00));
    assert_eq!(bench.cpu.apic_modes, [ApicMode::X2apic]);
    assert_eq!(bench.machine.routes.len(), 1);
    assert_eq!(bench.read(0x802), Ok(0));
    assert_eq!(bench.round_trip(0x808, 0x20), Ok(0x20));
    assert_eq!(bench.write(0x1b, 0xfee0_0900), REFUSED);
}

#[test]
fn an_ipi_by_msr_is_sent() {
    let mut bench = Bench::new();
    bench.write(0x1b, 0xfee0_0d00).unwrap();
    bench.write(0x830, 1 << 32 | 0x500).unwrap();
    let [ipi] = bench.machine.ipis[..] else {
        panic!("one IPI: {:?}", bench.machine.ipis)
    };
    assert_eq!(ipi.message.delivery_mode, DeliveryMode::Init);
    assert_eq!(ipi.message.destination, 1);
}

#[test]
fn a_tsc_deadline_is_armed_in_its_mode() {
    let mut bench = Bench::new();
    bench.write(0x1b, 0xfee0_0d00).unwrap();
    bench.write(0x80f, 0x1ff).unwrap();
    // Outside TSC-deadline mode the register reads as zero whatever is written.
    assert_eq!(bench.round_trip(0x6e0, 123), Ok(0));
    bench.write(0x832, 0x4_0030).unwrap();
    assert_eq!(bench.round_trip(0x6e0, 123), Ok(123));
    bench.cpu.tsc = 124;
    assert_eq!(bench.read(0x6e0), Ok(0));
}

#[test]
fn cpuid_loses_the_apic_bit_when_the_apic_is_disabled() {
    let mut bench = Bench::new();
    bench.write(0x1b, 0xfee0_0100).unwrap();
    bench.cpu.gprs.set(Gpr::Rax, 1);
    handle(
        &mut bench.cpu,
        &mut bench.vcpu,
        &mut bench.machine,
        VmExit::Cpuid,
    )
    .unwrap();
    assert_eq!(bench.cpu.gprs.get(Gpr::Rdx) & 1 << 9, 0);
}
