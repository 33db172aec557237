//! Segmentation: from an offset in a segment to a linear address, or the fault that the reference raises
//! (SDM vol. 3, Segment Limit Checking; Type Checking; Canonical Addressing in vol. 1).

use memory::GuestVirt;

use crate::walk::AccessKind;
use crate::{AccessRights, Cr0, Cr4, Efer, Rflags, Segment, SegmentName, Width};

/// How the processor reads segments and instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CpuMode {
    /// Real-address mode (CR0.PE clear).
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode outside IA-32e mode.
    Protected,
    /// IA-32e mode with a 16-bit or 32-bit code segment.
    Compatibility,
    /// IA-32e mode with a 64-bit code segment.
    Long,
}

impl CpuMode {
    /// The mode that these registers make.
    #[inline]
    pub const fn new(cr0: Cr0, efer: Efer, rflags: Rflags, cs: AccessRights) -> Self {
        if efer.contains(Efer::LMA) {
            if cs.contains(AccessRights::LONG) {
                Self::Long
            } else {
                Self::Compatibility
            }
        } else if !cr0.contains(Cr0::PE) {
            Self::Real
        } else if rflags.contains(Rflags::VM) {
            Self::Virtual8086
        } else {
            Self::Protected
        }
    }

    /// The default width of code in this mode: 16, 32 or 64 bits.
    pub const fn code_width(self, cs: AccessRights) -> Width {
        match self {
            Self::Long => Width::Qword,
            Self::Virtual8086 => Width::Word,
            Self::Real | Self::Protected | Self::Compatibility => {
                if cs.contains(AccessRights::DEFAULT_BIG) {
                    Width::Dword
                } else {
                    Width::Word
                }
            }
        }
    }
}

/// How many bits of a linear address count in 64-bit mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinearWidth {
    /// 48, with 4-level paging.
    Bits48,
    /// 57, with 5-level paging.
    Bits57,
}

impl LinearWidth {
    /// The width that CR4.LA57 selects.
    #[inline]
    pub const fn new(cr4: Cr4) -> Self {
        if cr4.contains(Cr4::LA57) {
            Self::Bits57
        } else {
            Self::Bits48
        }
    }

    /// Whether the bits above are copies of the highest bit that counts.
    #[inline]
    pub const fn is_canonical(self, address: u64) -> bool {
        match self {
            Self::Bits48 => is_canonical(address, 48),
            Self::Bits57 => is_canonical(address, 57),
        }
    }
}

/// Whether all bits of an address above the highest of this many equal it.
#[inline]
pub const fn is_canonical(address: u64, bits: u8) -> bool {
    let unused = 64u32.saturating_sub(bits as u32);
    (address << (unused & 63)) as i64 >> (unused & 63) == address as i64
}

/// A reference that segmentation refuses. Both exceptions have the error code 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SegmentFault {
    /// #GP(0).
    GeneralProtection,
    /// #SS(0): the reference was through SS.
    Stack,
}

/// The rules by which offsets become linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// The mode.
    pub mode: CpuMode,
    /// Bits of linear addresses in 64-bit mode.
    pub width: LinearWidth,
}

impl Segmentation {
    /// The linear address of `bytes` bytes at `offset` in `segment`, which is what the register `name` holds.
    /// `offset` is cut to the address size already.
    ///
    /// # Errors
    /// The fault that the processor raises.
    #[inline]
    pub fn linear(
        self,
        name: SegmentName,
        segment: &Segment,
        offset: u64,
        bytes: u64,
        kind: AccessKind,
    ) -> Result<GuestVirt, SegmentFault> {
        if self.mode == CpuMode::Long {
            let base = match name {
                SegmentName::Fs | SegmentName::Gs => segment.base,
                _ => 0,
            };
            let address = base.wrapping_add(offset);
            // Both ends being canonical leaves no way over the gap, which is far wider than any operand.
            let last = address.wrapping_add(bytes.saturating_sub(1));
            if !self.width.is_canonical(address) || !self.width.is_canonical(last) {
                return Err(fault(name));
            }
            return Ok(GuestVirt::new(address));
        }
        let typed = matches!(self.mode, CpuMode::Protected | CpuMode::Compatibility);
        if typed && !allows(segment, kind) || !within_limit(segment, offset, bytes) {
            return Err(fault(name));
        }
        Ok(GuestVirt::new(
            segment.base.wrapping_add(offset) & 0xffff_ffff,
        ))
    }
}

const fn fault(name: SegmentName) -> SegmentFault {
    match name {
        SegmentName::Ss => SegmentFault::Stack,
        _ => SegmentFault::GeneralProtection,
    }
}

/// Whether type and presence of the segment allow the access.
const fn allows(segment: &Segment, kind: AccessKind) -> bool {
    if !segment.is_usable() {
        return false;
    }
    let code = segment.access.contains(AccessRights::CODE);
    let read_or_write = segment.access.contains(AccessRights::WRITABLE);
    match kind {
        AccessKind::Read => !code || read_or_write,
        AccessKind::Write => !code && read_or_write,
        AccessKind::Execute => code,
    }
}

const fn within_limit(segment: &Segment, offset: u64, bytes: u64) -> bool {
    let Some(last) = offset.checked_add(bytes.saturating_sub(1)) else {
        return false;
    };
    let limit = segment.limit as u64;
    let data = AccessRights::CODE_OR_DATA
        .union(AccessRights::CONFORMING)
        .bits();
    let mask = data | AccessRights::CODE.bits();
    if segment.access.bits() & mask == data {
        // Expand-down data: the valid offsets are those above the limit.
        let top = if segment.access.contains(AccessRights::DEFAULT_BIG) {
            0xffff_ffff
        } else {
            0xffff
        };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: Segment = Segment {
        selector: 8,
        base: 0,
        limit: 0xffff_ffff,
        access: AccessRights::from_bits_retain(0xc093),
    };

    fn rules(mode: CpuMode) -> Segmentation {
        Segmentation {
            mode,
            width: LinearWidth::Bits48,
        }
    }

    fn linear(
        mode: CpuMode,
        name: SegmentName,
        segment: Segment,
        offset: u64,
        bytes: u64,
        kind: AccessKind,
    ) -> Result<u64, SegmentFault> {
        rules(mode)
            .linear(name, &segment, offset, bytes, kind)
            .map(GuestVirt::as_u64)
    }

    #[test]
    fn modes_follow_from_the_registers() {
        let long_code = AccessRights::LONG;
        let long = Efer::LMA | Efer::LME;
        let protected = Cr0::PE;
        let vm = Rflags::VM;
        assert_eq!(
            CpuMode::new(Cr0::empty(), Efer::empty(), Rflags::empty(), long_code),
            CpuMode::Real
        );
        assert_eq!(
            CpuMode::new(protected, Efer::empty(), vm, AccessRights::empty()),
            CpuMode::Virtual8086
        );
        assert_eq!(
            CpuMode::new(protected, Efer::LME, Rflags::empty(), long_code),
            CpuMode::Protected
        );
        assert_eq!(
            CpuMode::new(protected, long, Rflags::empty(), long_code),
            CpuMode::Long
        );
        assert_eq!(
            CpuMode::new(protected, long, Rflags::empty(), AccessRights::empty()),
            CpuMode::Compatibility
        );
        assert_eq!(
            CpuMode::Protected.code_width(AccessRights::DEFAULT_BIG),
            Width::Dword
        );
        assert_eq!(
            CpuMode::Virtual8086.code_width(AccessRights::DEFAULT_BIG),
            Width::Word
        );
        assert_eq!(CpuMode::Long.code_width(long_code), Width::Qword);
    }

    #[test]
    fn canonical_addresses_have_copies_of_the_top_bit() {
        for (address, canonical48, canonical57) in [
            (0, true, true),
            (0x0000_7fff_ffff_ffff, true, true),
            (0x0000_8000_0000_0000, false, true),
            (0x00ff_ffff_ffff_ffff, false, true),
            (0x0100_0000_0000_0000, false, false),
            (0xfeff_ffff_ffff_ffff, false, false),
            (0xff00_0000_0000_0000, false, true),
            (0xffff_7fff_ffff_ffff, false, true),
            (0xffff_8000_0000_0000, true, true),
            (u64::MAX, true, true),
        ] {
            assert_eq!(
                LinearWidth::Bits48.is_canonical(address),
                canonical48,
                "{address:#x}"
            );
            assert_eq!(
                LinearWidth::Bits57.is_canonical(address),
                canonical57,
                "{address:#x}"
            );
        }
    }

    #[test]
    fn only_fs_and_gs_have_a_base_in_64_bit_mode() {
        use SegmentName::{Ds, Gs, Ss};
        let based = Segment {
            base: 0xffff_8880_0000_0000,
            limit: 0,
            ..FLAT
        };
        let long = |name, offset, bytes| {
            linear(CpuMode::Long, name, based, offset, bytes, AccessKind::Read)
        };
        assert_eq!(long(Ds, 0x10, 8), Ok(0x10));
        assert_eq!(long(Gs, 0x10, 8), Ok(0xffff_8880_0000_0010));
        assert_eq!(
            long(Ds, 0x7fff_ffff_fff9, 8),
            Err(SegmentFault::GeneralProtection)
        );
        assert_eq!(long(Ds, 0x7fff_ffff_fff8, 8), Ok(0x7fff_ffff_fff8));
        assert_eq!(long(Ss, 1 << 47, 1), Err(SegmentFault::Stack));
    }

    #[test]
    fn limits_are_checked_to_the_last_byte() {
        let small = Segment {
            base: 0x1000,
            limit: 0xfff,
            access: AccessRights::from_bits_retain(0x4093),
            ..FLAT
        };
        let at = |name, offset, bytes| {
            linear(
                CpuMode::Protected,
                name,
                small,
                offset,
                bytes,
                AccessKind::Write,
            )
        };
        assert_eq!(at(SegmentName::Ds, 0xffc, 4), Ok(0x1ffc));
        assert_eq!(
            at(SegmentName::Ds, 0xffd, 4),
            Err(SegmentFault::GeneralProtection)
        );
        assert_eq!(at(SegmentName::Ss, 0xffd, 4), Err(SegmentFault::Stack));
        assert_eq!(
            at(SegmentName::Ds, 0xffff_ffff, 4),
            Err(SegmentFault::GeneralProtection)
        );
    }

    #[test]
    fn expand_down_segments_are_valid_above_their_limit() {
        let down = |big: u32| Segment {
            limit: 0xfff,
            access: AccessRights::from_bits_retain(0x97 | big),
            ..FLAT
        };
        let at = |segment, offset, bytes| {
            linear(
                CpuMode::Protected,
                SegmentName::Ss,
                segment,
                offset,
                bytes,
                AccessKind::Write,
            )
        };
        assert_eq!(at(down(0), 0xfff, 1), Err(SegmentFault::Stack));
        assert_eq!(at(down(0), 0x1000, 4), Ok(0x1000));
        assert_eq!(at(down(0), 0xfffd, 4), Err(SegmentFault::Stack));
        assert_eq!(at(down(0x4000), 0xfffd, 4), Ok(0xfffd));
        assert_eq!(at(down(0x4000), 0xffff_fffd, 4), Err(SegmentFault::Stack));
    }

    #[test]
    fn conforming_code_is_no_expand_down_segment() {
        let code = Segment {
            limit: 0xfff,
            access: AccessRights::from_bits_retain(0x409f),
            ..FLAT
        };
        let at = |offset| {
            linear(
                CpuMode::Protected,
                SegmentName::Cs,
                code,
                offset,
                1,
                AccessKind::Read,
            )
        };
        assert_eq!(at(0xfff), Ok(0xfff));
        assert_eq!(at(0x1000), Err(SegmentFault::GeneralProtection));
    }

    #[test]
    fn types_count_in_protected_mode_only() {
        use AccessKind::{Execute, Read, Write};
        let with = |access| Segment {
            access: AccessRights::from_bits_retain(access),
            ..FLAT
        };
        let refused = Err(SegmentFault::GeneralProtection);
        let at = |mode, segment, kind| linear(mode, SegmentName::Ds, segment, 4, 1, kind);
        let (read_only, execute_only, code) = (with(0xc091), with(0xc099), with(0xc09b));
        for (segment, kind, answer) in [
            (read_only, Read, Ok(4)),
            (read_only, Write, refused),
            (execute_only, Read, refused),
            (execute_only, Execute, Ok(4)),
            (code, Read, Ok(4)),
            (code, Write, refused),
            (FLAT, Execute, refused),
            (Segment::UNUSABLE, Read, refused),
        ] {
            assert_eq!(at(CpuMode::Protected, segment, kind), answer);
            assert_eq!(at(CpuMode::Compatibility, segment, kind), answer);
        }
        assert_eq!(at(CpuMode::Real, code, Write), Ok(4));
        assert_eq!(at(CpuMode::Long, Segment::UNUSABLE, Write), Ok(4));
    }

    #[test]
    fn linear_addresses_wrap_at_4_gib_outside_64_bit_mode() {
        let high = Segment {
            base: 0xffff_fff0,
            ..FLAT
        };
        assert_eq!(
            linear(
                CpuMode::Protected,
                SegmentName::Ds,
                high,
                0x20,
                4,
                AccessKind::Read
            ),
            Ok(0x10)
        );
        // Real mode: FFFF:0010 is the first byte above 1 MiB.
        let top = Segment::real_mode(0xffff);
        assert_eq!(
            linear(
                CpuMode::Real,
                SegmentName::Ds,
                top,
                0x10,
                1,
                AccessKind::Read
            ),
            Ok(0x10_0000)
        );
        assert_eq!(
            linear(
                CpuMode::Real,
                SegmentName::Ds,
                top,
                0xffff,
                2,
                AccessKind::Read
            ),
            Err(SegmentFault::GeneralProtection)
        );
    }
}
