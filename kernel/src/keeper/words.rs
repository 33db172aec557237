//! What the keeper has to say about a machine, in words for the operator.

use alloc::string::String;
use core::fmt;

use vmm::power::Refused;

use crate::vm::End;

/// Why an operator's wish is not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NotDone {
    /// There is no such machine.
    Unknown(String),
    /// It does not fit what the machine is doing.
    Refused(String, Refused),
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "there is no VM `{name}`; `vms` lists them"),
            Self::Refused(name, why) => write!(f, "{name} {why}"),
        }
    }
}

/// Why a machine starts again, and when.
pub(super) struct Restart {
    /// How its last life ended by itself.
    pub(super) end: Option<End>,
    pub(super) delay_ms: u64,
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => end.fmt(f)?,
            None => f.write_str("reset: the operator has reset it")?,
        }
        if self.delay_ms > 0 {
            write!(f, "; in {} ms, since it does not live long", self.delay_ms)?;
        }
        Ok(())
    }
}
