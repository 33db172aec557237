//! Whether a disk may be overwritten, and what one is told before saying yes.

use super::sysfs::{Attachment, DiskInfo, Use};
use std::fmt::{self, Write};

/// Whether the user has insisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insistence {
    /// The usual case.
    None,
    /// By `--force`.
    Force,
}

/// Why a disk is not written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The running system lives on it. Nobody can insist on that.
    SystemDisk,
    /// The image does not fit.
    TooSmall {
        /// The disk's size.
        disk_bytes: u64,
        /// The image's size.
        image_bytes: u64,
    },
    /// Something on it is in use.
    InUse(Vec<String>),
    /// It is part of the machine.
    BuiltIn,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemDisk => write!(f, "this system runs from it"),
            Self::TooSmall {
                disk_bytes,
                image_bytes,
            } => write!(
                f,
                "the image needs {}, the disk has {}",
                size(*image_bytes),
                size(*disk_bytes)
            ),
            Self::InUse(uses) => write!(
                f,
                "it is in use ({}): unmount it first, or insist with --force",
                uses.join(", ")
            ),
            Self::BuiltIn => write!(
                f,
                "it is not removable: if you do mean this disk, insist with --force"
            ),
        }
    }
}

/// Where the running system is mounted; the last ones are where live systems keep the medium that they came from.
const SYSTEM_PLACES: [&str; 14] = [
    "/",
    "/usr",
    "/boot",
    "/boot/efi",
    "/efi",
    "/etc",
    "/var",
    "/home",
    "/nix",
    "/nix/store",
    "/cdrom",
    "/run/live/medium",
    "/run/initramfs/live",
    "/run/archiso/bootmnt",
];

/// Decides.
pub fn verdict(disk: &DiskInfo, image_bytes: u64, insistence: Insistence) -> Result<(), Refusal> {
    let uses: Vec<(&str, &Use)> = disk
        .uses
        .iter()
        .map(|usage| (disk.name.as_str(), usage))
        .chain(disk.partitions.iter().flat_map(|partition| {
            partition
                .uses
                .iter()
                .map(|usage| (partition.name.as_str(), usage))
        }))
        .collect();
    let is_system = |(_, usage): &(&str, &Use)| match usage {
        Use::Mounted(place) => SYSTEM_PLACES.contains(&place.as_str()),
        Use::Swap => true,
        Use::HeldBy(_) => false,
    };
    if uses.iter().any(is_system) {
        return Err(Refusal::SystemDisk);
    }
    if disk.bytes < image_bytes {
        return Err(Refusal::TooSmall {
            disk_bytes: disk.bytes,
            image_bytes,
        });
    }
    if insistence == Insistence::Force {
        return Ok(());
    }
    if !uses.is_empty() {
        let uses = uses
            .iter()
            .map(|(name, usage)| format!("{name} {}", describe(usage)));
        return Err(Refusal::InUse(uses.collect()));
    }
    match disk.attachment {
        Attachment::Removable => Ok(()),
        Attachment::BuiltIn => Err(Refusal::BuiltIn),
    }
}

/// What would be overwritten.
#[must_use]
pub fn description(disk: &DiskInfo) -> String {
    let attachment = match disk.attachment {
        Attachment::Removable => "removable",
        Attachment::BuiltIn => "built in",
    };
    let model = if disk.model.is_empty() {
        "unknown model"
    } else {
        &disk.model
    };
    let mut text = format!(
        "/dev/{}: {model}, {}, {attachment}\n",
        disk.name,
        size(disk.bytes)
    );
    if disk.partitions.is_empty() {
        text.push_str("  no partitions\n");
    }
    for partition in &disk.partitions {
        let uses: Vec<_> = partition.uses.iter().map(describe).collect();
        let _ = writeln!(
            text,
            "  /dev/{}: {} {}",
            partition.name,
            size(partition.bytes),
            uses.join(", ")
        );
    }
    text
}

fn describe(usage: &Use) -> String {
    match usage {
        Use::Mounted(place) => format!("mounted at {place}"),
        Use::Swap => "swap space".into(),
        Use::HeldBy(holder) => format!("part of {holder}"),
    }
}

/// A size for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    units.iter().find(|(_, unit)| bytes >= *unit).map_or_else(
        || format!("{bytes} bytes"),
        |(name, unit)| format!("{:.1} {name}", bytes as f64 / *unit as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::FakeKernel;
    use super::*;

    fn stick() -> FakeKernel {
        let fake = FakeKernel::new();
        fake.write("proc/self/mountinfo", "");
        fake.disk("pci0/usb1/1-1", "sdb", "1", &["sdb1"]);
        fake
    }

    fn judge(fake: &FakeKernel, insistence: Insistence) -> Result<(), Refusal> {
        verdict(
            &fake.kernel().disk_by_name("sdb").unwrap(),
            1 << 20,
            insistence,
        )
    }

    #[test]
    fn an_idle_usb_stick_may_be_overwritten() {
        assert_eq!(judge(&stick(), Insistence::None), Ok(()));
    }

    #[test]
    fn a_mounted_stick_is_refused_unless_forced() {
        let fake = stick();
        fake.write(
            "proc/self/mountinfo",
            "30 1 8:1 / /media/x rw - vfat /dev/sdb1 rw\n",
        );
        assert_eq!(
            judge(&fake, Insistence::None),
            Err(Refusal::InUse(vec!["sdb1 mounted at /media/x".into()]))
        );
        assert_eq!(judge(&fake, Insistence::Force), Ok(()));
    }

    #[test]
    fn a_built_in_disk_is_refused_unless_forced() {
        let fake = FakeKernel::new();
        fake.write("proc/self/mountinfo", "");
        fake.disk("pci0/ata1", "sdb", "0", &[]);
        assert_eq!(judge(&fake, Insistence::None), Err(Refusal::BuiltIn));
        assert_eq!(judge(&fake, Insistence::Force), Ok(()));
    }

    #[test]
    fn the_disk_of_the_running_system_is_refused_whoever_insists() {
        let fake = stick();
        fake.write(
            "proc/self/mountinfo",
            "30 1 8:1 / / rw - ext4 /dev/sdb1 rw\n",
        );
        assert_eq!(judge(&fake, Insistence::Force), Err(Refusal::SystemDisk));
        fake.write("proc/self/mountinfo", "");
        fake.write("proc/swaps", "Filename\n/dev/sdb1 partition\n");
        assert_eq!(judge(&fake, Insistence::Force), Err(Refusal::SystemDisk));
    }

    /// LUKS on a partition, LVM in it, the root and swap in that.
    #[test]
    fn the_disk_below_an_encrypted_root_is_refused_whoever_insists() {
        let encrypted = || {
            let fake = stick();
            fake.holder("devices/pci0/usb1/1-1/block/sdb/sdb1", "dm-0", "253:0");
            fake.holder("devices/virtual/block/dm-0", "dm-1", "253:1");
            fake
        };
        assert_eq!(judge(&encrypted(), Insistence::Force), Ok(()));
        for place in ["/", "/usr", "/boot", "/var"] {
            let fake = encrypted();
            let mount = format!("22 1 253:1 / {place} rw - ext4 /dev/mapper/vg-root rw\n");
            fake.write("proc/self/mountinfo", &mount);
            assert_eq!(judge(&fake, Insistence::Force), Err(Refusal::SystemDisk));
        }
        let fake = encrypted();
        fake.write("proc/swaps", "Filename\n/dev/dm-1 partition\n");
        assert_eq!(judge(&fake, Insistence::Force), Err(Refusal::SystemDisk));
        // Btrfs has a number of its own, and only names the device.
        let fake = encrypted();
        fake.write("sys/devices/virtual/block/dm-1/dm/name", "vg-root\n");
        let mount = "22 1 0:33 /@ / rw - btrfs /dev/mapper/vg-root rw\n";
        fake.write("proc/self/mountinfo", mount);
        assert_eq!(judge(&fake, Insistence::Force), Err(Refusal::SystemDisk));
    }

    #[test]
    fn a_disk_of_the_raid_below_the_root_is_refused_whoever_insists() {
        let fake = stick();
        fake.holder("devices/pci0/usb1/1-1/block/sdb", "md0", "9:0");
        fake.write("sys/devices/virtual/block/md0/md0p1/partition", "1");
        fake.write("sys/devices/virtual/block/md0/md0p1/dev", "259:0\n");
        assert_eq!(judge(&fake, Insistence::Force), Ok(()));
        let mount = "22 1 259:0 / / rw - ext4 /dev/md0p1 rw\n";
        fake.write("proc/self/mountinfo", mount);
        assert_eq!(judge(&fake, Insistence::Force), Err(Refusal::SystemDisk));
    }

    #[test]
    fn an_encrypted_stick_is_refused_with_everything_that_lies_on_it() {
        let fake = stick();
        fake.holder("devices/pci0/usb1/1-1/block/sdb/sdb1", "dm-0", "253:0");
        let mount = "22 1 253:0 / /media/safe rw - ext4 /dev/mapper/safe rw\n";
        fake.write("proc/self/mountinfo", mount);
        let uses = ["sdb1 part of dm-0", "sdb1 mounted at /media/safe"];
        let uses = uses.map(str::to_owned).to_vec();
        assert_eq!(judge(&fake, Insistence::None), Err(Refusal::InUse(uses)));
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_whoever_insists() {
        let disk = stick().kernel().disk_by_name("sdb").unwrap();
        assert!(matches!(
            verdict(&disk, 3 << 20, Insistence::Force),
            Err(Refusal::TooSmall { .. })
        ));
    }

    #[test]
    fn what_would_be_lost_is_listed() {
        let fake = stick();
        fake.write(
            "proc/self/mountinfo",
            "30 1 8:1 / /media/x rw - vfat /dev/sdb1 rw\n",
        );
        let text = description(&fake.kernel().disk_by_name("sdb").unwrap());
        assert!(
            text.contains("/dev/sdb: Acme Stick 2000, 2.0 MiB, removable"),
            "{text}"
        );
        assert!(
            text.contains("/dev/sdb1: 1.0 MiB mounted at /media/x"),
            "{text}"
        );
    }
}
