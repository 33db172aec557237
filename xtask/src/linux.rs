//! The Linux guest: a distribution's stock kernel and a small initial file system around busybox.
//!
//! Both come out of Debian's packages, which are fetched once from the mirror of this machine and unpacked under
//! `target/`; nothing is installed. What is ours (`guests/linux`) are the scripts that run in it.

use crate::cpio::Archive;
use crate::guests::Guest;
use crate::paths::Paths;
use crate::report::{Step, say};
use crate::system::apt::{Apt, can_fetch_packages};
use anyhow::{Context, Result, bail};
use bundle::KernelFormat;
use std::fs;
use std::path::{Path, PathBuf};

/// Its name, on the command line and in the hypervisor's log.
pub const NAME: &str = "linux";

/// All that the kernel is told. It needs nothing else to be at home in the machine.
pub const COMMAND_LINE: &str = "console=ttyS0";

/// The package that depends on the newest kernel for virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the real package's name begins with.
const KERNEL_PREFIX: &str = "linux-image-";

/// What newer releases have put into packages of their own, which that one depends on.
const PARTS_PREFIXES: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// The shell and tools, in one program without libraries.
const TOOLS_PACKAGE: &str = "busybox-static";

/// What is done in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task<'a> {
    /// A shell waits at the console. Its terminal has this size (rows, columns), if that is known.
    Shell(Option<(u16, u16)>),
    /// This script of `guests/linux` runs first.
    Script(&'a str),
}

/// The unpacked packages.
#[derive(Clone, Debug)]
pub struct Linux {
    kernel: PathBuf,
    tools: PathBuf,
    modules: PathBuf,
    scripts: PathBuf,
}

impl Linux {
    /// Memory for the guest: room for the kernel, its initial file system unpacked, and something to work with.
    pub const MEMORY_BYTES: u64 = 256 << 20;

    /// Finds the packages' contents, fetching them if need be.
    pub fn provide(paths: &Paths) -> Result<Self> {
        let root = paths.fetched().join(NAME);
        if !root.exists() {
            fetch(paths, &root).context(
                "the Linux guest cannot be fetched. With a kernel and an initramfs of your own: \
                 --kernel FILE --initrd FILE",
            )?;
        }
        Self::in_folder(&root, paths.root().join("guests/linux"))
    }

    fn in_folder(root: &Path, scripts: PathBuf) -> Result<Self> {
        let only_one = |folder: &str, prefix: &str| {
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
            tools: only_one("bin", "busybox").or_else(|_| only_one("usr/bin", "busybox"))?,
            modules,
            scripts,
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
        archive.program("bin/busybox", &read(&self.tools)?);
        archive.program("init", &self.script("init")?);
        archive.file("etc/profile", &self.script("profile")?);
        archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n");
        match task {
            Task::Shell(None) => {}
            Task::Shell(Some((rows, columns))) => {
                let size = format!("rows {rows} cols {columns}\n");
                archive.file("etc/terminal-size", size.as_bytes());
            }
            Task::Script(name) => {
                archive.folder("task");
                archive.program("task/run", &self.script(name)?);
                for module in self.modules_of(name)? {
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

    /// The kernel modules that a script asks for, by lines of the form `# module: PATH`, as far as this kernel has
    /// them. Newer ones are compressed; insmod takes them as they are.
    fn modules_of(&self, script: &str) -> Result<Vec<PathBuf>> {
        let text = String::from_utf8_lossy(&self.script(script)?).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix("# module: "))
            .flat_map(|path| [path.to_owned(), format!("{path}.xz")])
            .map(|path| self.modules.join("kernel").join(path))
            .filter(|module| module.exists())
            .collect())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Fetches and unpacks the packages. The folder appears only when it is complete.
fn fetch(paths: &Paths, root: &Path) -> Result<()> {
    if !can_fetch_packages() {
        bail!("it comes from Debian's packages, and this machine has no apt that knows a mirror");
    }
    let _lock = crate::build::lock(paths)?;
    if root.exists() {
        return Ok(());
    }
    say("the Linux guest is fetched from this machine's Debian mirror (30 MB, once)");
    let apt = Apt::with_own_release(paths.fetched().join("apt"))?;
    let partial = root.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    {
        let step = Step::begin("fetching the package lists");
        apt.update(&step)?;
    }
    let kernel = apt.dependency(KERNEL_PACKAGE, KERNEL_PREFIX)?;
    let mut packages = vec![kernel.clone(), TOOLS_PACKAGE.to_owned()];
    for prefix in PARTS_PREFIXES {
        packages.extend(apt.dependency(&kernel, prefix).ok());
    }
    for package in &packages {
        let step = Step::begin(format!("fetching {package}"));
        apt.unpack(&step, package, &partial)?;
    }
    fs::rename(&partial, root).with_context(|| format!("cannot make {}", root.display()))
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
            ("scripts/init", "init script"),
            ("scripts/profile", "profile"),
            (
                "scripts/look",
                "#!/bin/sh\n# module: fs/isofs.ko\n# module: fs/nothing.ko\n",
            ),
        ] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        Linux::in_folder(folder, folder.join("scripts")).unwrap()
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
        let guest = linux.guest(Task::Shell(None), &initrd).unwrap();
        assert_eq!(guest.kernel, folder.path().join("boot/vmlinuz-6.1"));
        assert_eq!(guest.config.cmdline, "console=ttyS0");
        let archive = fs::read(initrd).unwrap();
        assert!(contains(&archive, "init script") && contains(&archive, "tools"));
        assert!(!contains(&archive, "terminal-size") && !contains(&archive, "task"));
    }

    #[test]
    fn the_size_of_the_terminal_reaches_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        let linux = unpacked(folder.path());
        let archive = linux.initramfs(Task::Shell(Some((50, 132)))).unwrap();
        assert!(contains(&archive, "rows 50 cols 132\n"));
    }

    #[test]
    fn a_task_brings_the_modules_that_it_asks_for_and_that_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let linux = unpacked(folder.path());
        let archive = linux.initramfs(Task::Script("look")).unwrap();
        assert!(contains(&archive, "task/run\0"));
        assert!(contains(&archive, "task/isofs.ko.xz\0") && contains(&archive, "module"));
        assert!(!contains(&archive, "nothing.ko\0"));
    }

    #[test]
    fn a_kernel_beside_its_modules_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["usr/lib/modules/7.3/vmlinuz", "usr/bin/busybox"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let linux = Linux::in_folder(folder.path(), PathBuf::new()).unwrap();
        assert_eq!(
            linux.kernel(),
            folder.path().join("usr/lib/modules/7.3/vmlinuz")
        );
    }

    #[test]
    fn a_folder_without_a_kernel_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("lib/modules/6.1")).unwrap();
        let error = Linux::in_folder(folder.path(), PathBuf::new()).unwrap_err();
        assert!(error.to_string().contains("vmlinuz-*"), "{error}");
    }
}
