//! The mailbox, by one thread and by several.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
extern crate std;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::*;

fn message(delivery_mode: DeliveryMode, vector: u8) -> InterruptMessage {
    InterruptMessage {
        destination: 0,
        destination_mode: DestinationMode::Physical,
        delivery_mode,
        vector: Vector(vector),
        trigger_mode: TriggerMode::Edge,
    }
}

#[test]
fn the_first_message_kicks_and_those_that_follow_do_not() {
    let mailbox = PostedInterrupts::new();
    let mut bench = Bench::new();
    assert!(!mailbox.is_outstanding());
    assert_eq!(
        mailbox.post(&message(DeliveryMode::Fixed, 0x40)),
        Kick::Needed
    );
    assert_eq!(
        mailbox.post(&message(DeliveryMode::LowestPriority, 0x41)),
        Kick::NotNeeded
    );
    assert_eq!(
        mailbox.post(&message(DeliveryMode::Nmi, 2)),
        Kick::NotNeeded
    );
    assert!(mailbox.is_outstanding());
    assert_eq!(mailbox.drain(&mut bench.lapic).nmis(), 1);
    assert!(!mailbox.is_outstanding());
    assert_eq!(bench.vectors(IRR), [0x40, 0x41]);
    assert_eq!(mailbox.post_timer(), Kick::Needed);
    assert!(mailbox.drain(&mut bench.lapic).timer());
}

#[test]
fn every_vector_arrives_with_its_latest_trigger_mode() {
    let mailbox = PostedInterrupts::new();
    for round in 0..2 {
        let mut bench = Bench::new();
        let is_level = |vector: u8| u32::from(vector) % 3 == round;
        for vector in 16..=255 {
            let mode = if is_level(vector) {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            };
            let _ = mailbox.post_vector(Vector(vector), mode);
        }
        assert_eq!(mailbox.drain(&mut bench.lapic), Signals::NONE);
        assert_eq!(bench.vectors(IRR), (16..=255).collect::<Vec<_>>());
        let levels = (16..=255).filter(|&vector| is_level(vector));
        assert_eq!(bench.vectors(TMR), levels.collect::<Vec<_>>());
    }
}

#[test]
fn illegal_vectors_are_the_receivers_error() {
    let mailbox = PostedInterrupts::new();
    let mut bench = Bench::new();
    let _ = mailbox.post(&message(DeliveryMode::Fixed, 3));
    assert_eq!(mailbox.drain(&mut bench.lapic), Signals::NONE);
    assert_eq!(bench.vectors(IRR), []);
    assert_eq!(bench.errors(), 1 << 6);
}

#[test]
fn the_8259s_wire_keeps_its_level_and_ext_int_messages_are_taken_once() {
    let mailbox = PostedInterrupts::new();
    let mut bench = Bench::new();
    bench.put(LVT_LINT0, 0x700);
    assert_eq!(mailbox.set_intr(Level::Asserted), Kick::Needed);
    assert_eq!(mailbox.drain(&mut bench.lapic), Signals::NONE);
    assert_eq!(bench.lapic.pending_interrupt(), Some(PendingInterrupt::Pic));
    let _ = mailbox.post(&message(DeliveryMode::Nmi, 2));
    assert_eq!(mailbox.drain(&mut bench.lapic).nmis(), 1);
    assert_eq!(bench.lapic.pending_interrupt(), Some(PendingInterrupt::Pic));
    assert_eq!(mailbox.set_intr(Level::Deasserted), Kick::Needed);
    assert_eq!(mailbox.drain(&mut bench.lapic), Signals::NONE);
    assert_eq!(bench.lapic.pending_interrupt(), None);

    bench.put(LVT_LINT0, MASK);
    let _ = mailbox.post(&message(DeliveryMode::ExtInt, 0));
    assert_eq!(mailbox.drain(&mut bench.lapic), Signals::NONE);
    assert_eq!(bench.lapic.pending_interrupt(), Some(PendingInterrupt::Pic));
    bench.lapic.pic_acknowledged();
    assert_eq!(bench.lapic.pending_interrupt(), None);
}

#[test]
fn init_wipes_an_earlier_start_up_and_the_first_of_two_start_ups_counts() {
    let mailbox = PostedInterrupts::new();
    let mut bench = Bench::new();
    for mode in [(DeliveryMode::StartUp, 7), (DeliveryMode::Init, 0)] {
        let _ = mailbox.post(&message(mode.0, mode.1));
    }
    let signals = mailbox.drain(&mut bench.lapic);
    assert_eq!((signals.init(), signals.start_up()), (true, None));
    for mode in [
        (DeliveryMode::Init, 0),
        (DeliveryMode::StartUp, 8),
        (DeliveryMode::StartUp, 9),
    ] {
        let _ = mailbox.post(&message(mode.0, mode.1));
    }
    let signals = mailbox.drain(&mut bench.lapic);
    assert_eq!(
        (signals.init(), signals.start_up()),
        (true, Some(Vector(8)))
    );
}

#[test]
fn smis_go_nowhere() {
    let mailbox = PostedInterrupts::new();
    assert_eq!(
        mailbox.post(&message(DeliveryMode::Smi, 0)),
        Kick::NotNeeded
    );
    assert!(!mailbox.is_outstanding());
}

/// Posters send every vector once; the owner sleeps until it is kicked. If a kick were missing, the owner would
/// sleep for ever with work outstanding, and the test would hang on it rather than pass.
#[test]
fn no_message_is_lost_and_no_sleeper_is_forgotten_between_threads() {
    for _ in 0..50 {
        let mailbox = PostedInterrupts::new();
        let kicked = AtomicBool::new(false);
        let posters_left = AtomicUsize::new(3);
        let mut bench = Bench::new();
        let mut seen = BTreeSet::new();
        let mut nmis = 0;
        thread::scope(|scope| {
            for poster in 0..3u8 {
                let (mailbox, kicked, posters_left) = (&mailbox, &kicked, &posters_left);
                scope.spawn(move || {
                    for vector in (16..=255u8).filter(|vector| vector % 3 == poster) {
                        let mode = if vector % 2 == 0 {
                            TriggerMode::Level
                        } else {
                            TriggerMode::Edge
                        };
                        if mailbox.post_vector(Vector(vector), mode) == Kick::Needed {
                            kicked.store(true, SeqCst);
                        }
                    }
                    if mailbox.post(&message(DeliveryMode::Nmi, 2)) == Kick::Needed {
                        kicked.store(true, SeqCst);
                    }
                    posters_left.fetch_sub(1, SeqCst);
                });
            }
            loop {
                let done = posters_left.load(SeqCst) == 0;
                if kicked.swap(false, SeqCst) {
                    nmis += usize::from(mailbox.drain(&mut bench.lapic).nmis());
                    for vector in bench.vectors(IRR) {
                        assert_eq!(bench.vectors(TMR).contains(&vector), vector % 2 == 0);
                        seen.insert(vector);
                    }
                } else if done {
                    break;
                }
                thread::yield_now();
            }
        });
        assert!(!mailbox.is_outstanding(), "a kick is missing");
        assert_eq!(seen.len(), 240);
        assert!((1..=3).contains(&nmis));
    }
}

#[test]
fn a_kick_is_not_swallowed_by_the_answer_of_the_8259a() {
    let mailbox = PostedInterrupts::new();
    let mut bench = Bench::new();
    assert_eq!(mailbox.set_intr(Level::Asserted), Kick::Needed);
    let _ = mailbox.drain(&mut bench.lapic);
    // The owner has asked the 8259A itself, and its wire falls by that.
    mailbox.answer_intr(Level::Deasserted);
    assert!(!mailbox.is_outstanding(), "there is no news in it");
    assert_eq!(
        mailbox.post(&message(DeliveryMode::Fixed, 0x40)),
        Kick::Needed
    );
    let _ = mailbox.drain(&mut bench.lapic);
    // Its next rise is news.
    assert_eq!(mailbox.set_intr(Level::Asserted), Kick::Needed);
}

#[test]
fn a_nudge_kicks_once_and_leaves_nothing() {
    let mailbox = PostedInterrupts::new();
    let mut bench = Bench::new();
    assert_eq!(mailbox.nudge(), Kick::Needed);
    assert_eq!(mailbox.nudge(), Kick::NotNeeded);
    assert!(mailbox.is_outstanding());
    assert!(mailbox.drain(&mut bench.lapic).is_empty());
    assert!(!mailbox.is_outstanding());
}

#[test]
fn a_vector_is_level_triggered_if_it_was_last_sent_so() {
    let mailbox = PostedInterrupts::new();
    for (mode, is_level) in [(TriggerMode::Level, true), (TriggerMode::Edge, false)] {
        let _ = mailbox.post_vector(Vector(0x61), mode);
        assert_eq!(mailbox.is_level(Vector(0x61)), is_level);
    }
    assert!(!mailbox.is_level(Vector(0x62)));
}

#[test]
fn edges_that_came_past_the_mailbox_are_requested() {
    let mut bench = Bench::new();
    bench.lapic.accept_edges([1 << 0x31, 0, 0, 1 << 63]);
    assert_eq!(bench.vectors(IRR), [0x31, 0xff]);
    assert_eq!(bench.vectors(TMR), []);
}
