//! Plinth: entry point.
#![no_std]
#![no_main]

mod hw;

use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::{BootInfo, entry_point};

/// What the boot loader is asked for.
static BOOT_LOADER: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::FixedAddress(0xffff_8000_0000_0000));
    config.mappings.dynamic_range_start = Some(0xffff_c000_0000_0000);
    config.kernel_stack_size = 64 * 1024;
    config
};

entry_point!(main, config = &BOOT_LOADER);

fn main(boot_info: &'static mut BootInfo) -> ! {
    let mut serial = unsafe { hw::serial::Serial::detect() };
    serial.write(b"plinth: hello\r\n");
    serial.drain();
    let _ = boot_info;
    unsafe { x86_64::instructions::port::Port::<u16>::new(0xb004).write(0x2000u16) };
    unsafe { x86_64::instructions::port::Port::<u16>::new(0x604).write(0x2000u16) };
    loop {}
}
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
