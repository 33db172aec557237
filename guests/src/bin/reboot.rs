//! `reboot`: looks whether its memory is as at power-on, leaves traces all over it, and asks for a reset.

#![no_std]
#![no_main]

use plinth_guests::cpu::outb;
use plinth_guests::{Report, StartInfo, guest, paging, x86};

guest!(main);

/// Its own program and stack lie below this.
const FIRST: u64 = 0x40_0000;
const STEP: u64 = 0x1_0000;
const TRACE: u64 = 0x0123_4567_89ab_cdef;

fn main(report: &mut Report, start: StartInfo) {
    let ram_end = start
        .memory_map()
        .iter()
        .filter(|range| range.is_ram() && range.end() <= 1 << 32)
        .map(|range| range.end())
        .max()
        .unwrap_or(0);
    let places = || (FIRST..ram_end).step_by(STEP as usize);
    report.case("memory-is-as-at-power-on", |case| {
        case.ensure(ram_end > FIRST, "there is too little memory to tell");
        let traces = places().filter(|place| paging::peek(*place) == TRACE);
        case.equal("the traces of an earlier life", traces.count() as u64, 0);
    });
    for place in places() {
        paging::poke(place, TRACE);
    }
    // The chipset's reset register, and the keyboard controller for boards without it.
    outb(0xcf9, 0x06);
    outb(0x64, 0xfe);
    x86!("cli", "2: hlt", "jmp 2b", options(noreturn));
}
