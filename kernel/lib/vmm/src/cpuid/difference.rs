//! Whether all CPUs of a machine are what guests were told of one of them: [`CpuidTable::check_against`].
//!
//! A vCPU moves from CPU to CPU, and what CPUID has told its guest holds for ever. CPUs of one machine may differ all the
//! same: by kind of core, by what firmware has switched off, by their microcode.

use core::fmt;

use arch::cpuid::CpuidLeaf;

use super::{CpuidTable, Rule};

/// Something that guests are told of, and that a CPU does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lacking {
    /// The leaf of CPUID that tells of it.
    leaf: u32,
    /// The register of the answer.
    register: &'static str,
    /// The bits there.
    bits: u32,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it lacks what the boot CPU has (CPUID leaf {:#x}, {}: {:#x})",
            self.leaf, self.register, self.bits
        )
    }
}

impl core::error::Error for Lacking {}

impl CpuidTable {
    /// Checks that a guest which is told this can run on a CPU where it would be told `here`.
    ///
    /// # Errors
    /// What that CPU lacks first.
    pub fn check_against(&self, here: &Self) -> Result<(), Lacking> {
        let features = self.feature_words().into_iter().zip(here.feature_words());
        for ((leaf, register, promised), (_, _, offered)) in features {
            let bits = promised & !offered;
            if bits != 0 {
                return Err(Lacking {
                    leaf,
                    register,
                    bits,
                });
            }
        }
        if !self.xsave.is_laid_out_as(&here.xsave) {
            return Err(Lacking {
                leaf: CpuidLeaf::XSAVE,
                register: "EBX",
                bits: u32::MAX,
            });
        }
        if here.physical_address_bits < self.physical_address_bits {
            return Err(Lacking {
                leaf: CpuidLeaf::ADDRESS_SIZES,
                register: "EAX",
                bits: 0xff,
            });
        }
        Ok(())
    }

    /// Every word whose bits each stand for a feature.
    fn feature_words(&self) -> [(u32, &'static str, u32); 10] {
        let more = match self.basic.get(CpuidLeaf::EXTENDED_FEATURES as usize) {
            Some(entry) => match entry.rule {
                Rule::StructuredFeatures { first, count } => {
                    self.subleaf(first, count, 1).map_or(0, |found| found.eax)
                }
                _ => 0,
            },
            None => 0,
        };
        let extended = self.extended.get(1).map_or(0, |entry| entry.registers.ecx);
        [
            (1, "ECX", self.leaf_1_ecx().bits()),
            (1, "EDX", self.leaf_1_edx().bits()),
            (7, "EBX", self.leaf_7_ebx().bits()),
            (7, "ECX", self.leaf_7_ecx().bits()),
            (7, "EDX", self.leaf_7_edx().bits()),
            (7, "EAX of subleaf 1", more),
            (0xd, "EAX", self.allowed_xcr0().bits() as u32),
            (0xd, "EAX of subleaf 1", self.xsave.features().bits()),
            (CpuidLeaf::EXTENDED_PROCESSOR, "ECX", extended),
            (
                CpuidLeaf::EXTENDED_PROCESSOR,
                "EDX",
                self.extended_1_edx().bits(),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use arch::cpuid::CpuidResult;

    use super::*;
    use crate::testing::{guest_cpu_config, host_cpuid};

    fn table(change: impl Fn(u32, u32, &mut CpuidResult)) -> CpuidTable {
        let host = |leaf, subleaf| {
            let mut found = host_cpuid(leaf, subleaf);
            change(leaf, subleaf, &mut found);
            found
        };
        CpuidTable::build(&host, &guest_cpu_config())
    }

    #[test]
    fn a_core_without_avx_512_gets_no_guest_that_was_told_of_it() {
        let boot = table(|_, _, _| {});
        let efficient = table(|leaf, _, found| {
            if leaf == 7 {
                found.ebx &= !(1 << 16);
            }
        });
        let lacking = boot.check_against(&efficient).unwrap_err();
        assert_eq!((lacking.leaf, lacking.register), (7, "EBX"));
        assert!(lacking.bits & 1 << 16 != 0);
        assert!(
            lacking
                .to_string()
                .starts_with("it lacks what the boot CPU has")
        );
        // It is no harm to have more.
        assert_eq!(efficient.check_against(&boot), Ok(()));
        assert_eq!(boot.check_against(&boot), Ok(()));
    }

    #[test]
    fn what_guests_are_not_told_of_may_differ() {
        let boot = table(|_, _, _| {});
        // TM, the hybrid bit, and MONITOR.
        let other = table(|leaf, subleaf, found| match (leaf, subleaf) {
            (1, _) => {
                found.edx &= !(1 << 29);
                found.ecx &= !(1 << 3);
            }
            (7, 0) => found.edx ^= 1 << 15,
            _ => {}
        });
        assert_eq!(boot.check_against(&other), Ok(()));
    }

    #[test]
    fn state_that_is_saved_elsewhere_or_wider_addresses_are_a_difference() {
        let boot = table(|_, _, _| {});
        let moved = table(|leaf, subleaf, found| {
            if (leaf, subleaf) == (0xd, 2) {
                found.ebx += 64;
            }
        });
        assert_eq!(boot.check_against(&moved).unwrap_err().leaf, 0xd);
        let narrow = table(|leaf, _, found| {
            if leaf == 0x8000_0008 {
                found.eax = found.eax & !0xff | 36;
            }
        });
        assert_eq!(boot.check_against(&narrow).unwrap_err().leaf, 0x8000_0008);
        assert_eq!(narrow.check_against(&boot), Ok(()));
    }
}
