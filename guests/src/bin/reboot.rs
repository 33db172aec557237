//! `reboot`: looks whether its memory is as at power-on, leaves traces in parts of it, and asks for a reset.
//!
//! The traces are left by its own hand and by the hypervisor's: whoever zeroes only what a life has written has to
//! know of both. With `everywhere` on its command line it leaves one in every page, at once, and then stays.

#![no_std]
#![no_main]

use core::hint::spin_loop;

use plinth_guests::cpu::{inb, outb, rdtsc, wrmsr};
use plinth_guests::{Report, StartInfo, guest, kvm, paging, println, x86};

guest!(main);

/// Its own program and stack lie below this.
const FIRST: u64 = 0x40_0000;
/// What processors usually note writes by.
const LARGE_PAGE: u64 = 0x20_0000;
const TRACE: u64 = 0x0123_4567_89ab_cdef;
/// After so many ticks of the TSC a serial port has sent a line, and a screen shows it; 0.4 s in Bochs.
const QUIET_TICKS: u64 = 4_000_000;
/// The UART's scratch register.
const SCRATCH: u16 = 0x3ff;

fn main(report: &mut Report, start: StartInfo) {
    let ram_end = start
        .memory_map()
        .iter()
        .filter(|range| range.is_ram() && range.end() <= 1 << 32)
        .map(|range| range.end())
        .max()
        .unwrap_or(0);
    let everywhere = start.command_line() == Some("everywhere");
    let wanted = if everywhere { 0 } else { 6 * LARGE_PAGE };
    report.case("memory-is-as-at-power-on", |case| {
        case.ensure(
            ram_end > FIRST + wanted,
            "there is too little memory to tell",
        );
        case.equal("the first word that is not zero", not_zero(ram_end), 0);
    });
    if everywhere {
        // What was said and the log are on their way until then, and end many a turn early: the traces are to fall into one.
        let start = rdtsc();
        while rdtsc().wrapping_sub(start) < QUIET_TICKS {
            spin_loop();
        }
        for page in (FIRST..ram_end).step_by(paging::FRAME_BYTES) {
            paging::poke(page, TRACE);
        }
        println!("a trace is in every page");
        // Nothing interrupts this guest, but what interrupts the host is to reach it at once.
        x86!("sti", "2: jmp 2b", options(noreturn));
    }
    // Its own hand: the first, a middle and the last word of a page, and many pages between untouched.
    let own = FIRST..FIRST + 3 * LARGE_PAGE;
    for (page, place) in own
        .step_by(LARGE_PAGE as usize)
        .zip([0, 0x1_2348, LARGE_PAGE - 8])
    {
        paging::poke(page + place, TRACE);
    }
    // Many small pages of one large page, and over its end.
    for place in (ram_end - LARGE_PAGE..ram_end).step_by(0x1000) {
        paging::poke(place, TRACE);
    }
    // The hypervisor's: a string from a port, over the border between two pages, and the clock.
    let strings = FIRST + 4 * LARGE_PAGE - 8;
    outb(SCRATCH, 0xa5);
    x86!(
        "rep insb",
        in("dx") SCRATCH,
        inout("rdi") strings => _,
        inout("rcx") 16_u64 => _,
        options(nostack, preserves_flags)
    );
    let clock = FIRST + 5 * LARGE_PAGE + 0x1000;
    let has_clock = kvm::has_clock();
    if has_clock {
        wrmsr(kvm::SYSTEM_TIME, clock | 1);
    }
    report.case("both-hands-leave-traces", |case| {
        case.equal("the scratch register", u64::from(inb(SCRATCH)), 0xa5);
        let string = 0xa5a5_a5a5_a5a5_a5a5;
        case.equal("before the border", paging::peek(strings), string);
        case.equal("behind it", paging::peek(strings + 8), string);
        let is_written = (clock..clock + 32)
            .step_by(8)
            .any(|at| paging::peek(at) != 0);
        case.ensure(
            is_written == has_clock,
            "the clock was not written, or was not asked for",
        );
    });
    // The chipset's reset register, and the keyboard controller for boards without it.
    outb(0xcf9, 0x06);
    outb(0x64, 0xfe);
    x86!("cli", "2: hlt", "jmp 2b", options(noreturn));
}

/// The address of the first word from [`FIRST`] on that is not zero, or 0.
fn not_zero(end: u64) -> u64 {
    let left: u64;
    let behind: u64;
    x86!(
        "repe scasq",
        inout("rcx") (end - FIRST) / 8 => left,
        inout("rdi") FIRST => behind,
        in("rax") 0_u64,
        options(nostack, readonly)
    );
    // The last word may be the one.
    if left == 0 && paging::peek(end - 8) == 0 {
        0
    } else {
        behind - 8
    }
}
