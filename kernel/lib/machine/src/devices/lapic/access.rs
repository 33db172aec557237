//! How software reaches the registers: memory in xAPIC mode, MSRs in x2APIC mode.
//!
//! After SDM vol. 3, The Local APIC Block Diagram (its register map) and x2APIC Register Address Space, with
//! Reserved Bit Checking.

use arch::{Vector, Width};

use super::icr::{ICR_WRITABLE, X2APIC_ICR_RESERVED};
use super::lvt::{Errors, MASKED, Mask};
use super::page::Register;
use super::timer::{Armed, Mode};
use super::{ApicAction, ApicMode, Clock, InvalidAccess, Lapic, LapicFeatures, Lint};

/// The bit of the spurious-interrupt vector register that enables the APIC.
pub(super) const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Vector, enable, and focus checking, which does nothing but may be set.
const SPURIOUS_WRITABLE: u32 = 0x3ff;
const DIVIDE_WRITABLE: u32 = 0xb;
/// The delivery status of an LVT entry and the remote IRR of a pin's: read only, and ignored in writes.
const STATUS: u32 = 1 << 12;
const REMOTE_IRR: u32 = 1 << 14;

/// The MSR of register 0.
const X2APIC_FIRST: u32 = arch::msr::IA32_X2APIC_FIRST;

impl Lapic {
    /// Whether the hardware may serve RDMSR of this x2APIC register from the page on its own. All others are
    /// to be intercepted: those that do not exist or cannot be read, and the current count.
    pub const fn reads_from_page(msr: u32) -> bool {
        let number = msr.wrapping_sub(X2APIC_FIRST);
        number <= 0xff
            && number != Register::CurrentCount as u32
            && is_x2apic_readable(number as u8)
    }

    /// RDMSR of an x2APIC register.
    ///
    /// # Errors
    /// [`InvalidAccess`] outside x2APIC mode and for registers that do not exist or cannot be read.
    #[inline]
    pub fn read_msr(&self, msr: u32, clock: &impl Clock) -> Result<u64, InvalidAccess> {
        let number = u8::try_from(msr.wrapping_sub(X2APIC_FIRST)).map_err(|_| InvalidAccess)?;
        if !self.is_x2apic() || !is_x2apic_readable(number) {
            return Err(InvalidAccess);
        }
        Ok(match computed(number) {
            Some(register) => u64::from(self.compute(register, clock)),
            None => self.page.get_number_wide(number),
        })
    }

    /// WRMSR of an x2APIC register.
    ///
    /// # Errors
    /// [`InvalidAccess`] outside x2APIC mode, for registers that do not exist or cannot be written, and for
    /// reserved bits.
    #[inline]
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        clock: &impl Clock,
    ) -> Result<ApicAction, InvalidAccess> {
        if !self.is_x2apic() {
            return Err(InvalidAccess);
        }
        let low = value as u32;
        let high = (value >> 32) as u32;
        // The few that a guest writes all the time come first, in straight line.
        match msr.wrapping_sub(X2APIC_FIRST) {
            0x08 if value <= 0xff => {
                self.set_task_priority(low as u8);
                Ok(ApicAction::None)
            }
            0x0b if value == 0 => Ok(self.end_of_interrupt()),
            0x30 if low & X2APIC_ICR_RESERVED == 0 => {
                self.page
                    .set(Register::InterruptCommand, low & ICR_WRITABLE);
                self.page.set_upper(Register::InterruptCommand, high);
                Ok(self.command(low, high))
            }
            0x38 if high == 0 => Ok(self.store(Register::InitialCount, low, clock)),
            0x3f if value <= 0xff => {
                self.self_ipi(Vector(low as u8));
                Ok(ApicAction::None)
            }
            number => self.write_checked(u8::try_from(number).ok(), value, clock),
        }
    }

    /// WRMSR of any register but the ICR, in x2APIC mode.
    fn write_checked(
        &mut self,
        number: Option<u8>,
        value: u64,
        clock: &impl Clock,
    ) -> Result<ApicAction, InvalidAccess> {
        let register = number.and_then(writable).ok_or(InvalidAccess)?;
        if value & !u64::from(self.x2apic_allowed(register)) != 0 {
            return Err(InvalidAccess);
        }
        Ok(self.store(register, value as u32, clock))
    }

    /// Reads the register page, in xAPIC mode. Software is to read aligned doublewords; of anything else it gets
    /// the bytes that lie in the register, and zeroes around them.
    pub fn read_mmio(&mut self, offset: u16, width: Width, clock: &impl Clock) -> u64 {
        let number = (offset >> 4) as u8;
        let skipped = u32::from(offset & 0xf) * 8;
        let value = self.read_xapic(number, clock);
        width.truncate(u64::from(value).checked_shr(skipped).unwrap_or(0))
    }

    /// Writes the register page, in xAPIC mode. Software is to write aligned doublewords; anything else is
    /// ignored.
    #[inline]
    pub fn write_mmio(
        &mut self,
        offset: u16,
        width: Width,
        value: u64,
        clock: &impl Clock,
    ) -> ApicAction {
        if offset & 0xf != 0 || width != Width::Dword {
            return ApicAction::None;
        }
        self.write_xapic((offset >> 4) as u8, value as u32, clock)
    }

    /// Acts upon a register that the hardware has written in the page (an APIC-write VM exit).
    pub fn complete_write(&mut self, offset: u16, clock: &impl Clock) -> ApicAction {
        let number = (offset >> 4) as u8;
        let value = self.page.get_number(number);
        match (self.mode(), writable(number)) {
            (ApicMode::Disabled, _) => ApicAction::None,
            (ApicMode::Xapic, _) => {
                if number == Register::Id as u8 {
                    self.page.set(Register::Id, self.config.id << 24);
                }
                self.write_xapic(number, value, clock)
            }
            (ApicMode::X2apic, Some(Register::InterruptCommand)) => {
                let destination = (self.page.get_number_wide(number) >> 32) as u32;
                self.command(value, destination)
            }
            (ApicMode::X2apic, Some(register)) => self.store(register, value, clock),
            (ApicMode::X2apic, None) => ApicAction::None,
        }
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&mut self, clock: &impl Clock) -> u64 {
        self.expire(clock);
        self.timer.tsc_deadline()
    }

    /// A write of IA32_TSC_DEADLINE. A deadline in the past fires at once, and so does the one that was armed before if
    /// its time has come: it is not lost.
    #[inline]
    pub fn set_tsc_deadline(&mut self, tsc: u64, clock: &impl Clock) -> Armed {
        if self.timer.set_tsc_deadline(tsc, clock) {
            self.timer_has_ended();
            Armed::Fired
        } else {
            Armed::ForLater
        }
    }

    fn read_xapic(&mut self, number: u8, clock: &impl Clock) -> u32 {
        if let Some(register) = computed(number) {
            return self.compute(register, clock);
        }
        if !is_xapic_register(number) {
            self.log_error(Errors::ILLEGAL_REGISTER);
            return 0;
        }
        match number {
            ARBITRATION_PRIORITY => u32::from(self.arbitration_priority()),
            _ => self.page.get_number(number),
        }
    }

    #[inline]
    fn write_xapic(&mut self, number: u8, value: u32, clock: &impl Clock) -> ApicAction {
        match writable(number) {
            Some(Register::InterruptCommand) => {
                self.page
                    .set(Register::InterruptCommand, value & ICR_WRITABLE);
                let destination = match self.page.get(Register::InterruptCommandHigh) >> 24 {
                    0xff => u32::MAX,
                    destination => destination,
                };
                self.command(value, destination)
            }
            // The self-IPI register is the x2APIC's.
            None | Some(Register::SelfIpi) => self.write_xapic_only(number, value),
            Some(register) => self.store(register, value, clock),
        }
    }

    /// Registers that x2APIC mode does not let software write.
    fn write_xapic_only(&mut self, number: u8, value: u32) -> ApicAction {
        if number == Register::LogicalDestination as u8 {
            self.page
                .set(Register::LogicalDestination, value & 0xff00_0000);
            return ApicAction::Rerouted;
        }
        if number == Register::DestinationFormat as u8 {
            self.page
                .set(Register::DestinationFormat, value | 0x0fff_ffff);
            return ApicAction::Rerouted;
        }
        if number == Register::InterruptCommandHigh as u8 {
            self.page
                .set(Register::InterruptCommandHigh, value & 0xff00_0000);
        } else if !is_xapic_register(number) {
            self.log_error(Errors::ILLEGAL_REGISTER);
        }
        ApicAction::None
    }

    /// What is not kept but computed.
    fn compute(&self, register: Computed, clock: &impl Clock) -> u32 {
        match register {
            Computed::ProcessorPriority => u32::from(self.processor_priority()),
            Computed::CurrentCount => self.timer.current_count(clock),
        }
    }

    /// Writes a register that both modes have, but for the ICR. Reserved bits are dropped.
    #[inline]
    fn store(&mut self, register: Register, value: u32, clock: &impl Clock) -> ApicAction {
        match register {
            Register::EndOfInterrupt => return self.end_of_interrupt(),
            Register::TaskPriority => self.set_task_priority(value as u8),
            Register::SelfIpi => self.self_ipi(Vector(value as u8)),
            Register::InitialCount if self.timer.counts_down() => {
                self.page.set(register, value);
                self.initial_count = value;
                // What has run out by now is not lost.
                self.expire(clock);
                self.timer.set_initial_count(value, clock);
            }
            Register::LvtTimer => self.store_lvt_timer(value, clock),
            Register::SpuriousVector => return self.store_spurious(value),
            Register::ErrorStatus => {
                let errors = self.errors.take();
                self.page.set(register, errors);
            }
            Register::Divide => {
                self.page.set(register, value & DIVIDE_WRITABLE);
                self.expire(clock);
                self.timer.set_divide(value, clock);
            }
            Register::LvtThermal | Register::LvtPerformance | Register::LvtError => {
                self.page.set(register, self.entry_value(register, value));
            }
            Register::LvtLint0 => {
                self.store_lint(Lint::Lint0, self.entry_value(register, value));
            }
            Register::LvtLint1 => {
                self.store_lint(Lint::Lint1, self.entry_value(register, value));
            }
            Register::InitialCount => self.page.set(register, self.initial_count),
            Register::Id
            | Register::Version
            | Register::LogicalDestination
            | Register::DestinationFormat
            | Register::InterruptCommand
            | Register::InterruptCommandHigh
            | Register::CurrentCount => {}
        }
        ApicAction::None
    }

    fn store_lvt_timer(&mut self, value: u32, clock: &impl Clock) {
        self.expire(clock);
        let entry = self.entry_value(Register::LvtTimer, value);
        self.page.set(Register::LvtTimer, entry);
        self.timer_mask = Mask::of(entry);
        self.timer.set_mode(Mode::from_lvt(entry));
    }

    fn store_spurious(&mut self, value: u32) -> ApicAction {
        self.page
            .set(Register::SpuriousVector, value & SPURIOUS_WRITABLE);
        if value & SOFTWARE_ENABLE == 0 {
            self.mask_all_entries();
        }
        ApicAction::Rerouted
    }

    /// An LVT entry as it is stored: without what it does not have, and masked while software has the APIC
    /// disabled.
    fn entry_value(&self, register: Register, value: u32) -> u32 {
        let mask = if self.is_software_enabled() {
            0
        } else {
            MASKED
        };
        value & self.entry_writable(register) | mask
    }

    const fn entry_writable(&self, register: Register) -> u32 {
        match register {
            Register::LvtTimer if self.config.features.contains(LapicFeatures::TSC_DEADLINE) => {
                0x0007_00ff
            }
            Register::LvtTimer => 0x0003_00ff,
            Register::LvtLint0 | Register::LvtLint1 => 0x0001_a7ff,
            Register::LvtError => 0x0001_00ff,
            _ => 0x0001_07ff,
        }
    }

    /// The bits of a write in x2APIC mode that do not cause #GP.
    #[inline]
    fn x2apic_allowed(&self, register: Register) -> u32 {
        match register {
            // The ICR comes here only with a reserved bit set.
            Register::EndOfInterrupt | Register::ErrorStatus | Register::InterruptCommand => 0,
            Register::TaskPriority | Register::SelfIpi => 0xff,
            Register::SpuriousVector => SPURIOUS_WRITABLE,
            Register::InitialCount => u32::MAX,
            Register::Divide => DIVIDE_WRITABLE,
            Register::LvtLint0 | Register::LvtLint1 => {
                self.entry_writable(register) | STATUS | REMOTE_IRR
            }
            _ => self.entry_writable(register) | STATUS,
        }
    }
}

const ARBITRATION_PRIORITY: u8 = 0x09;

/// A register whose value depends on others or on the time.
#[derive(Clone, Copy)]
enum Computed {
    ProcessorPriority,
    CurrentCount,
}

const fn computed(number: u8) -> Option<Computed> {
    match number {
        0x0a => Some(Computed::ProcessorPriority),
        0x39 => Some(Computed::CurrentCount),
        _ => None,
    }
}

/// The registers that can be written in both modes; the self-IPI register is the x2APIC's only.
#[inline]
const fn writable(number: u8) -> Option<Register> {
    Some(match number {
        0x08 => Register::TaskPriority,
        0x0b => Register::EndOfInterrupt,
        0x0f => Register::SpuriousVector,
        0x28 => Register::ErrorStatus,
        0x30 => Register::InterruptCommand,
        0x32 => Register::LvtTimer,
        0x33 => Register::LvtThermal,
        0x34 => Register::LvtPerformance,
        0x35 => Register::LvtLint0,
        0x36 => Register::LvtLint1,
        0x37 => Register::LvtError,
        0x38 => Register::InitialCount,
        0x3e => Register::Divide,
        0x3f => Register::SelfIpi,
        _ => return None,
    })
}

/// Whether xAPIC mode has this register at all. Reading a write-only one gives 0.
const fn is_xapic_register(number: u8) -> bool {
    matches!(
        number,
        0x02 | 0x03 | 0x08..=0x28 | 0x30..=0x39 | 0x3e
    )
}

#[inline]
const fn is_x2apic_readable(number: u8) -> bool {
    matches!(
        number,
        0x02 | 0x03 | 0x08 | 0x0a | 0x0d | 0x0f..=0x28 | 0x30 | 0x32..=0x39 | 0x3e
    )
}
