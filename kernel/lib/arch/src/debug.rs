//! The debug registers: [`Dr6`] says what a debug exception came from, [`Dr7`] arms the breakpoints
//! (SDM vol. 3, Debug Registers); and [`DebugCtl`], the MSR beside them.

use bitflags::bitflags;

bitflags! {
    /// Debug status. Bits 4 to 10 and 16 to 31 read as ones.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Dr6: u64 {
        /// The conditions of the breakpoints in DR0 to DR3 are met.
        const BREAKPOINTS = 0xf;
        /// A debug register was about to be accessed while general detect was on.
        const BD = 1 << 13;
        /// Single step.
        const BS = 1 << 14;
        /// A task switch to a task whose TSS has the trap flag.
        const BT = 1 << 15;
    }

    /// Debug control. Bit 10 reads as one.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Dr7: u64 {
        /// Enables of the four breakpoints, local and global.
        const ANY_ENABLED = 0xff;
        /// The local enables, with LE: a task switch clears them.
        const LOCAL = 0x155;
        /// The global enables, with GE.
        const GLOBAL = 0x2aa;
        /// General detect: any access to a debug register is a debug exception.
        const GD = 1 << 13;
        /// Conditions and lengths of the four breakpoints.
        const CONDITIONS = 0xffff_0000;
    }
}

bitflags! {
    /// IA32_DEBUGCTL, as far as a guest has it (SDM vol. 3, IA32_DEBUGCTL MSR).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct DebugCtl: u64 {
        /// Last branches are recorded.
        const LBR = 1 << 0;
        /// Single steps are from branch to branch.
        const BTF = 1 << 1;
    }
}

impl Dr6 {
    /// What always reads as ones, and all that is set after a reset.
    pub const ONES: u64 = 0xffff_0ff0;
}

impl Dr7 {
    /// What always reads as ones, and all that is set after a reset.
    pub const ONES: u64 = 0x400;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_can_write_what_the_manual_defines() {
        assert_eq!(Dr6::all().bits(), 0xe00f);
        assert_eq!(Dr7::all().bits(), 0xffff_23ff);
    }
}
