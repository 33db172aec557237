//! [`CpuSet`]: some of the host's CPUs; [`SharedCpuSet`]: such a set that one CPU changes and all read.

use core::sync::atomic::{AtomicU64, Ordering};

/// CPUs of the host that there can be.
pub const MAX_CPUS: usize = 256;

/// A set of the host's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; MAX_CPUS / 64]);

    /// CPUs 0 up to but not including `count`.
    pub fn first(count: usize) -> Self {
        (0..count.min(MAX_CPUS) as u16).collect()
    }

    /// Whether the CPU is in it.
    pub fn contains(&self, cpu: u16) -> bool {
        self.0
            .get(usize::from(cpu) / 64)
            .is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// Adds a CPU; one that cannot be is left out.
    pub fn insert(&mut self, cpu: u16) {
        if let Some(word) = self.0.get_mut(usize::from(cpu) / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: u16) {
        if let Some(word) = self.0.get_mut(usize::from(cpu) / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The CPUs that are in this set and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine & !theirs)
    }

    /// The CPUs that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine & theirs)
    }

    fn combine(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut words = self.0;
        for (word, theirs) in words.iter_mut().zip(other.0) {
            *word = f(*word, theirs);
        }
        Self(words)
    }

    /// The CPUs, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..MAX_CPUS as u16).filter(|cpu| self.contains(*cpu))
    }
}

impl FromIterator<u16> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u16>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl FromIterator<u32> for CpuSet {
    /// As a configuration has the numbers; those of CPUs that cannot be are left out.
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let cpus = cpus.into_iter();
        cpus.filter_map(|cpu| u16::try_from(cpu).ok()).collect()
    }
}

/// A [`CpuSet`] that some CPU changes and all read. A reader may see some of a change before the rest.
#[derive(Debug, Default)]
pub struct SharedCpuSet([AtomicU64; MAX_CPUS / 64]);

impl SharedCpuSet {
    /// Replaces the set.
    pub fn set(&self, set: &CpuSet) {
        for (word, value) in self.0.iter().zip(set.0) {
            word.store(value, Ordering::Release);
        }
    }

    /// The set.
    pub fn get(&self) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for (value, word) in set.0.iter_mut().zip(&self.0) {
            *value = word.load(Ordering::Acquire);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[u16]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn sets_of_cpus_reach_to_the_last_one() {
        let mut cpus = set(&[0, 63, 64, 255, 256, 1000]);
        assert_eq!(
            cpus.iter().collect::<alloc::vec::Vec<_>>(),
            [0, 63, 64, 255]
        );
        cpus.remove(64);
        assert_eq!(
            (cpus.len(), cpus.contains(64), cpus.contains(300)),
            (3, false, false)
        );
        assert_eq!(CpuSet::first(3), set(&[0, 1, 2]));
    }

    #[test]
    fn the_set_that_a_cpu_shares_is_what_others_read() {
        let cpus = SharedCpuSet::default();
        cpus.set(&set(&[1, 200]));
        assert_eq!(cpus.get(), set(&[1, 200]));
    }
}
