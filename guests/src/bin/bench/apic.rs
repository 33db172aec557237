//! The local APIC: registers, task priority, end of interrupt, interrupts to itself; in both of its modes.

use crate::measure::bench;
use crate::ticks;
use crate::vectors::{self, Handlers};
use plinth_guests::cpu::{self, cpuid, leaf1_ecx, msr, rdtsc};
use plinth_guests::x86;

pub(crate) use plinth_guests::apic::BASE as XAPIC;
/// Of the interrupts that are measured.
pub(crate) const VECTOR: u8 = 0x61;

const VERSION: u64 = 0x30;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
pub(crate) const SPURIOUS: u64 = 0xf0;
pub(crate) const COMMAND: u64 = 0x300;
pub(crate) const LVT_TIMER: u64 = 0x320;
/// ICR: to itself, fixed.
const TO_SELF: u64 = 1 << 18;
const ENABLED: u64 = 0x1ff;

const X2APIC: u64 = 0x800;
const X2_SELF_IPI: u64 = 0x83f;
/// IA32_APIC_BASE: x2APIC mode.
const EXTD: u64 = 1 << 10;

/// The MSR of a register in x2APIC mode.
pub(crate) const fn x2_register(offset: u64) -> u64 {
    X2APIC + (offset >> 4)
}

pub(crate) fn has_x2apic() -> bool {
    cpuid(1, 0).ecx & leaf1_ecx::X2APIC != 0
}

pub(crate) fn write(offset: u64, value: u64) {
    x86!("mov [{}], {:e}", in(reg) XAPIC + offset, in(reg) value, options(nostack, preserves_flags));
}

pub(crate) fn measure_xapic() {
    write(SPURIOUS, ENABLED);
    bench(
        "xapic-read",
        || ticks!(XAPIC + VERSION, 0u64; "mov eax, [rdi]"),
    );
    bench(
        "xapic-tpr",
        || ticks!(XAPIC + TASK_PRIORITY, 0u64; "mov [rdi], esi"),
    );
    bench(
        "xapic-eoi",
        || ticks!(XAPIC + END_OF_INTERRUPT, 0u64; "mov [rdi], esi"),
    );
    vectors::set(VECTOR, vectors::xapic().once);
    bench("xapic-self-ipi", || {
        until_taken(|| write(COMMAND, TO_SELF | u64::from(VECTOR)))
    });
}

/// Switches to x2APIC mode for good, and measures it.
pub(crate) fn measure_x2apic() {
    if !has_x2apic() {
        return;
    }
    cpu::wrmsr(msr::IA32_APIC_BASE, cpu::rdmsr(msr::IA32_APIC_BASE) | EXTD);
    bench(
        "x2apic-read",
        || ticks!(x2_register(VERSION), 0u64; "mov ecx, edi", "rdmsr"),
    );
    for (name, offset) in [
        ("x2apic-tpr", TASK_PRIORITY),
        ("x2apic-eoi", END_OF_INTERRUPT),
    ] {
        bench(
            name,
            || ticks!(x2_register(offset), 0u64; "mov ecx, edi", "xor eax, eax", "xor edx, edx", "wrmsr"),
        );
    }
    vectors::set(VECTOR, vectors::x2apic().once);
    bench("x2apic-self-ipi", || {
        until_taken(|| cpu::wrmsr(X2_SELF_IPI as u32, u64::from(VECTOR)))
    });
    bench("x2apic-icr-self", || {
        until_taken(|| cpu::wrmsr(x2_register(COMMAND) as u32, TO_SELF | u64::from(VECTOR)))
    });
}

/// Ticks from before `send` until the interrupt's handler looks at the clock.
fn until_taken(send: impl FnOnce()) -> u64 {
    let before = vectors::count();
    x86!("sti");
    let start = rdtsc();
    send();
    while vectors::count() == before {
        core::hint::spin_loop();
    }
    x86!("cli");
    vectors::taken() - start
}

/// The handlers of the mode that the local APIC is in.
pub(crate) fn handlers() -> Handlers {
    if cpu::rdmsr(msr::IA32_APIC_BASE) & EXTD == 0 {
        vectors::xapic()
    } else {
        vectors::x2apic()
    }
}
