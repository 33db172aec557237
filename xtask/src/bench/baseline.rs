//! What KVM costs on the same emulated machine: measured once, by hand, and kept here.
//!
//! Bochs 2.7, tigerlake model, 1 GiB, 20 million instructions a second; Linux 6.1 (Debian's cloud kernel) as host with
//! kvm_intel, EPT, unrestricted guest and VPID, `mitigations=off`, which is the cheapest it gets; where the skylake
//! model showed less (WRMSR of EFER), it is that. Ticks are RDTSC differences taken inside the guest around the event,
//! the 4 to 10 ticks of the loop included. They mean nothing on another engine.

use super::{Row, Target};
use crate::emulator::Engine;

/// Where the figures come from, for whoever reads a table with them.
pub const SOURCE: &str = "KVM: Linux 6.1 with mitigations off on the same emulated machine, measured once; the least of the CPU models";

/// Where KVM handles an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the kernel: Plinth is to be three times cheaper.
    Kernel,
    /// In user space, by the program that runs the VM: ten times.
    User,
}

/// Events by the names that the guest `bench` gives them. For timers and HLT these are KVM's figures with its tricks of
/// arming timers early and of polling while a guest is halted, both of which spend the host's time: without them 2975
/// and 6439 ticks.
const KVM: &[(&str, u64, Place)] = &[
    ("cpuid", 983, Place::Kernel),
    ("rdmsr-apic-base", 1096, Place::Kernel),
    ("rdmsr-efer", 1041, Place::Kernel),
    ("wrmsr-efer", 2023, Place::Kernel),
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
    ("x2apic-icr-self", 4146, Place::Kernel),
    ("x2apic-deadline-arm", 1758, Place::Kernel),
    ("x2apic-timer-cycle", 6395, Place::Kernel),
    ("xapic-timer-cycle", 9026, Place::Kernel),
    ("x2apic-timer-latency", 216, Place::Kernel),
    ("x2apic-hlt-wake", 221, Place::Kernel),
    ("first-touch", 2897, Place::Kernel),
];

/// What the hardware does by itself under KVM, too.
const NO_EXIT: &[&str] = &["cr0-wp", "cr3", "cr4-pge", "cr8", "dr0", "invlpg", "rdtsc"];

/// What KVM's guest takes longer than native, in percent, by the names that `linuxbench` gives what it does. The boot
/// is that with huge pages touched beforehand; programs ran with tigerlake's CPUID, natively and in the guest.
const LINUX: &[(&str, f64)] = &[
    ("boot", 4.4),
    ("sha256-1mib", 0.4),
    ("getpid", 0.0),
    ("clock-gettime", 0.0),
    ("fork-exit-wait", 1.6),
    ("fork-exec-wait", 0.4),
    ("page-fault", 1.5),
    ("munmap-page", 0.4),
    ("pipe-round-trip", 0.0),
    ("memcpy-16mib", 0.0),
    ("read-zero-4kib", 0.0),
    ("read-zero-1mib", 0.2),
];

/// Gives a row of the guest `bench` KVM's ticks for it, and what Plinth is to reach. Both stay away where KVM was not
/// measured: for some events, and on every engine but Bochs.
pub fn set_beside(row: &mut Row, engine: Engine) {
    if engine != Engine::Bochs {
        return;
    }
    if NO_EXIT.contains(&row.name.as_str()) {
        row.target = Some(Target::NoExit);
    }
    if let Some((_, ticks, place)) = KVM.iter().find(|(name, ..)| *name == row.name) {
        row.kvm = Some(*ticks);
        row.target = Some(Target::TimesCheaperThanKvm(match place {
            Place::Kernel => 3.0,
            Place::User => 10.0,
        }));
    }
}

/// What KVM costs a Linux over native, in percent; `None` where it was not measured.
#[must_use]
pub fn linux_percent(name: &str, engine: Engine) -> Option<f64> {
    if engine != Engine::Bochs {
        return None;
    }
    let (_, percent) = LINUX.iter().find(|(known, _)| *known == name)?;
    Some(*percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(event: &str, engine: Engine) -> (Option<u64>, Option<Target>) {
        let mut row = Row::ticks("exits", event, 1);
        set_beside(&mut row, engine);
        (row.kvm, row.target)
    }

    #[test]
    fn an_event_of_the_kernel_must_be_three_and_one_of_user_space_ten_times_cheaper() {
        let times = |times| Some(Target::TimesCheaperThanKvm(times));
        assert_eq!(of("cpuid", Engine::Bochs), (Some(983), times(3.0)));
        assert_eq!(of("out-80", Engine::Bochs), (Some(3158), times(10.0)));
        assert_eq!(of("cr3", Engine::Bochs), (None, Some(Target::NoExit)));
        assert_eq!(of("nothing", Engine::Bochs), (None, None));
    }

    #[test]
    fn figures_of_the_emulated_machine_are_not_shown_for_another() {
        for engine in [Engine::Kvm, Engine::Qemu] {
            assert_eq!(of("cpuid", engine), (None, None));
            assert_eq!(of("cr3", engine), (None, None));
            assert_eq!(linux_percent("boot", engine), None);
        }
        assert_eq!(linux_percent("boot", Engine::Bochs), Some(4.4));
    }
}
