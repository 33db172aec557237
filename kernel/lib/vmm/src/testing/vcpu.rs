//! A host's CPUID, and vCPUs that see it.

use arch::Xcr0;
use arch::cpuid::CpuidResult;
use machine::devices::lapic::{Lapic, LapicConfig, LapicFeatures, Role};

use crate::cpuid::{Backing, CpuidTable, GuestCpuConfig};
use crate::paravirt::Features;
use crate::state::VcpuState;

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
        paravirt: Features::all(),
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
