//! [`Engine`]: what executes a machine.

use crate::system::host::Virtualisation;
use bundle::{ApicVirtualization, CodePages, HypervisorOptions};
use clap::ValueEnum;

/// What executes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// QEMU with nested KVM: real VT-x.
    Kvm,
    /// Bochs: VT-x in software.
    Bochs,
    /// QEMU's own emulation, which has no VT-x: Plinth says so and stops.
    Qemu,
}

impl Engine {
    /// The engine for a machine like this one, where nobody asked for another.
    #[must_use]
    pub fn choose(virtualisation: Virtualisation) -> Self {
        if virtualisation.can_nest() {
            Self::Kvm
        } else {
            Self::Bochs
        }
    }

    /// What the hypervisor is told on machines of this engine, where nobody asks for something else.
    #[must_use]
    pub fn usual_options(self) -> HypervisorOptions {
        HypervisorOptions {
            apic: self.usual_apic(),
            code_pages: self.usual_code_pages(),
            ..HypervisorOptions::default()
        }
    }

    /// The pages that guests' code may lie in here. Bochs gives itself out as processors with the erratum iTLB multihit,
    /// which it does not have.
    #[must_use]
    pub const fn usual_code_pages(self) -> CodePages {
        match self {
            Self::Kvm => CodePages::AsNeeded,
            Self::Bochs | Self::Qemu => CodePages::Any,
        }
    }

    /// How much of the guests' local APICs the processor is to do here. Bochs 2.7 delivers virtual interrupts to the first
    /// instruction of a handler whose gate has just cleared IF: a Linux that holds a lock there waits for itself.
    #[must_use]
    pub const fn usual_apic(self) -> ApicVirtualization {
        match self {
            Self::Kvm | Self::Qemu => ApicVirtualization::Hardware,
            Self::Bochs => ApicVirtualization::TaskPriority,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_kvm_is_chosen_only_where_all_of_it_is_there() {
        let all = Virtualisation {
            kvm: true,
            vmx: true,
            nested: true,
        };
        assert_eq!(Engine::choose(all), Engine::Kvm);
        for lacking in [
            Virtualisation { kvm: false, ..all },
            Virtualisation { vmx: false, ..all },
            Virtualisation {
                nested: false,
                ..all
            },
        ] {
            assert_eq!(Engine::choose(lacking), Engine::Bochs);
        }
    }
}
