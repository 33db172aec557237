//! The error status register and its interrupt.

use plinth_guests::apic::{self, ASSERT, TO_SELF, register as reg};
use plinth_guests::recorder;
use plinth_guests::{Case, Report};

use crate::{HIGH, LOW, came, case_in, taken};

const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ILLEGAL_REGISTER: u32 = 1 << 7;

/// The errors since the last look: a write latches them.
fn latched() -> u32 {
    apic::write(reg::ERROR_STATUS, 0);
    apic::read(reg::ERROR_STATUS)
}

pub(super) fn errors(report: &mut Report) {
    let mut case = |name: &str, body: fn(&mut Case)| {
        case_in(report, "xapic", name, |case| {
            latched();
            body(case);
            latched();
        });
    };
    case("error-status-is-empty-at-first", |case| {
        case.equal("ESR", latched(), 0);
    });
    case("illegal-vector-in-an-ipi-is-logged", |case| {
        apic::send(TO_SELF | ASSERT | 0x0f, 0);
        case.equal("ESR", latched() & SEND_ILLEGAL_VECTOR, SEND_ILLEGAL_VECTOR);
        case.equal("ESR the next time", latched(), 0);
        came(case, "it was sent", taken(), &[]);
    });
    case("error-status-changes-by-a-write-only", |case| {
        apic::send(TO_SELF | ASSERT | 0x0f, 0);
        case.equal("ESR before a write", apic::read(reg::ERROR_STATUS), 0);
        apic::write(reg::ERROR_STATUS, 0xffff_ffff);
        let after = apic::read(reg::ERROR_STATUS);
        case.equal(
            "ESR after it",
            after & SEND_ILLEGAL_VECTOR,
            SEND_ILLEGAL_VECTOR,
        );
    });
    case("illegal-register-is-logged", |case| {
        let _ = apic::read(0x40);
        case.equal("ESR after a read", latched(), ILLEGAL_REGISTER);
        apic::write(0x3d0, 1);
        case.equal("ESR after a write", latched(), ILLEGAL_REGISTER);
    });
    case(
        "illegal-vector-in-the-lvt-is-logged-when-it-fires",
        |case| {
            // A vector that no interrupt can have, in an open entry.
            apic::write(reg::LVT_TIMER, 0x0c);
            apic::write(reg::INITIAL_COUNT, 10);
            while apic::read(reg::CURRENT_COUNT) != 0 {
                core::hint::spin_loop();
            }
            apic::settle();
            apic::write(reg::LVT_TIMER, apic::MASKED);
            came(case, "it fired", taken(), &[]);
            case.ensure(
                latched() & (1 << 5 | 1 << 6) != 0,
                "ESR has no illegal vector",
            );
        },
    );
    case("error-raises-its-interrupt", |case| {
        apic::write(reg::LVT_ERROR, u32::from(HIGH));
        apic::send(TO_SELF | ASSERT | 0x0f, 0);
        came(case, "an error", taken(), &[HIGH]);
        apic::write(reg::LVT_ERROR, apic::MASKED | u32::from(LOW));
        latched();
        recorder::clear();
        apic::send(TO_SELF | ASSERT | 0x0f, 0);
        came(case, "an error with its entry masked", taken(), &[]);
    });
}
