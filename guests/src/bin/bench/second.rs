//! A second CPU: how long it takes to wake it, and to have it answer.

use crate::apic::{self, COMMAND};
use crate::measure::bench;
use crate::vectors;
use plinth_guests::cpu::rdtsc;
use plinth_guests::siblings::Waits;
use plinth_guests::{apic as local_apic, siblings, x86};

const WAKE_VECTOR: u8 = 0x62;
const DESTINATION: u64 = 0x310;
/// APIC ID 1, as ICR has it.
const OTHER: u64 = 1 << 24;
/// There may be none; one that is there has a CPU for itself, and answers soon.
const WAITS: Waits = Waits {
    all: 1_000_000,
    ..Waits::USUAL
};
/// It goes back to sleep in less than this.
const SLEEP_TICKS: u64 = 20_000;

/// Starts the second CPU, if there is one, and measures. The APIC is in xAPIC mode.
pub(crate) fn measure() {
    if siblings::start_with(WAITS, 1, sleep) == 0 {
        return;
    }
    vectors::set(WAKE_VECTOR, vectors::xapic().once);
    apic::write(DESTINATION, OTHER);
    bench("wake-other-cpu", wake);
}

/// The second CPU's life: halted between interrupts.
fn sleep(_: u32) {
    local_apic::enable();
    loop {
        x86!("sti", "hlt", "cli");
    }
}

/// Ticks from sending the interrupt until the halted CPU handles it.
fn wake() -> u64 {
    siblings::pass(SLEEP_TICKS);
    let before = vectors::count();
    let start = rdtsc();
    apic::write(COMMAND, u64::from(WAKE_VECTOR));
    while vectors::count() == before {
        assert!(rdtsc() - start < 1 << 30, "the second CPU does not wake up");
        core::hint::spin_loop();
    }
    vectors::taken() - start
}
