//! [`PowerManagement`]: the fixed ACPI hardware, that is the PM1a event and control blocks, the power button
//! and the PM timer (ACPI, "ACPI Hardware Specification").
//!
//! The machine has no SMI and is always in ACPI mode: SCI_EN reads as one. Sleep type 0 is soft off, and there
//! is no other sleep state.

use bitflags::bitflags;

use crate::{Effects, Gsi, Level, OutputLine, Request};

bitflags! {
    /// PM1 status and enable; the bits have the same places in both.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Events: u16 {
        const TIMER = 1 << 0;
        const GLOBAL_LOCK = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const SLEEP_BUTTON = 1 << 9;
        const REAL_TIME_CLOCK = 1 << 10;
    }
}

/// PM1 control: the chip is in ACPI mode.
const SCI_EN: u16 = 1 << 0;
/// PM1 control: go to the sleep state of SLP_TYP now; reads as zero.
const SLP_EN: u16 = 1 << 13;
/// PM1 control: the bits that keep what is written (BM_RLD, GBL_RLS is write-only, SLP_TYP).
const CONTROL_KEPT: u16 = 0x1c02;
const SLP_TYP_SHIFT: u32 = 10;
/// The sleep type of S5, as the DSDT's `\_S5` says.
pub const SOFT_OFF_TYPE: u8 = 0;

/// The timer runs at 3.579545 MHz; both sides of the fraction that makes ticks of nanoseconds, reduced.
const TICKS: u64 = 715_909;
const PER_NS: u64 = 200_000_000;
/// Ticks from one change of the counter's top bit to the next.
const HALF_PERIOD_SHIFT: u32 = 31;

/// The power-management block.
#[derive(Debug)]
pub struct PowerManagement {
    status: Events,
    enable: Events,
    control: u16,
    /// Half periods of the timer whose end the status bit already knows of.
    half_periods_seen: u64,
    line: OutputLine,
}

impl PowerManagement {
    /// The block after power-on, with its interrupt (SCI) on this line.
    pub const fn new(gsi: Gsi) -> Self {
        Self {
            status: Events::empty(),
            enable: Events::empty(),
            control: 0,
            half_periods_seen: 0,
            line: OutputLine::new(gsi, Level::Deasserted),
        }
    }

    /// The PM timer's 32-bit counter.
    pub const fn timer(now_ns: u64) -> u32 {
        Self::ticks(now_ns) as u32
    }

    /// Reads a byte of the block: status (0), enable (2), control (4), timer (8).
    pub fn read(&mut self, offset: u16, now_ns: u64, fx: &mut Effects) -> u8 {
        self.notice_overflow(now_ns, fx);
        let register = match offset {
            0 | 1 => self.status.bits(),
            2 | 3 => self.enable.bits(),
            4 | 5 => self.control | SCI_EN,
            8..12 => {
                let [b0, b1, b2, b3] = Self::timer(now_ns).to_le_bytes();
                return match offset {
                    8 => b0,
                    9 => b1,
                    10 => b2,
                    _ => b3,
                };
            }
            _ => 0,
        };
        let [low, high] = register.to_le_bytes();
        if offset & 1 == 0 { low } else { high }
    }

    /// Writes a byte of the block. Status bits are cleared by writing ones.
    pub fn write(&mut self, offset: u16, value: u8, now_ns: u64, fx: &mut Effects) {
        self.notice_overflow(now_ns, fx);
        let shift = 8 * u32::from(offset & 1);
        let written = u16::from(value) << shift;
        let kept = !(0xff << shift);
        match offset {
            0 | 1 => self.status -= Events::from_bits_truncate(written),
            2 | 3 => {
                let enable = (self.enable.bits() & kept) | written;
                self.enable = Events::from_bits_truncate(enable);
            }
            4 | 5 => {
                self.control = (self.control & kept) | (written & CONTROL_KEPT);
                let sleep_type = (self.control >> SLP_TYP_SHIFT) as u8 & 7;
                if written & SLP_EN != 0 && sleep_type == SOFT_OFF_TYPE {
                    fx.ask(Request::PowerOff);
                }
            }
            _ => {}
        }
        self.update_line(fx);
    }

    /// Somebody pressed the power button.
    pub fn press_power_button(&mut self, fx: &mut Effects) {
        self.status |= Events::POWER_BUTTON;
        self.update_line(fx);
    }

    /// When the timer's top bit changes next, if the guest wants to be told.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let wanted = self.enable.contains(Events::TIMER) && !self.status.contains(Events::TIMER);
        if !wanted {
            return None;
        }
        let ticks = self
            .half_periods_seen
            .checked_add(1)?
            .checked_shl(HALF_PERIOD_SHIFT)?;
        // The first nanosecond at which the counter has that value.
        let whole = (ticks / TICKS).checked_mul(PER_NS)?;
        whole.checked_add((ticks % TICKS * PER_NS).div_ceil(TICKS))
    }

    /// Notices that the timer's top bit has changed.
    pub fn expire(&mut self, now_ns: u64, fx: &mut Effects) {
        self.notice_overflow(now_ns, fx);
    }

    const fn ticks(now_ns: u64) -> u64 {
        (now_ns / PER_NS) * TICKS + (now_ns % PER_NS) * TICKS / PER_NS
    }

    fn notice_overflow(&mut self, now_ns: u64, fx: &mut Effects) {
        let half_periods = Self::ticks(now_ns) >> HALF_PERIOD_SHIFT;
        if half_periods > self.half_periods_seen {
            self.half_periods_seen = half_periods;
            self.status |= Events::TIMER;
            self.update_line(fx);
        }
    }

    fn update_line(&mut self, fx: &mut Effects) {
        self.line
            .set(Level::asserted_if(self.status.intersects(self.enable)), fx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: u16 = 0;
    const ENABLE: u16 = 2;
    const CONTROL: u16 = 4;

    fn write16(pm: &mut PowerManagement, offset: u16, value: u16, now_ns: u64, fx: &mut Effects) {
        let [low, high] = value.to_le_bytes();
        pm.write(offset, low, now_ns, fx);
        pm.write(offset + 1, high, now_ns, fx);
    }

    fn read16(pm: &mut PowerManagement, offset: u16, now_ns: u64, fx: &mut Effects) -> u16 {
        u16::from_le_bytes([pm.read(offset, now_ns, fx), pm.read(offset + 1, now_ns, fx)])
    }

    fn read_timer(pm: &mut PowerManagement, now_ns: u64, fx: &mut Effects) -> u32 {
        u32::from_le_bytes([8, 9, 10, 11].map(|offset| pm.read(offset, now_ns, fx)))
    }

    #[test]
    fn sleep_type_0_with_sleep_enable_is_power_off() {
        let (mut pm, mut fx) = (PowerManagement::new(Gsi(9)), Effects::new());
        write16(&mut pm, CONTROL, 0x2400, 0, &mut fx);
        assert_eq!(fx.request, None, "sleep type 1 is none of ours");
        assert_eq!(read16(&mut pm, CONTROL, 0, &mut fx), 0x0401);
        write16(&mut pm, CONTROL, 0x2000, 0, &mut fx);
        assert_eq!(fx.request, Some(Request::PowerOff));
    }

    #[test]
    fn the_machine_is_in_acpi_mode_whatever_is_written() {
        let (mut pm, mut fx) = (PowerManagement::new(Gsi(9)), Effects::new());
        write16(&mut pm, CONTROL, 0, 0, &mut fx);
        assert_eq!(read16(&mut pm, CONTROL, 0, &mut fx) & 1, 1);
    }

    #[test]
    fn the_timer_counts_3_579_545_ticks_a_second_for_ever() {
        let (mut pm, mut fx) = (PowerManagement::new(Gsi(9)), Effects::new());
        assert_eq!(read_timer(&mut pm, 0, &mut fx), 0);
        assert_eq!(read_timer(&mut pm, 1_000_000_000, &mut fx), 3_579_545);
        assert_eq!(read_timer(&mut pm, 1_000_000, &mut fx), 3_579);
        let century_s = 3_155_760_000u64;
        let ticks = u128::from(century_s) * 3_579_545;
        assert_eq!(
            read_timer(&mut pm, century_s * 1_000_000_000, &mut fx),
            ticks as u32
        );
    }

    #[test]
    fn the_power_button_interrupts_until_its_status_is_cleared() {
        let (mut pm, mut fx) = (PowerManagement::new(Gsi(9)), Effects::new());
        pm.press_power_button(&mut fx);
        assert!(!fx.has_line_changes(), "not enabled");
        write16(&mut pm, ENABLE, 0x0100, 0, &mut fx);
        assert_eq!(fx.take_lines().raised, 1 << 9);
        assert_eq!(read16(&mut pm, STATUS, 0, &mut fx), 0x0100);
        write16(&mut pm, STATUS, 0x0100, 0, &mut fx);
        assert_eq!(fx.take_lines().lowered, 1 << 9);
        assert_eq!(read16(&mut pm, STATUS, 0, &mut fx), 0);
    }

    #[test]
    fn a_change_of_the_timers_top_bit_interrupts_at_its_time() {
        let (mut pm, mut fx) = (PowerManagement::new(Gsi(9)), Effects::new());
        assert_eq!(pm.next_deadline_ns(), None);
        write16(&mut pm, ENABLE, 0x0001, 0, &mut fx);
        // 2^31 ticks take 599.93 seconds.
        let due = pm.next_deadline_ns().unwrap();
        assert_eq!(due / 1_000_000_000, 599);
        assert_eq!(read_timer(&mut pm, due, &mut fx), 0x8000_0000);
        let mut pm = PowerManagement::new(Gsi(9));
        write16(&mut pm, ENABLE, 0x0001, 0, &mut fx);
        fx.take_lines();
        pm.expire(due - 1, &mut fx);
        assert!(!fx.has_line_changes());
        pm.expire(due, &mut fx);
        assert_eq!(fx.take_lines().raised, 1 << 9);
        assert_eq!(pm.next_deadline_ns(), None, "the status is set already");
        write16(&mut pm, STATUS, 0x0001, due, &mut fx);
        assert_eq!(fx.take_lines().lowered, 1 << 9);
        assert!(
            pm.next_deadline_ns()
                .is_some_and(|next| next > due + 599_000_000_000)
        );
    }
}
