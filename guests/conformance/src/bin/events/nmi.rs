//! NMIs: when they come, and how one blocks the next until an IRET (SDM vol. 3, Handling Multiple NMIs).

use plinth_guests::apic::{self, ASSERT, DELIVER_NMI};
use plinth_guests::cpu::{self, msr};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::recorder::{self, note, note_and_skip_two};
use plinth_guests::single::Single;
use plinth_guests::{Report, x86};

use crate::{FIRST, IF, INVALID, NMI, SCRATCH, SECOND, came, case};

/// How deep NMI handlers are nested, and the most that they were.
static DEPTH: Single<[u64; 2]> = Single::new([0; 2]);

fn depth() -> [u64; 2] {
    // SAFETY: one CPU; volatile, since handlers write it.
    unsafe { DEPTH.get().read_volatile() }
}

fn set_depth(depth: [u64; 2]) {
    // SAFETY: as above.
    unsafe { DEPTH.get().write_volatile(depth) };
}

/// No handler runs.
pub(super) fn reset_depth() {
    set_depth([0; 2]);
}

/// Sends an NMI to this processor.
fn send_nmi() {
    apic::send(ASSERT | DELIVER_NMI, apic::id());
}

pub(super) fn deliveries(report: &mut Report) {
    case(report, "nmi-comes-with-if-clear", |case| {
        set_handler(NMI, Some(note));
        send_nmi();
        let log = recorder::log();
        came(case, log, &[NMI]);
        case.equal("IF", log.event(0).rflags & IF, 0);
    });
    case(report, "nmi-comes-before-an-interrupt", |case| {
        set_handler(NMI, Some(note));
        apic::send_to_self(FIRST);
        apic::write(0x310, apic::id() << 24);
        // Both are there when the shadow of MOV SS ends: the NMI is sent in it.
        x86!(
            "sti",
            "mov ss, {ss:e}",
            "mov dword ptr [{icr}], {command:e}",
            "nop", "nop", "nop", "nop",
            "cli",
            ss = in(reg) u32::from(plinth_guests::descriptors::KERNEL_DATA),
            icr = in(reg) apic::BASE + 0x300,
            command = in(reg) ASSERT | DELIVER_NMI,
        );
        apic::settle();
        let log = recorder::log();
        // On hardware the IPI may take a while; then the interrupt is first.
        let nmi_was_first = log.event(0).vector == NMI;
        if nmi_was_first || cpu::hypervisor().is_some() {
            came(case, log, &[NMI, FIRST]);
        } else {
            came(case, log, &[FIRST, NMI]);
        }
    });
    case(
        report,
        "nmi-uses-its-own-gate-whatever-the-vector",
        |case| {
            set_handler(NMI, Some(note));
            apic::send(ASSERT | DELIVER_NMI | 0xff, apic::id());
            came(case, recorder::log(), &[NMI]);
        },
    );
    case(report, "many-nmis-all-come", |case| {
        set_handler(NMI, Some(note));
        for _ in 0..20 {
            send_nmi();
        }
        case.equal("the NMIs", recorder::log().count() as u64, 20);
    });
    case(report, "nmi-behind-each-kind-of-instruction", |case| {
        set_handler(NMI, Some(note));
        for _ in 0..3 {
            send_nmi();
            let _ = cpu::cpuid(0, 0);
            send_nmi();
            cpu::outb(SCRATCH, 0);
            send_nmi();
            let _ = cpu::rdmsr(msr::IA32_APIC_BASE);
        }
        case.equal("the NMIs", recorder::log().count() as u64, 9);
    });
}

/// Notes an NMI, with `body` run inside its handler.
fn within(frame: &mut Frame, body: impl FnOnce()) {
    let [now, most] = depth();
    set_depth([now + 1, most.max(now + 1)]);
    let first = recorder::log().count() == 0;
    note(frame);
    if first {
        body();
    }
    let [now, most] = depth();
    set_depth([now - 1, most]);
}

pub(super) fn blocking(report: &mut Report) {
    case(report, "nmi-waits-for-the-iret-of-the-one-before", |case| {
        set_handler(NMI, Some(|frame| within(frame, send_nmi)));
        send_nmi();
        came(case, recorder::log(), &[NMI, NMI]);
        case.equal("the depth of the handlers", depth()[1], 1);
    });
    case(report, "one-nmi-is-remembered-while-blocked", |case| {
        set_handler(
            NMI,
            Some(|frame| {
                within(frame, || {
                    send_nmi();
                    send_nmi();
                    send_nmi();
                });
            }),
        );
        send_nmi();
        came(case, recorder::log(), &[NMI, NMI]);
        case.equal("the depth of the handlers", depth()[1], 1);
    });
    case(report, "exits-do-not-unblock-nmis", |case| {
        set_handler(
            NMI,
            Some(|frame| {
                within(frame, || {
                    send_nmi();
                    let _ = cpu::cpuid(0, 0);
                    cpu::outb(SCRATCH, 0);
                    let _ = cpu::rdmsr(msr::IA32_APIC_BASE);
                    let _ = apic::read(0x30);
                    cpu::write_cr0(cpu::read_cr0());
                });
            }),
        );
        send_nmi();
        came(case, recorder::log(), &[NMI, NMI]);
        case.equal("the depth of the handlers", depth()[1], 1);
    });
    case(report, "iret-of-an-exception-unblocks-nmis", |case| {
        set_handler(INVALID, Some(note_and_skip_two));
        set_handler(
            NMI,
            Some(|frame| {
                within(frame, || {
                    send_nmi();
                    // The IRET of this exception's handler unblocks, and the second NMI comes here, on the first one's
                    // stack: its frame overwrites the first one's, so nobody returns. See below.
                    x86!("ud2");
                });
            }),
        );
        // The NMI's stack is an interrupt stack, which a nested NMI would start anew from its top. Without one, the
        // handlers nest like any others.
        let gate = plinth_guests::descriptors::gate(NMI);
        plinth_guests::descriptors::set_gate(NMI, gate & !(7 << 32));
        send_nmi();
        plinth_guests::descriptors::set_gate(NMI, gate);
        came(case, recorder::log(), &[NMI, INVALID, NMI]);
        case.equal("the depth of the handlers", depth()[1], 2);
    });
    case(
        report,
        "interrupt-in-an-nmi-handler-unblocks-by-its-iret",
        |case| {
            set_handler(
                NMI,
                Some(|frame| {
                    within(frame, || {
                        apic::send_to_self(FIRST);
                        send_nmi();
                        apic::open_window();
                    });
                }),
            );
            let gate = plinth_guests::descriptors::gate(NMI);
            plinth_guests::descriptors::set_gate(NMI, gate & !(7 << 32));
            send_nmi();
            plinth_guests::descriptors::set_gate(NMI, gate);
            came(case, recorder::log(), &[NMI, FIRST, NMI]);
            case.equal("the depth of the handlers", depth()[1], 2);
        },
    );
    case(
        report,
        "interrupts-come-in-an-nmi-handler-that-sets-if",
        |case| {
            set_handler(
                NMI,
                Some(|frame| {
                    within(frame, || {
                        apic::send_to_self(SECOND);
                        apic::open_window();
                    });
                }),
            );
            send_nmi();
            came(case, recorder::log(), &[NMI, SECOND]);
        },
    );
    case(report, "int-2-is-no-nmi-and-blocks-nothing", |case| {
        set_handler(NMI, Some(|frame| within(frame, send_nmi)));
        let gate = plinth_guests::descriptors::gate(NMI);
        plinth_guests::descriptors::set_gate(NMI, gate & !(7 << 32));
        x86!("int 2");
        plinth_guests::descriptors::set_gate(NMI, gate);
        came(case, recorder::log(), &[NMI, NMI]);
        case.equal("the depth of the handlers", depth()[1], 2);
    });
    case(report, "nmi-comes-right-behind-the-iret", |case| {
        set_handler(NMI, Some(|frame| within(frame, send_nmi)));
        send_nmi();
        let log = recorder::log();
        came(case, log, &[NMI, NMI]);
        case.equal("where the second came", log.event(1).rip, log.event(0).rip);
    });
}
