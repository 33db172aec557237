//! `testboard`: the devices that test kernels expect of an emulator's board, one after the other, and its end through
//! the exit port with the value 0x15.
//!
//! Without these devices (Plinth has them on `--test-devices` only) every case fails.

#![no_std]
#![no_main]

use plinth_guests::cpu::{inb, inl, inw, outb, outl, outw};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::single::Single;
use plinth_guests::{Report, StartInfo, guest, power, x86};

guest!(main);

const EXIT: u16 = 0xf4;
/// What the run ends with; its status is twice this plus one.
const EXIT_VALUE: u32 = 0x15;
const PIC_VECTOR: u8 = 0x20;
/// An interrupt line that no device of the board drives.
const LINE: u8 = 5;
const MEMORY: usize = 0xff00_0000;

static INTERRUPTS: Single<u32> = Single::new(0);

fn interrupts() -> u32 {
    // SAFETY: one CPU; volatile, since a handler writes it.
    unsafe { INTERRUPTS.get().read_volatile() }
}

fn on_line(_: &mut Frame) {
    // SAFETY: one CPU, and handlers do not nest.
    unsafe { INTERRUPTS.get().write_volatile(interrupts() + 1) };
    outb(0x2000 + u16::from(LINE), 0);
    outb(0x20, 0x20);
}

fn main(report: &mut Report, _: StartInfo) {
    ports(report);
    firmware_configuration(report);
    report.case("an-interrupt-line-follows-its-port", |case| {
        for (port, value) in [
            (0x20, 0x11),
            (0x21, PIC_VECTOR),
            (0x21, 4),
            (0x21, 1),
            (0x21, !(1 << LINE)),
            (0xa1, 0xff),
        ] {
            outb(port, value);
        }
        set_handler(PIC_VECTOR + LINE, Some(on_line));
        for round in 1..=2 {
            outb(0x2000 + u16::from(LINE), 1);
            x86!("sti", "nop", "nop", "cli");
            case.equal("interrupts", interrupts(), round);
        }
    });
    report.case("the-test-memory-keeps-what-is-written", |case| {
        let at = |offset: usize| (MEMORY + offset) as *mut u32;
        for offset in [0, 0x8000, 0xfffc] {
            // SAFETY: the test memory lies there, and nothing else uses it.
            let read = unsafe {
                at(offset).write_volatile(0x1234_0000 + offset as u32);
                at(offset).read_volatile()
            };
            case.equal("the word", read, 0x1234_0000 + offset as u32);
        }
    });
    report.done();
    outl(EXIT, EXIT_VALUE);
    power::off()
}

fn ports(report: &mut Report) {
    report.case("the-scratch-ports-read-back-in-every-width", |case| {
        outl(0xe0, 0x8765_4321);
        case.equal("the doubleword", inl(0xe0), 0x8765_4321);
        case.equal("its upper word", inw(0xe2), 0x8765);
        outb(0xe1, 0x99);
        case.equal("the doubleword", inl(0xe0), 0x8765_9921);
        case.equal("the same by bytes", inb(0xe8), 0x21);
        // The page that is thrown out is the one of this address; a guest sees no difference.
        outl(0xe4, 0x10_0000);
    });
    report.case("the-debug-console-is-there", |case| {
        case.equal("its answer", inb(0xe9), 0xe9);
        for byte in *b"spoken through port 0xe9\n" {
            outb(0xe9, byte);
        }
    });
}

fn firmware_configuration(report: &mut Report) {
    fn read<const BYTES: usize>(entry: u16) -> [u8; BYTES] {
        outw(0x510, entry);
        [(); BYTES].map(|()| inb(0x511))
    }
    report.case("the-firmware-configuration-describes-the-machine", |case| {
        case.ensure(read(0) == *b"QEMU", "another signature");
        case.equal("interfaces", u32::from_le_bytes(read(1)) & 1, 1);
        case.equal("CPUs", u16::from_le_bytes(read(5)), 1);
        case.equal("CPUs at most", u16::from_le_bytes(read(15)), 1);
        let ram = u64::from_le_bytes(read(3));
        case.ensure(
            ram >= 1 << 20 && ram % 4096 == 0,
            "an impossible size of memory",
        );
        let length = u32::from_le_bytes(read(0x14));
        case.equal("bytes of the command line", length, 8);
        case.ensure(read(0x15) == *b"a board\0", "another command line");
        case.ensure(read(0x11) == *b"\x7fELF", "the kernel is no ELF file");
        let files = u32::from_be_bytes(read(0x19));
        case.ensure((1..100).contains(&files), "an impossible number of files");
    });
}
