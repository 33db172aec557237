//! The 8259A's way to the processor: its INTR wire ends at LINT0, whose LVT entry decides what becomes of it.

use plinth_guests::apic::{self, register as reg};
use plinth_guests::cpu::{self, msr};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::recorder::{self, note};
use plinth_guests::{Report, Vector, pic};

use crate::{OTHER, came, case, set_line, taken};

/// The serial port's line and its vector from the 8259A.
const LINE: u8 = 1 << 4;
const PIC_VECTOR: u8 = pic::FIRST_VECTOR + 4;
const EXT_INT: u32 = 7 << 8;

/// Notes an interrupt of the 8259A, and ends it there.
fn on_pic(frame: &mut Frame) {
    note(frame);
    set_line(false);
    pic::end_of_interrupt();
}

pub(super) fn through_lint0(report: &mut Report) {
    case(report, "lint0-brings-the-8259a-as-extint", |case| {
        set_handler(PIC_VECTOR, Some(on_pic));
        apic::set(reg::LVT_LINT0, EXT_INT);
        pic::open_lines(LINE);
        set_line(true);
        came(case, "its line rose", taken(), &[PIC_VECTOR]);
        case.equal(
            "ISR of the local APIC",
            u8::from(apic::has(reg::IN_SERVICE, PIC_VECTOR)),
            0,
        );
        pic::open_lines(0);
        set_handler(PIC_VECTOR, None);
    });
    case(report, "extint-does-not-heed-the-task-priority", |case| {
        set_handler(PIC_VECTOR, Some(on_pic));
        apic::set(reg::LVT_LINT0, EXT_INT);
        pic::open_lines(LINE);
        cpu::write_cr8(15);
        set_line(true);
        apic::open_window();
        cpu::write_cr8(0);
        came(case, "with the highest CR8", recorder::log(), &[PIC_VECTOR]);
        pic::open_lines(0);
        set_handler(PIC_VECTOR, None);
    });
    case(report, "masked-lint0-holds-the-8259a-back", |case| {
        set_handler(PIC_VECTOR, Some(on_pic));
        pic::open_lines(LINE);
        set_line(true);
        came(case, "masked", taken(), &[]);
        apic::set(reg::LVT_LINT0, EXT_INT);
        came(case, "opened", taken(), &[PIC_VECTOR]);
        pic::open_lines(0);
        set_handler(PIC_VECTOR, None);
    });
    case(report, "lint0-as-nmi", |case| {
        set_handler(Vector::Nmi as u8, Some(note));
        apic::set(reg::LVT_LINT0, apic::DELIVER_NMI);
        pic::open_lines(LINE);
        set_line(true);
        came(case, "its line rose", recorder::log(), &[2]);
        set_line(false);
        pic::open_lines(0);
        set_handler(Vector::Nmi as u8, None);
        apic::set(reg::LVT_LINT0, apic::MASKED);
    });
    case(report, "lint0-as-a-fixed-interrupt", |case| {
        apic::set(reg::LVT_LINT0, u32::from(OTHER));
        pic::open_lines(LINE);
        set_line(true);
        came(case, "its line rose", taken(), &[OTHER]);
        set_line(false);
        pic::open_lines(0);
        apic::set(reg::LVT_LINT0, apic::MASKED);
    });
    case(
        report,
        "software-disabled-apic-holds-the-8259a-back",
        |case| {
            set_handler(PIC_VECTOR, Some(on_pic));
            apic::set(reg::LVT_LINT0, EXT_INT);
            apic::set(reg::SPURIOUS, 0xff);
            pic::open_lines(LINE);
            set_line(true);
            came(case, "disabled", taken(), &[]);
            set_line(false);
            pic::open_lines(0);
            set_handler(PIC_VECTOR, None);
        },
    );
    case(
        report,
        "globally-disabled-apic-lets-the-8259a-through",
        |case| {
            set_handler(PIC_VECTOR, Some(on_pic));
            let base = cpu::rdmsr(msr::IA32_APIC_BASE);
            cpu::wrmsr(msr::IA32_APIC_BASE, base & !apic::base::EN);
            pic::open_lines(LINE);
            plinth_guests::cpu::outb(0x3f9, 2);
            let log = taken();
            pic::open_lines(0);
            cpu::wrmsr(msr::IA32_APIC_BASE, base);
            set_handler(PIC_VECTOR, None);
            came(case, "its line rose", log, &[PIC_VECTOR]);
        },
    );
}
