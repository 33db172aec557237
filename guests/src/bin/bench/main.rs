//! `bench`: what single events cost, in ticks of the TSC, told in lines `BENCH name minimum median`.
//!
//! The same binary measures a VM and the bare machine (`cargo xtask bench exits` runs both). With `turns` on its
//! command line it measures what other VMs on its CPU take from it instead.

#![no_std]
#![no_main]

mod apic;
mod instructions;
mod measure;
mod ports;
mod second;
mod timer;
mod turns;
mod vectors;

use plinth_guests::{Report, StartInfo, guest};

guest!(main);

fn main(report: &mut Report, start: StartInfo) {
    let line = start.command_line().unwrap_or("");
    let wants = |word: &str| line.split_whitespace().any(|given| given == word);
    report.case("everything-was-measured", |case| {
        if wants("turns") {
            turns::measure();
            return;
        }
        instructions::measure();
        instructions::measure_first_touch(start.memory_map());
        ports::measure();
        apic::measure_xapic();
        timer::measure_xapic(case);
        second::measure();
        apic::measure_x2apic();
        timer::measure_x2apic(case);
    });
}
