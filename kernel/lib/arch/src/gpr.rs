//! The general-purpose registers.

use crate::Width;

/// A general-purpose register, numbered as instruction encodings and VM-exit qualifications number it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the manuals' register names")]
pub enum Gpr {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

impl Gpr {
    /// All sixteen, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register whose number the low four bits of `number` give.
    pub const fn from_number(number: u8) -> Self {
        match number & 15 {
            0 => Self::Rax,
            1 => Self::Rcx,
            2 => Self::Rdx,
            3 => Self::Rbx,
            4 => Self::Rsp,
            5 => Self::Rbp,
            6 => Self::Rsi,
            7 => Self::Rdi,
            8 => Self::R8,
            9 => Self::R9,
            10 => Self::R10,
            11 => Self::R11,
            12 => Self::R12,
            13 => Self::R13,
            14 => Self::R14,
            _ => Self::R15,
        }
    }
}

/// The sixteen registers as the world switch saves them; assembly takes its offsets from here.
///
/// The slot of RSP is kept by the backend where the hardware keeps RSP elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Gprs([u64; 16]);

#[allow(
    clippy::indexing_slicing,
    reason = "`slot` masks the number to the length"
)]
impl Gprs {
    /// All registers zero.
    pub const fn new() -> Self {
        Self([0; 16])
    }

    /// The 64-bit value of `register`.
    #[inline]
    pub const fn get(&self, register: Gpr) -> u64 {
        self.0[slot(register)]
    }

    /// Sets all 64 bits of `register`.
    #[inline]
    pub const fn set(&mut self, register: Gpr, value: u64) {
        self.0[slot(register)] = value;
    }

    /// Writes `value` as an instruction of this width does: 8 and 16 bits leave the rest of the register as
    /// it is, 32 bits clear the upper half (SDM vol. 1, General-Purpose Registers in 64-Bit Mode).
    #[inline]
    pub const fn write(&mut self, register: Gpr, width: Width, value: u64) {
        let merged = merge(self.get(register), width, value);
        self.set(register, merged);
    }
}

/// `old` after an instruction of this width has written `value` to its low part.
#[inline]
pub const fn merge(old: u64, width: Width, value: u64) -> u64 {
    match width {
        Width::Byte | Width::Word => (old & !width.mask()) | width.truncate(value),
        Width::Dword | Width::Qword => width.truncate(value),
    }
}

const fn slot(register: Gpr) -> usize {
    register as usize & 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_writes_keep_the_rest_and_32_bit_writes_clear_it() {
        let mut gprs = Gprs::new();
        gprs.set(Gpr::Rax, 0x1122_3344_5566_7788);
        gprs.write(Gpr::Rax, Width::Byte, 0xff);
        assert_eq!(gprs.get(Gpr::Rax), 0x1122_3344_5566_77ff);
        gprs.write(Gpr::Rax, Width::Word, 0xdead);
        assert_eq!(gprs.get(Gpr::Rax), 0x1122_3344_5566_dead);
        gprs.write(Gpr::Rax, Width::Dword, 0x1_0000_0002);
        assert_eq!(gprs.get(Gpr::Rax), 2);
    }

    #[test]
    fn every_register_has_its_own_number() {
        for (number, register) in Gpr::ALL.into_iter().enumerate() {
            assert_eq!(Gpr::from_number(number as u8), register);
        }
    }
}
