//! What the host's CPU and kernel offer: whether nested KVM can run a hypervisor that needs VT-x.

use std::fs;
use std::path::Path;

/// What there is of nested KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtualisation {
    /// `/dev/kvm` can be opened.
    pub kvm: bool,
    /// The CPU has VT-x and lets us see it.
    pub vmx: bool,
    /// kvm_intel passes VT-x on to its guests.
    pub nested: bool,
}

impl Virtualisation {
    /// Looks at this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let openable = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        Self::from_files(
            openable,
            Path::new("/proc/cpuinfo"),
            Path::new("/sys/module"),
        )
    }

    fn from_files(kvm: bool, cpuinfo: &Path, modules: &Path) -> Self {
        let cpuinfo = fs::read_to_string(cpuinfo).unwrap_or_default();
        let nested = fs::read_to_string(modules.join("kvm_intel/parameters/nested"));
        Self {
            kvm,
            vmx: cpu_flags(&cpuinfo).any(|flag| flag == "vmx"),
            nested: nested.is_ok_and(|value| matches!(value.trim(), "Y" | "1")),
        }
    }

    /// Whether QEMU with KVM can run Plinth here. The device alone says nothing: it may be there without any
    /// VT-x behind it, on AMD machines and inside other virtual machines.
    #[must_use]
    pub fn can_nest(self) -> bool {
        self.kvm && self.vmx && self.nested
    }
}

fn cpu_flags(cpuinfo: &str) -> impl Iterator<Item = &str> {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .and_then(|line| line.split_once(':'))
        .map_or("", |(_, flags)| flags)
        .split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(flags: &str, nested: Option<&str>) -> Virtualisation {
        let folder = tempfile::tempdir().unwrap();
        let cpuinfo = folder.path().join("cpuinfo");
        fs::write(
            &cpuinfo,
            format!("processor\t: 0\nflags\t\t: fpu {flags} sse2\nbugs\t: vmx\n"),
        )
        .unwrap();
        if let Some(nested) = nested {
            let parameters = folder.path().join("kvm_intel/parameters");
            fs::create_dir_all(&parameters).unwrap();
            fs::write(parameters.join("nested"), nested).unwrap();
        }
        Virtualisation::from_files(true, &cpuinfo, folder.path())
    }

    #[test]
    fn intel_with_nesting_can_nest() {
        assert!(machine("vmx", Some("Y\n")).can_nest());
        assert!(machine("vmx", Some("1\n")).can_nest());
    }

    #[test]
    fn the_device_without_vmx_is_not_enough() {
        assert!(!machine("svm", Some("Y\n")).can_nest());
    }

    #[test]
    fn nesting_switched_off_is_seen() {
        assert!(!machine("vmx", Some("N\n")).can_nest());
        assert!(!machine("vmx", None).can_nest());
    }
}
