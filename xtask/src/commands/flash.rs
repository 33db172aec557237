//! `cargo xtask flash DEVICE`: writes the image to a USB stick.

use super::image::{ContentOptions, default_place, make};
use crate::flash::sysfs::Kernel;
use crate::flash::verdict::{Insistence, description, verdict};
use crate::flash::write::write_and_verify;
use crate::paths::Paths;
use crate::report::say;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};

/// What `cargo xtask flash` is told.
#[derive(Args, Clone, Debug)]
pub struct FlashOptions {
    /// The disk to overwrite, as in /dev/sdb
    device: PathBuf,
    /// Write this image, instead of making one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Overwrite a disk that is mounted or not removable
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    content: ContentOptions,
}

/// Makes the image, asks, writes, verifies.
pub fn flash(paths: &Paths, options: &FlashOptions) -> Result<()> {
    let kernel = Kernel::default();
    // A wrong name is told before a long build.
    kernel.disk(&options.device)?;
    let image = match &options.image {
        Some(image) => image.clone(),
        None => {
            let image = default_place(paths);
            make(paths, &options.content, &image)?;
            image
        }
    };
    let image_bytes = std::fs::metadata(&image)
        .with_context(|| format!("cannot read {}", image.display()))?
        .len();
    let disk = kernel.disk(&options.device)?;
    print!("This disk would be overwritten:\n{}", description(&disk));
    let insistence = if options.force {
        Insistence::Force
    } else {
        Insistence::None
    };
    if let Err(refusal) = verdict(&disk, image_bytes, insistence) {
        bail!("/dev/{} is not overwritten: {refusal}", disk.name);
    }
    if !options.yes && !confirmed(&disk.name)? {
        say("nothing was written");
        return Ok(());
    }
    let device = Path::new("/dev").join(&disk.name);
    write_and_verify(&image, &device)?;
    say(format!(
        "{} holds Plinth now. Start a machine from it, by BIOS or by UEFI (without Secure Boot)",
        device.display()
    ));
    Ok(())
}

fn confirmed(name: &str) -> Result<bool> {
    if !stdin().is_terminal() {
        bail!("there is no terminal to ask on: say --yes if /dev/{name} is right");
    }
    print!("Everything on it will be lost. Type `{name}` to go on: ");
    stdout().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(answer.trim() == name)
}
