//! [`Freeze`]: how a VM comes to a stand, and how long its time stands still.
//!
//! A pause begins; then each vCPU comes to a stand once, those that run at the end of their turn and those that sleep
//! when they are woken for it; and when the last has done so, time stands still. The pauses are numbered: a vCPU that
//! stands still in one of them and finds another when it looks, because there was a resumption in between that it did
//! not see, comes to a stand once more. The owner of this is the VM, behind a lock.

/// A pause of a VM, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pause(u32);

/// Of the vCPUs of a VM, which of its pauses they stand still in.
#[derive(Clone, Debug)]
pub struct Freeze {
    vcpus: u8,
    /// vCPUs that stand still.
    parked: u8,
    /// The last pause there was, or is.
    pause: Pause,
    is_paused: bool,
    /// When the last of them came to a stand.
    since_tsc: Option<u64>,
}

impl Freeze {
    /// Of a VM with so many vCPUs, which runs.
    pub const fn new(vcpus: u8) -> Self {
        Self {
            vcpus,
            parked: 0,
            pause: Pause(0),
            is_paused: false,
            since_tsc: None,
        }
    }

    /// A pause begins, unless there is one.
    pub const fn pause(&mut self) {
        if !self.is_paused {
            self.is_paused = true;
            self.pause = Pause(self.pause.0.wrapping_add(1));
        }
    }

    /// A vCPU comes to a stand that has last done so in this pause, or in none. It counts once in each pause, however
    /// often it says so: one that stands still already may be sent to another CPU. Returns the pause, or nothing where
    /// that is over.
    pub fn park(&mut self, parked: Option<Pause>, now_tsc: u64) -> Option<Pause> {
        if !self.is_paused {
            return None;
        }
        if parked == Some(self.pause) {
            return parked;
        }
        self.parked = self.parked.saturating_add(1);
        if self.parked == self.vcpus {
            self.since_tsc = Some(now_tsc);
        }
        Some(self.pause)
    }

    /// Whether a vCPU that stands still, or does not, in this pause has to come to a stand.
    pub fn wants(&self, parked: Option<Pause>) -> bool {
        self.is_paused && parked != Some(self.pause)
    }

    /// Whether all stand still.
    pub const fn is_frozen(&self) -> bool {
        self.since_tsc.is_some()
    }

    /// The pause is over. Returns for how long time has stood still.
    pub fn resume(&mut self, now_tsc: u64) -> u64 {
        self.is_paused = false;
        self.parked = 0;
        match self.since_tsc.take() {
            Some(since_tsc) => now_tsc.saturating_sub(since_tsc),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_from_the_last_vcpus_stop_to_the_resumption() {
        let mut freeze = Freeze::new(2);
        freeze.pause();
        assert!(freeze.park(None, 100).is_some());
        assert!(!freeze.is_frozen());
        assert!(freeze.park(None, 150).is_some());
        assert!(freeze.is_frozen());
        assert_eq!(freeze.resume(400), 250);
        assert!(!freeze.is_frozen());
    }

    #[test]
    fn time_does_not_stand_still_because_one_vcpu_has_come_to_a_stand_twice() {
        let mut freeze = Freeze::new(2);
        freeze.pause();
        let parked = freeze.park(None, 100);
        // It was sent to another CPU, and says so once more there. The other one still runs.
        assert_eq!(freeze.park(parked, 120), parked);
        assert!(!freeze.is_frozen());
        let other = freeze.park(None, 200);
        assert!(freeze.is_frozen());
        // And one that says so after the last changes nothing, either.
        assert_eq!(freeze.park(other, 250), other);
        assert_eq!(
            freeze.resume(300),
            100,
            "what the other one has seen is past"
        );
        // In the next pause both count again.
        freeze.pause();
        assert_ne!(freeze.park(parked, 400), parked);
        assert!(!freeze.is_frozen());
        let _ = freeze.park(other, 500);
        assert!(freeze.is_frozen());
    }

    #[test]
    fn a_vcpu_that_still_ran_when_the_pause_was_over_does_not_come_to_a_stand() {
        let mut freeze = Freeze::new(1);
        freeze.pause();
        assert_eq!(freeze.resume(100), 0);
        assert_eq!(freeze.park(None, 120), None);
        // And it counts in the next pause as any other.
        freeze.pause();
        assert!(freeze.park(None, 200).is_some());
        assert_eq!(freeze.resume(300), 100);
    }

    #[test]
    fn a_halted_vcpu_that_slept_through_a_resumption_comes_to_a_stand_in_the_next_pause() {
        let mut freeze = Freeze::new(2);
        freeze.pause();
        let sleeper = freeze.park(None, 10);
        let _ = freeze.park(None, 20);
        assert!(!freeze.wants(sleeper), "it stands still");
        let _ = freeze.resume(30);
        assert!(!freeze.wants(sleeper));
        // It has not looked since, and the VM is paused once more.
        freeze.pause();
        assert!(freeze.wants(sleeper), "that was another pause");
        assert!(freeze.wants(None), "one that never stood still");
        let _ = freeze.park(None, 40);
        let sleeper = freeze.park(sleeper, 50);
        assert!(freeze.is_frozen() && !freeze.wants(sleeper));
        assert_eq!(freeze.resume(60), 10);
    }

    #[test]
    fn a_second_pause_during_the_first_changes_nothing() {
        let mut freeze = Freeze::new(1);
        freeze.pause();
        let parked = freeze.park(None, 10);
        freeze.pause();
        assert!(!freeze.wants(parked) && freeze.is_frozen());
    }
}
