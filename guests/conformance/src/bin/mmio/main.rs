//! `mmio`: instructions on a device's memory do what they do on RAM, to registers, flags and memory, and fault
//! alike.
//!
//! The device is that of the test board (`--test-devices`), whose memory reads back as it was written. Each
//! snippet runs twice from the same state and through the same addresses: with RAM behind them, and with the device.
//! On a machine without the board RAM is compared with RAM, and the case says so little as that.

#![no_std]
#![no_main]

mod faults;
mod segments;
mod snippet;

use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::{Report, StartInfo, guest};

guest!(main);

/// The test board's memory.
const BOARD: u64 = 0xff00_0000;
/// Where both kinds of memory are mapped, two pages of them; the page behind is not mapped.
const WINDOW: u64 = 0x90_0000_0000;
const PAGES: u64 = 2;

/// What is behind the window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backing {
    Ram,
    Device,
}

/// The physical pages of both kinds.
#[derive(Clone, Copy)]
struct Memory {
    ram: u64,
    device: u64,
}

impl Memory {
    fn find() -> (Self, bool) {
        // Frames of the pool lie side by side.
        let ram = paging::new_frame();
        let _ = paging::new_frame();
        let board = [0x5au64, 0xa5].into_iter().all(|value| {
            paging::map(WINDOW, BOARD, PageSize::Size4K, entry::P | entry::RW);
            paging::poke(WINDOW, value);
            paging::peek(WINDOW) == value
        });
        if board {
            return (Self { ram, device: BOARD }, true);
        }
        let device = paging::new_frame();
        let _ = paging::new_frame();
        (Self { ram, device }, false)
    }

    /// Puts one of the two behind the window, with these flags in the page-table entries; the address of the first.
    fn show(self, backing: Backing, flags: u64) -> u64 {
        let physical = match backing {
            Backing::Ram => self.ram,
            Backing::Device => self.device,
        };
        for page in 1..PAGES {
            let offset = page * 4096;
            paging::map(WINDOW + offset, physical + offset, PageSize::Size4K, flags);
        }
        paging::map(WINDOW, physical, PageSize::Size4K, flags)
    }
}

fn main(report: &mut Report, _: StartInfo) {
    let (memory, board) = Memory::find();
    report.case("test-board-is-there", |case| {
        if !board {
            case.skip("no memory reads back at 0xff000000: RAM stands in for it");
        }
    });
    snippet::all(report, memory);
    faults::all(report, memory);
    segments::all(report, memory);
}
