//! XSETBV, RDTSC and RDTSCP.

use arch::{Gpr, Xcr0, msr};

use crate::cpu::Cpu;
use crate::fault::GuestFault;
use crate::state::VcpuState;

/// XSETBV: the register in ECX becomes EDX:EAX (SDM vol. 1, Enabling the XSAVE Feature Set).
pub(super) fn xsetbv<C: Cpu>(cpu: &mut C, vcpu: &VcpuState) -> Result<(), GuestFault> {
    if cpu.cpl() != 0 || cpu.gpr(Gpr::Rcx) as u32 != 0 {
        return Err(GuestFault::GP0);
    }
    let value = Xcr0::from_bits_retain(edx_eax(cpu));
    if !is_valid_xcr0(value, vcpu.cpuid.allowed_xcr0()) {
        return Err(GuestFault::GP0);
    }
    cpu.set_xcr0(value);
    Ok(())
}

fn is_valid_xcr0(value: Xcr0, allowed: Xcr0) -> bool {
    let all_or_none = |set: Xcr0| !value.intersects(set) || value.contains(set);
    allowed.contains(value)
        && value.contains(Xcr0::X87)
        && (!value.contains(Xcr0::AVX) || value.contains(Xcr0::SSE))
        && (!value.intersects(Xcr0::AVX512) || value.contains(Xcr0::AVX))
        && all_or_none(Xcr0::AVX512)
        && all_or_none(Xcr0::MPX)
        && all_or_none(Xcr0::AMX)
}

/// RDTSC.
pub(super) fn rdtsc<C: Cpu>(cpu: &mut C) {
    let tsc = cpu.guest_tsc();
    set_edx_eax(cpu, tsc);
}

/// RDTSCP.
pub(super) fn rdtscp<C: Cpu>(cpu: &mut C) {
    rdtsc(cpu);
    let aux = cpu.hardware_msr(msr::IA32_TSC_AUX).unwrap_or(0);
    cpu.set_gpr(Gpr::Rcx, aux & 0xffff_ffff);
}

/// The 64-bit operand that EDX and EAX make together.
#[inline]
pub(super) fn edx_eax<C: Cpu>(cpu: &C) -> u64 {
    cpu.gpr(Gpr::Rdx) << 32 | cpu.gpr(Gpr::Rax) & 0xffff_ffff
}

/// Writes a 64-bit result to EDX and EAX, the upper halves of RDX and RAX becoming zero.
#[inline]
pub(super) fn set_edx_eax<C: Cpu>(cpu: &mut C, value: u64) {
    cpu.set_gpr(Gpr::Rax, value & 0xffff_ffff);
    cpu.set_gpr(Gpr::Rdx, value >> 32);
}
