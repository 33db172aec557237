//! Ports: every one of them, in every width, and in strings.

use plinth_guests::places::{IO_APIC, LOCAL_APIC, NOTHING};
use plinth_guests::random::Random;
use plinth_guests::{cpu, probe, x86};

/// Ports by which a guest ends itself or its machine: the keyboard controller's reset line, port 92H, the exit
/// device of test boards, power management, the reset control register.
const DOORS: [core::ops::RangeInclusive<u16>; 6] = [
    0x64..=0x64,
    0x92..=0x92,
    0xf4..=0xf7,
    0x500..=0x6ff,
    0xcf9..=0xcf9,
    0xb000..=0xb0ff,
];

/// How many random accesses of each kind.
const ROUNDS: u64 = 4000;

const BUFFER_BYTES: usize = 1024;

#[repr(C, align(4096))]
struct Buffer([u8; BUFFER_BYTES]);

/// Whether an access of so many bytes touches a door.
pub(crate) fn is_door(port: u16, bytes: u16) -> bool {
    (0..bytes).any(|offset| {
        let port = port.wrapping_add(offset);
        DOORS.iter().any(|door| door.contains(&port))
    })
}

/// A write of one of the three widths.
fn write(port: u16, width: u64, value: u64) {
    match width {
        0 => cpu::outb(port, value as u8),
        1 => cpu::outw(port, value as u16),
        _ => cpu::outl(port, value as u32),
    }
}

fn read(port: u16, width: u64) {
    match width {
        0 => {
            let _ = cpu::inb(port);
        }
        1 => {
            let _ = cpu::inw(port);
        }
        _ => {
            let _ = cpu::inl(port);
        }
    }
}

/// Below this all widths are tried on every port: higher up nobody answers on most boards, and they are tried where
/// one block of 16 ports meets the next.
const LOW: u16 = 0x1000;

/// All ports, then random ones, then strings.
pub(crate) fn sweep(random: &mut Random) {
    for port in 0..=u16::MAX {
        let widths = if port < LOW || port % 16 >= 14 { 3 } else { 1 };
        for width in 0..widths {
            read(port, width);
            if !is_door(port, 1 << width) {
                write(port, width, random.value());
            }
        }
    }
    for _ in 0..ROUNDS {
        let port = if random.below(2) == 0 {
            random.below(u64::from(LOW)) as u16
        } else {
            random.bits() as u16
        };
        let width = random.below(3);
        read(port, width);
        if !is_door(port, 1 << width) {
            write(port, width, random.value());
        }
    }
    let mut buffer = Buffer([0x5a; BUFFER_BYTES]);
    for _ in 0..ROUNDS / 8 {
        let port = random.below(0x1000) as u16;
        let mut address = buffer.0.as_mut_ptr() as u64 + 512;
        if random.below(4) == 0 {
            address = random.one_of(&[
                LOCAL_APIC + 0x80,
                IO_APIC,
                NOTHING,
                0x7fff_ffff_f000,
                1 << 63,
            ]);
        }
        strings(port, address, random);
    }
}

/// A string instruction on one port; whatever it raises is right.
fn strings(port: u16, address: u64, random: &mut Random) {
    let count = random.below(64);
    let down = random.below(2) == 1;
    let kind = random.below(6);
    if kind >= 3 && is_door(port, 4) {
        return;
    }
    let _ = probe(|| {
        if down {
            x86!("std");
        }
        match kind {
            0 => {
                x86!("rep insb", in("dx") port, inout("rdi") address => _, inout("rcx") count => _)
            }
            1 => {
                x86!("rep insw", in("dx") port, inout("rdi") address => _, inout("rcx") count => _)
            }
            2 => {
                x86!("rep insd", in("dx") port, inout("rdi") address => _, inout("rcx") count => _)
            }
            3 => {
                x86!("rep outsb", in("dx") port, inout("rsi") address => _, inout("rcx") count => _)
            }
            4 => {
                x86!("rep outsw", in("dx") port, inout("rsi") address => _, inout("rcx") count => _)
            }
            _ => {
                x86!("rep outsd", in("dx") port, inout("rsi") address => _, inout("rcx") count => _)
            }
        }
    });
    x86!("cld");
}

/// Random values at the doors, until one of them is the way out.
pub(crate) fn doors() {
    let mut random = Random::new(7);
    loop {
        let door = &DOORS[random.below(DOORS.len() as u64) as usize];
        let port = door.start() + random.below(16) as u16;
        write(port, random.below(3), random.value());
    }
}
