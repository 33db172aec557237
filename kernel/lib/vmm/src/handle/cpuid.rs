//! CPUID.

use arch::{Cr4, Gpr, Xcr0};

use crate::cpu::Cpu;
use crate::cpuid::Live;
use crate::state::VcpuState;

/// What the answer shows of the vCPU's state; read only where a leaf shows it.
struct Now<'a, C>(&'a C, &'a VcpuState);

impl<C: Cpu> Live for Now<'_, C> {
    fn cr4(&self) -> Cr4 {
        self.0.cr4()
    }

    fn xcr0(&self) -> Xcr0 {
        self.0.xcr0()
    }

    fn xss(&self) -> u64 {
        self.1.msrs.xss
    }

    fn apic_enabled(&self) -> bool {
        self.1.apic_enabled()
    }

    fn in_64_bit_mode(&self) -> bool {
        super::in_64_bit_mode(self.0)
    }
}

/// Answers EAX and ECX in EAX to EDX, the upper halves becoming zero.
#[inline]
pub(super) fn cpuid<C: Cpu>(cpu: &mut C, vcpu: &VcpuState) {
    let leaf = cpu.gpr(Gpr::Rax) as u32;
    let subleaf = cpu.gpr(Gpr::Rcx) as u32;
    let result = vcpu.cpuid.lookup(leaf, subleaf, &Now(cpu, vcpu));
    cpu.set_gpr(Gpr::Rax, u64::from(result.eax));
    cpu.set_gpr(Gpr::Rbx, u64::from(result.ebx));
    cpu.set_gpr(Gpr::Rcx, u64::from(result.ecx));
    cpu.set_gpr(Gpr::Rdx, u64::from(result.edx));
}
