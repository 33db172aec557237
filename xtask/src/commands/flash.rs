//! `cargo xtask flash DEVICE`: writes the image to a USB stick.

use super::image::{ContentOptions, default_place, make};
use crate::flash::sysfs::Kernel;
use crate::flash::verdict::{Insistence, description, verdict};
use crate::flash::write::write_and_verify;
use crate::output::output_of;
use crate::paths::Paths;
use crate::report::say;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{BufRead, IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `cargo xtask flash` is told.
#[derive(Args, Clone, Debug)]
pub struct FlashOptions {
    /// The disk to overwrite, as in /dev/sdb
    device: PathBuf,
    /// Write this image, instead of making one
    #[arg(help_heading = "USB stick", long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Overwrite a disk that is mounted or not removable
    #[arg(help_heading = "USB stick", long)]
    force: bool,
    /// Do not ask
    #[arg(help_heading = "USB stick", long)]
    yes: bool,
    #[command(flatten)]
    content: ContentOptions,
}

/// What becomes of the question whether the disk may be overwritten.
enum Question<'a> {
    /// It was answered beforehand.
    Answered,
    /// Somebody can answer it here.
    Asked(&'a mut dyn BufRead),
    /// There is nobody to ask.
    Open,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The device holds the image now.
    Written(PathBuf),
    /// Nothing was changed.
    Declined,
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
    let insistence = if options.force {
        Insistence::Force
    } else {
        Insistence::None
    };
    let mut answers = stdin().lock();
    let question = if options.yes {
        Question::Answered
    } else if stdin().is_terminal() {
        Question::Asked(&mut answers)
    } else {
        Question::Open
    };
    let device = &options.device;
    match overwrite(&kernel, device, &image, insistence, question, &mut stdout())? {
        Outcome::Declined => say("nothing was written"),
        Outcome::Written(device) => say(format!(
            "{} holds Plinth now. Start a machine from it, by BIOS or by UEFI (without Secure Boot)",
            device.display()
        )),
    }
    Ok(())
}

/// Shows what would be lost, and overwrites it if that is allowed and wanted.
fn overwrite(
    kernel: &Kernel,
    device: &Path,
    image: &Path,
    insistence: Insistence,
    question: Question<'_>,
    output: &mut dyn Write,
) -> Result<Outcome> {
    let image_bytes = std::fs::metadata(image)
        .with_context(|| format!("cannot read {}", image.display()))?
        .len();
    let disk = kernel.disk(device)?;
    write!(
        output,
        "This disk would be overwritten:\n{}",
        description(&disk)
    )?;
    if let Err(refusal) = verdict(&disk, image_bytes, insistence) {
        bail!("/dev/{} is not overwritten: {refusal}", disk.name);
    }
    if !confirmed(&disk.name, question, output)? {
        return Ok(Outcome::Declined);
    }
    for place in disk.mounts() {
        unmount(place)?;
    }
    let device = kernel.device(&disk);
    write_and_verify(image, &device)?;
    Ok(Outcome::Written(device))
}

/// Takes away what is mounted of a disk that somebody insisted on: the device is only written to when nobody uses it.
fn unmount(place: &str) -> Result<()> {
    output_of(Command::new("umount").args(["--", place]))
        .with_context(|| format!("{place} cannot be unmounted"))?;
    Ok(())
}

fn confirmed(name: &str, question: Question<'_>, output: &mut dyn Write) -> Result<bool> {
    let answers = match question {
        Question::Answered => return Ok(true),
        Question::Open => {
            bail!("there is no terminal to ask on: say --yes if /dev/{name} is right")
        }
        Question::Asked(answers) => answers,
    };
    write!(
        output,
        "Everything on it will be lost. Type `{name}` to go on: "
    )?;
    output.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(answer.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flash::sysfs::tests::FakeKernel;
    use std::fs;

    const IMAGE: &[u8] = b"what a machine starts from";

    /// A machine with a stick, sdb, and somebody who wants the image on it.
    struct Bench {
        fake: FakeKernel,
        folder: tempfile::TempDir,
        said: Vec<u8>,
    }

    impl Bench {
        fn new() -> Self {
            let fake = FakeKernel::new();
            fake.write("proc/self/mountinfo", "");
            fake.disk("pci0/usb1/1-1", "sdb", "1", &["sdb1"]);
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("image"), IMAGE).unwrap();
            Self {
                fake,
                folder,
                said: Vec::new(),
            }
        }

        fn overwrite(&mut self, insistence: Insistence, question: Question<'_>) -> Result<Outcome> {
            overwrite(
                &self.fake.kernel(),
                &self.fake.device("sdb"),
                &self.folder.path().join("image"),
                insistence,
                question,
                &mut self.said,
            )
        }

        fn answer(&mut self, text: &str) -> Result<Outcome> {
            self.overwrite(Insistence::None, Question::Asked(&mut text.as_bytes()))
        }

        fn said(&self) -> String {
            String::from_utf8(self.said.clone()).unwrap()
        }

        fn is_untouched(&self) -> bool {
            let found = fs::read(self.fake.device("sdb")).unwrap();
            found.len() == 2 << 20 && found.iter().all(|byte| *byte == 0)
        }
    }

    #[test]
    fn the_name_of_the_disk_is_the_answer_that_overwrites_it() {
        let mut bench = Bench::new();
        let device = bench.fake.device("sdb");
        assert_eq!(
            bench.answer("sdb\n").unwrap(),
            Outcome::Written(device.clone())
        );
        assert!(fs::read(device).unwrap().starts_with(IMAGE));
        let said = bench.said();
        for part in ["Acme Stick 2000", "/dev/sdb1", "Type `sdb` to go on: "] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn any_other_answer_and_none_leave_the_disk_as_it_is() {
        for text in [
            "",
            "\n",
            "y\n",
            "yes\n",
            "sdb1\n",
            "/dev/sdb\n",
            "no\nsdb\n",
        ] {
            let mut bench = Bench::new();
            assert_eq!(bench.answer(text).unwrap(), Outcome::Declined, "{text:?}");
            assert!(bench.is_untouched(), "{text:?}");
        }
    }

    #[test]
    fn without_a_terminal_nothing_is_written_unless_it_was_said_beforehand() {
        let mut bench = Bench::new();
        let error = bench
            .overwrite(Insistence::None, Question::Open)
            .unwrap_err();
        assert!(error.to_string().contains("--yes"), "{error}");
        assert!(bench.is_untouched());
        let outcome = bench.overwrite(Insistence::None, Question::Answered);
        assert!(matches!(outcome, Ok(Outcome::Written(_))));
        assert!(!bench.said().contains("Type"), "nobody was to be asked");
        assert!(!bench.is_untouched());
    }

    #[test]
    fn a_disk_in_use_or_built_in_is_refused_before_anybody_is_asked() {
        let mounted = Bench::new();
        mounted.fake.write(
            "proc/self/mountinfo",
            "30 1 8:1 / /media/x rw - vfat /dev/sdb1 rw\n",
        );
        let mut built_in = Bench::new();
        built_in.fake = FakeKernel::new();
        built_in.fake.write("proc/self/mountinfo", "");
        built_in.fake.disk("pci0/ata1", "sdb", "0", &[]);
        for (mut bench, why) in [
            (mounted, "sdb1 mounted at /media/x"),
            (built_in, "not removable"),
        ] {
            let error = bench.answer("sdb\n").unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("--force"), "{error}");
            assert!(!bench.said().contains("Type") && bench.is_untouched());
            // Who insists is still asked.
            let outcome = bench.overwrite(Insistence::Force, Question::Asked(&mut &b"no\n"[..]));
            assert_eq!(outcome.unwrap(), Outcome::Declined);
            assert!(bench.said().contains("Type") && bench.is_untouched());
        }
    }

    #[test]
    fn the_disk_of_the_running_system_is_refused_whoever_insists_and_whatever_was_answered() {
        let mut bench = Bench::new();
        bench.fake.write(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sdb1 rw\n",
        );
        let error = bench.overwrite(Insistence::Force, Question::Answered);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("this system runs from it"), "{error}");
        assert!(bench.is_untouched());
    }

    #[test]
    fn a_device_that_is_not_there_is_answered_with_those_that_are() {
        let bench = Bench::new();
        let nobody = bench.fake.device("nobody");
        let error = bench.fake.kernel().disk(&nobody).unwrap_err().to_string();
        assert!(
            error.contains("nobody") && error.ends_with("Disks: sdb"),
            "{error}"
        );
    }
}
