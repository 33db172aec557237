//! Encodings from the manual, and the two decoders against each other.

use proptest::prelude::*;

use super::*;
use crate::decode::{full, quick};

fn padded(bytes: &[u8]) -> InstructionBytes {
    let mut padded = [0; MAX_LENGTH + 1];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}

fn decode_in(width: Width, bytes: &[u8]) -> Result<Instruction, DecodeError> {
    decode(&padded(bytes), bytes.len(), 0x1000, width)
}

fn long(bytes: &[u8]) -> Instruction {
    decode_in(Width::Qword, bytes).expect("an instruction we know")
}

fn at(base: Option<Gpr>, displacement: u64) -> MemoryOperand {
    MemoryOperand {
        segment: SegmentName::Ds,
        base,
        index: None,
        scale: 0,
        displacement,
        address_width: Width::Qword,
    }
}

const EAX: Operand = Operand::Register(Register::Low(Gpr::Rax));

#[test]
fn moves_between_register_and_memory() {
    // mov [rdi + 0x10], eax
    let store = long(&[0x89, 0x47, 0x10]);
    assert_eq!(store.operation, Operation::Move);
    assert_eq!((store.destination, store.source), (Operand::Memory, EAX));
    assert_eq!(store.memory, at(Some(Gpr::Rdi), 0x10));
    assert_eq!((store.width, store.length), (Width::Dword, 3));
    // mov eax, [rip + 0x100]: from the end of the instruction at 0x1006.
    let load = long(&[0x8b, 0x05, 0x00, 0x01, 0x00, 0x00]);
    assert_eq!((load.destination, load.source), (EAX, Operand::Memory));
    assert_eq!(load.memory, at(None, 0x1106));
    // mov eax, moffs64
    let moffs = long(&[0xa1, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12]);
    assert_eq!(moffs.memory, at(None, 0x1234_5678_9abc_def0));
    // mov qword [r12 + r13 * 8 - 1], -2
    let constant = long(&[0x4b, 0xc7, 0x44, 0xec, 0xff, 0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(constant.source, Operand::Immediate(-2i64 as u64));
    assert_eq!(
        (constant.memory.base, constant.memory.index),
        (Some(Gpr::R12), Some(Gpr::R13))
    );
    assert_eq!(
        (constant.memory.scale, constant.memory.displacement),
        (3, u64::MAX)
    );
    // mov [rbp], ah and mov [rbp], spl
    let high = long(&[0x88, 0x65, 0x00]);
    assert_eq!(high.source, Operand::Register(Register::High(Gpr::Rax)));
    assert_eq!(high.memory.segment, SegmentName::Ss);
    let low = long(&[0x40, 0x88, 0x65, 0x00]);
    assert_eq!(low.source, Operand::Register(Register::Low(Gpr::Rsp)));
}

#[test]
fn prefixes_choose_segment_and_address_width() {
    // mov eax, gs:[ebx]
    let load = long(&[0x65, 0x67, 0x8b, 0x03]);
    assert_eq!(load.memory.segment, SegmentName::Gs);
    assert_eq!(load.memory.address_width, Width::Dword);
    // mov ax, [bx + si - 2] in 16-bit code
    let real = decode_in(Width::Word, &[0x8b, 0x40, 0xfe]).unwrap();
    assert_eq!(
        (real.memory.base, real.memory.index),
        (Some(Gpr::Rbx), Some(Gpr::Rsi))
    );
    assert_eq!(
        (real.memory.displacement, real.memory.address_width),
        (0xfffe, Width::Word)
    );
    assert_eq!(real.width, Width::Word);
    // mov eax, [0x12345678] in 32-bit code
    let absolute = decode_in(Width::Dword, &[0xa1, 0x78, 0x56, 0x34, 0x12]).unwrap();
    assert_eq!(absolute.memory.displacement, 0x1234_5678);
    assert_eq!(absolute.memory.address_width, Width::Dword);
    // mov eax, es:[bp + 0] in 16-bit code, with operand-size prefix
    let es = decode_in(Width::Word, &[0x26, 0x66, 0x8b, 0x46, 0x00]).unwrap();
    assert_eq!(
        (es.memory.segment, es.width),
        (SegmentName::Es, Width::Dword)
    );
}

#[test]
fn every_instruction_of_the_emulator_is_known() {
    use Operation as Op;
    let cases: &[(&[u8], Operation, Width)] = &[
        (
            &[0x0f, 0xb6, 0x03],
            Op::MoveExtended(Width::Byte, Extension::Zero),
            Width::Dword,
        ),
        (
            &[0x48, 0x0f, 0xbf, 0x03],
            Op::MoveExtended(Width::Word, Extension::Sign),
            Width::Qword,
        ),
        (
            &[0x48, 0x63, 0x03],
            Op::MoveExtended(Width::Dword, Extension::Sign),
            Width::Qword,
        ),
        (&[0x0f, 0x38, 0xf0, 0x03], Op::MoveSwapped, Width::Dword),
        (&[0x48, 0x0f, 0xc3, 0x03], Op::Move, Width::Qword),
        (
            &[0x83, 0x0b, 0xff],
            Op::Binary(BinaryOperation::Or),
            Width::Dword,
        ),
        (
            &[0x66, 0x03, 0x03],
            Op::Binary(BinaryOperation::Add),
            Width::Word,
        ),
        (&[0x10, 0x03], Op::Binary(BinaryOperation::Adc), Width::Byte),
        (
            &[0x48, 0x19, 0x03],
            Op::Binary(BinaryOperation::Sbb),
            Width::Qword,
        ),
        (
            &[0xf0, 0x21, 0x03],
            Op::Binary(BinaryOperation::And),
            Width::Dword,
        ),
        (
            &[0x29, 0x03],
            Op::Binary(BinaryOperation::Sub),
            Width::Dword,
        ),
        (
            &[0x31, 0x03],
            Op::Binary(BinaryOperation::Xor),
            Width::Dword,
        ),
        (
            &[0x3b, 0x03],
            Op::Binary(BinaryOperation::Cmp),
            Width::Dword,
        ),
        (
            &[0xf7, 0x03, 1, 0, 0, 0],
            Op::Binary(BinaryOperation::Test),
            Width::Dword,
        ),
        (&[0xf6, 0x13], Op::Unary(UnaryOperation::Not), Width::Byte),
        (&[0xf7, 0x1b], Op::Unary(UnaryOperation::Neg), Width::Dword),
        (&[0xff, 0x03], Op::Unary(UnaryOperation::Inc), Width::Dword),
        (&[0xff, 0x0b], Op::Unary(UnaryOperation::Dec), Width::Dword),
        (
            &[0x0f, 0xa3, 0x03],
            Op::Bit(BitOperation::Test),
            Width::Dword,
        ),
        (
            &[0xf0, 0x48, 0x0f, 0xab, 0x03],
            Op::Bit(BitOperation::Set),
            Width::Qword,
        ),
        (
            &[0x0f, 0xba, 0x33, 7],
            Op::Bit(BitOperation::Reset),
            Width::Dword,
        ),
        (
            &[0x66, 0x0f, 0xbb, 0x03],
            Op::Bit(BitOperation::Complement),
            Width::Word,
        ),
        (&[0xd1, 0x23], Op::Shift(ShiftOperation::Shl), Width::Dword),
        (&[0xd3, 0x03], Op::Shift(ShiftOperation::Rol), Width::Dword),
        (
            &[0xc1, 0x3b, 4],
            Op::Shift(ShiftOperation::Sar),
            Width::Dword,
        ),
        (&[0x87, 0x03], Op::Exchange, Width::Dword),
        (&[0xf0, 0x0f, 0xc1, 0x03], Op::ExchangeAdd, Width::Dword),
        (&[0xf0, 0x0f, 0xb1, 0x0b], Op::CompareExchange, Width::Dword),
        (&[0x0f, 0xc7, 0x0b], Op::CompareExchangePair, Width::Dword),
        (
            &[0x48, 0x0f, 0xc7, 0x0b],
            Op::CompareExchangePair,
            Width::Qword,
        ),
        (
            &[0x0f, 0x02, 0x03],
            Op::Query(SelectorQuery::Rights),
            Width::Dword,
        ),
        (
            &[0x0f, 0x00, 0x23],
            Op::Query(SelectorQuery::Readable),
            Width::Word,
        ),
        (&[0xff, 0x33], Op::Push, Width::Qword),
        (&[0x66, 0xff, 0x33], Op::Push, Width::Word),
        (&[0x8f, 0x03], Op::Pop, Width::Qword),
        (&[0x50], Op::Push, Width::Qword),
        (&[0x6a, 0xff], Op::Push, Width::Qword),
        (&[0xff, 0x13], Op::Call, Width::Qword),
        (&[0xff, 0x23], Op::Jump, Width::Qword),
        (&[0x0f, 0x94, 0x03], Op::Set(Condition(4)), Width::Byte),
        (
            &[0x0f, 0x4f, 0x03],
            Op::ConditionalMove(Condition(15)),
            Width::Dword,
        ),
        (
            &[0x66, 0xa5],
            Op::String(StringOperation::Movs),
            Width::Word,
        ),
        (&[0xa5], Op::String(StringOperation::Movs), Width::Dword),
        (
            &[0xf3, 0x48, 0xab],
            Op::String(StringOperation::Stos),
            Width::Qword,
        ),
        (&[0xac], Op::String(StringOperation::Lods), Width::Byte),
        (
            &[0xf3, 0xa7],
            Op::String(StringOperation::Cmps),
            Width::Dword,
        ),
        (
            &[0xf2, 0xae],
            Op::String(StringOperation::Scas),
            Width::Byte,
        ),
        (
            &[0x0f, 0x10, 0x03],
            Op::VectorMove(VectorPart::All(Alignment::Any)),
            Width::Qword,
        ),
        (
            &[0x66, 0x0f, 0x7f, 0x03],
            Op::VectorMove(VectorPart::All(Alignment::Natural)),
            Width::Qword,
        ),
        (
            &[0x66, 0x0f, 0x6e, 0x03],
            Op::VectorMove(VectorPart::Low4),
            Width::Qword,
        ),
        (
            &[0xf3, 0x0f, 0x7e, 0x03],
            Op::VectorMove(VectorPart::Low8),
            Width::Qword,
        ),
        (
            &[0xf2, 0x0f, 0x10, 0x03],
            Op::VectorMove(VectorPart::Low8),
            Width::Qword,
        ),
        (
            &[0x0f, 0x17, 0x03],
            Op::VectorMove(VectorPart::High8Merge),
            Width::Qword,
        ),
    ];
    for &(bytes, operation, width) in cases {
        let instruction = long(bytes);
        assert_eq!(instruction.operation, operation, "{bytes:x?}");
        assert_eq!(instruction.width, width, "{bytes:x?}");
        assert_eq!(usize::from(instruction.length), bytes.len(), "{bytes:x?}");
    }
    assert_eq!(long(&[0xf3, 0x48, 0xab]).repeat, Repeat::WhileEqual);
    assert_eq!(long(&[0xf2, 0xae]).repeat, Repeat::WhileNotEqual);
    assert_eq!(long(&[0x67, 0xa5]).memory.address_width, Width::Dword);
    assert_eq!(long(&[0x64, 0xa5]).memory.segment, SegmentName::Fs);
    assert_eq!(
        long(&[0x6a, 0xff]).destination,
        Operand::Immediate(u64::MAX)
    );
    // mov [rbx], gs stores 16 bits, whatever REX.W says.
    assert_eq!(long(&[0x48, 0x8c, 0x2b]).width, Width::Word);
}

#[test]
fn what_is_no_instruction_or_none_of_ours_is_told_apart() {
    let in_long = |bytes: &[u8]| decode_in(Width::Qword, bytes);
    assert_eq!(
        in_long(&[0x0f, 0x0b]),
        Err(DecodeError::Unsupported),
        "UD2 is no memory access"
    );
    assert_eq!(
        in_long(&[0x06, 0, 0]),
        Err(DecodeError::Invalid),
        "PUSH ES outside 64-bit mode only"
    );
    assert_eq!(
        in_long(&[0xf0, 0x8b, 0x03]),
        Err(DecodeError::Invalid),
        "LOCK MOV"
    );
    assert_eq!(in_long(&[0xd9, 0x03]), Err(DecodeError::Unsupported), "FLD");
    assert_eq!(
        in_long(&[0x0f, 0x20, 0xc0]),
        Err(DecodeError::Unsupported),
        "MOV EAX, CR0"
    );
    assert_eq!(in_long(&[0x8b]), Err(DecodeError::Incomplete));
    assert_eq!(in_long(&[]), Err(DecodeError::Incomplete));
    assert_eq!(in_long(&[0x66; 14]), Err(DecodeError::Incomplete));
    assert_eq!(in_long(&[0x66; 15]), Err(DecodeError::Invalid), "too long");
    let mut movs = [0x66; 15];
    movs[14] = 0xa5;
    assert_eq!(long(&movs).length, 15);
}

#[test]
fn the_quick_decoder_knows_what_drivers_do() {
    // readl, writel, readb, writeb, readw, writew, readq, writeq as compilers emit them.
    let common: [&[u8]; 10] = [
        &[0x8b, 0x07],
        &[0x89, 0x37],
        &[0x8a, 0x07],
        &[0x40, 0x88, 0x37],
        &[0x66, 0x8b, 0x07],
        &[0x66, 0x89, 0x37],
        &[0x48, 0x8b, 0x07],
        &[0x48, 0x89, 0x37],
        &[0x0f, 0xb6, 0x07],
        &[0xc7, 0x04, 0x25, 0xb0, 0xd0, 0x5f, 0xff, 0, 0, 0, 0],
    ];
    for bytes in common {
        assert!(
            quick::decode(&padded(bytes), bytes.len(), 0, Width::Qword).is_some(),
            "{bytes:x?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30_000))]

    #[test]
    fn both_decoders_agree_on_what_the_quick_one_knows(
        narrow in any::<bool>(),
        rex in prop::option::of(0x40u8..0x50),
        opcode in prop_oneof![
            Just(alloc::vec![0x88]), Just(alloc::vec![0x89]), Just(alloc::vec![0x8a]),
            Just(alloc::vec![0x8b]), Just(alloc::vec![0xc6]), Just(alloc::vec![0xc7]),
            Just(alloc::vec![0x0f, 0xb6]), Just(alloc::vec![0x0f, 0xb7]),
            Just(alloc::vec![0x0f, 0xbe]), Just(alloc::vec![0x0f, 0xbf]),
        ],
        tail in any::<[u8; 10]>(),
        cut in 1usize..16,
        rip in any::<u32>(),
        code_width in prop_oneof![Just(Width::Dword), Just(Width::Qword)],
    ) {
        let mut bytes = alloc::vec::Vec::new();
        if narrow {
            bytes.push(0x66);
        }
        bytes.extend(rex);
        bytes.extend(opcode);
        bytes.extend(tail);
        bytes.truncate(cut);
        let (bytes, available) = (padded(&bytes), bytes.len());
        let rip = u64::from(rip);
        if let Some(found) = quick::decode(&bytes, available, rip, code_width) {
            prop_assert_eq!(Ok(found), full::decode(&bytes, available, rip, code_width));
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        bytes in any::<[u8; 16]>(),
        available in 0usize..20,
        rip in any::<u64>(),
        code_width in prop_oneof![Just(Width::Word), Just(Width::Dword), Just(Width::Qword)],
    ) {
        if let Ok(found) = decode(&bytes, available, rip, code_width) {
            prop_assert!(usize::from(found.length) <= available.min(MAX_LENGTH));
        }
    }
}

#[test]
fn moves_by_vex_are_those_of_sse_with_a_width() {
    let all = VectorPart::All(Alignment::Any);
    let natural = VectorPart::All(Alignment::Natural);
    for (bytes, part, width, number, to_memory) in [
        // vmovdqu xmm9, [rdi]
        (
            &[0xc5, 0x7a, 0x6f, 0x0f][..],
            all,
            VectorWidth::Xmm,
            9,
            false,
        ),
        // vmovdqu [rdi], ymm1
        (&[0xc5, 0xfe, 0x7f, 0x0f], all, VectorWidth::Ymm, 1, true),
        // vmovaps ymm1, [r8 + r9 * 4]
        (
            &[0xc4, 0x81, 0x7c, 0x28, 0x0c, 0x88],
            natural,
            VectorWidth::Ymm,
            1,
            false,
        ),
        // vmovntdq [rdi], xmm1
        (
            &[0xc5, 0xf9, 0xe7, 0x0f],
            natural,
            VectorWidth::Xmm,
            1,
            true,
        ),
        // vmovntdqa xmm1, [rdi]
        (
            &[0xc4, 0xe2, 0x79, 0x2a, 0x0f],
            natural,
            VectorWidth::Xmm,
            1,
            false,
        ),
        // vmovd xmm1, dword ptr [rdi]
        (
            &[0xc5, 0xf9, 0x6e, 0x0f],
            VectorPart::Low4,
            VectorWidth::Xmm,
            1,
            false,
        ),
        // vmovq xmm1, qword ptr [rdi], in both of its forms
        (
            &[0xc5, 0xfa, 0x7e, 0x0f],
            VectorPart::Low8,
            VectorWidth::Xmm,
            1,
            false,
        ),
        (
            &[0xc4, 0xe1, 0xf9, 0x6e, 0x0f],
            VectorPart::Low8,
            VectorWidth::Xmm,
            1,
            false,
        ),
        // vmovss [rdi], xmm1
        (
            &[0xc5, 0xfa, 0x11, 0x0f],
            VectorPart::Low4,
            VectorWidth::Xmm,
            1,
            true,
        ),
    ] {
        let instruction = long(bytes);
        assert_eq!(
            instruction.operation,
            Operation::VexMove(part, width),
            "{bytes:02x?}"
        );
        assert_eq!(usize::from(instruction.length), bytes.len());
        let vector = Operand::Vector(number);
        let wanted = if to_memory {
            (Operand::Memory, vector)
        } else {
            (vector, Operand::Memory)
        };
        assert_eq!((instruction.destination, instruction.source), wanted);
    }
    let indexed = long(&[0xc4, 0x81, 0x7c, 0x28, 0x0c, 0x88]).memory;
    assert_eq!(
        (indexed.base, indexed.index, indexed.scale),
        (Some(Gpr::R8), Some(Gpr::R9), 2)
    );
    // vmovdqu xmm1, gs:[rip + 0x100], in both spellings: from the end of the instruction.
    let short = long(&[0x65, 0xc5, 0xfa, 0x6f, 0x0d, 0x00, 0x01, 0x00, 0x00]);
    assert_eq!(
        (short.memory.displacement, short.memory.segment),
        (0x1109, SegmentName::Gs)
    );
    let longer = long(&[0xc4, 0xe1, 0x7a, 0x6f, 0x0d, 0x00, 0x01, 0x00, 0x00]);
    assert_eq!((longer.memory.displacement, longer.length), (0x1109, 9));
}

#[test]
fn other_instructions_by_vex_are_not_known() {
    for bytes in [
        // vmovhps xmm1, xmm2, [rdi]; vaddps xmm1, xmm2, [rdi]; vmovdqa without its prefix; vmovd ymm.
        &[0xc5, 0xe8, 0x16, 0x0f][..],
        &[0xc5, 0xe8, 0x58, 0x0f],
        &[0xc5, 0xf8, 0x6f, 0x0f],
        &[0xc5, 0xfd, 0x6e, 0x0f],
        // Registers only.
        &[0xc5, 0xfa, 0x6f, 0xca],
    ] {
        assert!(decode_in(Width::Qword, bytes).is_err(), "{bytes:02x?}");
    }
}

#[test]
fn lds_and_les_are_not_taken_for_vex() {
    let les = decode_in(Width::Dword, &[0xc4, 0x0f]).unwrap();
    assert_eq!(les.operation, Operation::LoadFarPointer(SegmentName::Es));
    assert_eq!((les.width, les.length), (Width::Dword, 2));
    // vmovdqu xmm1, [edi] in 32-bit code.
    let vex = decode_in(Width::Dword, &[0xc5, 0xfa, 0x6f, 0x0f]).unwrap();
    let all = VectorPart::All(Alignment::Any);
    assert_eq!(vex.operation, Operation::VexMove(all, VectorWidth::Xmm));
}

#[test]
fn every_cut_of_a_move_by_vex_is_incomplete_or_unknown() {
    let bytes = [0x65, 0xc4, 0x81, 0x7c, 0x28, 0x8c, 0x88, 1, 2, 3, 4];
    for available in 0..bytes.len() {
        assert!(decode_in(Width::Qword, &bytes[..available]).is_err());
    }
    assert!(decode_in(Width::Qword, &bytes).is_ok());
}

#[test]
fn system_instructions_with_memory_operands_are_known() {
    use DescriptorTableInstruction as Table;
    for (bytes, operation) in [
        (
            &[0x0f, 0x01, 0x07][..],
            Operation::DescriptorTable(Table::Sgdt),
        ),
        (&[0x0f, 0x01, 0x1f], Operation::DescriptorTable(Table::Lidt)),
        (&[0x0f, 0x00, 0x17], Operation::DescriptorTable(Table::Lldt)),
        (&[0x0f, 0x00, 0x1f], Operation::DescriptorTable(Table::Ltr)),
        (&[0x0f, 0x01, 0x27], Operation::StoreMachineStatus),
        (&[0x0f, 0x01, 0x37], Operation::LoadMachineStatus),
        (&[0x0f, 0xae, 0x3f], Operation::CacheLine),
        (&[0x8e, 0x1f], Operation::LoadSegment),
        (&[0x48, 0xff, 0x2f], Operation::FarJump),
        (&[0xff, 0x1f], Operation::FarCall),
        (
            &[0x0f, 0xb2, 0x07],
            Operation::LoadFarPointer(SegmentName::Ss),
        ),
        (&[0x0f, 0x6f, 0x0f], Operation::MmxMove),
    ] {
        assert_eq!(long(bytes).operation, operation, "{bytes:02x?}");
    }
    assert_eq!(long(&[0x48, 0xff, 0x2f]).width, Width::Qword);
    assert_eq!(long(&[0xff, 0x1f]).width, Width::Dword);
    let lgdt = |width, bytes: &[u8]| decode_in(width, bytes).unwrap().width;
    assert_eq!(lgdt(Width::Word, &[0x0f, 0x01, 0x17]), Width::Word);
    assert_eq!(lgdt(Width::Word, &[0x66, 0x0f, 0x01, 0x17]), Width::Dword);
}
