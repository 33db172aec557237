//! IA32_APIC_BASE: the state after a reset, the three modes and the ways between them, and another address.

use plinth_guests::apic::{self, base, register as reg};
use plinth_guests::cpu::{self, cpuid, leaf1_edx, msr};
use plinth_guests::paging::{self, peek, poke};
use plinth_guests::{Case, Report, Vector};

use crate::{LOW, came, prepare, taken};

const GP: Vector = Vector::GeneralProtection;

fn apic_base() -> u64 {
    cpu::rdmsr(msr::IA32_APIC_BASE)
}

fn set_apic_base(value: u64) {
    cpu::wrmsr(msr::IA32_APIC_BASE, value);
}

fn enter_x2apic() -> bool {
    cpu::try_wrmsr(msr::IA32_APIC_BASE, apic_base() | base::EXTD).is_ok() && apic::is_x2apic()
}

/// The one way out of x2APIC mode, by way of the disabled state.
fn leave_x2apic() {
    let enabled = apic_base();
    set_apic_base(enabled & !(base::EN | base::EXTD));
    set_apic_base(enabled & !base::EXTD);
}

/// A register of a page elsewhere.
fn read_at(page: u64, register: u32) -> u32 {
    paging::peek_32(page + u64::from(register))
}

fn write_at(page: u64, register: u32, value: u32) {
    paging::poke_32(page + u64::from(register), value);
}

/// Checks the state that a reset of the APIC leaves (SDM vol. 3, Local APIC State After Power-Up or Reset).
fn is_reset(case: &mut Case) {
    case.equal("SVR", apic::read(reg::SPURIOUS) & 0x1ff, 0xff);
    case.equal("TPR", apic::read(reg::TASK_PRIORITY), 0);
    case.equal("LDR", apic::read(reg::LOGICAL_DESTINATION), 0);
    case.equal("DFR", apic::read(reg::DESTINATION_FORMAT), u32::MAX);
    case.equal("DCR", apic::read(reg::DIVIDE), 0);
    case.equal("the initial count", apic::read(reg::INITIAL_COUNT), 0);
    case.equal("the current count", apic::read(reg::CURRENT_COUNT), 0);
    case.equal("ESR", apic::read(reg::ERROR_STATUS), 0);
    for entry in [
        reg::LVT_TIMER,
        reg::LVT_THERMAL,
        reg::LVT_PERFORMANCE,
        reg::LVT_LINT0,
        reg::LVT_LINT1,
        reg::LVT_ERROR,
    ] {
        case.equal("an LVT entry", apic::read(entry), apic::MASKED);
    }
    for bank in [reg::IN_SERVICE, reg::TRIGGER_MODE, reg::REQUEST] {
        for word in 0..8 {
            case.equal(
                "a word of ISR, TMR or IRR",
                apic::read(bank + word * 0x10),
                0,
            );
        }
    }
}

pub(super) fn after_reset(report: &mut Report) {
    report.case("apic-base-after-reset", |case| {
        let value = apic_base();
        case.equal("the address", value & base::ADDRESS, apic::BASE);
        case.equal("enabled, and the bootstrap processor", value & 0xfff, 0x900);
    });
    report.case("apic-base-reserved-bits-fault", |case| {
        let original = apic_base();
        let width = cpu::physical_address_bits();
        for bit in (0..8).chain([9]).chain(width..64) {
            case.faults(
                "a reserved bit",
                cpu::try_wrmsr(msr::IA32_APIC_BASE, original | 1 << bit),
                Vector::GeneralProtection,
                0,
            );
        }
        case.equal("IA32_APIC_BASE", apic_base(), original);
    });
    report.case("x2apic-registers-fault-in-xapic-mode", |case| {
        for register in [
            reg::ID,
            reg::TASK_PRIORITY,
            reg::EOI,
            reg::COMMAND,
            reg::SELF_IPI,
        ] {
            case.faults(
                "RDMSR",
                apic::try_read_msr(register),
                Vector::GeneralProtection,
                0,
            );
            case.faults(
                "WRMSR",
                apic::try_write_msr(register, 0),
                Vector::GeneralProtection,
                0,
            );
        }
    });
}

/// xAPIC mode's other addresses.
pub(super) fn moves(report: &mut Report) {
    report.case("register-page-moves", |case| {
        prepare();
        let original = apic_base();
        let elsewhere = 0xfe00_0000u64;
        apic::write(reg::TASK_PRIORITY, 0x30);
        set_apic_base(original & !base::ADDRESS | elsewhere);
        let moved = read_at(elsewhere, reg::TASK_PRIORITY);
        let version = read_at(elsewhere, reg::VERSION);
        // The old address is nobody's now.
        apic::write(reg::TASK_PRIORITY, 0x70);
        let after = read_at(elsewhere, reg::TASK_PRIORITY);
        let priority = cpu::read_cr8();
        set_apic_base(original);
        case.equal("TPR at the new address", moved, 0x30);
        case.equal("the version there", version, apic::read(reg::VERSION));
        case.equal("TPR after a write to the old address", after, 0x30);
        case.equal("CR8", priority, 3);
        case.equal(
            "TPR back at the old address",
            apic::read(reg::TASK_PRIORITY),
            0x30,
        );
        apic::write(reg::TASK_PRIORITY, 0);
    });
    report.case("register-page-hides-the-ram-below", |case| {
        prepare();
        let original = apic_base();
        let page = paging::new_frame();
        let pattern = |offset: u64| 0x5a5a_0000_0000 | offset;
        for offset in (0..4096).step_by(8) {
            poke(page + offset, pattern(offset));
        }
        apic::write(reg::TASK_PRIORITY, 0x30);
        set_apic_base(original & !base::ADDRESS | page);
        paging::invlpg(page);
        let priority = read_at(page, reg::TASK_PRIORITY);
        let version = read_at(page, reg::VERSION);
        write_at(page, reg::TASK_PRIORITY, 0x40);
        let changed = cpu::read_cr8();
        // The neighbours are RAM as before.
        let before = peek(page - 8);
        poke(page - 8, !before);
        let beside = peek(page - 8);
        poke(page - 8, before);
        set_apic_base(original);
        paging::invlpg(page);
        case.equal("TPR over RAM", priority, 0x30);
        case.equal("the version there", version, apic::read(reg::VERSION));
        case.equal("CR8 after a write there", changed, 4);
        case.equal("the word below the page", beside, !before);
        case.equal(
            "TPR back in its place",
            apic::read(reg::TASK_PRIORITY),
            0x40,
        );
        case.ensure(
            (0..4096)
                .step_by(8)
                .all(|offset| peek(page + offset) == pattern(offset)),
            "the RAM below was changed",
        );
        apic::write(reg::TASK_PRIORITY, 0);
    });
    report.case("register-page-over-ram-takes-interrupts", |case| {
        prepare();
        let original = apic_base();
        let page = paging::new_frame();
        set_apic_base(original & !base::ADDRESS | page);
        paging::invlpg(page);
        // To itself.
        write_at(page, reg::COMMAND, 0x4_0000 | u32::from(LOW));
        let log = taken();
        // The handler's went to where the page was.
        write_at(page, reg::EOI, 0);
        let in_service = read_at(page, reg::IN_SERVICE + u32::from(LOW / 32) * 0x10);
        set_apic_base(original);
        paging::invlpg(page);
        came(case, "an interrupt to itself", log, &[LOW]);
        case.equal("in service after the EOI", in_service, 0);
        case.ensure(
            (0..4096).step_by(8).all(|offset| peek(page + offset) == 0),
            "the RAM below was changed",
        );
    });
}

/// Into x2APIC mode, where the machine has one; it stays there.
pub(super) fn to_x2apic(report: &mut Report) {
    report.case("ways-out-of-xapic-that-are-not-there", |case| {
        let enabled = apic_base();
        if !apic::shows_x2apic() {
            let outcome = cpu::try_wrmsr(msr::IA32_APIC_BASE, enabled | base::EXTD);
            case.faults("x2APIC mode, which is not shown", outcome, GP, 0);
        }
        let invalid = enabled & !base::EN | base::EXTD;
        let outcome = cpu::try_wrmsr(msr::IA32_APIC_BASE, invalid);
        case.faults("EXTD without EN", outcome, GP, 0);
        case.equal("IA32_APIC_BASE", apic_base(), enabled);
    });
    report.case("entering-x2apic-keeps-the-registers", |case| {
        if !apic::shows_x2apic() {
            return case.skip("no x2APIC mode");
        }
        prepare();
        apic::write(reg::TASK_PRIORITY, 0x20);
        apic::write(reg::LVT_ERROR, 0x77);
        apic::write(reg::SPURIOUS, 0x1ee);
        apic::send_to_self(LOW);
        enter_x2apic();
        let kept = [reg::TASK_PRIORITY, reg::LVT_ERROR, reg::SPURIOUS].map(apic::get);
        let pending = apic::has(reg::REQUEST, LOW);
        let high = cpu::rdmsr(apic::msr_of(reg::COMMAND)) >> 32;
        came(case, "what was pending", taken(), &[LOW]);
        case.equal("TPR", kept[0], 0x20);
        case.equal("LVT error", kept[1], 0x77);
        case.equal("SVR", kept[2] & 0x1ff, 0x1ee);
        case.equal("IRR", u8::from(pending), 1);
        case.equal("the ICR's upper half", high, 0);
    });
}

/// From x2APIC mode (or xAPIC mode, where there is no other) on.
pub(super) fn out_of_x2apic(report: &mut Report) {
    report.case("ways-out-of-x2apic-that-are-not-there", |case| {
        if !apic::is_x2apic() {
            return case.skip("no x2APIC mode");
        }
        let extended = apic_base();
        for (what, value) in [
            ("x2APIC to xAPIC", extended & !base::EXTD),
            ("x2APIC to invalid", extended & !base::EN),
        ] {
            let outcome = cpu::try_wrmsr(msr::IA32_APIC_BASE, value);
            case.faults(what, outcome, GP, 0);
        }
        case.equal("IA32_APIC_BASE", apic_base(), extended);
    });
    let was_x2apic = apic::is_x2apic();
    let mut comes_back = false;
    report.case("apic-can-be-enabled-again", |case| {
        prepare();
        if was_x2apic {
            apic::set(reg::LVT_ERROR, 0x77);
            apic::send_to_self(LOW);
        }
        leave_x2apic();
        let mode = apic_base() & (base::EN | base::EXTD);
        case.equal("the mode", mode, base::EN);
        comes_back = mode == base::EN;
        if comes_back {
            is_reset(case);
            case.equal("the ID", apic::read(reg::ID) >> 24, cpuid(1, 0).ebx >> 24);
            came(case, "what was pending", taken(), &[]);
        }
    });
    let mut case = |name: &str, body: fn(&mut Case)| {
        report.case(name, |case| {
            if comes_back {
                body(case);
            } else {
                case.skip("this APIC cannot be enabled again");
            }
        });
    };
    case("global-disable-hides-the-apic", |case| {
        prepare();
        let original = apic_base();
        set_apic_base(original & !base::EN);
        let shown = cpuid(1, 0).edx & leaf1_edx::APIC;
        apic::write(reg::TASK_PRIORITY, 0x40);
        let x2apic = apic::try_read_msr(reg::ID);
        set_apic_base(original);
        case.equal("CPUID's APIC bit while disabled", shown, 0);
        case.equal(
            "CPUID's APIC bit afterwards",
            cpuid(1, 0).edx & leaf1_edx::APIC,
            leaf1_edx::APIC,
        );
        case.equal(
            "TPR, written while disabled",
            apic::read(reg::TASK_PRIORITY),
            0,
        );
        case.faults(
            "an x2APIC register while disabled",
            x2apic,
            Vector::GeneralProtection,
            0,
        );
    });
    case("global-disable-resets-the-apic", |case| {
        prepare();
        apic::write(reg::TASK_PRIORITY, 0x20);
        apic::write(reg::LOGICAL_DESTINATION, 0x7 << 24);
        apic::write(reg::DESTINATION_FORMAT, 0x0fff_ffff);
        apic::write(reg::LVT_ERROR, 0x77);
        apic::write(reg::DIVIDE, 0xb);
        apic::send_to_self(LOW);
        let original = apic_base();
        set_apic_base(original & !base::EN);
        set_apic_base(original);
        is_reset(case);
        came(case, "what was pending", taken(), &[]);
    });
    case("cr8-is-there-while-disabled", |case| {
        prepare();
        let original = apic_base();
        set_apic_base(original & !base::EN);
        cpu::write_cr8(6);
        let priority = cpu::read_cr8();
        cpu::write_cr8(0);
        set_apic_base(original);
        case.equal("CR8", priority, 6);
    });
    case("mode-diagram-has-no-other-ways", |case| {
        if !apic::shows_x2apic() {
            return case.skip("no x2APIC mode");
        }
        prepare();
        let enabled = apic_base();
        let disabled = enabled & !base::EN;
        let extended = enabled | base::EXTD;
        let invalid = disabled | base::EXTD;
        let mut refused = |what: &str, value: u64| {
            case.faults(
                what,
                cpu::try_wrmsr(msr::IA32_APIC_BASE, value),
                Vector::GeneralProtection,
                0,
            );
        };
        set_apic_base(disabled);
        refused("disabled to x2APIC", extended);
        refused("disabled to invalid", invalid);
        set_apic_base(enabled);
        set_apic_base(extended);
        let stayed = apic_base();
        leave_x2apic();
        case.equal("IA32_APIC_BASE after the refusals", stayed, extended);
    });
    case("apic-works-after-all-that", |case| {
        prepare();
        case.equal("the mode", apic_base() & 0xc00, base::EN);
        apic::send_to_self(LOW);
        came(case, "one was sent", taken(), &[LOW]);
    });
}
