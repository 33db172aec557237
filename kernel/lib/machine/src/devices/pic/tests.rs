//! The two chips as drivers set them up: edges and levels, priorities, ends of interrupts.

use super::*;
use Level::{Asserted, Deasserted};

/// Both chips initialised as Linux and DOS do it, vectors 0x30 and 0x38, everything unmasked.
fn usual() -> Pic {
    with_icw4(0x01, 0x01)
}

fn with_icw4(master: u8, slave: u8) -> Pic {
    let mut pic = Pic::new();
    for (port, words) in [
        (0x20, [0x11, 0x30, 0x04, master]),
        (0xa0, [0x11, 0x38, 0x02, slave]),
    ] {
        pic.write(port, words[0]);
        for word in &words[1..] {
            pic.write(port + 1, *word);
        }
    }
    pic
}

fn isr(pic: &mut Pic) -> (u8, u8) {
    pic.write(0x20, 0x0b);
    pic.write(0xa0, 0x0b);
    (pic.read(0x20), pic.read(0xa0))
}

#[test]
fn after_power_on_everything_is_masked() {
    let mut pic = Pic::new();
    pic.set_line(0, Asserted);
    assert!(!pic.is_asserted());
    assert_eq!((pic.read(0x21), pic.read(0xa1)), (0xff, 0xff));
}

#[test]
fn an_edge_is_one_interrupt() {
    let mut pic = usual();
    pic.set_line(4, Asserted);
    assert!(pic.is_asserted());
    assert_eq!(pic.acknowledge(), Vector(0x34));
    assert!(!pic.is_asserted());
    assert_eq!(isr(&mut pic), (0x10, 0));
    pic.write(0x20, 0x20);
    assert!(
        !pic.is_asserted(),
        "the line is high, but there was no new edge"
    );
    pic.set_line(4, Deasserted);
    pic.set_line(4, Asserted);
    assert!(pic.is_asserted());
}

#[test]
fn a_level_interrupts_again_until_it_is_gone() {
    let mut pic = usual();
    pic.write_elcr(1, 0x02);
    pic.set_line(9, Asserted);
    assert_eq!(pic.acknowledge(), Vector(0x39));
    assert!(!pic.is_asserted());
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert!(pic.is_asserted());
    pic.set_line(9, Deasserted);
    assert!(!pic.is_asserted());
}

#[test]
fn a_slave_interrupt_is_in_service_at_both_chips() {
    let mut pic = usual();
    pic.set_line(12, Asserted);
    assert_eq!(pic.acknowledge(), Vector(0x3c));
    assert_eq!(isr(&mut pic), (0x04, 0x10));
    pic.set_line(1, Asserted);
    assert_eq!(
        pic.acknowledge(),
        Vector(0x31),
        "input 1 goes before the cascade"
    );
    pic.set_line(3, Asserted);
    assert!(!pic.is_asserted(), "input 3 comes after it");
}

#[test]
fn lower_inputs_go_first_and_block_later_ones_until_their_end() {
    let mut pic = usual();
    pic.set_line(5, Asserted);
    pic.set_line(3, Asserted);
    assert_eq!(pic.acknowledge(), Vector(0x33));
    assert!(!pic.is_asserted());
    pic.set_line(0, Asserted);
    assert_eq!(pic.acknowledge(), Vector(0x30));
    pic.write(0x20, 0x20);
    assert_eq!(
        isr(&mut pic).0,
        0x08,
        "the end is that of the most urgent one"
    );
    pic.write(0x20, 0x63);
    assert_eq!(pic.acknowledge(), Vector(0x35));
}

#[test]
fn a_request_that_vanishes_before_its_acknowledgement_is_a_spurious_one() {
    let mut pic = usual();
    pic.set_line(4, Asserted);
    pic.set_line(4, Deasserted);
    assert!(!pic.is_asserted());
    assert_eq!(pic.acknowledge(), Vector(0x37));
    assert_eq!(isr(&mut pic), (0, 0));
}

#[test]
fn a_request_masked_before_its_acknowledgement_is_a_spurious_one() {
    let mut pic = usual();
    pic.set_line(4, Asserted);
    pic.write(0x21, 0x10);
    assert_eq!(pic.acknowledge(), Vector(0x37));
    pic.write(0x21, 0);
    assert_eq!(pic.acknowledge(), Vector(0x34), "the edge was only hidden");
}

#[test]
fn masks_hide_requests_and_read_back() {
    let mut pic = usual();
    pic.write(0x21, 0xfb);
    pic.write(0xa1, 0xef);
    pic.set_line(4, Asserted);
    assert!(!pic.is_asserted());
    pic.set_line(12, Asserted);
    assert!(pic.is_asserted());
    assert_eq!((pic.read(0x21), pic.read(0xa1)), (0xfb, 0xef));
}

#[test]
fn irr_shows_requests_and_isr_what_is_in_service() {
    let mut pic = usual();
    pic.set_line(6, Asserted);
    pic.write(0x20, 0x0a);
    assert_eq!(pic.read(0x20), 0x40);
    pic.acknowledge();
    assert_eq!(pic.read(0x20), 0);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0x40);
}

#[test]
fn a_poll_is_an_acknowledgement_by_reading() {
    let mut pic = usual();
    pic.set_line(5, Asserted);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x85);
    assert!(!pic.is_asserted());
    assert_eq!(isr(&mut pic).0, 0x20);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20) & 0x80, 0);
}

#[test]
fn rotation_on_end_puts_the_ended_input_last() {
    let mut pic = usual();
    pic.set_line(3, Asserted);
    pic.acknowledge();
    pic.write(0x20, 0xa0);
    pic.set_line(3, Deasserted);
    pic.set_line(3, Asserted);
    pic.set_line(4, Asserted);
    assert_eq!(pic.acknowledge(), Vector(0x34));
    pic.write(0x20, 0x64);
    assert_eq!(pic.acknowledge(), Vector(0x33));
}

#[test]
fn the_priority_can_be_set_outright() {
    let mut pic = usual();
    pic.write(0x20, 0xc5);
    for irq in [0, 5, 6] {
        pic.set_line(irq, Asserted);
    }
    assert_eq!(pic.acknowledge(), Vector(0x36));
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), Vector(0x30));
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), Vector(0x35));
}

#[test]
fn automatic_end_leaves_nothing_in_service_and_may_rotate() {
    let mut pic = with_icw4(0x03, 0x01);
    pic.set_line(1, Asserted);
    pic.acknowledge();
    assert_eq!(isr(&mut pic).0, 0);
    pic.write(0x20, 0x80);
    for _ in 0..2 {
        pic.set_line(1, Deasserted);
        pic.set_line(3, Deasserted);
        pic.set_line(1, Asserted);
        pic.set_line(3, Asserted);
    }
    assert_eq!(pic.acknowledge(), Vector(0x31));
    pic.set_line(1, Deasserted);
    pic.set_line(1, Asserted);
    assert_eq!(pic.acknowledge(), Vector(0x33));
    assert_eq!(pic.acknowledge(), Vector(0x31));
}

#[test]
fn special_mask_mode_lets_less_urgent_inputs_interrupt_a_masked_one() {
    let mut pic = usual();
    pic.set_line(2 + 1, Asserted);
    pic.acknowledge();
    pic.set_line(6, Asserted);
    assert!(!pic.is_asserted());
    pic.write(0x21, 0x08);
    assert!(!pic.is_asserted());
    pic.write(0x20, 0x68);
    assert!(pic.is_asserted());
    assert_eq!(pic.acknowledge(), Vector(0x36));
    pic.write(0x20, 0x20);
    assert_eq!(
        isr(&mut pic).0,
        0x08,
        "an end without a number passes by the masked one"
    );
    pic.write(0x20, 0x48);
    pic.write(0x20, 0x20);
    assert_eq!(isr(&mut pic).0, 0);
}

#[test]
fn in_special_fully_nested_mode_the_slave_in_service_may_ask_again() {
    let mut normal = usual();
    let mut special = with_icw4(0x11, 0x01);
    for pic in [&mut normal, &mut special] {
        pic.set_line(12, Asserted);
        pic.acknowledge();
        pic.set_line(9, Asserted);
        pic.set_line(5, Asserted);
    }
    assert!(!normal.is_asserted());
    assert!(special.is_asserted());
    assert_eq!(special.acknowledge(), Vector(0x39));
    assert!(
        !special.is_asserted(),
        "input 5 is still less urgent than the cascade"
    );
}

#[test]
fn elcr_keeps_the_inputs_that_must_be_edges() {
    let mut pic = Pic::new();
    pic.write_elcr(0, 0xff);
    pic.write_elcr(1, 0xff);
    assert_eq!((pic.read_elcr(0), pic.read_elcr(1)), (0xf8, 0xde));
}

#[test]
fn initialisation_forgets_requests_masks_and_service() {
    let mut pic = usual();
    pic.set_line(4, Asserted);
    pic.set_line(5, Asserted);
    pic.acknowledge();
    pic.write(0x21, 0xff);
    pic.write(0x20, 0x13);
    assert!(!pic.is_asserted());
    pic.write(0x21, 0x40);
    pic.write(0x21, 0x01);
    assert_eq!(pic.read(0x21), 0);
    assert_eq!(isr(&mut pic).0, 0);
    assert!(!pic.is_asserted());
    pic.set_line(6, Asserted);
    assert_eq!(
        pic.acknowledge(),
        Vector(0x46),
        "single mode skips the third word"
    );
}
