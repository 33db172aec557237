//! Machine checks: errors that the processor finds in itself, its caches, or memory, and what can go on after one.
//!
//! [`judge`] looks at what one CPU tells: the global status and its error-reporting banks. A machine check mostly
//! reaches all CPUs at once, of which most have nothing to do with it. SDM vol. 3, Machine-Check Architecture: Recovery of
//! Uncorrected Recoverable (UCR) Errors.

use bitflags::bitflags;

use crate::msr;

bitflags! {
    /// IA32_MCG_CAP; the number of banks is in the lowest byte.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Capabilities: u64 {
        /// MCG_CTL_P: there is an IA32_MCG_CTL.
        const GLOBAL_CONTROL = 1 << 8;
        /// MCG_SER_P: banks tell which uncorrected errors software can recover from.
        const SOFTWARE_RECOVERY = 1 << 24;
        const _ = !0;
    }

    /// IA32_MCG_STATUS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct GlobalStatus: u64 {
        /// What was interrupted can be restarted.
        const RIPV = 1 << 0;
        /// What was interrupted has to do with the error.
        const EIPV = 1 << 1;
        /// A machine check is being handled; another one before this is cleared shuts the CPU down.
        const MCIP = 1 << 2;
        const _ = !0;
    }

    /// IA32_MCi_STATUS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct BankStatus: u64 {
        /// What used the bad data must not go on.
        const AR = 1 << 55;
        /// It was signalled by this machine check.
        const S = 1 << 56;
        /// The state of the processor may be corrupt.
        const PCC = 1 << 57;
        /// IA32_MCi_ADDR holds an address.
        const ADDRV = 1 << 58;
        /// Signalling was enabled for the error; else it is spurious.
        const EN = 1 << 60;
        /// The error was not corrected.
        const UC = 1 << 61;
        /// Another error came before this one was cleared.
        const OVER = 1 << 62;
        /// The bank holds an error.
        const VAL = 1 << 63;
        const _ = !0;
    }
}

impl Capabilities {
    /// How many banks there are.
    pub const fn banks(self) -> u8 {
        self.bits() as u8
    }
}

/// IA32_MCi_CTL of this bank, in which a bit lets an error be signalled; `None` where it is not software's to write: of the
/// first bank up to the last processors without an integrated memory controller (SDM vol. 3, IA32_MCi_CTL MSRs).
pub const fn control_msr(bank: u8, signature: u32) -> Option<u32> {
    const FAMILY_6: u32 = 6;
    const FIRST_WITH: u32 = 0x1a;
    let family = signature >> 8 & 0xf;
    let model = signature >> 4 & 0xf | signature >> 12 & 0xf0;
    if bank == 0 && family == FAMILY_6 && model < FIRST_WITH {
        return None;
    }
    Some(msr::IA32_MC0_CTL + 4 * bank as u32)
}

/// IA32_MCi_STATUS of this bank.
pub const fn status_msr(bank: u8) -> u32 {
    msr::IA32_MC0_CTL + 4 * bank as u32 + 1
}

/// IA32_MCi_ADDR of this bank.
pub const fn address_msr(bank: u8) -> u32 {
    msr::IA32_MC0_CTL + 4 * bank as u32 + 2
}

/// What a machine check has interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupted {
    /// A guest.
    Guest,
    /// The hypervisor itself.
    Hypervisor,
}

/// What can go on, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// What was interrupted.
    GoOn,
    /// All but the guest that was interrupted.
    GuestEnds,
    /// Nothing: this machine is not to be relied on.
    Fatal,
}

/// What can go on, by what one CPU tells in its registers.
pub fn judge(
    capabilities: Capabilities,
    global: GlobalStatus,
    banks: impl Iterator<Item = BankStatus>,
    interrupted: Interrupted,
) -> Verdict {
    let at_an_end = match interrupted {
        Interrupted::Guest => Verdict::GuestEnds,
        Interrupted::Hypervisor => Verdict::Fatal,
    };
    let restartable = if global.contains(GlobalStatus::RIPV) {
        Verdict::GoOn
    } else {
        at_an_end
    };
    // SDM vol. 3, UCR Error Classification: the flags of a CPU that merely hears of an error that another one has met.
    let concerned = global & (GlobalStatus::RIPV | GlobalStatus::EIPV) != GlobalStatus::RIPV;
    let of_bank = |bank: BankStatus| {
        if !bank.contains(BankStatus::VAL | BankStatus::UC | BankStatus::EN) {
            return Verdict::GoOn;
        }
        let recoverable = capabilities.contains(Capabilities::SOFTWARE_RECOVERY)
            && !bank.contains(BankStatus::PCC);
        match (bank.contains(BankStatus::S), bank.contains(BankStatus::AR)) {
            _ if !recoverable => Verdict::Fatal,
            // Bad data was found, and nobody has used it.
            (_, false) => Verdict::GoOn,
            (true, true) if bank.contains(BankStatus::OVER) => Verdict::Fatal,
            (true, true) if concerned => at_an_end,
            (true, true) => Verdict::GoOn,
            // No processor has this.
            (false, true) => Verdict::Fatal,
        }
    };
    banks.map(of_bank).fold(restartable, Verdict::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECOVERY: Capabilities = Capabilities::SOFTWARE_RECOVERY;
    /// RIPV and MCIP: what most CPUs see of a machine check elsewhere.
    const BYSTANDER: u64 = 5;
    /// RIPV, EIPV and MCIP.
    const CONCERNED: u64 = 7;
    /// VAL, UC and EN, and the error code of a read of memory.
    const UNCORRECTED: u64 = 1 << 63 | 1 << 61 | 1 << 60 | 0x9f;
    const S: u64 = 1 << 56;
    const AR: u64 = 1 << 55;

    fn verdict(capabilities: Capabilities, global: u64, banks: &[u64]) -> [Verdict; 2] {
        [Interrupted::Guest, Interrupted::Hypervisor].map(|interrupted| {
            let banks = banks.iter().copied().map(BankStatus::from_bits_retain);
            judge(
                capabilities,
                GlobalStatus::from_bits_retain(global),
                banks,
                interrupted,
            )
        })
    }

    #[test]
    fn a_cpu_that_only_hears_of_a_machine_check_goes_on() {
        let go_on = [Verdict::GoOn; 2];
        assert_eq!(verdict(RECOVERY, BYSTANDER, &[]), go_on);
        assert_eq!(verdict(RECOVERY, BYSTANDER, &[0, 0]), go_on);
        assert_eq!(verdict(RECOVERY, BYSTANDER, &[UNCORRECTED | S | AR]), go_on);
        // Corrected, and spurious.
        assert_eq!(verdict(RECOVERY, BYSTANDER, &[1 << 63 | 1 << 60]), go_on);
        assert_eq!(verdict(RECOVERY, BYSTANDER, &[1 << 63 | 1 << 61]), go_on);
    }

    #[test]
    fn bad_data_that_nobody_used_is_no_reason_to_stop() {
        for optional in [0, S, S | 1 << 62] {
            let found = verdict(RECOVERY, CONCERNED, &[UNCORRECTED | optional]);
            assert_eq!(found, [Verdict::GoOn; 2], "{optional:#x}");
        }
    }

    #[test]
    fn bad_data_that_a_guest_used_ends_that_guest_alone() {
        let used = [UNCORRECTED | S | AR];
        let ends = [Verdict::GuestEnds, Verdict::Fatal];
        assert_eq!(verdict(RECOVERY, CONCERNED, &used), ends);
        // An instruction fetch: neither flag.
        assert_eq!(verdict(RECOVERY, 4, &used), ends);
        // What cannot be restarted ends, too.
        assert_eq!(verdict(RECOVERY, 4, &[]), ends);
    }

    #[test]
    fn corrupt_state_and_errors_without_a_class_are_fatal() {
        let fatal = [Verdict::Fatal; 2];
        for bank in [
            UNCORRECTED | 1 << 57,
            UNCORRECTED | S | AR | 1 << 62,
            UNCORRECTED | AR,
        ] {
            assert_eq!(verdict(RECOVERY, CONCERNED, &[0, bank]), fatal, "{bank:#x}");
        }
        let old = Capabilities::empty();
        assert_eq!(verdict(old, CONCERNED, &[UNCORRECTED]), fatal);
    }

    #[test]
    fn the_banks_registers_are_four_apart() {
        assert_eq!((status_msr(0), address_msr(0)), (0x401, 0x402));
        assert_eq!((status_msr(7), address_msr(7)), (0x41d, 0x41e));
        assert_eq!(Capabilities::from_bits_retain(0x0f00_0c14).banks(), 0x14);
    }

    #[test]
    fn the_first_bank_of_old_processors_is_left_to_the_firmware() {
        let (penryn, skylake) = (0x0001_067a, 0x0005_0654);
        assert_eq!(control_msr(0, penryn), None);
        assert_eq!(control_msr(1, penryn), Some(0x404));
        assert_eq!(control_msr(0, skylake), Some(0x400));
        assert_eq!(control_msr(3, skylake), Some(0x40c));
    }
}
