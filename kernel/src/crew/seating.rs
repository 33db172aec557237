//! Who may run where: [`Seating`], CPUs of one's own, and what follows when a CPU changes hands.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use ::log::{info, warn};
use bundle::{Placement, VmConfig};
use vmm::scheduler::plan::{self, Plan};
use vmm::scheduler::{CpuSet, Use};

use super::Crew;
use crate::backend::Backend;
use crate::cpu::PcpuId;
use crate::doorbell;

/// Where a vCPU may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seating {
    /// On the shared CPUs, as far as this set allows; an empty one allows all.
    Shared(CpuSet),
    /// On a CPU of its own.
    Owner(PcpuId),
}

/// Whether vCPUs may be ready and have to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contention {
    /// There is a CPU for each vCPU.
    None,
    /// There are more vCPUs than CPUs, or rules about who runs where and for how long.
    Possible,
}

impl<B: Backend> Crew<B> {
    /// Whether vCPUs would have to wait for each other, or for their caps, were all of these VMs running.
    pub(crate) fn contention<'a>(&self, configs: impl Iterator<Item = &'a VmConfig>) -> Contention {
        let (mut vcpus, mut has_rules) = (0, false);
        for config in configs {
            vcpus += config.cpus as usize;
            has_rules |= config.cap_percent.is_some() || !config.affinity.is_empty();
        }
        if has_rules || vcpus > self.seats().count() {
            Contention::Possible
        } else {
            Contention::None
        }
    }

    /// Gives a vCPU a CPU of its own, if there is one to give.
    fn dedicate(&self, affinity: &CpuSet, others_want: &CpuSet) -> Option<PcpuId> {
        let mut plan = self.plan.lock();
        let cpu = PcpuId(plan.dedicate(affinity, others_want)?.into());
        self.changes_hands(&plan, cpu, Use::Dedicated);
        Some(cpu)
    }

    /// Everybody may use this CPU again.
    pub(crate) fn give_back(&self, cpu: PcpuId) {
        let mut plan = self.plan.lock();
        plan.release(cpu.0 as u16);
        self.changes_hands(&plan, cpu, Use::Shared);
    }

    /// Lets everybody see the new plan, and those look at their vCPUs who may have some that are to be elsewhere now.
    fn changes_hands(&self, plan: &Plan, cpu: PcpuId, now: Use) {
        if let Some(seat) = self.seat(cpu) {
            seat.set_use(now);
        }
        self.shared.set(&plan.shared());
        // Behind what it tells of.
        self.plan_version.fetch_add(1, Ordering::Release);
        for concerned in plan.concerned(cpu.0 as u16).iter() {
            doorbell::ring(PcpuId(concerned.into()));
        }
    }

    /// Differs from an earlier answer if CPUs have changed hands since.
    pub(crate) fn plan_version(&self) -> u32 {
        self.plan_version.load(Ordering::Acquire)
    }

    /// Where the vCPUs of a machine may run. CPUs that they are to own are theirs from now on, if it can be without
    /// those that `others` ask for.
    pub(crate) fn seatings<'a>(
        &self,
        config: &VmConfig,
        others: impl Iterator<Item = &'a VmConfig>,
    ) -> Vec<Seating> {
        let affinity = config.affinity.iter().copied().collect();
        let others_want = others.flat_map(|other| other.affinity.iter().copied());
        let others_want = others_want.collect();
        if config.placement == Placement::Shared
            && !plan::is_kept(&self.plan.lock().shared(), &affinity)
        {
            warn!(
                target: "vm",
                "{}: none of the CPUs that it asks for is shared now: it may use all that are", config.name
            );
        }
        (0..config.cpus)
            .map(|vcpu| {
                let owned = match config.placement {
                    Placement::Shared => return Seating::Shared(affinity),
                    Placement::Dedicated => self.dedicate(&affinity, &others_want),
                };
                match owned {
                    Some(cpu) => {
                        info!(target: "vm", "{}: CPU {cpu} is vCPU {vcpu}'s own", config.name);
                        Seating::Owner(cpu)
                    }
                    None => {
                        warn!(
                            target: "vm",
                            "{}: no CPU is left to be vCPU {vcpu}'s own: it shares one", config.name
                        );
                        Seating::Shared(affinity)
                    }
                }
            })
            .collect()
    }
}
