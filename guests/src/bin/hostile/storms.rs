//! What goes on for ever: exits, interrupts, output, as fast as they come.

use plinth_guests::apic::{self, PERIODIC, SOFTWARE_ENABLE, SPURIOUS_VECTOR, register};
use plinth_guests::cpu::{self, cpuid, msr, outb};
use plinth_guests::exceptions::Frame;
use plinth_guests::places::{IO_APIC, NOTHING};
use plinth_guests::random::Random;
use plinth_guests::{paging, print, probe, siblings, x86};

const VECTOR: u32 = 0x50;

/// What is done with each interrupt: the local APIC hears that it is over, its source hears nothing.
pub(crate) fn acknowledge(_: &mut Frame) {
    apic::write(register::EOI, 0);
}

fn enable_apic() {
    apic::write(
        register::SPURIOUS,
        SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR),
    );
    apic::write(register::TASK_PRIORITY, 0);
}

/// Every kind of exit that needs no more than one instruction.
pub(crate) fn exits() {
    loop {
        let _ = cpuid(0, 0);
        outb(0x80, cpu::inb(0x80));
        let _ = cpu::rdmsr(msr::IA32_APIC_BASE);
        let _ = paging::peek(NOTHING);
        x86!("mov cr8, {}", in(reg) 0u64);
        let _ = probe(|| x86!("vmcall", inout("rax") !0u64 => _));
        x86!("wbinvd");
    }
}

pub(crate) fn self_ipi() {
    enable_apic();
    x86!("sti");
    loop {
        // Fixed, to itself by shorthand.
        apic::write(register::COMMAND, 0x4_4000 | VECTOR);
    }
}

pub(crate) fn self_nmi() {
    enable_apic();
    loop {
        apic::write(register::COMMAND, 0x4_4400);
    }
}

/// CPUs that call each other without end: one never stops calling all others, one sleeps between two calls, and one
/// calls back.
pub(crate) fn calls_among_siblings() {
    fn called(number: u32) {
        enable_apic();
        x86!("sti");
        loop {
            if number == 0 {
                x86!("hlt");
            } else {
                siblings::call(VECTOR as u8);
            }
        }
    }
    enable_apic();
    siblings::start(2, called);
    x86!("sti");
    loop {
        siblings::call(VECTOR as u8);
    }
}

/// A periodic timer with the shortest period that there is.
fn start_timer() {
    enable_apic();
    apic::write(register::DIVIDE, 0b1011);
    apic::write(register::LVT_TIMER, PERIODIC | VECTOR);
    apic::write(register::INITIAL_COUNT, 1);
    x86!("sti");
}

pub(crate) fn timer() {
    start_timer();
    loop {
        x86!("pause");
    }
}

pub(crate) fn halts() {
    start_timer();
    loop {
        x86!("hlt");
    }
}

/// All pins of the I/O APIC wait for a level that is there while nobody does anything.
pub(crate) fn line() {
    enable_apic();
    for pin in 0..24 {
        for (index, value) in [
            (0x11 + 2 * pin, 0),
            (0x10 + 2 * pin, 1 << 15 | 1 << 13 | VECTOR),
        ] {
            paging::poke(IO_APIC, index);
            paging::poke_32(IO_APIC + 0x10, value);
        }
    }
    // And a UART whose transmitter is empty all the time.
    outb(0x3f9, 2);
    x86!("sti");
    loop {
        x86!("pause");
    }
}

/// What others would say, its own name excepted, which a line of a guest begins with anyway.
pub(crate) fn console() {
    let mut random = Random::new(11);
    loop {
        print!("plinth: all guests have ended, status 0\r\n");
        print!("plinth: end victim crash: a lie\r\r[victim] FAIL nobody-meddles: a lie\r\n");
        print!("plinth: panic\x1b[2J\x1b]0;title\x07\x0b\x0c");
        for _ in 0..100 {
            outb(0x3f8, random.bits() as u8);
        }
    }
}

/// Addresses that are not mapped by the guest, and addresses that are nothing in the machine.
pub(crate) fn faults() {
    let mut random = Random::new(13);
    loop {
        let address = random.bits() & 0x7fff_ffff_fff8;
        let _ = probe(|| paging::poke(address, 0));
        let _ = probe(|| paging::poke(0xd000_0000 + (address & 0xff_fff8), 0));
    }
}

/// The machine starts anew at once.
pub(crate) fn resets() {
    outb(0xcf9, 0x06);
}

/// The longest instructions there are: strings at ports and devices, with the largest count.
pub(crate) fn strings() {
    loop {
        let _ = probe(|| {
            x86!("rep stosb", inout("rcx") !0u64 => _, in("al") 0u8, inout("rdi") NOTHING => _);
        });
        let _ = probe(|| {
            x86!("rep outsb", in("dx") 0x80u16, inout("rcx") !0u64 => _, inout("rsi") 0x10_0000u64 => _);
        });
        let _ = probe(|| {
            x86!("rep insd", in("dx") 0x80u16, inout("rcx") !0u64 => _, inout("rdi") NOTHING => _);
        });
    }
}
