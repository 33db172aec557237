//! AVX's moves, as the SSE moves that they are with another prefix.
//!
//! A VEX prefix says what legacy prefixes, REX and escape bytes say, and a third operand and the vector's width. Moves
//! between a register and memory have no third operand, so [`rewrite`] spells them the old way for the decoder, which
//! knows SSE only. SDM vol. 2, The VEX Prefix.

use super::{InstructionBytes, MAX_LENGTH, VectorWidth};
use crate::Width;

/// A move in its old spelling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rewritten {
    pub(super) bytes: InstructionBytes,
    pub(super) available: usize,
    pub(super) width: VectorWidth,
    /// By how many bytes the new spelling is longer, modulo 2^8.
    pub(super) growth: u8,
}

/// Prefixes that may stand before a VEX prefix: segments and address size.
const PREFIXES: [u8; 7] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67];
const TWO_BYTES: u8 = 0xc5;
const THREE_BYTES: u8 = 0xc4;
/// What the two low bits of the prefix stand for.
const LEGACY: [Option<u8>; 4] = [None, Some(0x66), Some(0xf3), Some(0xf2)];
const ESCAPE: u8 = 0x0f;
const ESCAPE_38: u8 = 0x38;
const REX: u8 = 0x40;

/// The fields of a VEX prefix, the inverted ones put right.
struct Vex {
    /// R, X and B as in REX, and W.
    rex: u8,
    map: u8,
    third: u8,
    wide: bool,
    legacy: u8,
    /// Bytes of the prefix.
    length: usize,
}

impl Vex {
    fn parse(bytes: &[u8], code_width: Width) -> Option<Self> {
        let (rex, map, last, length) = match *bytes {
            [TWO_BYTES, last, ..] => (!last >> 5 & 4, 1, last & 0x7f, 2),
            [THREE_BYTES, first, last, ..] => {
                let w = last >> 4 & 8;
                (!first >> 5 & 7 | w, first & 0x1f, last & 0x7f, 3)
            }
            _ => return None,
        };
        // Elsewhere these are LDS and LES unless both bits say that the operand would be a register.
        let first = *bytes.get(1)?;
        if code_width != Width::Qword && first >> 6 != 3 {
            return None;
        }
        Some(Self {
            rex,
            map,
            third: !last >> 3 & 0xf,
            wide: last & 4 != 0,
            legacy: last & 3,
            length,
        })
    }

    /// Whether it is a move of a register from or to memory that has the same meaning without VEX, but for the upper
    /// part of the register.
    fn is_move(&self, opcode: u8) -> bool {
        if self.third != 0 {
            return false;
        }
        match (self.map, opcode, self.legacy) {
            // Scalars have one width.
            (1, 0x10 | 0x11, 2 | 3) | (1, 0x6e | 0xd6, 1) | (1, 0x7e, 1 | 2) => !self.wide,
            (1, 0x10 | 0x11 | 0x28 | 0x29 | 0x2b, 0 | 1) => true,
            (1, 0x6f | 0x7f, 1 | 2) | (1, 0xe7, 1) | (1, 0xf0, 3) | (2, 0x2a, 1) => true,
            _ => false,
        }
    }
}

/// The old spelling of a move by VEX, or `None` for anything else.
pub(super) fn rewrite(
    bytes: &InstructionBytes,
    available: usize,
    code_width: Width,
) -> Option<Rewritten> {
    let bytes = bytes.get(..available.min(MAX_LENGTH))?;
    let before = bytes
        .iter()
        .take_while(|byte| PREFIXES.contains(byte))
        .count();
    let (prefixes, rest) = bytes.split_at_checked(before)?;
    let vex = Vex::parse(rest, code_width)?;
    let (&opcode, operand) = rest.get(vex.length..)?.split_first()?;
    let is_memory = operand.first()? >> 6 != 3;
    if !is_memory || !vex.is_move(opcode) {
        return None;
    }
    let mut new: InstructionBytes = [0; MAX_LENGTH + 1];
    let rex = (vex.rex != 0 && code_width == Width::Qword).then_some(REX | vex.rex);
    let legacy = LEGACY.get(usize::from(vex.legacy)).copied().flatten();
    let escape = (vex.map == 2).then_some(ESCAPE_38);
    let head = [legacy, rex, Some(ESCAPE), escape, Some(opcode)];
    let spelled = prefixes
        .iter()
        .copied()
        .chain(head.into_iter().flatten())
        .chain(operand.iter().copied());
    let mut length = 0;
    for (place, byte) in new.iter_mut().take(MAX_LENGTH).zip(spelled) {
        *place = byte;
        length += 1;
    }
    let new_head = head.iter().flatten().count() as u8;
    Some(Rewritten {
        bytes: new,
        available: length,
        width: if vex.wide {
            VectorWidth::Ymm
        } else {
            VectorWidth::Xmm
        },
        growth: new_head.wrapping_sub(vex.length as u8 + 1),
    })
}
