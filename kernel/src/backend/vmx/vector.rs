//! The XMM registers, which hold the values of the guest that is loaded: the hypervisor is compiled without SIMD.
//!
//! The emulator reaches them for instructions that move one to or from a device. Such an instruction has passed the
//! guest's own CR0.TS, CR0.EM and CR4.OSFXSR before it came to memory; the host has none of these in the way.

use core::arch::asm;

/// Uses the name of the register with this number.
macro_rules! by_number {
    ($number:expr, $use:ident, $otherwise:expr) => {
        match $number {
            0 => $use!("xmm0"),
            1 => $use!("xmm1"),
            2 => $use!("xmm2"),
            3 => $use!("xmm3"),
            4 => $use!("xmm4"),
            5 => $use!("xmm5"),
            6 => $use!("xmm6"),
            7 => $use!("xmm7"),
            8 => $use!("xmm8"),
            9 => $use!("xmm9"),
            10 => $use!("xmm10"),
            11 => $use!("xmm11"),
            12 => $use!("xmm12"),
            13 => $use!("xmm13"),
            14 => $use!("xmm14"),
            15 => $use!("xmm15"),
            _ => $otherwise,
        }
    };
}

/// Reads a register; `None` beyond the sixteen.
pub(super) fn read(number: u8) -> Option<u128> {
    let mut value = 0u128;
    let place = &raw mut value;
    macro_rules! store {
        ($register:literal) => {
            asm!(concat!("movups [{0}], ", $register), in(reg) place, options(nostack, preserves_flags))
        };
    }
    // SAFETY: writes the 16 bytes of `value`.
    unsafe { by_number!(number, store, return None) };
    Some(value)
}

/// Writes a register, and leaves what AVX has beyond its 128 bits; `false` beyond the sixteen.
pub(super) fn write(number: u8, value: u128) -> bool {
    let place = &raw const value;
    macro_rules! load {
        ($register:literal) => {
            asm!(concat!("movups ", $register, ", [{0}]"), in(reg) place, options(nostack, preserves_flags, readonly))
        };
    }
    // SAFETY: the register is the loaded guest's, which is what the caller wants changed.
    unsafe { by_number!(number, load, return false) };
    true
}
