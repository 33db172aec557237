//! The executor's part of moves between vector registers and memory.

use arch::AccessKind;
use arch::Width;
use arch::decode::{Alignment, Instruction, Operand, VectorPart, VectorWidth};

use super::Outcome;
use super::execute::{Executor, Target};
use crate::cpu::Cpu;
use crate::linear::AccessError;
use crate::machine::Machine;

/// Quadwords of the widest register.
const MOST_PARTS: usize = 4;

/// A vector register in memory's order.
type Parts = [u64; MOST_PARTS];

/// The register of a move, and which way it goes.
fn register(instruction: &Instruction) -> Option<(u8, AccessKind)> {
    match (instruction.destination, instruction.source) {
        (Operand::Vector(number) | Operand::Mmx(number), Operand::Memory) => {
            Some((number, AccessKind::Read))
        }
        (Operand::Memory, Operand::Vector(number) | Operand::Mmx(number)) => {
            Some((number, AccessKind::Write))
        }
        _ => None,
    }
}

const fn parts_of(low: u128, high: u128) -> Parts {
    [
        low as u64,
        (low >> 64) as u64,
        high as u64,
        (high >> 64) as u64,
    ]
}

impl<C: Cpu, M: Machine> Executor<'_, C, M> {
    /// SSE.
    pub(super) fn vector_move(
        &mut self,
        instruction: &Instruction,
        part: VectorPart,
    ) -> Result<Outcome, AccessError> {
        let Some((number, kind)) = register(instruction) else {
            return Ok(Outcome::Unknown);
        };
        let Some(vector) = self.cpu.vector(number) else {
            return Ok(Outcome::Unknown);
        };
        let [low, high, ..] = parts_of(vector, 0);
        let stored = match part {
            VectorPart::High8Merge => [high, 0, 0, 0],
            _ => [low, high, 0, 0],
        };
        let loaded = self.move_parts(instruction, part, VectorWidth::Xmm, kind, stored)?;
        let Some([value, upper, ..]) = loaded else {
            return Ok(Outcome::Next);
        };
        let (low, high) = match part {
            VectorPart::Low8Merge => (value, high),
            VectorPart::High8Merge => (low, value),
            VectorPart::Low4 | VectorPart::Low8 | VectorPart::All(_) => (value, upper),
        };
        Ok(done(self.cpu.set_vector(
            number,
            u128::from(high) << 64 | u128::from(low),
        )))
    }

    /// AVX: what a load does not reach is cleared.
    pub(super) fn vex_move(
        &mut self,
        instruction: &Instruction,
        part: VectorPart,
        vector: VectorWidth,
    ) -> Result<Outcome, AccessError> {
        let Some((number, kind)) = register(instruction) else {
            return Ok(Outcome::Unknown);
        };
        let Some([low, high]) = self.cpu.wide_vector(number) else {
            return Ok(Outcome::Unknown);
        };
        let stored = parts_of(low, high);
        let loaded = self.move_parts(instruction, part, vector, kind, stored)?;
        let Some([a, b, c, d]) = loaded else {
            return Ok(Outcome::Next);
        };
        let pair = |low, high| u128::from(high) << 64 | u128::from(low);
        Ok(done(
            self.cpu.set_wide_vector(number, [pair(a, b), pair(c, d)]),
        ))
    }

    /// MMX.
    pub(super) fn mmx_move(&mut self, instruction: &Instruction) -> Result<Outcome, AccessError> {
        let Some((number, kind)) = register(instruction) else {
            return Ok(Outcome::Unknown);
        };
        let width = instruction.width;
        let place = self.target(instruction, Operand::Memory, width, kind)?;
        if kind == AccessKind::Read {
            let value = self.get(place, width);
            return Ok(done(self.cpu.set_mmx(number, value)));
        }
        let Some(value) = self.cpu.mmx(number) else {
            return Ok(Outcome::Unknown);
        };
        self.put(place, width, value);
        Ok(Outcome::Next)
    }

    /// Stores what is given, or returns what was loaded, with zeroes behind it. All of it is located before any of it
    /// is accessed.
    fn move_parts(
        &mut self,
        instruction: &Instruction,
        part: VectorPart,
        vector: VectorWidth,
        kind: AccessKind,
        stored: Parts,
    ) -> Result<Option<Parts>, AccessError> {
        let (count, width) = match (part, vector) {
            (VectorPart::All(_), VectorWidth::Ymm) => (4, Width::Qword),
            (VectorPart::All(_), VectorWidth::Xmm) => (2, Width::Qword),
            (VectorPart::Low4, _) => (1, Width::Dword),
            (VectorPart::Low8 | VectorPart::Low8Merge | VectorPart::High8Merge, _) => {
                (1, Width::Qword)
            }
        };
        let memory = &instruction.memory;
        let offset = self.offset(memory);
        if part == VectorPart::All(Alignment::Natural) {
            self.check_alignment(memory, offset, 8 * count as u64)?;
        }
        let mut places = [Target::Value(0); MOST_PARTS];
        for (place, index) in places.iter_mut().zip(0..count) {
            let offset = offset.wrapping_add(8 * index as u64);
            let offset = memory.address_width.truncate(offset);
            *place = Target::Memory(self.locate(memory.segment, offset, width, kind)?);
        }
        let mut loaded = [0; MOST_PARTS];
        for ((place, slot), value) in places.into_iter().zip(&mut loaded).zip(stored).take(count) {
            match kind {
                AccessKind::Write => self.put(place, width, value),
                AccessKind::Read | AccessKind::Execute => *slot = self.get(place, width),
            }
        }
        Ok((kind != AccessKind::Write).then_some(loaded))
    }
}

const fn done(could: bool) -> Outcome {
    if could {
        Outcome::Next
    } else {
        Outcome::Unknown
    }
}
