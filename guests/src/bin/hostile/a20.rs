//! The gate of address line 20, opened and closed as fast as that goes. All CPUs of the machine have to see it move,
//! those as well that were never started.

use plinth_guests::{paging, println, x86};

/// The system control port, and its bit for the gate.
const PORT: u16 = 0x92;
const OPEN: u8 = 1 << 1;

/// This image, which lies in an odd MiB.
const IMAGE: u64 = 1 << 20;

/// What an odd MiB shows while the gate is open, and what while it is closed, at the MiB below it.
const ODD: (u64, u64) = (0x30_0000, 0x0dd);
const EVEN: (u64, u64) = (0x20_0000, 0xe7e);

unsafe extern "C" {
    static guest_end: u8;
}

pub(crate) fn toggle() {
    let image_bytes = &raw const guest_end as u64 - IMAGE;
    for (address, value) in [ODD, EVEN] {
        paging::poke(address, value);
    }
    loop {
        let (closed, open): (u64, u64);
        // The code and its tables are to be there behind a closed gate as well.
        x86!(
            "rep movsb",
            "xor eax, eax",
            "out dx, al",
            "mov {closed}, [{odd}]",
            "mov al, {OPEN}",
            "out dx, al",
            "mov {open}, [{odd}]",
            closed = out(reg) closed,
            open = out(reg) open,
            odd = in(reg) ODD.0,
            OPEN = const OPEN,
            in("dx") PORT,
            inout("rcx") image_bytes => _,
            inout("rsi") IMAGE => _,
            inout("rdi") 0u64 => _,
            out("rax") _,
            options(nostack),
        );
        if (closed, open) != (EVEN.1, ODD.1) {
            println!("hostile: a20 is not what it should be: {closed:#x} {open:#x}");
        }
    }
}
