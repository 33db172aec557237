//! What surrounds an access: the page tables' bits, privilege, alignment, breakpoints and single steps.

use plinth_guests::cpu;
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::paging::{self, entry};
use plinth_guests::single::Single;
use plinth_guests::user::{self, Start};
use plinth_guests::{Case, Report, Vector, fault_of, user_code, x86};

use crate::{Backing, Memory, WINDOW};

const RW: u64 = entry::P | entry::RW;
const TF: u64 = 1 << 8;
const AC: u64 = 1 << 18;
const RF: u64 = 1 << 16;
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
const BOTH: [Backing; 2] = [Backing::Ram, Backing::Device];

user_code!(user_write, "mov [rdx], ecx");
user_code!(user_read, "mov eax, [rdx]");
user_code!(user_exchange, "lock xadd [rdx], rcx");
user_code!(
    user_string,
    "mov rdi, rdx",
    "mov ecx, 3",
    "cld",
    "rep stosd"
);

/// The debug exceptions that came: where, and DR6.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Traps {
    count: usize,
    at: [(u64, u64); 12],
}

static TRAPS: Single<Traps> = Single::new(Traps {
    count: 0,
    at: [(0, 0); 12],
});

fn on_debug(frame: &mut Frame) {
    let dr6 = cpu::read_dr6();
    // SAFETY: one CPU; the case looks when it is over.
    let traps = unsafe { &mut *TRAPS.get() };
    if let Some(at) = traps.at.get_mut(traps.count) {
        *at = (frame.rip, dr6 & 0xe00f);
    }
    traps.count += 1;
    cpu::write_dr6(DR6_RESET);
    frame.rflags |= RF;
}

/// The debug exceptions while a body runs, with this in DR7.
fn traps(control: u64, body: impl FnOnce()) -> Traps {
    // SAFETY: as above.
    unsafe { TRAPS.get().write_volatile(Traps::default()) };
    set_handler(Vector::Debug as u8, Some(on_debug));
    cpu::write_dr6(DR6_RESET);
    cpu::write_dr7(DR7_RESET | control);
    body();
    cpu::write_dr7(DR7_RESET);
    set_handler(Vector::Debug as u8, None);
    // SAFETY: as above.
    unsafe { TRAPS.get().read_volatile() }
}

/// Runs a body on RAM and on the device, and checks that both met the same debug exceptions, and some at all.
fn traps_alike(case: &mut Case, what: &str, memory: Memory, control: u64, body: impl Fn()) {
    let [ram, device] = BOTH.map(|backing| {
        memory.show(backing, RW);
        traps(control, &body)
    });
    case.ensure(ram.count != 0, what);
    case.equal(what, device.count, ram.count);
    for (is, should) in device.at.iter().zip(&ram.at) {
        case.equal(what, is.0, should.0);
        case.equal(what, is.1, should.1);
    }
}

pub(super) fn all(report: &mut Report, memory: Memory) {
    page_bits(report, memory);
    ring_3(report, memory);
    debug(report, memory);
}

fn page_bits(report: &mut Report, memory: Memory) {
    report.case("reads-set-accessed-and-writes-dirty", |case| {
        for backing in BOTH {
            let slot = memory.show(backing, RW);
            let bits = || paging::peek(slot) & (entry::A | entry::D);
            case.equal("the entry before", bits(), 0);
            x86!("mov {0:e}, [{1}]", out(reg) _, in(reg) WINDOW);
            case.equal("the entry after a read", bits(), entry::A);
            x86!("cmp dword ptr [{0}], 0", in(reg) WINDOW);
            case.equal("the entry after a comparison", bits(), entry::A);
            x86!("mov dword ptr [{0}], 0", in(reg) WINDOW);
            case.equal("the entry after a write", bits(), entry::A | entry::D);
            let slot = memory.show(backing, RW);
            x86!("add dword ptr [{0}], 1", in(reg) WINDOW);
            case.equal(
                "the entry after an addition",
                paging::peek(slot) & (entry::A | entry::D),
                entry::A | entry::D,
            );
        }
    });
    report.case("read-only-pages-refuse-writes", |case| {
        for backing in BOTH {
            memory.show(backing, entry::P);
            case.runs(
                "a read",
                fault_of!("mov {0:e}, [{1}]", out(reg) _, in(reg) WINDOW),
            );
            for fault in [
                fault_of!("mov dword ptr [{0}], 0", in(reg) WINDOW),
                fault_of!("inc byte ptr [{0}]", in(reg) WINDOW),
                fault_of!("lock xadd [{0}], {1}", in(reg) WINDOW, inout(reg) 0u64 => _),
                // A write even if the comparison fails.
                fault_of!("cmpxchg [{0}], {0:e}", in(reg) WINDOW, inout("eax") 0 => _),
            ] {
                let fault = case.faults("a write", fault, Vector::PageFault, 3);
                case.equal("CR2", fault.cr2, WINDOW);
            }
        }
    });
    report.case("ts-and-em-come-before-the-memory", |case| {
        let original = cpu::read_cr0();
        for backing in BOTH {
            memory.show(backing, RW);
            let store = || fault_of!("movups [{0}], xmm0", in(reg) WINDOW);
            cpu::write_cr0(original | cpu::cr0::TS);
            let switched = store();
            cpu::write_cr0(original | cpu::cr0::EM);
            let emulated = store();
            cpu::write_cr0(original);
            case.faults("with CR0.TS", switched, Vector::DeviceNotAvailable, 0);
            case.faults("with CR0.EM", emulated, Vector::InvalidOpcode, 0);
            case.runs("with neither", store());
        }
    });
    report.case("second-page-read-only-keeps-the-first", |case| {
        for backing in BOTH {
            memory.show(backing, RW);
            let second = paging::entry_address(WINDOW + 0x1000, paging::PageSize::Size4K);
            paging::poke(WINDOW + 0xff8, 0x1111_1111_1111_1111);
            paging::poke(second, paging::peek(second) & !entry::RW);
            paging::invlpg(WINDOW + 0x1000);
            let fault = fault_of!("mov [{0}], {1}", in(reg) WINDOW + 0xffc, in(reg) u64::MAX);
            let fault = case.faults("a write across", fault, Vector::PageFault, 3);
            case.equal("CR2", fault.cr2, WINDOW + 0x1000);
            case.equal(
                "the first page",
                paging::peek(WINDOW + 0xff8),
                0x1111_1111_1111_1111,
            );
        }
    });
    report.case("string-across-into-nothing-stops-there", |case| {
        for backing in BOTH {
            memory.show(backing, RW);
            let fault = fault_of!(
                "rep stosb", in("al") 0x5au8,
                inout("rdi") WINDOW + 0x1ff0 => _, inout("rcx") 0x20u64 => _,
            );
            let fault = case.faults("REP STOSB", fault, Vector::PageFault, 2);
            case.equal("RDI", fault.frame.rdi, WINDOW + 0x2000);
            case.equal("RCX", fault.frame.rcx, 0x10);
            case.equal("CR2", fault.cr2, WINDOW + 0x2000);
            case.equal(
                "the last word",
                paging::peek(WINDOW + 0x1ff8),
                0x5a5a_5a5a_5a5a_5a5a,
            );
        }
    });
}

fn ring_3(report: &mut Report, memory: Memory) {
    let start = |offset: u64, rflags: u64| Start {
        rflags: 2 | rflags,
        registers: [0x1234_5678, WINDOW + offset, 0x55aa],
        ..Start::default()
    };
    let codes: [(&str, &[u8]); 4] = [
        ("a write", user_write()),
        ("a read", user_read()),
        ("an exchange", user_exchange()),
        ("a string", user_string()),
    ];
    report.case("ring-3-runs-on-pages-of-its-own", |case| {
        for (what, code) in codes {
            let [ram, device] = BOTH.map(|backing| {
                memory.show(backing, RW | entry::US);
                paging::poke(WINDOW + 8, 0x0102_0304_0506_0708);
                let ended = user::run(code, start(8, 0));
                (ended.ok(), paging::peek(WINDOW + 8))
            });
            case.ensure(ram.0.is_some() && ram == device, what);
        }
    });
    report.case("ring-3-faults-on-the-kernel's-pages", |case| {
        for backing in BOTH {
            memory.show(backing, RW);
            for (what, code) in codes {
                let code_bits = if what == "a read" { 5 } else { 7 };
                let ended = user::run(code, start(8, 0));
                case.faults(what, ended, Vector::PageFault, code_bits);
            }
        }
    });
    report.case("alignment-check-in-ring-3", |case| {
        let original = cpu::read_cr0();
        cpu::write_cr0(original | cpu::cr0::AM);
        for backing in BOTH {
            memory.show(backing, RW | entry::US);
            for (what, code) in codes {
                case.runs(what, user::run(code, start(8, AC)));
                let ended = user::run(code, start(5, AC));
                case.faults(what, ended, Vector::AlignmentCheck, 0);
                case.runs(what, user::run(code, start(5, 0)));
            }
        }
        cpu::write_cr0(original);
    });
}

fn debug(report: &mut Report, memory: Memory) {
    report.case("single-steps-are-alike", |case| {
        traps_alike(case, "the steps", memory, 0, || {
            x86!(
                "pushfq", "or qword ptr [rsp], 0x100", "popfq",
                "mov [rdi], eax", "add eax, [rdi]", "lock inc dword ptr [rdi]", "rep stosb",
                "pushfq", "and qword ptr [rsp], -0x101", "popfq",
                inout("rdi") WINDOW + 0x100 => _, inout("rcx") 3u64 => _, inout("eax") 1 => _,
            );
        });
    });
    // Breakpoint 0 on writes of four bytes at the window's 0x104, breakpoint 1 on reads and writes of one at 0x110.
    let control = 0x30f | 0b1101 << 16 | 0b0011 << 20;
    report.case("data-breakpoints-are-alike", |case| {
        cpu::write_dr0(WINDOW + 0x104);
        cpu::write_dr1(WINDOW + 0x110);
        traps_alike(case, "a write", memory, control, || {
            x86!("mov [{0}], {1}", "nop", in(reg) WINDOW + 0x100, in(reg) 1u64);
        });
        traps_alike(case, "a read of the other", memory, control, || {
            x86!("mov {1:e}, [{0}]", "nop", in(reg) WINDOW + 0x110, out(reg) _);
        });
        traps_alike(case, "a read and a write of both", memory, control, || {
            x86!(
                "movsb", "nop", inout("rsi") WINDOW + 0x110 => _, inout("rdi") WINDOW + 0x107 => _,
                options(preserves_flags),
            );
        });
        traps_alike(case, "a string", memory, control, || {
            x86!("rep stosd", "nop", inout("rdi") WINDOW + 0xfc => _, inout("rcx") 8u64 => _, in("eax") 0);
        });
        traps_alike(case, "an addition with the trap flag set", memory, control, || {
            x86!(
                "pushfq", "or qword ptr [rsp], {tf}", "popfq",
                "add dword ptr [{0}], 1", "nop",
                "pushfq", "and qword ptr [rsp], -0x101", "popfq",
                in(reg) WINDOW + 0x104, tf = const TF,
            );
        });
    });
    report.case("data-breakpoints-beside-are-silent", |case| {
        cpu::write_dr0(WINDOW + 0x104);
        cpu::write_dr1(WINDOW + 0x110);
        for backing in BOTH {
            memory.show(backing, RW);
            let beside = traps(control, || {
                x86!("mov dword ptr [{0}], 1", "mov {1:e}, [{0} + 4]", "mov byte ptr [{0} + 15], 1", "mov word ptr [{0} + 17], 1", "nop",
                    in(reg) WINDOW + 0x100, out(reg) _);
            });
            case.equal("the breakpoints met", beside.count, 0);
        }
    });
}
