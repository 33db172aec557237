//! What writes of the interrupt command register and the self-IPI register send.

use super::*;

fn sent(action: ApicAction) -> Ipi {
    match action {
        ApicAction::Send(ipi) => ipi,
        other => panic!("{other:?} instead of an IPI"),
    }
}

#[test]
fn a_fixed_ipi_carries_destination_mode_and_vector() {
    let mut bench = Bench::new();
    bench.put(ICR_HIGH, 0x0500_0000);
    let wanted = Ipi {
        message: InterruptMessage {
            destination: 5,
            destination_mode: DestinationMode::Physical,
            delivery_mode: DeliveryMode::Fixed,
            vector: Vector(0xfb),
            trigger_mode: TriggerMode::Edge,
        },
        shorthand: Shorthand::None,
    };
    assert_eq!(sent(bench.set(ICR_LOW, 0x40fb)), wanted);
    assert_eq!(bench.get(ICR_LOW), 0x40fb);
    assert_eq!(bench.get(ICR_HIGH), 0x0500_0000);
    let logical = sent(bench.set(ICR_LOW, 0x49fb)).message;
    assert_eq!(logical.destination_mode, DestinationMode::Logical);
    assert_eq!(logical.delivery_mode, DeliveryMode::LowestPriority);
}

#[test]
fn the_x2apic_takes_a_wide_destination_in_one_write() {
    let mut bench = Bench::x2();
    let ipi = sent(bench.wrmsr(0x830, 0x0001_0203_0000_08fb).unwrap());
    assert_eq!(ipi.message.destination, 0x0001_0203);
    assert_eq!(ipi.message.destination_mode, DestinationMode::Logical);
    assert_eq!(bench.rdmsr(0x830), Ok(0x0001_0203_0000_08fb));
}

#[test]
fn broadcasts_look_alike_in_both_modes_and_0xff_is_an_x2apic() {
    let mut bench = Bench::new();
    bench.put(ICR_HIGH, 0xff00_0000);
    assert_eq!(
        sent(bench.set(ICR_LOW, 0x40fb)).message.destination,
        u32::MAX
    );
    let mut bench = Bench::x2();
    let broadcast = sent(bench.wrmsr(0x830, 0xffff_ffff_0000_00fb).unwrap());
    assert_eq!(broadcast.message.destination, u32::MAX);
    let single = sent(bench.wrmsr(0x830, 0x0000_00ff_0000_00fb).unwrap());
    assert_eq!(single.message.destination, 0xff);
}

#[test]
fn delivery_modes_are_the_manuals_and_reserved_ones_send_nothing() {
    let table = [
        (0, Some(DeliveryMode::Fixed)),
        (1, Some(DeliveryMode::LowestPriority)),
        (2, Some(DeliveryMode::Smi)),
        (3, None),
        (4, Some(DeliveryMode::Nmi)),
        (5, Some(DeliveryMode::Init)),
        (6, Some(DeliveryMode::StartUp)),
        (7, None),
    ];
    for (mode, wanted) in table {
        let mut bench = Bench::new();
        let mode = match bench.set(ICR_LOW, 0x4040 | mode << 8) {
            ApicAction::Send(ipi) => Some(ipi.message.delivery_mode),
            ApicAction::None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(mode, wanted);
    }
}

#[test]
fn init_level_deassert_is_ignored_and_level_assert_is_not() {
    let mut bench = Bench::new();
    assert_eq!(bench.set(ICR_LOW, 0x0000_8500), ApicAction::None);
    assert_eq!(
        sent(bench.set(ICR_LOW, 0x0000_c500)).message.delivery_mode,
        DeliveryMode::Init
    );
    assert_eq!(
        sent(bench.set(ICR_LOW, 0x0000_0500)).message.delivery_mode,
        DeliveryMode::Init
    );
}

#[test]
fn ipis_are_edge_triggered_whatever_the_icr_says() {
    let mut bench = Bench::new();
    assert_eq!(
        sent(bench.set(ICR_LOW, 0xc040)).message.trigger_mode,
        TriggerMode::Edge
    );
    bench.put(ICR_LOW, 0x4_c041);
    assert_eq!(bench.vectors(TMR), []);
    assert_eq!(bench.vectors(IRR), [0x41]);
}

#[test]
fn shorthands_say_whom_an_ipi_is_for() {
    let mut bench = Bench::new();
    assert_eq!(sent(bench.set(ICR_LOW, 0x8_4040)).shorthand, Shorthand::All);
    assert_eq!(
        sent(bench.set(ICR_LOW, 0xc_4040)).shorthand,
        Shorthand::Others
    );
    bench.put(ICR_LOW, 0x4_4040);
    assert_eq!(bench.take(), Some(0x40));
}

#[test]
fn sending_an_illegal_vector_is_logged_and_nothing_is_sent() {
    let mut bench = Bench::new();
    for command in [0x400f, 0x4100, 0x4_4005, 0x8_4003] {
        bench.put(ICR_LOW, command);
        assert_eq!(bench.errors(), 1 << 5, "{command:#x}");
        assert_eq!(bench.due(), None);
    }
    // An NMI's vector does not count.
    assert_eq!(
        sent(bench.set(ICR_LOW, 0x4400)).message.delivery_mode,
        DeliveryMode::Nmi
    );
    let mut bench = Bench::x2();
    assert_eq!(bench.wrmsr(0x83f, 0x0e), Ok(ApicAction::None));
    assert!(bench.wrmsr(0x828, 0).is_ok());
    assert_eq!(bench.rdmsr(0x828), Ok(1 << 5));
}

#[test]
fn the_self_ipi_register_requests_a_vector() {
    let mut bench = Bench::x2();
    assert_eq!(bench.wrmsr(0x83f, 0x99), Ok(ApicAction::None));
    assert_eq!(bench.take(), Some(0x99));
}

#[test]
fn an_nmi_to_oneself_is_a_signal() {
    let mut bench = Bench::new();
    bench.put(ICR_LOW, 0x4_4400);
    let mailbox = PostedInterrupts::new();
    assert_eq!(mailbox.drain(&mut bench.lapic).nmis(), 1);
    assert_eq!(mailbox.drain(&mut bench.lapic), Signals::NONE);
}

#[test]
fn the_delivery_status_is_idle() {
    let mut bench = Bench::new();
    sent(bench.set(ICR_LOW, 0xffff_f0fb));
    assert_eq!(bench.get(ICR_LOW), 0x000c_c0fb);
    let mut bench = Bench::x2();
    sent(bench.wrmsr(0x830, 0x0000_50fb).unwrap());
    assert_eq!(bench.rdmsr(0x830), Ok(0x0000_40fb));
}
