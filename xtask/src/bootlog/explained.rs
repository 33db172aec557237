//! Warnings that Linux gives under Plinth, and not on the bare machine, and rightly so.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What its text contains.
    pub text: &'static str,
    /// Why the bare machine does not give it, and why it is right.
    pub why: &'static str,
}

/// All of them.
pub const ALL: &[Explained] = &[];

/// The explanation of a warning, if there is one.
#[must_use]
pub fn of(warning: &str) -> Option<&'static Explained> {
    ALL.iter()
        .find(|explained| warning.contains(explained.text))
}
