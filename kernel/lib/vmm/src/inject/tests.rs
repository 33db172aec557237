//! What is injected, table by table and against a plain model of the manual's priority list.

use alloc::vec::Vec;

use arch::{Cr0, Exception, Rflags, Vector, msr};
use machine::devices::lapic::{
    Kick, LapicConfig, LapicFeatures, Now, PostedInterrupts, Role, Signals,
};
use machine::{DeliveryMode, DestinationMode, InterruptMessage, TriggerMode};
use memory::GuestVirt;
use proptest::prelude::*;

use super::*;
use crate::fault::{GuestFault, VmError};
use crate::pending::Restart;
use crate::testing::FakeCpu;

const PIC_VECTOR: Vector = Vector(0x33);

fn lapic() -> Lapic {
    let mut lapic = Lapic::new(LapicConfig {
        id: 0,
        role: Role::Bootstrap,
        features: LapicFeatures::all(),
        bus_hz: 1_000_000_000,
        physical_address_bits: 40,
    });
    lapic.set_virtual_wire();
    lapic
}

fn signals(modes: &[(DeliveryMode, u8)]) -> Signals {
    let mailbox = PostedInterrupts::new();
    for &(delivery_mode, vector) in modes {
        let _: Kick = mailbox.post(&InterruptMessage {
            destination: 0,
            destination_mode: DestinationMode::Physical,
            delivery_mode,
            vector: Vector(vector),
            trigger_mode: TriggerMode::Edge,
        });
    }
    mailbox.drain(&mut lapic())
}

/// A vCPU at an instruction boundary.
struct Bench {
    pending: Pending,
    cpu: FakeCpu,
    lapic: Lapic,
    activity: Activity,
    delivery: Delivery,
    acknowledged: usize,
}

impl Bench {
    fn new() -> Self {
        let mut cpu = FakeCpu::long_mode(0x1000);
        cpu.rflags = Rflags::ONE | Rflags::IF;
        Self {
            pending: Pending::new(),
            cpu,
            lapic: lapic(),
            activity: Activity::Active,
            delivery: Delivery::Software,
            acknowledged: 0,
        }
    }

    fn decide(&mut self) -> Decision {
        let Self {
            pending,
            cpu,
            lapic,
            activity,
            delivery,
            acknowledged,
        } = self;
        decide(pending, cpu, lapic, *activity, *delivery, || {
            *acknowledged += 1;
            PicAnswer {
                vector: PIC_VECTOR,
                intr: Level::Deasserted,
            }
        })
    }

    fn nmis(&mut self, count: usize) {
        let nmis = signals(&[(DeliveryMode::Nmi, 2)].repeat(count));
        assert_eq!(
            self.pending.note(nmis, self.activity, Role::Bootstrap),
            None
        );
    }

    fn pic(&mut self) {
        self.lapic.set_lint(Lint::Lint0, Level::Asserted);
    }

    fn apic(&mut self, vector: u8) {
        self.lapic.accept(Vector(vector), TriggerMode::Edge);
    }
}

fn exception(exception: Exception, error_code: Option<u32>) -> Event {
    Event::Exception {
        exception,
        error_code,
    }
}

fn event(event: Event) -> Decision {
    Decision {
        event: Some(event),
        ..Decision::default()
    }
}

#[test]
fn with_nothing_pending_nothing_happens() {
    let mut bench = Bench::new();
    assert_eq!(bench.decide(), Decision::default());
    bench.activity = Activity::Halted;
    assert_eq!(bench.decide(), Decision::default());
}

#[test]
fn an_interrupted_event_is_delivered_again_before_everything_else() {
    let mut bench = Bench::new();
    let soft = Event::SoftwareInterrupt {
        vector: Vector(0x80),
        length: 2,
    };
    bench.pending.interrupted(Some(soft));
    bench.nmis(1);
    bench.apic(0x50);
    let wanted = Decision {
        event: Some(soft),
        want_interrupt_window: true,
        want_nmi_window: true,
        wake_from_halt: false,
    };
    assert_eq!(bench.decide(), wanted);
    let wanted = Decision {
        want_interrupt_window: true,
        ..event(Event::Nmi)
    };
    assert_eq!(bench.decide(), wanted);
    assert_eq!(bench.decide(), event(Event::Interrupt(Vector(0x50))));
    assert_eq!(bench.decide(), Decision::default());
}

#[test]
fn an_nmi_that_is_delivered_again_is_not_blocked_by_itself() {
    let mut bench = Bench::new();
    bench.cpu.blocking = Blocking::NMI;
    bench.pending.interrupted(Some(Event::Nmi));
    assert_eq!(bench.decide(), event(Event::Nmi));
    assert_eq!(bench.cpu.blocking, Blocking::empty());
}

#[test]
fn a_single_step_over_sti_does_not_make_the_entry_fail() {
    for shadow in [Blocking::STI, Blocking::MOV_SS] {
        let mut bench = Bench::new();
        bench.cpu.rflags |= Rflags::TF;
        bench.cpu.blocking = shadow | Blocking::NMI;
        bench
            .pending
            .raise(GuestFault::Debug { dr6: 1 << 14 }, &mut bench.cpu)
            .unwrap();
        assert_eq!(
            bench.decide(),
            event(exception(Exception::Debug, None)),
            "{shadow:?}"
        );
        // An NMI's handler that is stepped through still blocks the next NMI.
        assert_eq!(bench.cpu.blocking, Blocking::NMI, "{shadow:?}");
    }
}

#[test]
fn a_debug_trap_comes_before_an_nmi_and_an_nmi_before_an_interrupt() {
    let mut bench = Bench::new();
    bench.nmis(1);
    bench.apic(0x50);
    bench
        .pending
        .raise(GuestFault::Debug { dr6: 1 << 14 }, &mut bench.cpu)
        .unwrap();
    assert_eq!(
        bench.decide().event,
        Some(exception(Exception::Debug, None))
    );
    assert_eq!(bench.decide().event, Some(Event::Nmi));
    assert_eq!(bench.decide().event, Some(Event::Interrupt(Vector(0x50))));
}

#[test]
fn nmis_wait_for_the_shadows_and_for_iret() {
    let mut bench = Bench::new();
    bench.nmis(1);
    let window = Decision {
        want_nmi_window: true,
        ..Decision::default()
    };
    for blocking in [
        Blocking::NMI,
        Blocking::MOV_SS,
        Blocking::NMI | Blocking::STI,
    ] {
        bench.cpu.blocking = blocking;
        assert_eq!(bench.decide(), window, "{blocking:?}");
    }
    bench.cpu.blocking = Blocking::STI;
    let behind_sti = Decision {
        want_interrupt_window: true,
        ..Decision::default()
    };
    assert_eq!(bench.decide(), behind_sti);
    bench.cpu.blocking = Blocking::empty();
    bench.cpu.rflags = Rflags::ONE;
    assert_eq!(
        bench.decide(),
        event(Event::Nmi),
        "IF does not hold back NMIs"
    );
}

#[test]
fn of_many_nmis_two_are_kept_and_one_while_the_first_is_handled() {
    let mut bench = Bench::new();
    bench.nmis(5);
    assert_eq!(
        bench.decide(),
        Decision {
            want_nmi_window: true,
            ..event(Event::Nmi)
        }
    );
    bench.cpu.blocking = Blocking::NMI;
    bench.nmis(5);
    assert!(bench.decide().want_nmi_window);
    bench.cpu.blocking = Blocking::empty();
    assert_eq!(bench.decide(), event(Event::Nmi));
    assert_eq!(bench.decide(), Decision::default());
}

#[test]
fn interrupts_wait_for_if_and_the_shadows() {
    for (interrupt, wanted) in [
        (PendingInterrupt::Pic, PIC_VECTOR),
        (PendingInterrupt::Apic(Vector(0x61)), Vector(0x61)),
    ] {
        let mut bench = Bench::new();
        match interrupt {
            PendingInterrupt::Pic => bench.pic(),
            PendingInterrupt::Apic(vector) => bench.apic(vector.0),
        }
        let window = Decision {
            want_interrupt_window: true,
            ..Decision::default()
        };
        bench.cpu.rflags = Rflags::ONE;
        assert_eq!(bench.decide(), window);
        bench.cpu.rflags = Rflags::ONE | Rflags::IF;
        for shadow in [Blocking::STI, Blocking::MOV_SS] {
            bench.cpu.blocking = shadow;
            assert_eq!(bench.decide(), window);
        }
        assert_eq!(bench.acknowledged, 0);
        bench.cpu.blocking = Blocking::NMI;
        assert_eq!(bench.decide(), event(Event::Interrupt(wanted)));
        assert_eq!(bench.decide(), Decision::default());
    }
}

#[test]
fn the_8259_comes_first_and_the_local_apic_waits_for_its_window() {
    let mut bench = Bench::new();
    bench.pic();
    bench.apic(0xf0);
    let first = Event::Interrupt(PIC_VECTOR);
    assert_eq!(
        bench.decide(),
        Decision {
            want_interrupt_window: true,
            ..event(first)
        }
    );
    assert_eq!(bench.acknowledged, 1);
    assert_eq!(bench.decide(), event(Event::Interrupt(Vector(0xf0))));
}

#[test]
fn an_interrupt_below_the_task_priority_needs_no_window() {
    let mut bench = Bench::new();
    bench.apic(0x41);
    bench.lapic.set_cr8(4);
    assert_eq!(bench.decide(), Decision::default());
    bench.lapic.set_cr8(3);
    assert_eq!(bench.decide(), event(Event::Interrupt(Vector(0x41))));
}

#[test]
fn with_hardware_delivery_only_the_8259_is_injected() {
    let mut bench = Bench::new();
    bench.delivery = Delivery::Hardware;
    bench.apic(0x50);
    assert_eq!(bench.decide(), Decision::default());
    bench.cpu.rflags = Rflags::ONE;
    assert_eq!(bench.decide(), Decision::default());
    bench.pic();
    let window = Decision {
        want_interrupt_window: true,
        ..Decision::default()
    };
    assert_eq!(bench.decide(), window);
    bench.cpu.rflags = Rflags::ONE | Rflags::IF;
    assert_eq!(bench.decide(), event(Event::Interrupt(PIC_VECTOR)));
    assert_eq!(
        bench.lapic.pending_vector(),
        Some(Vector(0x50)),
        "left to the hardware"
    );
}

#[test]
fn a_halted_cpu_wakes_for_what_it_can_take_and_for_nothing_else() {
    for delivery in [Delivery::Software, Delivery::Hardware] {
        let halted = || {
            let mut bench = Bench::new();
            bench.activity = Activity::Halted;
            bench.delivery = delivery;
            bench
        };

        let mut bench = halted();
        bench.apic(0x50);
        bench.cpu.rflags = Rflags::ONE;
        assert!(!bench.decide().wake_from_halt, "IF is clear");
        bench.cpu.rflags = Rflags::ONE | Rflags::IF;
        bench.lapic.set_cr8(5);
        assert!(!bench.decide().wake_from_halt, "below the task priority");
        bench.lapic.set_cr8(0);
        let woken = bench.decide();
        assert!(woken.wake_from_halt);
        let injected = woken.event.is_some();
        assert_eq!(injected, delivery == Delivery::Software);

        let mut bench = halted();
        bench.nmis(1);
        bench.cpu.rflags = Rflags::ONE;
        bench.cpu.blocking = Blocking::NMI;
        assert!(!bench.decide().wake_from_halt, "halted in the NMI handler");
        bench.cpu.blocking = Blocking::empty();
        assert!(bench.decide().wake_from_halt);

        let mut bench = halted();
        bench.pic();
        assert!(bench.decide().wake_from_halt);
    }
}

#[test]
fn a_cpu_that_waits_for_its_start_up_takes_nothing() {
    let mut bench = Bench::new();
    bench.activity = Activity::WaitingForStartUp;
    bench.nmis(1);
    bench.apic(0x50);
    bench.pic();
    assert_eq!(bench.decide(), Decision::default());
}

#[test]
fn a_timer_that_ran_out_wakes_a_halted_cpu() {
    let mut bench = Bench::new();
    bench.activity = Activity::Halted;
    let start = Now::default();
    let _ = bench
        .lapic
        .write_mmio(0x320, arch::Width::Dword, 0x77, &start);
    let _ = bench
        .lapic
        .write_mmio(0x380, arch::Width::Dword, 10, &start);
    bench.lapic.expire(&start);
    assert!(!bench.decide().wake_from_halt);
    bench.lapic.expire(&Now { ns: 20, ..start });
    assert_eq!(
        bench.decide(),
        Decision {
            wake_from_halt: true,
            ..event(Event::Interrupt(Vector(0x77)))
        }
    );
}

/// SDM vol. 3, Interrupt 8: Double Fault Exception, told as the manual's two tables.
#[test]
fn an_exception_during_a_delivery_follows_the_double_fault_table() {
    let benign = [
        Event::Interrupt(Vector(0x40)),
        Event::Nmi,
        Event::SoftwareInterrupt {
            vector: Vector(13),
            length: 2,
        },
        Event::SoftwareException {
            exception: Exception::Breakpoint,
            length: 1,
        },
        exception(Exception::Debug, None),
        exception(Exception::InvalidOpcode, None),
        exception(Exception::DeviceNotAvailable, None),
        exception(Exception::AlignmentCheck, Some(0)),
        exception(Exception::SimdFloatingPoint, None),
    ];
    let contributory = [
        exception(Exception::DivideError, None),
        exception(Exception::InvalidTss, Some(8)),
        exception(Exception::SegmentNotPresent, Some(8)),
        exception(Exception::StackFault, Some(8)),
        exception(Exception::GeneralProtection, Some(8)),
        exception(Exception::ControlProtection, Some(1)),
    ];
    let page = [
        exception(Exception::PageFault, Some(2)),
        exception(Exception::Virtualization, None),
    ];
    let double = exception(Exception::DoubleFault, Some(0));

    let meet = |first: Event, second: Event| {
        let mut bench = Bench::new();
        bench.pending.interrupted(Some(first));
        bench
            .pending
            .reflect(second, &bench.cpu)
            .map(|()| bench.decide().event)
    };
    let exceptions: Vec<Event> = benign
        .into_iter()
        .filter(|event| matches!(event, Event::Exception { .. }))
        .chain(contributory)
        .chain(page)
        .collect();
    for &second in &exceptions {
        for first in benign {
            assert_eq!(
                meet(first, second),
                Ok(Some(second)),
                "{first:?}, {second:?}"
            );
        }
        for first in contributory {
            let wanted = if contributory.contains(&second) {
                double
            } else {
                second
            };
            assert_eq!(
                meet(first, second),
                Ok(Some(wanted)),
                "{first:?}, {second:?}"
            );
        }
        for first in page {
            let serious = contributory.contains(&second) || page.contains(&second);
            let wanted = if serious { double } else { second };
            assert_eq!(
                meet(first, second),
                Ok(Some(wanted)),
                "{first:?}, {second:?}"
            );
        }
        let serious = contributory.contains(&second) || page.contains(&second);
        let wanted = if serious {
            Err(VmError::TripleFault)
        } else {
            Ok(Some(second))
        };
        assert_eq!(meet(double, second), wanted, "{second:?}");
    }
}

#[test]
fn real_mode_pushes_no_error_codes() {
    let mut bench = Bench::new();
    bench.cpu.cr0 = Cr0::ET;
    bench
        .pending
        .raise(GuestFault::GP0, &mut bench.cpu)
        .unwrap();
    assert_eq!(
        bench.decide().event,
        Some(exception(Exception::GeneralProtection, None))
    );
    bench
        .pending
        .interrupted(Some(exception(Exception::GeneralProtection, None)));
    bench
        .pending
        .raise(GuestFault::StackFault(0), &mut bench.cpu)
        .unwrap();
    assert_eq!(
        bench.decide().event,
        Some(exception(Exception::DoubleFault, None))
    );
}

#[test]
fn a_page_fault_sets_cr2_and_rf() {
    let mut bench = Bench::new();
    let fault = GuestFault::PageFault {
        address: GuestVirt::new(0xdead_b000),
        error_code: 6,
    };
    bench.pending.raise(fault, &mut bench.cpu).unwrap();
    assert_eq!(bench.cpu.cr2, 0xdead_b000);
    assert!(bench.cpu.rflags.contains(Rflags::RF));
    assert_eq!(
        bench.decide().event,
        Some(exception(Exception::PageFault, Some(6)))
    );
}

#[test]
fn a_debug_trap_sets_dr6_and_ends_what_debug_exceptions_end() {
    let mut bench = Bench::new();
    bench.cpu.debug_registers[6] = 0xffff_0ff0;
    bench.cpu.debug_registers[7] = 0x2400;
    bench.cpu.hardware_msrs.insert(msr::IA32_DEBUGCTL, 0x203);
    bench
        .pending
        .raise(GuestFault::Debug { dr6: 1 << 14 }, &mut bench.cpu)
        .unwrap();
    assert_eq!(bench.cpu.debug_registers[6], 0xffff_4ff0);
    assert_eq!(bench.cpu.debug_registers[7], 0x0400);
    assert_eq!(bench.cpu.hardware_msrs[&msr::IA32_DEBUGCTL], 0x200);
    assert!(!bench.cpu.rflags.contains(Rflags::RF), "a trap");
    let mut bench = Bench::new();
    bench
        .pending
        .raise(GuestFault::Debug { dr6: 1 << 13 }, &mut bench.cpu)
        .unwrap();
    assert!(
        bench.cpu.rflags.contains(Rflags::RF),
        "general detect is a fault"
    );
}

#[test]
fn init_and_start_up_restart_whom_they_concern() {
    use Activity::{Active, Halted, WaitingForStartUp};
    use DeliveryMode::{Init, Nmi, StartUp};
    let bsp = Role::Bootstrap;
    let ap = Role::Application;
    type Case = (
        &'static [(DeliveryMode, u8)],
        Activity,
        Role,
        Option<Restart>,
    );
    let table: [Case; 11] = [
        (&[], WaitingForStartUp, ap, None),
        (&[(Init, 0)], Active, ap, Some(Restart::Init)),
        (&[(Init, 0)], Halted, bsp, Some(Restart::Init)),
        (
            &[(Init, 0), (StartUp, 9)],
            Active,
            ap,
            Some(Restart::InitThenStartUp(Vector(9))),
        ),
        (&[(Init, 0), (StartUp, 9)], Active, bsp, Some(Restart::Init)),
        (
            &[(StartUp, 9), (Init, 0)],
            WaitingForStartUp,
            ap,
            Some(Restart::Init),
        ),
        (
            &[(StartUp, 9)],
            WaitingForStartUp,
            ap,
            Some(Restart::StartUp(Vector(9))),
        ),
        (
            &[(StartUp, 9), (StartUp, 8)],
            WaitingForStartUp,
            ap,
            Some(Restart::StartUp(Vector(9))),
        ),
        (&[(StartUp, 9)], Active, ap, None),
        (&[(StartUp, 9)], Halted, ap, None),
        (&[(Nmi, 2)], WaitingForStartUp, ap, None),
    ];
    for (modes, activity, role, wanted) in table {
        let mut pending = Pending::new();
        assert_eq!(
            pending.note(signals(modes), activity, role),
            wanted,
            "{modes:?} {activity:?}"
        );
    }
}

#[test]
fn init_forgets_what_was_pending() {
    let mut bench = Bench::new();
    bench.nmis(2);
    bench.pending.interrupted(Some(Event::Nmi));
    let init = signals(&[(DeliveryMode::Init, 0)]);
    assert_eq!(
        bench
            .pending
            .note(init, Activity::Active, Role::Application),
        Some(Restart::Init)
    );
    assert_eq!(bench.decide(), Decision::default());
}

proptest! {
    /// The manual's list, from the top: what is due first wins, and what is left over has a window.
    #[test]
    fn a_decision_is_the_first_entry_of_the_priority_list_that_applies(
        interrupted in prop::bool::ANY,
        nmis in 0usize..4,
        pic in prop::bool::ANY,
        apic in prop::option::of(16u8..),
        cr8 in 0u8..16,
        interrupts_on in prop::bool::ANY,
        blocking in (0u8..8).prop_map(Blocking::from_bits_retain),
        hardware in prop::bool::ANY,
        halted in prop::bool::ANY,
    ) {
        let mut bench = Bench::new();
        let first = exception(Exception::GeneralProtection, Some(0));
        if interrupted {
            bench.pending.interrupted(Some(first));
        }
        bench.nmis(nmis);
        if pic {
            bench.pic();
        }
        bench.lapic.set_cr8(cr8);
        if let Some(vector) = apic {
            bench.apic(vector);
        }
        bench.cpu.blocking = blocking;
        bench.cpu.rflags = if interrupts_on { Rflags::IF } else { Rflags::empty() };
        bench.delivery = if hardware { Delivery::Hardware } else { Delivery::Software };
        bench.activity = if halted { Activity::Halted } else { Activity::Active };

        let open = interrupts_on && !blocking.intersects(Blocking::STI | Blocking::MOV_SS);
        let apic = apic.filter(|vector| vector >> 4 > cr8).map(Vector);
        let nmi_open = blocking.is_empty();
        let wanted = if interrupted {
            Some(first)
        } else if nmis > 0 && nmi_open {
            Some(Event::Nmi)
        } else if open && pic {
            Some(Event::Interrupt(PIC_VECTOR))
        } else if open && !hardware {
            apic.map(Event::Interrupt)
        } else {
            None
        };
        let decision = bench.decide();
        prop_assert_eq!(decision.event, wanted);

        let nmis_left = match nmis {
            0 => false,
            1 => wanted != Some(Event::Nmi),
            _ => true,
        };
        prop_assert!(!nmis_left || decision.want_nmi_window || decision.want_interrupt_window);
        prop_assert!(nmis_left || !decision.want_nmi_window);

        let pic_left = pic && wanted != Some(Event::Interrupt(PIC_VECTOR));
        let apic_left = apic.is_some_and(|vector| wanted != Some(Event::Interrupt(vector)));
        let interrupts_left = pic_left || apic_left && !hardware;
        if interrupts_left {
            prop_assert!(decision.want_interrupt_window);
        } else if nmis == 0 {
            prop_assert!(!decision.want_interrupt_window);
        }
        let by_hardware = hardware && open && apic.is_some();
        prop_assert_eq!(decision.wake_from_halt, halted && (wanted.is_some() || by_hardware));
    }
}
