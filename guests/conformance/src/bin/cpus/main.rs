//! `cpus`: INIT and start-up IPIs to a second processor in whatever state, what it finds when it starts, and interrupts
//! between two processors (SDM vol. 3, MP Initialization; Issuing Interprocessor Interrupts). Wants two CPUs.

#![no_std]
#![no_main]

mod ap;

use plinth_guests::apic::{self, ASSERT, DELIVER_NMI, LOGICAL, register as reg};
use plinth_guests::cpu::{cpuid, rdtsc};
use plinth_guests::recorder;
use plinth_guests::{Case, Report, StartInfo, guest};

use ap::{LongCommand, PAGES, RealCommand};

guest!(main);

const VECTOR: u8 = 0x61;
const NMI: u8 = 2;
/// Long enough for whatever must not happen.
const A_WHILE: u64 = 100_000;

fn main(report: &mut Report, _: StartInfo) {
    if !recorder::begin(report, &[VECTOR]) {
        return;
    }
    apic::enable();
    ap::prepare();
    if !ap::start(PAGES[0]) {
        return report.case("second-cpu-starts", |case| {
            case.skip("no second CPU answers with the APIC ID next to the own")
        });
    }
    starts(report);
    inits(report);
    interrupts(report);
    times(report);
    // It is not left running.
    ap::init();
}

/// Starts it at the first page, or fails the case.
fn started(case: &mut Case) -> bool {
    let started = ap::start(PAGES[0]);
    case.ensure(started, "the CPU does not start");
    started
}

/// Sends it start-up IPIs for both pages, of which it takes none.
fn start_ups_are_ignored(case: &mut Case) {
    let before = PAGES.map(ap::starts);
    ap::start_up(PAGES[1]);
    ap::start_up(PAGES[0]);
    ap::pass(A_WHILE);
    let after = PAGES.map(ap::starts);
    case.equal("the starts at the first page", after[0], before[0]);
    case.equal("the starts at the second page", after[1], before[1]);
}

fn starts(report: &mut Report) {
    report.case("second-cpu-starts", |case| {
        let before = ap::starts(PAGES[0]);
        if started(case) {
            case.equal("the starts", ap::starts(PAGES[0]), before + 1);
            case.ensure(ap::is_alive(Some(PAGES[0])), "it does not run");
        }
    });
    report.case("start-up-vector-is-the-page", |case| {
        for page in PAGES {
            case.ensure(ap::start(page), "the CPU does not start");
            case.equal("CS", ap::found(page).cs & 0xffff, u32::from(page) << 8);
        }
    });
    report.case("general-registers-after-init", |case| {
        if !started(case) {
            return;
        }
        let found = ap::found(PAGES[0]);
        for value in [
            found.eax, found.ebx, found.ecx, found.esi, found.edi, found.ebp, found.esp,
        ] {
            case.equal("a general register but EDX", value, 0);
        }
        let signature = cpuid(1, 0).eax;
        case.equal(
            "EDX's family and model",
            found.edx & 0xfff0,
            signature & 0xfff0,
        );
        case.equal("EFLAGS", found.eflags, 2);
    });
    report.case("segment-registers-after-init", |case| {
        if !started(case) {
            return;
        }
        let found = ap::found(PAGES[0]);
        for selector in [found.ds, found.es, found.fs, found.gs, found.ss] {
            case.equal("a selector", selector & 0xffff, 0);
        }
        case.equal("the GDT's limit and base", found.gdtr[0], 0xffff);
        case.equal("the IDT's limit and base", found.idtr[0], 0xffff);
    });
    report.case("control-registers-after-init", |case| {
        if !started(case) {
            return;
        }
        let found = ap::found(PAGES[0]);
        // CD and NW stay as they were.
        case.equal("CR0 but for CD and NW", found.cr0 & !0x6000_0000, 0x10);
        case.equal("CR2", found.cr2, 0);
        case.equal("CR3", found.cr3, 0);
        case.equal("CR4", found.cr4, 0);
        case.equal("EFER", found.efer, 0);
        case.equal("DR6", found.dr6, 0xffff_0ff0);
        case.equal("DR7", found.dr7, 0x400);
    });
    report.case("apic-base-of-an-application-processor", |case| {
        if started(case) {
            case.equal("IA32_APIC_BASE", ap::found(PAGES[0]).apic_base, 0xfee0_0800);
        }
    });
    report.case("start-up-ipi-to-a-running-cpu-is-ignored", |case| {
        if !started(case) {
            return;
        }
        start_ups_are_ignored(case);
        case.ensure(ap::is_alive(Some(PAGES[0])), "it runs no longer");
    });
    report.case("start-up-ipi-to-a-sleeping-cpu-is-ignored", |case| {
        if !started(case) {
            return;
        }
        ap::tell_real(PAGES[0], RealCommand::Sleep);
        ap::pass(A_WHILE);
        start_ups_are_ignored(case);
    });
    report.case("second-start-up-ipi-is-ignored", |case| {
        let before = PAGES.map(ap::starts);
        ap::tell_real(PAGES[0], RealCommand::Run);
        ap::init();
        ap::start_up(PAGES[0]);
        ap::start_up(PAGES[1]);
        ap::pass(A_WHILE);
        case.equal(
            "the starts at the first page",
            ap::starts(PAGES[0]),
            before[0] + 1,
        );
        case.equal(
            "the starts at the second page",
            ap::starts(PAGES[1]),
            before[1],
        );
    });
    report.case("init-level-de-assert-is-ignored", |case| {
        if !started(case) {
            return;
        }
        apic::send(1 << 15 | 5 << 8, ap::id());
        case.ensure(ap::is_alive(Some(PAGES[0])), "it runs no longer");
    });
}

/// INIT in some state: nothing runs until the start-up IPI, and then everything is new.
fn restarts(case: &mut Case, page: Option<u8>) {
    let before = ap::starts(PAGES[0]);
    ap::tell_real(PAGES[0], RealCommand::Run);
    ap::init();
    case.ensure(!ap::is_alive(page), "it runs on after INIT");
    case.equal(
        "the starts before the start-up IPI",
        ap::starts(PAGES[0]),
        before,
    );
    ap::start_up(PAGES[0]);
    case.ensure(
        ap::wait(|| ap::starts(PAGES[0]) == before + 1),
        "it does not start again",
    );
    let found = ap::found(PAGES[0]);
    case.equal("CR0 but for CD and NW", found.cr0 & !0x6000_0000, 0x10);
    case.equal("EFER", found.efer, 0);
    case.equal("CR4", found.cr4, 0);
    case.equal("EFLAGS", found.eflags, 2);
    case.ensure(ap::is_alive(Some(PAGES[0])), "it does not run");
}

fn inits(report: &mut Report) {
    report.case("init-in-real-mode", |case| {
        if started(case) {
            restarts(case, Some(PAGES[0]));
        }
    });
    report.case("init-in-hlt", |case| {
        if started(case) {
            ap::tell_real(PAGES[0], RealCommand::Sleep);
            ap::pass(A_WHILE);
            restarts(case, Some(PAGES[0]));
        }
    });
    report.case("init-in-a-tight-loop", |case| {
        if started(case) {
            ap::tell_real(PAGES[0], RealCommand::Spin);
            ap::pass(A_WHILE);
            restarts(case, Some(PAGES[0]));
        }
    });
    report.case("init-while-waiting-for-the-start-up-ipi", |case| {
        ap::init();
        ap::init();
        restarts(case, Some(PAGES[0]));
    });
    for (name, command) in [
        ("init-in-64-bit-mode", LongCommand::Closed),
        ("init-in-64-bit-mode-with-interrupts-on", LongCommand::Open),
        ("init-in-64-bit-mode-in-hlt", LongCommand::Sleep),
        (
            "init-in-64-bit-mode-in-hlt-with-interrupts-off",
            LongCommand::SleepClosed,
        ),
    ] {
        report.case(name, |case| {
            case.ensure(ap::start_long(command), "it does not reach 64-bit mode");
            ap::pass(A_WHILE);
            restarts(case, None);
        });
    }
    report.case("init-in-an-nmi-handler-unblocks-nmis", |case| {
        case.ensure(
            ap::start_long(LongCommand::Open),
            "it does not reach 64-bit mode",
        );
        ap::keep_in_nmi(true);
        let before = ap::count(NMI);
        apic::send(ASSERT | DELIVER_NMI, ap::id());
        case.ensure(ap::wait(|| ap::count(NMI) == before + 1), "no NMI");
        restarts(case, None);
        case.ensure(
            ap::start_long(LongCommand::Open),
            "it does not reach 64-bit mode",
        );
        apic::send(ASSERT | DELIVER_NMI, ap::id());
        case.ensure(
            ap::wait(|| ap::count(NMI) == before + 2),
            "no NMI after INIT",
        );
    });
    report.case("init-drops-what-is-pending", |case| {
        case.ensure(
            ap::start_long(LongCommand::Closed),
            "it does not reach 64-bit mode",
        );
        let before = ap::count(VECTOR);
        apic::send(ASSERT | u32::from(VECTOR), ap::id());
        ap::init();
        case.ensure(
            ap::start_long(LongCommand::Open),
            "it does not reach 64-bit mode",
        );
        ap::pass(A_WHILE);
        case.equal("the interrupts", ap::count(VECTOR), before);
    });
}

/// Sends, and checks how many of the vector came there and here.
fn sends(case: &mut Case, what: &str, command: u32, destination: u32, there: u32, here: usize) {
    recorder::clear();
    let before = ap::count(VECTOR);
    apic::send(command | ASSERT | u32::from(VECTOR), destination);
    let _ = ap::wait(|| ap::count(VECTOR) != before || there == 0);
    ap::pass(A_WHILE);
    apic::open_window();
    let came = (ap::count(VECTOR) - before, recorder::log().count());
    if came != (there, here) {
        case.fail(format_args!(
            "{what}: {} came there and {} here, not {there} and {here}",
            came.0, came.1
        ));
    }
}

fn interrupts(report: &mut Report) {
    for (mode, command) in [
        ("ipis-to-a-running-cpu", LongCommand::Open),
        ("ipis-to-a-sleeping-cpu", LongCommand::Sleep),
    ] {
        report.case(mode, |case| {
            case.ensure(ap::start_long(command), "it does not reach 64-bit mode");
            ap::pass(A_WHILE);
            sends(case, "physical", 0, ap::id(), 1, 0);
            sends(case, "physical to oneself", 0, apic::id(), 0, 1);
            sends(case, "physical to nobody", 0, 0xee, 0, 0);
            sends(case, "physical broadcast", 0, 0xff, 1, 1);
            sends(case, "self", 1 << 18, 0, 0, 1);
            sends(case, "all including self", 2 << 18, 0, 1, 1);
            sends(case, "all excluding self", 3 << 18, 0, 1, 0);
        });
    }
    report.case("logical-ipis", |case| {
        case.ensure(
            ap::start_long(LongCommand::Open),
            "it does not reach 64-bit mode",
        );
        apic::write(reg::DESTINATION_FORMAT, u32::MAX);
        apic::write(reg::LOGICAL_DESTINATION, 1 << 24);
        // The other one has bit 1.
        sends(case, "the own bit", LOGICAL, 1, 0, 1);
        sends(case, "the other one's bit", LOGICAL, 2, 1, 0);
        sends(case, "both", LOGICAL, 3, 1, 1);
        sends(case, "everybody", LOGICAL, 0xff, 1, 1);
        sends(case, "nobody's bits", LOGICAL, 0xfc, 0, 0);
        apic::write(reg::LOGICAL_DESTINATION, 0);
    });
    report.case("lowest-priority-goes-to-one", |case| {
        case.ensure(
            ap::start_long(LongCommand::Open),
            "it does not reach 64-bit mode",
        );
        // Whom it goes to is the processor's choice; it is one.
        recorder::clear();
        let before = ap::count(VECTOR);
        apic::write(reg::LOGICAL_DESTINATION, 1 << 24);
        apic::send(LOGICAL | ASSERT | 1 << 8 | u32::from(VECTOR), 3);
        ap::pass(A_WHILE);
        apic::open_window();
        apic::write(reg::LOGICAL_DESTINATION, 0);
        let came = ap::count(VECTOR) - before + recorder::log().count() as u32;
        case.equal("the interrupts", came, 1);
    });
    report.case("closed-cpu-takes-it-when-it-opens", |case| {
        case.ensure(
            ap::start_long(LongCommand::Closed),
            "it does not reach 64-bit mode",
        );
        let before = ap::count(VECTOR);
        apic::send(ASSERT | u32::from(VECTOR), ap::id());
        ap::pass(A_WHILE);
        case.equal(
            "the interrupts while IF is clear",
            ap::count(VECTOR),
            before,
        );
        ap::tell(LongCommand::Open);
        case.ensure(
            ap::wait(|| ap::count(VECTOR) == before + 1),
            "none afterwards",
        );
    });
    report.case("nmi-to-every-state", |case| {
        for command in [
            LongCommand::Open,
            LongCommand::Closed,
            LongCommand::Sleep,
            LongCommand::SleepClosed,
        ] {
            case.ensure(ap::start_long(command), "it does not reach 64-bit mode");
            ap::pass(A_WHILE);
            let before = ap::count(NMI);
            apic::send(ASSERT | DELIVER_NMI, ap::id());
            case.ensure(ap::wait(|| ap::count(NMI) == before + 1), "no NMI");
            case.ensure(
                matches!(command, LongCommand::Sleep | LongCommand::SleepClosed)
                    || ap::is_alive(None),
                "it runs no longer",
            );
        }
    });
    report.case("a-thousand-ipis", |case| {
        case.ensure(
            ap::start_long(LongCommand::Sleep),
            "it does not reach 64-bit mode",
        );
        for _ in 0..1000 {
            let before = ap::count(VECTOR);
            apic::send(ASSERT | u32::from(VECTOR), ap::id());
            if !ap::wait(|| ap::count(VECTOR) == before + 1) {
                return case.fail(format_args!("one was lost"));
            }
        }
    });
}

fn times(report: &mut Report) {
    report.case("tsc-of-both-agrees", |case| {
        case.ensure(
            ap::start_long(LongCommand::TellTime),
            "it does not reach 64-bit mode",
        );
        for _ in 0..50 {
            let before = rdtsc();
            let Some(there) = ap::time() else {
                return case.fail(format_args!("it does not answer"));
            };
            let after = rdtsc();
            case.ensure(before <= there, "the other TSC is behind");
            case.ensure(there <= after, "the other TSC is ahead");
        }
    });
    report.case("init-keeps-the-tsc", |case| {
        for _ in 0..3 {
            case.ensure(
                ap::start_long(LongCommand::TellTime),
                "it does not reach 64-bit mode",
            );
            let before = rdtsc();
            let there = ap::time().unwrap_or(0);
            case.ensure(before <= there, "the other TSC is behind");
        }
    });
}
