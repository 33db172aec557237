//! The executor's part of what loads segment registers and descriptor tables: far pointers in memory, selectors, CR0's
//! lower half.
//!
//! Far transfers stay at their privilege level: a far pointer to a gate or a task is unknown to the emulator.

use arch::decode::{DescriptorTableInstruction, Instruction, Operand, Operation, SelectorQuery};
use arch::linear::{CpuMode, LinearWidth};
use arch::{AccessKind, AccessRights, Cr4, Rflags, Segment, SegmentName, Selector, Width};

use super::Outcome;
use super::execute::{Executor, Target};
use super::space::Space;
use crate::cpu::Cpu;
use crate::exit::{DescriptorOperand, DescriptorTableAccess};
use crate::fault::GuestFault;
use crate::handle::{control_register, descriptor_table};
use crate::linear::AccessError;
use crate::machine::Machine;
use crate::segments::{FarTarget, Loader, Purpose};

fn loader<'a, M: Machine>(space: &Space, machine: &'a mut M) -> Loader<'a, M> {
    Loader {
        linear: *space.linear(),
        machine,
        purpose: Purpose::Instruction,
    }
}

/// Ring 3, as the privilege level of a descriptor.
const DPL_3: AccessRights = AccessRights::DPL;

impl<C: Cpu, M: Machine> Executor<'_, C, M> {
    pub(super) fn system(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        match instruction.operation {
            Operation::LoadSegment => {
                let Operand::Segment(name) = instruction.destination else {
                    return Ok(Outcome::Unknown);
                };
                let source = self.memory(instruction, Width::Word, AccessKind::Read)?;
                let selector = self.get(source, Width::Word) as u16;
                self.load_segment(name, Selector(selector))
            }
            Operation::LoadFarPointer(name) => {
                let (offset, selector) = self.far_pointer(instruction)?;
                let loaded = self.load_segment(name, selector)?;
                let target = self.target(
                    instruction,
                    instruction.destination,
                    width,
                    AccessKind::Write,
                )?;
                self.put(target, width, offset);
                Ok(loaded)
            }
            Operation::FarJump | Operation::FarCall => self.far_transfer(instruction),
            Operation::DescriptorTable(which) => self.descriptor_table(instruction, which),
            Operation::Query(query) => self.query(instruction, query),
            Operation::StoreMachineStatus => {
                if self.is_unprivileged() && self.cpu.cr4().contains(Cr4::UMIP) {
                    return Err(GuestFault::GP0.into());
                }
                let place = self.memory(instruction, width, AccessKind::Write)?;
                let status = self.cpu.cr0().bits();
                self.put(place, width, status);
                Ok(Outcome::Next)
            }
            Operation::LoadMachineStatus => {
                // The processor has checked it before it came to memory; but the code may have changed since then.
                if self.is_unprivileged() {
                    return Err(GuestFault::GP0.into());
                }
                let source = self.memory(instruction, width, AccessKind::Read)?;
                let status = self.get(source, width) as u16;
                control_register::load_machine_status(
                    self.cpu,
                    self.vcpu,
                    self.machine.memory(),
                    status,
                )?;
                Ok(Outcome::Next)
            }
            _ => Ok(Outcome::Unknown),
        }
    }

    /// Whether the CPU is not at ring 0.
    fn is_unprivileged(&self) -> bool {
        self.space.linear().mode() != CpuMode::Real && self.cpu.cpl() != 0
    }

    fn memory(
        &mut self,
        instruction: &Instruction,
        width: Width,
        kind: AccessKind,
    ) -> Result<Target, AccessError> {
        self.target(instruction, Operand::Memory, width, kind)
    }

    /// An offset of the operand's width, and the selector behind it.
    fn far_pointer(&mut self, instruction: &Instruction) -> Result<(u64, Selector), AccessError> {
        let width = instruction.width;
        let memory = &instruction.memory;
        let first = self.offset(memory);
        let second = first.wrapping_add(width.bytes() as u64);
        let second = memory.address_width.truncate(second);
        let offset = self.locate(memory.segment, first, width, AccessKind::Read)?;
        let selector = self.locate(memory.segment, second, Width::Word, AccessKind::Read)?;
        let offset = self.get(Target::Memory(offset), width);
        let selector = self.get(Target::Memory(selector), Width::Word);
        Ok((offset, Selector(selector as u16)))
    }

    /// What a load in real or virtual-8086 mode makes of a segment register; `None` in other modes.
    fn plain_segment(&self, name: SegmentName, selector: Selector) -> Option<Segment> {
        match self.space.linear().mode() {
            // Limit and rights stay as they are.
            CpuMode::Real => Some(Segment {
                selector: selector.0,
                base: u64::from(selector.0) << 4,
                ..self.cpu.segment(name)
            }),
            CpuMode::Virtual8086 => {
                let segment = Segment::real_mode(selector.0);
                Some(Segment {
                    access: segment.access | DPL_3,
                    ..segment
                })
            }
            CpuMode::Protected | CpuMode::Compatibility | CpuMode::Long => None,
        }
    }

    /// DS, ES, FS, GS or SS.
    pub(super) fn load_segment(
        &mut self,
        name: SegmentName,
        selector: Selector,
    ) -> Result<Outcome, AccessError> {
        let ended = match name {
            SegmentName::Ss => Outcome::NextInShadow,
            _ => Outcome::Next,
        };
        if let Some(segment) = self.plain_segment(name, selector) {
            self.cpu.set_segment(name, segment);
            return Ok(ended);
        }
        let cpl = self.cpu.cpl();
        let is_long = self.space.linear().mode() == CpuMode::Long;
        let mut loader = loader(self.space, self.machine);
        match name {
            SegmentName::Ss if selector.is_null() => {
                if !is_long || cpl == 3 || selector.rpl() != cpl {
                    return Err(GuestFault::GP0.into());
                }
                // The privilege level is that of SS.
                let dpl = AccessRights::from_bits_retain(u32::from(cpl) << 5);
                let segment = Segment {
                    selector: selector.0,
                    access: AccessRights::UNUSABLE | dpl,
                    ..Segment::UNUSABLE
                };
                self.cpu.set_segment(name, segment);
            }
            SegmentName::Ss => loader.load_stack(self.cpu, selector, cpl)?,
            _ => loader.load_data(self.cpu, name, selector, cpl)?,
        }
        Ok(ended)
    }

    /// CALL and JMP to a far pointer.
    fn far_transfer(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let (rip, selector) = self.far_pointer(instruction)?;
        let segment = match self.plain_segment(SegmentName::Cs, selector) {
            Some(segment) => segment,
            None => {
                let mut loader = loader(self.space, self.machine);
                match loader.far_target(self.cpu, selector)? {
                    FarTarget::Code(segment) => segment,
                    FarTarget::Other => return Ok(Outcome::Unknown),
                }
            }
        };
        let in_reach = if segment.access.contains(AccessRights::LONG) {
            LinearWidth::new(self.cpu.cr4()).is_canonical(rip)
        } else {
            rip <= u64::from(segment.limit)
        };
        if !in_reach {
            return Err(GuestFault::GP0.into());
        }
        if instruction.operation == Operation::FarCall {
            self.push_return_address(instruction)?;
        }
        self.cpu.set_segment(SegmentName::Cs, segment);
        Ok(Outcome::Branch(rip))
    }

    /// CS and the address behind the instruction, both as wide as the operand.
    fn push_return_address(&mut self, instruction: &Instruction) -> Result<(), AccessError> {
        let width = instruction.width;
        let stack = self.stack_width();
        let rsp = self.cpu.gpr(arch::Gpr::Rsp);
        let below = |count: u64| stack.truncate(rsp.wrapping_sub(count * width.bytes() as u64));
        let cs = self.locate(SegmentName::Ss, below(1), width, AccessKind::Write)?;
        let rip = self.locate(SegmentName::Ss, below(2), width, AccessKind::Write)?;
        let selector = self.cpu.segment(SegmentName::Cs).selector;
        self.put(Target::Memory(cs), width, selector.into());
        let behind = self.cpu.rip().wrapping_add(u64::from(instruction.length));
        self.put(Target::Memory(rip), width, behind);
        self.set_stack_pointer(below(2));
        Ok(())
    }

    /// LAR, LSL, VERR and VERW, which there are in protected mode only.
    fn query(
        &mut self,
        instruction: &Instruction,
        query: SelectorQuery,
    ) -> Result<Outcome, AccessError> {
        let mode = self.space.linear().mode();
        if matches!(mode, CpuMode::Real | CpuMode::Virtual8086) {
            return Err(GuestFault::InvalidOpcode.into());
        }
        let source = self.memory(instruction, Width::Word, AccessKind::Read)?;
        let selector = Selector(self.get(source, Width::Word) as u16);
        let found = loader(self.space, self.machine).query(self.cpu, selector, query)?;
        if let (Some(value), Operand::Register(register)) = (found, instruction.destination) {
            self.put(Target::Register(register), instruction.width, value);
        }
        let mut rflags = self.cpu.rflags();
        rflags.set(Rflags::ZF, found.is_some());
        self.cpu.set_rflags(rflags);
        Ok(Outcome::Next)
    }

    fn descriptor_table(
        &mut self,
        instruction: &Instruction,
        which: DescriptorTableInstruction,
    ) -> Result<Outcome, AccessError> {
        // The operand size matters for the base that LGDT and LIDT load: 24 bits in 16-bit code without a prefix.
        let access = DescriptorTableAccess {
            instruction: which,
            operand: DescriptorOperand::Memory(instruction.memory),
            operand_width: instruction.width,
        };
        descriptor_table::execute(self.cpu, self.vcpu, self.machine, access)?;
        Ok(Outcome::Next)
    }
}
