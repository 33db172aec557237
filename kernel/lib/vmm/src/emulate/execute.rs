//! What each instruction does to registers, flags and memory.
//!
//! The order within an instruction: all operands are located, so that every fault is raised, then memory is
//! read, then written; registers and flags come last.

use arch::decode::{
    BinaryOperation, BitOperation, Extension, Instruction, MemoryOperand, Operand, Operation,
    Register,
};
use arch::{AccessKind, Gpr, Rflags, SegmentName, Width};

use super::space::{Place, Space};
use super::{Outcome, arithmetic};
use crate::cpu::Cpu;
use crate::fault::GuestFault;
use crate::linear::AccessError;
use crate::machine::Machine;
use crate::state::VcpuState;

/// An operand that can be read and written without a fault.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Value(u64),
    Register(Register),
    Selector(SegmentName),
    Memory(Place),
}

/// One instruction at work.
pub(super) struct Executor<'a, C, M> {
    pub(super) cpu: &'a mut C,
    pub(super) vcpu: &'a mut VcpuState,
    pub(super) machine: &'a mut M,
    pub(super) space: &'a mut Space,
}

impl<C: Cpu, M: Machine> Executor<'_, C, M> {
    /// Carries out an instruction; of a repeated string instruction at most `limit` elements.
    #[inline]
    pub(super) fn execute(
        &mut self,
        instruction: &Instruction,
        limit: u32,
    ) -> Result<Outcome, AccessError> {
        match instruction.operation {
            Operation::Move => self.convert(instruction, instruction.width, |value| value),
            Operation::MoveExtended(from, Extension::Zero) => {
                self.convert(instruction, from, |value| value)
            }
            Operation::MoveExtended(from, Extension::Sign) => {
                self.convert(instruction, from, |value| from.sign_extend(value))
            }
            _ => self.execute_rare(instruction, limit),
        }
    }

    #[cold]
    fn execute_rare(
        &mut self,
        instruction: &Instruction,
        limit: u32,
    ) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        match instruction.operation {
            Operation::Move | Operation::MoveExtended(..) => {
                self.convert(instruction, width, |value| value)
            }
            Operation::MoveSwapped => self.convert(instruction, width, |value| {
                value.swap_bytes() >> (64 - width.bits())
            }),
            Operation::Binary(operation) => self.binary(instruction, operation),
            Operation::Unary(operation) => self.modify(instruction, |_, value, rflags| {
                arithmetic::unary(operation, width, value, rflags)
            }),
            Operation::Shift(operation) => self.modify(instruction, |count, value, rflags| {
                arithmetic::shift(operation, width, value, count, rflags)
            }),
            Operation::Bit(operation) => self.bit(instruction, operation),
            Operation::Multiply(_)
            | Operation::Product(_)
            | Operation::Divide(_)
            | Operation::DoubleShift(..)
            | Operation::Scan(_) => self.integer(instruction),
            Operation::Exchange => {
                let (destination, source) = self.both(instruction, AccessKind::Write)?;
                let old = self.get(destination, width);
                let new = self.get(source, width);
                self.put(destination, width, new);
                self.put(source, width, old);
                Ok(Outcome::Next)
            }
            Operation::ExchangeAdd => {
                let (destination, source) = self.both(instruction, AccessKind::Write)?;
                let old = self.get(destination, width);
                let added = self.get(source, width);
                let rflags = self.cpu.rflags();
                let (sum, rflags) =
                    arithmetic::binary(BinaryOperation::Add, width, old, added, rflags);
                self.put(source, width, old);
                self.put(destination, width, sum);
                self.cpu.set_rflags(rflags);
                Ok(Outcome::Next)
            }
            Operation::CompareExchange => self.compare_exchange(instruction),
            Operation::CompareExchangePair => self.compare_exchange_pair(instruction),
            Operation::Push
            | Operation::Pop
            | Operation::PushFlags
            | Operation::PopFlags
            | Operation::PushAll
            | Operation::PopAll
            | Operation::Call
            | Operation::Jump
            | Operation::Return
            | Operation::Enter
            | Operation::Leave => self.stack(instruction),
            Operation::Set(condition) => {
                let destination = self.target(
                    instruction,
                    instruction.destination,
                    width,
                    AccessKind::Write,
                )?;
                let holds = arithmetic::holds(condition, self.cpu.rflags());
                self.put(destination, width, u64::from(holds));
                Ok(Outcome::Next)
            }
            Operation::ConditionalMove(condition) => {
                let (destination, source) = self.both(instruction, AccessKind::Write)?;
                let new = self.get(source, width);
                let old = self.get(destination, width);
                let holds = arithmetic::holds(condition, self.cpu.rflags());
                // A doubleword clears the upper half whatever the condition says.
                self.put(destination, width, if holds { new } else { old });
                Ok(Outcome::Next)
            }
            Operation::String(operation) => self.string(instruction, operation, limit),
            Operation::VectorMove(part) => self.vector_move(instruction, part),
            Operation::VexMove(part, vector) => self.vex_move(instruction, part, vector),
            Operation::MmxMove => self.mmx_move(instruction),
            Operation::LoadSegment
            | Operation::LoadFarPointer(_)
            | Operation::FarCall
            | Operation::FarJump
            | Operation::DescriptorTable(_)
            | Operation::Query(_)
            | Operation::StoreMachineStatus
            | Operation::LoadMachineStatus => self.system(instruction),
            Operation::CacheLine => {
                self.target(instruction, Operand::Memory, width, AccessKind::Read)?;
                Ok(Outcome::Next)
            }
        }
    }

    /// The moves: source to destination, by way of `change`.
    #[inline]
    fn convert(
        &mut self,
        instruction: &Instruction,
        from: Width,
        change: impl FnOnce(u64) -> u64,
    ) -> Result<Outcome, AccessError> {
        let source = self.target(instruction, instruction.source, from, AccessKind::Read)?;
        let destination = self.target(
            instruction,
            instruction.destination,
            instruction.width,
            AccessKind::Write,
        )?;
        let value = change(self.get(source, from));
        self.put(destination, instruction.width, value);
        Ok(Outcome::Next)
    }

    fn binary(
        &mut self,
        instruction: &Instruction,
        operation: BinaryOperation,
    ) -> Result<Outcome, AccessError> {
        let only_compares = matches!(operation, BinaryOperation::Cmp | BinaryOperation::Test);
        let kind = if only_compares {
            AccessKind::Read
        } else {
            AccessKind::Write
        };
        let (destination, source) = self.both(instruction, kind)?;
        let width = instruction.width;
        let a = self.get(destination, width);
        let b = self.get(source, width);
        let (result, rflags) = arithmetic::binary(operation, width, a, b, self.cpu.rflags());
        if !only_compares {
            self.put(destination, width, result);
        }
        self.cpu.set_rflags(rflags);
        Ok(Outcome::Next)
    }

    /// Replaces the destination by a function of source, destination and RFLAGS.
    fn modify(
        &mut self,
        instruction: &Instruction,
        change: impl FnOnce(u64, u64, Rflags) -> (u64, Rflags),
    ) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let destination = self.target(
            instruction,
            instruction.destination,
            width,
            AccessKind::Write,
        )?;
        // The count of a shift is a byte; operations on one operand have no source.
        let source = match instruction.source {
            Operand::None => 0,
            operand => {
                let source = self.target(instruction, operand, Width::Byte, AccessKind::Read)?;
                self.get(source, Width::Byte)
            }
        };
        let old = self.get(destination, width);
        let (new, rflags) = change(source, old, self.cpu.rflags());
        self.put(destination, width, new);
        self.cpu.set_rflags(rflags);
        Ok(Outcome::Next)
    }

    fn bit(
        &mut self,
        instruction: &Instruction,
        operation: BitOperation,
    ) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let source = self.target(instruction, instruction.source, width, AccessKind::Read)?;
        let number = self.get(source, width);
        let kind = match operation {
            BitOperation::Test => AccessKind::Read,
            BitOperation::Set | BitOperation::Reset | BitOperation::Complement => AccessKind::Write,
        };
        let destination = match (instruction.destination, source) {
            // A register counts bits in memory from the operand on, in both directions.
            (Operand::Memory, Target::Register(_)) => {
                let words = (width.sign_extend(number) as i64) >> width.bits().ilog2();
                let bytes = (words as u64).wrapping_mul(width.bytes() as u64);
                let memory = &instruction.memory;
                let offset = self.offset(memory).wrapping_add(bytes);
                let offset = memory.address_width.truncate(offset);
                Target::Memory(self.locate(memory.segment, offset, width, kind)?)
            }
            (operand, _) => self.target(instruction, operand, width, kind)?,
        };
        let old = self.get(destination, width);
        let mask = 1 << (number & u64::from(width.bits() - 1));
        let mut rflags = self.cpu.rflags();
        rflags.set(Rflags::CF, old & mask != 0);
        match operation {
            BitOperation::Test => {}
            BitOperation::Set => self.put(destination, width, old | mask),
            BitOperation::Reset => self.put(destination, width, old & !mask),
            BitOperation::Complement => self.put(destination, width, old ^ mask),
        }
        self.cpu.set_rflags(rflags);
        Ok(Outcome::Next)
    }

    fn compare_exchange(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let (destination, source) = self.both(instruction, AccessKind::Write)?;
        let old = self.get(destination, width);
        let accumulator = self.cpu.gpr(Gpr::Rax);
        let rflags = self.cpu.rflags();
        let (_, rflags) = arithmetic::binary(BinaryOperation::Cmp, width, accumulator, old, rflags);
        if rflags.contains(Rflags::ZF) {
            let new = self.get(source, width);
            self.put(destination, width, new);
        } else {
            // The bus sees a write in any case.
            self.put(destination, width, old);
            self.cpu.write_gpr(Gpr::Rax, width, old);
        }
        self.cpu.set_rflags(rflags);
        Ok(Outcome::Next)
    }

    /// CMPXCHG8B and CMPXCHG16B: RDX:RAX against memory, RCX:RBX into it.
    fn compare_exchange_pair(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let memory = &instruction.memory;
        let offset = self.offset(memory);
        let high_offset = offset.wrapping_add(width.bytes() as u64);
        let high_offset = memory.address_width.truncate(high_offset);
        if width == Width::Qword {
            self.check_alignment(memory, offset, 16)?;
        }
        let low = self.locate(memory.segment, offset, width, AccessKind::Write)?;
        let high = self.locate(memory.segment, high_offset, width, AccessKind::Write)?;
        let old_low = self.get(Target::Memory(low), width);
        let old_high = self.get(Target::Memory(high), width);
        let equal = width.truncate(self.cpu.gpr(Gpr::Rax)) == old_low
            && width.truncate(self.cpu.gpr(Gpr::Rdx)) == old_high;
        let (new_low, new_high) = if equal {
            (self.cpu.gpr(Gpr::Rbx), self.cpu.gpr(Gpr::Rcx))
        } else {
            (old_low, old_high)
        };
        self.put(Target::Memory(low), width, new_low);
        self.put(Target::Memory(high), width, new_high);
        if !equal {
            self.cpu.write_gpr(Gpr::Rax, width, old_low);
            self.cpu.write_gpr(Gpr::Rdx, width, old_high);
        }
        let mut rflags = self.cpu.rflags();
        rflags.set(Rflags::ZF, equal);
        self.cpu.set_rflags(rflags);
        Ok(Outcome::Next)
    }

    /// #GP(0) where an operand that must be is not at a multiple of its size in bytes.
    pub(super) fn check_alignment(
        &self,
        memory: &MemoryOperand,
        offset: u64,
        bytes: u64,
    ) -> Result<(), AccessError> {
        let linear = self.space.linear();
        let gva = linear.operand(
            self.cpu,
            memory.segment,
            offset,
            Width::Byte,
            AccessKind::Read,
        )?;
        if gva.as_u64().is_multiple_of(bytes) {
            Ok(())
        } else {
            Err(AccessError::Fault(GuestFault::GP0))
        }
    }

    /// Both operands of an instruction, the destination first.
    pub(super) fn both(
        &mut self,
        instruction: &Instruction,
        kind: AccessKind,
    ) -> Result<(Target, Target), AccessError> {
        let width = instruction.width;
        let destination = self.target(instruction, instruction.destination, width, kind)?;
        let source = self.target(instruction, instruction.source, width, AccessKind::Read)?;
        Ok((destination, source))
    }

    /// Makes an operand ready for access, with all faults that it raises.
    #[inline]
    pub(super) fn target(
        &mut self,
        instruction: &Instruction,
        operand: Operand,
        width: Width,
        kind: AccessKind,
    ) -> Result<Target, AccessError> {
        Ok(match operand {
            Operand::Memory => {
                let memory = &instruction.memory;
                let offset = self.offset(memory);
                Target::Memory(self.locate(memory.segment, offset, width, kind)?)
            }
            Operand::Register(register) => Target::Register(register),
            Operand::Immediate(value) => Target::Value(value),
            Operand::Segment(name) => Target::Selector(name),
            Operand::None | Operand::Vector(_) | Operand::Mmx(_) => Target::Value(0),
        })
    }

    /// The offset of a memory operand in its segment.
    #[inline]
    pub(super) fn offset(&self, memory: &MemoryOperand) -> u64 {
        let base = memory.base.map_or(0, |base| self.cpu.gpr(base));
        let index = memory
            .index
            .map_or(0, |index| self.cpu.gpr(index) << (memory.scale & 3));
        memory
            .address_width
            .truncate(memory.displacement.wrapping_add(base).wrapping_add(index))
    }

    #[inline]
    pub(super) fn locate(
        &mut self,
        segment: SegmentName,
        offset: u64,
        width: Width,
        kind: AccessKind,
    ) -> Result<Place, AccessError> {
        self.space
            .locate(self.cpu, self.machine, segment, offset, width, kind)
    }

    #[inline]
    pub(super) fn get(&mut self, target: Target, width: Width) -> u64 {
        match target {
            Target::Value(value) => width.truncate(value),
            Target::Register(Register::Low(register)) => width.truncate(self.cpu.gpr(register)),
            Target::Register(Register::High(register)) => self.cpu.gpr(register) >> 8 & 0xff,
            Target::Selector(name) => u64::from(self.cpu.segment(name).selector),
            Target::Memory(place) => {
                self.space
                    .read(self.cpu, self.vcpu, self.machine, place, width)
            }
        }
    }

    #[inline]
    pub(super) fn put(&mut self, target: Target, width: Width, value: u64) {
        match target {
            Target::Register(Register::Low(register)) => {
                self.cpu.write_gpr(register, width, value);
            }
            Target::Register(Register::High(register)) => {
                let old = self.cpu.gpr(register);
                self.cpu
                    .set_gpr(register, old & !0xff00 | (value & 0xff) << 8);
            }
            Target::Memory(place) => {
                self.space
                    .write(self.cpu, self.vcpu, self.machine, place, width, value);
            }
            // The decoder makes neither a destination.
            Target::Value(_) | Target::Selector(_) => {}
        }
    }
}
