//! [`I8042`]: a keyboard controller, with a [`Keyboard`] in machines that have a screen.
//!
//! It passes its self test, keeps its command byte, pulses the reset line and moves the A20 gate. What the
//! keyboard sends it passes on, byte by byte, in scan code set 1 where the command byte asks for that. Without a
//! keyboard a byte sent to it times out, as on a PC. There is no mouse port. FADT and DSDT announce the
//! controller where there is a keyboard; elsewhere operating systems with ACPI do not look for one.
//!
//! Written after the keyboard controller section of IBM's Personal System/2 technical reference.

use bitflags::bitflags;

use super::keyboard::{Keyboard, to_set_1};
use crate::{A20Gate, Effects, Gsi, Level, OutputLine, Request};

bitflags! {
    /// The status port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Status: u8 {
        const OUTPUT_FULL = 1 << 0;
        const SYSTEM = 1 << 2;
        const COMMAND = 1 << 3;
        const NOT_INHIBITED = 1 << 4;
        const TIMEOUT = 1 << 6;
    }

    /// The command byte, byte 0 of the controller's memory.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct CommandByte: u8 {
        const KEYBOARD_INTERRUPT = 1 << 0;
        const SYSTEM = 1 << 2;
        const KEYBOARD_DISABLED = 1 << 4;
        const TRANSLATE = 1 << 6;
        const _ = !0;
    }
}

/// Output port: not in reset, A20 open.
const OUTPUT_PORT: u8 = 0x03;
const NOT_RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;
const SELF_TEST_PASSED: u8 = 0x55;
const INTERFACE_GOOD: u8 = 0x00;
/// What the controller says for a keyboard that does not answer.
const RESEND: u8 = 0xfe;
/// What a keyboard sends before the code of a released key.
const RELEASED: u8 = 0xf0;
/// Bit 7 of a code in set 1: the key was released.
const RELEASED_SET_1: u8 = 0x80;

/// Where the next byte at the data port goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Keyboard,
    Memory(u8),
    OutputPort,
    OutputBuffer,
    Nowhere,
}

/// The keyboard controller.
#[derive(Debug)]
pub struct I8042 {
    status: Status,
    memory: [u8; 32],
    output: u8,
    output_port: u8,
    target: Target,
    line: OutputLine,
    keyboard: Option<Keyboard>,
    /// Whether the keyboard has said that the code which follows is of a released key.
    released: bool,
}

impl I8042 {
    /// A controller after firmware has tested it and what is plugged in, with its interrupt on this line.
    pub const fn new(gsi: Gsi, keyboard: Option<Keyboard>) -> Self {
        let mut command = CommandByte::SYSTEM.union(CommandByte::TRANSLATE);
        if keyboard.is_some() {
            command = command.union(CommandByte::KEYBOARD_INTERRUPT);
        }
        let mut memory = [0; 32];
        memory[0] = command.bits();
        Self {
            status: Status::SYSTEM.union(Status::NOT_INHIBITED),
            memory,
            output: 0,
            output_port: OUTPUT_PORT,
            target: Target::Keyboard,
            line: OutputLine::new(gsi, Level::Deasserted),
            keyboard,
            released: false,
        }
    }

    /// Bytes typed at the keyboard; returns how many it took, `None` if there is no keyboard.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64, fx: &mut Effects) -> Option<usize> {
        let taken = self.keyboard.as_mut()?.receive(bytes, now_ns);
        self.transfer(fx);
        Some(taken)
    }

    /// How many typed bytes would be taken, if there is a keyboard.
    pub fn room(&self) -> Option<usize> {
        self.keyboard.as_ref().map(Keyboard::room)
    }

    /// When [`expire`](Self::expire) is due.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.keyboard.as_ref()?.next_deadline_ns()
    }

    /// Does what is due on the keyboard.
    pub fn expire(&mut self, now_ns: u64, fx: &mut Effects) {
        if let Some(keyboard) = &mut self.keyboard {
            keyboard.expire(now_ns);
            self.transfer(fx);
        }
    }

    /// Reads the data port, 0x60.
    pub fn read_data(&mut self, fx: &mut Effects) -> u8 {
        let byte = self.output;
        self.status -= Status::OUTPUT_FULL | Status::TIMEOUT;
        self.update_line(fx);
        self.transfer(fx);
        byte
    }

    /// Reads the status port, 0x64.
    pub const fn read_status(&self) -> u8 {
        self.status.bits()
    }

    /// Writes the data port, 0x60.
    pub fn write_data(&mut self, value: u8, fx: &mut Effects) {
        self.status -= Status::COMMAND;
        match core::mem::replace(&mut self.target, Target::Keyboard) {
            Target::Keyboard => match &mut self.keyboard {
                Some(keyboard) => {
                    // A byte for the keyboard also switches it on.
                    keyboard.command(value);
                    self.released = false;
                    self.change_command_byte(|byte| byte - CommandByte::KEYBOARD_DISABLED);
                }
                None => {
                    self.answer(RESEND);
                    self.status |= Status::TIMEOUT;
                }
            },
            Target::Memory(index) => {
                if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
            Target::OutputPort => self.set_output_port(value, fx),
            Target::OutputBuffer => self.answer(value),
            Target::Nowhere => {}
        }
        self.update_line(fx);
        self.transfer(fx);
    }

    /// Writes the command port, 0x64.
    pub fn write_command(&mut self, value: u8, fx: &mut Effects) {
        self.status |= Status::COMMAND;
        self.target = Target::Keyboard;
        match value {
            0x20..0x40 => {
                let byte = self.memory.get(usize::from(value & 0x1f)).copied();
                self.answer(byte.unwrap_or(0));
            }
            0x60..0x80 => self.target = Target::Memory(value & 0x1f),
            0xaa => {
                self.status |= Status::SYSTEM;
                self.answer(SELF_TEST_PASSED);
            }
            0xab => self.answer(INTERFACE_GOOD),
            0xad => self.change_command_byte(|byte| byte | CommandByte::KEYBOARD_DISABLED),
            0xae => self.change_command_byte(|byte| byte - CommandByte::KEYBOARD_DISABLED),
            // The input port: keyboard not locked.
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.output_port),
            0xd1 => self.target = Target::OutputPort,
            0xd2 => self.target = Target::OutputBuffer,
            // To the mouse, or from it: the byte goes nowhere.
            0xd3 | 0xd4 => self.target = Target::Nowhere,
            0xdd => self.set_output_port(self.output_port & !A20, fx),
            0xdf => self.set_output_port(self.output_port | A20, fx),
            // Pulses those lines of the output port whose bits are 0; line 0 is the reset.
            0xf0..=0xff if value & NOT_RESET == 0 => fx.ask(Request::Reset),
            _ => {}
        }
        self.update_line(fx);
        self.transfer(fx);
    }

    /// Takes the keyboard's next byte, if there is one, it may send, and the last one was read.
    fn transfer(&mut self, fx: &mut Effects) {
        let command = self.command_byte();
        if command.contains(CommandByte::KEYBOARD_DISABLED) {
            return;
        }
        while !self.status.contains(Status::OUTPUT_FULL)
            && let Some(byte) = self.keyboard.as_mut().and_then(Keyboard::send)
        {
            if !command.contains(CommandByte::TRANSLATE) {
                self.answer(byte);
            } else if byte == RELEASED {
                self.released = true;
            } else {
                let released = core::mem::take(&mut self.released);
                self.answer(to_set_1(byte) | if released { RELEASED_SET_1 } else { 0 });
            }
        }
        self.update_line(fx);
    }

    fn set_output_port(&mut self, value: u8, fx: &mut Effects) {
        if value & NOT_RESET == 0 {
            fx.ask(Request::Reset);
        }
        if (value ^ self.output_port) & A20 != 0 {
            fx.ask(Request::AddressLine20(A20Gate::open_if(value & A20 != 0)));
        }
        self.output_port = value;
    }

    /// The gate of address line 20 was moved, here or elsewhere.
    pub const fn set_a20(&mut self, gate: A20Gate) {
        self.output_port = self.output_port & !A20 | if gate.is_open() { A20 } else { 0 };
    }

    fn command_byte(&self) -> CommandByte {
        CommandByte::from_bits_retain(self.memory.first().copied().unwrap_or(0))
    }

    fn change_command_byte(&mut self, change: impl FnOnce(CommandByte) -> CommandByte) {
        let changed = change(self.command_byte());
        if let Some(byte) = self.memory.first_mut() {
            *byte = changed.bits();
        }
    }

    fn answer(&mut self, byte: u8) {
        self.output = byte;
        self.status |= Status::OUTPUT_FULL;
    }

    fn update_line(&mut self, fx: &mut Effects) {
        let wanted = self
            .command_byte()
            .contains(CommandByte::KEYBOARD_INTERRUPT)
            && self.status.contains(Status::OUTPUT_FULL);
        self.line.set(Level::asserted_if(wanted), fx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench() -> (I8042, Effects) {
        (I8042::new(Gsi(1), None), Effects::new())
    }

    #[test]
    fn the_self_test_passes() {
        let (mut controller, mut fx) = bench();
        assert_eq!(controller.read_status() & 1, 0);
        controller.write_command(0xaa, &mut fx);
        assert_eq!(controller.read_status() & 0x05, 0x05);
        assert_eq!(controller.read_data(&mut fx), 0x55);
        assert_eq!(controller.read_status() & 1, 0);
        controller.write_command(0xab, &mut fx);
        assert_eq!(controller.read_data(&mut fx), 0);
    }

    #[test]
    fn the_command_byte_reads_back() {
        let (mut controller, mut fx) = bench();
        controller.write_command(0x60, &mut fx);
        controller.write_data(0x74, &mut fx);
        controller.write_command(0x20, &mut fx);
        assert_eq!(controller.read_data(&mut fx), 0x74);
        controller.write_command(0xae, &mut fx);
        controller.write_command(0x20, &mut fx);
        assert_eq!(controller.read_data(&mut fx), 0x64);
    }

    #[test]
    fn a_keyboard_that_is_not_there_times_out() {
        let (mut controller, mut fx) = bench();
        controller.write_data(0xff, &mut fx);
        assert_eq!(controller.read_status() & 0x41, 0x41);
        assert_eq!(controller.read_data(&mut fx), 0xfe);
        assert_eq!(controller.read_status() & 0x41, 0);
    }

    #[test]
    fn a_full_output_buffer_interrupts_if_enabled() {
        let (mut controller, mut fx) = bench();
        controller.write_command(0x60, &mut fx);
        controller.write_data(0x01, &mut fx);
        controller.write_command(0xd2, &mut fx);
        controller.write_data(0x1e, &mut fx);
        assert_eq!(fx.take_lines().raised, 1 << 1);
        assert_eq!(controller.read_data(&mut fx), 0x1e);
        assert_eq!(fx.take_lines().lowered, 1 << 1);
    }

    #[test]
    fn each_way_to_pull_the_reset_line_resets() {
        let pulse = |command: u8| {
            let (mut controller, mut fx) = bench();
            controller.write_command(command, &mut fx);
            fx.request
        };
        assert_eq!(pulse(0xfe), Some(Request::Reset));
        assert_eq!(pulse(0xff), None);
        let (mut controller, mut fx) = bench();
        controller.write_command(0xd1, &mut fx);
        controller.write_data(0xdf, &mut fx);
        assert_eq!(fx.request, None);
        controller.write_command(0xd1, &mut fx);
        controller.write_data(0xde, &mut fx);
        assert_eq!(fx.request, Some(Request::Reset));
    }

    #[test]
    fn the_a20_gate_moves_by_each_command_and_reads_back() {
        let mut controller = I8042::new(Gsi(1), None);
        let mut command = |command: u8, data: Option<u8>| {
            let mut fx = Effects::new();
            controller.write_command(command, &mut fx);
            if let Some(data) = data {
                controller.write_data(data, &mut fx);
            }
            controller.write_command(0xd0, &mut fx);
            (fx.request, controller.read_data(&mut fx))
        };
        let closes = Some(Request::AddressLine20(A20Gate::Closed));
        let opens = Some(Request::AddressLine20(A20Gate::Open));
        assert_eq!(command(0xdd, None), (closes, 0x01));
        assert_eq!(command(0xdd, None), (None, 0x01));
        assert_eq!(command(0xdf, None), (opens, 0x03));
        assert_eq!(command(0xd1, Some(0xdd)), (closes, 0xdd));
        assert_eq!(command(0xd1, Some(0xdf)), (opens, 0xdf));
    }

    #[test]
    fn typed_keys_arrive_one_by_one_in_set_1_with_an_edge_each() {
        let mut controller = I8042::new(Gsi(1), Some(Keyboard::new()));
        let mut fx = Effects::new();
        assert_eq!(controller.receive(b"A", 0, &mut fx), Some(1));
        assert_eq!(fx.take_lines().raised, 1 << 1);
        for code in [0x2a, 0x1e, 0x9e] {
            assert_eq!(controller.read_data(&mut fx), code);
            let lines = fx.take_lines();
            assert_eq!((lines.lowered, lines.raised), (1 << 1, 1 << 1));
        }
        assert_eq!(controller.read_data(&mut fx), 0xaa);
        assert_eq!(
            (fx.take_lines().raised, controller.read_status() & 1),
            (0, 0)
        );
    }

    #[test]
    fn without_translation_keys_arrive_in_set_2() {
        let mut controller = I8042::new(Gsi(1), Some(Keyboard::new()));
        let mut fx = Effects::new();
        controller.write_command(0x60, &mut fx);
        controller.write_data(0x05, &mut fx);
        controller.receive(b"a", 0, &mut fx);
        assert_eq!(
            [(); 3].map(|()| controller.read_data(&mut fx)),
            [0x1c, 0xf0, 0x1c]
        );
    }

    #[test]
    fn a_keyboard_that_is_disabled_keeps_its_bytes() {
        let mut controller = I8042::new(Gsi(1), Some(Keyboard::new()));
        let mut fx = Effects::new();
        controller.write_command(0xad, &mut fx);
        controller.receive(b"a", 0, &mut fx);
        assert_eq!(controller.read_status() & 1, 0);
        controller.write_command(0xae, &mut fx);
        assert_eq!(controller.read_status() & 1, 1);
        controller.write_data(0xff, &mut fx);
        assert_eq!(
            controller.read_data(&mut fx),
            0x1e,
            "was in the buffer already"
        );
        assert_eq!(
            [(); 2].map(|()| controller.read_data(&mut fx)),
            [0xfa, 0xaa]
        );
    }

    #[test]
    fn the_mouse_port_is_not_there() {
        let (mut controller, mut fx) = bench();
        for command in [0xa7, 0xa8, 0xa9] {
            controller.write_command(command, &mut fx);
        }
        controller.write_command(0xd4, &mut fx);
        controller.write_data(0xf2, &mut fx);
        assert_eq!(controller.read_status() & 1, 0);
    }
}
