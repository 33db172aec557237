//! [`Inquiry`]: a question to all CPUs, and how many of them have not answered it.
//!
//! The questions are numbered. A CPU that was asked twice may still be at work on the first question when the second
//! one comes; what it answers then counts for nothing.

use core::sync::atomic::{AtomicU64, Ordering};

/// The number of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Number(pub u32);

/// The last question, and how many have not answered it.
#[derive(Debug, Default)]
pub struct Inquiry(AtomicU64);

const fn pack(number: u32, left: u32) -> u64 {
    (number as u64) << 32 | left as u64
}

const fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl Inquiry {
    /// Nothing was asked yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Asks so many CPUs, whether or not the last question was answered. No number is 0. One asks at a time.
    pub fn begin(&self, cpus: u32) -> Number {
        let (last, _) = unpack(self.0.load(Ordering::Relaxed));
        let number = last.wrapping_add(1).max(1);
        self.0.store(pack(number, cpus), Ordering::SeqCst);
        Number(number)
    }

    /// One CPU has answered this question.
    pub fn answered(&self, number: Number) {
        // One that is not the last any more is left alone.
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let (present, left) = unpack(word);
                let left = left.checked_sub(1).filter(|_| present == number.0)?;
                Some(pack(present, left))
            });
    }

    /// Whether not all have answered.
    pub fn is_open(&self) -> bool {
        unpack(self.0.load(Ordering::Acquire)).1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_open_until_all_have_answered() {
        let inquiry = Inquiry::new();
        assert!(!inquiry.is_open());
        let number = inquiry.begin(2);
        inquiry.answered(number);
        assert!(inquiry.is_open());
        inquiry.answered(number);
        assert!(!inquiry.is_open());
        inquiry.answered(number);
        assert!(!inquiry.is_open(), "one answer too many");
    }

    #[test]
    fn a_late_answer_to_the_last_question_is_not_one_to_the_new_one() {
        let inquiry = Inquiry::new();
        let first = inquiry.begin(2);
        inquiry.answered(first);
        let second = inquiry.begin(2);
        inquiry.answered(first);
        inquiry.answered(second);
        assert!(inquiry.is_open(), "one has not answered the second");
        inquiry.answered(second);
        assert!(!inquiry.is_open());
    }
}
