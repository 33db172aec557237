//! `shootdown`: CPUs that take a page from each other, as those of a kernel do: the first changes a translation, has
//! all others drop the old one, and waits until they say that they have. From then on none of them may use it.
//!
//! `cpus=N` on the command line is how many there are, `rounds=N` how often the translation changes. The other CPUs
//! look at the page all the time, every second one only when an interrupt has woken it up.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use plinth_guests::cpu::{self, cr4};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::paging::{self, PageSize, entry};
use plinth_guests::siblings::MOST;
use plinth_guests::single::Single;
use plinth_guests::{Report, StartInfo, apic, guest, println, siblings, x86};

guest!(main);

const CALL_VECTOR: u8 = 0x71;
const PAGE_FAULT: u8 = 14;
/// The page, in a part of the address space that nothing else is in.
const PAGE: u64 = 0x80_0000_0000;
/// A frame is used again after so many rounds: until then a translation that should be gone shows by an old number.
const FRAMES: u64 = 32;
/// How long a round lasts after all have answered.
const LOOKING_TICKS: u64 = 1500;
/// What is found where no page is.
const ABSENT: u64 = u64::MAX;

/// How a translation is dropped (SDM vol. 3, Operations that Invalidate TLBs and Paging-Structure Caches).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// INVLPG of the page, which is global.
    Page,
    /// MOV to CR3; the page is not global.
    Space,
    /// CR4.PGE off and on again; the page is global.
    All,
}

/// How the translation of a round is dropped when it is over.
fn way(round: u64) -> Way {
    [Way::Page, Way::Space, Way::All][(round % 3) as usize]
}

/// Whether there is no page in a round.
fn is_absent(round: u64) -> bool {
    round % 5 == 4
}

/// The round that has begun: some may see it already. And the one before which nothing may be seen any more.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static CONFIRMED: AtomicU64 = AtomicU64::new(0);
static ANSWERS: AtomicU32 = AtomicU32::new(0);
static OVER: AtomicBool = AtomicBool::new(false);
/// Who has looked how often, and the first who has seen what was gone: what it found, and the round.
static LOOKS: [AtomicU64; MOST as usize + 1] = [const { AtomicU64::new(0) }; MOST as usize + 1];
static STALE: AtomicBool = AtomicBool::new(false);
static STALE_FOUND: AtomicU64 = AtomicU64::new(0);
static STALE_ROUND: AtomicU64 = AtomicU64::new(0);

static FRAMES_USED: Single<[u64; FRAMES as usize]> = Single::new([0; FRAMES as usize]);

/// Drops the translation that was there before this round.
fn drop_translation(round: u64) {
    match way(round - 1) {
        Way::Page => paging::invlpg(PAGE),
        Way::Space => paging::reload_cr3(),
        Way::All => {
            let with_global = cpu::read_cr4();
            cpu::write_cr4(with_global & !cr4::PGE);
            cpu::write_cr4(with_global);
        }
    }
}

fn on_call(_: &mut Frame) {
    drop_translation(BEGUN.load(Ordering::SeqCst));
    ANSWERS.fetch_add(1, Ordering::SeqCst);
    apic::end_of_interrupt();
}

/// The one load that may find no page, 3 bytes long.
fn on_page_fault(frame: &mut Frame) {
    frame.rip += 3;
    frame.rax = ABSENT;
}

/// Looks at the page once, and notes what must not be.
fn look(number: usize) {
    let confirmed = CONFIRMED.load(Ordering::SeqCst);
    let found: u64;
    x86!("mov rax, [rdi]", in("rdi") PAGE, out("rax") found, options(nostack));
    let begun = BEGUN.load(Ordering::SeqCst);
    let is_right = match found {
        ABSENT => (confirmed..=begun).any(is_absent),
        _ => (confirmed..=begun).contains(&found),
    };
    if !is_right && !STALE.swap(true, Ordering::SeqCst) {
        STALE_FOUND.store(found, Ordering::SeqCst);
        STALE_ROUND.store(confirmed, Ordering::SeqCst);
    }
    LOOKS[number].fetch_add(1, Ordering::SeqCst);
}

fn other(number: u32) {
    apic::enable();
    cpu::write_cr4(cpu::read_cr4() | cr4::PGE);
    x86!("sti");
    while !OVER.load(Ordering::SeqCst) {
        look(number as usize + 1);
        if number % 2 == 1 {
            x86!("hlt");
        }
    }
    x86!("cli");
}

/// Puts a page into its place, or none. Either the last entry changes, or the one above it to another table.
fn change(round: u64, tables: &mut [u64; 2]) {
    // SAFETY: this CPU alone looks at it.
    let frame = unsafe { (*FRAMES_USED.get())[(round % FRAMES) as usize] };
    paging::poke(frame, round);
    let global = match way(round) {
        Way::Space => 0,
        Way::Page | Way::All => entry::G,
    };
    let last = if is_absent(round) {
        0
    } else {
        frame | entry::P | entry::RW | global
    };
    let above = paging::entry_address(PAGE, PageSize::Size2M);
    if round.is_multiple_of(2) {
        tables.swap(0, 1);
        paging::poke(tables[0] + (PAGE >> 12 & 0x1ff) * 8, last);
        paging::poke(above, tables[0] | entry::P | entry::RW);
    } else {
        paging::poke(tables[0] + (PAGE >> 12 & 0x1ff) * 8, last);
    }
}

fn main(report: &mut Report, start: StartInfo) {
    let cpus = start.number("cpus").unwrap_or(2) as u32;
    let rounds = start.number("rounds").unwrap_or(300);
    for place in 0..FRAMES as usize {
        // SAFETY: no other CPU runs yet.
        unsafe { (*FRAMES_USED.get())[place] = paging::new_frame() };
    }
    let mut tables = [paging::new_frame(), paging::new_frame()];
    apic::enable();
    cpu::write_cr4(cpu::read_cr4() | cr4::PGE);
    set_handler(CALL_VECTOR, Some(on_call));
    set_handler(PAGE_FAULT, Some(on_page_fault));
    change(0, &mut tables);
    report.case("all-cpus-come-up", |case| {
        case.equal("other CPUs", siblings::start(cpus - 1, other), cpus - 1);
    });
    report.case("no-translation-outlives-its-end", |case| {
        for round in 1..=rounds {
            ANSWERS.store(0, Ordering::SeqCst);
            BEGUN.store(round, Ordering::SeqCst);
            change(round, &mut tables);
            drop_translation(round);
            siblings::call(CALL_VECTOR);
            while ANSWERS.load(Ordering::SeqCst) < cpus - 1 {
                core::hint::spin_loop();
            }
            CONFIRMED.store(round, Ordering::SeqCst);
            look(0);
            siblings::pass(LOOKING_TICKS);
        }
        if STALE.load(Ordering::SeqCst) {
            case.fail(format_args!(
                "{:#x} was found when only round {} or a later one could be",
                STALE_FOUND.load(Ordering::SeqCst),
                STALE_ROUND.load(Ordering::SeqCst)
            ));
        }
    });
    OVER.store(true, Ordering::SeqCst);
    siblings::call(CALL_VECTOR);
    report.case("all-cpus-have-looked", |case| {
        for (number, looks) in LOOKS.iter().enumerate().take(cpus as usize) {
            let looks = looks.load(Ordering::SeqCst);
            println!("shootdown: CPU {number} has looked {looks} times");
            case.ensure(looks >= rounds / 2, "it has hardly looked");
        }
    });
}
