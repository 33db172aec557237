//! Numbers that look random and are the same in each run (George Marsaglia, "Xorshift RNGs", 2003).

/// The generator.
pub struct Random(u64);

impl Random {
    /// One with a seed; different seeds give different numbers.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1);
        // Similar seeds begin with similar numbers.
        for _ in 0..8 {
            random.bits();
        }
        random
    }

    /// The next number.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.bits() >> 11) % end
    }

    /// One of several.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A number of the kinds that find mistakes: small ones, single bits, all ones, anything.
    pub fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => !0,
            2 => 1 << self.below(64),
            3 => !(1 << self.below(64)),
            4 => self.below(0x100),
            5 => self.bits() & 0xffff_ffff,
            _ => self.bits(),
        }
    }
}
