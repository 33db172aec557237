//! The executor's part of [`integer`](super::integer): operands, and the registers that are not named.

use arch::decode::{Factor, Instruction, Operation, ShiftCount, Sign};
use arch::{AccessKind, Gpr, Width};

use super::execute::{Executor, Target};
use super::{Outcome, integer};
use crate::cpu::Cpu;
use crate::fault::GuestFault;
use crate::linear::AccessError;
use crate::machine::Machine;

impl<C: Cpu, M: Machine> Executor<'_, C, M> {
    /// Multiplications, divisions, double shifts and bit scans.
    pub(super) fn integer(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let width = instruction.width;
        let rflags = self.cpu.rflags();
        match instruction.operation {
            Operation::Multiply(sign) => {
                let factor = self.operand(instruction, AccessKind::Read)?;
                let value = self.get(factor, width);
                let rax = self.cpu.gpr(Gpr::Rax);
                let (low, high, rflags) = integer::multiply(sign, width, rax, value, rflags);
                self.put_pair(width, low, high);
                self.cpu.set_rflags(rflags);
            }
            Operation::Product(factor) => {
                let (destination, source) = self.both(instruction, AccessKind::Write)?;
                let value = self.get(source, width);
                let factor = match factor {
                    Factor::Destination => self.get(destination, width),
                    Factor::Constant(constant) => constant,
                };
                let (product, _, rflags) =
                    integer::multiply(Sign::Signed, width, value, factor, rflags);
                self.put(destination, width, product);
                self.cpu.set_rflags(rflags);
            }
            Operation::Divide(sign) => {
                let divisor = self.operand(instruction, AccessKind::Read)?;
                let value = self.get(divisor, width);
                let (low, high) = self.pair(width);
                let (quotient, remainder) = integer::divide(sign, width, low, high, value)
                    .ok_or(AccessError::Fault(GuestFault::DivideError))?;
                self.put_pair(width, quotient, remainder);
            }
            Operation::DoubleShift(direction, count) => {
                let (destination, source) = self.both(instruction, AccessKind::Write)?;
                let count = match count {
                    ShiftCount::Cl => self.cpu.gpr(Gpr::Rcx),
                    ShiftCount::Constant(constant) => u64::from(constant),
                };
                let old = self.get(destination, width);
                let filling = self.get(source, width);
                let (new, rflags) =
                    integer::double_shift(direction, width, old, filling, count, rflags);
                self.put(destination, width, new);
                self.cpu.set_rflags(rflags);
            }
            Operation::Scan(operation) => {
                let (destination, source) = self.both(instruction, AccessKind::Write)?;
                let value = self.get(source, width);
                let (found, rflags) = integer::scan(operation, width, value, rflags);
                if let Some(found) = found {
                    self.put(destination, width, found);
                }
                self.cpu.set_rflags(rflags);
            }
            _ => return Ok(Outcome::Unknown),
        }
        Ok(Outcome::Next)
    }

    /// The one operand that is named.
    fn operand(
        &mut self,
        instruction: &Instruction,
        kind: AccessKind,
    ) -> Result<Target, AccessError> {
        self.target(
            instruction,
            instruction.destination,
            instruction.width,
            kind,
        )
    }

    /// The halves of a double-width value: AX, or the low parts of RDX and RAX.
    fn pair(&self, width: Width) -> (u64, u64) {
        let rax = self.cpu.gpr(Gpr::Rax);
        match width {
            Width::Byte => (rax & 0xff, rax >> 8 & 0xff),
            _ => (rax, self.cpu.gpr(Gpr::Rdx)),
        }
    }

    fn put_pair(&mut self, width: Width, low: u64, high: u64) {
        match width {
            Width::Byte => self.cpu.write_gpr(Gpr::Rax, Width::Word, high << 8 | low),
            _ => {
                self.cpu.write_gpr(Gpr::Rax, width, low);
                self.cpu.write_gpr(Gpr::Rdx, width, high);
            }
        }
    }
}
