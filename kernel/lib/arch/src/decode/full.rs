//! All other instructions, through iced-x86.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Mnemonic, OpKind};

use super::{
    Alignment, BinaryOperation, BitOperation, Condition, DecodeError, DescriptorTableInstruction,
    Extension, Factor, Instruction, InstructionBytes, MAX_LENGTH, MemoryOperand, Operand,
    Operation, Register, Repeat, ScanOperation, SelectorQuery, ShiftCount, ShiftDirection,
    ShiftOperation, Sign, StringOperation, UnaryOperation, VectorPart, vex,
};
use crate::{Gpr, SegmentName, Width};

/// Makes the decoder build its tables (82 KB of heap), so that no exit has to wait for it.
pub fn warm_up() {
    let mut nop: InstructionBytes = [0; MAX_LENGTH + 1];
    nop.fill(0x90);
    // NOP is no memory access: the answer is an error, and does not matter.
    let _ = decode(&nop, 1, 0, Width::Qword);
}

#[cold]
pub(super) fn decode(
    bytes: &InstructionBytes,
    available: usize,
    rip: u64,
    code_width: Width,
) -> Result<Instruction, DecodeError> {
    if let Some(vex) = vex::rewrite(bytes, available, code_width) {
        // With the same address behind it, so that a displacement from there stays right.
        let growth = u64::from(vex.growth) << 56;
        let start = rip.wrapping_sub((growth as i64 >> 56) as u64);
        let mut instruction = decode(&vex.bytes, vex.available, start, code_width)?;
        instruction.length = instruction.length.wrapping_sub(vex.growth);
        return match instruction.operation {
            Operation::VectorMove(part) => {
                instruction.operation = Operation::VexMove(part, vex.width);
                Ok(instruction)
            }
            _ => Err(DecodeError::Unsupported),
        };
    }
    let available = bytes.get(..available.min(MAX_LENGTH)).unwrap_or(bytes);
    let mut decoder = Decoder::with_ip(code_width.bits(), available, rip, DecoderOptions::NONE);
    let decoded = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => convert(&decoded, code_width).ok_or(DecodeError::Unsupported),
        DecoderError::NoMoreBytes => Err(DecodeError::Incomplete),
        _ => Err(DecodeError::Invalid),
    }
}

/// Our form of an instruction that iced-x86 has decoded, or `None` where the emulator does not know it.
fn convert(from: &iced_x86::Instruction, code_width: Width) -> Option<Instruction> {
    let operation = operation(from)?;
    let destination = operand(from, 0)?;
    let source = operand(from, 1)?;
    let width = match operation {
        Operation::String(_) => string_width(from)?,
        Operation::PushAll | Operation::PopAll => {
            Width::from_bytes(from.stack_pointer_increment().unsigned_abs() as usize / 8)?
        }
        Operation::Return | Operation::Enter | Operation::Leave => frame_width(from)?,
        Operation::Push | Operation::Pop | Operation::PushFlags | Operation::PopFlags => {
            Width::from_bytes(from.stack_pointer_increment().unsigned_abs() as usize)?
        }
        Operation::Call | Operation::Jump if destination == Operand::Memory => {
            Width::from_bytes(from.memory_size().size())?
        }
        Operation::Call if matches!(destination, Operand::Immediate(_)) => {
            Width::from_bytes(from.stack_pointer_increment().unsigned_abs() as usize)?
        }
        // A move from a segment register to memory stores 16 bits whatever the prefixes say.
        Operation::Move
            if matches!(source, Operand::Segment(_)) && destination == Operand::Memory =>
        {
            Width::Word
        }
        Operation::MoveExtended(..) | Operation::ConditionalMove(_) => {
            Width::from_bytes(from.op0_register().size())?
        }
        Operation::CompareExchangePair => {
            if from.mnemonic() == Mnemonic::Cmpxchg16b {
                Width::Qword
            } else {
                Width::Dword
            }
        }
        Operation::VectorMove(_) => Width::Qword,
        Operation::LoadSegment | Operation::StoreMachineStatus | Operation::LoadMachineStatus => {
            Width::Word
        }
        Operation::Query(_) if destination != Operand::Memory => {
            Width::from_bytes(from.op0_register().size())?
        }
        Operation::Query(_) => Width::Word,
        // Of LGDT and LIDT: how much of the base they load.
        Operation::DescriptorTable(_) => match from.code() {
            Code::Lgdt_m1632 | Code::Lidt_m1632 => Width::Dword,
            Code::Lgdt_m1664 | Code::Lidt_m1664 => Width::Qword,
            _ => Width::Word,
        },
        Operation::CacheLine => Width::Byte,
        Operation::LoadFarPointer(_) => Width::from_bytes(from.op0_register().size())?,
        // The selector follows the offset.
        Operation::FarCall | Operation::FarJump => {
            Width::from_bytes(from.memory_size().size().checked_sub(2)?)?
        }
        _ if has_memory(from) => Width::from_bytes(from.memory_size().size())?,
        _ => Width::from_bytes(from.op0_register().size())?,
    };
    let repeat = match operation {
        Operation::String(_) if from.has_repne_prefix() => Repeat::WhileNotEqual,
        Operation::String(_) if from.has_rep_prefix() => Repeat::WhileEqual,
        _ => Repeat::Once,
    };
    let immediate = |operand| match operand {
        Operand::Immediate(value) => Operand::Immediate(width.truncate(value)),
        other => other,
    };
    Some(Instruction {
        operation,
        width,
        destination: immediate(destination),
        source: immediate(source),
        memory: memory(from, code_width)?,
        repeat,
        length: from.len() as u8,
    })
}

fn operation(from: &iced_x86::Instruction) -> Option<Operation> {
    use BinaryOperation as Binary;
    use BitOperation as Bit;
    use ShiftOperation as Shift;
    use StringOperation as String;
    use UnaryOperation as Unary;
    Some(match from.mnemonic() {
        Mnemonic::Mov if is_plain_move(from) => Operation::Move,
        Mnemonic::Mov
            if from.op0_kind() == OpKind::Register
                && from.op0_register().is_segment_register()
                && from.op1_kind() == OpKind::Memory =>
        {
            Operation::LoadSegment
        }
        Mnemonic::Lds => Operation::LoadFarPointer(SegmentName::Ds),
        Mnemonic::Les => Operation::LoadFarPointer(SegmentName::Es),
        Mnemonic::Lfs => Operation::LoadFarPointer(SegmentName::Fs),
        Mnemonic::Lgs => Operation::LoadFarPointer(SegmentName::Gs),
        Mnemonic::Lss => Operation::LoadFarPointer(SegmentName::Ss),
        Mnemonic::Movnti => Operation::Move,
        Mnemonic::Movbe => Operation::MoveSwapped,
        Mnemonic::Movzx => Operation::MoveExtended(source_width(from)?, Extension::Zero),
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            Operation::MoveExtended(source_width(from)?, Extension::Sign)
        }
        Mnemonic::Add => Operation::Binary(Binary::Add),
        Mnemonic::Or => Operation::Binary(Binary::Or),
        Mnemonic::Adc => Operation::Binary(Binary::Adc),
        Mnemonic::Sbb => Operation::Binary(Binary::Sbb),
        Mnemonic::And => Operation::Binary(Binary::And),
        Mnemonic::Sub => Operation::Binary(Binary::Sub),
        Mnemonic::Xor => Operation::Binary(Binary::Xor),
        Mnemonic::Cmp => Operation::Binary(Binary::Cmp),
        Mnemonic::Test => Operation::Binary(Binary::Test),
        Mnemonic::Not => Operation::Unary(Unary::Not),
        Mnemonic::Neg => Operation::Unary(Unary::Neg),
        Mnemonic::Inc => Operation::Unary(Unary::Inc),
        Mnemonic::Dec => Operation::Unary(Unary::Dec),
        Mnemonic::Bt => Operation::Bit(Bit::Test),
        Mnemonic::Bts => Operation::Bit(Bit::Set),
        Mnemonic::Btr => Operation::Bit(Bit::Reset),
        Mnemonic::Btc => Operation::Bit(Bit::Complement),
        Mnemonic::Rol => Operation::Shift(Shift::Rol),
        Mnemonic::Ror => Operation::Shift(Shift::Ror),
        Mnemonic::Rcl => Operation::Shift(Shift::Rcl),
        Mnemonic::Rcr => Operation::Shift(Shift::Rcr),
        Mnemonic::Shl | Mnemonic::Sal => Operation::Shift(Shift::Shl),
        Mnemonic::Shr => Operation::Shift(Shift::Shr),
        Mnemonic::Sar => Operation::Shift(Shift::Sar),
        Mnemonic::Mul => Operation::Multiply(Sign::Unsigned),
        Mnemonic::Imul => match from.op_count() {
            1 => Operation::Multiply(Sign::Signed),
            2 => Operation::Product(Factor::Destination),
            _ => Operation::Product(Factor::Constant(from.try_immediate(2).ok()?)),
        },
        Mnemonic::Div => Operation::Divide(Sign::Unsigned),
        Mnemonic::Idiv => Operation::Divide(Sign::Signed),
        Mnemonic::Shld => Operation::DoubleShift(ShiftDirection::Left, shift_count(from)?),
        Mnemonic::Shrd => Operation::DoubleShift(ShiftDirection::Right, shift_count(from)?),
        Mnemonic::Bsf => Operation::Scan(ScanOperation::Forward),
        Mnemonic::Bsr => Operation::Scan(ScanOperation::Reverse),
        Mnemonic::Popcnt => Operation::Scan(ScanOperation::Count),
        Mnemonic::Xchg => Operation::Exchange,
        Mnemonic::Xadd => Operation::ExchangeAdd,
        Mnemonic::Cmpxchg => Operation::CompareExchange,
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => Operation::CompareExchangePair,
        Mnemonic::Push => Operation::Push,
        Mnemonic::Pop => Operation::Pop,
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => Operation::PushFlags,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => Operation::PopFlags,
        Mnemonic::Pusha | Mnemonic::Pushad => Operation::PushAll,
        Mnemonic::Popa | Mnemonic::Popad => Operation::PopAll,
        Mnemonic::Ret => Operation::Return,
        Mnemonic::Enter => Operation::Enter,
        Mnemonic::Leave => Operation::Leave,
        Mnemonic::Call if is_near_indirect(from) || from.is_call_near() => Operation::Call,
        Mnemonic::Jmp if is_near_indirect(from) => Operation::Jump,
        Mnemonic::Call if from.op0_kind() == OpKind::Memory => Operation::FarCall,
        Mnemonic::Jmp if from.op0_kind() == OpKind::Memory => Operation::FarJump,
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsq => Operation::String(String::Movs),
        // MOVSD and CMPSD are also names of vector instructions.
        Mnemonic::Movsd if from.code() == Code::Movsd_m32_m32 => Operation::String(String::Movs),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            Operation::String(String::Stos)
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            Operation::String(String::Lods)
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsq => Operation::String(String::Cmps),
        Mnemonic::Cmpsd if from.code() == Code::Cmpsd_m32_m32 => Operation::String(String::Cmps),
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => {
            Operation::String(String::Scas)
        }
        Mnemonic::Lar if has_memory(from) => Operation::Query(SelectorQuery::Rights),
        Mnemonic::Lsl if has_memory(from) => Operation::Query(SelectorQuery::Limit),
        Mnemonic::Verr if has_memory(from) => Operation::Query(SelectorQuery::Readable),
        Mnemonic::Verw if has_memory(from) => Operation::Query(SelectorQuery::Writable),
        Mnemonic::Movq | Mnemonic::Movd | Mnemonic::Movntq if is_mmx_move(from) => {
            Operation::MmxMove
        }
        _ => {
            return conditional(from)
                .or_else(|| vector_move(from))
                .or_else(|| system(from));
        }
    })
}

/// What has to do with descriptor tables, CR0 and caches, with its operand in memory.
fn system(from: &iced_x86::Instruction) -> Option<Operation> {
    use DescriptorTableInstruction as Table;
    if from.op0_kind() != OpKind::Memory {
        return None;
    }
    Some(match from.mnemonic() {
        Mnemonic::Sgdt => Operation::DescriptorTable(Table::Sgdt),
        Mnemonic::Sidt => Operation::DescriptorTable(Table::Sidt),
        Mnemonic::Lgdt => Operation::DescriptorTable(Table::Lgdt),
        Mnemonic::Lidt => Operation::DescriptorTable(Table::Lidt),
        Mnemonic::Sldt => Operation::DescriptorTable(Table::Sldt),
        Mnemonic::Str => Operation::DescriptorTable(Table::Str),
        Mnemonic::Lldt => Operation::DescriptorTable(Table::Lldt),
        Mnemonic::Ltr => Operation::DescriptorTable(Table::Ltr),
        Mnemonic::Smsw => Operation::StoreMachineStatus,
        Mnemonic::Lmsw => Operation::LoadMachineStatus,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb | Mnemonic::Cldemote => {
            Operation::CacheLine
        }
        _ => return None,
    })
}

fn is_mmx_move(from: &iced_x86::Instruction) -> bool {
    let is_mmx = |kind, register: iced_x86::Register| kind == OpKind::Register && register.is_mm();
    has_memory(from)
        && (is_mmx(from.op0_kind(), from.op0_register())
            || is_mmx(from.op1_kind(), from.op1_register()))
}

/// The third operand of SHLD and SHRD.
fn shift_count(from: &iced_x86::Instruction) -> Option<ShiftCount> {
    Some(match from.try_op_kind(2).ok()? {
        OpKind::Register => ShiftCount::Cl,
        _ => ShiftCount::Constant(from.try_immediate(2).ok()? as u8),
    })
}

fn conditional(from: &iced_x86::Instruction) -> Option<Operation> {
    // iced-x86 counts conditions from 1 in an order of its own.
    let number = match from.condition_code() {
        iced_x86::ConditionCode::o => 0,
        iced_x86::ConditionCode::no => 1,
        iced_x86::ConditionCode::b => 2,
        iced_x86::ConditionCode::ae => 3,
        iced_x86::ConditionCode::e => 4,
        iced_x86::ConditionCode::ne => 5,
        iced_x86::ConditionCode::be => 6,
        iced_x86::ConditionCode::a => 7,
        iced_x86::ConditionCode::s => 8,
        iced_x86::ConditionCode::ns => 9,
        iced_x86::ConditionCode::p => 10,
        iced_x86::ConditionCode::np => 11,
        iced_x86::ConditionCode::l => 12,
        iced_x86::ConditionCode::ge => 13,
        iced_x86::ConditionCode::le => 14,
        iced_x86::ConditionCode::g => 15,
        iced_x86::ConditionCode::None => return None,
    };
    match from.op0_kind() {
        // SETcc has one operand, CMOVcc two; jumps have a branch target.
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => None,
        _ if from.op_count() == 1 => Some(Operation::Set(Condition(number))),
        _ => Some(Operation::ConditionalMove(Condition(number))),
    }
}

/// Moves between an XMM register and memory, and no arithmetic.
fn vector_move(from: &iced_x86::Instruction) -> Option<Operation> {
    let is_vector = |register: iced_x86::Register| register.is_xmm();
    let memory_and_vector = match (from.op0_kind(), from.op1_kind()) {
        (OpKind::Register, OpKind::Memory) => is_vector(from.op0_register()),
        (OpKind::Memory, OpKind::Register) => is_vector(from.op1_register()),
        _ => false,
    };
    if !memory_and_vector || from.op_count() != 2 {
        return None;
    }
    let part = match from.mnemonic() {
        Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu => {
            VectorPart::All(Alignment::Any)
        }
        Mnemonic::Movaps
        | Mnemonic::Movapd
        | Mnemonic::Movdqa
        | Mnemonic::Movntps
        | Mnemonic::Movntpd
        | Mnemonic::Movntdq
        | Mnemonic::Movntdqa => VectorPart::All(Alignment::Natural),
        Mnemonic::Movd | Mnemonic::Movss => VectorPart::Low4,
        Mnemonic::Movq | Mnemonic::Movsd => VectorPart::Low8,
        Mnemonic::Movlps | Mnemonic::Movlpd => VectorPart::Low8Merge,
        Mnemonic::Movhps | Mnemonic::Movhpd => VectorPart::High8Merge,
        _ => return None,
    };
    Some(Operation::VectorMove(part))
}

/// Moves of general-purpose and segment registers, memory and constants; none to a segment register, which
/// would load a descriptor, and none of control or debug registers.
fn is_plain_move(from: &iced_x86::Instruction) -> bool {
    let plain = |kind, register: iced_x86::Register| {
        kind != OpKind::Register || register.is_gpr() || register.is_segment_register()
    };
    plain(from.op0_kind(), from.op0_register())
        && plain(from.op1_kind(), from.op1_register())
        && !(from.op0_kind() == OpKind::Register && from.op0_register().is_segment_register())
}

fn is_near_indirect(from: &iced_x86::Instruction) -> bool {
    matches!(
        from.code(),
        Code::Call_rm16
            | Code::Call_rm32
            | Code::Call_rm64
            | Code::Jmp_rm16
            | Code::Jmp_rm32
            | Code::Jmp_rm64
    )
}

/// How wide what RET, ENTER and LEAVE push or pop is.
fn frame_width(from: &iced_x86::Instruction) -> Option<Width> {
    Some(match from.code() {
        Code::Retnw | Code::Retnw_imm16 | Code::Enterw_imm16_imm8 | Code::Leavew => Width::Word,
        Code::Retnd | Code::Retnd_imm16 | Code::Enterd_imm16_imm8 | Code::Leaved => Width::Dword,
        Code::Retnq | Code::Retnq_imm16 | Code::Enterq_imm16_imm8 | Code::Leaveq => Width::Qword,
        _ => return None,
    })
}

fn has_memory(from: &iced_x86::Instruction) -> bool {
    from.op0_kind() == OpKind::Memory || from.op1_kind() == OpKind::Memory
}

/// Width of the second operand, be it memory or register.
fn source_width(from: &iced_x86::Instruction) -> Option<Width> {
    match from.op1_kind() {
        OpKind::Memory => Width::from_bytes(from.memory_size().size()),
        _ => Width::from_bytes(from.op1_register().size()),
    }
}

fn string_width(from: &iced_x86::Instruction) -> Option<Width> {
    Width::from_bytes(from.memory_size().size())
}

fn operand(from: &iced_x86::Instruction, number: u32) -> Option<Operand> {
    if number >= from.op_count() {
        return Some(Operand::None);
    }
    Some(match from.try_op_kind(number).ok()? {
        OpKind::Register => register_operand(from.try_op_register(number).ok()?)?,
        OpKind::Memory => Operand::Memory,
        // The operands of string instructions are where their name says.
        OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemoryESDI
        | OpKind::MemoryESEDI
        | OpKind::MemoryESRDI => Operand::None,
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            Operand::Immediate(from.near_branch_target())
        }
        OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Operand::Immediate(from.try_immediate(number).ok()?),
        _ => return None,
    })
}

fn register_operand(register: iced_x86::Register) -> Option<Operand> {
    if register.is_segment_register() {
        let number = u8::try_from(register.number()).ok()?;
        return Some(Operand::Segment(SegmentName::from_number(number)?));
    }
    if register.is_mm() {
        return Some(Operand::Mmx(u8::try_from(register.number()).ok()?));
    }
    if register.is_xmm() {
        return Some(Operand::Vector(u8::try_from(register.number()).ok()?));
    }
    let full = gpr(register)?;
    let high = matches!(
        register,
        iced_x86::Register::AH
            | iced_x86::Register::CH
            | iced_x86::Register::DH
            | iced_x86::Register::BH
    );
    Some(Operand::Register(if high {
        Register::High(full)
    } else {
        Register::Low(full)
    }))
}

/// The 64-bit register that the register is a part of.
fn gpr(register: iced_x86::Register) -> Option<Gpr> {
    register
        .is_gpr()
        .then(|| Gpr::from_number(register.full_register().number() as u8))
}

fn memory(from: &iced_x86::Instruction, code_width: Width) -> Option<MemoryOperand> {
    let (base, index) = (from.memory_base(), from.memory_index());
    let string = |kind| match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(Width::Word),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(Width::Dword),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(Width::Qword),
        _ => None,
    };
    let address_width =
        if let Some(width) = string(from.op0_kind()).or_else(|| string(from.op1_kind())) {
            width
        } else if !has_memory(from) {
            code_width
        } else if base != iced_x86::Register::None {
            Width::from_bytes(base.size())?
        } else if index != iced_x86::Register::None {
            Width::from_bytes(index.size())?
        } else {
            Width::from_bytes(from.memory_displ_size() as usize)?
        };
    let segment = match from.memory_segment() {
        iced_x86::Register::None => SegmentName::Ds,
        register => SegmentName::from_number(u8::try_from(register.number()).ok()?)?,
    };
    Some(MemoryOperand {
        segment,
        // Of RIP-relative operands the displacement is the address.
        base: if base.is_ip() { None } else { gpr(base) },
        index: gpr(index),
        scale: if gpr(index).is_some() {
            from.memory_index_scale().ilog2() as u8
        } else {
            0
        },
        displacement: address_width.truncate(from.memory_displacement64()),
        address_width,
    })
}
