//! Memory-type range registers, as values only.
//!
//! The guest's RAM is write-back and its devices are emulated, whatever it writes here: the registers are
//! there because operating systems read them, and they keep to the manual's rules about what may be written
//! (SDM vol. 3, Memory Type Range Registers).

use arch::{msr, mtrr};
use memory::{GuestPhys, Range};

/// Pairs of base and mask.
const VARIABLE_RANGES: usize = 8;
const FIXED_RANGES: usize = 11;
/// Eight variable ranges, fixed ranges, write combining.
const CAPABILITY: u64 = VARIABLE_RANGES as u64 | 1 << 8 | 1 << 10;

const FIXED_ENABLE: u64 = 1 << 10;
const ENABLE: u64 = 1 << 11;
const VALID: u64 = 1 << 11;

const UNCACHEABLE: u64 = 0;
const WRITE_PROTECTED: u64 = 5;
const WRITE_BACK: u64 = 6;

/// All of one vCPU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mtrrs {
    default_type: u64,
    fixed: [u64; FIXED_RANGES],
    variable: [u64; 2 * VARIABLE_RANGES],
}

/// Where an MSR's value is kept.
enum Slot {
    Capability,
    DefaultType,
    Fixed(usize),
    Base(usize),
    Mask(usize),
}

fn slot(index: u32) -> Option<Slot> {
    const FIRST_VARIABLE: u32 = msr::IA32_MTRR_PHYSBASE0;
    const LAST_VARIABLE: u32 = FIRST_VARIABLE + 2 * VARIABLE_RANGES as u32 - 1;
    Some(match index {
        msr::IA32_MTRRCAP => Slot::Capability,
        msr::IA32_MTRR_DEF_TYPE => Slot::DefaultType,
        FIRST_VARIABLE..=LAST_VARIABLE => {
            let number = (index - FIRST_VARIABLE) as usize;
            if number.is_multiple_of(2) {
                Slot::Base(number)
            } else {
                Slot::Mask(number)
            }
        }
        msr::IA32_MTRR_FIX64K_00000 => Slot::Fixed(0),
        msr::IA32_MTRR_FIX16K_80000 => Slot::Fixed(1),
        msr::IA32_MTRR_FIX16K_A0000 => Slot::Fixed(2),
        msr::IA32_MTRR_FIX4K_C0000..=msr::IA32_MTRR_FIX4K_F8000 => {
            Slot::Fixed((index - msr::IA32_MTRR_FIX4K_C0000) as usize + 3)
        }
        _ => return None,
    })
}

impl Mtrrs {
    /// What firmware leaves behind: RAM write-back, the legacy video window and `holes` (such as the region
    /// for PCI devices) uncacheable, the space of option ROMs and firmware write-protected.
    ///
    /// A hole that is not a power of two in size, or not aligned to it, is covered by several ranges as far
    /// as there are any.
    pub fn as_firmware_leaves(holes: &[Range<GuestPhys>], physical_address_bits: u8) -> Self {
        let spread = |memory_type: u64| memory_type * 0x0101_0101_0101_0101;
        let mut mtrrs = Self {
            default_type: ENABLE | FIXED_ENABLE | WRITE_BACK,
            fixed: [spread(WRITE_PROTECTED); FIXED_RANGES],
            variable: [0; 2 * VARIABLE_RANGES],
        };
        let low_fixed = [spread(WRITE_BACK), spread(WRITE_BACK), spread(UNCACHEABLE)];
        for (register, value) in mtrrs.fixed.iter_mut().zip(low_fixed) {
            *register = value;
        }
        let address_mask = !(!0 << physical_address_bits) & !0xfff;
        let mut pairs = mtrrs.variable.chunks_exact_mut(2);
        for hole in holes {
            let mut start = hole.start.as_u64() & address_mask;
            let end = hole.end.as_u64() & !0xfff;
            while start < end {
                let Some([base, mask]) = pairs.next() else {
                    return mtrrs;
                };
                let largest = 1u64 << (end - start).ilog2();
                let aligned = if start == 0 {
                    largest
                } else {
                    start & start.wrapping_neg()
                };
                let size = largest.min(aligned);
                *base = start | UNCACHEABLE;
                *mask = !(size - 1) & address_mask | VALID;
                start += size;
            }
        }
        mtrrs
    }

    /// The value of an MSR, or `None` where it is none of these.
    pub fn read(&self, index: u32) -> Option<u64> {
        match slot(index)? {
            Slot::Capability => Some(CAPABILITY),
            Slot::DefaultType => Some(self.default_type),
            Slot::Fixed(number) => self.fixed.get(number).copied(),
            Slot::Base(number) | Slot::Mask(number) => self.variable.get(number).copied(),
        }
    }

    /// Writes an MSR; `None` where it is none of these, or the value breaks a rule.
    pub fn write(&mut self, index: u32, value: u64, physical_address_bits: u8) -> Option<()> {
        let target = match slot(index)? {
            Slot::Capability => return None,
            Slot::DefaultType => {
                mtrr::is_valid_default_type(value).then_some(&mut self.default_type)
            }
            Slot::Fixed(number) => {
                mtrr::is_valid_fixed(value).then_some(self.fixed.get_mut(number)?)
            }
            Slot::Base(number) => mtrr::is_valid_base(value, physical_address_bits)
                .then_some(self.variable.get_mut(number)?),
            Slot::Mask(number) => mtrr::is_valid_mask(value, physical_address_bits)
                .then_some(self.variable.get_mut(number)?),
        };
        *target? = value;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: u8 = 40;

    #[test]
    fn a_memory_type_that_does_not_exist_is_refused() {
        let mut mtrrs = Mtrrs::default();
        assert_eq!(mtrrs.write(0x2ff, 0xc02, BITS), None);
        assert_eq!(mtrrs.write(0x2ff, 0xc06, BITS), Some(()));
        assert_eq!(mtrrs.write(0x250, 0x0606_0606_0606_0306, BITS), None);
        assert_eq!(mtrrs.write(0x250, 0x0606_0606_0606_0406, BITS), Some(()));
        assert_eq!(mtrrs.read(0x250), Some(0x0606_0606_0606_0406));
        assert_eq!(mtrrs.write(0x200, 0xc000_0007, BITS), None);
    }

    #[test]
    fn reserved_bits_are_refused() {
        let mut mtrrs = Mtrrs::default();
        assert_eq!(mtrrs.write(0x2ff, 1 << 12 | 6, BITS), None);
        assert_eq!(mtrrs.write(0x200, 0x100, BITS), None);
        assert_eq!(mtrrs.write(0x201, 1 << 40 | 0x800, BITS), None);
        assert_eq!(mtrrs.write(0x201, 0xff_c000_0800, BITS), Some(()));
        assert_eq!(mtrrs.write(0x201, 0x400, BITS), None);
        assert_eq!(mtrrs.write(0xfe, 0, BITS), None);
    }

    #[test]
    fn registers_past_the_last_range_do_not_exist() {
        let mut mtrrs = Mtrrs::default();
        assert_eq!(mtrrs.read(0xfe), Some(0x508));
        assert_eq!(mtrrs.read(0x20f), Some(0));
        assert_eq!(mtrrs.read(0x210), None);
        assert_eq!(mtrrs.write(0x210, 0, BITS), None);
        assert_eq!(mtrrs.read(0x251), None);
    }

    #[test]
    fn firmware_covers_an_odd_hole_with_several_ranges() {
        let hole = Range {
            start: GuestPhys::new(0xb000_0000),
            end: GuestPhys::new(0x1_0000_0000),
        };
        let mtrrs = Mtrrs::as_firmware_leaves(&[hole], 40);
        assert_eq!(mtrrs.read(0x2ff), Some(0xc06));
        assert_eq!(mtrrs.read(0x200), Some(0xb000_0000));
        assert_eq!(mtrrs.read(0x201), Some(0xff_f000_0800));
        assert_eq!(mtrrs.read(0x202), Some(0xc000_0000));
        assert_eq!(mtrrs.read(0x203), Some(0xff_c000_0800));
        assert_eq!(mtrrs.read(0x205), Some(0));
        assert_eq!(mtrrs.read(0x259), Some(0));
        assert_eq!(mtrrs.read(0x26f), Some(0x0505_0505_0505_0505));
    }
}
