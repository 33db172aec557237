//! SGDT, SIDT, SLDT, STR, LGDT, LIDT, LLDT and LTR, where a backend lets them exit. VMX's does not: it would take
//! watching SMSW as well to give guests UMIP on a processor without it.
//!
//! After the instruction reference, SDM vol. 2, and SDM vol. 3, User-Mode Instruction Prevention. The processor has
//! checked before the exit that the instruction exists in this mode.

use arch::descriptor::{SystemType, TableIndicator};
use arch::linear::{CpuMode, LinearWidth};
use arch::walk::Privilege;
use arch::{
    AccessKind, AccessRights, Cr4, Descriptor, DescriptorTable, Efer, Segment, SegmentName,
    Selector, Width,
};
use memory::GuestVirt;

use super::{Next, complete};
use crate::cpu::Cpu;
use crate::exit::{DescriptorOperand, DescriptorTableAccess, DescriptorTableInstruction};
use crate::fault::GuestFault;
use crate::linear::{AccessError, Linear};
use crate::machine::Machine;
use crate::state::VcpuState;

/// The operand-size prefix.
const OPERAND_SIZE: u8 = 0x66;
/// REX prefixes, and W among their bits.
const REX: core::ops::RangeInclusive<u8> = 0x40..=0x4f;
const REX_W: u8 = 1 << 3;
/// The first byte of all eight opcodes.
const OPCODE: u8 = 0x0f;

/// Carries the instruction out.
///
/// # Errors
/// What it raises.
#[cold]
pub(super) fn access<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &mut VcpuState,
    machine: &mut M,
    access: DescriptorTableAccess,
) -> Result<Next, GuestFault> {
    match execute(cpu, vcpu, machine, access) {
        Ok(()) => complete(cpu, Next::Resume),
        Err(AccessError::Fault(fault)) => Err(fault),
        Err(AccessError::Retry) => Ok(Next::Resume),
    }
}

/// The same but for the end of the instruction.
pub(crate) fn execute<C: Cpu, M: Machine>(
    cpu: &mut C,
    vcpu: &VcpuState,
    machine: &mut M,
    access: DescriptorTableAccess,
) -> Result<(), AccessError> {
    let instruction = Instruction {
        linear: Linear::new(cpu, &vcpu.cpuid),
        access,
    };
    instruction.execute(cpu, machine)
}

struct Instruction {
    linear: Linear,
    access: DescriptorTableAccess,
}

impl Instruction {
    fn execute<C: Cpu, M: Machine>(&self, cpu: &mut C, machine: &mut M) -> Result<(), AccessError> {
        use DescriptorTableInstruction as I;
        let unprivileged = self.linear.mode() != CpuMode::Real && cpu.cpl() != 0;
        let stores = matches!(
            self.access.instruction,
            I::Sgdt | I::Sidt | I::Sldt | I::Str
        );
        if unprivileged && (!stores || cpu.cr4().contains(Cr4::UMIP)) {
            return Err(GuestFault::GP0.into());
        }
        match self.access.instruction {
            I::Sgdt => self.store_table(cpu, machine, cpu.gdtr()),
            I::Sidt => self.store_table(cpu, machine, cpu.idtr()),
            I::Lgdt => {
                let table = self.load_table(cpu, machine)?;
                cpu.set_gdtr(table);
                Ok(())
            }
            I::Lidt => {
                let table = self.load_table(cpu, machine)?;
                cpu.set_idtr(table);
                Ok(())
            }
            I::Sldt => self.store_selector(cpu, machine, SegmentName::Ldtr),
            I::Str => self.store_selector(cpu, machine, SegmentName::Tr),
            I::Lldt => {
                let selector = self.selector(cpu, machine)?;
                let segment = self.ldt(cpu, machine, selector)?;
                cpu.set_segment(SegmentName::Ldtr, segment);
                Ok(())
            }
            I::Ltr => {
                let selector = self.selector(cpu, machine)?;
                let segment = self.task_state(cpu, machine, selector)?;
                cpu.set_segment(SegmentName::Tr, segment);
                Ok(())
            }
        }
    }

    /// Bytes of a limit and base in memory.
    fn table_bytes(&self) -> usize {
        if self.linear.mode() == CpuMode::Long {
            10
        } else {
            6
        }
    }

    /// Where the operand in memory begins; all of it is within its segment.
    fn place<C: Cpu>(
        &self,
        cpu: &C,
        bytes: usize,
        kind: AccessKind,
    ) -> Result<GuestVirt, AccessError> {
        let DescriptorOperand::Memory(memory) = self.access.operand else {
            return Err(GuestFault::InvalidOpcode.into());
        };
        let base = memory.base.map_or(0, |base| cpu.gpr(base));
        let index = memory
            .index
            .map_or(0, |index| cpu.gpr(index) << memory.scale);
        let offset = memory
            .address_width
            .truncate(memory.displacement.wrapping_add(base).wrapping_add(index));
        let first = self
            .linear
            .operand(cpu, memory.segment, offset, Width::Word, kind)?;
        let last = offset.wrapping_add(bytes as u64).wrapping_sub(2);
        self.linear
            .operand(cpu, memory.segment, last, Width::Word, kind)?;
        Ok(first)
    }

    fn store_table<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        machine: &mut M,
        table: DescriptorTable,
    ) -> Result<(), AccessError> {
        let bytes = self.table_bytes();
        let at = self.place(cpu, bytes, AccessKind::Write)?;
        let image = u128::from(table.base) << 16 | u128::from(table.limit);
        let image = image.to_le_bytes();
        let image = image.get(..bytes).unwrap_or_default();
        self.linear.write(machine, at, image, self.linear.privilege)
    }

    fn load_table<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        machine: &mut M,
    ) -> Result<DescriptorTable, AccessError> {
        let bytes = self.table_bytes();
        let at = self.place(cpu, bytes, AccessKind::Read)?;
        let mut image = [0; 16];
        if let Some(image) = image.get_mut(..bytes) {
            self.linear
                .read(machine, at, image, self.linear.privilege)?;
        }
        let image = u128::from_le_bytes(image);
        let mut base = (image >> 16) as u64;
        if self.linear.mode() == CpuMode::Long {
            if !LinearWidth::new(cpu.cr4()).is_canonical(base) {
                return Err(GuestFault::GP0.into());
            }
        } else if self.access.operand_width == Width::Word {
            base &= 0x00ff_ffff;
        }
        Ok(DescriptorTable {
            base,
            limit: image as u16,
        })
    }

    fn store_selector<C: Cpu, M: Machine>(
        &self,
        cpu: &mut C,
        machine: &mut M,
        name: SegmentName,
    ) -> Result<(), AccessError> {
        let selector = cpu.segment(name).selector;
        match self.access.operand {
            DescriptorOperand::Register(register) => {
                let width = self.register_width(cpu, machine)?;
                cpu.write_gpr(register, width, selector.into());
                Ok(())
            }
            DescriptorOperand::Memory(_) => {
                let at = self.place(cpu, 2, AccessKind::Write)?;
                let bytes = selector.to_le_bytes();
                self.linear
                    .write(machine, at, &bytes, self.linear.privilege)
            }
        }
    }

    /// The operand size of SLDT and STR to a register, which the hardware does not tell: the prefixes say it.
    fn register_width<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        machine: &mut M,
    ) -> Result<Width, AccessError> {
        let code = cpu.segment(SegmentName::Cs);
        let long = self.linear.mode() == CpuMode::Long;
        let start = if long {
            cpu.rip()
        } else {
            code.base.wrapping_add(cpu.rip()) & 0xffff_ffff
        };
        let mut bytes = [0; 16];
        let length = usize::from(cpu.instruction_length()).min(15);
        if let Some(bytes) = bytes.get_mut(..length) {
            let privilege = self.linear.privilege;
            self.linear
                .read(machine, GuestVirt::new(start), bytes, privilege)?;
        }
        let prefixes = bytes.iter().take_while(|&&byte| byte != OPCODE);
        let mut wide = long || code.access.contains(AccessRights::DEFAULT_BIG);
        let mut rex_w = false;
        for &prefix in prefixes {
            if prefix == OPERAND_SIZE {
                wide = !(long || code.access.contains(AccessRights::DEFAULT_BIG));
            }
            rex_w = long && REX.contains(&prefix) && prefix & REX_W != 0;
        }
        Ok(match (rex_w, wide) {
            (true, _) => Width::Qword,
            (false, true) => Width::Dword,
            (false, false) => Width::Word,
        })
    }

    /// The operand of LLDT and LTR.
    fn selector<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        machine: &mut M,
    ) -> Result<Selector, AccessError> {
        let mut bytes = [0; 2];
        match self.access.operand {
            DescriptorOperand::Register(register) => {
                bytes = (cpu.gpr(register) as u16).to_le_bytes();
            }
            DescriptorOperand::Memory(_) => {
                let at = self.place(cpu, 2, AccessKind::Read)?;
                self.linear
                    .read(machine, at, &mut bytes, self.linear.privilege)?;
            }
        }
        Ok(Selector(u16::from_le_bytes(bytes)))
    }

    fn ldt<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        machine: &mut M,
        selector: Selector,
    ) -> Result<Segment, AccessError> {
        if selector.is_null() {
            return Ok(Segment {
                selector: selector.0,
                ..Segment::UNUSABLE
            });
        }
        let (_, descriptor, segment) = self.system_segment(cpu, machine, selector)?;
        if descriptor.system_type() != Some(SystemType::Ldt) {
            return Err(GuestFault::GeneralProtection(selector.error_code()).into());
        }
        check_present(selector, descriptor)?;
        Ok(segment)
    }

    fn task_state<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        machine: &mut M,
        selector: Selector,
    ) -> Result<Segment, AccessError> {
        if selector.is_null() {
            return Err(GuestFault::GP0.into());
        }
        let (at, descriptor, mut segment) = self.system_segment(cpu, machine, selector)?;
        let busy = match descriptor.system_type() {
            Some(SystemType::TssAvailable) => SystemType::TssBusy,
            Some(SystemType::Tss16Available) if !is_ia32e(cpu) => SystemType::Tss16Busy,
            _ => return Err(GuestFault::GeneralProtection(selector.error_code()).into()),
        };
        check_present(selector, descriptor)?;
        let marked = descriptor.with_type(busy);
        segment.access = marked.access();
        let bytes = marked.0.to_le_bytes();
        self.linear
            .write(machine, at, &bytes, Privilege::ImplicitSupervisor)?;
        Ok(segment)
    }

    /// The descriptor of a system segment in the GDT: 16 bytes in IA-32e mode, 8 elsewhere.
    fn system_segment<C: Cpu, M: Machine>(
        &self,
        cpu: &C,
        machine: &mut M,
        selector: Selector,
    ) -> Result<(GuestVirt, Descriptor, Segment), AccessError> {
        let fault = GuestFault::GeneralProtection(selector.error_code());
        let gdtr = cpu.gdtr();
        let bytes = if is_ia32e(cpu) { 16 } else { 8 };
        let offset = selector.table_offset();
        let last = u32::from(offset) + bytes - 1;
        if selector.table() != TableIndicator::Gdt || last > u32::from(gdtr.limit) {
            return Err(fault.into());
        }
        let at = gdtr.base.wrapping_add(offset.into());
        let at = GuestVirt::new(if is_ia32e(cpu) { at } else { at & 0xffff_ffff });
        let mut image = [0; 16];
        if let Some(image) = image.get_mut(..bytes as usize) {
            self.linear
                .read(machine, at, image, Privilege::ImplicitSupervisor)?;
        }
        let image = u128::from_le_bytes(image);
        let descriptor = Descriptor(image as u64);
        let mut segment = descriptor.load(selector);
        if is_ia32e(cpu) {
            let upper = (image >> 64) as u64;
            segment.base = descriptor.wide_base(upper);
            // The type of the upper half must be 0, and the base canonical.
            if upper >> 40 & 0x1f != 0 || !LinearWidth::new(cpu.cr4()).is_canonical(segment.base) {
                return Err(fault.into());
            }
        }
        Ok((at, descriptor, segment))
    }
}

fn is_ia32e<C: Cpu>(cpu: &C) -> bool {
    cpu.efer().contains(Efer::LMA)
}

fn check_present(selector: Selector, descriptor: Descriptor) -> Result<(), GuestFault> {
    if descriptor.access().contains(AccessRights::PRESENT) {
        Ok(())
    } else {
        Err(GuestFault::SegmentNotPresent(selector.error_code()))
    }
}

#[cfg(test)]
mod tests;
