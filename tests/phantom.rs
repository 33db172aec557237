//! Which CPUs the firmware lists ([`Listed`]), by a disk image whose boot sector first makes the firmware list a CPU that never answers: `guests/src/phantom.S`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xtask::build::{Artifacts, write_if_different};
use xtask::paths::Paths;

const SECTOR_BYTES: usize = 512;
/// Where in the sector the number is written of the one that it goes on with.
const NEXT: usize = 432;
/// The disk's signature and its partitions stay what they are.
const DISKS_OWN: usize = 440;

/// Which CPUs the firmware lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Those that there are.
    AllThere,
    /// In place of the last one, one that is not there.
    LastMissing,
}

impl Listed {
    /// The image that a machine boots from which is to have such firmware.
    pub(crate) fn image(self, paths: &Paths, artifacts: &Artifacts) -> Result<PathBuf> {
        match self {
            Self::AllThere => Ok(artifacts.image.clone()),
            Self::LastMissing => image(paths, artifacts),
        }
    }
}

/// The image that runs boot from, with the phantom in its first sector, and what was there in its last.
fn image(paths: &Paths, artifacts: &Artifacts) -> Result<PathBuf> {
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut disk = read(&artifacts.image)?;
    let phantom = read(&artifacts.phantom)?;
    ensure!(phantom.len() == SECTOR_BYTES, "the phantom is one sector");
    let last = (disk.len() / SECTOR_BYTES)
        .checked_sub(1)
        .context("an empty disk")?;
    let (rest, free) = disk.split_at_mut(last * SECTOR_BYTES);
    ensure!(
        free.iter().all(|byte| *byte == 0),
        "the disk's last sector is in use"
    );
    free[..SECTOR_BYTES].copy_from_slice(&rest[..SECTOR_BYTES]);
    rest[..NEXT].copy_from_slice(&phantom[..NEXT]);
    rest[NEXT..DISKS_OWN].copy_from_slice(&(last as u64).to_le_bytes());
    let image = paths.artifacts().join("test-phantom.img");
    write_if_different(&image, &disk)?;
    Ok(image)
}
