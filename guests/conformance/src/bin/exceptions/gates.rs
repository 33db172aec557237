//! Gates of the IDT as they should be and as they should not, and what becomes of exceptions that meet a broken one.

use plinth_guests::cpu;
use plinth_guests::descriptors::{self, KERNEL_DATA, gate, set_gate};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, Vector, fault_of, probe, x86};

use crate::{HOLE, NON_CANONICAL};

/// What a handler saw last.
static SEEN: Single<(u64, u64, u64)> = Single::new((0, 0, 0));

fn note(frame: &mut Frame) {
    // SAFETY: one CPU; read only after the interrupt has returned.
    unsafe { *SEEN.get() = (frame.vector, frame.rip, frame.rsp) };
}

pub(crate) fn all(report: &mut Report) {
    report.case("int-n-reaches-every-gate", |case| {
        macro_rules! raise {
            ($($vector:literal)*) => {$({
                set_handler($vector, Some(note));
                let (rip, rsp): (u64, u64);
                x86!(
                    "lea {rip}, [rip + 3f]",
                    "mov {rsp}, rsp",
                    concat!("int ", $vector),
                    "3:",
                    rip = out(reg) rip,
                    rsp = out(reg) rsp,
                );
                set_handler($vector, None);
                // SAFETY: written by `note` during INT.
                let seen = unsafe { SEEN.get().read_volatile() };
                case.equal("the vector", seen.0, $vector);
                case.equal("RIP", seen.1, rip);
                case.equal("RSP", seen.2, rsp);
            })*};
        }
        raise!(32 33 39 64 65 127 128 129 200 254 255);
    });
    report.case("interrupt-gate-clears-if-trap-gate-keeps-it", |case| {
        fn flags(frame: &mut Frame) {
            let now: u64;
            x86!("pushfq", "pop {}", out(reg) now);
            // SAFETY: one CPU.
            unsafe { *SEEN.get() = (frame.rflags, now, 0) };
        }
        set_handler(0x70, Some(flags));
        let original = gate(0x70);
        // No interrupt can come while both interrupt controllers are masked.
        cpu::outb(0x21, 0xff);
        cpu::outb(0xa1, 0xff);
        x86!("sti", "int 0x70", "cli");
        // SAFETY: written during INT.
        let interrupt = unsafe { SEEN.get().read_volatile() };
        set_gate(0x70, original | 1 << 40);
        x86!("sti", "int 0x70", "cli");
        // SAFETY: as above.
        let trap = unsafe { SEEN.get().read_volatile() };
        set_gate(0x70, original);
        set_handler(0x70, None);
        case.equal("IF pushed", interrupt.0 & 0x200, 0x200);
        case.equal("IF in the interrupt gate's handler", interrupt.1 & 0x200, 0);
        case.equal("IF in the trap gate's handler", trap.1 & 0x200, 0x200);
    });
    report.case("gate-not-present", |case| {
        let original = gate(0x71);
        set_gate(0x71, original & !(1 << 47));
        let outcome = fault_of!("int 0x71");
        set_gate(0x71, original);
        case.faults("INT 71H", outcome, Vector::SegmentNotPresent, 0x71 << 3 | 2);
        // An exception that meets one is an event from outside the program: EXT is set.
        let original = gate(6);
        set_gate(6, original & !(1 << 47));
        let outcome = fault_of!("ud2");
        set_gate(6, original);
        case.faults("UD2", outcome, Vector::SegmentNotPresent, 6 << 3 | 3);
    });
    report.case("gate-of-a-wrong-type", |case| {
        let original = gate(0x71);
        set_gate(0x71, original & !(0x1f << 40) | 0x5 << 40);
        let outcome = fault_of!("int 0x71");
        set_gate(0x71, original);
        case.faults("INT 71H", outcome, Vector::GeneralProtection, 0x71 << 3 | 2);
    });
    report.case("gate-with-a-bad-code-segment", |case| {
        let original = gate(0x71);
        set_gate(0x71, original & !0xffff_0000 | u64::from(KERNEL_DATA) << 16);
        let outcome = fault_of!("int 0x71");
        set_gate(0x71, original & !0xffff_0000);
        let null = fault_of!("int 0x71");
        set_gate(0x71, original);
        case.faults(
            "data",
            outcome,
            Vector::GeneralProtection,
            u32::from(KERNEL_DATA),
        );
        case.faults("null", null, Vector::GeneralProtection, 0);
    });
    report.case("vector-beyond-the-idt", |case| {
        let mut short = descriptors::idt_pointer();
        short.limit = 0x40 * 16 - 1;
        let outcome = probe(|| x86!("lidt [{}]", "int 0x40", in(reg) &short));
        descriptors::restore();
        case.faults("INT 40H", outcome, Vector::GeneralProtection, 0x40 << 3 | 2);
    });
}

pub(crate) fn double_faults(report: &mut Report) {
    let broken = |case: &mut Case, vector: u8, raise: fn()| {
        let original = gate(vector);
        set_gate(vector, original & !(1 << 47));
        let outcome = probe(raise);
        set_gate(vector, original);
        case.faults("the broken handler", outcome, Vector::DoubleFault, 0);
    };
    report.case("double-fault-from-general-protection", |case| {
        broken(
            case,
            13,
            || x86!("mov rax, [{}]", in(reg) NON_CANONICAL, out("rax") _),
        );
    });
    report.case("double-fault-from-page-fault", |case| {
        broken(
            case,
            14,
            || x86!("mov rax, [{}]", in(reg) HOLE, out("rax") _),
        );
    });
    report.case("double-fault-from-divide-error", |case| {
        broken(
            case,
            0,
            || x86!("div ecx", in("ecx") 0, inout("eax") 1 => _, inout("edx") 0 => _),
        );
    });
    report.case("double-fault-by-an-unusable-stack", |case| {
        // The page fault itself cannot be delivered: its stack is not there.
        let outcome =
            fault_of!("mov rsp, {}", "mov rax, [{}]", in(reg) HOLE, in(reg) HOLE + 8, out("rax") _);
        case.faults(
            "a page fault on an absent stack",
            outcome,
            Vector::DoubleFault,
            0,
        );
    });
    report.case("double-fault-five-times", |case| {
        for _ in 0..5 {
            broken(
                case,
                13,
                || x86!("mov rax, [{}]", in(reg) NON_CANONICAL, out("rax") _),
            );
        }
    });
}
