//! Which interrupt comes when: IRR, ISR, priorities, and IPIs to oneself, in either mode.

use plinth_guests::apic::{self, ASSERT, DELIVER_NMI, LOGICAL, TO_SELF, register as reg};
use plinth_guests::cpu;
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::recorder::{self, note};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, Vector, x86};

use crate::{HIGH, LOW, LOW_TOO, MIDDLE, came, case_in, taken};

/// What a handler saw of the APIC: whether its vector was in service and requested, and the PPR.
static SEEN: Single<[u32; 3]> = Single::new([0; 3]);

fn seen() -> [u32; 3] {
    // SAFETY: one CPU; volatile, since a handler writes it.
    unsafe { SEEN.get().read_volatile() }
}

/// Looks at the APIC, notes and ends.
fn look(frame: &mut Frame) {
    let vector = frame.vector as u8;
    let state = [
        u32::from(apic::has(reg::IN_SERVICE, vector)),
        u32::from(apic::has(reg::REQUEST, vector)),
        apic::get(reg::PROCESSOR_PRIORITY),
    ];
    // SAFETY: as above.
    unsafe { SEEN.get().write_volatile(state) };
    recorder::note_and_end(frame);
}

/// While in service: asks for one vector that is higher and one that is not, with interrupts let in.
fn nest(frame: &mut Frame) {
    note(frame);
    apic::send_to_self(HIGH);
    apic::send_to_self(LOW_TOO);
    apic::open_window();
    apic::end_of_interrupt();
}

/// While in service: asks for itself twice.
fn repeat(frame: &mut Frame) {
    note(frame);
    if recorder::log().count() == 1 {
        apic::send_to_self(LOW);
        apic::send_to_self(LOW);
    }
    apic::end_of_interrupt();
}

/// Forgets to end the interrupt.
fn forget_to_end(frame: &mut Frame) {
    note(frame);
}

pub(super) fn in_mode(report: &mut Report, mode: &str) {
    let mut case = |name: &str, body: fn(&mut Case)| case_in(report, mode, name, body);
    case("interrupt-waits-in-irr-for-if", |case| {
        apic::send_to_self(LOW);
        case.equal("IRR", u8::from(apic::has(reg::REQUEST, LOW)), 1);
        case.equal("ISR", u8::from(apic::has(reg::IN_SERVICE, LOW)), 0);
        case.equal("TMR", u8::from(apic::has(reg::TRIGGER_MODE, LOW)), 0);
        came(case, "with IF clear", recorder::log(), &[]);
        came(case, "with IF set", taken(), &[LOW]);
        case.equal("IRR afterwards", u8::from(apic::has(reg::REQUEST, LOW)), 0);
    });
    case("interrupt-in-service-is-in-isr", |case| {
        set_handler(LOW, Some(look));
        apic::send_to_self(LOW);
        came(case, "one was sent", taken(), &[LOW]);
        recorder::record(&[LOW]);
        let [in_service, requested, priority] = seen();
        case.equal("ISR in the handler", in_service, 1);
        case.equal("IRR in the handler", requested, 0);
        case.equal("PPR in the handler", priority, u32::from(LOW & 0xf0));
        case.equal(
            "ISR afterwards",
            u8::from(apic::has(reg::IN_SERVICE, LOW)),
            0,
        );
        case.equal("PPR afterwards", apic::get(reg::PROCESSOR_PRIORITY), 0);
    });
    case("processor-priority-is-the-higher-of-the-two", |case| {
        set_handler(LOW, Some(look));
        // Below the class in service, then the same class with a sub-class that PPR takes over.
        apic::set(reg::TASK_PRIORITY, 0x1f);
        apic::send_to_self(LOW);
        came(case, "one was sent", taken(), &[LOW]);
        recorder::record(&[LOW]);
        case.equal(
            "PPR in the handler with a lower TPR",
            seen()[2],
            u32::from(LOW & 0xf0),
        );
    });
    case("highest-vector-comes-first", |case| {
        for vector in [LOW, HIGH, LOW_TOO, MIDDLE] {
            apic::send_to_self(vector);
        }
        apic::open_window();
        came(
            case,
            "four were sent",
            taken(),
            &[HIGH, MIDDLE, LOW_TOO, LOW],
        );
    });
    case("only-a-higher-class-interrupts-a-handler", |case| {
        set_handler(MIDDLE, Some(nest));
        apic::send_to_self(MIDDLE);
        apic::open_window();
        came(
            case,
            "a handler asked for two",
            taken(),
            &[MIDDLE, HIGH, LOW_TOO],
        );
        recorder::record(&[MIDDLE]);
    });
    case("same-class-does-not-interrupt-a-handler", |case| {
        fn nest_in_class(frame: &mut Frame) {
            note(frame);
            apic::send_to_self(LOW_TOO);
            apic::open_window();
            case_count();
            apic::end_of_interrupt();
        }
        fn case_count() {
            // SAFETY: one CPU.
            unsafe {
                SEEN.get()
                    .write_volatile([recorder::log().count() as u32, 0, 0])
            };
        }
        set_handler(LOW, Some(nest_in_class));
        apic::send_to_self(LOW);
        apic::open_window();
        came(case, "two of one class", taken(), &[LOW, LOW_TOO]);
        case.equal("the interrupts before the first one's end", seen()[0], 1);
        recorder::record(&[LOW]);
    });
    case("a-vector-waits-once-while-it-is-in-service", |case| {
        set_handler(LOW, Some(repeat));
        apic::send_to_self(LOW);
        apic::open_window();
        came(case, "three were sent", taken(), &[LOW, LOW]);
        recorder::record(&[LOW]);
    });
    case("a-vector-waits-once-in-irr", |case| {
        apic::send_to_self(LOW);
        apic::send_to_self(LOW);
        came(case, "two were sent", taken(), &[LOW]);
    });
    case("task-priority-holds-its-class-and-below", |case| {
        apic::set(reg::TASK_PRIORITY, u32::from(LOW & 0xf0));
        apic::send_to_self(LOW);
        apic::send_to_self(MIDDLE);
        came(case, "TPR is of the lower class", taken(), &[MIDDLE]);
        apic::set(reg::TASK_PRIORITY, u32::from(LOW & 0xf0) - 1);
        came(case, "TPR is one less", taken(), &[MIDDLE, LOW]);
    });
    case("cr8-lets-an-interrupt-in-at-once", |case| {
        cpu::write_cr8(15);
        apic::send_to_self(HIGH);
        let behind: u64;
        x86!(
            "lea {0}, [rip + 2f]", "sti", "nop", "mov cr8, {1}", "2: nop", "cli",
            out(reg) behind, in(reg) 0u64,
        );
        let log = recorder::log();
        came(case, "CR8 was lowered", log, &[HIGH]);
        case.equal("where it came", log.event(0).rip, behind);
    });
    case("task-priority-lets-an-interrupt-in-at-once", |case| {
        apic::set(reg::TASK_PRIORITY, 0xff);
        apic::send_to_self(HIGH);
        x86!("sti", "nop");
        came(case, "TPR is the highest", recorder::log(), &[]);
        apic::set(reg::TASK_PRIORITY, 0);
        x86!("nop", "cli");
        came(case, "TPR was lowered", recorder::log(), &[HIGH]);
    });
    case("in-service-holds-back-what-is-below", |case| {
        set_handler(HIGH, Some(forget_to_end));
        apic::send_to_self(HIGH);
        apic::send_to_self(LOW);
        came(case, "the first is not ended", taken(), &[HIGH]);
        case.equal(
            "PPR",
            apic::get(reg::PROCESSOR_PRIORITY),
            u32::from(HIGH & 0xf0),
        );
        apic::end_of_interrupt();
        came(case, "it is ended", taken(), &[HIGH, LOW]);
        recorder::record(&[HIGH]);
    });
    case("eoi-ends-the-highest-in-service", |case| {
        set_handler(LOW, Some(forget_to_end));
        set_handler(HIGH, Some(forget_to_end));
        apic::send_to_self(LOW);
        apic::open_window();
        apic::send_to_self(HIGH);
        apic::open_window();
        let both = [LOW, HIGH].map(|vector| u8::from(apic::has(reg::IN_SERVICE, vector)));
        case.equal("ISR of both", both[0] + both[1], 2);
        apic::end_of_interrupt();
        case.equal("the higher", u8::from(apic::has(reg::IN_SERVICE, HIGH)), 0);
        case.equal("the lower", u8::from(apic::has(reg::IN_SERVICE, LOW)), 1);
        apic::end_of_interrupt();
        case.equal("the lower", u8::from(apic::has(reg::IN_SERVICE, LOW)), 0);
        recorder::record(&[LOW, HIGH]);
    });
    case("eoi-with-nothing-in-service-does-nothing", |case| {
        apic::send_to_self(LOW);
        apic::end_of_interrupt();
        case.equal("IRR", u8::from(apic::has(reg::REQUEST, LOW)), 1);
        came(case, "one was sent", taken(), &[LOW]);
    });
    case("every-vector-from-16-on-comes", |case| {
        for vector in 0x20..=0xfeu8 {
            if matches!(vector, LOW | LOW_TOO | MIDDLE | HIGH) {
                continue;
            }
            set_handler(vector, Some(recorder::note_and_end));
            recorder::clear();
            apic::send_to_self(vector);
            came(case, "one was sent", taken(), &[vector]);
            set_handler(vector, None);
        }
    });
    case("nmi-to-oneself-by-id", |case| {
        set_handler(Vector::Nmi as u8, Some(note));
        apic::send(ASSERT | DELIVER_NMI, apic::id());
        // The vector of an NMI does not count.
        apic::send(ASSERT | DELIVER_NMI | u32::from(LOW), apic::id());
        set_handler(Vector::Nmi as u8, None);
        came(case, "two were sent", taken(), &[2, 2]);
    });
    case("software-disabled-apic-takes-nmis-only", |case| {
        set_handler(Vector::Nmi as u8, Some(note));
        apic::set(reg::SPURIOUS, 0xff);
        apic::send(ASSERT | u32::from(LOW), apic::id());
        apic::send(ASSERT | DELIVER_NMI, apic::id());
        set_handler(Vector::Nmi as u8, None);
        apic::set(reg::SPURIOUS, 0x1ff);
        came(case, "a fixed one and an NMI", taken(), &[2]);
    });
    case("software-disable-keeps-what-is-pending", |case| {
        apic::send_to_self(LOW);
        apic::set(reg::SPURIOUS, 0xff);
        case.equal("IRR", u8::from(apic::has(reg::REQUEST, LOW)), 1);
        apic::set(reg::SPURIOUS, 0x1ff);
        came(case, "one was sent", taken(), &[LOW]);
    });
    case("all-including-self-comes-back", |case| {
        apic::send(ASSERT | 2 << 18 | u32::from(LOW), 0);
        came(case, "one was sent", taken(), &[LOW]);
    });
    case("all-excluding-self-does-not-come-back", |case| {
        apic::send(ASSERT | 3 << 18 | u32::from(LOW), apic::id());
        came(case, "one was sent", taken(), &[]);
    });
    case("shorthand-wins-over-the-destination", |case| {
        apic::send(TO_SELF | ASSERT | u32::from(LOW), 0xee);
        came(case, "one was sent", taken(), &[LOW]);
    });
    case("another-id-does-not-come-back", |case| {
        apic::send(ASSERT | u32::from(LOW), 0xee);
        came(case, "one was sent", taken(), &[]);
    });
    case("lowest-priority-to-oneself", |case| {
        let logical = if apic::is_x2apic() {
            apic::get(reg::LOGICAL_DESTINATION)
        } else {
            apic::write(reg::LOGICAL_DESTINATION, 0x4 << 24);
            0x4
        };
        apic::send(LOGICAL | ASSERT | 1 << 8 | u32::from(LOW), logical);
        came(case, "one was sent", taken(), &[LOW]);
    });
    if mode == "x2apic" {
        case("self-ipi-register", |case| {
            apic::set(reg::SELF_IPI, u32::from(MIDDLE));
            apic::settle();
            case.equal("IRR", u8::from(apic::has(reg::REQUEST, MIDDLE)), 1);
            came(case, "one was sent", taken(), &[MIDDLE]);
        });
        case("logical-destination-is-a-cluster-and-a-bit", |case| {
            let logical = apic::id() >> 4 << 16 | 1 << (apic::id() & 15);
            apic::send(LOGICAL | ASSERT | u32::from(LOW), logical);
            came(case, "its own", taken(), &[LOW]);
            recorder::clear();
            apic::send(
                LOGICAL | ASSERT | u32::from(LOW),
                logical ^ 3 << (apic::id() & 15),
            );
            came(case, "another bit", taken(), &[]);
            apic::send(LOGICAL | ASSERT | u32::from(LOW), logical + 0x10_0000);
            came(case, "another cluster", taken(), &[]);
            apic::send(LOGICAL | ASSERT | u32::from(LOW), u32::MAX);
            came(case, "everybody", taken(), &[LOW]);
        });
        case("physical-broadcast", |case| {
            apic::send(ASSERT | u32::from(LOW), u32::MAX);
            came(case, "everybody", taken(), &[LOW]);
            recorder::clear();
            // The broadcast of the other mode is an ID here.
            apic::send(ASSERT | u32::from(LOW), 0xff);
            came(case, "ID 255", taken(), &[]);
        });
    }
}

/// The destinations that only xAPIC mode has.
pub(super) fn destinations(report: &mut Report) {
    let logical = |destination| {
        apic::send(LOGICAL | ASSERT | u32::from(LOW), destination);
    };
    case_in(report, "xapic", "physical-broadcast", |case| {
        apic::send(ASSERT | u32::from(LOW), 0xff);
        came(case, "everybody", taken(), &[LOW]);
    });
    case_in(
        report,
        "xapic",
        "flat-logical-destination-is-a-mask",
        |case| {
            apic::write(reg::DESTINATION_FORMAT, u32::MAX);
            apic::write(reg::LOGICAL_DESTINATION, 0x24 << 24);
            logical(0x04);
            came(case, "one of its bits", taken(), &[LOW]);
            recorder::clear();
            logical(0x21);
            came(case, "one of its bits and another", taken(), &[LOW]);
            recorder::clear();
            logical(0xdb);
            came(case, "other bits", taken(), &[]);
            logical(0x00);
            came(case, "no bit", taken(), &[]);
            logical(0xff);
            came(case, "everybody", taken(), &[LOW]);
            apic::write(reg::LOGICAL_DESTINATION, 0);
            recorder::clear();
            logical(0x01);
            came(case, "an LDR of 0", taken(), &[]);
        },
    );
    case_in(
        report,
        "xapic",
        "cluster-logical-destination-is-number-and-mask",
        |case| {
            apic::write(reg::DESTINATION_FORMAT, 0x0fff_ffff);
            apic::write(reg::LOGICAL_DESTINATION, 0x36 << 24);
            logical(0x32);
            came(case, "its cluster and one of its bits", taken(), &[LOW]);
            recorder::clear();
            logical(0x39);
            came(case, "its cluster and other bits", taken(), &[]);
            logical(0x26);
            came(case, "another cluster", taken(), &[]);
            logical(0xff);
            came(case, "everybody", taken(), &[LOW]);
            apic::write(reg::DESTINATION_FORMAT, u32::MAX);
            apic::write(reg::LOGICAL_DESTINATION, 0);
        },
    );
}
