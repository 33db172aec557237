//! What happens when an event cannot be delivered: absent gates and unusable stacks on its way.

use plinth_guests::apic::{self, ASSERT, DELIVER_NMI, register as reg};
use plinth_guests::descriptors::{gate, set_gate};
use plinth_guests::exceptions::{Fault, set_handler};
use plinth_guests::recorder::{self, note};
use plinth_guests::{Report, Vector, fault_of, probe, x86};

use crate::{FIRST, NMI, SECOND, came, case};

const PRESENT: u64 = 1 << 47;
/// An interrupt stack whose pointer in the TSS is 0, so that the first push goes to the last, unmapped, page.
const UNMAPPED_STACK: u64 = 5 << 32;
const TOP_OF_NOTHING: u64 = 0u64.wrapping_sub(8);
const EXTERNAL: u32 = 1;
const IDT: u32 = 2;

/// Runs a body with a changed gate.
fn with_gate<T>(vector: u8, low: u64, body: impl FnOnce() -> T) -> T {
    let original = gate(vector);
    set_gate(vector, low);
    let result = body();
    set_gate(vector, original);
    result
}

/// Lets a pending interrupt in.
fn open() -> Result<(), Fault> {
    probe(|| x86!("sti", "nop", "nop", "cli"))
}

pub(super) fn failures(report: &mut Report) {
    case(report, "interrupt-through-an-absent-gate", |case| {
        apic::send_to_self(FIRST);
        let ended = with_gate(FIRST, gate(FIRST) & !PRESENT, open);
        let code = u32::from(FIRST) << 3 | IDT | EXTERNAL;
        case.faults("the interrupt", ended, Vector::SegmentNotPresent, code);
        // It was taken all the same: the APIC has it in service.
        case.equal("ISR", u8::from(apic::has(reg::IN_SERVICE, FIRST)), 1);
        case.equal("IRR", u8::from(apic::has(reg::REQUEST, FIRST)), 0);
        apic::end_of_interrupt();
    });
    case(report, "nmi-through-an-absent-gate", |case| {
        let ended = with_gate(NMI, gate(NMI) & !PRESENT, || {
            probe(|| apic::send(ASSERT | DELIVER_NMI, apic::id()))
        });
        let code = u32::from(NMI) << 3 | IDT | EXTERNAL;
        case.faults("the NMI", ended, Vector::SegmentNotPresent, code);
        // The NMI blocks the next until an IRET, which the probe has not done.
        x86!(
            "mov {0}, rsp", "push {1}", "push {0}", "pushfq", "push {2}", "lea {0}, [rip + 2f]", "push {0}", "iretq", "2:",
            out(reg) _,
            in(reg) u64::from(plinth_guests::descriptors::KERNEL_DATA),
            in(reg) u64::from(plinth_guests::descriptors::KERNEL_CODE),
        );
        set_handler(NMI, Some(note));
        apic::send(ASSERT | DELIVER_NMI, apic::id());
        came(case, recorder::log(), &[NMI]);
    });
    case(
        report,
        "int-n-through-an-absent-gate-is-not-external",
        |case| {
            let ended = with_gate(0x77, gate(0x77) & !PRESENT, || fault_of!("int 0x77"));
            case.faults("INT 77h", ended, Vector::SegmentNotPresent, 0x77 << 3 | IDT);
        },
    );
    case(
        report,
        "emulated-fault-through-an-absent-gate-is-a-double-fault",
        |case| {
            let protection = Vector::GeneralProtection as u8;
            let ended = with_gate(
                protection,
                gate(protection) & !PRESENT,
                || fault_of!("rdmsr", in("ecx") 0x4fff_0000u32, out("eax") _, out("edx") _),
            );
            case.faults("RDMSR", ended, Vector::DoubleFault, 0);
        },
    );
    case(
        report,
        "emulated-debug-trap-through-an-absent-gate",
        |case| {
            // #DB is benign: the #NP of its delivery is delivered.
            let debug = Vector::Debug as u8;
            let ended = with_gate(debug, gate(debug) & !PRESENT, || {
                probe(|| {
                    x86!(
                        "mov r13, rbx", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "cpuid", "mov rbx, r13",
                        inout("eax") 0 => _, out("ecx") _, out("edx") _, out("r13") _,
                    );
                })
            });
            plinth_guests::cpu::write_dr6(0xffff_0ff0);
            let code = u32::from(debug) << 3 | IDT | EXTERNAL;
            case.faults("the trap", ended, Vector::SegmentNotPresent, code);
        },
    );
    case(report, "interrupt-with-an-unmapped-stack", |case| {
        apic::send_to_self(FIRST);
        let ended = with_gate(FIRST, gate(FIRST) | UNMAPPED_STACK, open);
        let fault = case.faults("the interrupt", ended, Vector::PageFault, 2);
        case.equal("CR2", fault.cr2, TOP_OF_NOTHING);
        case.equal("ISR", u8::from(apic::has(reg::IN_SERVICE, FIRST)), 1);
        apic::end_of_interrupt();
    });
    case(report, "emulated-fault-with-an-unmapped-stack", |case| {
        let protection = Vector::GeneralProtection as u8;
        let ended = with_gate(
            protection,
            gate(protection) | UNMAPPED_STACK,
            || fault_of!("rdmsr", in("ecx") 0x4fff_0000u32, out("eax") _, out("edx") _),
        );
        // Contributory, then a page fault: each in its turn, the second at the stack of the first.
        let fault = case.faults("RDMSR", ended, Vector::PageFault, 2);
        case.equal("CR2", fault.cr2, TOP_OF_NOTHING);
    });
    case(
        report,
        "waiting-interrupt-comes-after-a-failed-delivery",
        |case| {
            apic::send_to_self(FIRST);
            apic::send_to_self(SECOND);
            let ended = with_gate(SECOND, gate(SECOND) & !PRESENT, open);
            let code = u32::from(SECOND) << 3 | IDT | EXTERNAL;
            case.faults("the higher", ended, Vector::SegmentNotPresent, code);
            came(case, recorder::log(), &[]);
            apic::end_of_interrupt();
            apic::open_window();
            came(case, recorder::log(), &[FIRST]);
        },
    );
}
