//! What KVM costs on the same emulated machine: measured once, by hand, and kept here.
//!
//! Bochs 2.7, tigerlake model, 1 GiB, 20 million instructions a second; Linux 6.1 (Debian's cloud kernel) as host with
//! kvm_intel, EPT, unrestricted guest and VPID, `mitigations=off`, which is the cheapest it gets. Ticks are RDTSC
//! differences taken inside the guest around the event, the 4 to 10 ticks of the loop included.

use super::Target;

/// Where KVM handles an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the kernel: Plinth is to be three times cheaper.
    Kernel,
    /// In user space, by the program that runs the VM: ten times.
    User,
    /// Nowhere, there is no exit.
    Hardware,
}

/// Events by the names that the guest `bench` gives them. For timers and HLT these are KVM's figures with its tricks of
/// arming timers early and of polling while a guest is halted, both of which spend the host's time: without them 2975
/// and 6439 ticks.
const KVM: &[(&str, u64, Place)] = &[
    ("cpuid", 983, Place::Kernel),
    ("rdmsr-apic-base", 1096, Place::Kernel),
    ("rdmsr-efer", 1041, Place::Kernel),
    ("wrmsr-efer", 2061, Place::Kernel),
    ("rdmsr-unknown-gp", 1667, Place::Kernel),
    ("wbinvd", 872, Place::Kernel),
    ("xsetbv", 978, Place::Kernel),
    ("out-80", 3158, Place::User),
    ("in-uart-lsr", 3214, Place::User),
    ("in-pic", 1278, Place::Kernel),
    ("in-pit", 1310, Place::Kernel),
    ("out-pic", 2002, Place::Kernel),
    ("mmio-read-unbacked", 5830, Place::User),
    ("ioapic-read", 3809, Place::Kernel),
    ("xapic-read", 7205, Place::Kernel),
    ("xapic-eoi", 3790, Place::Kernel),
    ("x2apic-read", 1230, Place::Kernel),
    ("x2apic-eoi", 1202, Place::Kernel),
    ("x2apic-self-ipi", 4146, Place::Kernel),
    ("x2apic-deadline-arm", 1758, Place::Kernel),
    ("x2apic-timer-cycle", 6395, Place::Kernel),
    ("xapic-timer-cycle", 9026, Place::Kernel),
    ("x2apic-timer-latency", 216, Place::Kernel),
    ("x2apic-hlt-wake", 221, Place::Kernel),
    ("first-touch", 2897, Place::Kernel),
    ("cr0-wp", 5, Place::Hardware),
    ("cr3", 5, Place::Hardware),
    ("cr4-pge", 5, Place::Hardware),
    ("cr8", 5, Place::Hardware),
    ("dr0", 5, Place::Hardware),
    ("invlpg", 5, Place::Hardware),
    ("rdtsc", 5, Place::Hardware),
];

/// KVM's ticks for an event, and what Plinth is to reach; `None` where KVM was not measured.
#[must_use]
pub fn of(event: &str) -> Option<(u64, Target)> {
    let (_, ticks, place) = KVM.iter().find(|(name, ..)| *name == event)?;
    let target = match place {
        Place::Kernel => Target::TimesCheaperThanKvm(3.0),
        Place::User => Target::TimesCheaperThanKvm(10.0),
        Place::Hardware => Target::NoExit,
    };
    Some((*ticks, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_the_kernel_must_be_three_and_one_of_user_space_ten_times_cheaper() {
        assert_eq!(of("cpuid"), Some((983, Target::TimesCheaperThanKvm(3.0))));
        assert_eq!(
            of("out-80"),
            Some((3158, Target::TimesCheaperThanKvm(10.0)))
        );
        assert_eq!(of("cr3"), Some((5, Target::NoExit)));
        assert_eq!(of("nothing"), None);
    }
}
