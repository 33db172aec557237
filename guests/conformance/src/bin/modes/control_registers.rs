//! What 64-bit code may write to the control registers, and what they refuse.

use plinth_guests::cpu::{self, cr0, cr4};
use plinth_guests::{Report, Vector, x86};

pub(crate) fn check(report: &mut Report) {
    report.case("cr0-bits-read-back", |case| {
        let original = cpu::read_cr0();
        for bit in [
            cr0::MP,
            cr0::EM,
            cr0::TS,
            cr0::NE,
            cr0::WP,
            cr0::AM,
            cr0::CD,
        ] {
            for value in [original | bit, original & !bit] {
                let outcome = cpu::try_write_cr0(value);
                let is = cpu::read_cr0();
                cpu::write_cr0(original);
                case.runs("CR0", outcome);
                case.equal("CR0", is, value);
            }
        }
    });
    report.case("cr0-fixed-bits", |case| {
        let original = cpu::read_cr0();
        case.runs("CR0 without ET", cpu::try_write_cr0(original & !cr0::ET));
        case.equal("CR0", cpu::read_cr0(), original);
        case.runs(
            "CR0 with a reserved bit",
            cpu::try_write_cr0(original | 1 << 7),
        );
        case.equal("CR0", cpu::read_cr0(), original);
    });
    report.case("cr0-refuses-what-makes-no-mode", |case| {
        let original = cpu::read_cr0();
        for (name, value) in [
            ("PG without PE", original & !cr0::PE),
            ("NW without CD", original | cr0::NW),
            ("no paging in 64-bit mode", original & !cr0::PG),
            (
                "neither PG nor PE in 64-bit mode",
                original & !(cr0::PG | cr0::PE),
            ),
            ("an upper bit", original | 1 << 32),
            ("the top bit", original | 1 << 63),
        ] {
            case.faults(
                name,
                cpu::try_write_cr0(value),
                Vector::GeneralProtection,
                0,
            );
            case.equal(name, cpu::read_cr0(), original);
        }
    });
    report.case("cr4-bits-read-back", |case| {
        let original = cpu::read_cr4();
        for bit in [
            1 << 0,
            1 << 1,
            cr4::TSD,
            cr4::DE,
            cr4::PSE,
            cr4::MCE,
            cr4::PGE,
            cr4::PCE,
            cr4::OSXMMEXCPT,
        ] {
            for value in [original | bit, original & !bit] {
                let outcome = cpu::try_write_cr4(value);
                let is = cpu::read_cr4();
                cpu::write_cr4(original);
                case.runs("CR4", outcome);
                case.equal("CR4", is, value);
            }
        }
    });
    report.case("cr4-refuses-reserved-bits", |case| {
        let original = cpu::read_cr4();
        for bit in [15, 29, 30, 31, 33, 40, 63] {
            case.faults(
                "CR4",
                cpu::try_write_cr4(original | 1 << bit),
                Vector::GeneralProtection,
                0,
            );
            case.equal("CR4", cpu::read_cr4(), original);
        }
    });
    report.case("cr4-pae-stays-set-in-long-mode", |case| {
        let original = cpu::read_cr4();
        case.faults(
            "CR4 without PAE",
            cpu::try_write_cr4(original & !cr4::PAE),
            Vector::GeneralProtection,
            0,
        );
        case.equal("CR4", cpu::read_cr4(), original);
    });
    report.case("cr4-la57-cannot-change-in-long-mode", |case| {
        let original = cpu::read_cr4();
        case.faults(
            "CR4 with LA57",
            cpu::try_write_cr4(original ^ cr4::LA57),
            Vector::GeneralProtection,
            0,
        );
    });
    report.case("cr2-reads-back", |case| {
        for value in [0, 0x1234, 0x8000_0000_0000_0000, !0] {
            cpu::write_cr2(value);
            let _ = cpu::cpuid(0, 0);
            case.equal("CR2", cpu::read_cr2(), value);
        }
    });
    report.case("cr8-is-four-bits", |case| {
        for value in 0..16 {
            case.runs("CR8", cpu::try_write_cr8(value));
            case.equal("CR8", cpu::read_cr8(), value);
        }
        cpu::write_cr8(3);
        for value in [16, 0x100, 1 << 32, !0] {
            case.faults(
                "CR8",
                cpu::try_write_cr8(value),
                Vector::GeneralProtection,
                0,
            );
            case.equal("CR8", cpu::read_cr8(), 3);
        }
        cpu::write_cr8(0);
    });
    report.case(
        "every-register-moves-to-and-from-control-registers",
        |case| {
            let original = cpu::read_cr4();
            let with = original | cr4::TSD;
            macro_rules! through {
            ($($register:tt)*) => {$({
                let (is, was): (u64, u64);
                x86!(
                    "mov {keep}, cr4",
                    concat!("mov ", $register, ", {with}"),
                    concat!("mov cr4, ", $register),
                    concat!("xor ", $register, ", ", $register),
                    concat!("mov ", $register, ", cr4"),
                    concat!("mov {is}, ", $register),
                    "mov cr4, {keep}",
                    keep = out(reg) was,
                    is = lateout(reg) is,
                    with = in(reg) with,
                    out($register) _,
                );
                case.equal($register, is, with);
                case.equal("CR4 before", was, original);
            })*};
        }
            through!("rax" "rcx" "rdx" "rsi" "rdi" "r8" "r9" "r10" "r11" "r12" "r13" "r14" "r15");
        },
    );
}
