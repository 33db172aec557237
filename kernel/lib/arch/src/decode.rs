//! Instruction decoding, in the form that an emulator of memory accesses wants.
//!
//! [`decode`] makes an [`Instruction`] of up to 15 bytes. The common moves between a register and memory go
//! through a small decoder of our own ([`quick`]), everything else through iced-x86 ([`full`]); what both
//! know they decode alike, which the tests hold them to. Which instructions there are follows from what
//! software does to device registers; an instruction that is not among them is
//! [`Unsupported`](DecodeError::Unsupported).

mod full;
mod quick;
#[cfg(test)]
mod tests;
mod vex;

pub use full::warm_up;
pub use quick::decode as simple_move;

use crate::{Gpr, SegmentName, Width};

/// The longest instruction there is.
pub const MAX_LENGTH: usize = 15;

/// Room for an instruction; what lies behind the fetched bytes is zero.
pub type InstructionBytes = [u8; MAX_LENGTH + 1];

/// A general-purpose register as an instruction names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Register {
    /// The register from bit 0 on, at the operand's width.
    Low(Gpr),
    /// Bits 15 to 8: AH, CH, DH, BH.
    High(Gpr),
}

/// An operand of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operand {
    /// There is none.
    None,
    /// A general-purpose register.
    Register(Register),
    /// Memory, at [`Instruction::memory`].
    Memory,
    /// A constant, extended to the operand's width.
    Immediate(u64),
    /// A segment register.
    Segment(SegmentName),
    /// An XMM register by its number, with what AVX adds to it.
    Vector(u8),
    /// An MMX register by its number.
    Mmx(u8),
}

/// Where a memory operand lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemoryOperand {
    /// The segment, be it by default or by prefix.
    pub segment: SegmentName,
    /// The base register.
    pub base: Option<Gpr>,
    /// The index register.
    pub index: Option<Gpr>,
    /// log2 of the index's factor.
    pub scale: u8,
    /// The displacement; of operands relative to RIP, the address itself.
    pub displacement: u64,
    /// The width of the address, to which the sum is cut; of string instructions, that of rSI, rDI and rCX.
    pub address_width: Width,
}

/// Two operands in, one or none out, all flags of arithmetic written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manuals' mnemonics")]
pub enum BinaryOperation {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
}

/// One operand in and out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manuals' mnemonics")]
pub enum UnaryOperation {
    Not,
    Neg,
    Inc,
    Dec,
}

/// What is done with the tested bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BitOperation {
    /// BT: nothing.
    Test,
    /// BTS: it is set.
    Set,
    /// BTR: it is cleared.
    Reset,
    /// BTC: it is inverted.
    Complement,
}

/// A shift or rotation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manuals' mnemonics")]
pub enum ShiftOperation {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

/// Whether integers have a sign.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Sign {
    Unsigned,
    Signed,
}

/// What IMUL multiplies its source with, where it has one destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Factor {
    /// The destination.
    Destination,
    /// A constant.
    Constant(u64),
}

/// SHLD or SHRD.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the words say it")]
pub enum ShiftDirection {
    Left,
    Right,
}

/// By how much SHLD and SHRD shift.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ShiftCount {
    /// By CL.
    Cl,
    /// By a constant.
    Constant(u8),
}

/// A search for bits in the source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ScanOperation {
    /// BSF: the lowest that is set.
    Forward,
    /// BSR: the highest that is set.
    Reverse,
    /// POPCNT: how many are set.
    Count,
}

/// A string instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manuals' mnemonics")]
pub enum StringOperation {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
}

/// The condition of SETcc and CMOVcc by the number in its opcode; bit 0 negates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Condition(pub u8);

/// How a narrow value fills a wide register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Extension {
    Zero,
    Sign,
}

/// Whether a vector operand has to lie at a multiple of its size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Alignment {
    /// Anywhere.
    Any,
    /// At a multiple of its size, or #GP.
    Natural,
}

/// Which bytes of an XMM register a move concerns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VectorPart {
    /// The low 4 bytes; a load clears the rest.
    Low4,
    /// The low 8 bytes; a load clears the rest.
    Low8,
    /// The low 8 bytes; a load leaves the rest.
    Low8Merge,
    /// The high 8 bytes; a load leaves the rest.
    High8Merge,
    /// All 16 bytes.
    All(Alignment),
}

/// How much of a vector register a move by VEX concerns; what lies beyond is cleared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manuals' names")]
pub enum VectorWidth {
    Xmm,
    Ymm,
}

/// An instruction on a descriptor-table register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manual's mnemonics")]
pub enum DescriptorTableInstruction {
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
    Sldt,
    Str,
    Lldt,
    Ltr,
}

/// What an instruction asks about the descriptor of a selector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SelectorQuery {
    /// LAR: its access rights.
    Rights,
    /// LSL: its limit.
    Limit,
    /// VERR: whether the segment can be read.
    Readable,
    /// VERW: whether it can be written.
    Writable,
}

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// MOV and MOVNTI.
    Move,
    /// MOVBE: the bytes reversed.
    MoveSwapped,
    /// MOVZX, MOVSX, MOVSXD: the source has this width.
    MoveExtended(Width, Extension),
    /// The eight operations of one group, and TEST.
    Binary(BinaryOperation),
    /// NOT, NEG, INC, DEC.
    Unary(UnaryOperation),
    /// BT, BTS, BTR, BTC.
    Bit(BitOperation),
    /// Shifts and rotations.
    Shift(ShiftOperation),
    /// MUL and IMUL with a double-width result in rDX:rAX, or AX.
    Multiply(Sign),
    /// IMUL with a result of one width.
    Product(Factor),
    /// DIV and IDIV.
    Divide(Sign),
    /// SHLD and SHRD.
    DoubleShift(ShiftDirection, ShiftCount),
    /// BSF, BSR, POPCNT.
    Scan(ScanOperation),
    /// XCHG.
    Exchange,
    /// XADD.
    ExchangeAdd,
    /// CMPXCHG.
    CompareExchange,
    /// CMPXCHG8B and, at quadword width, CMPXCHG16B: pairs of registers of this width.
    CompareExchangePair,
    /// PUSH.
    Push,
    /// POP.
    Pop,
    /// PUSHF.
    PushFlags,
    /// POPF.
    PopFlags,
    /// PUSHA.
    PushAll,
    /// POPA.
    PopAll,
    /// CALL to the address that the operand holds, or is.
    Call,
    /// JMP to the address that the operand holds.
    Jump,
    /// RET; the destination is the number of bytes that it takes off the stack besides.
    Return,
    /// ENTER: the frame's bytes, and its nesting level.
    Enter,
    /// LEAVE.
    Leave,
    /// SETcc.
    Set(Condition),
    /// CMOVcc.
    ConditionalMove(Condition),
    /// MOVS, STOS, LODS, CMPS, SCAS.
    String(StringOperation),
    /// A move between an XMM register and memory.
    VectorMove(VectorPart),
    /// The same by VEX.
    VexMove(VectorPart, VectorWidth),
    /// A move between an MMX register and memory; a doubleword clears the upper half.
    MmxMove,
    /// MOV to a segment register.
    LoadSegment,
    /// LDS, LES, LFS, LGS, LSS.
    LoadFarPointer(SegmentName),
    /// CALL to the far pointer in memory; the width is that of its offset.
    FarCall,
    /// JMP to the far pointer in memory.
    FarJump,
    /// SGDT, SIDT, LGDT, LIDT, SLDT, STR, LLDT, LTR.
    DescriptorTable(DescriptorTableInstruction),
    /// LAR, LSL, VERR, VERW.
    Query(SelectorQuery),
    /// SMSW.
    StoreMachineStatus,
    /// LMSW.
    LoadMachineStatus,
    /// CLFLUSH and its kin, for which nothing has to be done.
    CacheLine,
}

/// A repeat prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Repeat {
    /// None, or one without meaning for the instruction.
    Once,
    /// REP and REPE: for CMPS and SCAS, as long as ZF is set.
    WhileEqual,
    /// REPNE: for CMPS and SCAS, as long as ZF is clear.
    WhileNotEqual,
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Instruction {
    /// What it does.
    pub operation: Operation,
    /// The operand width.
    pub width: Width,
    /// The operand that is written, or the first of two that are only read.
    pub destination: Operand,
    /// The other operand.
    pub source: Operand,
    /// Where the memory operand lies; of a string instruction, segment and address width of its source.
    pub memory: MemoryOperand,
    /// The repeat prefix of a string instruction.
    pub repeat: Repeat,
    /// Bytes of the instruction.
    pub length: u8,
}

/// Why bytes are no instruction for us.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DecodeError {
    /// The instruction goes on behind the given bytes.
    Incomplete,
    /// No instruction at all, or one of more than 15 bytes.
    Invalid,
    /// An instruction that the emulator does not know.
    Unsupported,
}

/// Decodes the instruction in the first `available` bytes, which was fetched from `rip`, for code of this
/// width.
///
/// # Errors
/// See [`DecodeError`].
#[inline]
pub fn decode(
    bytes: &InstructionBytes,
    available: usize,
    rip: u64,
    code_width: Width,
) -> Result<Instruction, DecodeError> {
    match simple_move(bytes, available, rip, code_width) {
        Some(instruction) => Ok(instruction),
        None => full::decode(bytes, available, rip, code_width),
    }
}
