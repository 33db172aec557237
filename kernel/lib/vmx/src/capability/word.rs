//! [`ControlWord`]: the seven control words that capability MSRs gate, and their bits' names for messages.

use core::fmt;

use bitflags::Flags;

use crate::controls::{
    EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls,
    SecondaryExitControls, TertiaryControls,
};

/// One of the seven control words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the manual's names")]
pub enum WordKind {
    Pin,
    Primary,
    Secondary,
    Tertiary,
    Exit,
    SecondaryExit,
    Entry,
}

impl WordKind {
    /// The manual's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin-based VM-execution controls",
            Self::Primary => "primary processor-based VM-execution controls",
            Self::Secondary => "secondary processor-based VM-execution controls",
            Self::Tertiary => "tertiary processor-based VM-execution controls",
            Self::Exit => "primary VM-exit controls",
            Self::SecondaryExit => "secondary VM-exit controls",
            Self::Entry => "VM-entry controls",
        }
    }
}

/// A control word that a capability MSR gates.
pub trait ControlWord: Flags + Copy {
    /// Which one.
    const KIND: WordKind;
    /// Its bits, widened.
    fn to_bits(self) -> u64;
    /// The word with these bits.
    fn of_bits(bits: u64) -> Self;
}

macro_rules! control_word {
    ($($word:ident = $kind:ident: $bits:ty;)*) => {
        $(impl ControlWord for $word {
            const KIND: WordKind = WordKind::$kind;

            fn to_bits(self) -> u64 {
                self.bits().into()
            }

            fn of_bits(bits: u64) -> Self {
                Self::from_bits_retain(bits as $bits)
            }
        })*

        /// Writes the names of the set bits of a control word, or their numbers where they have no name.
        fn write_names(f: &mut fmt::Formatter<'_>, kind: WordKind, bits: u64) -> fmt::Result {
            match kind {
                $(WordKind::$kind => write_set(f, $word::of_bits(bits)),)*
            }
        }
    };
}

control_word! {
    PinControls = Pin: u32;
    PrimaryControls = Primary: u32;
    SecondaryControls = Secondary: u32;
    TertiaryControls = Tertiary: u64;
    ExitControls = Exit: u32;
    SecondaryExitControls = SecondaryExit: u64;
    EntryControls = Entry: u32;
}

fn write_set<W: ControlWord>(f: &mut fmt::Formatter<'_>, word: W) -> fmt::Result {
    let mut unnamed = word.to_bits();
    let mut comma = "";
    for (name, flag) in word.iter_names() {
        write!(f, "{comma}{name}")?;
        unnamed &= !flag.to_bits();
        comma = ", ";
    }
    if unnamed != 0 {
        write!(f, "{comma}bits {unnamed:#x}")?;
    }
    Ok(())
}

/// Bits of a control word under their names, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlNames {
    /// Which word.
    pub word: WordKind,
    /// Its bits.
    pub bits: u64,
}

impl fmt::Display for ControlNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.word, self.bits)
    }
}
