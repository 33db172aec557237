//! Interrupt handlers with as few instructions as possible: the runtime's own would be most of what is measured.

use core::arch::global_asm;
use plinth_guests::descriptors::{KERNEL_CODE, gate, gate_descriptor, kind, set_gate};
use plinth_guests::single::Single;

// `taken` is the TSC when the last interrupt was handled, `count` how many were. Each handler keeps all registers.
#[cfg(target_os = "none")]
global_asm!(
    ".macro note_time",
    "push rax",
    "push rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [{taken}], rax",
    "inc qword ptr [{count}]",
    ".endm",
    // #GP at an instruction of two bytes: goes on behind it.
    ".global vector_skip_two_bytes",
    "vector_skip_two_bytes:",
    "add qword ptr [rsp + 8], 2",
    "add rsp, 8",
    "iretq",
    ".global vector_xapic",
    "vector_xapic:",
    "note_time",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rdx",
    "pop rax",
    "iretq",
    ".global vector_x2apic",
    "vector_x2apic:",
    "note_time",
    "push rcx",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "pop rcx",
    "pop rdx",
    "pop rax",
    "iretq",
    // EOI, and the next deadline in `period` ticks.
    ".global vector_xapic_periodic",
    "vector_xapic_periodic:",
    "note_time",
    "push rcx",
    "mov ecx, 0xfee000b0",
    "mov dword ptr [rcx], 0",
    "jmp 3f",
    ".global vector_x2apic_periodic",
    "vector_x2apic_periodic:",
    "note_time",
    "push rcx",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "3: mov rax, [{taken}]",
    "add rax, {period}",
    "mov rdx, rax",
    "shr rdx, 32",
    "mov ecx, 0x6e0",
    "wrmsr",
    "pop rcx",
    "pop rdx",
    "pop rax",
    "iretq",
    taken = sym TAKEN,
    count = sym COUNT,
    period = const PERIOD,
);

/// Ticks between the deadlines of the periodic handlers.
pub(crate) const PERIOD: u64 = 20_000;

static TAKEN: Single<u64> = Single::new(0);
static COUNT: Single<u64> = Single::new(0);

unsafe extern "C" {
    fn vector_skip_two_bytes();
    fn vector_xapic();
    fn vector_x2apic();
    fn vector_xapic_periodic();
    fn vector_x2apic_periodic();
}

/// The address of a handler.
#[derive(Clone, Copy)]
pub(crate) struct Handler(pub(crate) u64);

/// The handlers for one mode of the local APIC.
#[derive(Clone, Copy)]
pub(crate) struct Handlers {
    /// EOI, and nothing else.
    pub(crate) once: Handler,
    /// EOI, and the next deadline.
    pub(crate) periodic: Handler,
}

pub(crate) fn skip_two_bytes() -> Handler {
    Handler(vector_skip_two_bytes as *const () as u64)
}

pub(crate) fn xapic() -> Handlers {
    Handlers {
        once: Handler(vector_xapic as *const () as u64),
        periodic: Handler(vector_xapic_periodic as *const () as u64),
    }
}

pub(crate) fn x2apic() -> Handlers {
    Handlers {
        once: Handler(vector_x2apic as *const () as u64),
        periodic: Handler(vector_x2apic_periodic as *const () as u64),
    }
}

/// Points a vector to a handler and returns the gate that was there.
pub(crate) fn set(vector: u8, Handler(at): Handler) -> u64 {
    let old = gate(vector);
    set_gate(
        vector,
        gate_descriptor(kind::INTERRUPT_GATE, KERNEL_CODE, at),
    );
    old
}

pub(crate) fn restore(vector: u8, gate: u64) {
    set_gate(vector, gate);
}

/// When the last interrupt was handled.
pub(crate) fn taken() -> u64 {
    // SAFETY: handlers write it whole; volatile for that reason.
    unsafe { TAKEN.get().read_volatile() }
}

/// How many interrupts were handled.
pub(crate) fn count() -> u64 {
    // SAFETY: as above.
    unsafe { COUNT.get().read_volatile() }
}
