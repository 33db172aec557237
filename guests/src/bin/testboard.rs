//! `testboard`: the devices that test kernels expect of an emulator's board, one after the other, and its end through
//! the exit port with the value 0x15.
//!
//! Without these devices (Plinth has them on `--test-devices` only) every case fails.

#![no_std]
#![no_main]

use plinth_guests::cpu::{inb, inl, inw, outb, outl, outw};
use plinth_guests::exceptions::{Frame, set_handler};
use plinth_guests::single::Single;
use plinth_guests::{Case, Report, StartInfo, guest, power, x86};

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
    report.case("the-dma-interface-reads-in-one-piece", dma);
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

/// The command line by a request in memory.
fn dma(case: &mut Case) {
    static BUFFER: Single<[u8; 16]> = Single::new([0xff; 16]);
    static REQUEST: Single<[u32; 4]> = Single::new([0; 4]);
    const SELECT_AND_READ: u32 = 0x15 << 16 | 0xa;
    case.equal("interfaces", u32::from(inb_of_entry(1)) & 2, 2);
    case.equal(
        "the first half of the signature",
        inl(0x514),
        u32::from_le_bytes(*b"QEMU"),
    );
    case.equal("the other half", inl(0x518), u32::from_le_bytes(*b" CFG"));
    let request = REQUEST.get();
    let words = [SELECT_AND_READ, 10, 0, BUFFER.get() as u64 as u32].map(u32::to_be);
    // SAFETY: one CPU; the device writes behind the compiler's back, and so all accesses are volatile.
    let (control, buffer) = unsafe {
        request.write_volatile(words);
        outl(0x514, 0);
        outl(0x518, (request as u64 as u32).to_be());
        let mut control = request.cast::<u32>().read_volatile();
        for _ in 0..1000 {
            if control == 0 {
                break;
            }
            control = request.cast::<u32>().read_volatile();
        }
        (control, BUFFER.get().read_volatile())
    };
    case.equal("the control word", control, 0);
    case.ensure(
        buffer[..11] == *b"a board\0\0\0\xff",
        "another command line",
    );
}

fn inb_of_entry(entry: u16) -> u8 {
    outw(0x510, entry);
    inb(0x511)
}

/// The sequencer's memory mode register, which every VGA has and which reads as all ones where there is none.
fn has_display() -> bool {
    outb(0x3c4, 4);
    inb(0x3c5) != 0xff
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
        let address = u32::from_le_bytes(read(0x13)) as usize as *const [u8; 8];
        case.ensure(!address.is_null(), "the command line is nowhere");
        // SAFETY: the loader has put it below 4 GiB, where the runtime maps all memory; nobody else uses it.
        let line = unsafe { address.read_volatile() };
        case.ensure(line == *b"a board\0", "another command line in memory");
        case.ensure(read(0x11) == *b"\x7fELF", "the kernel is no ELF file");
        let [kernel, start] = [0x07, 0x10].map(|entry| u32::from_le_bytes(read(entry)));
        case.ensure(
            kernel >= 1 << 20 && start >= kernel,
            "an impossible address of the kernel",
        );
        let no_graphic = u16::from_le_bytes(read(4));
        case.equal(
            "whether there is no display",
            no_graphic,
            u16::from(!has_display()),
        );
        let files = u32::from_be_bytes(read(0x19));
        case.ensure((1..100).contains(&files), "an impossible number of files");
    });
}
