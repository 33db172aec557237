//! Which VM is which, for what is remembered of a VM beyond its life, and whose a CPU had last.

use core::sync::atomic::{AtomicU64, Ordering};

/// The number of an address space, never used again while the hypervisor runs, as the frames of its tables may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceId(u64);

/// Gives out numbers, from 1 on.
#[derive(Debug)]
pub struct SpaceIds(AtomicU64);

impl SpaceIds {
    /// None is given out yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(1))
    }

    /// The next one. There are enough for a new VM each nanosecond for five hundred years.
    pub fn next(&self) -> SpaceId {
        SpaceId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for SpaceIds {
    fn default() -> Self {
        Self::new()
    }
}

/// Whose vCPU a CPU had last. Written and read by that CPU only.
#[derive(Debug)]
pub struct LastSpace(AtomicU64);

impl LastSpace {
    /// It has had none.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A vCPU of this space comes. Whether the one before it was of another: then the CPU is to forget how that one's
    /// branches went (SDM vol. 3, Indirect Branch Predictor Barrier). Also after the first boot of all, for firmware has
    /// run there.
    #[inline]
    pub fn comes(&self, space: SpaceId) -> bool {
        if self.0.load(Ordering::Relaxed) == space.0 {
            return false;
        }
        self.0.store(space.0, Ordering::Relaxed);
        true
    }
}

impl Default for LastSpace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_whose_tables_lay_where_anothers_had_lain_was_taken_for_it_and_had_its_predictions() {
        // Whatever the two have in common, they were made one after the other.
        let ids = SpaceIds::new();
        let cpu = LastSpace::new();
        let (first, second) = (ids.next(), ids.next());
        assert!(cpu.comes(first));
        assert!(cpu.comes(second));
        assert!(!cpu.comes(second));
    }

    #[test]
    fn each_cpu_forgets_at_each_change_and_at_no_other_time() {
        let ids = SpaceIds::new();
        let vms = [ids.next(), ids.next(), ids.next()];
        let cpus = [LastSpace::new(), LastSpace::new()];
        // (CPU, VM, whether predictions are to be forgotten).
        for (cpu, vm, forgets) in [
            (0, 0, true),
            (1, 0, true),
            (0, 0, false),
            (0, 1, true),
            (1, 0, false),
            (0, 0, true),
            (1, 2, true),
            (0, 0, false),
        ] {
            assert_eq!(cpus[cpu].comes(vms[vm]), forgets, "VM {vm} on CPU {cpu}");
        }
    }
}
