//! [`Gang`]: vCPUs that wait for each other by spinning.

use super::{Behaviour, Simulator};

/// vCPUs that wait for each other, again and again.
#[derive(Debug, Default)]
pub(in super::super) struct Gang {
    members: usize,
    arrived: usize,
    /// How often all have met.
    pub(in super::super) meetings: u64,
    /// What they have worked together.
    pub(in super::super) worked_ns: u64,
}

impl Gang {
    pub(super) fn of(members: usize) -> Self {
        Self {
            members,
            ..Self::default()
        }
    }
}

impl Simulator {
    /// One of a gang that runs has done its work, or has spun for so long that somebody notices. Returns whether its
    /// turn goes on.
    pub(super) fn meet(&mut self, cpu: usize) -> bool {
        let Some(running) = &self.cpus[cpu].running else {
            return true;
        };
        let (number, did_ns) = (running.turn.vcpu, self.now_ns - running.since_ns);
        let slice_is_over = running.slice_ends_ns <= self.now_ns;
        let (Some(gang), Behaviour::Gang { window_ns, .. }) =
            (self.vcpus[number].gang, self.vcpus[number].behaviour)
        else {
            return false;
        };
        let is_through = self.vcpus[number].burst_ns <= did_ns;
        if self.vcpus[number].waits_since.is_some() {
            return false;
        }
        self.gangs[gang].worked_ns += did_ns;
        self.vcpus[number].burst_ns = self.vcpus[number].burst_ns.saturating_sub(did_ns);
        if let Some(running) = &mut self.cpus[cpu].running {
            running.since_ns = self.now_ns;
        }
        if is_through {
            self.gangs[gang].arrived += 1;
            self.vcpus[number].waits_since = Some(self.gangs[gang].meetings);
            self.vcpus[number].burst_ns = window_ns;
            if self.gangs[gang].arrived == self.gangs[gang].members {
                self.gangs[gang].arrived = 0;
                self.gangs[gang].meetings += 1;
                self.all_have_met(gang);
            }
        }
        if let Some(running) = &mut self.cpus[cpu].running {
            running.ends_ns = running
                .slice_ends_ns
                .min(self.now_ns + self.vcpus[number].burst_ns);
        }
        !slice_is_over
    }

    /// Those that run see it at once, the others when they next run.
    fn all_have_met(&mut self, gang: usize) {
        for cpu in 0..self.cpus.len() {
            let running = self.cpus[cpu].running.as_ref();
            if let Some(number) = running.map(|running| running.turn.vcpu)
                && self.vcpus[number].gang == Some(gang)
            {
                self.look_whether_all_have_met(number);
                let burst_ns = self.vcpus[number].burst_ns;
                if let Some(running) = &mut self.cpus[cpu].running {
                    running.since_ns = self.now_ns;
                    running.ends_ns = running.slice_ends_ns.min(self.now_ns + burst_ns);
                }
            }
        }
    }

    pub(super) fn look_whether_all_have_met(&mut self, number: usize) {
        let (Some(gang), Behaviour::Gang { window_ns, .. }) =
            (self.vcpus[number].gang, self.vcpus[number].behaviour)
        else {
            return;
        };
        if let Some(meetings) = self.vcpus[number].waits_since {
            if self.gangs[gang].meetings > meetings {
                self.vcpus[number].waits_since = None;
                self.begin_burst(number);
            } else {
                self.vcpus[number].burst_ns = window_ns;
            }
        }
    }
}
