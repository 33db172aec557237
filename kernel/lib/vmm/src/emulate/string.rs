//! MOVS, STOS, LODS, CMPS and SCAS, with their repeat prefixes (SDM vol. 2, REP/REPE/REPZ/REPNE/REPNZ).
//!
//! An element is done wholly or not at all. A repeated instruction stops after a bounded number of elements
//! with RIP unchanged, as it does on hardware when an interrupt comes: registers then say what is left.

use arch::decode::{BinaryOperation, Instruction, Register, Repeat, StringOperation};
use arch::{AccessKind, Gpr, Rflags, SegmentName, Width};

use super::execute::{Executor, Target};
use super::{Outcome, arithmetic};
use crate::cpu::Cpu;
use crate::linear::AccessError;
use crate::machine::Machine;

const ACCUMULATOR: Target = Target::Register(Register::Low(Gpr::Rax));

impl<C: Cpu, M: Machine> Executor<'_, C, M> {
    pub(super) fn string(
        &mut self,
        instruction: &Instruction,
        operation: StringOperation,
        limit: u32,
    ) -> Result<Outcome, AccessError> {
        let width = instruction.memory.address_width;
        if instruction.repeat == Repeat::Once {
            self.element(instruction, operation)?;
            return Ok(Outcome::Next);
        }
        let mut left = width.truncate(self.cpu.gpr(Gpr::Rcx));
        for _ in 0..limit {
            if left == 0 {
                return Ok(Outcome::Next);
            }
            self.element(instruction, operation)?;
            left -= 1;
            self.cpu.write_gpr(Gpr::Rcx, width, left);
            let compares = matches!(operation, StringOperation::Cmps | StringOperation::Scas);
            let equal = self.cpu.rflags().contains(Rflags::ZF);
            if compares && equal != (instruction.repeat == Repeat::WhileEqual) {
                return Ok(Outcome::Next);
            }
        }
        Ok(if left == 0 {
            Outcome::Next
        } else {
            Outcome::Continue
        })
    }

    fn element(
        &mut self,
        instruction: &Instruction,
        operation: StringOperation,
    ) -> Result<(), AccessError> {
        let width = instruction.width;
        match operation {
            StringOperation::Movs => {
                let source = self.source(instruction)?;
                let destination = self.destination(instruction, AccessKind::Write)?;
                let value = self.get(source, width);
                self.put(destination, width, value);
                self.advance(instruction, Gpr::Rsi);
                self.advance(instruction, Gpr::Rdi);
            }
            StringOperation::Stos => {
                let destination = self.destination(instruction, AccessKind::Write)?;
                let value = self.get(ACCUMULATOR, width);
                self.put(destination, width, value);
                self.advance(instruction, Gpr::Rdi);
            }
            StringOperation::Lods => {
                let source = self.source(instruction)?;
                let value = self.get(source, width);
                self.put(ACCUMULATOR, width, value);
                self.advance(instruction, Gpr::Rsi);
            }
            StringOperation::Cmps => {
                let source = self.source(instruction)?;
                let destination = self.destination(instruction, AccessKind::Read)?;
                self.compare(source, destination, width);
                self.advance(instruction, Gpr::Rsi);
                self.advance(instruction, Gpr::Rdi);
            }
            StringOperation::Scas => {
                let destination = self.destination(instruction, AccessKind::Read)?;
                self.compare(ACCUMULATOR, destination, width);
                self.advance(instruction, Gpr::Rdi);
            }
        }
        Ok(())
    }

    fn compare(&mut self, a: Target, b: Target, width: Width) {
        let (a, b) = (self.get(a, width), self.get(b, width));
        let rflags = self.cpu.rflags();
        let (_, rflags) = arithmetic::binary(BinaryOperation::Cmp, width, a, b, rflags);
        self.cpu.set_rflags(rflags);
    }

    /// What rSI points to, in DS or by prefix.
    fn source(&mut self, instruction: &Instruction) -> Result<Target, AccessError> {
        let memory = &instruction.memory;
        let offset = memory.address_width.truncate(self.cpu.gpr(Gpr::Rsi));
        let place = self.locate(memory.segment, offset, instruction.width, AccessKind::Read)?;
        Ok(Target::Memory(place))
    }

    /// What rDI points to, always in ES.
    fn destination(
        &mut self,
        instruction: &Instruction,
        kind: AccessKind,
    ) -> Result<Target, AccessError> {
        let offset = instruction
            .memory
            .address_width
            .truncate(self.cpu.gpr(Gpr::Rdi));
        let place = self.locate(SegmentName::Es, offset, instruction.width, kind)?;
        Ok(Target::Memory(place))
    }

    fn advance(&mut self, instruction: &Instruction, register: Gpr) {
        let bytes = instruction.width.bytes() as u64;
        let step = if self.cpu.rflags().contains(Rflags::DF) {
            bytes.wrapping_neg()
        } else {
            bytes
        };
        let next = self.cpu.gpr(register).wrapping_add(step);
        self.cpu
            .write_gpr(register, instruction.memory.address_width, next);
    }
}
