//! The operator's monitor, without the machine: which keys mean what ([`keys`]), a line that is being typed
//! ([`line`]), what it asks for ([`command`]), who has not answered ([`inquiry`]), and the live view ([`top`]), which any key ends
//! ([`presses`]). Whoever has the machine applies it.

pub mod command;
pub mod inquiry;
pub mod keys;
pub mod line;
pub mod presses;
pub mod top;

pub use command::{Command, CommandError};
pub use keys::{Key, Keyboard, Reader, Shortcut};
pub use line::{Edit, Line};
pub use presses::Presses;
