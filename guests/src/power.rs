//! The way out: power-off on the boards that a guest may find itself on.

use crate::cpu::outw;
use crate::serial;
use crate::x86;

/// ACPI PM1a control: SLP_EN with sleep type 0, which is S5 on these boards.
const SOFT_OFF: u16 = 0x2000;

/// Powers the machine off (QEMU's board and Plinth's at 0x604, Bochs's at 0xb004), or else halts for good.
pub fn off() -> ! {
    serial::drain();
    outw(0x604, SOFT_OFF);
    outw(0xb004, SOFT_OFF);
    loop {
        x86!("cli", "hlt", options(nomem, nostack));
    }
}
