//! How the parts of a configuration go together: names, the terminal, and what the machine has.

use super::source::Problems;
use super::vm::Vm;
use super::{Configuration, ForMachine};
use bundle::{Autostart, Placement};
use std::collections::BTreeMap;
use vmm::scheduler::CpuSet;
use vmm::scheduler::plan::{self, Plan};

/// Memory that the hypervisor keeps for itself, at least.
const HYPERVISOR_BYTES: u64 = 24 << 20;

/// CPUs of an emulated machine if nobody says otherwise.
pub(crate) const USUAL_HOST_CPUS: u32 = 1;

pub(super) fn check(configuration: &Configuration, machine: ForMachine, problems: &Problems) {
    names(configuration, problems);
    terminal(configuration, problems);
    if let ForMachine::Emulated { cpus } = machine {
        let cpus = cpus
            .or(configuration.host_cpus())
            .unwrap_or(USUAL_HOST_CPUS);
        affinity(configuration, cpus, problems);
        dedicated(configuration, cpus, problems);
        memory(configuration, problems);
    }
}

fn names(configuration: &Configuration, problems: &Problems) {
    let mut taken = BTreeMap::new();
    for vm in &configuration.vms {
        let name = vm.name.value.as_str();
        if let Some(first) = taken.get(name) {
            let message = format!("the name \"{name}\" is taken, at {first}");
            problems.add(vm.name.place.clone(), message);
        } else {
            taken.insert(name, &vm.name.place);
        }
    }
}

fn terminal(configuration: &Configuration, problems: &Problems) {
    let mut terminals = configuration
        .vms
        .iter()
        .filter_map(|vm| vm.terminal.as_ref());
    let Some(first) = terminals.next() else {
        return;
    };
    for other in terminals {
        let message = format!(
            "only one machine can have the terminal to itself, and another has it at {}; use \"shared\"",
            first.place
        );
        problems.add(other.place.clone(), message);
    }
}

fn affinity(configuration: &Configuration, host_cpus: u32, problems: &Problems) {
    for cpu in configuration.vms.iter().flat_map(|vm| &vm.affinity) {
        if cpu.value >= host_cpus {
            let message = format!(
                "the machine has no CPU {}: {}. Give it more by `cpus` in [host], or by --host-cpus",
                cpu.value,
                match host_cpus {
                    1 => "it has CPU 0 only".to_owned(),
                    _ => format!("its CPUs are 0 to {}", host_cpus - 1),
                }
            );
            problems.add(cpu.place.clone(), message);
        }
    }
}

/// Virtual CPUs that own theirs must find enough of them, and leave those that share what they ask for. The hypervisor
/// gives CPUs away by the same [`Plan`] and in the same order.
fn dedicated(configuration: &Configuration, host_cpus: u32, problems: &Problems) {
    let wanted_by = |vm: &Vm| vm.affinity.iter().map(|cpu| cpu.value).collect::<CpuSet>();
    let of = |placement| {
        let vms = configuration.vms.iter();
        vms.filter(move |vm| vm.placement == placement)
    };
    let all = CpuSet::first(host_cpus as usize);
    let mut plan = Plan::new(all);
    for vm in of(Placement::Dedicated) {
        let others = configuration.vms.iter();
        let others = others.filter(|other| !std::ptr::eq(*other, vm));
        let others_want = others
            .flat_map(|other| other.affinity.iter().map(|cpu| cpu.value))
            .collect();
        let shared_before = plan.shared().len();
        let owned = (0..vm.cpus.value)
            .filter_map(|_| plan.dedicate(&wanted_by(vm), &others_want))
            .count();
        if owned < vm.cpus.value as usize {
            let message = format!(
                "{} of {} virtual CPUs would find no CPU to own: the machine has {host_cpus}, {shared_before} of them not owned yet, \
                 and CPU 0 stays for the others. Give it more by `cpus` in [host]{}",
                vm.cpus.value as usize - owned,
                vm.cpus.value,
                if vm.affinity.is_empty() {
                    ""
                } else {
                    ", or allow more by `affinity`"
                }
            );
            problems.add(vm.cpus.place.clone(), message);
        }
    }
    for vm in of(Placement::Shared) {
        // That a CPU is not there at all has been told.
        if let Some(first) = vm.affinity.first()
            && plan::is_kept(&all, &wanted_by(vm))
            && !plan::is_kept(&plan.shared(), &wanted_by(vm))
        {
            let message = "other machines own all CPUs that this one may use".to_owned();
            problems.add(first.place.clone(), message);
        }
    }
}

fn memory(configuration: &Configuration, problems: &Problems) {
    let Some(host) = &configuration.host.memory_bytes else {
        return;
    };
    let guests = configuration
        .vms
        .iter()
        .filter(|vm| vm.autostart == Autostart::Yes)
        .fold(0_u64, |sum, vm| sum.saturating_add(vm.memory_bytes()));
    if guests.saturating_add(HYPERVISOR_BYTES) > host.value {
        let message = format!(
            "the machines want {} MiB and the hypervisor {} MiB, which is more than this; leave it out for what is needed",
            guests.div_ceil(1 << 20),
            HYPERVISOR_BYTES >> 20
        );
        problems.add(host.place.clone(), message);
    }
}
