//! The state that stays in the CPU between exits and is switched only when another vCPU takes over.
//!
//! The hypervisor itself uses no x87 or SIMD register, no debug register, no SYSCALL MSR and no CR2, so a guest's
//! values may stay where they are from exit to entry. [`SwitchedState::unload`] takes all of it out of the CPU
//! and leaves nothing of this guest behind that [`SwitchedState::load`] of the next does not overwrite.

use core::arch::asm;

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;

use arch::{Cr4, Xcr0, msr};

use super::OutOfFrames;
use crate::cpu::control;
use crate::cpu::msr::{read_msr, write_msr};

/// The MSRs that pass through to the guest and that the VMCS does not switch.
const SWITCHED_MSRS: [u32; 5] = [
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
    msr::IA32_KERNEL_GS_BASE,
];

/// What of this state the host CPU has, found once at boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostExtendedState {
    /// All components that the CPU has and that this hypervisor lets guests use; `None` without XSAVE.
    pub(crate) xcr0: Option<Xcr0>,
    /// Bytes of a save area for all of them in the standard form.
    pub(crate) area_bytes: usize,
    /// IA32_XSS and the supervisor components are there.
    pub(crate) xss: bool,
    /// IA32_TSC_AUX is there.
    pub(crate) tsc_aux: bool,
    /// XSAVEC is there and puts the state where XRSTOR looks for it.
    pub(crate) compaction: bool,
    /// Where XSAVE puts PKRU in the standard form, for a processor that does not tell.
    pub(crate) pkru_offset: Option<u32>,
}

impl HostExtendedState {
    /// Asks this CPU (CPUID.1, .0DH, .80000001H).
    pub(crate) fn detect() -> Self {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        let has_xsave = __cpuid(1).ecx & (1 << 26) != 0;
        let extended = __cpuid(0x8000_0000).eax >= 0x8000_0001;
        let tsc_aux = extended && __cpuid(0x8000_0001).edx & (1 << 27) != 0;
        if !has_xsave {
            return Self {
                xcr0: None,
                area_bytes: 512,
                xss: false,
                tsc_aux,
                compaction: false,
                pkru_offset: None,
            };
        }
        let main = __cpuid_count(0xd, 0);
        let wanted = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::AVX512 | Xcr0::PKRU;
        let offered = Xcr0::from_bits_retain(u64::from(main.eax) | u64::from(main.edx) << 32);
        let xcr0 = offered & wanted;
        let shown = __cpuid_count(0xd, 1).eax & (1 << 1) != 0;
        let compaction = shown && compaction_works(xcr0, main.ecx as usize);
        if shown && !compaction {
            log::warn!(
                target: "vmx",
                "this processor's XSAVEC does not write what XRSTOR reads: guests are not shown it"
            );
        }
        let told = __cpuid_count(0xd, PKRU_COMPONENT).eax != 0;
        let pkru_offset = if xcr0.contains(Xcr0::PKRU) && !told {
            find_pkru(xcr0, main.ecx as usize)
        } else {
            None
        };
        Self {
            xcr0: Some(xcr0),
            compaction,
            pkru_offset,
            // ECX: the size with every component that the CPU has, so with any subset as well.
            area_bytes: (main.ecx as usize).max(576),
            xss: __cpuid_count(0xd, 1).eax & (1 << 3) != 0,
            tsc_aux,
        }
    }
}

impl HostExtendedState {
    /// Whether the CPU that this runs on takes the same components, in an area that is not larger.
    pub(crate) fn fits_this_cpu(&self) -> bool {
        use core::arch::x86_64::__cpuid_count;
        let Some(xcr0) = self.xcr0 else { return true };
        let main = __cpuid_count(0xd, 0);
        let offered = Xcr0::from_bits_retain(u64::from(main.eax) | u64::from(main.edx) << 32);
        offered.contains(xcr0) && main.ecx as usize <= self.area_bytes
    }
}

/// Whether a YMM register survives XSAVEC and XRSTOR with every set of components that keeps YMM at another place:
/// with AVX alone it follows the header. Bochs 2.7 writes it elsewhere than it reads it.
fn compaction_works(all: Xcr0, area_bytes: usize) -> bool {
    let pattern: u128 = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;
    if !all.contains(Xcr0::AVX) {
        return true;
    }
    let Some(area) = SaveArea::new(area_bytes.max(1024)) else {
        return false;
    };
    let mut upper: u128 = 0;
    // SAFETY: XCR0 takes every component that CPUID offers; the area has room for them. The registers that are
    // changed are nobody's yet: the hypervisor uses none of them, and no guest has run.
    unsafe {
        write_xcr0(all);
        asm!(
            "vbroadcastf128 ymm0, [{pattern}]",
            "xsavec64 [{area}]",
            "vzeroall",
            "xrstor64 [{area}]",
            "vextractf128 [{upper}], ymm0, 1",
            "vzeroall",
            pattern = in(reg) &raw const pattern,
            area = in(reg) area.start.as_ptr(),
            upper = in(reg) &raw mut upper,
            in("eax") Xcr0::AVX.bits() as u32,
            in("edx") 0,
            options(nostack),
        );
    }
    upper == pattern
}

/// PKRU's number among the state components.
const PKRU_COMPONENT: u32 = 9;

/// Where XSAVE writes PKRU. Bochs 2.7 has it in XCR0, and nothing about it in CPUID leaf 0xd.
fn find_pkru(all: Xcr0, area_bytes: usize) -> Option<u32> {
    const PATTERN: u32 = 0x5a5a_a5a4;
    const HEADER_END: usize = 576;
    if !control::read_cr4().contains(Cr4::PKE) {
        return None;
    }
    let bytes = area_bytes.max(HEADER_END);
    let area = SaveArea::new(bytes)?;
    // SAFETY: XCR0 takes every component that CPUID offers; the area has room for them; CR4.PKE is set. PKRU concerns
    // pages of user mode only, and no guest has run.
    unsafe {
        write_xcr0(all);
        asm!("wrpkru", in("eax") PATTERN, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags));
        asm!(
            "xsave64 [{area}]",
            area = in(reg) area.start.as_ptr(),
            in("eax") Xcr0::PKRU.bits() as u32,
            in("edx") 0,
            options(nostack, preserves_flags),
        );
        asm!("wrpkru", in("eax") 0, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags));
    }
    let found = (HEADER_END..bytes - 3).step_by(8).find(|&offset| {
        // SAFETY: the doubleword lies within the area.
        unsafe { area.start.as_ptr().add(offset).cast::<u32>().read() == PATTERN }
    })?;
    Some(found as u32)
}

/// An XSAVE area: 64-byte aligned, zeroed, of the size that the CPU asks for.
struct SaveArea {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the area is plain memory, owned by this value alone.
unsafe impl Send for SaveArea {}

impl SaveArea {
    const ALIGNMENT: usize = 64;

    /// An area, unless memory has run out.
    fn new(bytes: usize) -> Option<Self> {
        let Ok(layout) = Layout::from_size_align(bytes, Self::ALIGNMENT) else {
            unreachable!("CPUID.0DH gives sizes far below the address space's");
        };
        // SAFETY: the layout's size is not zero: an XSAVE area has 576 bytes at least.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start)?;
        let area = Self { start, layout };
        // The initial MXCSR and x87 control word (SDM vol. 1, Processor State After Reset), for a load before
        // the first save: FXRSTOR takes them from here, XRSTOR with a zero XSTATE_BV does not look.
        // SAFETY: both offsets lie in the 512-byte legacy region of the area.
        unsafe {
            start.as_ptr().cast::<u16>().write(0x040);
            start.as_ptr().add(24).cast::<u32>().write(0x1f80);
        }
        Some(area)
    }
}

impl Drop for SaveArea {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// One vCPU's share of the state described above, while another one runs.
pub(super) struct SwitchedState {
    host: HostExtendedState,
    area: SaveArea,
    msrs: [u64; SWITCHED_MSRS.len()],
    tsc_aux: u64,
    /// DR0 to DR3 and DR6; the VMCS has DR7.
    debug: [u64; 5],
    cr2: u64,
    /// The guest's XCR0; loaded with the rest.
    pub(super) xcr0: Xcr0,
    /// The guest's IA32_XSS.
    pub(super) xss: u64,
}

impl SwitchedState {
    /// The state after a reset (SDM vol. 3, Processor State After Reset).
    pub(super) fn new(host: HostExtendedState) -> Result<Self, OutOfFrames> {
        Ok(Self {
            area: SaveArea::new(host.area_bytes).ok_or(OutOfFrames)?,
            host,
            msrs: [0; SWITCHED_MSRS.len()],
            tsc_aux: 0,
            debug: [0, 0, 0, 0, 0xffff_0ff0],
            cr2: 0,
            xcr0: Xcr0::X87,
            xss: 0,
        })
    }

    /// What its area takes of the heap at most.
    pub(super) const fn area_bytes(host: &HostExtendedState) -> usize {
        host.area_bytes + SaveArea::ALIGNMENT
    }

    /// Puts the state into the CPU.
    pub(super) fn load(&mut self) {
        for (index, value) in SWITCHED_MSRS.into_iter().zip(self.msrs) {
            // SAFETY: these MSRs exist wherever long mode does, the values were read from them or checked as
            // canonical by the handlers, and the hypervisor does not use them.
            unsafe { write_msr(index, value) };
        }
        if self.host.tsc_aux {
            // SAFETY: as above; the MSR exists, CPUID said so.
            unsafe { write_msr(msr::IA32_TSC_AUX, self.tsc_aux) };
        }
        let [dr0, dr1, dr2, dr3, dr6] = self.debug;
        // SAFETY: DR7 is 0x400 in the host (loaded at each exit), so no breakpoint is armed; CR2 is only read
        // by a page-fault handler.
        unsafe {
            asm!(
                "mov dr0, {0}", "mov dr1, {1}", "mov dr2, {2}", "mov dr3, {3}", "mov dr6, {4}", "mov cr2, {5}",
                in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3, in(reg) dr6, in(reg) self.cr2,
                options(nostack, nomem),
            );
        }
        if let Some(all) = self.host.xcr0 {
            // SAFETY: XCR0 takes every component that CPUID offers; the area is large enough for all of them
            // and holds what XSAVE wrote, or zeroes with a valid legacy region.
            unsafe {
                write_xcr0(all);
                asm!(
                    "xrstor64 [{0}]",
                    in(reg) self.area.start.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack),
                );
                write_xcr0(self.xcr0);
            }
        } else {
            // SAFETY: the area has 512 bytes, 64-byte aligned, with a valid MXCSR.
            unsafe { asm!("fxrstor64 [{0}]", in(reg) self.area.start.as_ptr(), options(nostack)) };
        }
        if self.host.xss {
            // SAFETY: the MSR exists, and the handlers let the guest set supported bits only.
            unsafe { write_msr(msr::IA32_XSS, self.xss) };
        }
    }

    /// Takes the state out of the CPU.
    pub(super) fn unload(&mut self) {
        for (index, value) in SWITCHED_MSRS.into_iter().zip(self.msrs.iter_mut()) {
            *value = read_msr(index);
        }
        if self.host.tsc_aux {
            self.tsc_aux = read_msr(msr::IA32_TSC_AUX);
        }
        let [dr0, dr1, dr2, dr3, dr6] = &mut self.debug;
        // SAFETY: reads registers only.
        unsafe {
            asm!(
                "mov {0}, dr0", "mov {1}, dr1", "mov {2}, dr2", "mov {3}, dr3", "mov {4}, dr6", "mov {5}, cr2",
                out(reg) *dr0, out(reg) *dr1, out(reg) *dr2, out(reg) *dr3, out(reg) *dr6, out(reg) self.cr2,
                options(nostack, nomem),
            );
        }
        if let Some(all) = self.host.xcr0 {
            // SAFETY: XCR0 takes every component that CPUID offers; the area has room for all of them.
            unsafe {
                write_xcr0(all);
                asm!(
                    "xsave64 [{0}]",
                    in(reg) self.area.start.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack),
                );
            }
        } else {
            // SAFETY: the area has 512 bytes, 64-byte aligned.
            unsafe { asm!("fxsave64 [{0}]", in(reg) self.area.start.as_ptr(), options(nostack)) };
        }
    }

    /// The place of a switched MSR's value while it is not in the CPU, for tests of membership.
    pub(super) fn switches(&self, index: u32) -> bool {
        SWITCHED_MSRS.contains(&index) || (index == msr::IA32_TSC_AUX && self.host.tsc_aux)
    }

    /// Takes XCR0 over for the guest that is loaded.
    pub(super) fn set_xcr0(&mut self, xcr0: Xcr0) {
        self.xcr0 = xcr0;
        if self.host.xcr0.is_some() {
            // SAFETY: the handlers let the guest set only what CPUID shows it, a subset of the host's.
            unsafe { write_xcr0(xcr0) };
        }
    }

    /// Takes IA32_XSS over for the guest that is loaded.
    pub(super) fn set_xss(&mut self, xss: u64) {
        self.xss = xss;
        if self.host.xss {
            // SAFETY: the MSR exists, and the handlers let the guest set supported bits only.
            unsafe { write_msr(msr::IA32_XSS, xss) };
        }
    }
}

/// Sets XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set, and `xcr0` is a valid combination of components that CPUID.0DH offers.
unsafe fn write_xcr0(xcr0: Xcr0) {
    let bits = xcr0.bits();
    // SAFETY: the caller vouches for the value; the hypervisor itself uses no extended state.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0, in("eax") bits as u32, in("edx") (bits >> 32) as u32,
            options(nostack, nomem),
        );
    }
}
