//! The width of one access to a register, a port or memory.

/// 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
    /// 64 bits.
    Qword = 8,
}

impl Width {
    /// The width of this many bytes, or `None` where no single access has it.
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            8 => Some(Self::Qword),
            _ => None,
        }
    }

    /// Bytes of an access.
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// Bits of an access.
    pub const fn bits(self) -> u32 {
        self as u32 * 8
    }

    /// The bits of a 64-bit value that an access of this width covers.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// `value` cut to this width.
    pub const fn truncate(self, value: u64) -> u64 {
        value & self.mask()
    }

    /// `value`, taken at this width, with its sign spread over 64 bits.
    pub const fn sign_extend(self, value: u64) -> u64 {
        let unused = 64 - self.bits();
        (((value << unused) as i64) >> unused) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_and_extended_at_its_width() {
        assert_eq!(Width::Word.truncate(0x1234_5678), 0x5678);
        assert_eq!(Width::Byte.sign_extend(0x80), 0xffff_ffff_ffff_ff80);
        assert_eq!(Width::Dword.sign_extend(0x7fff_ffff), 0x7fff_ffff);
        assert_eq!(Width::Qword.mask(), u64::MAX);
    }
}
