//! The devices together: who answers where, which line goes where, and whatever a guest may do to them.

use super::*;
use crate::bus::{self, Port};
use crate::devices::FirmwareFiles;
use crate::layout::MachineLayout;
use crate::{DestinationMode, Request};
use proptest::prelude::*;

struct Bench {
    board: Board,
    fx: Effects,
    now: u64,
}

impl Bench {
    fn new(test_board: TestBoard, display: Display) -> Self {
        let layout = MachineLayout::new(64 << 20, 1);
        let board = Board::new(BoardConfig {
            layout,
            epoch_s: 0,
            display,
            test_board,
            handover: Handover::PowerOn,
        });
        Self {
            board,
            fx: Effects::new(),
            now: 0,
        }
    }

    fn plain() -> Self {
        Self::new(TestBoard::Absent, Display::Absent)
    }

    fn read(&mut self, port: u16, width: Width) -> u32 {
        self.board.read_port(port, width, self.now, &mut self.fx)
    }

    fn write(&mut self, port: u16, width: Width, value: u32) {
        self.board
            .write_port(port, width, value, self.now, &mut self.fx);
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.write(port, Width::Byte, u32::from(value));
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.read(port, Width::Byte) as u8
    }

    fn write_ioapic(&mut self, register: u8, value: u32) {
        let at = |offset: u64| GuestPhys::new(0xfec0_0000 + offset);
        self.board
            .write_mmio(at(0), Width::Dword, u64::from(register), &mut self.fx);
        self.board
            .write_mmio(at(0x10), Width::Dword, u64::from(value), &mut self.fx);
    }
}

#[test]
fn an_unassigned_port_reads_as_all_ones_at_its_width() {
    let mut bench = Bench::plain();
    for port in [
        0x80,
        0x1f0,
        0x2f8,
        0x3f0,
        0x604 + 0x100,
        0xcfa,
        0x2000,
        0x5658,
        0xffff,
    ] {
        assert_eq!(bench.read(port, Width::Byte), 0xff);
        bench.write(port, Width::Byte, 0);
    }
    assert_eq!(bench.read(0x2f8, Width::Word), 0xffff);
    assert_eq!(bench.read(0xfffe, Width::Word), 0xffff);
    assert_eq!(bench.read(0x1f0, Width::Dword), 0xffff_ffff);
    assert_eq!(bench.fx.request, None);
}

#[test]
fn a_wide_access_reaches_each_device_that_it_covers() {
    let mut bench = Bench::plain();
    bench.outb(0x3ff, 0x5a);
    assert_eq!(
        bench.read(0x3fe, Width::Dword),
        0xffff_5ab0,
        "MSR, scratch, nobody, nobody"
    );
    bench.write(0x3fe, Width::Word, 0x3300);
    assert_eq!(bench.inb(0x3ff), 0x33);
    bench.write(0x20, Width::Word, 0xabu32 << 8);
    assert_eq!(bench.inb(0x21), 0xab);
    // Across the end of the port space: the last port and port 0.
    assert_eq!(bench.read(0xffff, Width::Dword), 0xffff_ffff);
}

#[test]
fn characters_leave_by_the_serial_port_in_order() {
    let mut bench = Bench::plain();
    for byte in *b"ring 0" {
        bench.outb(0x3f8, byte);
    }
    assert_eq!(bench.fx.output.as_slice(), b"ring 0");
}

#[test]
fn console_input_interrupts_at_both_controllers() {
    let mut bench = Bench::plain();
    bench.write_ioapic(0x10 + 2 * 4, 0x44);
    bench.outb(0x21, 0xef);
    bench.outb(0x3fc, 0x08);
    bench.outb(0x3f9, 0x01);
    assert_eq!(bench.board.receive(b"x", 0, &mut bench.fx), 1);
    assert!(bench.board.pic_asserted());
    assert_eq!(bench.fx.messages.len(), 1);
    assert_eq!(bench.fx.messages[0].vector, Vector(0x44));
    assert_eq!(
        bench.fx.messages[0].destination_mode,
        DestinationMode::Physical
    );
    assert_eq!(bench.board.acknowledge_pic(), Vector(0x0c));
    assert_eq!(bench.inb(0x3f8), b'x');
    assert!(!bench.board.pic_asserted());
}

#[test]
fn the_timer_is_input_0_of_the_8259_and_pin_2_of_the_io_apic() {
    let mut bench = Bench::plain();
    bench.write_ioapic(0x10 + 2 * 2, 0x30);
    bench.outb(0x21, 0xfe);
    bench.outb(0x43, 0x34);
    bench.outb(0x40, 0xa9);
    assert_eq!(bench.board.next_deadline_ns(), None);
    bench.outb(0x40, 0x04);
    // 1193 ticks and one to take the count: a millisecond.
    let due = bench.board.next_deadline_ns().unwrap();
    assert!((1_000_000..1_002_000).contains(&due), "{due}");
    bench.board.expire(due - 1, &mut bench.fx);
    assert!(!bench.board.pic_asserted());
    bench.board.expire(due, &mut bench.fx);
    assert!(bench.board.pic_asserted());
    assert_eq!(bench.board.acknowledge_pic(), Vector(0x08));
    assert_eq!(bench.fx.messages[0].vector, Vector(0x30));
    assert!(
        bench
            .board
            .next_deadline_ns()
            .is_some_and(|next| next > due)
    );
}

#[test]
fn the_next_deadline_is_the_earliest_of_all_devices() {
    let mut bench = Bench::plain();
    bench.outb(0x70, 0x0b);
    bench.outb(0x71, 0x12);
    assert_eq!(bench.board.next_deadline_ns(), Some(1_000_000_000));
    bench.outb(0x43, 0x30);
    bench.outb(0x40, 0xff);
    bench.outb(0x40, 0xff);
    assert!(
        bench
            .board
            .next_deadline_ns()
            .is_some_and(|due| due < 60_000_000)
    );
    bench.board.expire(60_000_000, &mut bench.fx);
    assert_eq!(bench.board.next_deadline_ns(), Some(1_000_000_000));
}

#[test]
fn the_ways_to_switch_off_and_to_reset_work() {
    let request = |port, width, value| {
        let mut bench = Bench::plain();
        bench.write(port, width, value);
        bench.fx.request
    };
    assert_eq!(request(0x604, Width::Word, 0x2000), Some(Request::PowerOff));
    assert_eq!(request(0xcf9, Width::Byte, 0x0e), Some(Request::Reset));
    assert_eq!(request(0x64, Width::Byte, 0xfe), Some(Request::Reset));
    assert_eq!(request(0x92, Width::Byte, 0x03), Some(Request::Reset));
    assert_eq!(request(0xf4, Width::Byte, 0x00), None, "no test devices");
    assert_eq!(
        request(0xcf8, Width::Dword, 0x8000_0e00),
        None,
        "the PCI address"
    );
}

#[test]
fn configuration_space_is_reached_by_ports_and_by_memory() {
    let mut bench = Bench::plain();
    bench.write(0xcf8, Width::Dword, 0x8000_0000);
    assert_eq!(bench.read(0xcf8, Width::Dword), 0x8000_0000);
    assert_eq!(bench.read(0xcf8, Width::Byte), 0xff);
    let by_port = bench.read(0xcfc, Width::Dword);
    let by_memory = bench
        .board
        .read_mmio(GuestPhys::new(0xe000_0000), Width::Dword);
    assert_eq!(u64::from(by_port), by_memory);
    assert_eq!(bench.read(0xcfe, Width::Word), by_port >> 16);
    assert_eq!(bench.read(0xcff, Width::Byte), by_port >> 24);
    assert_eq!(bench.read(0xcff, Width::Word), 0xff00 | by_port >> 24);
}

#[test]
fn memory_without_a_device_reads_as_all_ones() {
    let mut bench = Bench::plain();
    for gpa in [0xfed0_0000, 0xc000_0000, 0xfec0_1000, 0xdead_0000_0000] {
        assert_eq!(
            bench.board.read_mmio(GuestPhys::new(gpa), Width::Dword),
            0xffff_ffff
        );
        bench
            .board
            .write_mmio(GuestPhys::new(gpa), Width::Dword, 0, &mut bench.fx);
    }
}

#[test]
fn the_power_button_raises_the_sci() {
    let mut bench = Bench::plain();
    bench.write(0x602, Width::Word, 0x0100);
    bench.outb(0x4d1, 0x02);
    bench.outb(0xa1, 0xfd);
    bench.outb(0x21, 0xfb);
    bench.board.press_power_button(&mut bench.fx);
    assert!(bench.board.pic_asserted());
    assert_eq!(bench.board.acknowledge_pic(), Vector(0x71));
    assert_eq!(bench.read(0x600, Width::Word), 0x0100);
}

#[test]
fn the_pm_timer_reads_as_a_doubleword() {
    let mut bench = Bench::plain();
    bench.now = 1_000_000_000;
    assert_eq!(bench.read(0x608, Width::Dword), 3_579_545);
}

#[test]
fn test_devices_answer_where_they_are_wanted() {
    let mut bench = Bench::new(TestBoard::Present(FirmwareFiles::default()), Display::Vga);
    bench.write(0xe0, Width::Dword, 0x1234_5678);
    assert_eq!(bench.read(0xe0, Width::Dword), 0x1234_5678);
    assert_eq!(bench.inb(0xe9), 0xe9);
    bench.write(0x510, Width::Word, 5);
    assert_eq!(
        [bench.inb(0x511), bench.inb(0x511), bench.inb(0x511)],
        [1, 0, 0]
    );
    bench.outb(0x21, 0xdf);
    bench.write(0x2005, Width::Dword, 1);
    assert!(bench.board.pic_asserted());
    let memory = GuestPhys::new(0xff00_0010);
    bench
        .board
        .write_mmio(memory, Width::Word, 0xabcd, &mut bench.fx);
    assert_eq!(bench.board.read_mmio(memory, Width::Dword), 0xabcd);
    bench.write(0xf4, Width::Dword, 0x10);
    assert_eq!(bench.fx.request, Some(Request::Exit(0x21)));
    let mut plain = Bench::plain();
    assert_eq!(plain.board.read_mmio(memory, Width::Byte), 0xff);
}

#[test]
fn with_a_display_console_input_goes_to_the_keyboard() {
    let mut bench = Bench::new(TestBoard::Absent, Display::Vga);
    bench.outb(0x21, 0xfd);
    assert_eq!(bench.board.receive(b"a\x1b", 0, &mut bench.fx), 2);
    assert!(bench.board.pic_asserted());
    assert_eq!((bench.inb(0x60), bench.inb(0x60)), (0x1e, 0x9e));
    let due = bench.board.next_deadline_ns().unwrap();
    bench.board.expire(due, &mut bench.fx);
    assert_eq!(bench.inb(0x60), 0x01, "Escape");
    assert_eq!(bench.inb(0x3fd) & 1, 0, "nothing at the serial port");
    assert!(bench.board.view().is_some() && Bench::plain().board.view().is_none());
    bench.write(0x3d4, Width::Word, 0x200a);
    assert_eq!(bench.board.view().unwrap().cursor(), None);
    let mut plain = Bench::plain();
    assert_eq!((plain.inb(0x3da), plain.board.view()), (0xff, None));
}

#[test]
fn after_a_bios_the_timer_ticks_at_vector_8_and_keys_come_at_9() {
    let config = BoardConfig {
        layout: MachineLayout::new(64 << 20, 1),
        epoch_s: 0,
        display: Display::Vga,
        test_board: TestBoard::Absent,
        handover: Handover::Bios,
    };
    let mut board = Board::new(config);
    let mut fx = Effects::new();
    let due = board.next_deadline_ns().unwrap();
    assert!((54_000_000..56_000_000).contains(&due), "{due}");
    board.expire(due, &mut fx);
    assert_eq!(board.acknowledge_pic(), Vector(8));
    board.write_port(0x20, Width::Byte, 0x20, due, &mut fx);
    board.receive(b"a", due, &mut fx);
    assert_eq!(board.acknowledge_pic(), Vector(9));
}

#[test]
fn a_reset_makes_everything_new() {
    let mut bench = Bench::plain();
    bench.outb(0x21, 0x00);
    bench.outb(0x43, 0x34);
    bench.outb(0x40, 1);
    bench.outb(0x40, 1);
    bench.board.reset();
    assert_eq!(bench.inb(0x21), 0xff);
    assert_eq!(bench.board.next_deadline_ns(), None);
    assert!(!bench.board.pic_asserted());
}

/// One thing that a guest, or the world outside, does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Read(u16, Width),
    Write(u16, Width, u32),
    ReadMemory(u64, Width),
    WriteMemory(u64, Width, u64),
    Input(u8),
    PowerButton,
    Acknowledge,
    EndOfInterrupt(u8),
    /// To the next deadline, or past it by this much.
    Wait(u64),
}

fn ports() -> impl Strategy<Value = u16> {
    let assigned: alloc::vec::Vec<u16> = (0..0x2020)
        .filter(|&port| bus::owner(port) != Port::Unassigned)
        .collect();
    prop_oneof![8 => proptest::sample::select(assigned), 1 => any::<u16>()]
}

fn widths() -> impl Strategy<Value = Width> {
    prop_oneof![6 => Just(Width::Byte), 1 => Just(Width::Word), 1 => Just(Width::Dword)]
}

fn addresses() -> impl Strategy<Value = u64> {
    prop_oneof![
        0xfec0_0000u64..0xfec0_0050,
        0xfeff_fff8u64..0xff01_0008,
        0xe000_0000u64..0xe000_2000,
        0xe000_0000u64..0xf000_0000,
        any::<u64>(),
    ]
}

fn deeds() -> impl Strategy<Value = Deed> {
    let memory_widths = prop_oneof![widths(), Just(Width::Qword)];
    let values = prop_oneof![0u32..0x100, any::<u32>()];
    prop_oneof![
        6 => (ports(), widths()).prop_map(|(port, width)| Deed::Read(port, width)),
        12 => (ports(), widths(), values)
            .prop_map(|(port, width, value)| Deed::Write(port, width, value)),
        1 => (addresses(), memory_widths).prop_map(|(gpa, width)| Deed::ReadMemory(gpa, width)),
        2 => (addresses(), widths(), any::<u64>())
            .prop_map(|(gpa, width, value)| Deed::WriteMemory(gpa, width, value)),
        1 => any::<u8>().prop_map(Deed::Input),
        1 => Just(Deed::PowerButton),
        1 => Just(Deed::Acknowledge),
        1 => any::<u8>().prop_map(Deed::EndOfInterrupt),
        4 => prop_oneof![Just(0), 0u64..2_000_000_000, any::<u64>().prop_map(|ns| ns >> 8)]
            .prop_map(Deed::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_deed_of_a_guest_upsets_the_board(
        deeds in proptest::collection::vec(deeds(), 1..100),
    ) {
        let mut bench = Bench::new(TestBoard::Present(FirmwareFiles::default()), Display::Vga);
        for deed in deeds {
            let Bench { board, fx, now } = &mut bench;
            match deed {
                Deed::Read(port, width) => {
                    let value = board.read_port(port, width, *now, fx);
                    assert_eq!(value, width.truncate(value.into()) as u32);
                }
                Deed::Write(port, width, value) => {
                    board.write_port(port, width, value, *now, fx);
                }
                Deed::ReadMemory(gpa, width) => {
                    let value = board.read_mmio(GuestPhys::new(gpa), width);
                    assert_eq!(value, width.truncate(value));
                }
                Deed::WriteMemory(gpa, width, value) => {
                    board.write_mmio(GuestPhys::new(gpa), width, value, fx);
                }
                Deed::Input(byte) => {
                    board.receive(&[byte], *now, fx);
                }
                Deed::PowerButton => board.press_power_button(fx),
                Deed::Acknowledge => {
                    board.acknowledge_pic();
                }
                Deed::EndOfInterrupt(vector) => board.end_of_interrupt(Vector(vector), fx),
                Deed::Wait(past_ns) => {
                    let due = board.next_deadline_ns().unwrap_or(*now);
                    *now = due.max(*now).saturating_add(past_ns);
                    board.expire(*now, fx);
                    let next = board.next_deadline_ns();
                    assert!(next.is_none_or(|next| next > *now), "{next:?} at {now}");
                }
            }
            assert!(!bench.fx.has_line_changes(), "a line change that nobody saw");
            bench.fx.messages.clear();
            bench.fx.output.clear();
        }
    }
}
