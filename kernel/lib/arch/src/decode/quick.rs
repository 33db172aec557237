//! The moves that drivers use for device registers, decoded in some dozens of instructions: MOV between
//! memory and a register or constant, MOVZX and MOVSX, in 64-bit and 32-bit code, with at most a REX and an
//! operand-size prefix. Anything else is left to the full decoder.

use super::{
    Extension, Instruction, InstructionBytes, MAX_LENGTH, MemoryOperand, Operand, Operation,
    Register, Repeat,
};
use crate::{Gpr, SegmentName, Width};

const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

/// The bytes and how many of them are decoded.
struct Cursor<'a> {
    bytes: &'a InstructionBytes,
    taken: u8,
}

impl Cursor<'_> {
    #[inline]
    fn peek(&self) -> u8 {
        // No instruction that this decoder knows has more than 13 bytes; the mask makes the access cheap.
        self.bytes
            .get(usize::from(self.taken & 15))
            .copied()
            .unwrap_or(0)
    }

    #[inline]
    fn byte(&mut self) -> u8 {
        let byte = self.peek();
        self.taken += 1;
        byte
    }

    /// The eight bytes ahead; what lies behind the end reads as zero.
    #[inline]
    fn ahead(&self) -> u64 {
        (u128::from_le_bytes(*self.bytes) >> (8 * u32::from(self.taken & 15))) as u64
    }

    #[inline]
    fn signed_byte(&mut self) -> u64 {
        Width::Byte.sign_extend(u64::from(self.byte()))
    }

    #[inline]
    fn signed_dword(&mut self) -> u64 {
        let dword = self.ahead() as u32;
        self.taken += 4;
        Width::Dword.sign_extend(u64::from(dword))
    }

    #[inline]
    fn word(&mut self) -> u64 {
        let word = self.ahead() as u16;
        self.taken += 2;
        u64::from(word)
    }
}

/// The instruction, where it is one of the simple moves and complete; with [`super::decode`]'s parameters.
///
/// It is made part of its caller, who then takes the instruction from registers rather than from memory.
#[inline(always)]
pub fn decode(
    bytes: &InstructionBytes,
    available: usize,
    rip: u64,
    code_width: Width,
) -> Option<Instruction> {
    let long = match code_width {
        Width::Qword => true,
        Width::Dword => false,
        Width::Byte | Width::Word => return None,
    };
    let mut cursor = Cursor { bytes, taken: 0 };
    let narrow = cursor.peek() == 0x66;
    if narrow {
        cursor.byte();
    }
    let mut rex = 0;
    if long && cursor.peek() & 0xf0 == 0x40 {
        rex = cursor.byte();
    }
    let width = if rex & REX_W != 0 {
        Width::Qword
    } else if narrow {
        Width::Word
    } else {
        Width::Dword
    };

    let (operation, width, register_width, form) = match cursor.byte() {
        0x88 => (Operation::Move, Width::Byte, Width::Byte, Form::Store),
        0x89 => (Operation::Move, width, width, Form::Store),
        0x8a => (Operation::Move, Width::Byte, Width::Byte, Form::Load),
        0x8b => (Operation::Move, width, width, Form::Load),
        0xc6 => (Operation::Move, Width::Byte, Width::Byte, Form::Constant),
        0xc7 => (Operation::Move, width, width, Form::Constant),
        0x0f => {
            let (from, extension) = match cursor.byte() {
                0xb6 => (Width::Byte, Extension::Zero),
                0xb7 => (Width::Word, Extension::Zero),
                0xbe => (Width::Byte, Extension::Sign),
                0xbf => (Width::Word, Extension::Sign),
                _ => return None,
            };
            (
                Operation::MoveExtended(from, extension),
                width,
                width,
                Form::Load,
            )
        }
        _ => return None,
    };

    let modrm = cursor.byte();
    let field = modrm >> 3 & 7;
    let (memory, relative) = memory_operand(&mut cursor, modrm, rex, long)?;
    let (destination, source) = match form {
        Form::Load => (
            Operand::Register(register(field, rex, register_width)),
            Operand::Memory,
        ),
        Form::Store => (
            Operand::Memory,
            Operand::Register(register(field, rex, register_width)),
        ),
        Form::Constant if field == 0 => {
            let constant = match width {
                Width::Byte => u64::from(cursor.byte()),
                Width::Word => cursor.word(),
                Width::Dword => Width::Dword.truncate(cursor.signed_dword()),
                Width::Qword => cursor.signed_dword(),
            };
            (Operand::Memory, Operand::Immediate(constant))
        }
        Form::Constant => return None,
    };
    if usize::from(cursor.taken) > available.min(MAX_LENGTH) {
        return None;
    }
    let memory = if relative {
        let next = rip.wrapping_add(u64::from(cursor.taken));
        MemoryOperand {
            displacement: next.wrapping_add(memory.displacement),
            ..memory
        }
    } else {
        memory
    };
    Some(Instruction {
        operation,
        width,
        destination,
        source,
        memory,
        repeat: Repeat::Once,
        length: cursor.taken,
    })
}

#[derive(Clone, Copy)]
enum Form {
    Load,
    Store,
    Constant,
}

#[inline]
fn register(field: u8, rex: u8, width: Width) -> Register {
    if width == Width::Byte && rex == 0 && field >= 4 {
        return Register::High(Gpr::from_number(field - 4));
    }
    Register::Low(Gpr::from_number(field | (rex & REX_R) << 1))
}

/// The memory operand, and whether its displacement counts from the next instruction. `None` for a register
/// operand.
#[inline(always)]
fn memory_operand(
    cursor: &mut Cursor<'_>,
    modrm: u8,
    rex: u8,
    long: bool,
) -> Option<(MemoryOperand, bool)> {
    let mode = modrm >> 6;
    if mode == 3 {
        return None;
    }
    let mut base = Some(modrm & 7 | (rex & REX_B) << 3);
    let mut index = None;
    let mut scale = 0;
    let mut relative = false;
    let mut segment = SegmentName::Ds;
    let mut wide_displacement = mode == 2;
    if modrm & 7 == 4 {
        let sib = cursor.byte();
        scale = sib >> 6;
        let number = sib >> 3 & 7 | (rex & REX_X) << 2;
        index = (number != 4).then(|| Gpr::from_number(number));
        base = Some(sib & 7 | (rex & REX_B) << 3);
        if sib & 7 == 5 && mode == 0 {
            base = None;
            wide_displacement = true;
        }
    } else if modrm & 7 == 5 && mode == 0 {
        base = None;
        relative = long;
        wide_displacement = true;
    }
    // RSP and RBP themselves, not R12 and R13.
    if matches!(base, Some(4 | 5)) {
        segment = SegmentName::Ss;
    }
    if index.is_none() {
        scale = 0;
    }
    let displacement = if wide_displacement {
        cursor.signed_dword()
    } else if mode == 1 {
        cursor.signed_byte()
    } else {
        0
    };
    let address_width = if long { Width::Qword } else { Width::Dword };
    let memory = MemoryOperand {
        segment,
        base: base.map(Gpr::from_number),
        index,
        scale,
        displacement: address_width.truncate(displacement),
        address_width,
    };
    Some((memory, relative))
}
