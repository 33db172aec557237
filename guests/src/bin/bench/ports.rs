//! Ports and device memory.

use crate::measure::bench;
use crate::ticks;
use plinth_guests::cpu::inb;
use plinth_guests::places::{IO_APIC, NOTHING};

/// A window for PCI devices, where no device is.
const IOAPIC_WINDOW: u64 = IO_APIC + 0x10;
const PIC_MASK: u64 = 0x21;

pub(crate) fn measure() {
    bench(
        "out-80",
        || ticks!(0x80u64, 0u64; "mov edx, edi", "out dx, al"),
    );
    for (name, port) in [
        ("in-uart-lsr", 0x3fdu64),
        ("in-pic", PIC_MASK),
        ("in-pit", 0x40),
        ("in-pm-timer", 0x608),
    ] {
        bench(name, || ticks!(port, 0u64; "mov edx, edi", "in al, dx"));
    }
    let mask = u64::from(inb(PIC_MASK as u16));
    bench(
        "out-pic",
        || ticks!(PIC_MASK, mask; "mov edx, edi", "mov eax, esi", "out dx, al"),
    );
    bench(
        "mmio-read-unbacked",
        || ticks!(NOTHING, 0u64; "mov eax, [rdi]"),
    );
    bench(
        "mmio-write-unbacked",
        || ticks!(NOTHING, 0u64; "mov [rdi], eax"),
    );
    bench("ioapic-write", || ticks!(IO_APIC, 1u64; "mov [rdi], esi"));
    bench(
        "ioapic-read",
        || ticks!(IOAPIC_WINDOW, 0u64; "mov eax, [rdi]"),
    );
}
