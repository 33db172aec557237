//! `cargo xtask image`: one disk image for a USB stick, which BIOS and UEFI machines both start from.

use super::options::GuestOptions;
use crate::build::{ImageMaker, lock};
use crate::config::ForMachine;
use crate::guests::pack;
use crate::paths::Paths;
use crate::report::say;
use crate::toolchain::Toolchain;
use anyhow::{Context, Result, bail};
use bundle::{Compression, HypervisorOptions, WhenDone};
use clap::{Args, ValueEnum};
use std::fs;
use std::path::{Path, PathBuf};

/// What the BIOS boot loader can load: it does not read FAT volumes of 32 MiB and more, and its own files and the
/// file system need the rest.
const BIOS_BYTES: u64 = 29 << 20;

/// What the image is to hold.
#[derive(Args, Clone, Debug)]
pub struct ContentOptions {
    #[command(flatten)]
    guest: GuestOptions,
    /// What happens once every guest has ended [default: halt]
    #[arg(help_heading = "Image", long, value_enum, value_name = "WHAT")]
    when_done: Option<AtTheEnd>,
    /// Allow an image that is too large for the BIOS boot loader
    #[arg(help_heading = "Image", long)]
    uefi_only: bool,
}

/// What happens once every guest has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AtTheEnd {
    /// The log stays on the screen.
    Halt,
    /// The machine is switched off.
    PowerOff,
}

/// What `cargo xtask image` is told.
#[derive(Args, Clone, Debug)]
pub struct ImageOptions {
    #[command(flatten)]
    content: ContentOptions,
    /// Where to put it [default: target/plinth/plinth.img]
    #[arg(help_heading = "Image", long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Makes the image, and says what to do with it.
pub fn image(paths: &Paths, options: &ImageOptions) -> Result<()> {
    let out = options.out.clone().unwrap_or_else(|| default_place(paths));
    make(paths, &options.content, &out)?;
    let bytes = fs::metadata(&out)?.len();
    say(format!(
        "{} ({:.1} MiB) is ready. To put it on a USB stick: cargo xtask flash DEVICE",
        out.display(),
        bytes as f64 / f64::from(1 << 20)
    ));
    Ok(())
}

/// Where an image goes if nobody says otherwise.
pub(super) fn default_place(paths: &Paths) -> PathBuf {
    paths.artifacts().join("plinth.img")
}

/// Makes the image.
pub(super) fn make(paths: &Paths, options: &ContentOptions, out: &Path) -> Result<()> {
    let when_done = options.when_done.map(|at_the_end| match at_the_end {
        AtTheEnd::Halt => WhenDone::Halt,
        AtTheEnd::PowerOff => WhenDone::PowerOff,
    });
    let usual = HypervisorOptions {
        when_done: WhenDone::Halt,
        ..HypervisorOptions::default()
    };
    let content = options
        .guest
        .content(paths, ForMachine::Unknown, when_done, usual)?;
    let artifacts = &content.artifacts;
    let bundle = pack(
        &content.guests,
        content.hypervisor,
        Compression::WhereItPays,
    )?;
    let kernel_bytes = fs::metadata(&artifacts.kernel)?.len();
    if let Some(message) = too_large_for_bios(kernel_bytes.saturating_add(bundle.len() as u64)) {
        if options.uefi_only {
            say(format!("{message}: only UEFI machines will start it"));
        } else {
            bail!("{message}: use smaller kernels and RAM disks, or --uefi-only");
        }
    }
    let _lock = lock(paths)?;
    let maker = ImageMaker::build(paths, &Toolchain::provide(paths)?)?;
    let file = paths.artifacts().join("bundle");
    fs::write(&file, bundle).with_context(|| format!("cannot write {}", file.display()))?;
    maker.make(&artifacts.kernel, &file, out)
}

/// What to say about an image whose hypervisor and bundle come to this many bytes; nothing if it is fine.
fn too_large_for_bios(bytes: u64) -> Option<String> {
    (bytes > BIOS_BYTES).then(|| {
        format!(
            "hypervisor and guests come to {} MiB, the BIOS boot loader can load {} MiB",
            bytes.div_ceil(1 << 20),
            BIOS_BYTES >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_too_large_for_the_bios_loader_is_noticed_before_it_is_made() {
        assert_eq!(too_large_for_bios(29 << 20), None);
        let message = too_large_for_bios((29 << 20) + 1).unwrap();
        assert!(
            message.contains("30 MiB") && message.contains("29 MiB"),
            "{message}"
        );
    }
}
