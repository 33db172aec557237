//! What a vCPU tells about itself: to the operator who asks, and to the live view.

use core::fmt;

use vmm::dump::Registers;
use vmm::inject::Activity;
use vmm::monitor::top::{Doing, VcpuSample};

use super::Vcpu;
use crate::backend::{Backend, LoadedVcpu};
use crate::crew::About;
use crate::vm::Stance;

impl<B: Backend> Vcpu<B> {
    /// Its figures, for the live view; `cpu` has it.
    pub(crate) fn sample(&self, cpu: u32) -> VcpuSample {
        let doing = match (self.vm.stance(), self.inner.activity) {
            (Stance::Pause, _) => Doing::Paused,
            (_, Activity::Active) => Doing::Ready,
            (_, Activity::WaitingForStartUp) => Doing::NotStarted,
            (_, Activity::Halted) => Doing::Halted,
        };
        VcpuSample {
            vm: self.vm.id().0,
            name: self.vm.name().into(),
            vcpu: self.inner.index,
            cpu,
            doing,
            ran_ns: self.inner.ran_ns,
            exits: self.inner.metrics.totals(),
        }
    }

    /// Writes down its registers, its last exits, what its exits cost.
    pub(crate) fn describe(
        &mut self,
        backend: &B,
        about: About,
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        let Self { vm, inner, .. } = self;
        writeln!(
            out,
            "{} vCPU {}: {:?}",
            vm.name(),
            inner.index,
            inner.activity
        )?;
        if matches!(about, About::Everything | About::Registers) {
            write!(out, "{}", Registers(&backend.load(&mut self.backend)))?;
        }
        if matches!(about, About::Everything | About::Trace) {
            write!(out, "{}", inner.trace)?;
        }
        if matches!(about, About::Everything | About::Exits) {
            write!(out, "{}", inner.metrics)?;
        }
        if let About::Spoil(part) = about {
            backend.load(&mut self.backend).spoil(part);
            writeln!(out, "its next entry will fail")?;
        }
        Ok(())
    }
}
