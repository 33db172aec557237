//! Calls as guests make them: INT has pushed flags and return address, and the stub's VMCALL has exited.

use alloc::vec::Vec;

use arch::{Gpr, SegmentName, Width};
use machine::Display;
use machine::bios::install;
use machine::layout::MachineLayout;

use super::{After, serve};
use crate::cpu::Cpu;
use crate::testing::{FakeCpu, FakeMachine};

const STACK: u64 = 0x7000;
const CARRY: u16 = 1;
const ZERO: u16 = 0x40;

struct Bench {
    cpu: FakeCpu,
    machine: FakeMachine,
}

impl Bench {
    fn new(display: Display) -> Self {
        let machine = FakeMachine::new(32 << 20);
        let layout = MachineLayout::new(32 << 20, 1);
        install(&layout, display, &machine.memory).unwrap();
        let mut cpu = FakeCpu::real_mode();
        for name in [SegmentName::Ss, SegmentName::Ds, SegmentName::Es] {
            let mut segment = cpu.segment(name);
            (segment.selector, segment.base) = (0, 0);
            cpu.set_segment(name, segment);
        }
        let mut cs = cpu.segment(SegmentName::Cs);
        (cs.selector, cs.base) = (0xf000, 0xf_0000);
        cpu.set_segment(SegmentName::Cs, cs);
        cpu.set_gpr(Gpr::Rsp, STACK);
        Self { cpu, machine }
    }

    /// INT with these registers, as far as behind the stub's VMCALL.
    fn int(&mut self, vector: u8, registers: &[(Gpr, u64)]) -> After {
        for &(register, value) in registers {
            self.cpu.set_gpr(register, value);
        }
        let offset = self.machine.memory.get_u16(4 * u64::from(vector));
        self.cpu.set_rip(offset.into());
        self.machine.memory.put(STACK + 4, &[0, 0]);
        serve(&mut self.cpu, &mut self.machine).unwrap()
    }

    fn ax(&self) -> u16 {
        self.cpu.gpr(Gpr::Rax) as u16
    }

    fn get(&self, register: Gpr) -> u64 {
        self.cpu.gpr(register)
    }

    fn flags(&self) -> u16 {
        self.machine.memory.get_u16(STACK + 4)
    }

    /// The text of a row of the screen, without blanks at its end.
    fn row(&self, row: u64) -> Vec<u8> {
        let cells: [u8; 160] = self.machine.memory.get(0xb_8000 + 160 * row);
        let text: Vec<u8> = cells.chunks(2).map(|cell| cell[0]).collect();
        text.trim_ascii_end().to_vec()
    }

    fn teletype(&mut self, text: &[u8]) {
        for &byte in text {
            self.int(0x10, &[(Gpr::Rax, 0x0e00 | u64::from(byte))]);
        }
    }

    fn scan(&mut self, codes: &[u32]) {
        self.machine.port_script.remove(&0x64);
        for &code in codes {
            self.machine.script_port(0x64, &[1, 0]);
            self.machine.script_port(0x60, &[code]);
            self.int(0x09, &[]);
        }
        self.machine.port_script.remove(&0x64);
        self.machine.script_port(0x64, &[0; 100]);
    }
}

#[test]
fn a_vmcall_elsewhere_or_in_protected_mode_is_no_call_of_the_bios() {
    let mut bench = Bench::new(Display::Vga);
    bench.cpu.set_rip(0x1000);
    assert_eq!(serve(&mut bench.cpu, &mut bench.machine), None);
    let mut cpu = FakeCpu::protected_mode();
    cpu.set_rip(0xe040);
    assert_eq!(serve(&mut cpu, &mut bench.machine), None);
}

#[test]
fn a_teletype_writes_wraps_and_scrolls() {
    let mut bench = Bench::new(Display::Vga);
    bench.teletype(b"one\r\ntwo\x08!");
    assert_eq!(
        (bench.row(0), bench.row(1)),
        (b"one".to_vec(), b"tw!".to_vec())
    );
    let crtc: Vec<u32> = bench
        .machine
        .port_writes
        .iter()
        .map(|write| write.2)
        .collect();
    assert_eq!(crtc[crtc.len() - 2..], [0x000e, 0x530f], "the cursor at 83");
    bench.teletype(&[b'x'; 78]);
    assert_eq!(bench.row(2), b"x", "behind column 80");
    bench.teletype(&[b'\n'; 23]);
    assert_eq!(bench.row(0), [&b"tw!"[..], &[b'x'; 77]].concat());
    bench.int(0x10, &[(Gpr::Rax, 0x0300), (Gpr::Rbx, 0)]);
    assert_eq!(bench.get(Gpr::Rdx) as u16, 0x1801);
}

#[test]
fn characters_have_the_colours_and_places_that_are_wanted() {
    let mut bench = Bench::new(Display::Vga);
    bench.int(
        0x10,
        &[(Gpr::Rax, 0x0200), (Gpr::Rbx, 0), (Gpr::Rdx, 0x0305)],
    );
    bench.int(0x10, &[(Gpr::Rax, 0x0941), (Gpr::Rbx, 0x1e), (Gpr::Rcx, 3)]);
    let at = 0xb_8000 + 2 * (3 * 80 + 5);
    assert_eq!(bench.machine.memory.get::<6>(at), *b"A\x1eA\x1eA\x1e");
    bench.int(0x10, &[(Gpr::Rax, 0x0800), (Gpr::Rbx, 0)]);
    assert_eq!(bench.ax(), 0x1e41);
    bench.machine.memory.put(0x9000, b"text");
    let string = [
        (Gpr::Rax, 0x1301),
        (Gpr::Rbx, 0x4f),
        (Gpr::Rcx, 4),
        (Gpr::Rdx, 0x0a00),
        (Gpr::Rbp, 0x9000),
    ];
    bench.int(0x10, &string);
    assert_eq!(bench.row(10), b"text");
    bench.int(0x10, &[(Gpr::Rax, 0x0003)]);
    assert_eq!(bench.row(10), b"", "a new mode clears the screen");
}

#[test]
fn a_long_string_is_written_in_pieces_and_leaves_the_cursor_alone() {
    let mut bench = Bench::new(Display::Vga);
    let string = [
        (Gpr::Rax, 0x1300),
        (Gpr::Rbx, 0x07),
        (Gpr::Rcx, 600),
        (Gpr::Rdx, 0x0200),
        (Gpr::Rbp, 0x9000),
    ];
    bench.machine.memory.put(0x9000, &[b'y'; 600]);
    let stub = u16::from_le_bytes(bench.machine.memory.get(0x40));
    assert_eq!(bench.int(0x10, &string), After::At(stub));
    assert_eq!(bench.int(0x10, &string), After::At(stub));
    assert_eq!(bench.int(0x10, &string), After::Return);
    assert_eq!(bench.row(8), [b'y'; 80]);
    assert_eq!(bench.row(9).len(), 600 - 7 * 80);
    bench.int(0x10, &[(Gpr::Rax, 0x0300), (Gpr::Rbx, 0)]);
    assert_eq!(bench.get(Gpr::Rdx) as u16, 0, "the cursor was at home");
}

#[test]
fn a_window_scrolls_in_both_directions_and_no_further() {
    let mut bench = Bench::new(Display::Vga);
    bench.teletype(b"aaaa\r\nbbbb\r\ncccc");
    let window = |function: u64| {
        [
            (Gpr::Rax, function),
            (Gpr::Rbx, 0),
            (Gpr::Rcx, 1),
            (Gpr::Rdx, 0x0202),
        ]
    };
    bench.int(0x10, &window(0x0601));
    assert_eq!(
        [0, 1, 2].map(|row| bench.row(row)),
        [&b"abba"[..], b"bccb", b"c  c"]
    );
    bench.int(0x10, &window(0x0701));
    assert_eq!(
        [0, 1, 2].map(|row| bench.row(row)),
        [&b"a  a"[..], b"bbbb", b"cccc"]
    );
    bench.int(0x10, &window(0x0600));
    assert_eq!(bench.row(1), b"b  b");
    bench.int(
        0x10,
        &[(Gpr::Rax, 0x06ff), (Gpr::Rcx, 0xffff), (Gpr::Rdx, 0xffff)],
    );
    assert_eq!(bench.row(1), b"b  b", "an impossible window");
}

#[test]
fn without_a_display_text_waits_until_the_serial_port_takes_it() {
    let mut bench = Bench::new(Display::Absent);
    let count = |bench: &Bench| {
        let writes = bench.machine.port_writes.iter();
        writes.filter(|write| write.0 == 0x3f8).count()
    };
    let stub = u16::from_le_bytes(bench.machine.memory.get(0x40));
    bench.machine.script_port(0x3fd, &[0, 0, 0x60]);
    let teletype = [(Gpr::Rax, 0x0e00 | u64::from(b'a'))];
    for (after, said) in [
        (After::At(stub), 0),
        (After::At(stub), 0),
        (After::Return, 1),
    ] {
        assert_eq!(bench.int(0x10, &teletype), after);
        assert_eq!(count(&bench), said);
    }
    // No more at a time than the port takes when it is full.
    bench.machine.memory.put(0x9000, &[b'y'; 20]);
    let string = [
        (Gpr::Rax, 0x1300),
        (Gpr::Rbx, 0x07),
        (Gpr::Rcx, 20),
        (Gpr::Rdx, 0x0200),
        (Gpr::Rbp, 0x9000),
    ];
    bench.machine.script_port(0x3fd, &[0x60, 0, 0x60]);
    for (after, said) in [
        (After::At(stub), 17),
        (After::At(stub), 17),
        (After::Return, 21),
    ] {
        assert_eq!(bench.int(0x10, &string), after);
        assert_eq!(count(&bench), said);
    }
}

#[test]
fn without_a_display_text_and_keys_go_by_the_serial_port() {
    let mut bench = Bench::new(Display::Absent);
    bench.teletype(b"Hi");
    let said: Vec<u32> = bench
        .machine
        .port_writes
        .iter()
        .filter(|write| write.0 == 0x3f8)
        .map(|write| write.2)
        .collect();
    assert_eq!(said, [u32::from(b'H'), u32::from(b'i')]);
    // A character with its colours, and the same again to move on, is one; with a move of the cursor it is another.
    let count = |bench: &Bench| {
        let writes = bench.machine.port_writes.iter();
        writes.filter(|write| write.0 == 0x3f8).count()
    };
    let colours = [(Gpr::Rax, 0x0958), (Gpr::Rbx, 7), (Gpr::Rcx, 1)];
    bench.int(0x10, &colours);
    bench.teletype(b"X");
    assert_eq!(count(&bench), 3);
    bench.int(0x10, &colours);
    bench.int(0x10, &[(Gpr::Rax, 0x0200), (Gpr::Rbx, 0), (Gpr::Rdx, 9)]);
    bench.teletype(b"X");
    assert_eq!(count(&bench), 5);
    bench.machine.script_port(0x3fd, &[1, 1, 0, 0]);
    bench.machine.script_port(0x3f8, &[u32::from(b'A'), 0x7f]);
    bench.int(0x16, &[(Gpr::Rax, 0)]);
    assert_eq!(bench.ax(), 0x1e41);
    bench.int(0x16, &[(Gpr::Rax, 0)]);
    assert_eq!(bench.ax(), 0x0e08);
}

#[test]
fn keys_are_characters_with_their_modifiers_and_come_in_order() {
    let mut bench = Bench::new(Display::Vga);
    bench.machine.script_port(0x64, &[0]);
    bench.int(0x16, &[(Gpr::Rax, 0x0100)]);
    assert_eq!(bench.flags() & ZERO, ZERO, "no key");
    // a; Shift-a; Ctrl-b; arrow up; Enter.
    bench.scan(&[0x1e, 0x9e, 0x2a, 0x1e, 0x9e, 0xaa, 0x1d, 0x30, 0xb0, 0x9d]);
    bench.scan(&[0xe0, 0x48, 0xe0, 0xc8, 0x1c, 0x9c]);
    bench.int(0x16, &[(Gpr::Rax, 0x0100)]);
    assert_eq!(
        (bench.flags() & ZERO, bench.ax()),
        (0, 0x1e61),
        "still there"
    );
    for key in [0x1e61, 0x1e41, 0x3002, 0x4800, 0x1c0d] {
        assert_eq!(bench.int(0x16, &[(Gpr::Rax, 0)]), After::Return);
        assert_eq!(bench.ax(), key);
    }
    let before = bench.get(Gpr::Rax);
    assert_eq!(bench.int(0x16, &[(Gpr::Rax, 0x1000)]), After::At(0xe400));
    assert_eq!(
        bench.get(Gpr::Rax),
        0x1000,
        "to be asked again: {before:#x}"
    );
}

#[test]
fn keys_that_are_typed_too_fast_wait_in_the_keyboard() {
    let mut bench = Bench::new(Display::Vga);
    // Twenty keys wait.
    bench.machine.script_port(0x64, &[1; 21]);
    bench.machine.script_port(0x60, &[2; 20]);
    bench.int(0x09, &[]);
    assert_eq!(bench.machine.port_script[&0x60].len(), 5, "15 are taken");
    bench.machine.port_script.remove(&0x64);
    bench
        .machine
        .script_port(0x64, &[&[1; 30][..], &[0; 100]].concat());
    for _ in 0..20 {
        assert_eq!(bench.int(0x16, &[(Gpr::Rax, 0)]), After::Return);
        assert_eq!(bench.ax(), 0x0231);
    }
    assert!(bench.machine.port_script[&0x60].is_empty());
}

#[test]
fn the_memory_map_is_told_entry_by_entry() {
    let mut bench = Bench::new(Display::Vga);
    let mut next = 0;
    let mut kinds = Vec::new();
    loop {
        let registers = [
            (Gpr::Rax, 0xe820),
            (Gpr::Rbx, next),
            (Gpr::Rcx, 24),
            (Gpr::Rdx, 0x534d_4150),
            (Gpr::Rdi, 0x9000),
        ];
        bench.int(0x15, &registers);
        assert_eq!(bench.flags() & CARRY, 0);
        assert_eq!(
            (bench.get(Gpr::Rax), bench.get(Gpr::Rcx)),
            (0x534d_4150, 20)
        );
        kinds.push((
            bench.machine.memory.get_u32(0x9000),
            bench.machine.memory.get_u32(0x9010),
        ));
        next = bench.get(Gpr::Rbx);
        if next == 0 {
            break;
        }
    }
    let wanted = [
        (0, 1),
        (0x9_fc00, 2),
        (0xe_0000, 2),
        (0x10_0000, 1),
        (0xe000_0000, 2),
    ];
    assert_eq!(kinds, wanted);
    bench.int(0x15, &[(Gpr::Rax, 0xe820), (Gpr::Rbx, 5)]);
    assert_eq!(bench.flags() & CARRY, CARRY);
    bench.int(0x15, &[(Gpr::Rax, 0xe801)]);
    assert_eq!(
        (bench.ax(), bench.get(Gpr::Rbx) as u16),
        (15 << 10, 16 << 4)
    );
    bench.int(0x15, &[(Gpr::Rax, 0xffff_e881), (Gpr::Rdx, 0xffff_ffff)]);
    assert_eq!(
        (bench.get(Gpr::Rax), bench.get(Gpr::Rdx)),
        (15 << 10, 16 << 4)
    );
    bench.int(0x15, &[(Gpr::Rax, 0x8800)]);
    assert_eq!(bench.ax(), 31 << 10);
    bench.int(0x12, &[]);
    assert_eq!(bench.ax(), 639);
}

#[test]
fn the_timer_counts_and_calls_its_hook() {
    let mut bench = Bench::new(Display::Vga);
    assert_eq!(bench.int(0x08, &[]), After::At(0xe410));
    assert_eq!(bench.machine.port_writes, [(0x20, Width::Byte, 0x20)]);
    bench.int(0x1a, &[(Gpr::Rax, 0)]);
    assert_eq!((bench.get(Gpr::Rdx) as u16, bench.ax() & 0xff), (1, 0));
    bench.int(
        0x1a,
        &[(Gpr::Rax, 0x0100), (Gpr::Rcx, 0x18), (Gpr::Rdx, 0xaf)],
    );
    bench.int(0x08, &[]);
    bench.int(0x1a, &[(Gpr::Rax, 0)]);
    assert_eq!(
        (bench.get(Gpr::Rdx) as u16, bench.ax() & 0xff),
        (0, 1),
        "midnight"
    );
}

#[test]
fn a_wait_goes_on_until_its_time_and_then_returns() {
    let mut bench = Bench::new(Display::Vga);
    bench.machine.now_ns = 5_000_000;
    let asked = [(Gpr::Rax, 0x8600), (Gpr::Rcx, 1), (Gpr::Rdx, 0x86a0)];
    assert_eq!(bench.int(0x15, &asked), After::At(0xe428));
    assert_eq!(bench.flags() & CARRY, 0);
    let mut ask_again = |now_ns| {
        bench.machine.now_ns = now_ns;
        bench.cpu.set_rip(0xe3fc);
        serve(&mut bench.cpu, &mut bench.machine).unwrap()
    };
    assert_eq!(ask_again(5_000_000), After::At(0xe428));
    assert_eq!(ask_again(104_999_999), After::At(0xe428));
    assert_eq!(ask_again(105_008_000), After::Return);
    // Nothing waits any more: whoever gets here now is let go.
    assert_eq!(ask_again(0), After::Return);
}

#[test]
fn of_two_waits_at_once_the_second_is_refused() {
    let mut bench = Bench::new(Display::Vga);
    let asked = [(Gpr::Rax, 0x8600), (Gpr::Rcx, 1), (Gpr::Rdx, 0)];
    bench.int(0x15, &asked);
    assert_eq!(bench.int(0x15, &asked), After::Return);
    assert_eq!((bench.flags() & CARRY, bench.ax() >> 8), (CARRY, 0x83));
}

#[test]
fn blocks_move_above_1_mib_and_back_with_address_line_20_open() {
    let mut bench = Bench::new(Display::Vga);
    let descriptor = |base: u32| {
        let [low, middle, high, top] = base.to_le_bytes();
        [0xff, 0xff, low, middle, high, 0x93, 0, top]
    };
    bench.machine.memory.put(0x5_0000, b"up and away!");
    bench.machine.memory.put(0x6010, &descriptor(0x5_0000));
    bench.machine.memory.put(0x6018, &descriptor(0x0110_0000));
    let asked = [(Gpr::Rax, 0x8700), (Gpr::Rcx, 6), (Gpr::Rsi, 0x6000)];
    // The gate is closed: it is opened, and closed again.
    bench.machine.script_port(0x92, &[0, 0, 2]);
    bench.int(0x15, &asked);
    assert_eq!(bench.machine.memory.get(0x110_0000), *b"up and away!");
    let (flags, status) = (bench.flags(), bench.ax() >> 8);
    assert_eq!((flags & CARRY, flags & ZERO, status), (0, ZERO, 0));
    assert_eq!(
        bench.machine.port_writes,
        [(0x92, Width::Byte, 2), (0x92, Width::Byte, 0)]
    );
    // More than the limit of a segment has room for, and more than there may be.
    bench.machine.memory.put(0x6018, &[9, 0]);
    for words in [6, 0x8001] {
        bench.int(0x15, &[asked[0], (Gpr::Rcx, words), asked[2]]);
        let (flags, status) = (bench.flags(), bench.ax() >> 8);
        assert_eq!((flags & CARRY, flags & ZERO, status), (CARRY, 0, 2));
    }
}

#[test]
fn address_line_20_is_switched_by_port_0x92() {
    let mut bench = Bench::new(Display::Vga);
    bench.machine.script_port(0x92, &[2, 0, 0]);
    bench.int(0x15, &[(Gpr::Rax, 0x2400)]);
    assert_eq!((bench.flags() & CARRY, bench.ax()), (0, 0));
    bench.int(0x15, &[(Gpr::Rax, 0x2401)]);
    bench.int(0x15, &[(Gpr::Rax, 0x2402)]);
    assert_eq!((bench.flags() & CARRY, bench.ax()), (0, 0));
    assert_eq!(
        bench.machine.port_writes,
        [(0x92, Width::Byte, 0), (0x92, Width::Byte, 2)]
    );
    bench.int(0x15, &[(Gpr::Rax, 0x2403)]);
    assert_eq!((bench.ax(), bench.get(Gpr::Rbx) as u16), (3, 3));
    bench.int(0x15, &[(Gpr::Rax, 0x2404)]);
    assert_eq!((bench.flags() & CARRY, bench.ax() >> 8), (CARRY, 0x86));
}

#[test]
fn the_configuration_and_the_extended_data_area_are_where_they_are_said_to_be() {
    let mut bench = Bench::new(Display::Vga);
    bench.int(0x15, &[(Gpr::Rax, 0xc000)]);
    let at = bench.cpu.segment(SegmentName::Es).base + bench.get(Gpr::Rbx);
    assert_eq!((bench.flags() & CARRY, bench.ax()), (0, 0));
    assert_eq!(bench.machine.memory.get(at), [8, 0, 0xfc]);
    bench.int(0x15, &[(Gpr::Rax, 0xc100)]);
    let segment = bench.cpu.segment(SegmentName::Es);
    assert_eq!((segment.selector, segment.base), (0x9fc0, 0x9_fc00));
}

#[test]
fn there_are_no_disks_and_nothing_to_boot() {
    let mut bench = Bench::new(Display::Vga);
    bench.int(0x13, &[(Gpr::Rax, 0x0201), (Gpr::Rdx, 0x80)]);
    assert_eq!((bench.flags() & CARRY, bench.ax() >> 8), (CARRY, 1));
    bench.int(0x19, &[]);
    assert_eq!(bench.row(1), b"There is nothing else to boot.");
    let last = bench.machine.port_writes.last();
    assert_eq!(last, Some(&(0x604, Width::Word, 0x2000)));
}

#[test]
fn a_stack_or_buffer_outside_of_ram_does_no_harm() {
    let mut bench = Bench::new(Display::Vga);
    for name in [SegmentName::Ss, SegmentName::Es] {
        let mut segment = bench.cpu.segment(name);
        segment.base = 0xffff_ffff_ffff_0000;
        bench.cpu.set_segment(name, segment);
    }
    for vector in 0..=0xffu8 {
        for function in 0..=0xffu64 {
            bench.cpu.set_rip(0xe000 + 4 * u64::from(vector));
            for register in [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rdi, Gpr::Rbp] {
                bench.cpu.set_gpr(register, 0xffff_ffff_ffff_ffff);
            }
            bench.cpu.set_gpr(Gpr::Rax, function << 8 | function);
            assert!(serve(&mut bench.cpu, &mut bench.machine).is_some());
        }
    }
}
