//! The drill (`cycle`): one machine through life after life, and whether memory is lost by that.

use alloc::string::String;

use vmm::power::{Drill, DrillStep, Power, Seen};

use super::{Desk, say};
use crate::backend::Backend;
use crate::hw::clock;
use crate::keeper::NotDone;
use crate::memory;

/// A drill that is going on.
pub(super) struct Running {
    name: String,
    drill: Drill,
    rounds: u32,
    /// What was there after a tenth of the rounds, which have brought every list to its usual size.
    before: Option<memory::Usage>,
}

impl<B: Backend> Desk<'_, B> {
    /// Begins one with a machine that is off.
    pub(super) fn begin_drill(&mut self, name: String, rounds: u32) -> Result<(), NotDone> {
        let power = self.keeper.machine(&name)?.power;
        if power == Power::Off {
            self.drill = Some(Running {
                name,
                drill: Drill::new(rounds),
                rounds,
                before: None,
            });
        } else {
            say(format_args!("{name} is {power}: stop it first"));
        }
        Ok(())
    }

    /// Does the next step, if it is time.
    pub(super) fn go_on_with_drill(&mut self) {
        let Some(mut running) = self.drill.take() else {
            return;
        };
        let seen = match self.keeper.machine(&running.name) {
            Ok(machine) => Seen {
                power: machine.power,
                lives: machine.life().is_some(),
                is_frozen: machine.life().is_some_and(|vm| vm.is_frozen()),
                lived_ns: clock::now_ns().saturating_sub(machine.began_ns),
            },
            Err(_) => Seen {
                power: Power::Gone,
                lives: false,
                is_frozen: false,
                lived_ns: 0,
            },
        };
        match running.drill.next(seen) {
            DrillStep::Wait => {}
            DrillStep::Do(event) => {
                if let Err(error) = self.keeper.command(&running.name, event) {
                    say(format_args!("the cycle ends: {error}"));
                    self.look_around();
                    return;
                }
            }
            DrillStep::RoundOver(left) => {
                let now = memory::usage();
                if running.rounds - left == (running.rounds / 10).max(1) {
                    running.before = Some(now);
                }
                if left == 0 {
                    let before = running.before.unwrap_or(now);
                    say(format_args!(
                        "cycle of {}, {} rounds: free frames {} before, {} after; bytes of heap in use {} before, {} after",
                        running.name,
                        running.rounds,
                        before.free_frames,
                        now.free_frames,
                        before.heap_used_bytes,
                        now.heap_used_bytes
                    ));
                    self.look_around();
                    return;
                }
            }
        }
        self.drill = Some(running);
    }
}
