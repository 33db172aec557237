//! Control registers, EFER, RFLAGS and XCR0 as flags.

use bitflags::bitflags;

bitflags! {
    /// CR0 (SDM vol. 3, Control Registers).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type; reads as one.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
        const _ = !0;
    }

    /// CR4 (SDM vol. 3, Control Registers).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// Time stamp disable.
        const TSD = 1 << 2;
        /// Debugging extensions.
        const DE = 1 << 3;
        /// Page size extensions.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine-check enable.
        const MCE = 1 << 6;
        /// Page global enable.
        const PGE = 1 << 7;
        /// Performance-monitoring counter enable.
        const PCE = 1 << 8;
        /// FXSAVE and FXRSTOR support.
        const OSFXSR = 1 << 9;
        /// Unmasked SIMD floating-point exceptions.
        const OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        const UMIP = 1 << 11;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// VMX enable.
        const VMXE = 1 << 13;
        /// SMX enable.
        const SMXE = 1 << 14;
        /// FSGSBASE instructions.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and processor extended states.
        const OSXSAVE = 1 << 18;
        /// Key locker.
        const KL = 1 << 19;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Protection keys for user-mode pages.
        const PKE = 1 << 22;
        /// Control-flow enforcement.
        const CET = 1 << 23;
        /// Protection keys for supervisor-mode pages.
        const PKS = 1 << 24;
        const _ = !0;
    }

    /// IA32_EFER (SDM vol. 3, Extended Feature Enable Register).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Efer: u64 {
        /// SYSCALL enable.
        const SCE = 1 << 0;
        /// IA-32e mode enable.
        const LME = 1 << 8;
        /// IA-32e mode active.
        const LMA = 1 << 10;
        /// Execute-disable enable.
        const NXE = 1 << 11;
        const _ = !0;
    }

    /// RFLAGS (SDM vol. 1, EFLAGS Register).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const ONE = 1 << 1;
        /// Parity.
        const PF = 1 << 2;
        /// Auxiliary carry.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap.
        const TF = 1 << 8;
        /// Interrupt enable.
        const IF = 1 << 9;
        /// Direction.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, both bits.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check.
        const AC = 1 << 18;
        /// Virtual interrupt.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID is available.
        const ID = 1 << 21;
        const _ = !0;
    }

    /// XCR0 (SDM vol. 1, XSAVE-Supported Features and State-Component Bitmaps).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Xcr0: u64 {
        /// x87; always one.
        const X87 = 1 << 0;
        /// XMM registers and MXCSR.
        const SSE = 1 << 1;
        /// Upper halves of the YMM registers.
        const AVX = 1 << 2;
        /// MPX bound registers.
        const BNDREGS = 1 << 3;
        /// MPX configuration.
        const BNDCSR = 1 << 4;
        /// AVX-512 mask registers.
        const OPMASK = 1 << 5;
        /// Upper halves of ZMM0 to ZMM15.
        const ZMM_HI256 = 1 << 6;
        /// ZMM16 to ZMM31.
        const HI16_ZMM = 1 << 7;
        /// Protection keys.
        const PKRU = 1 << 9;
        /// AMX tile configuration.
        const TILECFG = 1 << 17;
        /// AMX tiles.
        const TILEDATA = 1 << 18;
        const _ = !0;
    }
}

impl Cr4 {
    /// What a hypervisor without user mode can do with, where the processor has it.
    pub const OF_HOST: Self = Self::PAE
        .union(Self::MCE)
        .union(Self::PGE)
        .union(Self::OSFXSR)
        .union(Self::OSXMMEXCPT)
        // For XSETBV and XSAVE of guests' registers.
        .union(Self::OSXSAVE)
        // Nothing of user mode is ever mapped, but a stray jump or pointer below must not go unnoticed if it once is.
        .union(Self::SMEP)
        .union(Self::SMAP)
        // Protection keys are about pages of user mode, too; with this RDPKRU reads a guest's.
        .union(Self::PKE);
    /// What cannot be cleared where it is set: in VMX operation, and in 64-bit mode.
    const FIXED: Self = Self::VMXE.union(Self::SMXE).union(Self::LA57);

    /// CR4 of the host, on a processor that has what is `offered`, and after firmware that has left it like this: what
    /// firmware uses beyond that (shadow stacks, protection keys, other ways of delivering events) ends.
    #[must_use]
    pub const fn of_host(before: Self, offered: Self) -> Self {
        before
            .intersection(Self::FIXED)
            .union(Self::OF_HOST.intersection(offered))
    }
}

impl Xcr0 {
    /// The three AVX-512 components, set only together.
    pub const AVX512: Self = Self::OPMASK.union(Self::ZMM_HI256).union(Self::HI16_ZMM);
    /// The two MPX components, set only together.
    pub const MPX: Self = Self::BNDREGS.union(Self::BNDCSR);
    /// The two AMX components, set only together.
    pub const AMX: Self = Self::TILECFG.union(Self::TILEDATA);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firmware_had_on_beyond_our_needs_is_off() {
        let offered = Cr4::all();
        // CET, PKS, UINTR, LASS, LAM, FRED, and PCIDs.
        let before = Cr4::from_bits_retain(1 << 32 | 0x1b80_0000 | 1 << 17 | 0x668);
        let host = Cr4::of_host(before, offered);
        assert_eq!(host.bits(), 0x0074_06e0);
        // What the processor lacks stays off.
        let old = Cr4::PAE | Cr4::MCE | Cr4::PGE | Cr4::OSFXSR | Cr4::OSXMMEXCPT;
        assert_eq!(Cr4::of_host(before, old).bits(), 0x6e0);
    }

    #[test]
    fn what_cannot_be_cleared_stays() {
        let before = Cr4::from_bits_retain(0x7020);
        assert_eq!(Cr4::of_host(before, Cr4::PAE).bits(), 0x7020);
    }
}
