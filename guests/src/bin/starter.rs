//! `starter`: a boot sector that starts a guest on the bare machine, where `cargo xtask run --bare` asks for it.
//!
//! No guest itself: `xtask` lays the guest out in memory as the hypervisor's own loaders do, has the emulator put
//! that somewhere into RAM, and writes where to the disk's second sector. All of it is assembly.

#![no_std]
#![no_main]

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("../starter.S"));

/// Required by the language; nothing here is Rust that could panic.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
