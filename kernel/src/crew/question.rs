//! How one CPU asks the others about the vCPUs that they have: [`Question`].

use alloc::vec::Vec;
use spin::Mutex;
use vmm::monitor::command::EntryPart;
use vmm::monitor::inquiry::{Inquiry, Number};
use vmm::monitor::top::VcpuSample;

use super::Crew;
use crate::backend::Backend;
use crate::cpu::PcpuId;
use crate::doorbell;
use crate::vm::VmId;

/// What a CPU is asked about the vCPUs that it has.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) about: About,
    /// Of this VM only.
    pub(crate) vm: Option<VmId>,
}

/// What is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum About {
    /// Registers, last exits and figures.
    Everything,
    /// Registers.
    Registers,
    /// Last exits.
    Trace,
    /// What the exits were, and what they cost.
    Exits,
    /// Nothing but that its next entry will fail, which is to be done to it.
    Spoil(EntryPart),
    /// The figures for the live view, which go to [`Crew::samples`].
    Figures,
}

/// What was asked, and what the CPUs have said.
pub(super) struct Questions {
    /// What was asked last, and by what number.
    last: Mutex<Option<(Number, Question)>>,
    inquiry: Inquiry,
    /// What was answered about figures.
    samples: Mutex<Vec<VcpuSample>>,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self {
            last: Mutex::new(None),
            inquiry: Inquiry::new(),
            samples: Mutex::new(Vec::new()),
        }
    }
}

impl<B: Backend> Crew<B> {
    /// Asks all CPUs. A question that was not answered yet is forgotten.
    pub(crate) fn ask(&self, question: Question) {
        let mut asked = self.questions.last.lock();
        let number = self.questions.inquiry.begin(self.seats().count() as u32);
        *asked = Some((number, question));
        self.questions.samples.lock().clear();
        for seat in self.seats() {
            seat.ask(number);
            doorbell::ring(seat.cpu);
        }
    }

    /// What a CPU answers about figures, if that is still the question.
    pub(crate) fn note(&self, number: Number, samples: impl Iterator<Item = VcpuSample>) {
        let asked = self.questions.last.lock();
        if asked.as_ref().is_some_and(|(last, _)| *last == number) {
            self.questions.samples.lock().extend(samples);
        }
    }

    /// What the CPUs have answered about figures, once.
    pub(crate) fn samples(&self) -> Vec<VcpuSample> {
        core::mem::take(&mut *self.questions.samples.lock())
    }

    /// Whether not all CPUs have answered. Until then no vCPU moves but those that must, or it would be told twice or
    /// not at all.
    pub(crate) fn is_asking(&self) -> bool {
        self.questions.inquiry.is_open()
    }

    /// The question of this number; nothing where there is another one by now, for which each CPU is asked again.
    pub(crate) fn question(&self, number: Number) -> Option<Question> {
        let asked = self.questions.last.lock();
        let (last, question) = asked.as_ref()?;
        (*last == number).then(|| question.clone())
    }

    /// One CPU has answered the question of this number.
    pub(crate) fn answered(&self, number: Number) {
        self.questions.inquiry.answered(number);
        doorbell::ring(PcpuId::BOOT);
    }
}
