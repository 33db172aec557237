//! The live view (`Ctrl-] t`): what all guests are doing, once a second, in place of everything else.

use core::sync::atomic::Ordering;

use vmm::monitor::Presses;
use vmm::monitor::keys::Reader;
use vmm::monitor::top::{BEGIN_PAGE, CpuSample, END_PAGE, Sample, View, over_the_last};

use super::Desk;
use crate::backend::Backend;
use crate::crew::{About, Question, Seat};
use crate::hw::{clock, console};
use crate::memory;

/// It is shown anew so often, and waits for a CPU's answer for so long.
const REFRESHED_NS: u64 = 1_000_000_000;
const ANSWER_NS: u64 = 200_000_000;

/// The live view.
pub(super) struct Top {
    before: Sample,
    /// When the CPUs were asked, as long as they have not answered.
    asked_ns: Option<u64>,
    due_ns: u64,
    /// Who had the keys before.
    reader: Reader,
    pub(super) presses: Presses,
}

impl Top {
    /// When there is something to be done.
    pub(super) fn due_ns(&self) -> u64 {
        match self.asked_ns {
            Some(asked_ns) => asked_ns + ANSWER_NS,
            None => self.due_ns,
        }
    }
}

impl<B: Backend> Desk<'_, B> {
    pub(super) fn begin_top(&mut self) {
        if self.top.is_none() {
            self.top = Some(Top {
                before: Sample::default(),
                asked_ns: None,
                due_ns: 0,
                reader: self.keyboard.reader(),
                presses: Presses::new(),
            });
            self.set_reader(Reader::Monitor);
            console::page(BEGIN_PAGE.as_bytes());
        }
    }

    /// Asks the CPUs for their figures when it is time, and shows them once they have answered.
    pub(super) fn go_on_with_top(&mut self) {
        let Some(top) = &mut self.top else { return };
        let now_ns = clock::now_ns();
        if top
            .presses
            .escape_due_ns()
            .is_some_and(|due_ns| now_ns >= due_ns)
        {
            return self.end_top();
        }
        let Some(asked_ns) = top.asked_ns else {
            if now_ns >= top.due_ns {
                top.asked_ns = Some(now_ns);
                self.crew.ask(Question {
                    about: About::Figures,
                    vm: None,
                });
            }
            return;
        };
        if self.crew.is_asking() && now_ns < asked_ns + ANSWER_NS {
            return;
        }
        let busy_ns = |seat: &Seat<B>| seat.figures.busy_ns.load(Ordering::Relaxed);
        let now = Sample {
            at_ns: now_ns,
            cpus: self
                .crew
                .seats()
                .map(|seat| CpuSample {
                    cpu: seat.cpu.0,
                    busy_ns: busy_ns(seat),
                })
                .collect(),
            vcpus: self.crew.samples(),
            free_mib: memory::usage().free_frames >> 8,
        };
        let text = alloc::format!("{}", View::new(&top.before, &now));
        console::page(over_the_last(&text).as_bytes());
        top.before = now;
        top.asked_ns = None;
        top.due_ns = now_ns + REFRESHED_NS;
    }

    pub(super) fn end_top(&mut self) {
        if let Some(top) = self.top.take() {
            console::end_page(END_PAGE.as_bytes());
            self.set_reader(top.reader);
            if top.reader == Reader::Monitor {
                self.show_line(&[]);
            }
        }
    }
}
