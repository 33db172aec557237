//! How a machine is switched off, as its AML says it.

/// SLP_TYP for both PM1 control registers out of `Name (\_S5, Package () {a, b, ...})` (ACPI specification,
/// `\_S5` Object and AML Byte Stream Byte Values), without an interpreter: firmware that computes it is not
/// known. `None` where there is no such object.
pub fn s5_sleep_types(aml: &[u8]) -> Option<[u8; 2]> {
    let mut rest = aml;
    loop {
        let at = rest.windows(NAME_BYTES).position(|name| name == b"_S5_")?;
        let (before, name) = rest.split_at_checked(at)?;
        rest = name.get(NAME_BYTES..)?;
        if (before.ends_with(&[NAME]) || before.ends_with(&[NAME, ROOT]))
            && let Some(types) = package(rest)
        {
            return Some(types);
        }
    }
}

const NAME_BYTES: usize = 4;
const NAME: u8 = 0x08;
const ROOT: u8 = b'\\';
const PACKAGE: u8 = 0x12;

fn package(aml: &[u8]) -> Option<[u8; 2]> {
    let mut bytes = aml.iter().copied();
    if bytes.next()? != PACKAGE {
        return None;
    }
    // The first byte of the length says how many more there are. Then comes the number of elements.
    for _ in 0..bytes.next()? >> 6 {
        bytes.next()?;
    }
    let elements = bytes.next()?;
    let first = number(&mut bytes)?;
    let second = if elements > 1 {
        number(&mut bytes).unwrap_or(first)
    } else {
        first
    };
    Some([first & 7, second & 7])
}

/// A constant; SLP_TYP has three bits, so the lowest byte is enough.
fn number(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let more = match bytes.next()? {
        zero_or_one @ (0 | 1) => return Some(zero_or_one),
        0x0a => 0,
        0x0b => 1,
        0x0c => 3,
        _ => return None,
    };
    let low = bytes.next()?;
    for _ in 0..more {
        bytes.next()?;
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn constants_in_every_form_are_understood() {
        // Bochs and SeaBIOS: Package (4) {Zero, Zero, Zero, Zero}.
        assert_eq!(
            s5_sleep_types(b"\x08_S5_\x12\x06\x04\0\0\0\0"),
            Some([0, 0])
        );
        // Many laptops: Package (4) {0x07, 0x07, Zero, Zero}, by its full name.
        assert_eq!(
            s5_sleep_types(b"..\x08\\_S5_\x12\x08\x04\x0a\x07\x0a\x07\0\0"),
            Some([7, 7])
        );
        assert_eq!(
            s5_sleep_types(b"\x08_S5_\x12\x0a\x02\x0b\x05\0\x0c\x03\0\0\0"),
            Some([5, 3])
        );
        assert_eq!(
            s5_sleep_types(b"\x08_S5_\x12\x41\x01\x04\x01\x0a\x05"),
            Some([1, 5])
        );
    }

    #[test]
    fn one_element_counts_for_both_registers() {
        assert_eq!(
            s5_sleep_types(b"\x08_S5_\x12\x04\x01\x0a\x05"),
            Some([5, 5])
        );
    }

    #[test]
    fn a_mention_that_is_no_definition_is_passed_over() {
        assert_eq!(
            s5_sleep_types(b"_S5_\x5c_S5_\x08_S5_\x12\x06\x04\x01\x01\0\0"),
            Some([1, 1])
        );
        assert_eq!(s5_sleep_types(b"\x08_S5_\x14\x06"), None);
        assert_eq!(s5_sleep_types(b""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(before in prop::collection::vec(any::<u8>(), 0..40), after in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut aml: Vec<u8> = before;
            aml.extend(b"\x08_S5_\x12");
            aml.extend(after);
            let types = s5_sleep_types(&aml);
            prop_assert!(types.is_none_or(|types| types.iter().all(|&kind| kind < 8)));
        }
    }
}
