//! [`Pic`]: the two cascaded 8259A interrupt controllers of a PC, with the chipset's ELCR.
//!
//! Written after Intel's 8259A data sheet; what PC chipsets changed (ELCR instead of LTIM, fixed cascade on
//! input 2) follows the data sheets of Intel's PIIX4 and ICH. The processor's side is [`Pic::is_asserted`],
//! the INTR wire, and [`Pic::acknowledge`], the INTA cycle.

use arch::Vector;

use crate::Level;

/// The master's input that the slave is wired to.
const CASCADE: u8 = 2;
/// The input whose vector an INTA cycle gets when the request has gone away.
const SPURIOUS: u8 = 7;

/// Which of the four initialisation words comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Operating,
    Icw2,
    Icw3,
    Icw4,
}

/// What a read of the even port gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Selected {
    Irr,
    Isr,
}

/// Whether an INTA cycle ends its own interrupt (AEOI), and what that does to the priorities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EndMode {
    BySoftware,
    Automatic,
}

/// Ordinary or special: what in-service bits of masked inputs hold back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MaskMode {
    Normal,
    Special,
}

/// Whether automatic ends rotate the priorities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rotation {
    Fixed,
    OnAutomaticEnd,
}

/// Whether the master lets more urgent requests of a slave in service through (SFNM).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Nesting {
    Normal,
    SpecialFully,
}

/// What the next read is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NextRead {
    Register,
    Poll,
}

/// One 8259A.
#[derive(Clone, Copy, Debug)]
struct Chip {
    /// The input pins now.
    lines: u8,
    /// Rising edges not yet acknowledged, on inputs that are still high.
    edges: u8,
    /// Inputs that are level-triggered: ELCR, and the cascade.
    level_triggered: u8,
    masked: u8,
    in_service: u8,
    /// The upper five bits of the vectors.
    base: u8,
    /// The input of lowest priority.
    lowest: u8,
    phase: Phase,
    wants_icw3: bool,
    wants_icw4: bool,
    selected: Selected,
    next_read: NextRead,
    mask_mode: MaskMode,
    end_mode: EndMode,
    rotation: Rotation,
    nesting: Nesting,
    /// Inputs at which a slave sits.
    cascades: u8,
}

impl Chip {
    /// As a PC's firmware leaves it: initialised, all inputs masked.
    const fn new(base: u8, cascades: u8) -> Self {
        Self {
            lines: 0,
            edges: 0,
            level_triggered: cascades,
            masked: 0xff,
            in_service: 0,
            base,
            lowest: 7,
            phase: Phase::Operating,
            wants_icw3: false,
            wants_icw4: false,
            selected: Selected::Irr,
            next_read: NextRead::Register,
            mask_mode: MaskMode::Normal,
            end_mode: EndMode::BySoftware,
            rotation: Rotation::Fixed,
            nesting: Nesting::Normal,
            cascades,
        }
    }

    fn set_line(&mut self, input: u8, level: Level) {
        let bit = bit(input);
        match level {
            Level::Asserted => {
                self.edges |= bit & !self.lines;
                self.lines |= bit;
            }
            // An edge whose line falls before INTA is gone: the data sheet's "default IR7".
            Level::Deasserted => {
                self.lines &= !bit;
                self.edges &= !bit;
            }
        }
    }

    /// IRR.
    const fn requests(&self) -> u8 {
        (self.edges & !self.level_triggered) | (self.lines & self.level_triggered)
    }

    /// How many inputs go before this one: 0 is the most urgent.
    const fn rank(&self, mask: u8) -> u32 {
        mask.rotate_right((self.lowest as u32 + 1) & 7)
            .trailing_zeros()
    }

    /// The most urgent input of `mask`.
    const fn most_urgent(&self, mask: u8) -> Option<u8> {
        if mask == 0 {
            None
        } else {
            Some(((self.rank(mask) + self.lowest as u32 + 1) & 7) as u8)
        }
    }

    /// The input that the INT output stands for.
    fn pending(&self) -> Option<u8> {
        let candidates = self.requests() & !self.masked;
        if candidates == 0 || self.phase != Phase::Operating {
            return None;
        }
        let mut blocking = self.in_service;
        if self.mask_mode == MaskMode::Special {
            blocking &= !self.masked;
        }
        let mut limit = if blocking == 0 {
            8
        } else {
            self.rank(blocking)
        };
        if self.nesting == Nesting::SpecialFully && blocking & self.cascades != 0 {
            // The slave in service may ask again; inputs less urgent than it stay blocked.
            let cascade = self.rank(blocking & self.cascades);
            if cascade == limit {
                limit += 1;
            }
        }
        (self.rank(candidates) < limit)
            .then(|| self.most_urgent(candidates))
            .flatten()
    }

    /// The INTA cycle for an input.
    fn begin(&mut self, input: u8) {
        self.edges &= !bit(input);
        match self.end_mode {
            EndMode::BySoftware => self.in_service |= bit(input),
            EndMode::Automatic => {
                if self.rotation == Rotation::OnAutomaticEnd {
                    self.lowest = input;
                }
            }
        }
    }

    const fn vector(&self, input: u8) -> Vector {
        Vector((self.base & 0xf8) | input)
    }

    /// The in-service input that a non-specific EOI ends.
    fn ending(&self) -> Option<u8> {
        let mut mask = self.in_service;
        if self.mask_mode == MaskMode::Special {
            mask &= !self.masked;
        }
        self.most_urgent(mask)
    }

    /// What a read gives after a poll command, at either port: the acknowledgement of the most urgent input.
    fn poll(&mut self) -> u8 {
        self.next_read = NextRead::Register;
        match self.pending() {
            Some(input) => {
                self.begin(input);
                0x80 | input
            }
            None => 0,
        }
    }

    fn read_even(&mut self) -> u8 {
        match (self.next_read, self.selected) {
            (NextRead::Poll, _) => self.poll(),
            (NextRead::Register, Selected::Irr) => self.requests(),
            (NextRead::Register, Selected::Isr) => self.in_service,
        }
    }

    fn read_odd(&mut self) -> u8 {
        match self.next_read {
            NextRead::Poll => self.poll(),
            NextRead::Register => self.masked,
        }
    }

    fn write_even(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialise(value);
        } else if value & 0x08 != 0 {
            self.operation_3(value);
        } else {
            self.operation_2(value);
        }
    }

    fn write_odd(&mut self, value: u8) {
        match self.phase {
            Phase::Operating => self.masked = value,
            Phase::Icw2 => {
                self.base = value & 0xf8;
                self.phase = match (self.wants_icw3, self.wants_icw4) {
                    (true, _) => Phase::Icw3,
                    (false, true) => Phase::Icw4,
                    (false, false) => Phase::Operating,
                };
            }
            // The wiring of a PC is fixed, whatever the word says.
            Phase::Icw3 => {
                self.phase = if self.wants_icw4 {
                    Phase::Icw4
                } else {
                    Phase::Operating
                };
            }
            Phase::Icw4 => {
                self.end_mode = if value & 0x02 != 0 {
                    EndMode::Automatic
                } else {
                    EndMode::BySoftware
                };
                self.nesting = if value & 0x10 != 0 {
                    Nesting::SpecialFully
                } else {
                    Nesting::Normal
                };
                self.phase = Phase::Operating;
            }
        }
    }

    /// ICW1. The edge detectors, masks, modes and priorities start anew; LTIM is the ELCR's business.
    fn initialise(&mut self, value: u8) {
        *self = Self {
            lines: self.lines,
            level_triggered: self.level_triggered,
            base: self.base,
            masked: 0,
            phase: Phase::Icw2,
            wants_icw3: value & 0x02 == 0,
            wants_icw4: value & 0x01 != 0,
            ..Self::new(0, self.cascades)
        };
    }

    /// OCW2: ends of interrupt and rotation.
    fn operation_2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.rotation = Rotation::Fixed,
            0b100 => self.rotation = Rotation::OnAutomaticEnd,
            0b001 => {
                if let Some(ending) = self.ending() {
                    self.in_service &= !bit(ending);
                }
            }
            0b101 => {
                if let Some(ending) = self.ending() {
                    self.in_service &= !bit(ending);
                    self.lowest = ending;
                }
            }
            0b011 => self.in_service &= !bit(input),
            0b111 => {
                self.in_service &= !bit(input);
                self.lowest = input;
            }
            0b110 => self.lowest = input,
            // 0b010: no operation.
            _ => {}
        }
    }

    /// OCW3: what reads give, poll, special mask mode.
    fn operation_3(&mut self, value: u8) {
        match value & 3 {
            2 => self.selected = Selected::Irr,
            3 => self.selected = Selected::Isr,
            _ => {}
        }
        if value & 4 != 0 {
            self.next_read = NextRead::Poll;
        }
        match value >> 5 & 3 {
            2 => self.mask_mode = MaskMode::Normal,
            3 => self.mask_mode = MaskMode::Special,
            _ => {}
        }
    }
}

const fn bit(input: u8) -> u8 {
    1 << (input & 7)
}

/// The pair: inputs 0 to 7 at the master, 8 to 15 at the slave.
#[derive(Debug)]
pub struct Pic {
    master: Chip,
    slave: Chip,
    asserted: bool,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// ELCR bits that exist: inputs 0, 1, 2, 8 and 13 are always edge-triggered (PIIX4, ELCR1 and ELCR2).
    const ELCR: [u8; 2] = [0xf8, 0xde];

    /// As firmware leaves them: vectors 0x08 and 0x70, everything masked.
    pub const fn new() -> Self {
        Self {
            master: Chip::new(0x08, bit(CASCADE)),
            slave: Chip::new(0x70, 0),
            asserted: false,
        }
    }

    /// Sets an input line, 0 to 15. Input 2 is the cascade and takes nothing from outside.
    pub fn set_line(&mut self, irq: u8, level: Level) {
        match irq {
            CASCADE => return,
            0..8 => self.master.set_line(irq, level),
            8..16 => self.slave.set_line(irq - 8, level),
            _ => return,
        }
        self.update();
    }

    /// The INTR wire to the processor.
    #[inline]
    pub const fn is_asserted(&self) -> bool {
        self.asserted
    }

    /// The INTA cycle: the processor takes the most urgent interrupt. If none is left, the answer is that of
    /// input 7 with nothing in service, as the chip does.
    pub fn acknowledge(&mut self) -> Vector {
        let vector = match self.master.pending() {
            Some(CASCADE) => {
                self.master.begin(CASCADE);
                match self.slave.pending() {
                    Some(input) => {
                        self.slave.begin(input);
                        self.slave.vector(input)
                    }
                    None => self.slave.vector(SPURIOUS),
                }
            }
            Some(input) => {
                self.master.begin(input);
                self.master.vector(input)
            }
            None => self.master.vector(SPURIOUS),
        };
        self.update();
        vector
    }

    /// Reads port 0x20, 0x21, 0xa0 or 0xa1.
    pub fn read(&mut self, port: u16) -> u8 {
        let chip = self.chip(port);
        let value = if port & 1 == 0 {
            chip.read_even()
        } else {
            chip.read_odd()
        };
        self.update();
        value
    }

    /// Writes port 0x20, 0x21, 0xa0 or 0xa1.
    pub fn write(&mut self, port: u16, value: u8) {
        let chip = self.chip(port);
        if port & 1 == 0 {
            chip.write_even(value)
        } else {
            chip.write_odd(value)
        }
        self.update();
    }

    /// Reads ELCR: offset 0 for inputs 0 to 7, 1 for the others.
    pub const fn read_elcr(&self, offset: u16) -> u8 {
        let [low, high] = Self::ELCR;
        if offset & 1 == 0 {
            self.master.level_triggered & low
        } else {
            self.slave.level_triggered & high
        }
    }

    /// Writes ELCR.
    pub fn write_elcr(&mut self, offset: u16, value: u8) {
        let [low, high] = Self::ELCR;
        if offset & 1 == 0 {
            self.master.level_triggered = (value & low) | self.master.cascades;
        } else {
            self.slave.level_triggered = value & high;
        }
        self.update();
    }

    const fn chip(&mut self, port: u16) -> &mut Chip {
        if port & 0x80 == 0 {
            &mut self.master
        } else {
            &mut self.slave
        }
    }

    /// Carries the slave's output to the master and the master's to the processor.
    fn update(&mut self) {
        let level = Level::asserted_if(self.slave.pending().is_some());
        self.master.set_line(CASCADE, level);
        self.asserted = self.master.pending().is_some();
    }
}

#[cfg(test)]
mod tests;
