//! What the kernel tells about a disk: sysfs for the hardware, `/proc` for who uses it.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Sizes in sysfs are counted in sectors of 512 bytes, whatever the disk's own sectors are.
const SYSFS_SECTOR: u64 = 512;

/// Where the kernel's files are; another place in tests.
#[derive(Clone, Debug)]
pub struct Kernel {
    sys: PathBuf,
    proc: PathBuf,
    dev: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
        }
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Its name under `/dev`.
    pub name: String,
    /// Vendor and model, as the disk itself says.
    pub model: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it comes and goes.
    pub attachment: Attachment,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// Who uses the whole disk, apart from its partitions.
    pub uses: Vec<Use>,
}

/// Whether a disk comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The medium can be taken out, or the whole disk hangs on USB.
    Removable,
    /// It is part of the machine.
    BuiltIn,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name under `/dev`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Who uses it.
    pub uses: Vec<Use>,
}

/// Who uses a disk or partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is mounted here.
    Mounted(String),
    /// It is swap space.
    Swap,
    /// Another block device (encryption, RAID, LVM) lies on it, whose own uses follow.
    HeldBy(String),
}

impl DiskInfo {
    /// Where it is mounted, what is mounted inside of another first.
    #[must_use]
    pub fn mounts(&self) -> Vec<&str> {
        let parts = self.partitions.iter().flat_map(|partition| &partition.uses);
        let places = self
            .uses
            .iter()
            .chain(parts)
            .filter_map(|usage| match usage {
                Use::Mounted(place) => Some(place.as_str()),
                Use::Swap | Use::HeldBy(_) => None,
            });
        let mut places: Vec<_> = places.collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.len()));
        places
    }
}

impl Kernel {
    /// The disk behind a path such as `/dev/sdb` or `/dev/disk/by-id/...`.
    pub fn disk(&self, device: &Path) -> Result<DiskInfo> {
        let device = fs::canonicalize(device).with_context(|| {
            let disks = self.disk_names().join(", ");
            format!("there is no {}. Disks: {disks}", device.display())
        })?;
        let name = device
            .file_name()
            .and_then(|name| name.to_str())
            .with_context(|| format!("{} is no device", device.display()))?;
        self.disk_by_name(name)
    }

    /// The disk of this name under `/dev`.
    pub fn disk_by_name(&self, name: &str) -> Result<DiskInfo> {
        let folder = self.sys.join("class/block").join(name);
        if !folder.exists() {
            bail!(
                "/dev/{name} is no disk. Disks: {}",
                self.disk_names().join(", ")
            );
        }
        if folder.join("partition").exists() {
            bail!(
                "/dev/{name} is a partition: name the whole disk, the image has partitions of its own"
            );
        }
        let mut partitions = Vec::new();
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.path().join("partition").exists() {
                let name = entry.file_name().to_string_lossy().into_owned();
                partitions.push(Partition {
                    bytes: sectors(&entry.path()),
                    uses: self.uses(&name, &entry.path()),
                    name,
                });
            }
        }
        partitions.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        let vendor = text(&folder.join("device/vendor"));
        let model = text(&folder.join("device/model"));
        Ok(DiskInfo {
            name: name.to_owned(),
            model: format!("{vendor} {model}").trim().to_owned(),
            bytes: sectors(&folder),
            attachment: attachment(&folder),
            partitions,
            uses: self.uses(name, &folder),
        })
    }

    /// What is written to in order to overwrite a disk.
    #[must_use]
    pub fn device(&self, disk: &DiskInfo) -> PathBuf {
        self.dev.join(&disk.name)
    }

    /// The names of all disks that have a size.
    #[must_use]
    pub fn disk_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.sys.join("class/block"));
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| !entry.path().join("partition").exists() && sectors(&entry.path()) > 0)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Who uses a device; what lies on it (encryption, LVM, RAID, and again on those) and their partitions included.
    fn uses(&self, name: &str, folder: &Path) -> Vec<Use> {
        let mut uses = Vec::new();
        let mut seen = vec![name.to_owned()];
        self.add_uses(name, folder, &mut seen, &mut uses);
        uses
    }

    fn add_uses(&self, name: &str, folder: &Path, seen: &mut Vec<String>, uses: &mut Vec<Use>) {
        self.add_own_uses(name, folder, uses);
        for holder in names_in(&folder.join("holders")) {
            if seen.contains(&holder) {
                continue;
            }
            seen.push(holder.clone());
            uses.push(Use::HeldBy(holder.clone()));
            let folder = self.sys.join("class/block").join(&holder);
            self.add_uses(&holder, &folder, seen, uses);
            for part in names_in(&folder) {
                let inner = folder.join(&part);
                if inner.join("partition").exists() {
                    self.add_uses(&part, &inner, seen, uses);
                }
            }
        }
    }

    fn add_own_uses(&self, name: &str, folder: &Path, uses: &mut Vec<Use>) {
        // The device mapper's devices are mostly called by another name.
        let mut devices = vec![format!("/dev/{name}")];
        let mapped = text(&folder.join("dm/name"));
        if !mapped.is_empty() {
            devices.push(format!("/dev/mapper/{mapped}"));
        }
        let is_it = |source: &str| devices.iter().any(|device| device == source);
        let number = text(&folder.join("dev"));
        // mountinfo has the device's number, which is right also where the name is that of a link or of root.
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(2);
            if let (Some(found), Some(_), Some(place)) =
                (fields.next(), fields.next(), fields.next())
            {
                let by_name = line
                    .split_once(" - ")
                    .and_then(|(_, rest)| rest.split(' ').nth(1))
                    .is_some_and(is_it);
                if by_name || (!number.is_empty() && found == number) {
                    uses.push(Use::Mounted(unescaped(place)));
                }
            }
        }
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        if swaps
            .lines()
            .any(|line| line.split_whitespace().next().is_some_and(is_it))
        {
            uses.push(Use::Swap);
        }
    }
}

/// The names in a folder, sorted.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn sectors(folder: &Path) -> u64 {
    text(&folder.join("size"))
        .parse()
        .map_or(0, |sectors: u64| sectors.saturating_mul(SYSFS_SECTOR))
}

/// USB disks larger than sticks do not call themselves removable; their place in the device tree tells.
fn attachment(folder: &Path) -> Attachment {
    let on_usb = fs::canonicalize(folder).is_ok_and(|real| {
        real.components()
            .any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"usb"))
    });
    if text(&folder.join("removable")) == "1" || on_usb {
        Attachment::Removable
    } else {
        Attachment::BuiltIn
    }
}

/// Spaces in mount points are written as octal escapes.
fn unescaped(place: &str) -> String {
    place
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A sysfs and a proc of files.
    pub(crate) struct FakeKernel {
        folder: TempDir,
    }

    impl FakeKernel {
        pub(crate) fn new() -> Self {
            let fake = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            fake.write("sys/class/block/.keep", "");
            fake.write(
                "proc/self/mountinfo",
                "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
            );
            fake.write("proc/swaps", "Filename Type Size Used Priority\n");
            fake
        }

        pub(crate) fn kernel(&self) -> Kernel {
            Kernel {
                sys: self.folder.path().join("sys"),
                proc: self.folder.path().join("proc"),
                dev: self.folder.path().join("dev"),
            }
        }

        /// Where the device of this name is.
        pub(crate) fn device(&self, name: &str) -> PathBuf {
            self.folder.path().join("dev").join(name)
        }

        pub(crate) fn write(&self, path: &str, contents: &str) {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }

        /// A device without a place in the device tree, such as the device mapper's, that lies on this one (by its path
        /// below `sys`).
        pub(crate) fn holder(&self, on: &str, name: &str, number: &str) {
            let folder = format!("sys/devices/virtual/block/{name}");
            self.write(&format!("{folder}/dev"), &format!("{number}\n"));
            self.write(&format!("{folder}/size"), "2048\n");
            self.write(&format!("sys/{on}/holders/{name}"), "");
            let class = self.folder.path().join("sys/class/block").join(name);
            if !class.exists() {
                symlink(self.folder.path().join(&folder), class).unwrap();
            }
        }

        /// A disk of 2 MiB with partitions of 1 MiB, at this place in the device tree; a file stands for the device.
        pub(crate) fn disk(&self, place: &str, name: &str, removable: &str, partitions: &[&str]) {
            self.write(&format!("dev/{name}"), "");
            let device = fs::File::options().write(true).open(self.device(name));
            device.unwrap().set_len(2 << 20).unwrap();
            let folder = format!("sys/devices/{place}/block/{name}");
            self.write(&format!("{folder}/size"), "4096\n");
            self.write(&format!("{folder}/removable"), removable);
            self.write(&format!("{folder}/dev"), "8:0\n");
            self.write(&format!("{folder}/device/vendor"), "Acme    \n");
            self.write(&format!("{folder}/device/model"), "Stick 2000\n");
            let class = self.folder.path().join("sys/class/block");
            symlink(self.folder.path().join(&folder), class.join(name)).unwrap();
            for (index, partition) in partitions.iter().enumerate() {
                let inner = format!("{folder}/{partition}");
                self.write(&format!("{inner}/partition"), "1");
                self.write(&format!("{inner}/size"), "2048");
                self.write(&format!("{inner}/dev"), &format!("8:{}\n", index + 1));
                symlink(self.folder.path().join(&inner), class.join(partition)).unwrap();
            }
        }
    }

    #[test]
    fn a_usb_stick_is_described_with_its_partitions() {
        let fake = FakeKernel::new();
        fake.disk("pci0/usb1/1-1", "sdb", "0", &["sdb1", "sdb2"]);
        fake.write(
            "proc/self/mountinfo",
            "30 1 8:2 / /media/my\\040stick rw - vfat /dev/sdb2 rw\n",
        );
        let disk = fake.kernel().disk_by_name("sdb").unwrap();
        assert_eq!(disk.model, "Acme Stick 2000");
        assert_eq!(disk.bytes, 2 << 20);
        assert_eq!(disk.attachment, Attachment::Removable);
        let names: Vec<_> = disk.partitions.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["sdb1", "sdb2"]);
        assert!(disk.partitions[0].uses.is_empty());
        assert_eq!(
            disk.partitions[1].uses,
            [Use::Mounted("/media/my stick".into())]
        );
    }

    #[test]
    fn a_card_reader_is_removable_and_a_sata_disk_is_built_in() {
        let fake = FakeKernel::new();
        fake.disk("pci0/mmc", "mmcblk0", "1", &[]);
        fake.disk("pci0/ata1", "sda", "0", &[]);
        let kernel = fake.kernel();
        assert_eq!(
            kernel.disk_by_name("mmcblk0").unwrap().attachment,
            Attachment::Removable
        );
        assert_eq!(
            kernel.disk_by_name("sda").unwrap().attachment,
            Attachment::BuiltIn
        );
    }

    #[test]
    fn swap_and_encryption_are_uses() {
        let fake = FakeKernel::new();
        fake.disk("pci0/usb1", "sdc", "1", &["sdc1"]);
        fake.write("proc/self/mountinfo", "");
        fake.write("proc/swaps", "Filename Type\n/dev/sdc1 partition\n");
        fake.write("sys/devices/pci0/usb1/block/sdc/holders/dm-0", "");
        let disk = fake.kernel().disk_by_name("sdc").unwrap();
        assert_eq!(disk.uses, [Use::HeldBy("dm-0".into())]);
        assert_eq!(disk.partitions[0].uses, [Use::Swap]);
    }

    #[test]
    fn mounts_are_taken_away_from_the_inside_out() {
        let fake = FakeKernel::new();
        fake.disk("pci0/usb1/1-1", "sdb", "1", &["sdb1", "sdb2"]);
        fake.write(
            "proc/self/mountinfo",
            "30 1 8:1 / /mnt rw - ext4 /dev/sdb1 rw\n31 30 8:2 / /mnt/in rw - ext4 /dev/sdb2 rw\n",
        );
        let disk = fake.kernel().disk_by_name("sdb").unwrap();
        assert_eq!(disk.mounts(), ["/mnt/in", "/mnt"]);
    }

    #[test]
    fn a_partition_is_not_a_disk() {
        let fake = FakeKernel::new();
        fake.disk("pci0/usb1", "sdb", "1", &["sdb1"]);
        let error = fake.kernel().disk_by_name("sdb1").unwrap_err().to_string();
        assert!(error.contains("whole disk"), "{error}");
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_disks_there_are() {
        let fake = FakeKernel::new();
        fake.disk("pci0/usb1", "sdb", "1", &["sdb1"]);
        let error = fake.kernel().disk_by_name("sdx").unwrap_err().to_string();
        assert!(error.ends_with("Disks: sdb"), "{error}");
    }
}
