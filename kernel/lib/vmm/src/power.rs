//! The life of a VM as a table: [`Power`] says what it is doing, [`apply`] what follows from an event.
//!
//! Nothing happens here. The caller keeps the state under the VM's lock, applies an event, and then carries the
//! [`Steps`] out in their order. Ending takes time, since vCPUs on other CPUs leave one by one: between the
//! decision and the last of them the VM is [`Ending`](Power::Ending), and knows already what comes then.

use core::fmt;

/// What a VM is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Power {
    /// It has no memory and no vCPU.
    Off,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs and its time stand still.
    Paused,
    /// Its vCPUs are leaving.
    Ending(Then),
    /// It is not there any more.
    Gone,
}

/// What comes when the last vCPU has left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Then {
    /// The VM stays off.
    Off,
    /// It starts again from its kernel file.
    Start,
    /// It goes away.
    Gone,
}

/// What happens to a VM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PowerEvent {
    /// The operator starts it.
    Start,
    /// The operator pauses it.
    Pause,
    /// The operator lets it go on.
    Resume,
    /// The operator resets it.
    Reset,
    /// The operator switches it off.
    Stop,
    /// The operator wants it gone.
    Destroy,
    /// The guest has switched itself off.
    GuestPowerOff,
    /// The guest has asked for a reset.
    GuestReset,
    /// The guest cannot go on.
    GuestCrash,
    /// The last vCPU has left.
    VcpusLeft,
}

/// What follows an end that the guest itself has brought about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum EndPolicy {
    /// It stays off.
    #[default]
    Stop,
    /// It starts again.
    Restart,
}

/// What follows the two ends that can be answered by a new beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndPolicies {
    /// After a crash.
    pub on_crash: EndPolicy,
    /// After a reset that the guest has asked for.
    pub on_reboot: EndPolicy,
}

/// One thing to be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Give it memory, load its kernel, make its vCPUs.
    Build,
    /// Let its vCPUs run, and its time pass.
    Run,
    /// Stop its vCPUs where they are, and its time.
    Freeze,
    /// Make its vCPUs leave, and say so with [`PowerEvent::VcpusLeft`].
    Evict,
    /// Give back its memory and whatever else it has.
    Release,
    /// Strike it off the list.
    Forget,
}

/// What is to be done, in this order.
pub type Steps = &'static [Step];

/// The event does not fit what the VM is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What it is doing.
    pub power: Power,
    /// What was wanted.
    pub event: PowerEvent,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wish = match self.event {
            PowerEvent::Start => "started",
            PowerEvent::Pause => "paused",
            PowerEvent::Resume => "resumed",
            PowerEvent::Reset => "reset",
            PowerEvent::Stop => "stopped",
            PowerEvent::Destroy => "destroyed",
            PowerEvent::GuestPowerOff
            | PowerEvent::GuestReset
            | PowerEvent::GuestCrash
            | PowerEvent::VcpusLeft => "ended",
        };
        write!(f, "cannot be {wish}: it is {}", self.power)
    }
}

impl core::error::Error for Refused {}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ending(_) => "about to end",
            Self::Gone => "gone",
        })
    }
}

/// What follows from an event: what the VM is doing then, and the steps on the way.
///
/// # Errors
/// [`Refused`] for an operator's wish that does not fit; nothing changes. What a guest does while it is ending
/// is no error, but changes nothing either: its first end counts.
pub const fn apply(
    power: Power,
    event: PowerEvent,
    policies: EndPolicies,
) -> Result<(Power, Steps), Refused> {
    use Power::{Ending, Gone, Off, Paused, Running};
    let refused = Err(Refused { power, event });
    let answer = match (power, event) {
        (Off, PowerEvent::Start) => (Running, &[Step::Build, Step::Run] as Steps),
        (Off, PowerEvent::Stop) => (Off, &[] as Steps),
        (Off, PowerEvent::Destroy) => (Gone, &[Step::Forget] as Steps),

        (Running, PowerEvent::Pause) => (Paused, &[Step::Freeze] as Steps),
        (Paused, PowerEvent::Resume) => (Running, &[Step::Run] as Steps),

        (Running | Paused, PowerEvent::Stop | PowerEvent::GuestPowerOff) => end(Then::Off),
        (Running | Paused, PowerEvent::Reset) => end(Then::Start),
        (Running | Paused, PowerEvent::Destroy) => end(Then::Gone),
        (Running | Paused, PowerEvent::GuestReset) => end(after(policies.on_reboot)),
        (Running | Paused, PowerEvent::GuestCrash) => end(after(policies.on_crash)),

        // The operator changes his mind about what comes then.
        (Ending(Then::Off | Then::Start), PowerEvent::Stop) => (Ending(Then::Off), &[] as Steps),
        (Ending(Then::Off | Then::Start), PowerEvent::Start | PowerEvent::Reset) => {
            (Ending(Then::Start), &[] as Steps)
        }
        (Ending(_), PowerEvent::Destroy) => (Ending(Then::Gone), &[] as Steps),
        (
            Ending(then),
            PowerEvent::GuestPowerOff | PowerEvent::GuestReset | PowerEvent::GuestCrash,
        ) => (Ending(then), &[] as Steps),
        (Ending(Then::Off), PowerEvent::VcpusLeft) => (Off, &[Step::Release] as Steps),
        (Ending(Then::Start), PowerEvent::VcpusLeft) => {
            (Running, &[Step::Release, Step::Build, Step::Run] as Steps)
        }
        (Ending(Then::Gone), PowerEvent::VcpusLeft) => {
            (Gone, &[Step::Release, Step::Forget] as Steps)
        }

        (Off, PowerEvent::Pause | PowerEvent::Resume | PowerEvent::Reset)
        | (Running, PowerEvent::Start | PowerEvent::Resume)
        | (Paused, PowerEvent::Start | PowerEvent::Pause)
        | (Ending(_), PowerEvent::Pause | PowerEvent::Resume)
        | (Ending(Then::Gone), PowerEvent::Start | PowerEvent::Stop | PowerEvent::Reset)
        | (Off | Running | Paused | Gone, PowerEvent::VcpusLeft)
        | (
            Off | Gone,
            PowerEvent::GuestPowerOff | PowerEvent::GuestReset | PowerEvent::GuestCrash,
        )
        | (
            Gone,
            PowerEvent::Start
            | PowerEvent::Pause
            | PowerEvent::Resume
            | PowerEvent::Reset
            | PowerEvent::Stop
            | PowerEvent::Destroy,
        ) => return refused,
    };
    Ok(answer)
}

const fn end(then: Then) -> (Power, Steps) {
    (Power::Ending(then), &[Step::Evict])
}

const fn after(policy: EndPolicy) -> Then {
    match policy {
        EndPolicy::Stop => Then::Off,
        EndPolicy::Restart => Then::Start,
    }
}

/// How long a VM that ends by itself again and again waits before it is built anew, so that a crash loop leaves
/// the host its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RestartDelay {
    /// Starts in a row that did not last.
    short_lives: u32,
}

/// A life of this length is one that lasts.
const LASTING_NS: u64 = 10_000_000_000;
const FIRST_DELAY_NS: u64 = 100_000_000;
const LONGEST_DELAY_NS: u64 = 30_000_000_000;
/// A VM in a crash loop is not being built for more than one part of the time in so many.
const BUILDING_SHARE: u64 = 20;

impl RestartDelay {
    /// None so far.
    pub const fn new() -> Self {
        Self { short_lives: 0 }
    }

    /// A life that took `built_ns` to build has ended after so long: how long to wait before the next one. The
    /// first time nothing, and then twice as long each time, up to half a minute, but never so little that
    /// building, which the host pays for, takes more than a small share of its time.
    pub fn after_life_of(&mut self, lived_ns: u64, built_ns: u64) -> u64 {
        if lived_ns >= LASTING_NS {
            self.short_lives = 0;
            return 0;
        }
        let before = self.short_lives;
        self.short_lives = self.short_lives.saturating_add(1);
        let delay = match before {
            0 => return 0,
            1..=9 => (FIRST_DELAY_NS << (before - 1)).min(LONGEST_DELAY_NS),
            _ => LONGEST_DELAY_NS,
        };
        delay.max(built_ns.saturating_mul(BUILDING_SHARE))
    }
}

/// Takes a machine through its whole life again and again: started, paused, let go on, reset, stopped, destroyed. What it says is to be done next is what an operator would do next by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drill {
    rounds_left: u32,
    step: usize,
}

/// What a drill sees of its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What it is doing.
    pub power: Power,
    /// Whether its present life is there, which is built after it was started.
    pub lives: bool,
    /// Whether its time stands still.
    pub is_frozen: bool,
    /// For how long its present life has been there.
    pub lived_ns: u64,
}

/// What comes next in a drill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrillStep {
    /// The machine is not there yet where it should be.
    Wait,
    /// This is to be done.
    Do(PowerEvent),
    /// A round is over, and so many are left.
    RoundOver(u32),
}

/// The events of a round. After the last of them the machine is gone, and starting it makes it anew.
const ROUND: [PowerEvent; 6] = [
    PowerEvent::Start,
    PowerEvent::Pause,
    PowerEvent::Resume,
    PowerEvent::Reset,
    PowerEvent::Stop,
    PowerEvent::Destroy,
];
/// A life in a drill lasts at least so long before something is done about it; in each round twice as long as in the
/// one before, and then from the beginning again. So it is caught at every stage of its start.
const DRILL_LIFE_NS: u64 = 1_000_000;
const DRILL_LIVES: u32 = 4;

impl Drill {
    /// So many rounds, with a machine that is off or gone.
    pub const fn new(rounds: u32) -> Self {
        Self {
            rounds_left: rounds,
            step: 0,
        }
    }

    /// What comes next, where this is what is seen of the machine.
    pub fn next(&mut self, seen: Seen) -> DrillStep {
        let Some(event) = ROUND.get(self.step).copied() else {
            if seen.power != Power::Gone {
                return DrillStep::Wait;
            }
            self.step = 0;
            self.rounds_left = self.rounds_left.saturating_sub(1);
            return DrillStep::RoundOver(self.rounds_left);
        };
        let life_ns = DRILL_LIFE_NS << (self.rounds_left % DRILL_LIVES);
        let is_ready = match event {
            PowerEvent::Start => matches!(seen.power, Power::Off | Power::Gone),
            PowerEvent::Destroy => seen.power == Power::Off,
            PowerEvent::Resume => seen.power == Power::Paused && seen.is_frozen,
            _ => seen.lives && seen.power == Power::Running && seen.lived_ns >= life_ns,
        };
        if !is_ready {
            return DrillStep::Wait;
        }
        self.step += 1;
        DrillStep::Do(event)
    }
}

#[cfg(test)]
mod tests;
