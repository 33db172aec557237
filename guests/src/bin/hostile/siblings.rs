//! CPUs of one guest against each other: one storms the others with every kind of IPI, INIT and start-up at random
//! places among them, while another moves its local APIC about, and a third rewrites the code that the first executes
//! on devices.

use core::sync::atomic::{AtomicU64, Ordering};

use plinth_guests::apic::BASE;
use plinth_guests::apic::base::{EN, EXTD};
use plinth_guests::cpu::{self, msr};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::places::{IO_APIC, NOTHING};
use plinth_guests::random::Random;
use plinth_guests::{apic, descriptors, siblings, x86};

/// CPUs beside the first.
const OTHERS: u32 = 2;
/// An instruction on RDI and a return, in 8 bytes each; some of them access no memory.
const INSTRUCTIONS: [[u8; 8]; 6] = [
    [0x89, 0x07, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3], // mov [rdi], eax
    [0x8b, 0x07, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3], // mov eax, [rdi]
    [0x0f, 0xb6, 0x47, 0x01, 0xc3, 0xc3, 0xc3, 0xc3], // movzx eax, byte ptr [rdi + 1]
    [0xf0, 0x48, 0x0f, 0xc1, 0x07, 0xc3, 0xc3, 0xc3], // lock xadd [rdi], rax
    [0x90, 0x90, 0x90, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3], // three nops
    [0xf3, 0x0f, 0x1e, 0xfa, 0xc3, 0xc3, 0xc3, 0xc3], // endbr64
];

/// The code that one executes and another rewrites, in a page of its own.
#[repr(C, align(4096))]
struct Code(AtomicU64);

static CODE: Code = Code(AtomicU64::new(u64::from_le_bytes(INSTRUCTIONS[0])));

/// How long it stays as it is: an emulator is slow where code changes all the time.
const STAYS: u32 = 3000;

/// Where an APIC may be put: its usual place, devices, this guest's own memory, and places where nothing is.
const PLACES: [u64; 6] = [
    BASE,
    IO_APIC,
    NOTHING,
    0x50_0000,
    0xe000_0000,
    BASE + 0x1000,
];

/// An instruction that nobody wrote: half of one and half of another. The call has to end.
fn return_at_once(frame: &mut Frame) {
    let stack = frame.rsp as *const u64;
    // SAFETY: the code was called, so the address to return to is on top of the stack.
    frame.rip = unsafe { stack.read() };
    frame.rsp += 8;
}

/// What the other CPUs do: the first of them moves its APIC, the second writes code.
fn other(number: u32) {
    let mut random = Random::new(u64::from(number) + 17);
    if number == 0 {
        x86!("sti");
        loop {
            move_apic(&mut random);
        }
    }
    loop {
        let code = random.one_of(&INSTRUCTIONS);
        CODE.0.store(u64::from_le_bytes(code), Ordering::Relaxed);
        x86!("2: dec {:e}", "jnz 2b", inout(reg) STAYS => _, options(nomem, nostack));
    }
}

/// From place to place, into x2APIC mode and out of it, in steps that are allowed.
fn move_apic(random: &mut Random) {
    let place = random.one_of(&PLACES);
    // INIT leaves it in whatever mode it was.
    cpu::wrmsr(msr::IA32_APIC_BASE, place);
    cpu::wrmsr(msr::IA32_APIC_BASE, place | EN);
    x86!("mov dword ptr [{}], 0x1ff", in(reg) place + 0xf0);
    x86!("mov eax, [{}]", in(reg) BASE + 0x20, out("eax") _);
    if random.below(4) == 0 {
        cpu::wrmsr(msr::IA32_APIC_BASE, place | EN | EXTD);
        cpu::wrmsr(0x80f, 0x1ff);
        cpu::wrmsr(msr::IA32_APIC_BASE, place);
        cpu::wrmsr(msr::IA32_APIC_BASE, place | EN);
    }
}

/// Any IPI to the others: fixed, lowest priority, NMI, INIT, and start-up at any page.
fn command(random: &mut Random) -> u32 {
    let mode = random.one_of(&[0u32, 0, 0, 1, 4, 4, 5, 6]);
    let vector = random.bits() as u32 & 0xff;
    // No exception, and no page where the other CPUs are to be started.
    let vector = if mode < 2 {
        vector | 0x20
    } else {
        vector | 0x80
    };
    let shorthand = random.below(2) as u32 * 3;
    vector | mode << 8 | 1 << 14 | shorthand << 18
}

pub(crate) fn fight() {
    set_handler(6, Some(return_at_once));
    // The other CPUs have no TSS, and so no stack of its own for an NMI.
    descriptors::set_gate(2, descriptors::gate(2) & !(7 << 32));
    apic::enable();
    let mut random = Random::new(5);
    loop {
        siblings::start(OTHERS, other);
        for _ in 0..60 {
            for _ in 0..30 {
                x86!("call {}", in(reg) CODE.0.as_ptr(), in("rdi") NOTHING, inout("rax") 0u64 => _);
            }
            let command = command(&mut random);
            // Not to itself by the way of the destination: that would be the end.
            if command >> 18 & 3 == 3 {
                apic::send(command, 0);
            } else {
                apic::send(command, 1 + random.below(2) as u32);
            }
        }
    }
}
