//! What this CPU answers when it is asked about the vCPUs that it has.

use alloc::string::String;

use spin::Mutex;
use vmm::monitor::inquiry::Number;
use vmm::scheduler::Arrival;

use super::Turns;
use crate::backend::Backend;
use crate::crew::About;
use crate::hw::console;
use crate::hw::screen::Colour;
use crate::vcpu::Vcpu;

impl<B: Backend> Turns<'_, B> {
    /// Tells what was asked about the vCPUs that are here.
    #[cold]
    pub(super) fn answer(&mut self, number: Number) {
        if let Some(question) = self.crew.question(number) {
            if question.about == About::Figures {
                self.note_figures(number);
                return self.crew.answered(number);
            }
            self.evict_resident();
            let is_meant = |vcpu: &Vcpu<B>| question.vm.is_none_or(|id| vcpu.vm().id() == id);
            let mut ready = self.seat.queue.lock().remove(|vcpu| is_meant(vcpu));
            for (vcpu, _) in ready.iter_mut().chain(self.sleepers.iter_mut()) {
                if is_meant(vcpu) {
                    tell(&self.crew.backend, vcpu, question.about);
                }
            }
            for (vcpu, share) in ready {
                self.join(vcpu, share, Arrival::Again);
            }
        }
        self.crew.answered(number);
    }

    fn note_figures(&self, number: Number) {
        let here = self.seat.cpu.0;
        let queue = self.seat.queue.lock();
        let asleep = self.sleepers.iter().map(|(vcpu, _)| vcpu);
        let all = queue.iter().chain(asleep);
        self.crew.note(number, all.map(|vcpu| vcpu.sample(here)));
    }
}

/// Held by the CPU that tells of a vCPU: no lines of another one come in between.
static TELLING: Mutex<()> = Mutex::new(());

fn tell<B: Backend>(backend: &B, vcpu: &mut Vcpu<B>, about: About) {
    let mut text = String::new();
    // Writing to a string fails only where memory has run out, and then what is there must do.
    let _ = vcpu.describe(backend, about, &mut text);
    let turn = TELLING.lock();
    for line in text.lines() {
        console::line(Colour::Text, format_args!("plinth: {line}"));
    }
    drop(turn);
    backend.unload(vcpu.backend_mut());
}
