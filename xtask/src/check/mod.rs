//! The rules of the house, as far as a program can check them: which crate may depend on which ([`layers`]), what a
//! source file has to look like ([`source`], by way of [`text`]), and that what READMEs and
//! comments name is there ([`readme`]).

pub mod layers;
pub mod readme;
pub mod source;
pub mod text;

use std::fmt;

/// A rule that something breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The file, and where it helps the line.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
