//! `hello64`: the same as `hello` from a plain ELF64 that is entered in 64-bit mode.

#![no_std]
#![no_main]

use plinth_guests::{Report, StartInfo, guest, machine};

guest!(main);

fn main(report: &mut Report, start: StartInfo) {
    machine::describe(start);
    machine::check_long_mode(report);
}
