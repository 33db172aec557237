//! Segment registers with their hidden parts, and the descriptor-table registers.

use bitflags::bitflags;

/// A segment register, numbered as instruction encodings number it; LDTR and TR follow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the manuals' register names")]
pub enum SegmentName {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    Ldtr = 6,
    Tr = 7,
}

impl SegmentName {
    /// All eight, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Es,
        Self::Cs,
        Self::Ss,
        Self::Ds,
        Self::Fs,
        Self::Gs,
        Self::Ldtr,
        Self::Tr,
    ];

    /// The register with this number, or `None` past TR.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            3 => Self::Ds,
            4 => Self::Fs,
            5 => Self::Gs,
            6 => Self::Ldtr,
            7 => Self::Tr,
            _ => return None,
        })
    }
}

bitflags! {
    /// The access rights of a segment, laid out as bits 8 to 23 of the descriptor's second word with the
    /// limit's bits cleared (SDM vol. 3, Segment Descriptors); bit 16 says that the register is unusable.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AccessRights: u32 {
        /// The type field, all four bits.
        const TYPE = 0xf;
        /// Accessed (type bit 0 of code and data segments).
        const ACCESSED = 1 << 0;
        /// Writable data or readable code (type bit 1).
        const WRITABLE = 1 << 1;
        /// Expand-down data or conforming code (type bit 2).
        const CONFORMING = 1 << 2;
        /// Code rather than data (type bit 3).
        const CODE = 1 << 3;
        /// Code or data rather than system segment (S).
        const CODE_OR_DATA = 1 << 4;
        /// Descriptor privilege level, both bits.
        const DPL = 3 << 5;
        /// Present.
        const PRESENT = 1 << 7;
        /// Available to system software.
        const AVL = 1 << 12;
        /// 64-bit code.
        const LONG = 1 << 13;
        /// 32-bit code, stack or upper bound (D/B).
        const DEFAULT_BIG = 1 << 14;
        /// The limit counts 4 KiB units.
        const GRANULARITY = 1 << 15;
        /// The register holds no usable segment.
        const UNUSABLE = 1 << 16;
        const _ = !0;
    }
}

impl AccessRights {
    /// The privilege level, 0 to 3.
    pub const fn dpl(self) -> u8 {
        ((self.bits() >> 5) & 3) as u8
    }

    /// The four bits of the type field.
    pub const fn kind(self) -> u8 {
        (self.bits() & 0xf) as u8
    }
}

/// A segment register: what software loads, and what the processor keeps hidden beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// The linear address of offset 0.
    pub base: u64,
    /// The highest valid offset, in bytes (already scaled).
    pub limit: u32,
    /// Type and attributes.
    pub access: AccessRights,
}

impl Segment {
    /// A register that holds no segment.
    pub const UNUSABLE: Self = Self {
        selector: 0,
        base: 0,
        limit: 0,
        access: AccessRights::UNUSABLE,
    };

    /// Whether memory can be reached through it outside 64-bit mode.
    pub const fn is_usable(&self) -> bool {
        !self.access.contains(AccessRights::UNUSABLE)
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DescriptorTable {
    /// The linear address of the table.
    pub base: u64,
    /// The offset of its last byte.
    pub limit: u16,
}
