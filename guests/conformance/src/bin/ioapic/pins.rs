//! The pins: their registers, and what comes of their levels.

use plinth_guests::apic::{self, register as reg};
use plinth_guests::cpu::outb;
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::recorder::{self, note};
use plinth_guests::{Report, Vector, x86};

use crate::{
    EOI, LEVEL, MASKED, OTHER, PIN, PIT_PIN, REMOTE_IRR, SELECT, VECTOR, came, case, entry, open,
    pulse, read, read_at, set_entry, set_line, taken, write, write_at,
};

pub(super) fn registers(report: &mut Report) {
    case(report, "version-and-number-of-entries", |case| {
        let version = read(1);
        case.ensure(
            matches!(version & 0xff, 0x10..=0x2f),
            "the version is none of an I/O APIC",
        );
        case.ensure(version >> 16 & 0xff >= 15, "fewer than 16 entries");
        write(1, !version);
        case.equal("the version after a write", read(1), version);
    });
    case(report, "select-register-reads-back", |case| {
        write_at(SELECT, 0x13);
        case.equal("the select register", read_at(SELECT) & 0xff, 0x13);
    });
    case(report, "id-has-four-bits", |case| {
        let original = read(0);
        write(0, 0x0500_0000);
        let written = read(0);
        write(0, original);
        case.equal("the ID", written & 0x0f00_0000, 0x0500_0000);
        case.equal("the reserved bits", written & 0xf0ff_ffff, 0);
    });
    case(report, "entry-drops-reserved-bits", |case| {
        // Delivery status (12) and remote IRR (14) are read only.
        write(0x10 + 2 * PIN, 0xffff_ffff);
        let low = entry(PIN);
        write(0x11 + 2 * PIN, 0xa5ff_ffff);
        let high = read(0x11 + 2 * PIN);
        write(0x10 + 2 * PIN, MASKED);
        case.equal("the low half", low, 0x0001_afff);
        case.equal("the destination", high >> 24, 0xa5);
    });
    case(report, "halves-of-an-entry-are-independent", |case| {
        write(0x10 + 2 * PIN, MASKED | 0x1234 & 0x0fff);
        write(0x11 + 2 * PIN, 0x5a00_0000);
        case.equal("the low half", entry(PIN), MASKED | 0x234);
        write(0x10 + 2 * PIN, MASKED);
        case.equal("the high half", read(0x11 + 2 * PIN) >> 24, 0x5a);
    });
    case(report, "every-entry-holds-its-own", |case| {
        let last = (read(1) >> 16 & 0xff) as u8;
        for pin in 0..=last {
            write(0x10 + 2 * pin, MASKED | u32::from(0x30 + pin));
        }
        for pin in 0..=last {
            case.equal("an entry", entry(pin), MASKED | u32::from(0x30 + pin));
            write(0x10 + 2 * pin, MASKED);
        }
    });
}

pub(super) fn edge(report: &mut Report) {
    case(report, "edge-fires-once-for-each-rise", |case| {
        open(u32::from(VECTOR));
        set_line(true);
        came(case, "the line rose", taken(), &[VECTOR]);
        came(case, "it stays up", taken(), &[VECTOR]);
        set_line(false);
        came(case, "it fell", taken(), &[VECTOR]);
        set_line(true);
        came(case, "it rose again", taken(), &[VECTOR, VECTOR]);
    });
    case(report, "edge-is-not-level-in-the-tmr", |case| {
        open(u32::from(VECTOR));
        pulse();
        case.equal("IRR", u8::from(apic::has(reg::REQUEST, VECTOR)), 1);
        case.equal("TMR", u8::from(apic::has(reg::TRIGGER_MODE, VECTOR)), 0);
        case.equal("remote IRR", entry(PIN) & REMOTE_IRR, 0);
        came(case, "one pulse", taken(), &[VECTOR]);
    });
    case(report, "edges-while-pending-are-one", |case| {
        open(u32::from(VECTOR));
        pulse();
        pulse();
        came(case, "two pulses", taken(), &[VECTOR]);
    });
    case(report, "edge-on-a-masked-pin-is-lost", |case| {
        open(MASKED | u32::from(VECTOR));
        pulse();
        write(0x10 + 2 * PIN, u32::from(VECTOR));
        came(case, "opened after a pulse", taken(), &[]);
    });
    case(report, "edge-pin-opened-while-up-stays-silent", |case| {
        open(MASKED | u32::from(VECTOR));
        set_line(true);
        write(0x10 + 2 * PIN, u32::from(VECTOR));
        came(case, "opened", taken(), &[]);
    });
    case(report, "edge-to-a-disabled-apic-is-lost", |case| {
        open(u32::from(VECTOR));
        apic::write(reg::SPURIOUS, 0xff);
        pulse();
        apic::write(reg::SPURIOUS, 0x1ff);
        came(case, "one pulse", taken(), &[]);
    });
}

/// Notes, and lets go of the line before it ends the interrupt.
fn let_go(frame: &mut Frame) {
    note(frame);
    set_line(false);
    apic::end_of_interrupt();
}

/// Notes, and lets go of the line only the third time.
fn let_go_at_last(frame: &mut Frame) {
    note(frame);
    if recorder::log().count() >= 3 {
        set_line(false);
    }
    apic::end_of_interrupt();
}

/// Notes, and does not end the interrupt.
fn keep(frame: &mut Frame) {
    note(frame);
}

pub(super) fn level(report: &mut Report) {
    case(report, "level-fires-until-the-line-falls", |case| {
        set_handler(VECTOR, Some(let_go_at_last));
        open(LEVEL | u32::from(VECTOR));
        set_line(true);
        apic::open_window();
        apic::open_window();
        came(case, "the line was up for three", taken(), &[VECTOR; 3]);
        recorder::record(&[VECTOR]);
    });
    case(report, "level-fires-once-if-the-handler-lets-go", |case| {
        set_handler(VECTOR, Some(let_go));
        open(LEVEL | u32::from(VECTOR));
        set_line(true);
        apic::open_window();
        came(case, "the line was up for one", taken(), &[VECTOR]);
        case.equal("remote IRR", entry(PIN) & REMOTE_IRR, 0);
        recorder::record(&[VECTOR]);
    });
    case(report, "level-is-in-tmr-and-remote-irr", |case| {
        set_handler(VECTOR, Some(keep));
        open(LEVEL | u32::from(VECTOR));
        set_line(true);
        case.equal("TMR", u8::from(apic::has(reg::TRIGGER_MODE, VECTOR)), 1);
        case.equal(
            "remote IRR while it is requested",
            entry(PIN) & REMOTE_IRR,
            REMOTE_IRR,
        );
        came(case, "the line is up", taken(), &[VECTOR]);
        case.equal(
            "remote IRR while it is in service",
            entry(PIN) & REMOTE_IRR,
            REMOTE_IRR,
        );
        set_line(false);
        case.equal(
            "remote IRR after the line fell",
            entry(PIN) & REMOTE_IRR,
            REMOTE_IRR,
        );
        apic::end_of_interrupt();
        case.equal("remote IRR after the EOI", entry(PIN) & REMOTE_IRR, 0);
        recorder::record(&[VECTOR]);
    });
    case(report, "level-comes-once-while-in-service", |case| {
        set_handler(VECTOR, Some(keep));
        open(LEVEL | u32::from(VECTOR));
        set_line(true);
        apic::open_window();
        set_line(false);
        set_line(true);
        came(case, "it fell and rose", taken(), &[VECTOR]);
        set_line(false);
        apic::end_of_interrupt();
        came(case, "the end", taken(), &[VECTOR]);
        recorder::record(&[VECTOR]);
    });
    case(
        report,
        "level-requested-comes-though-the-line-fell",
        |case| {
            open(LEVEL | u32::from(VECTOR));
            pulse();
            came(case, "a pulse with IF clear", taken(), &[VECTOR]);
        },
    );
    case(report, "level-pin-opened-while-up-fires", |case| {
        set_handler(VECTOR, Some(let_go));
        open(LEVEL | MASKED | u32::from(VECTOR));
        set_line(true);
        came(case, "masked", taken(), &[]);
        write(0x10 + 2 * PIN, LEVEL | u32::from(VECTOR));
        apic::settle();
        came(case, "opened", taken(), &[VECTOR]);
        recorder::record(&[VECTOR]);
    });
    case(report, "level-pulse-on-a-masked-pin-is-lost", |case| {
        open(LEVEL | MASKED | u32::from(VECTOR));
        pulse();
        write(0x10 + 2 * PIN, LEVEL | u32::from(VECTOR));
        came(case, "opened after a pulse", taken(), &[]);
    });
    case(
        report,
        "level-masked-in-service-fires-when-opened",
        |case| {
            set_handler(VECTOR, Some(keep));
            open(LEVEL | u32::from(VECTOR));
            set_line(true);
            apic::open_window();
            write(0x10 + 2 * PIN, LEVEL | MASKED | u32::from(VECTOR));
            apic::end_of_interrupt();
            came(case, "ended while masked", taken(), &[VECTOR]);
            set_handler(VECTOR, Some(let_go));
            write(0x10 + 2 * PIN, LEVEL | u32::from(VECTOR));
            apic::settle();
            came(case, "opened", taken(), &[VECTOR, VECTOR]);
            recorder::record(&[VECTOR]);
        },
    );
    case(report, "priority-holds-back-a-level-interrupt", |case| {
        set_handler(VECTOR, Some(let_go));
        open(LEVEL | u32::from(VECTOR));
        apic::set(reg::TASK_PRIORITY, u32::from(VECTOR));
        set_line(true);
        came(case, "TPR is of its class", taken(), &[]);
        apic::set(reg::TASK_PRIORITY, 0);
        came(case, "TPR is 0", taken(), &[VECTOR]);
        recorder::record(&[VECTOR]);
    });
    case(report, "eoi-of-an-edge-vector-is-not-the-pin's", |case| {
        set_handler(VECTOR, Some(keep));
        open(LEVEL | u32::from(VECTOR));
        set_line(true);
        apic::open_window();
        apic::send_to_self(OTHER);
        came(
            case,
            "a self IPI of another vector",
            taken(),
            &[VECTOR, OTHER],
        );
        case.equal(
            "remote IRR after the other one's EOI",
            entry(PIN) & REMOTE_IRR,
            REMOTE_IRR,
        );
        set_line(false);
        apic::end_of_interrupt();
        recorder::record(&[VECTOR]);
    });
}

pub(super) fn changes(report: &mut Report) {
    case(
        report,
        "request-keeps-the-vector-that-it-was-made-with",
        |case| {
            open(u32::from(VECTOR));
            pulse();
            open(u32::from(OTHER));
            came(case, "changed while requested", taken(), &[VECTOR]);
            pulse();
            came(case, "the next", taken(), &[VECTOR, OTHER]);
        },
    );
    case(report, "masking-does-not-take-a-request-back", |case| {
        open(u32::from(VECTOR));
        pulse();
        open(MASKED | u32::from(VECTOR));
        came(case, "masked while requested", taken(), &[VECTOR]);
    });
    case(report, "edge-trigger-forgets-remote-irr", |case| {
        set_handler(VECTOR, Some(keep));
        open(LEVEL | u32::from(VECTOR));
        set_line(true);
        apic::open_window();
        write(0x10 + 2 * PIN, MASKED | u32::from(VECTOR));
        case.equal("remote IRR as edge", entry(PIN) & REMOTE_IRR, 0);
        write(0x10 + 2 * PIN, LEVEL | u32::from(VECTOR));
        apic::settle();
        case.equal(
            "remote IRR as level again, with the line up",
            entry(PIN) & REMOTE_IRR,
            REMOTE_IRR,
        );
        set_line(false);
        apic::end_of_interrupt();
        apic::open_window();
        apic::end_of_interrupt();
        recorder::record(&[VECTOR]);
    });
    case(report, "eoi-register-ends-by-vector", |case| {
        if read(1) & 0xff < 0x20 {
            return case.skip("this I/O APIC has no EOI register");
        }
        set_handler(VECTOR, Some(keep));
        open(LEVEL | u32::from(VECTOR));
        set_line(true);
        apic::open_window();
        set_line(false);
        write_at(EOI, u32::from(OTHER));
        case.equal(
            "remote IRR after another vector",
            entry(PIN) & REMOTE_IRR,
            REMOTE_IRR,
        );
        write_at(EOI, u32::from(VECTOR));
        case.equal("remote IRR after its own", entry(PIN) & REMOTE_IRR, 0);
        apic::end_of_interrupt();
        recorder::record(&[VECTOR]);
    });
    case(
        report,
        "eoi-of-a-vector-that-was-changed-does-not-match",
        |case| {
            set_handler(VECTOR, Some(keep));
            open(LEVEL | u32::from(VECTOR));
            set_line(true);
            apic::open_window();
            // The write does not touch remote IRR; the broadcast names the old vector.
            write(0x10 + 2 * PIN, LEVEL | u32::from(OTHER));
            apic::end_of_interrupt();
            let waits = entry(PIN) & REMOTE_IRR;
            set_line(false);
            case.equal("remote IRR", waits, REMOTE_IRR);
            came(case, "the new vector", taken(), &[VECTOR]);
            recorder::record(&[VECTOR]);
        },
    );
}

pub(super) fn destinations(report: &mut Report) {
    case(report, "another-destination-gets-it", |case| {
        set_entry(PIN, u32::from(VECTOR), 0xee);
        pulse();
        came(case, "ID 0xee", taken(), &[]);
    });
    case(report, "broadcast-destination", |case| {
        set_entry(PIN, u32::from(VECTOR), 0xff);
        pulse();
        came(case, "everybody", taken(), &[VECTOR]);
    });
    case(report, "logical-destination", |case| {
        apic::write(reg::DESTINATION_FORMAT, u32::MAX);
        apic::write(reg::LOGICAL_DESTINATION, 0x10 << 24);
        set_entry(PIN, apic::LOGICAL | u32::from(VECTOR), 0x30);
        pulse();
        came(case, "one of its bits", taken(), &[VECTOR]);
        set_entry(PIN, apic::LOGICAL | u32::from(VECTOR), 0x20);
        pulse();
        came(case, "another bit", taken(), &[VECTOR]);
        apic::write(reg::LOGICAL_DESTINATION, 0);
    });
    case(report, "lowest-priority-delivery", |case| {
        apic::write(reg::LOGICAL_DESTINATION, 0x10 << 24);
        set_entry(PIN, apic::LOGICAL | 1 << 8 | u32::from(VECTOR), 0x10);
        pulse();
        apic::write(reg::LOGICAL_DESTINATION, 0);
        came(case, "one CPU", taken(), &[VECTOR]);
    });
    case(report, "nmi-delivery", |case| {
        set_handler(Vector::Nmi as u8, Some(note));
        open(apic::DELIVER_NMI | u32::from(VECTOR));
        pulse();
        set_handler(Vector::Nmi as u8, None);
        came(case, "a pulse", taken(), &[2]);
    });
    case(report, "nmi-from-a-pin-wakes-hlt", |case| {
        set_handler(Vector::Nmi as u8, Some(note));
        // The local timer would wake a processor that the NMI does not wake.
        apic::set(reg::DIVIDE, 0xb);
        apic::set(reg::LVT_TIMER, u32::from(OTHER));
        apic::set(reg::INITIAL_COUNT, 400_000_000);
        set_entry(PIT_PIN, apic::DELIVER_NMI, apic::id());
        // Channel 0, mode 0: its output rises once the count is down.
        for (port, value) in [(0x43, 0x30), (0x40, 0x00), (0x40, 0x08)] {
            outb(port, value);
        }
        x86!("sti", "hlt", "cli");
        set_entry(PIT_PIN, MASKED, 0);
        apic::set(reg::LVT_TIMER, apic::MASKED);
        apic::set(reg::INITIAL_COUNT, 0);
        set_handler(Vector::Nmi as u8, None);
        came(case, "the PIT's pulse", recorder::log(), &[2]);
    });
    case(report, "pit-is-on-pin-2", |case| {
        set_entry(PIT_PIN, u32::from(VECTOR), apic::id());
        for (port, value) in [(0x43, 0x30), (0x40, 0x00), (0x40, 0x04)] {
            outb(port, value);
        }
        for _ in 0..1_000_000 {
            x86!("sti", "pause", "cli");
            if recorder::log().count() != 0 {
                break;
            }
        }
        came(case, "one shot of the PIT", taken(), &[VECTOR]);
    });
}
