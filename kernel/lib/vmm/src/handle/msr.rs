//! RDMSR and WRMSR: an allow-list. What is not named here is a #GP(0), as on a processor without it.
//!
//! Each MSR keeps the rules of the SDM, vol. 4, and is there only when CPUID shows the feature that it
//! belongs to. FS and GS base, SYSENTER and SYSCALL registers usually do not exit; they are here for
//! backends and moments where they do.

use arch::cpuid::{ExtendedEdx, Leaf1Edx, Leaf7Edx};
use arch::{Cr0, Cr4, DebugCtl, Efer, Gpr, is_canonical, msr, mtrr};
use machine::devices::lapic::Armed;

use super::apic::{self, VcpuClock};
use super::misc::{edx_eax, set_edx_eax};
use crate::cpu::Cpu;
use crate::fault::GuestFault;
use crate::machine::Machine;
use crate::paravirt;
use crate::state::VcpuState;

/// IA32_FEATURE_CONTROL: locked, and so without VMX.
const FEATURE_CONTROL_LOCKED: u64 = 1;
/// IA32_MISC_ENABLE: REP MOVS and STOS are fast. The one bit of it that a guest may change.
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
/// IA32_MISC_ENABLE: bits that are read-only, writes to which are ignored.
const MISC_ENABLE_READ_ONLY: u64 = 1 << 11 | 1 << 12;
/// IA32_MCG_STATUS: RIPV, EIPV and MCIP.
const MCG_STATUS_WRITABLE: u64 = 7;
/// IA32_PRED_CMD: IBPB.
const PRED_CMD_IBPB: u64 = 1;
/// IA32_FLUSH_CMD: FLUSH_CMD.
const FLUSH_CMD_L1D: u64 = 1;
/// IA32_SPEC_CTRL.
const SPEC_CTRL_IBRS: u64 = 1;
const SPEC_CTRL_STIBP: u64 = 1 << 1;
const SPEC_CTRL_SSBD: u64 = 1 << 2;

/// RDMSR of the MSR in ECX.
#[inline]
pub(super) fn read<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &M,
) -> Result<(), GuestFault> {
    let index = cpu.gpr(Gpr::Rcx) as u32;
    let value = match index {
        msr::IA32_X2APIC_FIRST..=msr::IA32_X2APIC_LAST => {
            apic::read_msr(cpu, vcpu, machine, index)?
        }
        msr::IA32_TSC_DEADLINE => vcpu.lapic.tsc_deadline(&VcpuClock::new(cpu, machine)),
        paravirt::MSR_FIRST..=paravirt::MSR_LAST => vcpu
            .paravirt
            .read_msr(vcpu.cpuid.paravirt(), index)
            .ok_or(GuestFault::GP0)?,
        _ => read_msr(cpu, vcpu, index).ok_or(GuestFault::GP0)?,
    };
    set_edx_eax(cpu, value);
    Ok(())
}

/// Whether it is IA32_TSC_DEADLINE that a WRMSR means.
#[inline(always)]
pub(super) fn is_deadline<C: Cpu>(cpu: &C) -> bool {
    cpu.gpr(Gpr::Rcx) as u32 == msr::IA32_TSC_DEADLINE
}

/// WRMSR of IA32_TSC_DEADLINE.
#[inline(always)]
pub(super) fn write_deadline<C: Cpu, M: Machine>(
    cpu: &C,
    vcpu: &mut VcpuState,
    machine: &M,
) -> Armed {
    vcpu.lapic
        .set_tsc_deadline(edx_eax(cpu), &VcpuClock::new(cpu, machine))
}

/// WRMSR of the MSR in ECX.
#[inline]
pub(super) fn write<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
) -> Result<(), GuestFault> {
    let index = cpu.gpr(Gpr::Rcx) as u32;
    let value = edx_eax(cpu);
    match index {
        msr::IA32_TSC_DEADLINE => {
            let _ = write_deadline(cpu, vcpu, machine);
            vcpu.unsettled = true;
            Ok(())
        }
        msr::IA32_X2APIC_FIRST..=msr::IA32_X2APIC_LAST => {
            apic::write_msr(cpu, vcpu, machine, index, value)
        }
        msr::IA32_APIC_BASE => apic::write_base(cpu, vcpu, machine, value),
        msr::IA32_TIME_STAMP_COUNTER => {
            let ticks = value.wrapping_sub(cpu.guest_tsc());
            move_tsc(cpu, vcpu, machine, ticks);
            vcpu.unsettled = true;
            Ok(())
        }
        msr::IA32_TSC_ADJUST => {
            let ticks = value.wrapping_sub(vcpu.msrs.tsc_adjust);
            move_tsc(cpu, vcpu, machine, ticks);
            vcpu.unsettled = true;
            Ok(())
        }
        paravirt::MSR_FIRST..=paravirt::MSR_LAST => {
            vcpu.unsettled = true;
            paravirt::write_msr(vcpu, machine, index, value).ok_or(GuestFault::GP0)
        }
        _ => write_msr(cpu, vcpu, index, value).ok_or(GuestFault::GP0),
    }
}

/// The value of an MSR, or `None` for a #GP.
fn read_msr<C: Cpu>(cpu: &C, vcpu: &VcpuState, index: u32) -> Option<u64> {
    let msrs = &vcpu.msrs;
    match index {
        msr::IA32_EFER => Some(cpu.efer().bits()),
        msr::IA32_APIC_BASE => Some(vcpu.lapic.base()),
        msr::IA32_TIME_STAMP_COUNTER => Some(cpu.guest_tsc()),
        msr::IA32_TSC_ADJUST => Some(msrs.tsc_adjust),
        msr::IA32_SYSENTER_CS
        | msr::IA32_SYSENTER_ESP
        | msr::IA32_SYSENTER_EIP
        | msr::IA32_DEBUGCTL
        | msr::IA32_PAT
        | msr::IA32_STAR
        | msr::IA32_LSTAR
        | msr::IA32_CSTAR
        | msr::IA32_FMASK
        | msr::IA32_FS_BASE
        | msr::IA32_GS_BASE
        | msr::IA32_KERNEL_GS_BASE => is_shown(vcpu, index).then(|| cpu.hardware_msr(index))?,
        msr::IA32_SPEC_CTRL | msr::IA32_TSC_AUX => {
            is_shown(vcpu, index).then(|| cpu.hardware_msr(index))?
        }
        msr::IA32_MISC_ENABLE => Some(msrs.misc_enable),
        msr::IA32_FEATURE_CONTROL => Some(FEATURE_CONTROL_LOCKED),
        msr::IA32_BIOS_SIGN_ID => Some(msrs.microcode),
        msr::IA32_PLATFORM_ID => Some(msrs.platform_id),
        // No bank: machine checks of the host are not the guest's.
        msr::IA32_MCG_CAP | msr::IA32_P5_MC_ADDR | msr::IA32_P5_MC_TYPE => Some(0),
        msr::IA32_MCG_STATUS => Some(msrs.mcg_status),
        msr::IA32_ARCH_CAPABILITIES => is_shown(vcpu, index).then_some(msrs.arch_capabilities),
        msr::IA32_XSS => vcpu.cpuid.allowed_xss().map(|_| msrs.xss),
        _ => msrs.mtrrs.read(index),
    }
}

/// Writes an MSR; `None` for a #GP.
fn write_msr<C: Cpu>(cpu: &mut C, vcpu: &mut VcpuState, index: u32, value: u64) -> Option<()> {
    match index {
        msr::IA32_EFER => write_efer(cpu, vcpu, value),
        msr::IA32_SYSENTER_CS | msr::IA32_FMASK => store(cpu, vcpu, index, value & 0xffff_ffff),
        msr::IA32_STAR => store(cpu, vcpu, index, value),
        msr::IA32_SYSENTER_ESP
        | msr::IA32_SYSENTER_EIP
        | msr::IA32_LSTAR
        | msr::IA32_CSTAR
        | msr::IA32_FS_BASE
        | msr::IA32_GS_BASE
        | msr::IA32_KERNEL_GS_BASE => {
            if !is_canonical(value, vcpu.cpuid.linear_address_bits()) {
                return None;
            }
            store(cpu, vcpu, index, value)
        }
        msr::IA32_PAT => mtrr::is_valid_pat(value).then(|| store(cpu, vcpu, index, value))?,
        msr::IA32_DEBUGCTL => {
            // No last branches are shown: the bit is ignored.
            let valid = value & !DebugCtl::all().bits() == 0;
            valid.then(|| store(cpu, vcpu, index, value & DebugCtl::BTF.bits()))?
        }
        msr::IA32_TSC_AUX => (value >> 32 == 0).then(|| store(cpu, vcpu, index, value))?,
        msr::IA32_SPEC_CTRL => {
            let valid = value & !spec_ctrl_bits(vcpu) == 0;
            valid.then(|| store(cpu, vcpu, index, value))?
        }
        msr::IA32_PRED_CMD => command(cpu, vcpu, index, value, PRED_CMD_IBPB),
        msr::IA32_FLUSH_CMD => command(cpu, vcpu, index, value, FLUSH_CMD_L1D),
        msr::IA32_MISC_ENABLE => {
            let old = vcpu.msrs.misc_enable;
            let changed = (old ^ value) & !MISC_ENABLE_READ_ONLY;
            if changed & !MISC_ENABLE_FAST_STRINGS != 0 {
                return None;
            }
            vcpu.msrs.misc_enable = old ^ changed;
            Some(())
        }
        // Software writes zero before it asks for the revision by CPUID and a read.
        msr::IA32_BIOS_SIGN_ID | msr::IA32_P5_MC_ADDR | msr::IA32_P5_MC_TYPE => Some(()),
        msr::IA32_MCG_STATUS => {
            (value & !MCG_STATUS_WRITABLE == 0).then(|| vcpu.msrs.mcg_status = value)
        }
        msr::IA32_XSS => {
            let allowed = vcpu.cpuid.allowed_xss()?;
            (value & !allowed == 0).then(|| vcpu.msrs.xss = value)
        }
        _ => {
            let physical_address_bits = vcpu.cpuid.physical_address_bits();
            vcpu.msrs.mtrrs.write(index, value, physical_address_bits)
        }
    }
}

/// SDM vol. 3, IA32_TSC_ADJUST: what is added to the counter is added to this, too.
fn move_tsc<C: Cpu, M: Machine>(cpu: &mut C, vcpu: &mut VcpuState, machine: &M, ticks: u64) {
    cpu.move_guest_tsc(ticks);
    vcpu.msrs.tsc_adjust = vcpu.msrs.tsc_adjust.wrapping_add(ticks);
    paravirt::publish_clock(vcpu, machine.memory());
}

fn store<C: Cpu>(cpu: &mut C, vcpu: &VcpuState, index: u32, value: u64) -> Option<()> {
    (is_shown(vcpu, index) && cpu.set_hardware_msr(index, value)).then_some(())
}

/// A write-only MSR that makes the processor do something; a zero does nothing.
fn command<C: Cpu>(
    cpu: &mut C,
    vcpu: &VcpuState,
    index: u32,
    value: u64,
    defined: u64,
) -> Option<()> {
    if !is_shown(vcpu, index) || value & !defined != 0 {
        return None;
    }
    (value == 0 || cpu.set_hardware_msr(index, value)).then_some(())
}

/// Whether CPUID shows the feature that the MSR belongs to.
fn is_shown(vcpu: &VcpuState, index: u32) -> bool {
    let cpuid = &vcpu.cpuid;
    match index {
        msr::IA32_SYSENTER_CS | msr::IA32_SYSENTER_ESP | msr::IA32_SYSENTER_EIP => {
            cpuid.leaf_1_edx().contains(Leaf1Edx::SEP)
        }
        msr::IA32_PAT => cpuid.leaf_1_edx().contains(Leaf1Edx::PAT),
        msr::IA32_STAR
        | msr::IA32_LSTAR
        | msr::IA32_CSTAR
        | msr::IA32_FMASK
        | msr::IA32_FS_BASE
        | msr::IA32_GS_BASE
        | msr::IA32_KERNEL_GS_BASE => cpuid.extended_1_edx().contains(ExtendedEdx::LONG_MODE),
        msr::IA32_TSC_AUX => cpuid.extended_1_edx().contains(ExtendedEdx::RDTSCP),
        msr::IA32_SPEC_CTRL => spec_ctrl_bits(vcpu) != 0,
        msr::IA32_PRED_CMD => cpuid.leaf_7_edx().contains(Leaf7Edx::SPEC_CTRL),
        msr::IA32_FLUSH_CMD => cpuid.leaf_7_edx().contains(Leaf7Edx::FLUSH_CMD),
        msr::IA32_ARCH_CAPABILITIES => cpuid.leaf_7_edx().contains(Leaf7Edx::ARCH_CAPABILITIES),
        _ => true,
    }
}

/// The bits of IA32_SPEC_CTRL that CPUID shows.
fn spec_ctrl_bits(vcpu: &VcpuState) -> u64 {
    let shown = vcpu.cpuid.leaf_7_edx();
    let bit = |feature, bit| if shown.contains(feature) { bit } else { 0 };
    bit(Leaf7Edx::SPEC_CTRL, SPEC_CTRL_IBRS)
        | bit(Leaf7Edx::STIBP, SPEC_CTRL_STIBP)
        | bit(Leaf7Edx::SSBD, SPEC_CTRL_SSBD)
}

/// SDM vol. 3, Extended Feature Enable Register, and Initializing IA-32e Mode: LMA follows LME and paging,
/// and what is written to it is ignored; LME does not change under paging.
fn write_efer<C: Cpu>(cpu: &mut C, vcpu: &VcpuState, value: u64) -> Option<()> {
    let new = Efer::from_bits_retain(value);
    if !vcpu.cpuid.allowed_efer().contains(new) {
        return None;
    }
    let old = cpu.efer();
    let changed = old ^ new;
    let paging = cpu.cr0().contains(Cr0::PG);
    if changed.contains(Efer::LME) && paging {
        return None;
    }
    cpu.set_efer((new - Efer::LMA) | (old & Efer::LMA));
    if changed.contains(Efer::NXE) && paging && cpu.cr4().contains(Cr4::PAE) {
        cpu.flush_all();
    }
    Some(())
}

#[cfg(test)]
mod tests;
