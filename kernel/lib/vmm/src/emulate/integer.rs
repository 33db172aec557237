//! Multiplication, division, double shifts and bit scans (SDM vol. 2, the instructions' own pages).
//!
//! Flags that the manual leaves undefined stay as they are.

use arch::decode::{ScanOperation, ShiftDirection, Sign};
use arch::{Rflags, Width};

use super::arithmetic::{STATUS, sign_zero_parity, top, with};

/// The low and the high half of a product, and RFLAGS.
pub(crate) fn multiply(
    sign: Sign,
    width: Width,
    a: u64,
    b: u64,
    rflags: Rflags,
) -> (u64, u64, Rflags) {
    let bits = width.bits();
    let (product, fits) = match sign {
        Sign::Unsigned => {
            let product = u128::from(width.truncate(a)) * u128::from(width.truncate(b));
            (product, product >> bits == 0)
        }
        Sign::Signed => {
            let product = signed(width, a) * signed(width, b);
            (product as u128, product == signed(width, product as u64))
        }
    };
    let (low, high) = (product as u64, (product >> bits) as u64);
    let rflags = with(rflags, &[(Rflags::CF, !fits), (Rflags::OF, !fits)]);
    (width.truncate(low), width.truncate(high), rflags)
}

/// Quotient and remainder of the double-width dividend; `None` where that is #DE.
pub(crate) fn divide(
    sign: Sign,
    width: Width,
    low: u64,
    high: u64,
    divisor: u64,
) -> Option<(u64, u64)> {
    let bits = width.bits();
    let low = u128::from(width.truncate(low));
    match sign {
        Sign::Unsigned => {
            let dividend = u128::from(width.truncate(high)) << bits | low;
            let divisor = u128::from(width.truncate(divisor));
            let quotient = dividend.checked_div(divisor)?;
            let remainder = dividend.checked_rem(divisor)?;
            (quotient <= u128::from(width.mask())).then_some((quotient as u64, remainder as u64))
        }
        Sign::Signed => {
            let dividend = signed(width, high) << bits | low as i128;
            let divisor = signed(width, divisor);
            let quotient = dividend.checked_div(divisor)?;
            let remainder = dividend.checked_rem(divisor)?;
            (quotient == signed(width, quotient as u64)).then_some((
                width.truncate(quotient as u64),
                width.truncate(remainder as u64),
            ))
        }
    }
}

/// Result and RFLAGS of SHLD or SHRD: `a` shifted, with bits of `b` coming in.
pub(crate) fn double_shift(
    direction: ShiftDirection,
    width: Width,
    a: u64,
    b: u64,
    count: u64,
    rflags: Rflags,
) -> (u64, Rflags) {
    let bits = width.bits();
    let count = count as u32 & if width == Width::Qword { 63 } else { 31 };
    let (a, b) = (width.truncate(a), width.truncate(b));
    if count == 0 {
        return (a, rflags);
    }
    // Beyond the width, which only words come to, the manual leaves the result undefined: there `b` is shifted, and
    // bits of `a` come in again.
    let (a, b, count) = if count > bits {
        (b, a, count - bits)
    } else {
        (a, b, count)
    };
    let (result, out) = match direction {
        ShiftDirection::Left => (
            shift_left(a, count) | b >> (bits - count),
            a >> (bits - count),
        ),
        ShiftDirection::Right => (
            a.checked_shr(count).unwrap_or(0) | shift_left(b, bits - count),
            a >> (count - 1),
        ),
    };
    let result = width.truncate(result);
    let kept = rflags - (STATUS - Rflags::AF - Rflags::OF);
    let mut rflags = kept | sign_zero_parity(width, result);
    rflags.set(Rflags::CF, out & 1 != 0);
    if count == 1 {
        rflags.set(Rflags::OF, top(width, a ^ result));
    }
    (result, rflags)
}

fn shift_left(value: u64, count: u32) -> u64 {
    value.checked_shl(count).unwrap_or(0)
}

/// What a scan of `source` puts into its destination, if anything, and RFLAGS.
pub(crate) fn scan(
    operation: ScanOperation,
    width: Width,
    source: u64,
    rflags: Rflags,
) -> (Option<u64>, Rflags) {
    let source = width.truncate(source);
    let zero = source == 0;
    match operation {
        ScanOperation::Count => (
            Some(u64::from(source.count_ones())),
            with(rflags - STATUS, &[(Rflags::ZF, zero)]),
        ),
        ScanOperation::Forward => (
            (!zero).then(|| u64::from(source.trailing_zeros())),
            with(rflags, &[(Rflags::ZF, zero)]),
        ),
        ScanOperation::Reverse => (
            (!zero).then(|| 63 - u64::from(source.leading_zeros())),
            with(rflags, &[(Rflags::ZF, zero)]),
        ),
    }
}

/// The value at this width with its sign.
fn signed(width: Width, value: u64) -> i128 {
    i128::from(width.sign_extend(value) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn widths() -> impl Strategy<Value = Width> {
        prop_oneof![
            Just(Width::Byte),
            Just(Width::Word),
            Just(Width::Dword),
            Just(Width::Qword)
        ]
    }

    proptest! {
        #[test]
        fn quotient_and_remainder_make_the_dividend(
            width in widths(), low: u64, high: u64, divisor: u64, signed_too: bool,
        ) {
            let sign = if signed_too { Sign::Signed } else { Sign::Unsigned };
            let Some((quotient, remainder)) = divide(sign, width, low, high % 7, divisor) else {
                return Ok(());
            };
            let (product, upper, _) = multiply(sign, width, quotient, divisor, Rflags::empty());
            let join = |low: u64, high: u64| u128::from(high) << width.bits() | u128::from(low);
            let extended = match sign {
                Sign::Signed => signed(width, remainder) as u128,
                Sign::Unsigned => u128::from(remainder),
            };
            let mask = u128::MAX >> (128 - 2 * width.bits());
            let sum = join(product, upper).wrapping_add(extended) & mask;
            prop_assert_eq!(sum, join(width.truncate(low), width.truncate(high % 7)));
        }

        #[test]
        fn a_double_shift_of_a_value_with_itself_is_a_rotation(width in widths(), a: u64, count in 1u64..16) {
            prop_assume!(width != Width::Byte);
            let a = width.truncate(a);
            let bits = u64::from(width.bits());
            let rotated = width.truncate(a << count | a >> (bits - count));
            let (left, _) = double_shift(ShiftDirection::Left, width, a, a, count, Rflags::empty());
            let (right, _) = double_shift(ShiftDirection::Right, width, rotated, rotated, count, Rflags::empty());
            prop_assert_eq!((left, right), (rotated, a));
        }
    }

    #[test]
    fn a_division_that_does_not_fit_is_an_error() {
        assert_eq!(divide(Sign::Unsigned, Width::Dword, 1, 0, 0), None);
        assert_eq!(divide(Sign::Unsigned, Width::Dword, 0, 1, 1), None);
        assert_eq!(divide(Sign::Signed, Width::Byte, 0, 0xff, 0xfe), None);
        assert_eq!(
            divide(Sign::Signed, Width::Qword, 0, 1 << 63, u64::MAX),
            None
        );
        assert_eq!(
            divide(Sign::Signed, Width::Byte, 0xf9, 0xff, 2),
            Some((0xfd, 0xff))
        );
    }

    #[test]
    fn a_product_that_needs_its_upper_half_sets_carry_and_overflow() {
        let both = Rflags::CF | Rflags::OF;
        let product = |sign, a, b| multiply(sign, Width::Byte, a, b, Rflags::empty());
        assert_eq!(product(Sign::Unsigned, 16, 16), (0, 1, both));
        assert_eq!(product(Sign::Unsigned, 15, 17), (255, 0, Rflags::empty()));
        assert_eq!(
            product(Sign::Signed, 0xff, 0x7f),
            (0x81, 0xff, Rflags::empty())
        );
        assert_eq!(product(Sign::Signed, 0x80, 0xff), (0x80, 0, both));
    }

    #[test]
    fn shld_and_shrd_set_the_flags_of_the_manual() {
        let (result, rflags) = double_shift(
            ShiftDirection::Left,
            Width::Dword,
            0x8000_0001,
            0x8000_0000,
            1,
            Rflags::empty(),
        );
        assert_eq!((result, rflags), (3, Rflags::CF | Rflags::OF | Rflags::PF));
        let (result, rflags) =
            double_shift(ShiftDirection::Right, Width::Word, 2, 1, 2, Rflags::AF);
        assert_eq!(
            (result, rflags),
            (0x4000, Rflags::CF | Rflags::PF | Rflags::AF)
        );
        let (result, rflags) =
            double_shift(ShiftDirection::Left, Width::Qword, 5, 6, 64, Rflags::CF);
        assert_eq!((result, rflags), (5, Rflags::CF));
    }

    #[test]
    fn scans_tell_of_a_zero_by_the_zero_flag() {
        let zf = Rflags::ZF;
        assert_eq!(
            scan(ScanOperation::Forward, Width::Word, 0x1_0000, zf),
            (None, zf)
        );
        assert_eq!(
            scan(ScanOperation::Forward, Width::Word, 0x60, zf),
            (Some(5), Rflags::empty())
        );
        assert_eq!(
            scan(ScanOperation::Reverse, Width::Qword, 0x60, zf),
            (Some(6), Rflags::empty())
        );
        assert_eq!(
            scan(ScanOperation::Count, Width::Byte, 0x1ff, STATUS),
            (Some(8), Rflags::empty())
        );
    }
}
