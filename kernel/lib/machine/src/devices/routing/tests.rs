//! Whom messages reach, by the manual's examples and against a model that asks each CPU.

use alloc::vec::Vec;

use arch::Vector;
use proptest::prelude::*;

use super::*;
use crate::TriggerMode;

const FLAT: u8 = 0xf;
const CLUSTER: u8 = 0;

fn message(
    destination: u32,
    destination_mode: DestinationMode,
    delivery_mode: DeliveryMode,
) -> InterruptMessage {
    InterruptMessage {
        destination,
        destination_mode,
        delivery_mode,
        vector: Vector(0x40),
        trigger_mode: TriggerMode::Edge,
    }
}

fn physical(destination: u32) -> InterruptMessage {
    message(destination, DestinationMode::Physical, DeliveryMode::Fixed)
}

fn logical(destination: u32) -> InterruptMessage {
    message(destination, DestinationMode::Logical, DeliveryMode::Fixed)
}

fn ipi(message: InterruptMessage) -> Ipi {
    Ipi {
        message,
        shorthand: Shorthand::None,
    }
}

fn table(routes: &[(u32, Route)]) -> RoutingTable {
    let ids: Vec<u32> = routes.iter().map(|route| route.0).collect();
    let table = RoutingTable::new(&ids).unwrap();
    for (index, route) in routes.iter().enumerate() {
        table.publish(index as u8, route.1);
    }
    table
}

fn members(set: VcpuSet) -> Vec<u8> {
    set.into_iter().collect()
}

fn xapic(ldr: u8, model: u8) -> Route {
    Route::new(ApicMode::Xapic, true, ldr, model)
}

fn x2apic() -> Route {
    Route::new(ApicMode::X2apic, true, 0, FLAT)
}

#[test]
fn a_physical_destination_is_an_apic_id() {
    for ids in [[0, 1, 2, 3], [6, 2, 9, 0]] {
        let routes = ids.map(|id| (id, xapic(0, FLAT)));
        let table = table(&routes);
        for (index, id) in ids.into_iter().enumerate() {
            assert_eq!(members(table.resolve(&physical(id))), [index as u8]);
        }
        assert!(table.resolve(&physical(7)).is_empty());
    }
}

#[test]
fn a_broadcast_reaches_all_in_either_destination_mode() {
    let table = table(&[
        (0, xapic(0, FLAT)),
        (1, x2apic()),
        (2, xapic(0x10, CLUSTER)),
    ]);
    for message in [physical(0xff), logical(0xff)] {
        assert_eq!(members(table.resolve(&message)), [0, 1, 2]);
    }
    for message in [physical(u32::MAX), logical(u32::MAX)] {
        assert_eq!(members(table.resolve_ipi(&ipi(message), 0)), [0, 1, 2]);
    }
}

#[test]
fn an_ipi_to_0xff_is_for_the_x2apic_with_that_id() {
    let routes: Vec<_> = (0..256).map(|id| (id, x2apic())).collect();
    let table = table(&routes);
    assert_eq!(members(table.resolve_ipi(&ipi(physical(0xff)), 0)), [255]);
    assert_eq!(table.resolve(&physical(0xff)).len(), 256);
}

#[test]
fn the_flat_model_is_a_mask() {
    let table = table(&[
        (0, xapic(0x01, FLAT)),
        (1, xapic(0x02, FLAT)),
        (2, xapic(0x84, FLAT)),
    ]);
    for (destination, wanted) in [
        (0x01, &[0][..]),
        (0x03, &[0, 1]),
        (0x80, &[2]),
        (0x86, &[1, 2]),
        (0x78, &[]),
    ] {
        assert_eq!(
            members(table.resolve(&logical(destination))),
            wanted,
            "{destination:#x}"
        );
    }
}

#[test]
fn the_cluster_model_is_a_cluster_and_a_mask() {
    let table = table(&[
        (0, xapic(0x11, CLUSTER)),
        (1, xapic(0x12, CLUSTER)),
        (2, xapic(0x21, CLUSTER)),
    ]);
    for (destination, wanted) in [
        (0x11, &[0][..]),
        (0x13, &[0, 1]),
        (0x2f, &[2]),
        (0x31, &[]),
        (0x14, &[]),
    ] {
        assert_eq!(
            members(table.resolve(&logical(destination))),
            wanted,
            "{destination:#x}"
        );
    }
}

#[test]
fn x2apic_clusters_derive_from_the_id() {
    let table = table(&[
        (0, x2apic()),
        (1, x2apic()),
        (0x12, x2apic()),
        (0x1f, x2apic()),
    ]);
    for (destination, wanted) in [
        (0x0000_0003, &[0, 1][..]),
        (0x0001_0004, &[2]),
        (0x0001_8004, &[2, 3]),
        (0x0001_0003, &[]),
        (0x0002_ffff, &[]),
    ] {
        let set = table.resolve_ipi(&ipi(logical(destination)), 0);
        assert_eq!(members(set), wanted, "{destination:#x}");
    }
}

#[test]
fn modes_can_be_mixed_while_a_system_starts() {
    let table = table(&[(0, x2apic()), (1, xapic(0, FLAT)), (2, Route::NONE)]);
    let start_up = message(1, DestinationMode::Physical, DeliveryMode::StartUp);
    assert_eq!(members(table.resolve_ipi(&ipi(start_up), 0)), [1]);
    assert!(table.resolve_ipi(&ipi(physical(2)), 0).is_empty());
}

#[test]
fn shorthands_are_taken_at_their_word() {
    let table = table(&[(0, x2apic()), (1, x2apic()), (2, x2apic())]);
    let all = Ipi {
        message: physical(0),
        shorthand: Shorthand::All,
    };
    let others = Ipi {
        message: physical(0),
        shorthand: Shorthand::Others,
    };
    assert_eq!(members(table.resolve_ipi(&all, 1)), [0, 1, 2]);
    assert_eq!(members(table.resolve_ipi(&others, 1)), [0, 2]);
}

#[test]
fn a_software_disabled_apic_takes_signals_and_no_vectors() {
    let disabled = Route::new(ApicMode::Xapic, false, 1, FLAT);
    let table = table(&[(0, disabled), (1, xapic(1, FLAT))]);
    assert!(table.resolve(&physical(0)).is_empty());
    assert_eq!(members(table.resolve(&logical(1))), [1]);
    for mode in [
        DeliveryMode::Nmi,
        DeliveryMode::Init,
        DeliveryMode::StartUp,
        DeliveryMode::ExtInt,
    ] {
        let message = message(0, DestinationMode::Physical, mode);
        assert_eq!(members(table.resolve(&message)), [0]);
    }
}

#[test]
fn lowest_priority_picks_one_cpu_for_a_vector_and_different_ones_for_different_vectors() {
    let routes: Vec<_> = (0..4).map(|id| (id, xapic(1 << id, FLAT))).collect();
    let table = table(&routes);
    let mut hits = [0; 4];
    for vector in 0x20..0xe0 {
        let message = InterruptMessage {
            vector: Vector(vector),
            ..message(0x0e, DestinationMode::Logical, DeliveryMode::LowestPriority)
        };
        let picked = members(table.resolve(&message));
        assert_eq!(picked.len(), 1);
        assert_eq!(members(table.resolve(&message)), picked);
        hits[usize::from(picked[0])] += 1;
    }
    assert_eq!(hits, [0, 64, 64, 64]);
    let nobody = message(0xf0, DestinationMode::Logical, DeliveryMode::LowestPriority);
    assert!(table.resolve(&nobody).is_empty());
}

#[test]
fn a_table_has_at_most_256_rows_and_ignores_others() {
    let ids: Vec<u32> = (0..257).collect();
    assert!(RoutingTable::new(&ids).is_none());
    let table = RoutingTable::new(&[0]).unwrap();
    table.publish(9, x2apic());
    assert!(table.resolve(&physical(0xff)).is_empty());
}

#[test]
fn a_set_gives_its_members_in_order() {
    let mut set = VcpuSet::EMPTY;
    for index in [200, 0, 63, 64, 255, 64] {
        set.insert(index);
    }
    assert_eq!(set.len(), 5);
    assert!(set.contains(63) && !set.contains(62));
    assert_eq!(members(set), [0, 63, 64, 200, 255]);
}

/// One CPU's own view: is this message for me? Told per mode, as the manual's sections are.
fn is_for_me(
    id: u32,
    x2apic: bool,
    ldr: u8,
    flat: bool,
    ipi: bool,
    message: &InterruptMessage,
) -> bool {
    let destination = message.destination;
    if destination == 0xffff_ffff || !ipi && destination == 0xff {
        return true;
    }
    match (message.destination_mode, x2apic) {
        (DestinationMode::Physical, true) => destination == id,
        (DestinationMode::Physical, false) => destination == id % 256,
        (DestinationMode::Logical, true) => {
            destination / 65536 == id / 16 && destination % 65536 / (1 << (id % 16)) % 2 == 1
        }
        (DestinationMode::Logical, false) if flat => u32::from(ldr) & destination != 0,
        (DestinationMode::Logical, false) => {
            destination < 256
                && destination / 16 == u32::from(ldr / 16)
                && u32::from(ldr % 16) & (destination % 16) != 0
        }
    }
}

proptest! {
    #[test]
    fn a_message_reaches_those_who_say_that_it_is_theirs(
        cpus in prop::collection::vec((any::<bool>(), any::<u8>(), any::<bool>(), 0u8..4), 1..40),
        shuffled in any::<bool>(),
        destination in prop_oneof![0u32..256, 0u32..0x4_0000, any::<u32>(), Just(0xff), Just(u32::MAX)],
        logical in any::<bool>(),
        from_cpu in any::<bool>(),
    ) {
        let id = |index: usize| (if shuffled { index * 7 + 3 } else { index }) as u32;
        let routes: Vec<_> = cpus
            .iter()
            .enumerate()
            .map(|(index, &(x2apic, ldr, flat, state))| {
                let mode = match (state, x2apic) {
                    (0, _) => ApicMode::Disabled,
                    (_, true) => ApicMode::X2apic,
                    (_, false) => ApicMode::Xapic,
                };
                let model = if flat { FLAT } else { CLUSTER };
                (id(index), Route::new(mode, state != 1, ldr, model))
            })
            .collect();
        let table = table(&routes);
        let mode = if logical { DestinationMode::Logical } else { DestinationMode::Physical };
        let message = message(destination, mode, DeliveryMode::Fixed);
        let set = if from_cpu {
            table.resolve_ipi(&ipi(message), 0)
        } else {
            table.resolve(&message)
        };
        for (index, &(x2apic, ldr, flat, state)) in cpus.iter().enumerate() {
            let wanted = state > 1 && is_for_me(id(index), x2apic, ldr, flat, from_cpu, &message);
            prop_assert_eq!(set.contains(index as u8), wanted, "CPU {}", index);
        }
    }
}
