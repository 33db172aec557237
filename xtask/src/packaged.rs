//! Others' guests that come as Debian packages: a memory tester, two boot loaders, a hypervisor and a microkernel.
//!
//! Like the Linux guest's, their packages are fetched once from the mirror of this machine and unpacked under
//! `target/`; nothing is installed. The first three draw on a text screen, the others speak on the serial port.

use crate::guests::Guest;
use crate::output::output_of;
use crate::paths::Paths;
use crate::report::{Step, say};
use crate::system::apt::{Apt, can_fetch_packages};
use anyhow::{Context, Result, bail};
use bundle::Screen;
use clap::ValueEnum;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Packaged {
    /// Tests memory.
    #[value(name = "memtest86+")]
    Memtest,
    /// The same for 32-bit processors.
    #[value(name = "memtest86+ia32")]
    Memtest32,
    /// Boots from a network.
    Ipxe,
    /// Boots anything; with its command line.
    Grub,
    /// The Xen hypervisor, as one without VT-x. It wants a Linux kernel as its first module.
    Xen,
    /// GNU Mach, the Hurd's microkernel. It wants the Hurd's servers as modules.
    Gnumach,
}

/// The format of GRUB's image, which is also a Multiboot kernel.
const GRUB_FORMAT: &str = "i386-pc";

/// What GRUB is made of: enough for its command line and a look around.
const GRUB_MODULES: [&str; 10] = [
    "normal", "echo", "ls", "lsmmap", "cat", "help", "halt", "reboot", "serial", "date",
];

/// What GRUB's image builder needs of this machine, should it not have it.
const GRUB_LIBRARIES: [&str; 5] = [
    "libdevmapper1.02.1",
    "liblzma5",
    "libselinux1",
    "libudev1",
    "libpcre2-8-0",
];

impl Packaged {
    /// The guest of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::from_str(name, false).ok()
    }

    /// All names, with commas.
    #[must_use]
    pub fn names() -> String {
        let values: Vec<_> = Self::value_variants()
            .iter()
            .map(|packaged| packaged.name())
            .collect();
        values.join(", ")
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memtest => "memtest86+",
            Self::Memtest32 => "memtest86+ia32",
            Self::Ipxe => "ipxe",
            Self::Grub => "grub",
            Self::Xen => "xen",
            Self::Gnumach => "gnumach",
        }
    }

    /// Its command line: where its console is. One for iPXE is a script; without it, it would look for a network, in vain.
    fn command_line(self) -> &'static str {
        match self {
            Self::Memtest | Self::Memtest32 | Self::Grub => "",
            Self::Ipxe => "shell",
            Self::Xen => "xen com1=115200,8n1 console=com1",
            Self::Gnumach => "gnumach console=com0",
        }
    }

    /// Whether it draws on a text screen.
    fn screen(self) -> Screen {
        match self {
            Self::Memtest | Self::Memtest32 | Self::Ipxe | Self::Grub => Screen::Text,
            Self::Xen | Self::Gnumach => Screen::None,
        }
    }

    /// Whether it has been fetched.
    #[must_use]
    pub fn is_there(self, paths: &Paths) -> bool {
        self.folder(paths).exists()
    }

    fn folder(self, paths: &Paths) -> PathBuf {
        // Both come from one package.
        let name = match self {
            Self::Memtest32 => Self::Memtest.name(),
            _ => self.name(),
        };
        paths.fetched().join(name)
    }

    /// The packages that it comes from.
    #[must_use]
    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Memtest | Self::Memtest32 => &["memtest86+"],
            Self::Ipxe => &["ipxe"],
            Self::Grub => &["grub-pc-bin", "grub-common"],
            Self::Xen => &["xen-system-amd64"],
            Self::Gnumach => &["gnumach-image-1-486"],
        }
    }

    /// Where that only depends on the one with the image, whose name has a version in it: how that name begins.
    fn dependency_prefix(self) -> Option<&'static str> {
        match self {
            Self::Memtest | Self::Memtest32 | Self::Ipxe | Self::Grub => None,
            Self::Xen => Some("xen-hypervisor-"),
            Self::Gnumach => Some("gnumach-image-"),
        }
    }

    /// Places of its image in the packages, of several releases.
    fn images(self) -> &'static [&'static str] {
        match self {
            Self::Memtest => &[
                "boot/memtest86+x64.bin",
                "usr/lib/memtest86+/memtest86+x64.bin",
            ],
            Self::Memtest32 => &[
                "boot/memtest86+ia32.bin",
                "usr/lib/memtest86+/memtest86+ia32.bin",
            ],
            Self::Ipxe => &["boot/ipxe.lkrn", "usr/lib/ipxe/ipxe.lkrn"],
            Self::Grub => &["core.img"],
            Self::Xen | Self::Gnumach => &["kernel"],
        }
    }

    /// The guest, fetched if need be.
    pub fn guest(self, paths: &Paths) -> Result<Guest> {
        let root = self.folder(paths);
        if !root.exists() {
            self.fetch(paths, &root)
                .with_context(|| format!("{} cannot be fetched", self.name()))?;
        }
        let image = self.images().iter().map(|image| root.join(image));
        let image = image
            .into_iter()
            .find(|image| image.exists())
            .with_context(|| format!("{} has no image in {}", self.name(), root.display()))?;
        let mut guest = Guest::new(self.name(), image, Self::MEMORY_BYTES);
        guest.config.screen = self.screen();
        self.command_line().clone_into(&mut guest.config.cmdline);
        Ok(guest)
    }

    /// Enough for each of them, and soon tested.
    const MEMORY_BYTES: u64 = 64 << 20;

    /// Fetches and unpacks the packages. The folder appears only when it is complete.
    fn fetch(self, paths: &Paths, root: &Path) -> Result<()> {
        if !can_fetch_packages() {
            bail!(
                "it comes from Debian's packages, and this machine has no apt that knows a mirror"
            );
        }
        let _lock = crate::build::lock(paths)?;
        if root.exists() {
            return Ok(());
        }
        say(format!(
            "{} is fetched as this machine fetches packages, once",
            self.name()
        ));
        let apt = Apt::with_own_release(paths.fetched().join("apt"))?;
        let partial = root.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        {
            let step = Step::begin("fetching the package lists");
            apt.update(&step)?;
        }
        for package in self.packages() {
            let package = match self.dependency_prefix() {
                Some(prefix) => apt.dependency(package, prefix)?,
                None => (*package).to_owned(),
            };
            let step = Step::begin(format!("fetching {package}"));
            apt.unpack(&step, &package, &partial)?;
        }
        match self {
            Self::Grub => make_grub(&apt, &partial)?,
            Self::Xen | Self::Gnumach => unpack_kernel(&partial)?,
            Self::Memtest | Self::Memtest32 | Self::Ipxe => {}
        }
        fs::rename(&partial, root).with_context(|| format!("cannot make {}", root.display()))
    }
}

/// Unpacks the one compressed file that a package has under `boot`.
fn unpack_kernel(root: &Path) -> Result<()> {
    let compressed = fs::read_dir(root.join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .with_context(|| format!("there is no kernel in {}", root.display()))?;
    let unpacked = output_of(Command::new("gzip").arg("-dc").arg(&compressed))
        .with_context(|| format!("{} cannot be unpacked", compressed.display()))?;
    fs::write(root.join("kernel"), unpacked)?;
    Ok(())
}

/// Makes GRUB's image from the unpacked packages, with the image builder in them.
fn make_grub(apt: &Apt, root: &Path) -> Result<()> {
    let log = root.join("grub-mkimage.log");
    let step = Step::begin("making GRUB's image");
    if step.run(&mut grub_mkimage(root), &log).is_ok() {
        return Ok(());
    }
    for library in GRUB_LIBRARIES {
        // One that has another name in this release may be there already.
        let _ = apt.unpack(&step, library, root);
    }
    step.run(&mut grub_mkimage(root), &log)
}

fn grub_mkimage(root: &Path) -> Command {
    let mut command = Command::new(root.join("usr/bin/grub-mkimage"));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|at| root.join(at));
    command
        .env("LD_LIBRARY_PATH", join(&libraries))
        .arg("--directory")
        .arg(root.join("usr/lib/grub").join(GRUB_FORMAT))
        .args(["--format", GRUB_FORMAT, "--prefix", "/", "--output"])
        .arg(root.join("core.img"))
        .args(GRUB_MODULES);
    command
}

fn join(folders: &[PathBuf]) -> String {
    let folders: Vec<_> = folders.iter().map(|at| at.display().to_string()).collect();
    folders.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_name() {
        for packaged in Packaged::value_variants() {
            assert_eq!(Packaged::named(packaged.name()), Some(*packaged));
        }
        assert_eq!(Packaged::named("linux"), None);
        assert_eq!(
            Packaged::names(),
            "memtest86+, memtest86+ia32, ipxe, grub, xen, gnumach"
        );
    }

    #[test]
    fn grubs_image_is_made_by_the_unpacked_program_from_the_unpacked_modules() {
        let command = grub_mkimage(Path::new("/f/grub"));
        assert_eq!(command.get_program(), "/f/grub/usr/bin/grub-mkimage");
        let arguments: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let line = arguments.join(" ");
        for part in [
            "--directory /f/grub/usr/lib/grub/i386-pc",
            "--output /f/grub/core.img",
            " normal ",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
