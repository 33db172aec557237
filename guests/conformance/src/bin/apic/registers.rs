//! Which bits of which registers hold what is written.

use plinth_guests::apic::{self, register as reg};
use plinth_guests::cpu::{self, cpuid};
use plinth_guests::{Case, Report, Vector};

use crate::{LOW, case_in, prepare};

const SKIPS_LVT: u32 = 0;

/// Writes a register, and checks what it reads as.
fn holds(case: &mut Case, what: &str, register: u32, written: u32, read: u32) {
    apic::write(register, written);
    case.equal(what, apic::read(register), read);
}

pub(super) fn xapic(report: &mut Report) {
    let mut case = |name: &str, body: fn(&mut Case)| case_in(report, "xapic", name, body);
    case("version-is-of-an-integrated-apic", |case| {
        let version = apic::read(reg::VERSION);
        case.equal("the version's class", version & 0xf0, 0x10);
        case.ensure(
            (3..=6).contains(&(version >> 16 & 0xff)),
            "the number of LVT entries is not 4 to 7",
        );
        case.equal("the reserved bits", version & 0xfe00_ff00, 0);
    });
    case("id-is-the-one-of-cpuid", |case| {
        case.equal("the ID", apic::read(reg::ID) >> 24, cpuid(1, 0).ebx >> 24);
        case.equal("the reserved bits", apic::read(reg::ID) & 0xff_ffff, 0);
    });
    case("version-is-read-only", |case| {
        let version = apic::read(reg::VERSION);
        holds(case, "the version", reg::VERSION, !version, version);
    });
    case("task-priority-has-eight-bits", |case| {
        holds(case, "TPR", reg::TASK_PRIORITY, 0x35, 0x35);
        holds(case, "TPR", reg::TASK_PRIORITY, 0xffff_ff00, 0);
        holds(case, "TPR", reg::TASK_PRIORITY, 0xff, 0xff);
    });
    case("cr8-is-the-upper-half-of-tpr", |case| {
        cpu::write_cr8(5);
        case.equal("TPR after CR8", apic::read(reg::TASK_PRIORITY), 0x50);
        apic::write(reg::TASK_PRIORITY, 0x7b);
        case.equal("CR8 after TPR", cpu::read_cr8(), 7);
        cpu::write_cr8(7);
        case.equal(
            "TPR after CR8 was written with what it was",
            apic::read(reg::TASK_PRIORITY),
            0x70,
        );
        cpu::write_cr8(0);
    });
    case("processor-priority-follows-task-priority", |case| {
        apic::write(reg::TASK_PRIORITY, 0x5a);
        case.equal("PPR", apic::read(reg::PROCESSOR_PRIORITY), 0x5a);
        apic::write(reg::PROCESSOR_PRIORITY, 0);
        case.equal(
            "PPR after it was written",
            apic::read(reg::PROCESSOR_PRIORITY),
            0x5a,
        );
    });
    case("logical-destination-has-the-upper-eight-bits", |case| {
        holds(
            case,
            "LDR",
            reg::LOGICAL_DESTINATION,
            0xa5ff_ffff,
            0xa500_0000,
        );
        holds(case, "LDR", reg::LOGICAL_DESTINATION, 0, 0);
    });
    case("destination-format-has-the-upper-four-bits", |case| {
        holds(case, "DFR", reg::DESTINATION_FORMAT, 0, 0x0fff_ffff);
        holds(case, "DFR", reg::DESTINATION_FORMAT, u32::MAX, u32::MAX);
    });
    case("spurious-vector-register", |case| {
        holds(case, "SVR", reg::SPURIOUS, 0x1cd, 0x1cd);
        // Focus checking (bit 9) may be there or not; EOI-broadcast suppression (12) only where the version says so.
        apic::write(reg::SPURIOUS, 0xffff_ffff);
        let suppress = apic::read(reg::VERSION) >> 24 & 1;
        let after = apic::read(reg::SPURIOUS);
        case.equal(
            "SVR after all ones",
            after & !(1 << 9),
            0x1ff | suppress << 12,
        );
    });
    case("banks-are-read-only", |case| {
        for bank in [reg::IN_SERVICE, reg::TRIGGER_MODE, reg::REQUEST] {
            for word in 0..8 {
                holds(case, "a word of ISR, TMR or IRR", bank + word * 0x10, !0, 0);
            }
        }
    });
    case("lvt-entries-drop-reserved-bits", |case| {
        for (what, entry, writable) in [
            ("LVT thermal", reg::LVT_THERMAL, 0x0001_07ff),
            ("LVT performance", reg::LVT_PERFORMANCE, 0x0001_07ff),
            ("LVT LINT0", reg::LVT_LINT0, 0x0001_a7ff),
            ("LVT LINT1", reg::LVT_LINT1, 0x0001_a7ff),
            ("LVT error", reg::LVT_ERROR, 0x0001_00ff),
        ] {
            apic::write(entry, apic::MASKED | !0);
            let read = apic::read(entry);
            apic::write(entry, apic::MASKED);
            case.equal(what, read & !writable & !0x5000, SKIPS_LVT);
            case.equal(what, read & 0x0001_00ff, 0x0001_00ff);
        }
        apic::write(reg::LVT_TIMER, apic::MASKED | 0xfff8_ff41);
        case.equal(
            "LVT timer",
            apic::read(reg::LVT_TIMER),
            apic::MASKED | u32::from(LOW),
        );
    });
    case("lvt-masks-read-back", |case| {
        for entry in [reg::LVT_THERMAL, reg::LVT_ERROR, reg::LVT_TIMER] {
            holds(case, "an open entry", entry, 0x41, 0x41);
            holds(
                case,
                "a masked entry",
                entry,
                apic::MASKED | 0x41,
                apic::MASKED | 0x41,
            );
        }
    });
    case("software-disable-masks-the-lvt", |case| {
        apic::write(reg::LVT_ERROR, 0x41);
        apic::write(reg::LVT_LINT1, 0x400);
        apic::write(reg::SPURIOUS, 0xff);
        case.equal("LVT error", apic::read(reg::LVT_ERROR), apic::MASKED | 0x41);
        case.equal(
            "LVT LINT1",
            apic::read(reg::LVT_LINT1),
            apic::MASKED | 0x400,
        );
        apic::write(reg::LVT_ERROR, 0x42);
        case.equal(
            "LVT error, opened while disabled",
            apic::read(reg::LVT_ERROR),
            apic::MASKED | 0x42,
        );
        apic::write(reg::SPURIOUS, 0x1ff);
        case.equal(
            "LVT error, enabled again",
            apic::read(reg::LVT_ERROR),
            apic::MASKED | 0x42,
        );
        apic::write(reg::LVT_ERROR, 0x42);
        case.equal("LVT error, opened then", apic::read(reg::LVT_ERROR), 0x42);
    });
    case("interrupt-command-reads-back", |case| {
        apic::write(reg::COMMAND_HIGH, 0x5aff_ffff);
        case.equal("ICR high", apic::read(reg::COMMAND_HIGH) >> 24, 0x5a);
        // INIT level de-assert to a processor that is not there does nothing at all.
        apic::write(reg::COMMAND_HIGH, 0xfe << 24);
        apic::write(reg::COMMAND, 0x8541);
        apic::settle();
        case.equal("ICR", apic::read(reg::COMMAND) & 0xfff, 0x541);
    });
    case("divide-configuration-has-three-bits", |case| {
        holds(case, "DCR", reg::DIVIDE, 0xffff_ffff, 0xb);
        holds(case, "DCR", reg::DIVIDE, 0x8, 0x8);
        holds(case, "DCR", reg::DIVIDE, 0, 0);
    });
    case("registers-take-aligned-doublewords-by-any-move", |case| {
        let ldr = apic::BASE + u64::from(reg::LOGICAL_DESTINATION);
        let read: u32;
        plinth_guests::x86!(
            "mov dword ptr [{0}], 0x12000000", "or dword ptr [{0}], 0x21000000", "xchg {1:e}, [{0}]",
            in(reg) ldr, inout(reg) 0x5600_0000u32 => read, options(nostack),
        );
        case.equal("LDR after MOV and OR", read, 0x3300_0000);
        case.equal(
            "LDR after XCHG",
            apic::read(reg::LOGICAL_DESTINATION),
            0x5600_0000,
        );
        apic::write(reg::LOGICAL_DESTINATION, 0);
    });
    prepare();
}

/// The registers of x2APIC mode, and how software may access them (SDM vol. 3, x2APIC Register Address Space).
pub(super) fn x2apic(report: &mut Report) {
    let mut case = |name: &str, body: fn(&mut Case)| case_in(report, "x2apic", name, body);
    case("id-is-the-one-of-the-topology-leaf", |case| {
        let shown = if cpuid(0, 0).eax >= 0xb {
            cpuid(0xb, 0).edx
        } else {
            cpuid(1, 0).ebx >> 24
        };
        case.equal("the ID", apic::get(reg::ID), shown);
    });
    case("logical-destination-follows-from-the-id", |case| {
        let id = apic::get(reg::ID);
        case.equal(
            "LDR",
            apic::get(reg::LOGICAL_DESTINATION),
            (id >> 4) << 16 | 1 << (id & 15),
        );
    });
    case("read-only-registers-refuse-writes", |case| {
        for (what, register) in [
            ("ID", reg::ID),
            ("the version", reg::VERSION),
            ("PPR", reg::PROCESSOR_PRIORITY),
            ("LDR", reg::LOGICAL_DESTINATION),
            ("ISR", reg::IN_SERVICE),
            ("TMR", reg::TRIGGER_MODE + 0x70),
            ("IRR", reg::REQUEST + 0x20),
            ("the current count", reg::CURRENT_COUNT),
        ] {
            case.runs(what, apic::try_read_msr(register));
            case.faults(
                what,
                apic::try_write_msr(register, 0),
                Vector::GeneralProtection,
                0,
            );
        }
    });
    case("write-only-registers-refuse-reads", |case| {
        for (what, register) in [("EOI", reg::EOI), ("self IPI", reg::SELF_IPI)] {
            case.faults(
                what,
                apic::try_read_msr(register),
                Vector::GeneralProtection,
                0,
            );
        }
    });
    case("registers-of-xapic-mode-only-are-not-there", |case| {
        for (what, register) in [
            ("APR", reg::ARBITRATION_PRIORITY),
            ("remote read", 0xc0),
            ("DFR", reg::DESTINATION_FORMAT),
            ("ICR high", reg::COMMAND_HIGH),
        ] {
            case.faults(
                what,
                apic::try_read_msr(register),
                Vector::GeneralProtection,
                0,
            );
            case.faults(
                what,
                apic::try_write_msr(register, 0),
                Vector::GeneralProtection,
                0,
            );
        }
    });
    case("numbers-without-a-register-fault", |case| {
        for register in [0x00, 0x10, 0x40, 0x70, 0x290, 0x2e0, 0x3a0, 0x3d0, 0x400] {
            case.faults(
                "a reserved register",
                apic::try_read_msr(register),
                Vector::GeneralProtection,
                0,
            );
            case.faults(
                "a reserved register",
                apic::try_write_msr(register, 0),
                Vector::GeneralProtection,
                0,
            );
        }
    });
    case("reserved-bits-fault", |case| {
        for (what, register, value) in [
            ("TPR", reg::TASK_PRIORITY, 0x100u64),
            ("TPR, upper half", reg::TASK_PRIORITY, 1 << 32),
            ("EOI other than 0", reg::EOI, 1),
            ("SVR", reg::SPURIOUS, 1 << 16 | 0x1ff),
            ("ESR other than 0", reg::ERROR_STATUS, 1),
            ("LVT timer", reg::LVT_TIMER, 1 << 19 | 0x1_0000),
            ("LVT thermal", reg::LVT_THERMAL, 1 << 17 | 0x1_0000),
            ("LVT LINT0", reg::LVT_LINT0, 1 << 11 | 0x1_0000),
            ("LVT error", reg::LVT_ERROR, 1 << 20 | 0x1_0000),
            ("the initial count", reg::INITIAL_COUNT, 1 << 32),
            ("DCR", reg::DIVIDE, 1 << 2),
            ("DCR", reg::DIVIDE, 1 << 4),
            ("ICR", reg::COMMAND, 0xee << 32 | 1 << 20 | 0x41),
            ("ICR", reg::COMMAND, 0xee << 32 | 1 << 13 | 0x41),
            ("self IPI", reg::SELF_IPI, 0x141),
        ] {
            case.faults(
                what,
                apic::try_write_msr(register, value),
                Vector::GeneralProtection,
                0,
            );
        }
    });
    case("task-priority-is-cr8", |case| {
        cpu::write_cr8(9);
        case.equal("TPR", apic::get(reg::TASK_PRIORITY), 0x90);
        apic::set(reg::TASK_PRIORITY, 0x3c);
        case.equal("CR8", cpu::read_cr8(), 3);
        case.equal("PPR", apic::get(reg::PROCESSOR_PRIORITY), 0x3c);
        cpu::write_cr8(0);
    });
    case("interrupt-command-reads-back-in-one-piece", |case| {
        // INIT level de-assert, to a processor that is not there.
        let value = 0xee << 32 | 0x8541;
        case.runs("ICR", apic::try_write_msr(reg::COMMAND, value));
        let read = cpu::rdmsr(apic::msr_of(reg::COMMAND));
        case.equal(
            "ICR",
            read & 0xffff_ffff_0000_0fff,
            value & 0xffff_ffff_0000_0fff,
        );
    });
    case("register-page-is-not-there", |case| {
        // What is there instead is the platform's business; it is not the APIC.
        apic::set(reg::TASK_PRIORITY, 0x20);
        apic::write(reg::TASK_PRIORITY, 0x40);
        case.equal("TPR", apic::get(reg::TASK_PRIORITY), 0x20);
    });
}
