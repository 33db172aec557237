//! The executor's part of what pushes and pops, be the stack in RAM or on a device: PUSH, POP, their forms for flags and for
//! all registers, near CALL, JMP and RET, ENTER and LEAVE (SDM vol. 1, Procedure Calls, Interrupts, and Exceptions).
//!
//! Flags in virtual-8086 mode, where IOPL and CR4.VME decide what they are, and nested ENTER are unknown to the emulator.

use arch::decode::{Instruction, Operand, Operation};
use arch::{AccessKind, AccessRights, CpuMode, Gpr, Rflags, SegmentName, Selector, Width};

use super::Outcome;
use super::execute::{Executor, Target};
use super::space::Place;
use crate::cpu::Cpu;
use crate::linear::AccessError;
use crate::machine::Machine;

/// What PUSHA pushes, in this order.
const ALL: [Gpr; 8] = [
    Gpr::Rax,
    Gpr::Rcx,
    Gpr::Rdx,
    Gpr::Rbx,
    Gpr::Rsp,
    Gpr::Rbp,
    Gpr::Rsi,
    Gpr::Rdi,
];

impl<C: Cpu, M: Machine> Executor<'_, C, M> {
    pub(super) fn stack(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        match instruction.operation {
            Operation::Push => self.push(instruction),
            Operation::Pop => self.pop(instruction),
            Operation::PushFlags => self.push_flags(instruction.width),
            Operation::PopFlags => self.pop_flags(instruction.width),
            Operation::PushAll => self.push_all(instruction.width),
            Operation::PopAll => self.pop_all(instruction.width),
            Operation::Call | Operation::Jump => self.branch(instruction),
            Operation::Return => self.near_return(instruction),
            Operation::Enter => self.enter(instruction),
            Operation::Leave => self.leave(instruction.width),
            _ => Ok(Outcome::Unknown),
        }
    }

    fn push(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let source = self.target(
            instruction,
            instruction.destination,
            width,
            AccessKind::Read,
        )?;
        let (rsp, place) = self.locate_push(width)?;
        let value = self.get(source, width);
        self.put(Target::Memory(place), width, value);
        self.set_stack_pointer(rsp);
        Ok(Outcome::Next)
    }

    /// The stack pointer after a push, and where that pushes to.
    fn locate_push(&mut self, width: Width) -> Result<(u64, Place), AccessError> {
        let rsp = self.cpu.gpr(Gpr::Rsp).wrapping_sub(width.bytes() as u64);
        let rsp = self.stack_width().truncate(rsp);
        let place = self.locate(SegmentName::Ss, rsp, width, AccessKind::Write)?;
        Ok((rsp, place))
    }

    /// The stack pointer before a pop, and that it pops from there.
    fn locate_pop(&mut self, width: Width) -> Result<(u64, Place), AccessError> {
        let rsp = self.stack_width().truncate(self.cpu.gpr(Gpr::Rsp));
        let place = self.locate(SegmentName::Ss, rsp, width, AccessKind::Read)?;
        Ok((rsp, place))
    }

    fn pop(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        if let Operand::Segment(name) = instruction.destination {
            let (rsp, place) = self.locate_pop(Width::Word)?;
            let selector = self.get(Target::Memory(place), Width::Word) as u16;
            // The stack that it pops from is the old one.
            let stack = self.stack_width();
            let loaded = self.load_segment(name, Selector(selector))?;
            let next = rsp.wrapping_add(width.bytes() as u64);
            self.cpu.write_gpr(Gpr::Rsp, stack, next);
            return Ok(loaded);
        }
        let before = self.cpu.gpr(Gpr::Rsp);
        let (rsp, place) = self.locate_pop(width)?;
        // An address that RSP is part of is computed after the increment.
        self.set_stack_pointer(rsp.wrapping_add(width.bytes() as u64));
        let destination = self.target(
            instruction,
            instruction.destination,
            width,
            AccessKind::Write,
        );
        match destination {
            Ok(destination) => {
                let value = self.get(Target::Memory(place), width);
                self.put(destination, width, value);
                Ok(Outcome::Next)
            }
            Err(fault) => {
                self.cpu.set_gpr(Gpr::Rsp, before);
                Err(fault)
            }
        }
    }

    fn push_flags(&mut self, width: Width) -> Result<Outcome, AccessError> {
        if self.space.linear().mode() == CpuMode::Virtual8086 {
            return Ok(Outcome::Unknown);
        }
        let (rsp, place) = self.locate_push(width)?;
        let image = self.cpu.rflags() - (Rflags::RF | Rflags::VM);
        self.put(Target::Memory(place), width, image.bits());
        self.set_stack_pointer(rsp);
        Ok(Outcome::Next)
    }

    fn pop_flags(&mut self, width: Width) -> Result<Outcome, AccessError> {
        let cpl = match self.space.linear().mode() {
            CpuMode::Virtual8086 => return Ok(Outcome::Unknown),
            CpuMode::Real => 0,
            _ => self.cpu.cpl(),
        };
        let (rsp, place) = self.locate_pop(width)?;
        let value = Rflags::from_bits_retain(self.get(Target::Memory(place), width));
        let old = self.cpu.rflags();
        let mut writable = super::arithmetic::STATUS | Rflags::TF | Rflags::DF | Rflags::NT;
        if width != Width::Word {
            writable |= Rflags::AC | Rflags::ID;
        }
        if cpl == 0 {
            writable |= Rflags::IOPL;
        }
        if u64::from(cpl) <= (old & Rflags::IOPL).bits() >> 12 {
            writable |= Rflags::IF;
        }
        self.set_stack_pointer(rsp.wrapping_add(width.bytes() as u64));
        let new = (old - writable) | (value & writable);
        Ok(Outcome::NextWithFlags(new - Rflags::RF))
    }

    fn push_all(&mut self, width: Width) -> Result<Outcome, AccessError> {
        let stack = self.stack_width();
        let rsp = self.cpu.gpr(Gpr::Rsp);
        let mut below = rsp;
        let mut places = [None; ALL.len()];
        for place in &mut places {
            below = stack.truncate(below.wrapping_sub(width.bytes() as u64));
            *place = Some(self.locate(SegmentName::Ss, below, width, AccessKind::Write)?);
        }
        for (place, register) in places.into_iter().flatten().zip(ALL) {
            let value = self.cpu.gpr(register);
            self.put(Target::Memory(place), width, value);
        }
        self.set_stack_pointer(below);
        Ok(Outcome::Next)
    }

    fn pop_all(&mut self, width: Width) -> Result<Outcome, AccessError> {
        let stack = self.stack_width();
        let mut above = self.cpu.gpr(Gpr::Rsp);
        let mut places = [None; ALL.len()];
        for place in &mut places {
            let at = stack.truncate(above);
            *place = Some(self.locate(SegmentName::Ss, at, width, AccessKind::Read)?);
            above = at.wrapping_add(width.bytes() as u64);
        }
        for (place, register) in places.into_iter().flatten().zip(ALL.into_iter().rev()) {
            let value = self.get(Target::Memory(place), width);
            // Its stack pointer is thrown away.
            if register != Gpr::Rsp {
                self.cpu.write_gpr(register, width, value);
            }
        }
        self.set_stack_pointer(above);
        Ok(Outcome::Next)
    }

    /// CALL and JMP to the address in the operand.
    fn branch(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let operand = self.target(
            instruction,
            instruction.destination,
            width,
            AccessKind::Read,
        )?;
        let pushed = match instruction.operation {
            Operation::Call => Some(self.locate_push(width)?),
            _ => None,
        };
        let rip = self.get(operand, width);
        self.check_target(rip)?;
        if let Some((rsp, place)) = pushed {
            let behind = self.cpu.rip().wrapping_add(u64::from(instruction.length));
            self.put(Target::Memory(place), width, behind);
            self.set_stack_pointer(rsp);
        }
        Ok(Outcome::Branch(rip))
    }

    /// RET, which may take parameters off the stack as well.
    fn near_return(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let parameters = match instruction.destination {
            Operand::Immediate(bytes) => bytes,
            _ => 0,
        };
        let (rsp, place) = self.locate_pop(width)?;
        let rip = self.get(Target::Memory(place), width);
        self.check_target(rip)?;
        let above = rsp.wrapping_add(width.bytes() as u64);
        self.set_stack_pointer(above.wrapping_add(parameters));
        Ok(Outcome::Branch(rip))
    }

    /// #GP(0) where no code can be.
    fn check_target(&self, rip: u64) -> Result<(), AccessError> {
        let (linear, kind) = (self.space.linear(), AccessKind::Execute);
        linear.operand(self.cpu, SegmentName::Cs, rip, Width::Byte, kind)?;
        Ok(())
    }

    fn enter(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let (Operand::Immediate(bytes), Operand::Immediate(0)) =
            (instruction.destination, instruction.source)
        else {
            return Ok(Outcome::Unknown);
        };
        let width = instruction.width;
        let (rsp, place) = self.locate_push(width)?;
        let frame = self.cpu.gpr(Gpr::Rbp);
        self.put(Target::Memory(place), width, frame);
        self.cpu.write_gpr(Gpr::Rbp, width, rsp);
        self.set_stack_pointer(rsp.wrapping_sub(bytes));
        Ok(Outcome::Next)
    }

    fn leave(&mut self, width: Width) -> Result<Outcome, AccessError> {
        let rsp = self.stack_width().truncate(self.cpu.gpr(Gpr::Rbp));
        let place = self.locate(SegmentName::Ss, rsp, width, AccessKind::Read)?;
        let frame = self.get(Target::Memory(place), width);
        self.set_stack_pointer(rsp.wrapping_add(width.bytes() as u64));
        self.cpu.write_gpr(Gpr::Rbp, width, frame);
        Ok(Outcome::Next)
    }

    /// The width of the stack pointer (SDM vol. 1, Stack Address-Size Attribute).
    pub(super) fn stack_width(&self) -> Width {
        if self.space.linear().mode() == CpuMode::Long {
            return Width::Qword;
        }
        let ss = self.cpu.segment(SegmentName::Ss).access;
        if ss.contains(AccessRights::DEFAULT_BIG) {
            Width::Dword
        } else {
            Width::Word
        }
    }

    pub(super) fn set_stack_pointer(&mut self, rsp: u64) {
        let width = self.stack_width();
        self.cpu.write_gpr(Gpr::Rsp, width, rsp);
    }
}
