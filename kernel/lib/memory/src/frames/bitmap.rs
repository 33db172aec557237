//! A set of small numbers as a bitmap with summaries: each word of a level says which words of the level
//! below are not zero. Finding a neighbour in the set takes a few steps whatever the size.

/// Levels that 2^48 bits could need, 64 to a word.
const MAX_LEVELS: usize = 8;

/// The shape of a bitmap; its words lie in storage that the caller passes in, from the word `base` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bitmap {
    base: usize,
    bits: u64,
}

impl Bitmap {
    /// A bitmap of this many bits whose words start at `base`.
    pub(super) const fn new(base: usize, bits: u64) -> Self {
        Self { base, bits }
    }

    /// Words of storage, all levels together.
    pub(super) const fn words(bits: u64) -> usize {
        let mut total = 0;
        let mut level_bits = bits;
        loop {
            let words = level_bits.div_ceil(64);
            total += words as usize;
            if words <= 1 {
                return total;
            }
            level_bits = words;
        }
    }

    /// Whether `bit` is in the set.
    pub(super) fn contains(self, words: &[u64], bit: u64) -> bool {
        bit < self.bits && word(words, self.base + (bit / 64) as usize) & mask(bit) != 0
    }

    /// Puts `bit` into the set.
    pub(super) fn insert(self, words: &mut [u64], bit: u64) {
        if bit >= self.bits {
            return;
        }
        let mut at = bit;
        for (start, _) in self.levels() {
            let Some(slot) = words.get_mut(start + (at / 64) as usize) else {
                return;
            };
            let was_empty = *slot == 0;
            *slot |= mask(at);
            if !was_empty {
                return;
            }
            at /= 64;
        }
    }

    /// Takes `bit` out of the set.
    pub(super) fn remove(self, words: &mut [u64], bit: u64) {
        if bit >= self.bits {
            return;
        }
        let mut at = bit;
        for (start, _) in self.levels() {
            let Some(slot) = words.get_mut(start + (at / 64) as usize) else {
                return;
            };
            *slot &= !mask(at);
            if *slot != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The lowest member at or above `from`.
    pub(super) fn next(self, words: &[u64], from: u64) -> Option<u64> {
        if from >= self.bits {
            return None;
        }
        // Up until some word has a member at or behind the position, then down along first members.
        let (starts, count) = self.level_starts();
        let mut at = from;
        for level in 0..count {
            let start = *starts.get(level)?;
            let behind = word(words, start + (at / 64) as usize) & (u64::MAX << (at % 64));
            if behind != 0 {
                let mut found = at / 64 * 64 + u64::from(behind.trailing_zeros());
                for &start in starts.get(..level)?.iter().rev() {
                    let below = word(words, start + found as usize);
                    found = found * 64 + u64::from(below.trailing_zeros());
                }
                return Some(found);
            }
            at = at / 64 + 1;
            if at >= self.level_bits(level + 1) {
                return None;
            }
        }
        None
    }

    /// The highest member at or below `from`.
    pub(super) fn previous(self, words: &[u64], from: u64) -> Option<u64> {
        let (starts, count) = self.level_starts();
        let mut at = from.min(self.bits.checked_sub(1)?);
        for level in 0..count {
            let start = *starts.get(level)?;
            let before = word(words, start + (at / 64) as usize) & (u64::MAX >> (63 - at % 64));
            if before != 0 {
                let mut found = at / 64 * 64 + u64::from(before.ilog2());
                for &start in starts.get(..level)?.iter().rev() {
                    let below = word(words, start + found as usize);
                    found = found * 64 + u64::from(below.checked_ilog2()?);
                }
                return Some(found);
            }
            at = (at / 64).checked_sub(1)?;
        }
        None
    }

    /// First word and number of bits of each level, lowest first.
    fn levels(self) -> impl Iterator<Item = (usize, u64)> {
        let mut next = Some((self.base, self.bits));
        core::iter::from_fn(move || {
            let (start, bits) = next?;
            let words = bits.div_ceil(64);
            next = (words > 1).then_some((start + words as usize, words));
            Some((start, bits))
        })
    }

    fn level_starts(self) -> ([usize; MAX_LEVELS], usize) {
        let mut starts = [0; MAX_LEVELS];
        let mut count = 0;
        for (slot, (start, _)) in starts.iter_mut().zip(self.levels()) {
            *slot = start;
            count += 1;
        }
        (starts, count)
    }

    fn level_bits(self, level: usize) -> u64 {
        self.levels().nth(level).map_or(0, |(_, bits)| bits)
    }
}

fn word(words: &[u64], index: usize) -> u64 {
    words.get(index).copied().unwrap_or(0)
}

const fn mask(bit: u64) -> u64 {
    1 << (bit % 64)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_an_ordered_set(
            bits in 1u64..9000,
            steps in prop::collection::vec((any::<bool>(), 0u64..9000), 0..60),
            probes in prop::collection::vec(0u64..9100, 20),
        ) {
            let bitmap = Bitmap::new(3, bits);
            let mut words = vec![0; 3 + Bitmap::words(bits)];
            let mut model = BTreeSet::new();
            for (insert, bit) in steps {
                let bit = bit % bits;
                if insert {
                    bitmap.insert(&mut words, bit);
                    model.insert(bit);
                } else {
                    bitmap.remove(&mut words, bit);
                    model.remove(&bit);
                }
            }
            for probe in probes {
                prop_assert_eq!(bitmap.contains(&words, probe), model.contains(&probe));
                prop_assert_eq!(bitmap.next(&words, probe), model.range(probe..).next().copied());
                prop_assert_eq!(
                    bitmap.previous(&words, probe),
                    model.range(..=probe).next_back().copied()
                );
            }
            prop_assert_eq!(&words[..3], &[0; 3][..], "storage of others is left alone");
        }
    }
}
