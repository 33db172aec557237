//! [`Own`]: the kernel that this machine itself runs, and its busybox, for where no package can be fetched.

use crate::system::distribution::Distribution;
use crate::system::packages::Manager;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// What a machine has of its own to make a guest of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// A kernel that can be read.
    pub(super) kernel: Option<PathBuf>,
    /// Where its modules are, or would be.
    pub(super) modules: PathBuf,
    /// A busybox that needs no libraries.
    pub(super) tools: Option<PathBuf>,
    /// A kernel that only root may read.
    pub(super) unreadable: Option<PathBuf>,
}

/// Where distributions put busybox.
const TOOLS: [&str; 9] = [
    "bin/busybox.static",
    "usr/bin/busybox.static",
    "bin/busybox-static",
    "usr/bin/busybox-static",
    "bin/busybox",
    "usr/bin/busybox",
    "sbin/busybox",
    "usr/sbin/busybox",
    "usr/local/bin/busybox",
];

/// Kernels whose names have no version: Arch's, Alpine's, NixOS's.
const UNVERSIONED: [&str; 5] = [
    "boot/vmlinuz-linux",
    "boot/vmlinuz-linux-lts",
    "boot/vmlinuz-virt",
    "boot/vmlinuz-lts",
    "run/current-system/kernel",
];

impl Own {
    /// Looks at this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::find(Path::new("/"), release.trim())
    }

    /// Looks below `root`, where a kernel of this release runs. The kernel that runs comes first; a container has none
    /// of it, but perhaps one that was installed there.
    fn find(root: &Path, release: &str) -> Self {
        let mut candidates = vec![root.join(format!("boot/vmlinuz-{release}"))];
        let folders = ["lib/modules", "usr/lib/modules"].map(|folder| root.join(folder));
        candidates.extend(folders.iter().map(|at| at.join(release).join("vmlinuz")));
        candidates.extend(UNVERSIONED.map(|name| root.join(name)));
        for folder in &folders {
            candidates.extend(newest_first(folder).iter().map(|at| at.join("vmlinuz")));
        }
        let boot = newest_first(&root.join("boot"));
        candidates.extend(boot.into_iter().filter(|at| {
            at.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-"))
        }));
        let kernel = candidates.iter().find(|at| is_kernel(at)).cloned();
        let unreadable = candidates.iter().find(|at| is_locked(at)).cloned();
        Self {
            modules: kernel
                .as_deref()
                .map_or_else(PathBuf::new, |kernel| modules(root, kernel, release)),
            kernel,
            tools: TOOLS
                .iter()
                .map(|name| root.join(name))
                .find(|at| is_static(at)),
            unreadable,
        }
    }

    /// The command that gets what is missing, as one would type it; `None` where all is there.
    #[must_use]
    pub fn remedy(&self, manager: Option<Manager>, distribution: &Distribution) -> Option<String> {
        if self.kernel.is_some() && self.tools.is_some() {
            return None;
        }
        let mut steps = Vec::new();
        let mut packages = Vec::new();
        let names = manager.map(|manager| (manager, names(manager, distribution)));
        if self.kernel.is_none() {
            match &self.unreadable {
                Some(kernel) => steps.push(format!("sudo chmod a+r {}", kernel.display())),
                None => packages.extend(names.map(|(_, (kernel, _))| kernel)),
            }
        }
        if self.tools.is_none() {
            packages.extend(names.map(|(_, (_, tools))| tools));
        }
        match names {
            Some((manager, _)) if !packages.is_empty() => steps.push(manager.command(&packages)),
            Some(_) => {}
            None => steps
                .push("install a Linux kernel and a busybox without libraries by hand".to_owned()),
        }
        Some(steps.join(" && "))
    }
}

/// What the packages with a kernel and with a static busybox are called.
fn names(manager: Manager, distribution: &Distribution) -> (&'static str, &'static str) {
    match manager {
        Manager::Apt => (super::packages::usual(distribution), "busybox-static"),
        Manager::Dnf => ("kernel-core", "busybox"),
        Manager::Pacman => ("linux", "busybox"),
        Manager::Zypper => ("kernel-default", "busybox-static"),
        Manager::Apk => ("linux-virt", "busybox-static"),
        Manager::Emerge => ("sys-kernel/gentoo-kernel-bin", "sys-apps/busybox"),
        Manager::Nix => ("nixpkgs.linux", "nixpkgs.pkgsStatic.busybox"),
    }
}

/// The modules of a kernel: around it, or under its version, or else those of the kernel that runs.
fn modules(root: &Path, kernel: &Path, release: &str) -> PathBuf {
    let name = kernel.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_prefix("vmlinuz-") {
        None if name == "vmlinuz" => kernel.parent().unwrap_or(root).to_owned(),
        Some(version) if root.join("lib/modules").join(version).exists() => {
            root.join("lib/modules").join(version)
        }
        _ => root.join("lib/modules").join(release),
    }
}

/// What a folder has, the highest version first.
fn newest_first(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    let numbers = |path: &PathBuf| -> Vec<u64> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let words = name.split(|c: char| !c.is_ascii_digit());
        words.filter_map(|word| word.parse().ok()).collect()
    };
    paths.sort_by_key(numbers);
    paths.reverse();
    paths
}

/// Whether this is a bzImage that can be read (Linux/x86 Boot Protocol, field `header`).
fn is_kernel(path: &Path) -> bool {
    const HEADER: usize = 0x202;
    let mut start = [0; HEADER + 4];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && start.ends_with(b"HdrS")
}

fn is_locked(path: &Path) -> bool {
    File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Whether this is a 64-bit program that asks for no interpreter (ELF, program header PT_INTERP), so no libraries.
fn is_static(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| asks_for_interpreter(&bytes) == Some(false))
}

fn asks_for_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let word = |at: usize| Some(u16::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(*elf.get(32..)?.first_chunk()?)).ok()?;
    let (size, count) = (usize::from(word(54)?), usize::from(word(56)?));
    for index in 0..count {
        let at = table.checked_add(index * size)?;
        let kind = u32::from_le_bytes(*elf.get(at..)?.first_chunk()?);
        if kind == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::distribution::tests::{DEBIAN, FEDORA, UBUNTU};

    /// A file system with kernels and busyboxes, some of which need libraries.
    fn system(kernels: &[&str], tools: &[(&str, bool)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        for kernel in kernels {
            let mut image = vec![0; 0x400];
            image[0x202..0x206].copy_from_slice(b"HdrS");
            write(kernel, &image);
        }
        for (name, needs_libraries) in tools {
            write(name, &program(*needs_libraries));
        }
        folder
    }

    fn program(needs_libraries: bool) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = if needs_libraries { 3 } else { 1 };
        elf
    }

    #[test]
    fn the_kernel_that_runs_is_taken_wherever_the_distribution_puts_it() {
        for (kernel, modules) in [
            ("boot/vmlinuz-6.9-1", "lib/modules/6.9-1"),
            ("lib/modules/6.9-1/vmlinuz", "lib/modules/6.9-1"),
            ("usr/lib/modules/6.9-1/vmlinuz", "usr/lib/modules/6.9-1"),
            ("boot/vmlinuz-linux", "lib/modules/6.9-1"),
            ("boot/vmlinuz-virt", "lib/modules/6.9-1"),
        ] {
            let folder = system(&[kernel], &[("usr/sbin/busybox", false)]);
            let own = Own::find(folder.path(), "6.9-1");
            assert_eq!(own.kernel, Some(folder.path().join(kernel)));
            assert_eq!(own.modules, folder.path().join(modules));
            assert_eq!(own.remedy(None, &Distribution::default()), None);
        }
    }

    #[test]
    fn a_container_takes_the_newest_kernel_that_was_installed_in_it() {
        let kernels = ["lib/modules/6.9.1/vmlinuz", "lib/modules/6.10.2/vmlinuz"];
        let folder = system(&kernels, &[]);
        let own = Own::find(folder.path(), "5.4-of-the-host");
        assert_eq!(own.kernel, Some(folder.path().join(kernels[1])));
        assert_eq!(own.modules, folder.path().join("lib/modules/6.10.2"));
    }

    #[test]
    fn a_busybox_that_needs_libraries_and_a_kernel_of_another_kind_are_passed_over() {
        let tools = [("bin/busybox", true), ("bin/busybox.static", false)];
        let folder = system(&[], &tools);
        fs::create_dir_all(folder.path().join("boot")).unwrap();
        fs::write(folder.path().join("boot/vmlinuz-6.9"), vec![1; 0x400]).unwrap();
        let own = Own::find(folder.path(), "6.9");
        assert_eq!(own.tools, Some(folder.path().join("bin/busybox.static")));
        assert_eq!(own.kernel, None);
        assert_eq!(asks_for_interpreter(b"\x7fELF\x02\x01 cut short"), None);
    }

    #[test]
    fn what_is_missing_is_told_with_the_exact_command_of_each_distribution() {
        let nothing = Own::default();
        let fedora = Distribution::parse(FEDORA);
        for (manager, command) in [
            (Manager::Dnf, "sudo dnf install -y kernel-core busybox"),
            (
                Manager::Pacman,
                "sudo pacman -S --needed --noconfirm linux busybox",
            ),
            (
                Manager::Zypper,
                "sudo zypper --non-interactive install kernel-default busybox-static",
            ),
            (Manager::Apk, "sudo apk add linux-virt busybox-static"),
        ] {
            let remedy = nothing.remedy(Some(manager), &fedora);
            assert_eq!(remedy.as_deref(), Some(command));
        }
        let by_apt = |text| nothing.remedy(Some(Manager::Apt), &Distribution::parse(text));
        let ends = |text, packages: &str| by_apt(text).unwrap().ends_with(packages);
        assert!(ends(DEBIAN, " linux-image-cloud-amd64 busybox-static"));
        assert!(ends(UBUNTU, " linux-image-virtual busybox-static"));
        assert!(nothing.remedy(None, &fedora).unwrap().contains("by hand"));
    }

    #[test]
    fn a_kernel_that_only_root_may_read_is_told_with_the_command_that_opens_it() {
        let own = Own {
            unreadable: Some("/boot/vmlinuz-6.9".into()),
            tools: Some("/bin/busybox".into()),
            ..Own::default()
        };
        let remedy = own.remedy(Some(Manager::Dnf), &Distribution::parse(FEDORA));
        assert_eq!(remedy.as_deref(), Some("sudo chmod a+r /boot/vmlinuz-6.9"));
    }
}
