//! What must be installed, under which name, and how.
//!
//! On Debian and its kin missing packages are installed; elsewhere the exact command is named. Nothing is asked:
//! where there is no terminal nobody could answer.

use super::{first_existing, which};
use crate::paths::Paths;
use crate::report::{Step, say};
use anyhow::{Context, Result, bail};
use std::io::IsTerminal;
use std::process::Command;

/// A family of distributions, by its package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Debian, Ubuntu and their kin.
    Apt,
    /// Fedora, RHEL and their kin.
    Dnf,
    /// Arch and its kin.
    Pacman,
    /// openSUSE.
    Zypper,
    /// Alpine.
    Apk,
    /// Gentoo.
    Emerge,
    /// Nix, on any distribution.
    Nix,
}

impl Manager {
    const ALL: [(&'static str, Self); 7] = [
        ("apt-get", Self::Apt),
        ("dnf", Self::Dnf),
        ("pacman", Self::Pacman),
        ("zypper", Self::Zypper),
        ("apk", Self::Apk),
        ("emerge", Self::Emerge),
        ("nix-env", Self::Nix),
    ];

    /// The one that this machine has.
    #[must_use]
    pub fn of_this_machine() -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(program, _)| which(program).is_some())
            .map(|(_, manager)| *manager)
    }

    /// The command that installs `packages`, as one would type it.
    #[must_use]
    pub fn command(self, packages: &[&str]) -> String {
        let start = match self {
            Self::Apt => "sudo apt-get install -y --no-install-recommends",
            Self::Dnf => "sudo dnf install -y",
            Self::Pacman => "sudo pacman -S --needed --noconfirm",
            Self::Zypper => "sudo zypper --non-interactive install",
            Self::Apk => "sudo apk add",
            Self::Emerge => "sudo emerge",
            Self::Nix => "nix-env -iA",
        };
        format!("{start} {}", packages.join(" "))
    }
}

/// Something that `xtask` needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Bochs, the emulator that has VT-x.
    Bochs,
    /// The BIOS of Bochs.
    BochsBios,
    /// The VGA BIOS of the Cirrus card.
    CirrusVgaBios,
    /// Bochs's SDL display, which also works without a display.
    BochsDisplay,
    /// QEMU.
    Qemu,
    /// UEFI firmware for QEMU.
    Ovmf,
    /// `llvm-objdump`, by which the boot loader's build recognises LLVM's tools.
    LlvmTools,
    /// The debugger.
    Gdb,
}

impl Need {
    /// Every need, in the order in which `doctor` shows them.
    pub const ALL: [Self; 8] = [
        Self::Bochs,
        Self::BochsBios,
        Self::CirrusVgaBios,
        Self::BochsDisplay,
        Self::Qemu,
        Self::Ovmf,
        Self::LlvmTools,
        Self::Gdb,
    ];

    /// What Bochs runs need.
    pub const FOR_BOCHS: [Self; 4] = [
        Self::Bochs,
        Self::BochsBios,
        Self::CirrusVgaBios,
        Self::BochsDisplay,
    ];

    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bochs => "Bochs",
            Self::BochsBios => "Bochs BIOS",
            Self::CirrusVgaBios => "Cirrus VGA BIOS",
            Self::BochsDisplay => "Bochs SDL display",
            Self::Qemu => "QEMU",
            Self::Ovmf => "OVMF (UEFI firmware)",
            Self::LlvmTools => "llvm-objdump",
            Self::Gdb => "gdb",
        }
    }

    /// Where it is, if it is there.
    #[must_use]
    pub fn find(self) -> Option<std::path::PathBuf> {
        match self {
            Self::Bochs => which("bochs"),
            Self::BochsBios => first_existing(&[
                "/usr/share/bochs/BIOS-bochs-latest",
                "/usr/local/share/bochs/BIOS-bochs-latest",
            ]),
            Self::CirrusVgaBios => first_existing(&[
                "/usr/share/vgabios/vgabios.cirrus.bin",
                "/usr/share/bochs/VGABIOS-lgpl-latest-cirrus",
                "/usr/share/bochs/VGABIOS-lgpl-latest-cirrus.bin",
                "/usr/local/share/bochs/VGABIOS-lgpl-latest-cirrus",
            ]),
            Self::BochsDisplay => first_existing(&[
                "/usr/lib/bochs/plugins/libbx_sdl2_gui.so",
                "/usr/lib64/bochs/plugins/libbx_sdl2_gui.so",
                "/usr/local/lib/bochs/plugins/libbx_sdl2_gui.so",
                "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_sdl2_gui.so",
            ]),
            Self::Qemu => which("qemu-system-x86_64"),
            Self::Ovmf => first_existing(&Self::OVMF_CODE),
            Self::LlvmTools => which("llvm-objdump").or_else(newest_llvm_objdump),
            Self::Gdb => which("gdb"),
        }
    }

    /// The places where distributions put OVMF's code.
    const OVMF_CODE: [&'static str; 7] = [
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2-ovmf/x64/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/qemu/ovmf-x86_64-code.bin",
        "/usr/share/ovmf/OVMF_CODE.fd",
    ];

    /// The package that has it; none where the distribution is not known to have one.
    #[must_use]
    pub fn package(self, manager: Manager) -> Option<&'static str> {
        use Manager::{Apk, Apt, Dnf, Emerge, Nix, Pacman, Zypper};
        let name = match (self, manager) {
            (Self::Bochs, Emerge) => "app-emulation/bochs",
            (Self::Bochs, Nix) => "nixpkgs.bochs",
            (Self::Bochs, _) => "bochs",
            (Self::BochsBios, Apt) => "bochsbios",
            (Self::CirrusVgaBios, Apt) => "vgabios",
            (Self::BochsDisplay, Apt) => "bochs-sdl",
            (Self::BochsBios | Self::CirrusVgaBios | Self::BochsDisplay, manager) => {
                return Self::Bochs.package(manager);
            }
            (Self::Qemu, Apt) => "qemu-system-x86",
            (Self::Qemu, Dnf) => "qemu-system-x86-core",
            (Self::Qemu, Pacman) => "qemu-system-x86",
            (Self::Qemu, Zypper) => "qemu-x86",
            (Self::Qemu, Apk) => "qemu-system-x86_64",
            (Self::Qemu, Emerge) => "app-emulation/qemu",
            (Self::Qemu, Nix) => "nixpkgs.qemu",
            (Self::Ovmf, Apt | Apk) => "ovmf",
            (Self::Ovmf, Dnf | Pacman) => "edk2-ovmf",
            (Self::Ovmf, Zypper) => "qemu-ovmf-x86_64",
            (Self::Ovmf, Emerge) => "sys-firmware/edk2-bin",
            (Self::Ovmf, Nix) => "nixpkgs.OVMF",
            (Self::LlvmTools, Emerge) => "llvm-core/llvm",
            (Self::LlvmTools, Nix) => "nixpkgs.llvm",
            (Self::LlvmTools, _) => "llvm",
            (Self::Gdb, Emerge) => "dev-debug/gdb",
            (Self::Gdb, Nix) => "nixpkgs.gdb",
            (Self::Gdb, _) => "gdb",
        };
        Some(name)
    }
}

/// Debian also installs LLVM's tools under names with the version, without the plain one.
fn newest_llvm_objdump() -> Option<std::path::PathBuf> {
    let mut found: Vec<(u32, std::path::PathBuf)> = std::fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let version = entry
                .file_name()
                .to_str()?
                .strip_prefix("llvm-")?
                .parse()
                .ok()?;
            let tool = entry.path().join("bin/llvm-objdump");
            tool.is_file().then_some((version, tool))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, tool)| tool)
}

/// Makes sure that all `needs` are met: installs what is missing, or says how.
pub fn ensure(paths: &Paths, needs: &[Need]) -> Result<()> {
    let missing: Vec<Need> = needs
        .iter()
        .copied()
        .filter(|need| need.find().is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|need| need.name()).collect();
    let names = names.join(", ");
    let Some(manager) = Manager::of_this_machine() else {
        bail!(
            "missing: {names}. This machine has no package manager that xtask knows: install them by hand"
        );
    };
    let mut packages: Vec<_> = missing
        .iter()
        .filter_map(|need| need.package(manager))
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if manager != Manager::Apt {
        bail!(
            "missing: {names}. Install with: {}",
            manager.command(&packages)
        );
    }
    install(paths, &packages).with_context(|| {
        format!(
            "missing: {names}. Install with: {}",
            manager.command(&packages)
        )
    })?;
    for need in missing {
        if need.find().is_none() {
            bail!(
                "{} is still missing although {} is installed",
                need.name(),
                need.package(manager).unwrap_or("its package")
            );
        }
    }
    Ok(())
}

/// Installs Debian packages.
fn install(paths: &Paths, packages: &[&str]) -> Result<()> {
    say(format!(
        "these packages are missing and will be installed: {}",
        packages.join(" ")
    ));
    let log = paths.logs().join("apt-install.log");
    let step = Step::begin(format!("installing {}", packages.join(" ")));
    // A fresh container has no package lists at all, and old lists name packages that are gone from the mirror.
    if step
        .run(&mut apt_get(&install_arguments(packages)), &log)
        .is_ok()
    {
        return Ok(());
    }
    let update_log = paths.logs().join("apt-update.log");
    let updated = step.run(&mut apt_get(&["update"]), &update_log);
    let installed = step.run(&mut apt_get(&install_arguments(packages)), &log);
    // A list that could not be updated is only of interest where the installation fails as well.
    installed.or_else(|error| updated.and(Err(error)))
}

fn install_arguments<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "install",
        "-y",
        "--no-install-recommends",
        "-o",
        "DPkg::Lock::Timeout=300",
    ];
    arguments.extend(packages);
    arguments
}

/// `apt-get` as root: directly, or by `sudo`, which asks for a password only where there is a terminal.
fn apt_get(arguments: &[&str]) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        if !std::io::stdin().is_terminal() {
            sudo.arg("-n");
        }
        sudo.arg("DEBIAN_FRONTEND=noninteractive").arg("apt-get");
        sudo
    };
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_has_a_package_everywhere() {
        for need in Need::ALL {
            for (_, manager) in Manager::ALL {
                assert!(need.package(manager).is_some(), "{need:?} with {manager:?}");
            }
        }
    }

    #[test]
    fn the_command_for_fedora_is_what_one_types_there() {
        assert_eq!(
            Manager::Dnf.command(&["bochs", "edk2-ovmf"]),
            "sudo dnf install -y bochs edk2-ovmf"
        );
    }
}
