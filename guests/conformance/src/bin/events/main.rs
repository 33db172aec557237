//! `events`: which of several events comes first, and where: the shadows of STI and MOV SS, NMI blocking, traps
//! beside interrupts, HLT (SDM vol. 3, Priority Among Concurrent Events; Handling Multiple NMIs; Masking Exceptions and
//! Interrupts When Switching Stacks).

#![no_std]
#![no_main]

mod delivery;
mod nmi;

use plinth_guests::apic::{self, ASSERT};
use plinth_guests::cpu::{self, msr};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::recorder::{self, Log, note, note_and_skip_two};
use plinth_guests::{Case, Report, StartInfo, Vector, guest, x86};

guest!(main);

const FIRST: u8 = 0x41;
const SECOND: u8 = 0x51;
const NMI: u8 = Vector::Nmi as u8;
const DEBUG: u8 = Vector::Debug as u8;
const INVALID: u8 = Vector::InvalidOpcode as u8;
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
/// The port behind the serial port's registers that nobody minds being written: its scratch register.
const SCRATCH: u16 = 0x3ff;

fn main(report: &mut Report, _: StartInfo) {
    if !recorder::begin(report, &[FIRST, SECOND]) {
        return;
    }
    apic::enable();
    shadows(report);
    flags(report);
    nmi::deliveries(report);
    nmi::blocking(report);
    traps(report);
    delivery::failures(report);
    halts(report);
}

/// Runs a case with an empty log.
fn case(report: &mut Report, name: &str, body: fn(&mut Case)) {
    report.case(name, |case| {
        nmi::reset_depth();
        recorder::clear();
        body(case);
        // What is left over is not the next case's.
        apic::open_window();
        set_handler(NMI, None);
        set_handler(DEBUG, None);
        set_handler(INVALID, None);
    });
}

fn came(case: &mut Case, log: Log, vectors: &[u8]) {
    if !log.is(vectors) {
        case.fail(format_args!(
            "{} events came ({:#x}), not {vectors:x?}",
            log.count(),
            log.vectors(),
        ));
    }
}

/// Asks for an interrupt, and runs code whose first instruction is to be STI; label 2 is where the interrupt is to come.
macro_rules! comes_at {
    ($case:expr, $($code:literal),+ $(; $($operands:tt)*)?) => {{
        recorder::clear();
        apic::send_to_self(FIRST);
        let place: u64;
        x86!(
            "mov r13, rbx",
            "lea r12, [rip + 2f]",
            $($code,)+
            "nop",
            "nop",
            "cli",
            "mov rbx, r13",
            $($($operands)*,)?
            out("r12") place,
            out("r13") _,
        );
        let log = recorder::log();
        came($case, log, &[FIRST]);
        $case.equal("where it came", log.event(0).rip, place);
    }};
}

fn shadows(report: &mut Report) {
    case(report, "sti-holds-back-for-one-instruction", |case| {
        comes_at!(case, "sti", "nop", "2:");
    });
    case(report, "sti-with-if-set-holds-nothing-back", |case| {
        // The first STI has the shadow, the second none of its own.
        comes_at!(case, "sti", "sti", "2:", "nop");
    });
    case(report, "sti-holds-back-over-cpuid", |case| {
        comes_at!(case, "sti", "cpuid", "2:"; inout("eax") 0 => _, out("ecx") _, out("edx") _);
    });
    case(report, "sti-holds-back-over-a-port-access", |case| {
        comes_at!(case, "sti", "out dx, al", "2:"; in("dx") SCRATCH, in("al") 0u8);
        comes_at!(case, "sti", "in al, dx", "2:"; in("dx") SCRATCH, out("al") _);
    });
    case(report, "sti-holds-back-over-rdmsr-and-wrmsr", |case| {
        comes_at!(case, "sti", "rdmsr", "2:"; in("ecx") msr::IA32_APIC_BASE, out("eax") _, out("edx") _);
        let pat = cpu::rdmsr(msr::IA32_PAT);
        comes_at!(case, "sti", "wrmsr", "2:"; in("ecx") msr::IA32_PAT, in("eax") pat as u32, in("edx") (pat >> 32) as u32);
    });
    case(report, "sti-holds-back-over-control-registers", |case| {
        comes_at!(case, "sti", "mov {0}, cr0", "2:"; out(reg) _);
        comes_at!(case, "sti", "mov cr0, {0}", "2:"; in(reg) cpu::read_cr0());
        comes_at!(case, "sti", "mov cr3, {0}", "2:"; in(reg) cpu::read_cr3());
        comes_at!(case, "sti", "mov cr4, {0}", "2:"; in(reg) cpu::read_cr4());
        comes_at!(case, "sti", "mov cr8, {0}", "2:"; in(reg) 0u64);
    });
    case(report, "sti-holds-back-over-debug-registers", |case| {
        comes_at!(case, "sti", "mov {0}, dr7", "2:"; out(reg) _);
        comes_at!(case, "sti", "mov dr0, {0}", "2:"; in(reg) 0u64);
    });
    case(report, "sti-holds-back-over-device-memory", |case| {
        comes_at!(case, "sti", "mov {0:e}, [{1}]", "2:"; out(reg) _, in(reg) apic::BASE + 0x30);
        comes_at!(case, "sti", "mov dword ptr [{0}], 0", "2:"; in(reg) apic::BASE + 0xd0);
    });
    case(report, "sti-holds-back-over-wbinvd-and-pause", |case| {
        comes_at!(case, "sti", "wbinvd", "2:");
        comes_at!(case, "sti", "pause", "2:");
        comes_at!(case, "sti", "invlpg [{0}]", "2:"; in(reg) 0x20_0000u64);
    });
    case(report, "mov-ss-holds-back-for-one-instruction", |case| {
        let ss = u32::from(plinth_guests::descriptors::KERNEL_DATA);
        comes_at!(case, "sti", "mov ss, {0:e}", "nop", "2:"; in(reg) ss);
    });
    case(report, "mov-ss-holds-back-over-cpuid", |case| {
        let ss = u32::from(plinth_guests::descriptors::KERNEL_DATA);
        comes_at!(case, "sti", "mov ss, {0:e}", "cpuid", "2:"; in(reg) ss, inout("eax") 0 => _, out("ecx") _, out("edx") _);
    });
    case(report, "mov-ss-holds-back-over-device-memory", |case| {
        let ss = u32::from(plinth_guests::descriptors::KERNEL_DATA);
        comes_at!(case, "sti", "mov ss, {0:e}", "mov dword ptr [{1}], 0", "2:"; in(reg) ss, in(reg) apic::BASE + 0xd0);
    });
}

fn flags(report: &mut Report) {
    case(report, "popf-lets-an-interrupt-in-at-once", |case| {
        comes_at!(case, "pushfq", "or qword ptr [rsp], 0x200", "popfq", "2:");
    });
    case(report, "iret-lets-an-interrupt-in-at-once", |case| {
        comes_at!(
            case,
            "mov {0}, rsp",
            "push {1}",
            "push {0}",
            "pushfq",
            "or qword ptr [rsp], 0x200",
            "push {2}",
            "lea {0}, [rip + 2f]",
            "push {0}",
            "iretq",
            "2:";
            out(reg) _,
            in(reg) u64::from(plinth_guests::descriptors::KERNEL_DATA),
            in(reg) u64::from(plinth_guests::descriptors::KERNEL_CODE)
        );
    });
    case(
        report,
        "interrupt-gate-clears-if-and-iret-sets-it",
        |case| {
            apic::send_to_self(FIRST);
            apic::send_to_self(SECOND);
            x86!("sti", "nop", "nop", "nop", "cli");
            let log = recorder::log();
            came(case, log, &[SECOND, FIRST]);
            case.equal("IF at the first", log.event(0).rflags & IF, IF);
            case.equal("where both came", log.event(0).rip, log.event(1).rip);
        },
    );
    case(
        report,
        "interrupt-while-running-comes-at-a-boundary",
        |case| {
            // An IPI in the middle of straight-line code: whatever instruction it comes behind, none is lost.
            let sum: u64;
            x86!(
                "sti",
                "xor {sum:e}, {sum:e}",
                "mov dword ptr [{icr}], {command:e}",
                "inc {sum}", "inc {sum}", "inc {sum}", "inc {sum}", "inc {sum}", "inc {sum}", "inc {sum}", "inc {sum}",
                "cli",
                sum = out(reg) sum,
                icr = in(reg) apic::BASE + 0x300,
                command = in(reg) apic::TO_SELF | ASSERT | u32::from(FIRST),
            );
            apic::open_window();
            case.equal("the instructions done", sum, 8);
            came(case, recorder::log(), &[FIRST]);
        },
    );
}

/// Notes a single-step trap, the last one.
fn note_and_step_no_more(frame: &mut Frame) {
    note(frame);
    frame.rflags &= !TF;
    cpu::write_dr6(0xffff_0ff0);
}

fn traps(report: &mut Report) {
    case(
        report,
        "single-step-trap-comes-before-an-interrupt",
        |case| {
            set_handler(DEBUG, Some(note_and_step_no_more));
            apic::send_to_self(FIRST);
            let place: u64;
            x86!(
                "lea {0}, [rip + 2f]",
                "pushfq",
                "or qword ptr [rsp], 0x300",
                "popfq",
                "2:", "nop", "nop", "nop",
                "cli",
                out(reg) place,
            );
            let log = recorder::log();
            // The interrupt comes first, behind POPF: a trap needs an instruction that began with TF set.
            came(case, log, &[FIRST, DEBUG]);
            case.equal("where the interrupt came", log.event(0).rip, place);
            case.equal("TF on the interrupt's stack", log.event(0).rflags & TF, TF);
            case.equal("where the trap came", log.event(1).rip, place + 1);
        },
    );
    case(
        report,
        "trap-and-interrupt-at-one-boundary-come-in-this-order",
        |case| {
            set_handler(DEBUG, Some(note_and_step_no_more));
            cpu::write_cr8(15);
            apic::send_to_self(FIRST);
            let place: u64;
            // The move has both: a trap behind it, and an interrupt that it lets in.
            x86!(
                "lea {0}, [rip + 2f]",
                "pushfq",
                "or qword ptr [rsp], 0x300",
                "popfq",
                "mov cr8, {1}",
                "2:", "nop", "nop",
                "cli",
                out(reg) place,
                in(reg) 0u64,
            );
            let log = recorder::log();
            came(case, log, &[DEBUG, FIRST]);
            case.equal("where the trap came", log.event(0).rip, place);
            case.equal("where the interrupt came", log.event(1).rip, place);
            case.equal("TF on the interrupt's stack", log.event(1).rflags & TF, 0);
        },
    );
    case(report, "trap-behind-sti-ends-its-shadow", |case| {
        fn on_debug(frame: &mut Frame) {
            note(frame);
            if recorder::log().count() >= 3 {
                frame.rflags &= !TF;
            }
            cpu::write_dr6(0xffff_0ff0);
        }
        set_handler(DEBUG, Some(on_debug));
        apic::send_to_self(FIRST);
        let place: u64;
        x86!(
            "lea {0}, [rip + 2f]",
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            "sti", "2:", "nop", "nop",
            "cli",
            out(reg) place,
        );
        let log = recorder::log();
        // The handler's IRET has no shadow: the interrupt comes before the instruction behind STI.
        came(case, log, &[DEBUG, FIRST, DEBUG]);
        case.equal("where the first trap came", log.event(0).rip, place);
        case.equal("where the interrupt came", log.event(1).rip, place);
        case.equal("where the second trap came", log.event(2).rip, place + 1);
    });
    case(
        report,
        "fault-comes-before-the-interrupt-that-waits",
        |case| {
            set_handler(INVALID, Some(note_and_skip_two));
            apic::send_to_self(FIRST);
            x86!("sti", "ud2", "nop", "cli");
            let log = recorder::log();
            came(case, log, &[INVALID, FIRST]);
            case.equal(
                "where the interrupt came",
                log.event(1).rip,
                log.event(0).rip + 2,
            );
        },
    );
    case(
        report,
        "int-n-goes-before-the-interrupt-that-waits",
        |case| {
            set_handler(0x77, Some(note));
            apic::send_to_self(FIRST);
            x86!("sti", "int 0x77", "nop", "cli");
            set_handler(0x77, None);
            came(case, recorder::log(), &[0x77, FIRST]);
        },
    );
    case(
        report,
        "fault-in-an-emulated-instruction-keeps-the-interrupt",
        |case| {
            fn on_fault(frame: &mut Frame) {
                note(frame);
                frame.rip += 2;
            }
            set_handler(Vector::GeneralProtection as u8, Some(on_fault));
            apic::send_to_self(FIRST);
            x86!("sti", "rdmsr", "nop", "cli", in("ecx") 0x4fff_0000u32, out("eax") _, out("edx") _);
            set_handler(Vector::GeneralProtection as u8, None);
            came(case, recorder::log(), &[13, FIRST]);
        },
    );
}

fn halts(report: &mut Report) {
    case(report, "sti-hlt-is-woken-by-what-waits", |case| {
        comes_at!(case, "sti", "hlt", "2:");
    });
    case(
        report,
        "hlt-with-an-interrupt-that-waits-for-if-only-does-not-sleep",
        |case| {
            // IF is set two instructions before, so the interrupt comes before HLT, which then has the timer to wake it.
            apic::set(0x3e0, 0xb);
            apic::set(0x320, u32::from(SECOND));
            apic::send_to_self(FIRST);
            apic::set(0x380, 20_000);
            x86!("sti", "nop", "hlt", "cli");
            apic::set(0x320, apic::MASKED);
            came(case, recorder::log(), &[FIRST, SECOND]);
        },
    );
    case(report, "task-priority-keeps-hlt-asleep", |case| {
        apic::set(0x3e0, 0xb);
        cpu::write_cr8(u64::from(FIRST >> 4));
        apic::send_to_self(FIRST);
        apic::set(0x320, u32::from(SECOND));
        apic::set(0x380, 20_000);
        x86!("sti", "hlt", "cli");
        let log = recorder::log();
        cpu::write_cr8(0);
        apic::set(0x320, apic::MASKED);
        came(case, log, &[SECOND]);
        apic::open_window();
        came(case, recorder::log(), &[SECOND, FIRST]);
    });
    case(report, "single-step-trap-wakes-hlt", |case| {
        fn on_debug(frame: &mut Frame) {
            note(frame);
            frame.rflags &= !TF;
            cpu::write_dr6(0xffff_0ff0);
        }
        set_handler(DEBUG, Some(on_debug));
        // A processor that sleeps all the same is woken by the timer.
        apic::set(0x3e0, 0xb);
        apic::set(0x320, u32::from(SECOND));
        apic::set(0x380, 200_000);
        let place: u64;
        x86!(
            "lea {0}, [rip + 2f]",
            "pushfq",
            "or qword ptr [rsp], 0x300",
            "popfq",
            "hlt",
            "2:", "nop",
            "cli",
            out(reg) place,
        );
        apic::set(0x320, apic::MASKED);
        apic::set(0x380, 0);
        let log = recorder::log();
        came(case, log, &[DEBUG]);
        case.equal("where the trap came", log.event(0).rip, place);
    });
}
