//! `code`: runs code everywhere: in every large page, across two of them, by two CPUs at once, in pages that change their
//! size, and where the local APIC hides RAM from one CPU. What lies beside the code must stay what it was.
//!
//! `cpus=N` on the command line is how many there are, two if it is not there.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use plinth_guests::cpu::{self, msr};
use plinth_guests::paging::{self, FRAME_BYTES, PageSize, entry};
use plinth_guests::{Case, Report, StartInfo, apic, guest, siblings, x86};

guest!(main);

const LARGE: u64 = 2 << 20;
/// The large pages that nobody but the cases uses, of a machine of 32 MiB.
const FIRST: u64 = 4 << 20;
const END: u64 = 30 << 20;
/// Where in them the code lies.
const OFFSET: u64 = 0x12_3456;
/// A part of the address space that nothing else is in.
const ELSEWHERE: u64 = 0x80_0000_0000;
/// How often a page changes its size.
const CHANGES: u64 = 64;

/// What the others call, and in which round; how many have, and the sum of what they were given.
static ROUND: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static ANSWERS: AtomicU64 = AtomicU64::new(0);
static SUM: AtomicU64 = AtomicU64::new(0);

/// Writes a function that returns a number: MOV EAX and RET.
fn write_function(address: u64, number: u32) {
    let [a, b, c, d] = number.to_le_bytes();
    for (offset, byte) in (0..).zip([0xb8, a, b, c, d, 0xc3]) {
        x86!("mov [{}], {}", in(reg) address + offset, in(reg_byte) byte, options(nostack, preserves_flags));
    }
}

fn call(address: u64) -> u64 {
    let number: u64;
    // Code that was just written: a CPU drops what it has fetched of it at a serialising instruction.
    let _ = cpu::cpuid(0, 0);
    x86!("call {}", in(reg) address, out("rax") number);
    number
}

fn other(_: u32) {
    let mut round = 0;
    loop {
        while ROUND.load(Ordering::SeqCst) == round {
            core::hint::spin_loop();
        }
        round = ROUND.load(Ordering::SeqCst);
        SUM.fetch_add(call(ADDRESS.load(Ordering::SeqCst)), Ordering::SeqCst);
        ANSWERS.fetch_add(1, Ordering::SeqCst);
    }
}

/// Has all CPUs call a function at once; each must be given this number.
fn call_on_all(case: &mut Case, others: u64, address: u64, number: u32) {
    ANSWERS.store(0, Ordering::SeqCst);
    SUM.store(0, Ordering::SeqCst);
    ADDRESS.store(address, Ordering::SeqCst);
    ROUND.fetch_add(1, Ordering::SeqCst);
    let mine = call(address);
    while ANSWERS.load(Ordering::SeqCst) < others {
        core::hint::spin_loop();
    }
    case.equal("what it returned", mine, u64::from(number));
    let sum = SUM.load(Ordering::SeqCst);
    case.equal(
        "what it returned to the others",
        sum,
        others * u64::from(number),
    );
}

/// What lies somewhere in the large pages before anything is executed there.
fn mark(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn marked_places() -> impl Iterator<Item = u64> {
    (FIRST..END).step_by(FRAME_BYTES * 7).map(|place| place + 8)
}

fn main(report: &mut Report, start: StartInfo) {
    let cpus = start.number("cpus").unwrap_or(2);
    let others = cpus - 1;
    for place in marked_places() {
        paging::poke(place, mark(place));
    }
    report.case("all-cpus-come-up", |case| {
        case.equal(
            "other CPUs",
            siblings::start(others as u32, other).into(),
            others,
        );
    });
    report.case("an-instruction-lies-in-two-large-pages", |case| {
        let end = FIRST + 4 * LARGE;
        for before in 1..5 {
            write_function(end - before, 0x1234_5678 + before as u32);
            call_on_all(case, others, end - before, 0x1234_5678 + before as u32);
        }
    });
    report.case("code-runs-in-every-large-page", |case| {
        for page in (FIRST..END).step_by(LARGE as usize) {
            write_function(page + OFFSET, page as u32);
            call_on_all(case, others, page + OFFSET, page as u32);
        }
    });
    report.case("code-that-is-written-anew-runs-anew", |case| {
        for number in 1..20 {
            write_function(FIRST + OFFSET, number);
            call_on_all(case, others, FIRST + OFFSET, number);
        }
    });
    report.case("a-page-changes-its-size-while-it-is-executed", |case| {
        if cpu::hypervisor().is_none() {
            // A processor may stop at that for good.
            case.skip("this is a bare machine");
            return;
        }
        let page = END - LARGE;
        let large = paging::map(ELSEWHERE, page, PageSize::Size2M, entry::P | entry::RW);
        let (as_large, table) = (paging::peek(large), paging::new_frame());
        for slot in 0..512 {
            let small = page + slot * FRAME_BYTES as u64;
            paging::poke(table + slot * 8, small | entry::P | entry::RW);
        }
        for change in 0..CHANGES {
            let number = 0xc0de_0000 | change as u32;
            write_function(ELSEWHERE + OFFSET, number);
            call_on_all(case, others, ELSEWHERE + OFFSET, number);
            let is_small = paging::peek(large) & entry::PS == 0;
            let now = if is_small {
                as_large
            } else {
                table | entry::P | entry::RW
            };
            // Nobody is told: both translations lead to the same place.
            paging::poke(large, now);
        }
        paging::invlpg(ELSEWHERE + OFFSET);
    });
    report.case("code-runs-where-the-local-apic-hides-ram", |case| {
        let base = cpu::rdmsr(msr::IA32_APIC_BASE);
        let hidden = FIRST + LARGE + 0x5000;
        cpu::wrmsr(msr::IA32_APIC_BASE, hidden | base & 0xfff);
        let (version, beside) = (paging::peek(hidden + 0x30) as u32, paging::peek(FIRST + 8));
        for page in (FIRST..END).step_by(LARGE as usize) {
            write_function(page + OFFSET + 16, !page as u32);
            call_on_all(case, others, page + OFFSET + 16, !page as u32);
        }
        cpu::wrmsr(msr::IA32_APIC_BASE, base);
        apic::enable();
        case.equal("the version of the APIC", version & 0xf0, 0x10);
        case.equal("memory beside it", beside, mark(FIRST + 8));
        call_on_all(case, others, FIRST + OFFSET + 16, !FIRST as u32);
    });
    report.case("what-lies-beside-code-stays-what-it-was", |case| {
        for place in marked_places() {
            let page = place & !(LARGE - 1);
            let is_near_code = |code: u64| place.abs_diff(code) < 64;
            if ![page, page + OFFSET].into_iter().any(is_near_code) {
                case.equal("a word", paging::peek(place), mark(place));
            }
        }
    });
}
