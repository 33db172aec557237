//! MOV to and from CR0, CR3, CR4 and CR8, CLTS, and LMSW.
//!
//! The rules are those of the SDM, vol. 2, MOV—Move to/from Control Registers, and vol. 3, Control
//! Registers, and Initializing IA-32e Mode. Privilege has been checked by the hardware before the exit.

use arch::{AccessRights, Cr0, Cr4, Efer, SegmentName, Width};
use memory::{GuestMemory, GuestPhys};

use super::{Next, apic, complete, in_64_bit_mode};
use crate::cpu::Cpu;
use crate::exit::{ControlRegister, ControlRegisterAccess};
use crate::fault::GuestFault;
use crate::machine::Machine;
use crate::state::VcpuState;

/// The bits of CR0 that exist; writes to the other low ones are ignored.
const CR0_DEFINED: Cr0 = Cr0::PE
    .union(Cr0::MP)
    .union(Cr0::EM)
    .union(Cr0::TS)
    .union(Cr0::ET)
    .union(Cr0::NE)
    .union(Cr0::WP)
    .union(Cr0::AM)
    .union(Cr0::NW)
    .union(Cr0::CD)
    .union(Cr0::PG);
/// Bits of CR4 whose change makes cached translations invalid.
const CR4_FLUSHING: Cr4 = Cr4::PGE
    .union(Cr4::PAE)
    .union(Cr4::PSE)
    .union(Cr4::PCIDE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP)
    .union(Cr4::PKE)
    .union(Cr4::LA57);
/// With PCIDs, bit 63 of the source of MOV to CR3 asks to keep cached translations.
const CR3_NO_FLUSH: u64 = 1 << 63;

/// Does one access.
pub(super) fn access<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    access: ControlRegisterAccess,
) -> Result<Next, GuestFault> {
    let width = if in_64_bit_mode(cpu) {
        Width::Qword
    } else {
        Width::Dword
    };
    match access {
        ControlRegisterAccess::Write { register, source } => {
            let value = width.truncate(cpu.gpr(source));
            match register {
                ControlRegister::Cr0 => write_cr0(cpu, vcpu, machine.memory(), value)?,
                ControlRegister::Cr3 => write_cr3(cpu, vcpu, machine.memory(), value)?,
                ControlRegister::Cr4 => write_cr4(cpu, vcpu, machine.memory(), value)?,
                ControlRegister::Cr8 => apic::write_cr8(vcpu, value)?,
            }
        }
        ControlRegisterAccess::Read { register, target } => {
            let value = match register {
                ControlRegister::Cr0 => cpu.cr0().bits(),
                ControlRegister::Cr3 => cpu.cr3(),
                ControlRegister::Cr4 => cpu.cr4().bits(),
                ControlRegister::Cr8 => vcpu.lapic.cr8().into(),
            };
            cpu.write_gpr(target, width, value);
        }
        ControlRegisterAccess::Clts => {
            let cr0 = cpu.cr0();
            cpu.set_cr0(cr0 - Cr0::TS);
        }
        ControlRegisterAccess::Lmsw(source) => {
            load_machine_status(cpu, vcpu, machine.memory(), source)?;
        }
    }
    complete(cpu, Next::Resume)
}

/// LMSW: four bits of CR0, of which PE can be set only.
pub(crate) fn load_machine_status<C: Cpu>(
    cpu: &mut C,
    vcpu: &VcpuState,
    memory: &impl GuestMemory,
    source: u16,
) -> Result<(), GuestFault> {
    let loaded = Cr0::PE | Cr0::MP | Cr0::EM | Cr0::TS;
    let old = cpu.cr0();
    let new = (old - (loaded - Cr0::PE)) | (loaded & Cr0::from_bits_retain(source.into()));
    write_cr0(cpu, vcpu, memory, new.bits())
}

fn write_cr0<C: Cpu>(
    cpu: &mut C,
    vcpu: &VcpuState,
    memory: &impl GuestMemory,
    value: u64,
) -> Result<(), GuestFault> {
    if value >> 32 != 0 {
        return Err(GuestFault::GP0);
    }
    let old = cpu.cr0();
    let new = Cr0::from_bits_retain(value) & CR0_DEFINED | Cr0::ET;
    let page_without_protection = new.contains(Cr0::PG) && !new.contains(Cr0::PE);
    let write_back_without_cache = new.contains(Cr0::NW) && !new.contains(Cr0::CD);
    if page_without_protection || write_back_without_cache {
        return Err(GuestFault::GP0);
    }
    let changed = old ^ new;
    let cr4 = cpu.cr4();
    let mut efer = cpu.efer();
    if changed.contains(Cr0::PG) {
        if new.contains(Cr0::PG) {
            efer = efer_with_paging_on(cpu, efer, cr4)?;
        } else {
            let in_64_bit_mode = in_64_bit_mode(cpu);
            if in_64_bit_mode || cr4.contains(Cr4::PCIDE) {
                return Err(GuestFault::GP0);
            }
            efer.remove(Efer::LMA);
        }
    }
    if is_pae_paging(new, cr4, efer) && changed.intersects(Cr0::CD | Cr0::NW | Cr0::PG) {
        load_pdptes(cpu, vcpu, memory, cpu.cr3())?;
    }
    if changed.contains(Cr0::PG) {
        if efer != cpu.efer() {
            cpu.set_efer(efer);
        }
        cpu.flush_all();
    }
    cpu.set_cr0(new);
    Ok(())
}

/// EFER after paging has been turned on.
fn efer_with_paging_on<C: Cpu>(cpu: &C, efer: Efer, cr4: Cr4) -> Result<Efer, GuestFault> {
    if !efer.contains(Efer::LME) {
        return Ok(efer);
    }
    const AVAILABLE_16_BIT_TSS: u8 = 1;
    const BUSY_16_BIT_TSS: u8 = 3;
    let has_64_bit_code = cpu
        .segment(SegmentName::Cs)
        .access
        .contains(AccessRights::LONG);
    let tss = cpu.segment(SegmentName::Tr).access.kind();
    let has_16_bit_tss = matches!(tss, AVAILABLE_16_BIT_TSS | BUSY_16_BIT_TSS);
    if !cr4.contains(Cr4::PAE) || has_64_bit_code || has_16_bit_tss {
        return Err(GuestFault::GP0);
    }
    Ok(efer | Efer::LMA)
}

fn write_cr3<C: Cpu>(
    cpu: &mut C,
    vcpu: &VcpuState,
    memory: &impl GuestMemory,
    value: u64,
) -> Result<(), GuestFault> {
    let cr4 = cpu.cr4();
    let keep = cr4.contains(Cr4::PCIDE) && value & CR3_NO_FLUSH != 0;
    let value = if keep { value & !CR3_NO_FLUSH } else { value };
    if value & vcpu.cpuid.reserved_physical_bits() != 0 {
        return Err(GuestFault::GP0);
    }
    if is_pae_paging(cpu.cr0(), cr4, cpu.efer()) {
        load_pdptes(cpu, vcpu, memory, value)?;
    }
    cpu.set_cr3(value);
    if !keep {
        cpu.flush_all();
    }
    Ok(())
}

fn write_cr4<C: Cpu>(
    cpu: &mut C,
    vcpu: &VcpuState,
    memory: &impl GuestMemory,
    value: u64,
) -> Result<(), GuestFault> {
    let old = cpu.cr4();
    let new = Cr4::from_bits_retain(value);
    let changed = old ^ new;
    if !vcpu.cpuid.allowed_cr4().contains(new) {
        return Err(GuestFault::GP0);
    }
    let efer = cpu.efer();
    if efer.contains(Efer::LMA) {
        if !new.contains(Cr4::PAE) || changed.contains(Cr4::LA57) {
            return Err(GuestFault::GP0);
        }
    } else if new.contains(Cr4::PCIDE) {
        return Err(GuestFault::GP0);
    }
    if changed.contains(Cr4::PCIDE) && new.contains(Cr4::PCIDE) && cpu.cr3() & 0xfff != 0 {
        return Err(GuestFault::GP0);
    }
    let reloading = Cr4::PAE | Cr4::PGE | Cr4::PSE | Cr4::SMEP;
    if is_pae_paging(cpu.cr0(), new, efer) && changed.intersects(reloading) {
        load_pdptes(cpu, vcpu, memory, cpu.cr3())?;
    }
    cpu.set_cr4(new);
    if changed.intersects(CR4_FLUSHING) {
        cpu.flush_all();
    }
    Ok(())
}

/// Whether these registers select PAE paging (SDM vol. 3, Paging Modes and Control Bits).
pub(super) fn is_pae_paging(cr0: Cr0, cr4: Cr4, efer: Efer) -> bool {
    cr0.contains(Cr0::PG) && cr4.contains(Cr4::PAE) && !efer.contains(Efer::LMA)
}

/// Loads the four page-directory-pointer entries that `cr3` points to; a reserved bit in a present one is a
/// #GP (SDM vol. 3, PDPTE Registers). Memory that is not there reads as all ones, and so does not pass.
pub(super) fn load_pdptes<C: Cpu>(
    cpu: &mut C,
    vcpu: &VcpuState,
    memory: &impl GuestMemory,
    cr3: u64,
) -> Result<(), GuestFault> {
    const PRESENT: u64 = 1;
    const RESERVED: u64 = 0b1_1110_0110;
    let mut bytes = [0; 32];
    if memory
        .read(GuestPhys::new(cr3 & 0xffff_ffe0), &mut bytes)
        .is_err()
    {
        bytes = [0xff; 32];
    }
    let mut pdptes = [0; 4];
    for (entry, bytes) in pdptes.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *entry = u64::from_le_bytes(*bytes);
        let reserved = RESERVED | vcpu.cpuid.reserved_physical_bits();
        if *entry & PRESENT != 0 && *entry & reserved != 0 {
            return Err(GuestFault::GP0);
        }
    }
    cpu.set_pdptes(pdptes);
    Ok(())
}

#[cfg(test)]
mod tests;
