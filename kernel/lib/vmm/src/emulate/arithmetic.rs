//! What arithmetic does to values and flags (SDM vol. 2, the instructions' own pages; vol. 1, Status Flags).
//!
//! Operands are cut to the width by the callee. Flags that the manual leaves undefined get the value that
//! they have on Intel's processors: AF is cleared by logic, other flags stay.

use arch::decode::{BinaryOperation, Condition, ShiftOperation, UnaryOperation};
use arch::{Rflags, Width};

/// CF, PF, AF, ZF, SF and OF.
pub(crate) const STATUS: Rflags = Rflags::CF
    .union(Rflags::PF)
    .union(Rflags::AF)
    .union(Rflags::ZF)
    .union(Rflags::SF)
    .union(Rflags::OF);

/// Result and RFLAGS of `a OP b`. The result of CMP and TEST is of no use.
#[inline]
pub(crate) fn binary(
    operation: BinaryOperation,
    width: Width,
    a: u64,
    b: u64,
    rflags: Rflags,
) -> (u64, Rflags) {
    let (a, b) = (width.truncate(a), width.truncate(b));
    let carry = u64::from(rflags.contains(Rflags::CF));
    let (result, status) = match operation {
        BinaryOperation::Add => add(width, a, b, 0),
        BinaryOperation::Adc => add(width, a, b, carry),
        BinaryOperation::Sub | BinaryOperation::Cmp => subtract(width, a, b, 0),
        BinaryOperation::Sbb => subtract(width, a, b, carry),
        BinaryOperation::And | BinaryOperation::Test => logic(width, a & b),
        BinaryOperation::Or => logic(width, a | b),
        BinaryOperation::Xor => logic(width, a ^ b),
    };
    (result, (rflags - STATUS) | status)
}

/// Result and RFLAGS of an operation on one operand.
pub(crate) fn unary(
    operation: UnaryOperation,
    width: Width,
    a: u64,
    rflags: Rflags,
) -> (u64, Rflags) {
    let a = width.truncate(a);
    let keep_carry = |(result, status): (u64, Rflags)| {
        (
            result,
            (rflags - (STATUS - Rflags::CF)) | (status - Rflags::CF),
        )
    };
    match operation {
        UnaryOperation::Not => (width.truncate(!a), rflags),
        UnaryOperation::Neg => {
            let (result, status) = subtract(width, 0, a, 0);
            (result, (rflags - STATUS) | status)
        }
        UnaryOperation::Inc => keep_carry(add(width, a, 1, 0)),
        UnaryOperation::Dec => keep_carry(subtract(width, a, 1, 0)),
    }
}

/// Result and RFLAGS of a shift or rotation by the low bits of `count`.
pub(crate) fn shift(
    operation: ShiftOperation,
    width: Width,
    a: u64,
    count: u64,
    rflags: Rflags,
) -> (u64, Rflags) {
    let a = width.truncate(a);
    let bits = width.bits();
    let count = (count & if width == Width::Qword { 63 } else { 31 }) as u32;
    if count == 0 {
        return (a, rflags);
    }
    let top = |value: u64| value >> (bits - 1) & 1 != 0;
    let bit = |value: u64, bit: u32| value.checked_shr(bit).unwrap_or(0) & 1 != 0;
    match operation {
        ShiftOperation::Rol | ShiftOperation::Ror => {
            let by = count % bits;
            let by = if operation == ShiftOperation::Rol {
                by
            } else {
                (bits - by) % bits
            };
            let result = match by {
                0 => a,
                _ => width.truncate(a << by | a >> (bits - by)),
            };
            let (carry, overflow) = if operation == ShiftOperation::Rol {
                (bit(result, 0), top(result) != bit(result, 0))
            } else {
                (top(result), top(result) != bit(result, bits - 2))
            };
            (
                result,
                with(rflags, &[(Rflags::CF, carry), (Rflags::OF, overflow)]),
            )
        }
        ShiftOperation::Rcl | ShiftOperation::Rcr => {
            let mut carry = rflags.contains(Rflags::CF);
            let mut result = a;
            // The rotation is through one bit more than the operand has.
            for _ in 0..count % (bits + 1) {
                let carry_in = u64::from(carry);
                if operation == ShiftOperation::Rcl {
                    carry = top(result);
                    result = width.truncate(result << 1 | carry_in);
                } else {
                    carry = result & 1 != 0;
                    result = result >> 1 | carry_in << (bits - 1);
                }
            }
            let overflow = if operation == ShiftOperation::Rcl {
                top(result) != carry
            } else {
                top(result) != bit(result, bits - 2)
            };
            (
                result,
                with(rflags, &[(Rflags::CF, carry), (Rflags::OF, overflow)]),
            )
        }
        ShiftOperation::Shl | ShiftOperation::Shr | ShiftOperation::Sar => {
            let (result, carry, overflow) = match operation {
                ShiftOperation::Shl => {
                    let result = width.truncate(a.checked_shl(count).unwrap_or(0));
                    let carry = count <= bits && bit(a, bits - count);
                    (result, carry, top(result) != carry)
                }
                ShiftOperation::Sar => {
                    let signed = width.sign_extend(a) as i64;
                    let last = signed >> (count - 1).min(63);
                    (width.truncate((last >> 1) as u64), last & 1 != 0, false)
                }
                _ => (a.checked_shr(count).unwrap_or(0), bit(a, count - 1), top(a)),
            };
            let status = logic(width, result).1;
            let rflags = (rflags - STATUS) | status;
            (
                result,
                with(rflags, &[(Rflags::CF, carry), (Rflags::OF, overflow)]),
            )
        }
    }
}

/// Whether the condition of SETcc or CMOVcc holds (SDM vol. 1, EFLAGS Condition Codes).
pub(crate) fn holds(condition: Condition, rflags: Rflags) -> bool {
    let has = |flag| rflags.contains(flag);
    let holds = match condition.0 >> 1 & 7 {
        0 => has(Rflags::OF),
        1 => has(Rflags::CF),
        2 => has(Rflags::ZF),
        3 => has(Rflags::CF) || has(Rflags::ZF),
        4 => has(Rflags::SF),
        5 => has(Rflags::PF),
        6 => has(Rflags::SF) != has(Rflags::OF),
        _ => has(Rflags::ZF) || has(Rflags::SF) != has(Rflags::OF),
    };
    holds != (condition.0 & 1 != 0)
}

fn add(width: Width, a: u64, b: u64, carry: u64) -> (u64, Rflags) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = width.truncate(sum as u64);
    let mut status = sign_zero_parity(width, result);
    status.set(Rflags::CF, sum >> width.bits() != 0);
    status.set(Rflags::AF, (a ^ b ^ result) & 0x10 != 0);
    status.set(Rflags::OF, top(width, (a ^ result) & (b ^ result)));
    (result, status)
}

fn subtract(width: Width, a: u64, b: u64, borrow: u64) -> (u64, Rflags) {
    let result = width.truncate(a.wrapping_sub(b).wrapping_sub(borrow));
    let mut status = sign_zero_parity(width, result);
    status.set(
        Rflags::CF,
        u128::from(a) < u128::from(b) + u128::from(borrow),
    );
    status.set(Rflags::AF, (a ^ b ^ result) & 0x10 != 0);
    status.set(Rflags::OF, top(width, (a ^ b) & (a ^ result)));
    (result, status)
}

fn logic(width: Width, result: u64) -> (u64, Rflags) {
    (result, sign_zero_parity(width, result))
}

pub(super) fn sign_zero_parity(width: Width, result: u64) -> Rflags {
    let mut status = Rflags::empty();
    status.set(Rflags::ZF, result == 0);
    status.set(Rflags::SF, top(width, result));
    status.set(Rflags::PF, (result as u8).count_ones().is_multiple_of(2));
    status
}

pub(super) const fn top(width: Width, value: u64) -> bool {
    value >> (width.bits() - 1) & 1 != 0
}

pub(super) fn with(mut rflags: Rflags, flags: &[(Rflags, bool)]) -> Rflags {
    for &(flag, value) in flags {
        rflags.set(flag, value);
    }
    rflags
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn widths() -> impl Strategy<Value = Width> {
        prop_oneof![
            Just(Width::Byte),
            Just(Width::Word),
            Just(Width::Dword),
            Just(Width::Qword)
        ]
    }

    fn values() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0u64..20,
            Just(u64::MAX),
            Just(0x7f),
            Just(0x80),
            Just(0x7fff_ffff),
            Just(1 << 31),
            Just(1 << 63)
        ]
    }

    /// An adder of single bits, as a book on logic design has it: sum, and the carry into each bit.
    fn ripple(width: Width, a: u64, b: u64, carry_in: bool) -> (u64, Vec<bool>) {
        let mut carries = alloc::vec![carry_in];
        let mut sum = 0;
        for bit in 0..width.bits() {
            let (x, y, c) = (a >> bit & 1 == 1, b >> bit & 1 == 1, carries[bit as usize]);
            sum |= u64::from(x ^ y ^ c) << bit;
            carries.push(u8::from(x) + u8::from(y) + u8::from(c) >= 2);
        }
        (sum, carries)
    }

    fn expected(width: Width, result: u64, carries: &[bool], borrow: bool) -> Rflags {
        let bits = width.bits() as usize;
        let mut flags = Rflags::empty();
        flags.set(Rflags::CF, carries[bits] != borrow);
        flags.set(Rflags::AF, carries[4] != borrow);
        flags.set(Rflags::OF, carries[bits] != carries[bits - 1]);
        flags.set(Rflags::ZF, (0..bits).all(|bit| result >> bit & 1 == 0));
        flags.set(Rflags::SF, result >> (bits - 1) & 1 == 1);
        flags.set(
            Rflags::PF,
            (0..8).filter(|bit| result >> bit & 1 == 1).count() % 2 == 0,
        );
        flags
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn sums_and_differences_agree_with_an_adder_of_single_bits(
            width in widths(), a in values(), b in values(), carry in any::<bool>()
        ) {
            let mut before = Rflags::ONE | Rflags::IF | Rflags::OF | Rflags::AF;
            before.set(Rflags::CF, carry);
            let others = before - STATUS;
            let cases = [
                (BinaryOperation::Add, b, false, false),
                (BinaryOperation::Adc, b, carry, false),
                // a - b is a + !b + 1.
                (BinaryOperation::Sub, !b, true, true),
                (BinaryOperation::Cmp, !b, true, true),
                (BinaryOperation::Sbb, !b, !carry, true),
            ];
            for (operation, addend, carry_in, borrow) in cases {
                let (sum, carries) = ripple(width, a, addend, carry_in);
                let (result, flags) = binary(operation, width, a, b, before);
                prop_assert_eq!(result, sum, "{:?}", operation);
                prop_assert_eq!(flags, others | expected(width, sum, &carries, borrow));
            }
            let (sum, carries) = ripple(width, a, 0, true);
            let inc = expected(width, sum, &carries, false) - Rflags::CF;
            prop_assert_eq!(
                unary(UnaryOperation::Inc, width, a, before),
                (sum, others | inc | before & Rflags::CF)
            );
            let (difference, carries) = ripple(width, a, !1, true);
            let dec = expected(width, difference, &carries, true) - Rflags::CF;
            prop_assert_eq!(
                unary(UnaryOperation::Dec, width, a, before),
                (difference, others | dec | before & Rflags::CF)
            );
            let (negative, carries) = ripple(width, 0, !a, true);
            prop_assert_eq!(
                unary(UnaryOperation::Neg, width, a, before),
                (negative, others | expected(width, negative, &carries, true))
            );
            prop_assert_eq!(
                unary(UnaryOperation::Not, width, a, before),
                (width.truncate(!a), before)
            );
        }

        #[test]
        fn shifts_by_many_are_shifts_by_one_many_times(
            width in widths(), a in values(), count in 1u64..64, carry in any::<bool>()
        ) {
            let mut before = Rflags::ONE | Rflags::AF;
            before.set(Rflags::CF, carry);
            let masked = if width == Width::Qword { count } else { count & 31 };
            for operation in [
                ShiftOperation::Rol, ShiftOperation::Ror, ShiftOperation::Rcl,
                ShiftOperation::Rcr, ShiftOperation::Shl, ShiftOperation::Shr, ShiftOperation::Sar,
            ] {
                let (mut value, mut flags) = (width.truncate(a), before);
                for _ in 0..masked {
                    (value, flags) = shift(operation, width, value, 1, flags);
                }
                let (result, all) = shift(operation, width, a, count, before);
                prop_assert_eq!(result, value, "{:?}", operation);
                // Beyond the operand's width SHL and SHR leave CF undefined; else it is the last bit out.
                if masked <= u64::from(width.bits()) {
                    prop_assert_eq!(all & Rflags::CF, flags & Rflags::CF, "{:?}", operation);
                }
                let zsp = Rflags::ZF | Rflags::SF | Rflags::PF;
                prop_assert_eq!(all & zsp, flags & zsp, "{:?}", operation);
            }
        }
    }

    #[test]
    fn shifts_by_one_set_the_flags_of_the_manual() {
        let none = Rflags::empty();
        let cf_of = |(result, flags): (u64, Rflags)| {
            (
                result,
                flags.contains(Rflags::CF),
                flags.contains(Rflags::OF),
            )
        };
        let one = |operation, a, flags| cf_of(shift(operation, Width::Byte, a, 1, flags));
        assert_eq!(one(ShiftOperation::Shl, 0x81, none), (0x02, true, true));
        assert_eq!(one(ShiftOperation::Shl, 0xc1, none), (0x82, true, false));
        assert_eq!(one(ShiftOperation::Shr, 0x81, none), (0x40, true, true));
        assert_eq!(one(ShiftOperation::Shr, 0x40, none), (0x20, false, false));
        assert_eq!(one(ShiftOperation::Sar, 0x81, none), (0xc0, true, false));
        assert_eq!(one(ShiftOperation::Rol, 0x81, none), (0x03, true, true));
        assert_eq!(one(ShiftOperation::Rol, 0x40, none), (0x80, false, true));
        assert_eq!(one(ShiftOperation::Ror, 0x01, none), (0x80, true, true));
        assert_eq!(one(ShiftOperation::Ror, 0x81, none), (0xc0, true, false));
        assert_eq!(
            one(ShiftOperation::Rcl, 0x40, Rflags::CF),
            (0x81, false, true)
        );
        assert_eq!(
            one(ShiftOperation::Rcr, 0x02, Rflags::CF),
            (0x81, false, true)
        );
        assert_eq!(
            shift(ShiftOperation::Shl, Width::Dword, 5, 32, Rflags::CF),
            (5, Rflags::CF)
        );
    }

    #[test]
    fn logic_clears_carry_and_overflow() {
        let before = STATUS | Rflags::IF;
        assert_eq!(
            binary(
                BinaryOperation::And,
                Width::Word,
                0x1_8003,
                0xffff_8001,
                before
            ),
            (0x8001, Rflags::IF | Rflags::SF)
        );
        assert_eq!(
            binary(BinaryOperation::Xor, Width::Byte, 0x155, 0x55, before),
            (0, Rflags::IF | Rflags::ZF | Rflags::PF)
        );
        assert_eq!(
            binary(BinaryOperation::Or, Width::Byte, 1, 2, before),
            (3, Rflags::IF | Rflags::PF)
        );
    }

    #[test]
    fn conditions_are_those_of_the_manuals_table() {
        // After comparing the first number with the second, as signed and unsigned bytes.
        for (a, b) in [
            (1u8, 2u8),
            (2, 1),
            (5, 5),
            (0x80, 1),
            (1, 0x80),
            (0xff, 0x7f),
        ] {
            let (_, flags) = binary(
                BinaryOperation::Cmp,
                Width::Byte,
                a.into(),
                b.into(),
                Rflags::empty(),
            );
            let (sa, sb) = (a as i8, b as i8);
            let table = [
                (2, a < b),
                (3, a >= b),
                (4, a == b),
                (5, a != b),
                (6, a <= b),
                (7, a > b),
                (12, sa < sb),
                (13, sa >= sb),
                (14, sa <= sb),
                (15, sa > sb),
                (0, sa.checked_sub(sb).is_none()),
                (1, sa.checked_sub(sb).is_some()),
                (8, sa.wrapping_sub(sb) < 0),
                (9, sa.wrapping_sub(sb) >= 0),
            ];
            for (number, expected) in table {
                assert_eq!(
                    holds(Condition(number), flags),
                    expected,
                    "{a} {b} {number}"
                );
            }
        }
    }
}
