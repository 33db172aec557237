//! Memory types: the PAT and the MTRRs as data (SDM vol. 3, Memory Type Range Registers; Page Attribute
//! Table).
//!
//! The hypervisor asks [`Mtrrs`] of the host which type a piece of physical memory has when it maps it for a
//! guest; for the guest's own registers it asks which values are valid.

use memory::HostPhys;

/// A memory type, numbered as MTRRs, PAT and EPT number it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB.
    WriteBack = 6,
}

impl MemoryType {
    /// The type of this number, or `None` where it is reserved in MTRRs and EPT.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Uncacheable,
            1 => Self::WriteCombining,
            4 => Self::WriteThrough,
            5 => Self::WriteProtected,
            6 => Self::WriteBack,
            _ => return None,
        })
    }

    /// The type where two variable ranges overlap (SDM vol. 3, MTRR Precedences). Combinations that the
    /// manual leaves undefined are uncacheable, which is never wrong.
    const fn with_overlap(self, other: Self) -> Self {
        match (self, other) {
            (Self::WriteBack, Self::WriteBack) => Self::WriteBack,
            (Self::WriteBack | Self::WriteThrough, Self::WriteBack | Self::WriteThrough) => {
                Self::WriteThrough
            }
            (Self::WriteCombining, Self::WriteCombining) => Self::WriteCombining,
            (Self::WriteProtected, Self::WriteProtected) => Self::WriteProtected,
            _ => Self::Uncacheable,
        }
    }
}

/// IA32_PAT after power-up: WB, WT, UC-, UC, twice.
pub const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

/// Whether IA32_PAT takes this value: each of its eight bytes is a memory type or 7 (UC-).
pub const fn is_valid_pat(value: u64) -> bool {
    let mut rest = value;
    let mut entries = 0;
    while entries < 8 {
        match rest & 0xff {
            0 | 1 | 4..=7 => {}
            _ => return false,
        }
        rest >>= 8;
        entries += 1;
    }
    true
}

/// Variable ranges that there can be; the capability register counts fewer on all processors so far.
pub const MAX_VARIABLE: usize = 16;

/// Fixed-range registers: one of 64 KiB units, two of 16 KiB units, eight of 4 KiB units.
pub const FIXED: usize = 11;

/// End of what the fixed-range registers cover.
const FIXED_END: u64 = 1 << 20;

/// One pair of base and mask registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VariableRange {
    /// IA32_MTRR_PHYSBASEn.
    pub base: u64,
    /// IA32_MTRR_PHYSMASKn.
    pub mask: u64,
}

impl VariableRange {
    const VALID: u64 = 1 << 11;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    fn memory_type(self, address: u64) -> Option<MemoryType> {
        let mask = self.mask & Self::ADDRESS;
        if self.mask & Self::VALID == 0 || address & mask != self.base & mask {
            return None;
        }
        Some(MemoryType::from_number(self.base as u8).unwrap_or(MemoryType::Uncacheable))
    }
}

/// The memory-type range registers of one processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mtrrs {
    /// IA32_MTRRCAP.
    pub capability: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub default_type: u64,
    /// The fixed-range registers, in the order of the addresses that they cover.
    pub fixed: [u64; FIXED],
    /// The variable ranges; those that the processor lacks are zero.
    pub variable: [VariableRange; MAX_VARIABLE],
}

impl Mtrrs {
    const ENABLE: u64 = 1 << 11;
    const FIXED_ENABLE: u64 = 1 << 10;
    const HAS_FIXED: u64 = 1 << 8;

    /// Number of variable ranges by the capability register.
    pub const fn variable_count(&self) -> usize {
        let count = self.capability as usize & 0xff;
        if count < MAX_VARIABLE {
            count
        } else {
            MAX_VARIABLE
        }
    }

    /// The memory type of one address.
    pub fn memory_type(&self, hpa: HostPhys) -> MemoryType {
        if self.default_type & Self::ENABLE == 0 {
            return MemoryType::Uncacheable;
        }
        let address = hpa.as_u64();
        if address < FIXED_END
            && self.default_type & Self::FIXED_ENABLE != 0
            && self.capability & Self::HAS_FIXED != 0
        {
            return self.fixed_type(address);
        }
        self.variable
            .iter()
            .take(self.variable_count())
            .filter_map(|range| range.memory_type(address))
            .reduce(MemoryType::with_overlap)
            .or(MemoryType::from_number(self.default_type as u8))
            .unwrap_or(MemoryType::Uncacheable)
    }

    fn fixed_type(&self, address: u64) -> MemoryType {
        let (register, entry) = match address {
            0..0x8_0000 => (0, address >> 16),
            0x8_0000..0xc_0000 => {
                let unit = (address - 0x8_0000) >> 14;
                (1 + (unit >> 3) as usize, unit & 7)
            }
            _ => {
                let unit = (address - 0xc_0000) >> 12;
                (3 + (unit >> 3) as usize, unit & 7)
            }
        };
        let value = self.fixed.get(register).copied().unwrap_or(0);
        MemoryType::from_number((value >> (8 * entry)) as u8).unwrap_or(MemoryType::Uncacheable)
    }
}

/// Whether a guest may write this value to IA32_MTRR_DEF_TYPE.
pub const fn is_valid_default_type(value: u64) -> bool {
    value & !0xcff == 0 && MemoryType::from_number(value as u8).is_some()
}

/// Whether a guest may write this value to a fixed-range register.
pub const fn is_valid_fixed(value: u64) -> bool {
    let mut rest = value;
    let mut entries = 0;
    while entries < 8 {
        if MemoryType::from_number(rest as u8).is_none() {
            return false;
        }
        rest >>= 8;
        entries += 1;
    }
    true
}

/// Whether a guest with addresses of this width may write this value to IA32_MTRR_PHYSBASEn.
pub const fn is_valid_base(value: u64, physical_bits: u8) -> bool {
    value & (above(physical_bits) | 0xf00) == 0 && MemoryType::from_number(value as u8).is_some()
}

/// Whether a guest with addresses of this width may write this value to IA32_MTRR_PHYSMASKn.
pub const fn is_valid_mask(value: u64, physical_bits: u8) -> bool {
    value & (above(physical_bits) | 0x7ff) == 0
}

const fn above(physical_bits: u8) -> u64 {
    match u64::MAX.checked_shl(physical_bits as u32) {
        Some(bits) => bits,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// As firmware sets up a PC with 8 GiB: WB by default, the hole below 4 GiB uncacheable, a frame buffer.
    fn pc() -> Mtrrs {
        let mut mtrrs = Mtrrs {
            capability: 0x508,
            default_type: 0xc06,
            fixed: [0x0606_0606_0606_0606; FIXED],
            variable: [VariableRange::default(); MAX_VARIABLE],
        };
        mtrrs.fixed[2] = 0;
        mtrrs.variable[0] = VariableRange {
            base: 0xc000_0000,
            mask: 0x7f_c000_0800,
        };
        mtrrs.variable[1] = VariableRange {
            base: 0x2_0000_0001,
            mask: 0x7f_f000_0800,
        };
        mtrrs
    }

    #[test]
    fn types_of_single_addresses() {
        let mtrrs = pc();
        for (address, expected) in [
            (0, MemoryType::WriteBack),
            (0x9_ffff, MemoryType::WriteBack),
            (0xa_0000, MemoryType::Uncacheable),
            (0xb_ffff, MemoryType::Uncacheable),
            (0xc_0000, MemoryType::WriteBack),
            (0xbfff_ffff, MemoryType::WriteBack),
            (0xc000_0000, MemoryType::Uncacheable),
            (0xffff_ffff, MemoryType::Uncacheable),
            (4 * GIB, MemoryType::WriteBack),
            (8 * GIB, MemoryType::WriteCombining),
        ] {
            assert_eq!(
                mtrrs.memory_type(HostPhys::new(address)),
                expected,
                "{address:#x}"
            );
        }
    }

    #[test]
    fn overlaps_follow_the_manuals_precedence() {
        let mut mtrrs = pc();
        mtrrs.variable[2] = VariableRange {
            base: 0xc000_0006,
            mask: 0x7f_c000_0800,
        };
        assert_eq!(
            mtrrs.memory_type(HostPhys::new(0xc000_0000)),
            MemoryType::Uncacheable
        );
        mtrrs.variable[0].base = 0xc000_0004;
        assert_eq!(
            mtrrs.memory_type(HostPhys::new(0xc000_0000)),
            MemoryType::WriteThrough
        );
        mtrrs.variable[0].base = 0xc000_0001;
        assert_eq!(
            mtrrs.memory_type(HostPhys::new(0xc000_0000)),
            MemoryType::Uncacheable
        );
    }

    #[test]
    fn disabled_mtrrs_make_all_memory_uncacheable() {
        let mtrrs = Mtrrs {
            default_type: 6,
            ..pc()
        };
        assert_eq!(mtrrs.memory_type(HostPhys::new(0)), MemoryType::Uncacheable);
        let no_fixed = Mtrrs {
            default_type: 0x806,
            ..pc()
        };
        assert_eq!(
            no_fixed.memory_type(HostPhys::new(0xa_0000)),
            MemoryType::WriteBack
        );
    }

    #[test]
    fn reserved_values_are_refused() {
        assert!(is_valid_pat(PAT_AT_RESET));
        assert!(is_valid_pat(0x0107_0406_0007_0506));
        assert!(!is_valid_pat(0x0007_0406_0007_0402));
        assert!(!is_valid_pat(PAT_AT_RESET | 0x08 << 56));
        assert!(is_valid_default_type(0xc06));
        assert!(!is_valid_default_type(0x1c06));
        assert!(!is_valid_default_type(0xc02));
        assert!(is_valid_fixed(0x0606_0505_0404_0100));
        assert!(!is_valid_fixed(0x0700_0000_0000_0000));
        assert!(is_valid_base(0xff_ffff_f006, 40));
        assert!(!is_valid_base(0x100_0000_0006, 40));
        assert!(!is_valid_base(0x1006 | 1 << 8, 40));
        assert!(is_valid_mask(0xff_ffff_f800, 40));
        assert!(!is_valid_mask(0x1_00ff_ffff_f800, 40));
        assert!(!is_valid_mask(0x400, 40));
    }
}
