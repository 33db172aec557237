//! Whose text screen is shown, and when it is looked at: [`Viewing`].

/// The least time from one picture to the next.
const INTERVAL_NS: u64 = 50_000_000;
/// How long the serial port is left alone with a picture that it has not sent yet. Its interrupt does that work, too; but
/// an emulator may keep that back while a guest runs with its own interrupts off.
const SENDING_NS: u64 = 2_000_000;

/// The guest that has the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subject<Id> {
    /// Which one.
    pub id: Id,
    /// Whether it goes on.
    pub state: SubjectState,
}

/// Whether a guest goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubjectState {
    /// It does.
    Alive,
    /// What it showed at its end stays, and is shown in any case.
    Ended,
}

/// Whether the serial port still sends the last picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// It does.
    Sending,
    /// It has sent all.
    Idle,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Nothing.
    Wait,
    /// What has changed is shown.
    Update,
    /// All of it is drawn: the terminal shows something else.
    Redraw,
    /// The picture ends: the terminal is the log's alone.
    End,
}

/// Whose screen is shown, and when it is looked at next.
#[derive(Debug)]
pub struct Viewing<Id> {
    shown: Option<Id>,
    due_ns: u64,
}

impl<Id: Copy + Eq> Viewing<Id> {
    /// Nobody's.
    pub const fn new() -> Self {
        Self {
            shown: None,
            due_ns: 0,
        }
    }

    /// This guest has the keys, or one without a screen, or none.
    pub fn look(
        &mut self,
        subject: Option<Subject<Id>>,
        now_ns: u64,
        port: impl FnOnce() -> Port,
    ) -> Look {
        let Some(Subject { id, state }) = subject else {
            return self.forget();
        };
        if state == SubjectState::Alive {
            if now_ns < self.due_ns {
                return Look::Wait;
            }
            if port() == Port::Sending {
                self.due_ns = now_ns + SENDING_NS;
                return Look::Wait;
            }
        }
        self.due_ns = now_ns + INTERVAL_NS;
        if self.shown == Some(id) {
            return Look::Update;
        }
        self.shown = Some(id);
        Look::Redraw
    }

    /// The picture that was asked for has been handed to the serial port.
    pub fn handed_over(&mut self, now_ns: u64, port: Port) {
        if port == Port::Sending {
            self.due_ns = now_ns + SENDING_NS;
        }
    }

    /// Shows nothing any more.
    pub fn forget(&mut self) -> Look {
        match self.shown.take() {
            Some(_) => Look::End,
            None => Look::Wait,
        }
    }

    /// When it wants to look again, while it shows a screen.
    pub fn due_ns(&self) -> Option<u64> {
        self.shown.map(|_| self.due_ns)
    }
}

impl<Id: Copy + Eq> Default for Viewing<Id> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn alive(id: u32) -> Option<Subject<u32>> {
        Some(Subject {
            id,
            state: SubjectState::Alive,
        })
    }

    fn idle() -> Port {
        Port::Idle
    }

    #[test]
    fn the_picture_of_a_guest_without_keys_stayed_over_the_log() {
        let mut viewing = Viewing::new();
        assert_eq!(viewing.look(alive(1), 0, idle), Look::Redraw);
        assert!(viewing.due_ns().is_some());
        // The keys go to a guest without a screen, or none has them.
        assert_eq!(viewing.look(None, MS, idle), Look::End);
        assert_eq!(viewing.due_ns(), None, "nobody is woken up for it");
        assert_eq!(viewing.look(None, 2 * MS, idle), Look::Wait);
        assert_eq!(viewing.forget(), Look::Wait);
    }

    #[test]
    fn a_picture_that_had_ended_came_back_with_what_had_changed_only() {
        let mut viewing = Viewing::new();
        assert_eq!(viewing.look(alive(1), 0, idle), Look::Redraw);
        assert_eq!(viewing.look(alive(1), 60 * MS, idle), Look::Update);
        assert_eq!(viewing.forget(), Look::End);
        assert_eq!(viewing.look(alive(1), 120 * MS, idle), Look::Redraw);
        // So does that of another guest.
        assert_eq!(viewing.look(alive(2), 180 * MS, idle), Look::Redraw);
        assert_eq!(viewing.look(alive(2), 240 * MS, idle), Look::Update);
    }

    #[test]
    fn a_screen_is_looked_at_every_50_ms_but_not_while_the_last_picture_is_on_its_way() {
        let mut viewing = Viewing::new();
        assert_eq!(viewing.look(alive(1), 0, idle), Look::Redraw);
        assert_eq!(viewing.due_ns(), Some(50 * MS));
        assert_eq!(viewing.look(alive(1), 49 * MS, idle), Look::Wait);
        let sending = || Port::Sending;
        assert_eq!(viewing.look(alive(1), 50 * MS, sending), Look::Wait);
        assert_eq!(viewing.due_ns(), Some(52 * MS));
        assert_eq!(viewing.look(alive(1), 52 * MS, idle), Look::Update);
        viewing.handed_over(52 * MS, Port::Idle);
        assert_eq!(viewing.due_ns(), Some(102 * MS));
        viewing.handed_over(53 * MS, Port::Sending);
        assert_eq!(viewing.due_ns(), Some(55 * MS));
    }

    #[test]
    fn what_a_guest_shows_at_its_end_is_shown_at_once() {
        let mut viewing = Viewing::new();
        assert_eq!(viewing.look(alive(1), 0, idle), Look::Redraw);
        let ended = Some(Subject {
            id: 1,
            state: SubjectState::Ended,
        });
        assert_eq!(viewing.look(ended, MS, || Port::Sending), Look::Update);
    }
}
