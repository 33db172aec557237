//! What a vCPU's exits are and what they cost, counted by the CPU that runs it.
//!
//! [`Metrics`] belongs to one vCPU and is written by its run loop only: no atomics. One exit costs a few
//! additions and one count of leading zeroes. Whoever shows the figures takes a copy while the vCPU is at rest,
//! or lives with figures that are an exit apart.

use core::fmt;

use crate::exit::VmExit;

macro_rules! exit_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $pattern:pat,)*) => {
        /// What kind of exit, without its details.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum ExitKind {
            $($(#[$doc])* $kind,)*
        }

        impl ExitKind {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; ExitKind::COUNT] = [$(Self::$kind,)*];
            /// How many there are.
            pub const COUNT: usize = [$($name,)*].len();

            /// The kind of an exit.
            #[inline]
            pub const fn of(exit: &VmExit) -> Self {
                match exit {
                    $($pattern => Self::$kind,)*
                }
            }

            /// A short name for tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

exit_kinds! {
    /// CPUID.
    Cpuid = "cpuid", VmExit::Cpuid,
    /// HLT.
    Hlt = "hlt", VmExit::Hlt,
    /// PAUSE.
    Pause = "pause", VmExit::Pause,
    /// INVD, WBINVD or INVLPG.
    CacheOrTlb = "cache/tlb", VmExit::Invd | VmExit::Wbinvd | VmExit::Invlpg(_),
    /// XSETBV.
    Xsetbv = "xsetbv", VmExit::Xsetbv,
    /// RDTSC or RDTSCP.
    Tsc = "rdtsc", VmExit::Rdtsc | VmExit::Rdtscp,
    /// An instruction that guests do not have.
    Hidden = "hidden instruction", VmExit::Rdpmc | VmExit::Monitor | VmExit::Mwait
        | VmExit::Random | VmExit::NoSuchInstruction,
    /// A hypercall.
    Hypercall = "hypercall", VmExit::Hypercall,
    /// Port I/O.
    PortIo = "port", VmExit::PortIo(_),
    /// RDMSR.
    ReadMsr = "rdmsr", VmExit::ReadMsr,
    /// WRMSR.
    WriteMsr = "wrmsr", VmExit::WriteMsr,
    /// A control register.
    ControlRegister = "cr", VmExit::ControlRegister(_),
    /// A debug register.
    DebugRegister = "dr", VmExit::DebugRegister(_),
    /// A descriptor-table register.
    DescriptorTable = "descriptor table", VmExit::DescriptorTable(_),
    /// Memory that is not RAM, or not there yet.
    Memory = "memory", VmExit::Memory(_) | VmExit::MemoryMisconfigured(_),
    /// A guest exception.
    Exception = "exception", VmExit::Exception(_),
    /// The local APIC, as far as the hardware does not do it.
    Apic = "apic", VmExit::ApicAccess { .. } | VmExit::ApicWrite { .. } | VmExit::ApicEoi(_)
        | VmExit::TprBelowThreshold,
    /// A task switch.
    TaskSwitch = "task switch", VmExit::TaskSwitch(_),
    /// An interrupt or NMI window.
    Window = "window", VmExit::InterruptWindow | VmExit::NmiWindow,
    /// Single-stepping.
    SingleStep = "single step", VmExit::SingleStep,
    /// The host's interrupts.
    HostInterrupt = "host interrupt", VmExit::HostInterrupt(_) | VmExit::HostNmi
        | VmExit::HostInit | VmExit::HostSmi,
    /// The preemption timer.
    HostTimer = "host timer", VmExit::HostTimer,
    /// The log of written pages.
    DirtyLog = "dirty log", VmExit::DirtyLogFull,
    /// Memory of the guest that was missing in its second-level page tables.
    Mapped = "memory mapped", VmExit::MemoryMapped,
    /// What ends a VM.
    Fatal = "fatal", VmExit::TripleFault | VmExit::HostMachineCheck | VmExit::EntryMachineCheck
        | VmExit::EntryRefused { .. } | VmExit::Unexpected { .. },
}

/// Buckets of the histograms: one for each power of two.
const BUCKETS: usize = 64;

/// The figures of one kind of exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitFigures {
    /// How many.
    pub count: u64,
    /// Ticks of the host's TSC spent on all of them.
    pub ticks: u64,
    /// By the logarithm to base 2 of the ticks of one.
    pub by_log2_ticks: [u32; BUCKETS],
}

impl ExitFigures {
    const ZERO: Self = Self {
        count: 0,
        ticks: 0,
        by_log2_ticks: [0; BUCKETS],
    };

    /// The ticks below which this share of the exits, in thousandths, was done; a power of two, or `None`
    /// without exits.
    pub fn permille_below(&self, share: u64) -> Option<u64> {
        let total: u64 = self
            .by_log2_ticks
            .iter()
            .map(|count| u64::from(*count))
            .sum();
        let wanted = (total * share).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in (1u32..).zip(self.by_log2_ticks) {
            seen += u64::from(count);
            if seen >= wanted {
                return Some(1u64.checked_shl(bucket).unwrap_or(u64::MAX));
            }
        }
        None
    }
}

/// How many exits of a kind there were, and what they took together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExitTotal {
    /// How many.
    pub count: u64,
    /// Ticks of the host's TSC.
    pub ticks: u64,
}

/// The figures of one vCPU.
#[derive(Clone, Debug)]
pub struct Metrics {
    kinds: [ExitFigures; ExitKind::COUNT],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub const fn new() -> Self {
        Self {
            kinds: [ExitFigures::ZERO; ExitKind::COUNT],
        }
    }

    /// Counts one exit that took this many ticks until the guest ran again.
    #[inline(always)]
    pub fn count(&mut self, kind: ExitKind, ticks: u64) {
        let Some(figures) = self.kinds.get_mut(kind as usize) else {
            return;
        };
        figures.count = figures.count.wrapping_add(1);
        figures.ticks = figures.ticks.wrapping_add(ticks);
        let bucket = (ticks | 1).ilog2() as usize;
        if let Some(count) = figures.by_log2_ticks.get_mut(bucket) {
            *count = count.wrapping_add(1);
        }
    }

    /// The figures of one kind.
    pub fn of(&self, kind: ExitKind) -> &ExitFigures {
        self.kinds.get(kind as usize).unwrap_or(&ExitFigures::ZERO)
    }

    /// The kinds, each as a total.
    pub fn totals(&self) -> [ExitTotal; ExitKind::COUNT] {
        self.kinds.map(|figures| ExitTotal {
            count: figures.count,
            ticks: figures.ticks,
        })
    }

    /// All exits.
    pub fn total(&self) -> u64 {
        self.kinds
            .iter()
            .fold(0, |sum, figures| sum.wrapping_add(figures.count))
    }
}

/// A table of the kinds that there were, the most expensive first.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = ExitKind::ALL;
        kinds.sort_unstable_by_key(|kind| core::cmp::Reverse(self.of(*kind).ticks));
        writeln!(
            f,
            "{:<18} {:>12} {:>16} {:>8} {:>8}",
            "exit", "count", "ticks", "mean", "99 %<"
        )?;
        for kind in kinds {
            let figures = self.of(kind);
            let Some(mean) = figures.ticks.checked_div(figures.count) else {
                continue;
            };
            let most = figures.permille_below(990).unwrap_or(0);
            writeln!(
                f,
                "{:<18} {:>12} {:>16} {:>8} {:>8}",
                kind.name(),
                figures.count,
                figures.ticks,
                mean,
                most
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn exits_are_counted_by_kind() {
        let mut metrics = Metrics::new();
        metrics.count(ExitKind::of(&VmExit::Cpuid), 100);
        metrics.count(ExitKind::of(&VmExit::Cpuid), 300);
        metrics.count(ExitKind::of(&VmExit::HostTimer), 7);
        assert_eq!(
            (
                metrics.of(ExitKind::Cpuid).count,
                metrics.of(ExitKind::Cpuid).ticks
            ),
            (2, 400)
        );
        assert_eq!(metrics.total(), 3);
    }

    #[test]
    fn ticks_fall_into_buckets_by_their_logarithm() {
        let mut metrics = Metrics::new();
        for ticks in [0, 1, 2, 3, 255, 256, 1 << 40] {
            metrics.count(ExitKind::Hlt, ticks);
        }
        let buckets = metrics.of(ExitKind::Hlt).by_log2_ticks;
        assert_eq!(
            (buckets[0], buckets[1], buckets[7], buckets[8], buckets[40]),
            (2, 2, 1, 1, 1)
        );
    }

    #[test]
    fn a_share_of_the_exits_lies_below_a_power_of_two() {
        let mut metrics = Metrics::new();
        for _ in 0..99 {
            metrics.count(ExitKind::Hlt, 500);
        }
        metrics.count(ExitKind::Hlt, 100_000);
        let figures = metrics.of(ExitKind::Hlt);
        assert_eq!(figures.permille_below(500), Some(512));
        assert_eq!(figures.permille_below(990), Some(512));
        assert_eq!(figures.permille_below(1000), Some(131_072));
        assert_eq!(metrics.of(ExitKind::Cpuid).permille_below(500), None);
    }

    #[test]
    fn the_table_begins_with_what_costs_most() {
        let mut metrics = Metrics::new();
        metrics.count(ExitKind::Cpuid, 10);
        metrics.count(ExitKind::PortIo, 2000);
        let table = metrics.to_string();
        let rows: alloc::vec::Vec<_> = table.lines().collect();
        assert_eq!(rows.len(), 3);
        assert!(
            rows[1].starts_with("port ") && rows[2].starts_with("cpuid "),
            "{table}"
        );
    }
}
