//! `hello`: a kernel in long mode that says what machine it finds.

#![no_std]
#![no_main]

use plinth_guests::{Report, StartInfo, guest, machine};

guest!(main);

fn main(report: &mut Report, start: StartInfo) {
    machine::describe(start);
    machine::check_long_mode(report);
    report.case("start-info-has-a-memory-map", |case| {
        let map = start.memory_map();
        case.ensure(!map.is_empty(), "the start info has no memory map");
        case.ensure(
            map.iter()
                .any(|range| range.is_ram() && range.start <= 0x10_0000 && range.end() > 0x20_0000),
            "the memory map has no RAM at 1 MiB, where this kernel runs",
        );
        let overlaps = map.iter().enumerate().any(|(index, one)| {
            map[index + 1..]
                .iter()
                .any(|other| one.start < other.end() && other.start < one.end())
        });
        case.ensure(!overlaps, "ranges of the memory map overlap");
    });
}
