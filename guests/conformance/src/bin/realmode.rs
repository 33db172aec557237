//! `realmode`: 16-bit code from 0x7c00, on to protected and long mode, and back to real mode.
//!
//! All of it is assembly; the flat image is this file's link result (see `link/realmode.ld`).
//! `realmode.S` has the entry, the real-mode driver and the way through the modes, `realmode_cases.S` the
//! cases that run in real mode.

#![no_std]
#![no_main]

use core::arch::global_asm;

#[cfg(target_os = "none")]
global_asm!(
    include_str!("../realmode.S"),
    include_str!("../realmode_cases.S")
);

/// Required by the language; nothing in this guest is Rust that could panic.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
