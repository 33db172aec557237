//! The MSR and I/O bitmaps: which accesses of a guest need no exit. The same for all vCPUs.

use arch::msr;
use memory::{HostPhys, PageSize};
use vmx::apic::ApicLevel;
use vmx::bitmap::{Intercept, IoBitmaps, MsrAccess, MsrBitmap};

use super::OutOfFrames;
use super::guard::Guard;
use crate::memory::{Frame, FrameRun};

/// MSRs that are the guest's own: those that the VMCS or `switch` changes with the vCPU, and in which no value
/// that the processor accepts harms anybody else.
const GUEST_MSRS: [u32; 10] = [
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
    msr::IA32_FS_BASE,
    msr::IA32_GS_BASE,
    msr::IA32_KERNEL_GS_BASE,
];

/// The bitmaps, as the processor reads them.
pub(super) struct Bitmaps {
    io: FrameRun,
    msr: Frame,
    msr_x2apic: Frame,
}

impl Bitmaps {
    pub(super) fn new(apic: ApicLevel, guard: &Guard) -> Result<Self, OutOfFrames> {
        let bytes = 2 * PageSize::Size4K.bytes();
        let io = FrameRun::zeroed(bytes, PageSize::Size4K).ok_or(OutOfFrames)?;
        for (page, offset) in IoBitmaps::ALL_EXIT
            .pages()
            .into_iter()
            .zip([0, IoBitmaps::B_OFFSET])
        {
            io.write(offset, page);
        }
        let mut msrs = MsrBitmap::ALL_EXIT;
        for index in GUEST_MSRS {
            for access in [MsrAccess::Read, MsrAccess::Write] {
                if let Err(error) = msrs.set(index, access, Intercept::Pass) {
                    unreachable!("{error}: a constant of this file");
                }
            }
        }
        for (index, access) in guard.guest_msrs() {
            if let Err(error) = msrs.set(index, access, Intercept::Pass) {
                unreachable!("{error}: a constant of `guard`");
            }
        }
        let msr = frame_of(&msrs)?;
        apic.pass_x2apic(&mut msrs);
        Ok(Self {
            io,
            msr,
            msr_x2apic: frame_of(&msrs)?,
        })
    }

    /// Ports 0 to 0x7fff.
    pub(super) fn io_a(&self) -> HostPhys {
        self.io.address()
    }

    /// Ports 0x8000 to 0xffff.
    pub(super) fn io_b(&self) -> HostPhys {
        self.io.address().wrapping_add(IoBitmaps::B_OFFSET as u64)
    }

    pub(super) fn msr(&self) -> HostPhys {
        self.msr.address()
    }

    /// The MSR bitmap of guests whose x2APIC the processor virtualises.
    pub(super) fn msr_x2apic(&self) -> HostPhys {
        self.msr_x2apic.address()
    }
}

fn frame_of(bitmap: &MsrBitmap) -> Result<Frame, OutOfFrames> {
    let frame = Frame::zeroed().ok_or(OutOfFrames)?;
    for (number, area) in bitmap.areas().into_iter().enumerate() {
        frame.write(number * area.len(), area);
    }
    Ok(frame)
}
