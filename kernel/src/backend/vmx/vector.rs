//! The vector registers and those of MMX, which hold the values of the guest that is loaded: the hypervisor is compiled without SIMD.
//!
//! The emulator reaches them for instructions that move one to or from a device. Such an instruction has passed the
//! guest's own CR0.TS, CR0.EM and CR4.OSFXSR before it came to memory; the host has none of these in the way.

use core::arch::asm;

/// Uses the number of a register in assembly, if it is one of those listed.
macro_rules! by_number {
    ($number:expr, $use:ident, $otherwise:expr, $($known:literal)*) => {
        match $number {
            $($known => $use!($known),)*
            _ => $otherwise,
        }
    };
}

/// For one of the sixteen XMM or YMM registers.
macro_rules! by_vector {
    ($number:expr, $use:ident, $otherwise:expr) => {
        by_number!($number, $use, $otherwise, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
}

/// For one of the eight MMX registers.
macro_rules! by_mmx {
    ($number:expr, $use:ident, $otherwise:expr) => {
        by_number!($number, $use, $otherwise, 0 1 2 3 4 5 6 7)
    };
}

/// Reads a register; `None` beyond the sixteen.
pub(super) fn read(number: u8) -> Option<u128> {
    let mut value = 0u128;
    let place = &raw mut value;
    macro_rules! store {
        ($register:literal) => {
            asm!(concat!("movups [{0}], xmm", $register), in(reg) place, options(nostack, preserves_flags))
        };
    }
    // SAFETY: writes the 16 bytes of `value`.
    unsafe { by_vector!(number, store, return None) };
    Some(value)
}

/// Writes a register, and leaves what AVX has beyond its 128 bits; `false` beyond the sixteen.
pub(super) fn write(number: u8, value: u128) -> bool {
    let place = &raw const value;
    macro_rules! load {
        ($register:literal) => {
            asm!(concat!("movups xmm", $register, ", [{0}]"), in(reg) place, options(nostack, preserves_flags, readonly))
        };
    }
    // SAFETY: the register is the loaded guest's, which is what the caller wants changed.
    unsafe { by_vector!(number, load, return false) };
    true
}

/// Reads a register with what AVX has beyond the 128 bits, up to 256. The guest's XCR0, which is in place, has AVX.
pub(super) fn read_wide(number: u8) -> Option<[u128; 2]> {
    let mut value = [0u128; 2];
    let place = &raw mut value;
    macro_rules! store {
        ($register:literal) => {
            asm!(concat!("vmovups [{0}], ymm", $register), in(reg) place, options(nostack, preserves_flags))
        };
    }
    // SAFETY: writes the 32 bytes of `value`; AVX is on.
    unsafe { by_vector!(number, store, return None) };
    Some(value)
}

/// Writes a register, and clears what is beyond its 256 bits. AVX as in [`read_wide`].
pub(super) fn write_wide(number: u8, value: [u128; 2]) -> bool {
    let place = &raw const value;
    macro_rules! load {
        ($register:literal) => {
            asm!(concat!("vmovups ymm", $register, ", [{0}]"), in(reg) place, options(nostack, preserves_flags, readonly))
        };
    }
    // SAFETY: the register is the loaded guest's, which is what the caller wants changed; AVX is on.
    unsafe { by_vector!(number, load, return false) };
    true
}

/// Reads an MMX register by the instruction that the guest's does the same with, so that the x87 state changes alike.
pub(super) fn read_mmx(number: u8) -> Option<u64> {
    let mut value = 0u64;
    let place = &raw mut value;
    macro_rules! store {
        ($register:literal) => {
            asm!(concat!("movq [{0}], mm", $register), in(reg) place, options(nostack, preserves_flags))
        };
    }
    // SAFETY: writes the 8 bytes of `value`; the registers are the loaded guest's.
    unsafe { by_mmx!(number, store, return None) };
    Some(value)
}

/// Writes an MMX register in the same way.
pub(super) fn write_mmx(number: u8, value: u64) -> bool {
    let place = &raw const value;
    macro_rules! load {
        ($register:literal) => {
            asm!(concat!("movq mm", $register, ", [{0}]"), in(reg) place, options(nostack, preserves_flags, readonly))
        };
    }
    // SAFETY: the register is the loaded guest's, which is what the caller wants changed.
    unsafe { by_mmx!(number, load, return false) };
    true
}
