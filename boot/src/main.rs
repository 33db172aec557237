//! Makes the bootable disk image: one file that BIOS and UEFI machines both start from.
//!
//! `cargo xtask` runs it as a program of its own, because building the `bootloader` crate needs an environment
//! that nothing else should see. The image has an MBR with two partitions: the second stage of the BIOS loader,
//! and a FAT file system with the kernel, the bundle (as the loader's RAM disk) and both loaders. UEFI firmware
//! finds `efi/boot/bootx64.efi` in the FAT partition of an MBR disk as well as in that of a GPT disk.

use anyhow::{Context, Result, bail};
use bootloader::{BootConfig, DiskImageBuilder};
use lexopt::prelude::{Long, ValueExt};
use std::fs;
use std::path::{Path, PathBuf};

/// Bochs derives the geometry of a disk from its size: 16 heads, 63 sectors.
const SIZE_MULTIPLE: u64 = 16 * 63 * 512;

struct Arguments {
    kernel: PathBuf,
    bundle: PathBuf,
    out: PathBuf,
}

fn main() -> Result<()> {
    let arguments = parse()?;
    let mut image = DiskImageBuilder::new(arguments.kernel);
    image
        .set_ramdisk(arguments.bundle)
        .set_boot_config(&boot_config())
        .set_file_contents("efi/boot/bootx64.efi".into(), uefi_loader()?);
    // Written next to its final place and renamed, so that nobody ever sees half an image.
    let partial = arguments.out.with_extension("partial");
    image.create_bios_image(&partial)?;
    pad(&partial)?;
    fs::rename(&partial, &arguments.out)
        .with_context(|| format!("cannot write {}", arguments.out.display()))
}

fn parse() -> Result<Arguments> {
    let (mut kernel, mut bundle, mut out) = (None, None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let place = match argument {
            Long("kernel") => &mut kernel,
            Long("bundle") => &mut bundle,
            Long("out") => &mut out,
            other => return Err(other.unexpected().into()),
        };
        *place = Some(PathBuf::from(parser.value()?.parse::<String>()?));
    }
    match (kernel, bundle, out) {
        (Some(kernel), Some(bundle), Some(out)) => Ok(Arguments {
            kernel,
            bundle,
            out,
        }),
        _ => bail!("usage: plinth-boot --kernel FILE --bundle FILE --out FILE"),
    }
}

/// The loader keeps quiet unless something is wrong: every character costs time on a real serial port.
fn boot_config() -> BootConfig {
    let mut config = BootConfig::default();
    config.log_level = bootloader_boot_config::LevelFilter::Warn;
    config
}

/// The UEFI loader, which the crate only hands out as a file of a network boot folder.
fn uefi_loader() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    DiskImageBuilder::empty().create_uefi_tftp_folder(folder.path())?;
    fs::read(folder.path().join("bootloader")).context("the bootloader crate has no UEFI loader")
}

fn pad(image: &Path) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(image)?;
    let bytes = file.metadata()?.len();
    file.set_len(bytes.next_multiple_of(SIZE_MULTIPLE))?;
    Ok(())
}
