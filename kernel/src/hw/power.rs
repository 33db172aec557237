//! How the machine ends: switched off, reset, or left standing with its last words on the screen.

use core::arch::asm;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::acpi::{Platform, ResetAddress, ResetRegister, SoftOff};
use super::{clock, console};
use crate::cpu;
use crate::memory::map_device;
use memory::Range;

/// PM1 control register (ACPI specification, PM1 Control Registers): ACPI mode is on; the sleep type; go to
/// sleep.
const SCI_ENABLED: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE_MASK: u16 = 7 << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u16 = 1 << 13;
/// How long a method of switching off or resetting gets to take effect.
const EFFECT_US: u64 = 500_000;
/// How long the firmware gets to hand over the ACPI registers.
const HAND_OVER_US: u64 = 1_000_000;

struct Methods {
    soft_off: Option<SoftOff>,
    reset: Option<ResetRegister>,
}

static METHODS: Once<Methods> = Once::new();

/// Remembers what the ACPI tables say.
pub(crate) fn init(platform: &Platform) {
    METHODS.call_once(|| Methods {
        soft_off: platform.soft_off,
        reset: platform.reset,
    });
}

/// Ends the machine after something that somebody should read: switched off where an emulator's owner waits
/// for it, standing still before a screen.
pub(crate) fn stop_and_show() -> ! {
    if cpu::features::is_emulated() {
        power_off()
    }
    console::drain();
    cpu::halt_forever()
}

/// Switches the machine off.
pub(crate) fn power_off() -> ! {
    x86_64::instructions::interrupts::disable();
    console::drain();
    if let Some(soft_off) = METHODS.get().and_then(|methods| methods.soft_off) {
        enter_s5(&soft_off);
    }
    if cpu::features::is_emulated() {
        emulators_power_off();
    }
    log::error!("this machine does not switch itself off: please do it by hand");
    console::drain();
    cpu::halt_forever()
}

fn enter_s5(soft_off: &SoftOff) {
    let control = |port: u16| Port::<u16>::new(port);
    let Some((port, _)) = soft_off.pm1_control[0] else {
        return;
    };
    if let Some((command, value)) = soft_off.enable {
        // SAFETY: the FADT names these registers; in this order they are handed over and used.
        unsafe {
            if control(port).read() & SCI_ENABLED == 0 {
                Port::<u8>::new(command).write(value);
                wait_until(HAND_OVER_US, || control(port).read() & SCI_ENABLED != 0);
            }
        }
    }
    for (port, sleep_type) in soft_off.pm1_control.into_iter().flatten() {
        // SAFETY: these are the PM1 control registers, and the sleep type is that of S5.
        unsafe {
            let value =
                control(port).read() & !SLEEP_TYPE_MASK | u16::from(sleep_type) << SLEEP_TYPE_SHIFT;
            control(port).write(value);
            control(port).write(value | SLEEP_ENABLE);
        }
    }
    clock::delay_us(EFFECT_US);
}

/// Ports of emulators that switch off without any ACPI table.
fn emulators_power_off() {
    // SAFETY: this is an emulator, where nothing else is at these ports: the PM1 control registers that
    // Bochs and QEMU have by default, and Bochs's port that ends a run on a certain word.
    unsafe {
        Port::<u16>::new(0x604).write(SLEEP_ENABLE);
        Port::<u16>::new(0xb004).write(SLEEP_ENABLE);
        for &byte in b"Shutdown" {
            Port::<u8>::new(0x8900).write(byte);
        }
    }
    clock::delay_us(EFFECT_US);
}

/// Resets the machine.
pub(crate) fn reset() -> ! {
    x86_64::instructions::interrupts::disable();
    console::drain();
    if let Some(register) = METHODS.get().and_then(|methods| methods.reset) {
        // SAFETY: the FADT names the register and the value.
        unsafe {
            match register.at {
                ResetAddress::Port(port) => Port::new(port).write(register.value),
                ResetAddress::Memory(hpa) => {
                    if let Some(address) = Range::<memory::HostPhys>::from_len(hpa, 1)
                        .and_then(|byte| map_device(byte).ok())
                    {
                        (address.as_u64() as *mut u8).write_volatile(register.value);
                    }
                }
            }
        }
        clock::delay_us(EFFECT_US);
    }
    // SAFETY: the reset control register of PCs since PCI, then the keyboard controller's reset line.
    unsafe {
        Port::<u8>::new(0xcf9).write(0x02);
        Port::<u8>::new(0xcf9).write(0x06);
        clock::delay_us(EFFECT_US);
        wait_until(EFFECT_US, || Port::<u8>::new(0x64).read() & 2 == 0);
        Port::<u8>::new(0x64).write(0xfeu8);
        clock::delay_us(EFFECT_US);
    }
    // The last resort: an exception that no handler can be found for.
    let nothing = DescriptorTablePointer {
        limit: 0,
        base: VirtAddr::zero(),
    };
    // SAFETY: this is meant to end everything.
    unsafe {
        lidt(&nothing);
        asm!("ud2", options(noreturn));
    }
}

fn wait_until(us: u64, mut condition: impl FnMut() -> bool) {
    let end = clock::now_ns() + us * 1000;
    while !condition() && clock::now_ns() < end {
        core::hint::spin_loop();
    }
}
