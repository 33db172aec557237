//! A second CPU: how long it takes to wake it, and to have it flush a translation while it is busy.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::apic::{self, COMMAND};
use crate::measure::bench;
use crate::vectors;
use plinth_guests::cpu::rdtsc;
use plinth_guests::siblings::Waits;
use plinth_guests::{apic as local_apic, siblings, x86};

const WAKE_VECTOR: u8 = 0x62;
const FLUSH_VECTOR: u8 = 0x63;
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

/// Whether the second CPU is to be busy between interrupts, and how many translations it has flushed.
static BUSY: AtomicU64 = AtomicU64::new(0);
static FLUSHED: AtomicU64 = AtomicU64::new(0);

// Another CPU asks this one to forget a translation, and waits for it.
#[cfg(target_os = "none")]
global_asm!(
    ".global second_flushes",
    "second_flushes:",
    "push rax",
    "mov eax, 0x8000",
    "invlpg [rax]",
    "lock inc qword ptr [{flushed}]",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rax",
    "iretq",
    flushed = sym FLUSHED,
);

unsafe extern "C" {
    fn second_flushes();
}

/// Starts the second CPU, if there is one, and measures. The APIC is in xAPIC mode.
pub(crate) fn measure() {
    if siblings::start_with(WAITS, 1, live) == 0 {
        return;
    }
    vectors::set(WAKE_VECTOR, vectors::xapic().once);
    apic::write(DESTINATION, OTHER);
    bench("wake-other-cpu", wake);
    let flush = second_flushes as *const () as u64;
    vectors::set(FLUSH_VECTOR, vectors::Handler(flush));
    BUSY.store(1, Ordering::SeqCst);
    // An interrupt gets it out of its sleep.
    wake();
    bench("tlb-shootdown", shoot_down);
    BUSY.store(0, Ordering::SeqCst);
}

/// The second CPU's life: halted between interrupts, or busy.
fn live(_: u32) {
    local_apic::enable();
    loop {
        match BUSY.load(Ordering::SeqCst) {
            0 => x86!("sti", "hlt", "cli"),
            _ => x86!("sti", "nop"),
        };
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

/// Ticks from asking the busy CPU to flush a translation until its answer is seen.
fn shoot_down() -> u64 {
    let before = FLUSHED.load(Ordering::SeqCst);
    let start = rdtsc();
    apic::write(COMMAND, u64::from(FLUSH_VECTOR));
    while FLUSHED.load(Ordering::SeqCst) == before {
        assert!(rdtsc() - start < 1 << 30, "the second CPU does not answer");
        core::hint::spin_loop();
    }
    rdtsc() - start
}
