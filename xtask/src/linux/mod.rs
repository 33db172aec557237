//! The Linux guest: a distribution's stock kernel and a small initial file system around busybox.
//!
//! On Debian and its kin both come out of packages, which are fetched once from the mirror of this machine and unpacked
//! under `target/`; nothing is installed. Elsewhere they are those that the machine itself runs ([`Own`]). What is ours (`guests/linux`) are the scripts that run in it. Which kernel that is
//! can be chosen ([`KernelPackage`]); the tools are the same with all of them.

mod own;
mod packages;

use crate::cpio::Archive;
use crate::guests::Guest;
use crate::paths::Paths;
use crate::report::say;
use crate::system::distribution::Distribution;
use crate::system::packages::Manager;
use anyhow::{Context, Result, bail};
use bundle::KernelFormat;
use std::fs;
use std::path::{Path, PathBuf};

pub use own::Own;
pub use packages::KernelPackage;

/// What else one can do without a guest from a package.
const BRING_YOUR_OWN: &str = "the Linux guest cannot be fetched. With a kernel and an initramfs of your own: \
                              --kernel FILE --initrd FILE";

/// Its name, on the command line and in the hypervisor's log.
pub const NAME: &str = "linux";

/// All that the kernel is told. It needs nothing else to be at home in the machine.
pub const COMMAND_LINE: &str = "console=ttyS0";

/// The same in a machine with a screen: the log is on both, and the shell on the screen.
pub const COMMAND_LINE_WITH_SCREEN: &str = "console=ttyS0 console=tty0";

/// Modules with the drivers of devices that the machine has, in the order of loading; where they are differs with the
/// kernel's age.
const DRIVERS: [&str; 3] = [
    "drivers/misc/pvpanic.ko",
    "drivers/misc/pvpanic/pvpanic.ko",
    "drivers/misc/pvpanic/pvpanic-mmio.ko",
];

/// What is done in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task<'a> {
    /// A shell waits at the console.
    Shell,
    /// This script of `guests/linux` runs first.
    Script(&'a str),
    /// This program is all there is.
    Program(&'a Path),
}

/// The unpacked packages.
#[derive(Clone, Debug)]
pub struct Linux {
    kernel: PathBuf,
    tools: PathBuf,
    modules: PathBuf,
    scripts: PathBuf,
    /// Our own programs, built.
    programs: PathBuf,
}

impl Linux {
    /// Memory for the guest: room for the kernel, its initial file system unpacked, and something to work with.
    pub const MEMORY_BYTES: u64 = 256 << 20;

    /// Finds the packages' contents, fetching them if need be.
    pub fn provide(paths: &Paths) -> Result<Self> {
        Self::provide_kernel(paths, &KernelPackage::default())
    }

    /// The same with another kernel.
    pub fn provide_kernel(paths: &Paths, kernel: &KernelPackage) -> Result<Self> {
        let provide = || -> Result<_> {
            let tools = KernelPackage::default().provide(paths)?;
            Ok((kernel.provide(paths)?, tools))
        };
        match provide() {
            Ok((root, tools)) => Self::in_folders(&root, &tools, paths),
            Err(error) if *kernel == KernelPackage::default() => {
                Self::of_this_machine(paths, Own::of_this_machine(), &error)
            }
            Err(error) => Err(error.context(BRING_YOUR_OWN)),
        }
    }

    /// With the kernel and the tools that this machine runs itself, for packages cannot be fetched.
    fn of_this_machine(paths: &Paths, own: Own, why: &anyhow::Error) -> Result<Self> {
        let remedy = own.remedy(Manager::of_this_machine(), &Distribution::of_this_machine());
        if let (Some(kernel), Some(tools)) = (own.kernel, own.tools) {
            say(format!(
                "the guest is this machine's own kernel, {}",
                kernel.display()
            ));
            return Ok(Self {
                kernel,
                tools,
                modules: own.modules,
                scripts: paths.root().join("guests/linux"),
                programs: paths.programs(),
            });
        }
        let remedy = remedy.unwrap_or_default();
        bail!(
            "this machine has no kernel and static busybox for the Linux guest ({why:#}). Get them with: {remedy}; or \
             bring your own: --kernel FILE --initrd FILE"
        )
    }

    fn in_folders(root: &Path, tools: &Path, paths: &Paths) -> Result<Self> {
        let only_one_in = |root: &Path, folder: &str, prefix: &str| {
            let folder = root.join(folder);
            let found = fs::read_dir(&folder)
                .ok()
                .into_iter()
                .flatten()
                .flatten()
                .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
            found
                .map(|entry| entry.path())
                .with_context(|| format!("there is no {prefix}* in {}", folder.display()))
        };
        let only_one = |folder: &str, prefix: &str| only_one_in(root, folder, prefix);
        // Since the merging of /usr, packages have their files in either place; lately the kernel is beside its
        // modules.
        let modules = only_one("lib/modules", "").or_else(|_| only_one("usr/lib/modules", ""))?;
        let beside = modules.join("vmlinuz");
        let kernel = if beside.exists() {
            beside
        } else {
            only_one("boot", "vmlinuz-")?
        };
        Ok(Self {
            kernel,
            tools: only_one_in(tools, "bin", "busybox")
                .or_else(|_| only_one_in(tools, "usr/bin", "busybox"))?,
            modules,
            scripts: paths.root().join("guests/linux"),
            programs: paths.programs(),
        })
    }

    /// The kernel as packaged.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// A guest that boots into `task`; its initial file system is written to `initrd`.
    pub fn guest(&self, task: Task<'_>, initrd: &Path) -> Result<Guest> {
        crate::build::write_if_different(initrd, &self.initramfs(task)?)?;
        let mut guest = Guest::new(NAME, &self.kernel, Self::MEMORY_BYTES);
        guest.initrd = Some(initrd.to_owned());
        guest.config.kernel_format = KernelFormat::Linux;
        guest.config.cmdline = COMMAND_LINE.to_owned();
        Ok(guest)
    }

    /// The initial file system. It is not compressed: the bundle is where that pays, and an emulated CPU copies
    /// faster than it unpacks.
    fn initramfs(&self, task: Task<'_>) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            archive.folder(folder);
        }
        archive.character_device("dev/console", 5, 1);
        archive.character_device("dev/zero", 1, 5);
        if let Task::Program(program) = task {
            archive.program("init", &read(program)?);
            return Ok(archive.finish());
        }
        archive.program("bin/busybox", &read(&self.tools)?);
        archive.program("init", &self.script("init")?);
        archive.program("bin/load", &self.script("load")?);
        archive.program("bin/console", &read(&self.programs.join("console"))?);
        archive.folder("lib");
        archive.file("lib/cases", &self.script("cases")?);
        archive.folder("modules");
        for (number, module) in self.modules(&DRIVERS).iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("modules/{number}-{name}"), &read(module)?);
        }
        archive.file("etc/profile", &self.script("profile")?);
        archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n");
        match task {
            Task::Shell | Task::Program(_) => {}
            Task::Script(name) => {
                archive.folder("task");
                archive.program("task/run", &self.script(name)?);
                for program in self.asked_for("program", name)? {
                    let contents = read(&self.programs.join(&program))?;
                    archive.program(&format!("task/{program}"), &contents);
                }
                for module in self.modules(&self.asked_for("module", name)?) {
                    let name = module.file_name().unwrap_or_default().to_string_lossy();
                    archive.file(&format!("task/{name}"), &read(&module)?);
                }
            }
        }
        Ok(archive.finish())
    }

    fn script(&self, name: &str) -> Result<Vec<u8>> {
        read(&self.scripts.join(name))
    }

    /// What a script asks for, by lines of the form `# module: PATH` or `# program: NAME`.
    fn asked_for(&self, kind: &str, script: &str) -> Result<Vec<String>> {
        let text = String::from_utf8_lossy(&self.script(script)?).into_owned();
        let prefix = format!("# {kind}: ");
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect())
    }

    /// These of the kernel's modules, as far as it has them. Newer ones are compressed; the guest unpacks them.
    fn modules(&self, paths: &[impl AsRef<str>]) -> Vec<PathBuf> {
        paths
            .iter()
            .map(AsRef::as_ref)
            .flat_map(|path| [path.to_owned(), format!("{path}.xz")])
            .map(|path| self.modules.join("kernel").join(path))
            .filter(|module| module.exists())
            .collect()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the packages would have left, with these words as contents.
    fn unpacked(folder: &Path) -> Linux {
        for (file, contents) in [
            ("boot/vmlinuz-6.1", "kernel"),
            ("bin/busybox", "tools"),
            ("lib/modules/6.1/kernel/fs/isofs.ko.xz", "module"),
            ("guests/linux/init", "init script"),
            ("guests/linux/profile", "profile"),
            ("guests/linux/cases", "cases"),
            ("target/plinth/programs/stress", "our program"),
            ("target/plinth/programs/console", "pseudo-terminal"),
            ("guests/linux/load", "load"),
            (
                "lib/modules/6.1/kernel/drivers/misc/pvpanic/pvpanic.ko",
                "core",
            ),
            (
                "lib/modules/6.1/kernel/drivers/misc/pvpanic/pvpanic-mmio.ko",
                "driver",
            ),
            (
                "guests/linux/look",
                "#!/bin/sh\n# module: fs/isofs.ko\n# module: fs/nothing.ko\n# program: stress\n",
            ),
        ] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        Linux::in_folders(folder, folder, &Paths::of(folder)).unwrap()
    }

    fn contains(archive: &[u8], text: &str) -> bool {
        archive
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    #[test]
    fn the_guest_has_the_packaged_kernel_and_nothing_but_the_console_on_its_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let linux = unpacked(folder.path());
        let initrd = folder.path().join("initrd");
        let guest = linux.guest(Task::Shell, &initrd).unwrap();
        assert_eq!(guest.kernel, folder.path().join("boot/vmlinuz-6.1"));
        assert_eq!(guest.config.cmdline, "console=ttyS0");
        let archive = fs::read(initrd).unwrap();
        assert!(contains(&archive, "init script") && contains(&archive, "tools"));
        assert!(!contains(&archive, "task"));
    }

    #[test]
    fn every_shell_has_a_terminal_that_follows_the_window() {
        let folder = tempfile::tempdir().unwrap();
        let archive = unpacked(folder.path()).initramfs(Task::Shell).unwrap();
        assert!(contains(&archive, "bin/console\0"));
        assert!(contains(&archive, "pseudo-terminal"));
    }

    #[test]
    fn a_task_brings_the_modules_that_it_asks_for_and_that_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let linux = unpacked(folder.path());
        let archive = linux.initramfs(Task::Script("look")).unwrap();
        assert!(contains(&archive, "task/run\0"));
        assert!(contains(&archive, "task/isofs.ko.xz\0") && contains(&archive, "module"));
        assert!(!contains(&archive, "nothing.ko\0"));
        assert!(contains(&archive, "task/stress\0") && contains(&archive, "our program"));
    }

    #[test]
    fn the_drivers_of_the_machines_devices_come_along_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let archive = unpacked(folder.path()).initramfs(Task::Shell).unwrap();
        assert!(contains(&archive, "modules/0-pvpanic.ko\0"));
        assert!(contains(&archive, "modules/1-pvpanic-mmio.ko\0"));
    }

    #[test]
    fn a_kernel_beside_its_modules_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["usr/lib/modules/7.3/vmlinuz", "usr/bin/busybox"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let linux =
            Linux::in_folders(folder.path(), folder.path(), &Paths::of(folder.path())).unwrap();
        assert_eq!(
            linux.kernel(),
            folder.path().join("usr/lib/modules/7.3/vmlinuz")
        );
    }

    #[test]
    fn where_nothing_can_be_fetched_the_machines_own_kernel_is_the_guests() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::of(folder.path());
        let why = anyhow::anyhow!("no apt");
        let own = Own {
            kernel: Some("/boot/vmlinuz-7".into()),
            tools: Some("/sbin/busybox".into()),
            ..Own::default()
        };
        let linux = Linux::of_this_machine(&paths, own, &why).unwrap();
        assert_eq!(linux.kernel(), Path::new("/boot/vmlinuz-7"));
        let error = Linux::of_this_machine(&paths, Own::default(), &why).unwrap_err();
        let error = error.to_string();
        for part in ["no apt", "busybox", "--kernel FILE --initrd FILE"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_folder_without_a_kernel_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lib/modules/6.1")).unwrap();
        let error =
            Linux::in_folders(folder.path(), folder.path(), &Paths::of(folder.path())).unwrap_err();
        assert!(error.to_string().contains("vmlinuz-*"), "{error}");
    }
}
