//! `apic`: the local APIC's registers, priorities, IPIs and errors in xAPIC and in x2APIC mode, the ways between the
//! modes, and the timer (SDM vol. 3, Advanced Programmable Interrupt Controller).

#![no_std]
#![no_main]

mod delivery;
mod errors;
mod modes;
mod registers;
mod timer;

use plinth_guests::apic;
use plinth_guests::recorder::{self, came, taken};
use plinth_guests::{Case, Report, StartInfo, guest};

guest!(main);

/// Vectors of three priority classes, and a second one of the lowest.
const LOW: u8 = 0x41;
const LOW_TOO: u8 = 0x45;
const MIDDLE: u8 = 0x62;
const HIGH: u8 = 0x93;

fn main(report: &mut Report, _: StartInfo) {
    if !recorder::begin(report, &[LOW, LOW_TOO, MIDDLE, HIGH]) {
        return;
    }
    modes::after_reset(report);
    registers::xapic(report);
    delivery::in_mode(report, "xapic");
    delivery::destinations(report);
    errors::errors(report);
    timer::in_mode(report, "xapic");
    modes::moves(report);
    modes::to_x2apic(report);
    if apic::is_x2apic() {
        registers::x2apic(report);
        delivery::in_mode(report, "x2apic");
        timer::in_mode(report, "x2apic");
    }
    // From here on the APIC is disabled and enabled again, which not every machine does.
    modes::out_of_x2apic(report);
}

/// Everything quiet and at priority 0, and the log empty.
fn prepare() {
    apic::enable();
    recorder::clear();
}

/// Runs a case whose name has the mode before it.
fn case_in(report: &mut Report, mode: &str, name: &str, body: impl FnOnce(&mut Case)) {
    let mut full = [0u8; 64];
    let mut length = 0;
    for byte in mode.bytes().chain([b'-']).chain(name.bytes()) {
        full[length] = byte;
        length += 1;
    }
    let full = core::str::from_utf8(&full[..length]).unwrap_or(name);
    report.case(full, |case| {
        prepare();
        body(case);
        prepare();
    });
}
