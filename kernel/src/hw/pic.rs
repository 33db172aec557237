//! The two 8259 interrupt controllers, which are only kept quiet: interrupts come through the I/O APIC.

use x86_64::instructions::port::Port;

/// Command and data ports.
const MASTER: (u16, u16) = (0x20, 0x21);
const SLAVE: (u16, u16) = (0xa0, 0xa1);
/// Where their spurious interrupts go: away from the exceptions.
const MASTER_VECTOR: u8 = 0x20;
const SLAVE_VECTOR: u8 = 0x28;

/// Moves both controllers away from the exceptions' vectors and masks all of their lines.
///
/// # Safety
/// Nobody uses the controllers; interrupts are off.
pub(crate) unsafe fn mask_all() {
    let write = |port: u16, value: u8| {
        // SAFETY: these are the 8259s' ports on every PC, and they are ours, as the caller promises.
        unsafe { Port::new(port).write(value) };
    };
    // 8259A data sheet, Initialization Command Words: edge-triggered cascade, vectors, wiring, 8086 mode.
    for ((command, data), vector, wiring) in
        [(MASTER, MASTER_VECTOR, 1 << 2), (SLAVE, SLAVE_VECTOR, 2)]
    {
        write(command, 0x11);
        write(data, vector);
        write(data, wiring);
        write(data, 0x01);
        write(data, 0xff);
    }
}
