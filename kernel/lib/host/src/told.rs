//! What has been told of already: something that goes on and on must not fill the log.

use core::sync::atomic::{AtomicU64, Ordering};

/// Things numbered from 0 to 255, such as vectors, of which each is told once, whichever CPU meets it.
#[derive(Debug)]
pub struct Told([AtomicU64; 4]);

impl Told {
    /// Nothing has been told.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 4])
    }

    /// Whether this is to be told now: the first time that somebody asks.
    pub fn is_news(&self, number: u8) -> bool {
        let bit = 1 << (number & 63);
        let word = self.0.get(usize::from(number >> 6));
        word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }
}

impl Default for Told {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn a_device_that_went_on_interrupting_filled_the_log() {
        let told = Told::new();
        for vector in 0..=255 {
            assert!(told.is_news(vector), "{vector:#x}");
        }
        for vector in 0..=255 {
            assert!(!told.is_news(vector), "{vector:#x}");
        }
    }

    #[test]
    fn of_cpus_that_meet_the_same_at_once_one_tells() {
        let told = Told::new();
        let news = || (0..=255).filter(|&vector| told.is_news(vector)).count();
        let of_all: usize = std::thread::scope(|scope| {
            let cpus: [_; 4] = core::array::from_fn(|_| scope.spawn(news));
            cpus.map(|cpu| cpu.join().unwrap()).into_iter().sum()
        });
        assert_eq!(of_all, 256);
    }
}
