//! `phantom`: a boot sector by which a machine lists a CPU that never answers.
//!
//! No guest itself: a test puts it before the boot sector of Plinth's own disk. All of it is assembly.

#![no_std]
#![no_main]

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("../phantom.S"));

/// Required by the language; nothing here is Rust that could panic.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
