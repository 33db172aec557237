//! Access to model-specific registers, with a net under the ones that may not exist.

use core::arch::asm;

/// Reads an MSR that is known to exist: an architectural one whose CPUID bit, if it has any, is set. A read
/// that faults is a bug, and ends in the epitaph of a #GP.
#[inline]
pub(crate) fn read_msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading an MSR changes nothing that Rust knows of; a missing one faults.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack, nomem, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR that is known to exist and to take the value.
///
/// # Safety
/// MSRs change what the processor does. The value must leave everything that the hypervisor relies on
/// intact.
#[inline]
pub(crate) unsafe fn write_msr(index: u32, value: u64) {
    // SAFETY: the caller knows what the register does. Memory is a clobber, as some MSRs change how it is
    // seen.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}

/// Reads an MSR, or `None` where the processor says #GP.
pub(crate) fn try_read_msr(index: u32) -> Option<u64> {
    let (low, high, failed): (u32, u32, u32);
    // SAFETY: as in `read_msr`; a fault continues at label 3, where `failed` is 1.
    unsafe {
        asm!(
            "2: rdmsr",
            "xor {failed:e}, {failed:e}",
            "jmp 4f",
            "3: mov {failed:e}, 1",
            "4:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            failed = out(reg) failed,
            inout("ecx") index => _,
            out("eax") low,
            out("edx") high,
            options(nostack, nomem),
        );
    }
    (failed == 0).then_some(u64::from(high) << 32 | u64::from(low))
}
