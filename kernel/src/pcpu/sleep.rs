//! vCPUs that sleep on this CPU: how they lie down, and what wakes them up.

use vmm::scheduler::{Arrival, NEVER, Slot};

use super::{Resident, Turns};
use crate::backend::Backend;
use crate::crew::Member;
use crate::hw::clock;
use crate::vm::{Stance, Whereabouts};

/// On a CPU that is never idle, after so many have gone to sleep it is looked for lines that nobody has seen.
pub(super) const DROWSY_AT_MOST: usize = 32;

impl<B: Backend> Turns<'_, B> {
    pub(super) fn lay_to_sleep(&mut self, (vcpu, mut share): Member<B>) {
        let is_loaded = self.crew.backend.is_loaded(vcpu.backend());
        share.sleep();
        let slot = self.sleepers.insert((vcpu, share), NEVER);
        if is_loaded {
            self.resident = Resident::Asleep(slot);
        }
        if self.drowsy.last() != Some(&slot) {
            if self.drowsy.len() == DROWSY_AT_MOST {
                self.show_prompts();
            }
            self.drowsy.push(slot);
        }
        self.say_it_sleeps(slot);
    }

    /// From here on others wake it up, or its time. What they have left before that it is woken up for at once.
    fn say_it_sleeps(&mut self, slot: Slot) {
        let here = self.seat.cpu;
        if let Some((vcpu, _)) = self.sleepers.get(slot) {
            vcpu.set_whereabouts(Whereabouts::Asleep(here, slot));
            if vcpu.has_reason_to_wake(clock::tsc()) {
                self.wake_up(slot);
                return;
            }
            // A pause that has come and gone meanwhile may have taken its time from it. Whoever resumes it from now on
            // kicks it.
            let wakes_at = match vcpu.vm().stance() {
                Stance::Run => vcpu.wakes_at(),
                Stance::Pause | Stance::End => NEVER,
            };
            self.sleepers.set_wakes_at(slot, wakes_at);
        }
    }

    /// Queues those that others have woken up.
    pub(super) fn wake_the_woken(&mut self) {
        let mut woken = core::mem::take(&mut self.woken);
        self.bell.take_woken(&mut woken);
        for slot in woken.drain(..) {
            // It may be awake already, and another one be asleep in its place.
            let Some((vcpu, _)) = self.sleepers.get(slot) else {
                continue;
            };
            if vcpu.has_reason_to_wake(clock::tsc()) {
                self.wake_up(slot);
            } else if vcpu.vm().whereabouts(vcpu.index()) == Whereabouts::Waiting {
                self.say_it_sleeps(slot);
            }
        }
        self.woken = woken;
    }

    /// Queues those whose time has come.
    pub(super) fn wake_the_due(&mut self) {
        if self.sleepers.next_wake() == NEVER {
            return;
        }
        let now_tsc = clock::tsc();
        while let Some(slot) = self.sleepers.due(now_tsc) {
            let Some((vcpu, _)) = self.sleepers.get(slot) else {
                break;
            };
            // The board's timer may have been set to a later time; or the VM stands still.
            match vcpu.wakes_at() {
                _ if vcpu.vm().stance() == Stance::Pause => self.sleepers.set_wakes_at(slot, NEVER),
                later if later > now_tsc => self.sleepers.set_wakes_at(slot, later),
                _ => self.wake_up(slot),
            }
        }
    }

    /// Queues a sleeper, here or on a CPU that has nothing to do.
    fn wake_up(&mut self, slot: Slot) {
        let Some((mut vcpu, share)) = self.take_sleeper(slot) else {
            return;
        };
        vcpu.woken();
        let elsewhere = if self.crew.is_of_one() || self.crew.is_asking() {
            None
        } else {
            self.publish();
            self.crew.better_place(self.seat, &vcpu)
        };
        match elsewhere {
            Some(to) => {
                self.unload(&mut vcpu);
                let member = (vcpu, share);
                if let Err((vcpu, share)) =
                    self.crew
                        .offer_member(self.seat, to, member, Arrival::Woken)
                {
                    self.join(vcpu, share, Arrival::Woken);
                }
            }
            None => self.join(vcpu, share, Arrival::Woken),
        }
    }

    pub(super) fn take_sleeper(&mut self, slot: Slot) -> Option<Member<B>> {
        if self.resident == Resident::Asleep(slot) {
            self.resident = Resident::Queued;
        }
        let member = self.sleepers.remove(slot)?;
        member.0.set_whereabouts(Whereabouts::Waiting);
        Some(member)
    }

    /// Shows the lines that sleeping guests have begun.
    pub(super) fn show_prompts(&mut self) {
        for slot in self.drowsy.drain(..) {
            if let Some((vcpu, _)) = self.sleepers.get(slot) {
                vcpu.vm().show_prompt();
            }
        }
    }
}
