//! INIT and start-up IPIs: a vCPU begins anew.

use machine::devices::lapic::Role;
use vmm::Machine;
use vmm::inject::Activity;
use vmm::pending::Restart;

use super::Inner;
use crate::backend::{Backend, LoadedVcpu};
use crate::vm::{Vm, VmPort};

impl Inner {
    /// INIT or a start-up IPI.
    #[cold]
    pub(super) fn restart<B: Backend, C: LoadedVcpu>(
        &mut self,
        restart: Restart,
        vm: &Vm<B>,
        cpu: &mut C,
    ) {
        let start_up = match restart {
            Restart::Init => {
                self.init(vm, cpu);
                None
            }
            Restart::InitThenStartUp(vector) => {
                self.init(vm, cpu);
                Some(vector)
            }
            Restart::StartUp(vector) => Some(vector),
        };
        if let Some(vector) = start_up {
            vmm::reset::start_up(cpu, vector);
            self.activity = Activity::Active;
        }
    }

    fn init<B: Backend, C: LoadedVcpu>(&mut self, vm: &Vm<B>, cpu: &mut C) {
        vmm::reset::init(cpu, &mut self.state);
        VmPort {
            vm,
            vcpu: self.index,
        }
        .reroute(self.state.lapic.route());
        self.activity = match self.state.lapic.role() {
            Role::Bootstrap => Activity::Active,
            Role::Application => Activity::WaitingForStartUp,
        };
    }
}
