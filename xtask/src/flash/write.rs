//! Writes an image to a device and reads it back.

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const CHUNK_BYTES: usize = 1 << 20;

/// Writes the whole of `image` to the start of `device`, makes sure that it has arrived, and compares.
pub fn write_and_verify(image: &Path, device: &Path) -> Result<()> {
    let bytes = std::fs::metadata(image)?.len();
    write(image, device, bytes).with_context(|| format!("cannot write to {}", device.display()))?;
    verify(image, device, bytes)
}

fn write(image: &Path, device: &Path, bytes: u64) -> Result<()> {
    let mut from = File::open(image)?;
    let mut to = open_alone(device)?;
    let bar = progress("writing", bytes);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        to.write_all(&chunk[..count])?;
        // Chunk by chunk, so that the progress shown is that of the device, not of the page cache.
        to.sync_data()?;
        bar.inc(count as u64);
    }
    to.sync_all()?;
    // What is read back has to come from the device.
    let _ = posix_fadvise(&to, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    bar.finish_and_clear();
    Ok(())
}

/// Opens a device that nobody else uses: with `O_EXCL` the kernel itself refuses what is mounted, is swap space, or has
/// something on it, whatever sysfs and `/proc` did or did not tell.
fn open_alone(device: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_EXCL.bits())
        .open(device)
        .map_err(explain)
}

fn explain(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::ResourceBusy {
        anyhow!(
            "something on it is in use (mounted, swap space, or part of a volume): end that first"
        )
    } else {
        error.into()
    }
}

fn verify(image: &Path, device: &Path, bytes: u64) -> Result<()> {
    let (mut expected, mut found) = (File::open(image)?, File::open(device)?);
    let bar = progress("verifying", bytes);
    let (mut wanted, mut got) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0u64;
    loop {
        let count = expected.read(&mut wanted)?;
        if count == 0 {
            break;
        }
        found
            .read_exact(&mut got[..count])
            .with_context(|| format!("cannot read {} back", device.display()))?;
        if let Some(offset) = (0..count).find(|index| wanted[*index] != got[*index]) {
            bail!(
                "{} does not hold what was written (first difference at byte {}): the device is bad, or was \
                 changed meanwhile",
                device.display(),
                at + offset as u64
            );
        }
        at += count as u64;
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn progress(what: &'static str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_image_arrives_whole_and_what_lies_behind_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (image, device) = (folder.path().join("image"), folder.path().join("device"));
        let contents: Vec<u8> = (0..CHUNK_BYTES + 777).map(|i| (i % 251) as u8).collect();
        fs::write(&image, &contents).unwrap();
        fs::write(&device, vec![9; contents.len() + 100]).unwrap();
        write_and_verify(&image, &device).unwrap();
        let found = fs::read(&device).unwrap();
        assert_eq!(found[..contents.len()], contents);
        assert_eq!(found[contents.len()..], [9; 100]);
    }

    #[test]
    fn a_device_that_the_kernel_knows_to_be_in_use_is_told_with_a_remedy() {
        let busy = explain(io::ErrorKind::ResourceBusy.into()).to_string();
        assert!(busy.contains("end that first"), "{busy}");
        let other = explain(io::ErrorKind::PermissionDenied.into());
        assert!(!other.to_string().contains("in use"), "{other}");
    }

    #[test]
    fn a_device_that_holds_something_else_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (image, device) = (folder.path().join("image"), folder.path().join("device"));
        fs::write(&image, [1, 2, 3]).unwrap();
        fs::write(&device, [1, 2, 4]).unwrap();
        let error = verify(&image, &device, 3).unwrap_err().to_string();
        assert!(error.contains("byte 2"), "{error}");
    }
}
