//! Guest states as the loaders, RESET and start-up IPIs leave them, written down independently of those.

use arch::SegmentName;

use crate::fields::{self, SegmentFields, VmcsWriter};
use crate::testing::Vmcs;

/// How a guest starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// 64-bit mode, flat.
    Long,
    /// 32-bit protected mode, flat, without paging.
    Protected,
    /// Real mode in a segment of its own.
    Real,
    /// Virtual-8086 mode.
    V86,
    /// The first instruction after RESET.
    Reset,
    /// The first instruction after INIT and a start-up IPI.
    AfterIpi,
}

/// Selector, base, limit and access rights.
type Registers = (u16, u64, u32, u32);

impl Start {
    fn code(self) -> Registers {
        match self {
            Self::Long => (0x10, 0, u32::MAX, 0xa09b),
            Self::Protected => (0x10, 0, u32::MAX, 0xc09b),
            Self::Real => (0x07c0, 0x7c00, 0xffff, 0x9b),
            Self::V86 => (0x1000, 0x1_0000, 0xffff, 0xf3),
            // The type after RESET is that of data.
            Self::Reset => (0xf000, 0xffff_0000, 0xffff, 0x93),
            Self::AfterIpi => (0x9a00, 0x9_a000, 0xffff, 0x93),
        }
    }

    fn data(self) -> Registers {
        match self {
            Self::Long | Self::Protected => (0x18, 0, u32::MAX, 0xc093),
            Self::Real => (0x07c0, 0x7c00, 0xffff, 0x93),
            Self::V86 => (0x1000, 0x1_0000, 0xffff, 0xf3),
            Self::Reset | Self::AfterIpi => (0, 0, 0xffff, 0x93),
        }
    }

    /// Writes the guest-state area; CR0.NE and CR4.VMXE are as VMX wants them.
    pub(crate) fn write(self, vmcs: &mut Vmcs) {
        let (cr0, cr4, efer) = match self {
            Self::Long => (0x8000_0031, 0x2020, 0x500),
            Self::Protected | Self::V86 => (0x31, 0x2000, 0),
            Self::Real | Self::AfterIpi => (0x30, 0x2000, 0),
            Self::Reset => (0x6000_0030, 0x2000, 0),
        };
        let rip = match self {
            Self::Long | Self::Protected => 0x10_0000,
            Self::Reset => 0xfff0,
            Self::Real | Self::V86 | Self::AfterIpi => 0,
        };
        for name in SegmentName::ALL {
            let (selector, base, limit, access_rights) = match name {
                SegmentName::Cs => self.code(),
                SegmentName::Tr => (0x20, 0, 0x67, 0x8b),
                SegmentName::Ldtr if self == Self::Reset => (0, 0, 0xffff, 0x82),
                SegmentName::Ldtr => (0, 0, 0, 0x1_0000),
                _ => self.data(),
            };
            let segment = SegmentFields::guest(name);
            vmcs.write(segment.selector, selector);
            vmcs.write(segment.base, base);
            vmcs.write(segment.limit, limit);
            vmcs.write(segment.access_rights, access_rights);
        }
        vmcs.write(fields::GUEST_CR0, cr0);
        vmcs.write(fields::GUEST_CR3, 0x9000);
        vmcs.write(fields::GUEST_CR4, cr4);
        vmcs.write(fields::GUEST_EFER, efer);
        vmcs.write(fields::GUEST_PAT, 0x0007_0406_0007_0406);
        vmcs.write(fields::GUEST_DR7, 0x400);
        vmcs.write(fields::GUEST_RIP, rip);
        vmcs.write(
            fields::GUEST_RFLAGS,
            if self == Self::V86 { 0x2_0002 } else { 2 },
        );
        vmcs.write(fields::GUEST_GDTR_LIMIT, 0xffff);
        vmcs.write(fields::GUEST_IDTR_LIMIT, 0xffff);
    }
}
