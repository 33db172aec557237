//! Selectors and descriptors: what software loads into segment registers, and what the processor makes of it
//! (SDM vol. 3, Segment Descriptors; System Descriptor Types; Task-Gate Descriptor).

use crate::{AccessRights, Segment};

/// A segment selector.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Selector(pub u16);

/// Which table a selector points into (TI).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TableIndicator {
    /// The global descriptor table.
    Gdt,
    /// The local descriptor table.
    Ldt,
}

impl Selector {
    /// The null selector.
    pub const NULL: Self = Self(0);

    /// A selector for this entry of a table; `rpl` is cut to 0 to 3.
    pub const fn new(index: u16, table: TableIndicator, rpl: u8) -> Self {
        let indicator = match table {
            TableIndicator::Gdt => 0,
            TableIndicator::Ldt => 4,
        };
        Self(index << 3 | indicator | (rpl & 3) as u16)
    }

    /// The number of the entry.
    pub const fn index(self) -> u16 {
        self.0 >> 3
    }

    /// The offset of the entry in its table.
    pub const fn table_offset(self) -> u16 {
        self.0 & !7
    }

    /// The table.
    pub const fn table(self) -> TableIndicator {
        if self.0 & 4 == 0 {
            TableIndicator::Gdt
        } else {
            TableIndicator::Ldt
        }
    }

    /// The requested privilege level.
    pub const fn rpl(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// Whether it is one of the four null selectors.
    pub const fn is_null(self) -> bool {
        self.0 & !3 == 0
    }

    /// The error code of an exception that this selector causes: RPL makes way for EXT and IDT, which are 0.
    pub const fn error_code(self) -> u32 {
        (self.0 & !3) as u32
    }
}

/// An 8-byte segment descriptor, or the lower half of a 16-byte one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Descriptor(pub u64);

/// Bits of the descriptor that [`AccessRights`] holds, once shifted down by 40.
const ACCESS_BITS: u32 = 0xf0ff;

/// Type, S, P of system segments (SDM vol. 3, System-Segment and Gate-Descriptor Types).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SystemType {
    /// 16-bit TSS, available.
    Tss16Available = 1,
    /// LDT.
    Ldt = 2,
    /// 16-bit TSS, busy.
    Tss16Busy = 3,
    /// 16-bit call gate.
    CallGate16 = 4,
    /// Task gate.
    TaskGate = 5,
    /// 16-bit interrupt gate.
    InterruptGate16 = 6,
    /// 16-bit trap gate.
    TrapGate16 = 7,
    /// 32-bit TSS, available; 64-bit in IA-32e mode.
    TssAvailable = 9,
    /// 32-bit TSS, busy; 64-bit in IA-32e mode.
    TssBusy = 11,
    /// 32-bit call gate; 64-bit in IA-32e mode.
    CallGate = 12,
    /// 32-bit interrupt gate; 64-bit in IA-32e mode.
    InterruptGate = 14,
    /// 32-bit trap gate; 64-bit in IA-32e mode.
    TrapGate = 15,
}

impl SystemType {
    /// The type of this number, or `None` where it is reserved.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Tss16Available,
            2 => Self::Ldt,
            3 => Self::Tss16Busy,
            4 => Self::CallGate16,
            5 => Self::TaskGate,
            6 => Self::InterruptGate16,
            7 => Self::TrapGate16,
            9 => Self::TssAvailable,
            11 => Self::TssBusy,
            12 => Self::CallGate,
            14 => Self::InterruptGate,
            15 => Self::TrapGate,
            _ => return None,
        })
    }
}

impl Descriptor {
    /// Puts a descriptor together. The limit is in bytes; where `access` has the granularity flag, its lower
    /// twelve bits are lost. Of the base 32 bits are kept; [`upper_half`](Self::upper_half) has the rest.
    pub const fn new(base: u64, limit: u32, access: AccessRights) -> Self {
        let scaled = if access.contains(AccessRights::GRANULARITY) {
            limit >> 12
        } else {
            limit & 0xf_ffff
        };
        let scaled = scaled as u64;
        Self(
            scaled & 0xffff
                | (base & 0xff_ffff) << 16
                | ((access.bits() & ACCESS_BITS) as u64) << 40
                | (scaled >> 16) << 48
                | (base >> 24 & 0xff) << 56,
        )
    }

    /// The second half of a 16-byte descriptor with this base (SDM vol. 3, TSS Descriptor in 64-bit Mode).
    pub const fn upper_half(base: u64) -> u64 {
        base >> 32
    }

    /// The lower 32 bits of the base.
    pub const fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    /// The base of a 16-byte descriptor whose other half is `upper`.
    pub const fn wide_base(self, upper: u64) -> u64 {
        self.base() | upper << 32
    }

    /// The limit in bytes.
    pub const fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.access().contains(AccessRights::GRANULARITY) {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    /// Type and attributes.
    pub const fn access(self) -> AccessRights {
        AccessRights::from_bits_retain((self.0 >> 40) as u32 & ACCESS_BITS)
    }

    /// The kind of a system descriptor; `None` for code and data and for reserved types.
    pub const fn system_type(self) -> Option<SystemType> {
        if self.access().contains(AccessRights::CODE_OR_DATA) {
            return None;
        }
        SystemType::from_number(self.access().kind())
    }

    /// The descriptor with its type replaced, such as TSS available by TSS busy.
    #[must_use]
    pub const fn with_type(self, kind: SystemType) -> Self {
        Self(self.0 & !(0xf << 40) | (kind as u64) << 40)
    }

    /// The descriptor with the accessed flag set.
    #[must_use]
    pub const fn accessed(self) -> Self {
        Self(self.0 | (AccessRights::ACCESSED.bits() as u64) << 40)
    }

    /// Whether LAR tells of it; `ia32e` says that the processor is in IA-32e mode (SDM vol. 2, LAR: segment and gate types).
    pub const fn has_rights(self, ia32e: bool) -> bool {
        match self.system_type() {
            None => self.access().contains(AccessRights::CODE_OR_DATA),
            Some(SystemType::CallGate) => true,
            Some(SystemType::CallGate16 | SystemType::TaskGate) => !ia32e,
            Some(_) => self.has_limit(ia32e),
        }
    }

    /// Whether LSL tells its limit (SDM vol. 2, LSL: segment and gate descriptor types).
    pub const fn has_limit(self, ia32e: bool) -> bool {
        match self.system_type() {
            None => self.access().contains(AccessRights::CODE_OR_DATA),
            Some(SystemType::Ldt | SystemType::TssAvailable | SystemType::TssBusy) => true,
            Some(SystemType::Tss16Available | SystemType::Tss16Busy) => !ia32e,
            Some(_) => false,
        }
    }

    /// What a segment register holds after loading this descriptor by `selector`.
    pub const fn load(self, selector: Selector) -> Segment {
        Segment {
            selector: selector.0,
            base: self.base(),
            limit: self.limit(),
            access: self.access(),
        }
    }
}

impl Segment {
    /// A register as a load in real-address or virtual-8086 mode sets it up: 64 KiB at selector times 16. In
    /// real-address mode a load of DS to GS leaves limit and access as they were; this is the state that
    /// software which never was in protected mode sees.
    pub const fn real_mode(selector: u16) -> Self {
        Self {
            selector,
            base: (selector as u64) << 4,
            limit: 0xffff,
            access: AccessRights::ACCESSED
                .union(AccessRights::WRITABLE)
                .union(AccessRights::CODE_OR_DATA)
                .union(AccessRights::PRESENT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_descriptors_decode() {
        // Flat 32-bit code and data, and 64-bit code.
        let code = Descriptor(0x00cf_9b00_0000_ffff);
        assert_eq!(code.base(), 0);
        assert_eq!(code.limit(), 0xffff_ffff);
        assert_eq!(code.access().bits(), 0xc09b);
        assert!(
            Descriptor(0x00af_9b00_0000_ffff)
                .access()
                .contains(AccessRights::LONG)
        );
        // A TSS of 0x68 bytes at 0x12345678, busy.
        let tss = Descriptor(0x1200_8b34_5678_0067);
        assert_eq!(tss.base(), 0x1234_5678);
        assert_eq!(tss.limit(), 0x67);
        assert_eq!(tss.system_type(), Some(SystemType::TssBusy));
        assert_eq!(tss.wide_base(0xffff_8000), 0xffff_8000_1234_5678);
        assert_eq!(
            tss.with_type(SystemType::TssAvailable).0,
            0x1200_8934_5678_0067
        );
    }

    #[test]
    fn a_descriptor_survives_a_round_trip() {
        for raw in [
            0x00cf_9b00_0000_ffff,
            0x1200_8b34_5678_0067,
            0xab40_f2cd_ef12_3456,
        ] {
            let descriptor = Descriptor(raw);
            let again = Descriptor::new(descriptor.base(), descriptor.limit(), descriptor.access());
            assert_eq!(again, descriptor);
        }
    }

    #[test]
    fn selectors_come_apart() {
        let selector = Selector(0x2b);
        assert_eq!(selector.index(), 5);
        assert_eq!(selector.table(), TableIndicator::Gdt);
        assert_eq!(selector.rpl(), 3);
        assert_eq!(selector.error_code(), 0x28);
        assert_eq!(Selector::new(5, TableIndicator::Ldt, 1), Selector(0x2d));
        assert!(Selector(3).is_null());
        assert!(!Selector(4).is_null());
    }

    #[test]
    fn a_task_gate_is_known_by_its_type() {
        let gate = Descriptor(0x0000_8500_0048_0000);
        assert_eq!(gate.system_type(), Some(SystemType::TaskGate));
    }

    #[test]
    fn a_real_mode_segment_is_64_kib_at_16_times_its_selector() {
        let segment = Segment::real_mode(0xf000);
        assert_eq!(
            (segment.base, segment.limit, segment.access.bits()),
            (0xf0000, 0xffff, 0x93)
        );
    }
}
