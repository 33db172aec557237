//! What a command line asks for.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

use crate::power::PowerEvent;

/// A command. A VM is called by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Lists the commands.
    Help,
    /// Lists the VMs.
    Vms,
    /// Lists the host's CPUs.
    Cpus,
    /// Where the memory is.
    Memory,
    /// What all guests are doing, live.
    Top,
    /// What the exits of a VM were, and what they cost.
    Exits(String),
    /// The last exits of a VM.
    Trace(String),
    /// The registers of a VM.
    Registers(String),
    /// The last lines of a VM's console.
    Tail(String),
    /// A VM is to be started, paused and so on.
    Power(PowerEvent, String),
    /// A VM is to go through its whole life so many times over, and what memory is left after it is to be told.
    Cycle(String, u32),
    /// The keys go to this VM.
    Console(String),
    /// How much is logged.
    Log(LogLevel),
    /// The hypervisor is to end as by a bug of its own.
    Crash(Bug),
    /// The next entry of this VM is to fail.
    Spoil(EntryPart, String),
    /// The monitor closes.
    Exit,
}

/// Bugs of the hypervisor, for those who want to see what becomes of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Something that it asserts is not so.
    Panic,
    /// A stack overflows.
    Stack,
    /// Its text is written.
    Text,
    /// Its data is executed.
    Data,
    /// An NMI comes while its stack is used up. That is none: what ends it comes after that.
    Nmi,
    /// A machine check comes while its stack is used up.
    MachineCheck,
}

/// What of a VM can be made such that the hardware does not enter it. It checks the controls first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryPart {
    /// The state of the guest.
    State,
    /// What the hypervisor wants of the hardware.
    Controls,
}

/// How much the hypervisor logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what happens at large.
    Info,
    /// And what happens in detail.
    Debug,
    /// Everything.
    Trace,
}

/// Why a line is no command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// There is no such command.
    Unknown(String),
    /// It lacks something, or has too much.
    Usage(&'static str),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "there is no command `{word}`; `help` lists them"),
            Self::Usage(usage) => write!(f, "this is written `{usage}`"),
        }
    }
}

impl core::error::Error for CommandError {}

/// Each command as it is written, and what it does.
pub const COMMANDS: [(&str, &str); 22] = [
    ("vms", "lists the VMs"),
    ("cpus", "lists the host's CPUs"),
    ("memory", "where the memory is"),
    ("top", "what all guests are doing, live; any key leaves"),
    ("exits VM", "what its exits were, and what they cost"),
    ("trace VM", "its last exits"),
    ("regs VM", "its registers"),
    ("tail VM", "the last lines of its console"),
    ("start VM", "starts it"),
    ("pause VM", "stops it where it is, and its time"),
    ("resume VM", "lets it go on"),
    ("reset VM", "starts it anew from its kernel"),
    ("stop VM", "switches it off and gives back its memory"),
    (
        "destroy VM",
        "the same, and strikes it off the list; `start` makes it anew",
    ),
    (
        "cycle VM N",
        "all of these N times over, then counts what memory was lost",
    ),
    ("console VM", "the keys go to it, and the monitor closes"),
    (
        "log LEVEL",
        "how much is logged: error, warn, info, debug, trace",
    ),
    (
        "crash BUG",
        "ends Plinth as by a bug of its own: panic, stack, text, data, nmi, machine-check",
    ),
    (
        "spoil VM PART",
        "makes its next entry fail by its state or controls",
    ),
    ("help", "this"),
    ("exit", "closes the monitor (also Ctrl-D)"),
    ("", "Ctrl-] and a key work here, too: Ctrl-] ? lists them"),
];

/// The first words of all commands.
pub fn words() -> impl Iterator<Item = &'static str> {
    COMMANDS
        .iter()
        .filter_map(|(usage, _)| usage.split(' ').next())
        .filter(|word| !word.is_empty())
}

impl Command {
    /// Reads a line; nothing where it is empty.
    ///
    /// # Errors
    /// [`CommandError`], for the operator.
    pub fn parse(line: &str) -> Result<Option<Self>, CommandError> {
        let line = line.trim();
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        if word.is_empty() {
            return Ok(None);
        }
        let usage = COMMANDS
            .iter()
            .map(|(usage, _)| *usage)
            .find(|usage| usage.split(' ').next() == Some(word))
            .ok_or_else(|| CommandError::Unknown(word.to_owned()))?;
        let wrong = || CommandError::Usage(usage);
        let vm = || {
            if rest.is_empty() {
                Err(wrong())
            } else {
                Ok(rest.to_owned())
            }
        };
        let command = match word {
            "exits" => Self::Exits(vm()?),
            "trace" => Self::Trace(vm()?),
            "regs" => Self::Registers(vm()?),
            "tail" => Self::Tail(vm()?),
            "start" => Self::Power(PowerEvent::Start, vm()?),
            "pause" => Self::Power(PowerEvent::Pause, vm()?),
            "resume" => Self::Power(PowerEvent::Resume, vm()?),
            "reset" => Self::Power(PowerEvent::Reset, vm()?),
            "stop" => Self::Power(PowerEvent::Stop, vm()?),
            "destroy" => Self::Power(PowerEvent::Destroy, vm()?),
            "console" => Self::Console(vm()?),
            "cycle" => {
                let (name, rounds) = rest.rsplit_once(' ').ok_or_else(wrong)?;
                let rounds = rounds.parse().ok().filter(|rounds| *rounds > 0);
                Self::Cycle(name.trim().to_owned(), rounds.ok_or_else(wrong)?)
            }
            "log" => Self::Log(match rest {
                "error" => LogLevel::Error,
                "warn" => LogLevel::Warn,
                "info" => LogLevel::Info,
                "debug" => LogLevel::Debug,
                "trace" => LogLevel::Trace,
                _ => return Err(wrong()),
            }),
            "crash" => Self::Crash(match rest {
                "panic" => Bug::Panic,
                "stack" => Bug::Stack,
                "text" => Bug::Text,
                "data" => Bug::Data,
                "nmi" => Bug::Nmi,
                "machine-check" => Bug::MachineCheck,
                _ => return Err(wrong()),
            }),
            "spoil" => {
                let (name, part) = rest.rsplit_once(' ').ok_or_else(wrong)?;
                let part = match part {
                    "state" => EntryPart::State,
                    "controls" => EntryPart::Controls,
                    _ => return Err(wrong()),
                };
                Self::Spoil(part, name.trim().to_owned())
            }
            // What is left takes nothing.
            _ if !rest.is_empty() => return Err(wrong()),
            "vms" => Self::Vms,
            "cpus" => Self::Cpus,
            "memory" => Self::Memory,
            "top" => Self::Top,
            "exit" => Self::Exit,
            _ => Self::Help,
        };
        Ok(Some(command))
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn parse(line: &str) -> Result<Option<Command>, CommandError> {
        Command::parse(line)
    }

    #[test]
    fn every_command_of_the_help_is_one() {
        for (usage, _) in COMMANDS {
            let line = usage
                .replace("VM", "linux")
                .replace(" N", " 7")
                .replace("LEVEL", "debug")
                .replace("BUG", "stack")
                .replace("PART", "state");
            let command = parse(&line);
            assert!(command.is_ok(), "{line}: {command:?}");
            assert_eq!(command.unwrap().is_none(), usage.is_empty());
            let is_help = parse(&line) == Ok(Some(Command::Help));
            assert_eq!(is_help, usage == "help", "{line}");
        }
    }

    #[test]
    fn names_may_have_spaces() {
        assert_eq!(
            parse("  stop   my guest "),
            Ok(Some(Command::Power(PowerEvent::Stop, "my guest".into())))
        );
        assert_eq!(
            parse("cycle my guest 1000"),
            Ok(Some(Command::Cycle("my guest".into(), 1000)))
        );
        assert_eq!(
            parse("spoil my guest controls"),
            Ok(Some(Command::Spoil(EntryPart::Controls, "my guest".into())))
        );
    }

    #[test]
    fn an_empty_line_asks_for_nothing() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("   "), Ok(None));
    }

    #[test]
    fn mistakes_are_told_with_what_is_right() {
        for (line, said) in [
            ("reboot", "there is no command `reboot`"),
            ("start", "`start VM`"),
            ("log loud", "`log LEVEL`"),
            ("cycle tiny", "`cycle VM N`"),
            ("cycle tiny 0", "`cycle VM N`"),
            ("vms all", "`vms`"),
            ("crash", "`crash BUG`"),
            ("crash linux", "`crash BUG`"),
            ("spoil linux", "`spoil VM PART`"),
            ("spoil linux memory", "`spoil VM PART`"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
