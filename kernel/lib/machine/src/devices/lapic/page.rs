//! [`ApicPage`]: the registers of a local APIC in one 4 KiB page, laid out as the hardware lays out its
//! virtual-APIC page.
//!
//! With APIC-register virtualisation and virtual-interrupt delivery the processor reads and changes this page
//! while the guest runs (SDM vol. 3, APIC Virtualization and Virtual Interrupts), so it is the only place where
//! these registers live. The words are relaxed atomics: the same instructions as plain memory, and the compiler
//! may not assume that a word is still what it was before the last VM entry.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use arch::Vector;

/// A register by its number: the offset in the page divided by 16, and the MSR less 0x800 (SDM vol. 3,
/// x2APIC Register Address Space).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Register {
    Id = 0x02,
    Version = 0x03,
    TaskPriority = 0x08,
    EndOfInterrupt = 0x0b,
    LogicalDestination = 0x0d,
    DestinationFormat = 0x0e,
    SpuriousVector = 0x0f,
    ErrorStatus = 0x28,
    InterruptCommand = 0x30,
    InterruptCommandHigh = 0x31,
    LvtTimer = 0x32,
    LvtThermal = 0x33,
    LvtPerformance = 0x34,
    LvtLint0 = 0x35,
    LvtLint1 = 0x36,
    LvtError = 0x37,
    InitialCount = 0x38,
    CurrentCount = 0x39,
    Divide = 0x3e,
    SelfIpi = 0x3f,
}

/// One of the three 256-bit registers; the discriminant is the number of its first word's register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Bank {
    /// ISR.
    InService = 0x10,
    /// TMR: a set bit is a level-triggered interrupt.
    TriggerMode = 0x18,
    /// IRR.
    Request = 0x20,
}

/// The registers of one local APIC.
///
/// Its address is what the hardware wants as virtual-APIC address.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ApicPage([AtomicU32; 1024]);

const _: () = assert!(size_of::<ApicPage>() == 4096 && align_of::<ApicPage>() == 4096);

impl ApicPage {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; 1024])
    }

    /// The 32-bit word with this number in the page. Words beyond the page do not exist; the number wraps.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "the mask keeps the number below the length"
    )]
    const fn word(&self, number: usize) -> &AtomicU32 {
        &self.0[number & 1023]
    }

    /// The register with this number, whether it exists or not.
    #[inline]
    pub(super) fn get_number(&self, number: u8) -> u32 {
        self.word(usize::from(number) * 4).load(Relaxed)
    }

    /// All 64 bits that RDMSR of the register with this number gives where the hardware does it by itself.
    #[inline]
    pub(super) fn get_number_wide(&self, number: u8) -> u64 {
        let high = self.word(usize::from(number) * 4 + 1).load(Relaxed);
        u64::from(self.get_number(number)) | u64::from(high) << 32
    }

    #[inline]
    pub(super) fn get(&self, register: Register) -> u32 {
        self.get_number(register as u8)
    }

    #[inline]
    pub(super) fn set(&self, register: Register, value: u32) {
        self.word(register as usize * 4).store(value, Relaxed);
    }

    /// Sets bits 32 to 63 of a register that is wider than its word: the ICR in x2APIC mode.
    #[inline]
    pub(super) fn set_upper(&self, register: Register, value: u32) {
        self.word(register as usize * 4 + 1).store(value, Relaxed);
    }

    /// 32 bits of a 256-bit register; `index` is 0 to 7.
    #[inline]
    pub(super) fn bank(&self, bank: Bank, index: usize) -> &AtomicU32 {
        self.word((bank as usize + (index & 7)) * 4)
    }

    #[inline]
    pub(super) fn is_set(&self, bank: Bank, vector: Vector) -> bool {
        let word = self.bank(bank, usize::from(vector.0 >> 5)).load(Relaxed);
        word & bit(vector) != 0
    }

    #[inline]
    pub(super) fn insert(&self, bank: Bank, vector: Vector) {
        let word = self.bank(bank, usize::from(vector.0 >> 5));
        word.store(word.load(Relaxed) | bit(vector), Relaxed);
    }

    #[inline]
    pub(super) fn remove(&self, bank: Bank, vector: Vector) {
        let word = self.bank(bank, usize::from(vector.0 >> 5));
        word.store(word.load(Relaxed) & !bit(vector), Relaxed);
    }

    /// The highest vector whose bit is set.
    #[inline]
    pub(super) fn highest(&self, bank: Bank) -> Option<Vector> {
        for index in (0..8u8).rev() {
            let word = self.bank(bank, usize::from(index)).load(Relaxed);
            if word != 0 {
                return Some(Vector(index << 5 | word.ilog2() as u8));
            }
        }
        None
    }

    /// A 256-bit register as four words of 64 bits, lowest vectors first.
    pub(super) fn bitmap(&self, bank: Bank) -> [u64; 4] {
        core::array::from_fn(|index| {
            let low = self.bank(bank, 2 * index).load(Relaxed);
            let high = self.bank(bank, 2 * index + 1).load(Relaxed);
            u64::from(low) | u64::from(high) << 32
        })
    }

    /// What the hardware does when a guest writes a register that it virtualises.
    #[cfg(test)]
    pub(super) fn store_raw(&self, offset: u16, value: u32) {
        self.word(usize::from(offset) / 4).store(value, Relaxed);
    }

    /// Zeroes the whole page.
    pub(super) fn clear(&self) {
        for word in &self.0 {
            word.store(0, Relaxed);
        }
    }
}

#[inline]
const fn bit(vector: Vector) -> u32 {
    1 << (vector.0 & 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_lie_where_the_hardware_looks_for_them() {
        let page = ApicPage::new();
        page.set(Register::TaskPriority, 0x11);
        page.set(Register::InterruptCommand, 0x22);
        page.set_upper(Register::InterruptCommand, 0x33);
        page.insert(Bank::InService, Vector(33));
        page.insert(Bank::TriggerMode, Vector(64));
        page.insert(Bank::Request, Vector(255));
        let at = |offset: usize| page.0[offset / 4].load(Relaxed);
        assert_eq!(at(0x080), 0x11);
        assert_eq!(at(0x300), 0x22);
        assert_eq!(at(0x304), 0x33);
        assert_eq!(at(0x110), 1 << 1);
        assert_eq!(at(0x1a0), 1);
        assert_eq!(at(0x270), 1 << 31);
        assert_eq!(
            page.0.iter().filter(|word| word.load(Relaxed) != 0).count(),
            6
        );
    }

    #[test]
    fn the_highest_vector_is_found_in_every_word() {
        let page = ApicPage::new();
        assert_eq!(page.highest(Bank::Request), None);
        for vector in 0..=255 {
            page.insert(Bank::Request, Vector(vector));
            assert_eq!(page.highest(Bank::Request), Some(Vector(vector)));
        }
        for vector in (1..=255).rev() {
            page.remove(Bank::Request, Vector(vector));
            assert_eq!(page.highest(Bank::Request), Some(Vector(vector - 1)));
        }
    }
}
