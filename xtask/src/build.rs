//! Builds what runs on the bare machine, and the disk image it boots from.
//!
//! Three separate cargo output folders keep three kinds of build from waiting for each other's lock or undoing
//! each other's work: the host's own, the bare machine's, and that of the program which makes disk images.

use crate::bare::starter_disk;
use crate::output::output_of;
use crate::paths::Paths;
use crate::report::say;
use crate::toolchain::{BARE_ARGUMENTS, BARE_TARGET, Toolchain, plain_cargo};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package of the hypervisor, and the name of its program.
pub const KERNEL: &str = "plinth-kernel";

/// The package of the tiny guest kernels.
pub const GUESTS: &str = "plinth-guests";

/// The package of the guests that check what they find against the manuals.
pub const CONFORMANCE: &str = "plinth-conformance";

/// How the hypervisor is built: for speed.
const KERNEL_PROFILE: &str = "bare";

/// The package of the programs for the Linux guest's user space.
pub const PROGRAMS: &str = "plinth-programs";

/// How the guests are built: they are many, and none of them is in a hurry.
pub const GUEST_PROFILE: &str = "guest";

/// What is ready to be booted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Artifacts {
    /// The hypervisor with symbols and debug information.
    pub kernel_with_symbols: PathBuf,
    /// The hypervisor as it goes into images.
    pub kernel: PathBuf,
    /// A disk image with a pointer for a bundle: what emulator runs boot from.
    pub image: PathBuf,
    /// The disk that starts a guest on the bare machine, with a pointer for where the guest is.
    pub bare_disk: PathBuf,
    /// A boot sector that lists a CPU which never answers, and goes on with the one that it stands in for.
    pub phantom: PathBuf,
    /// The tiny guest kernels by name.
    pub guests: BTreeMap<String, PathBuf>,
}

/// The programs among the guests that are none: one starts them on the bare machine, one is for a test.
const STARTER: &str = "starter";
const PHANTOM: &str = "phantom";

impl Artifacts {
    /// Builds all of them, as far as they are not up to date.
    pub fn build(paths: &Paths) -> Result<Self> {
        let _lock = lock(paths)?;
        let toolchain = Toolchain::provide(paths)?;
        build_bare(paths, &toolchain)?;
        let artifacts = Self::expected(paths)?;
        let output = guest_output(paths);
        strip_if_newer(
            &toolchain,
            &artifacts.kernel_with_symbols,
            &artifacts.kernel,
        )?;
        for (name, stripped) in &artifacts.guests {
            strip_if_newer(&toolchain, &output.join(name), stripped)?;
        }
        for name in programs_of(&metadata(paths)?, PROGRAMS)? {
            strip_if_newer(
                &toolchain,
                &output.join(&name),
                &paths.programs().join(&name),
            )?;
        }
        let disk = starter_disk(&output.join(STARTER))?;
        write_if_different(&artifacts.bare_disk, &disk)?;
        let pointer = paths.artifacts().join("pointer");
        write_if_different(&pointer, &bundle::Pointer::PLACEHOLDER)?;
        let maker = ImageMaker::build(paths, &toolchain)?;
        if is_older(
            &artifacts.image,
            &[&artifacts.kernel, &pointer, &maker.program],
        ) {
            maker.make(&artifacts.kernel, &pointer, &artifacts.image)?;
        }
        Ok(artifacts)
    }

    /// The places of what an earlier [`Artifacts::build`] has made: for the tests, which run right after it.
    pub fn built(paths: &Paths) -> Result<Self> {
        let artifacts = Self::expected(paths)?;
        if !artifacts.image.exists() {
            bail!("nothing is built yet: run `cargo xtask test` or `cargo xtask build`");
        }
        Ok(artifacts)
    }

    fn expected(paths: &Paths) -> Result<Self> {
        let folder = paths.artifacts();
        let metadata = metadata(paths)?;
        let guests = programs_of(&metadata, GUESTS)?
            .into_iter()
            .filter(|name| ![STARTER, PHANTOM].contains(&name.as_str()))
            .chain(programs_of(&metadata, CONFORMANCE)?)
            .map(|name| {
                let path = folder.join("guests").join(&name);
                (name, path)
            })
            .collect();
        Ok(Self {
            kernel_with_symbols: paths
                .bare()
                .join(BARE_TARGET)
                .join(KERNEL_PROFILE)
                .join(KERNEL),
            kernel: folder.join(KERNEL),
            image: folder.join("plinth-run.img"),
            bare_disk: folder.join("bare.img"),
            phantom: guest_output(paths).join(PHANTOM),
            guests,
        })
    }
}

/// Where cargo puts the guests.
fn guest_output(paths: &Paths) -> PathBuf {
    paths.bare().join(BARE_TARGET).join(GUEST_PROFILE)
}

/// The names of the guests of our own.
pub fn tiny_guests(paths: &Paths) -> Result<Vec<String>> {
    Ok(Artifacts::expected(paths)?.guests.into_keys().collect())
}

/// Keeps two `xtask`s from installing or making the same thing at the same time. Released when dropped.
pub fn lock(paths: &Paths) -> Result<File> {
    fs::create_dir_all(paths.artifacts())?;
    let file = File::create(paths.artifacts().join("lock"))?;
    if file.try_lock().is_err() {
        say("waiting for another xtask to finish its build");
        file.lock().context("cannot lock target/plinth/lock")?;
    }
    Ok(file)
}

/// Runs a command whose output the user is to see.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if status.success() {
        Ok(())
    } else {
        let arguments: Vec<_> = command
            .get_args()
            .map(|a| a.display().to_string())
            .collect();
        bail!("`{program} {}` failed", arguments.join(" "))
    }
}

fn build_bare(paths: &Paths, toolchain: &Toolchain) -> Result<()> {
    if !paths.bare().exists() {
        say("building the hypervisor and the guests for the first time: about a minute");
    }
    for (packages, profile) in [
        (&[KERNEL][..], KERNEL_PROFILE),
        (&[GUESTS, CONFORMANCE, PROGRAMS], GUEST_PROFILE),
    ] {
        let mut cargo = toolchain.cargo(paths, &paths.bare());
        cargo
            .args(["build", "--quiet", "--profile", profile])
            .args(packages.iter().flat_map(|package| ["--package", package]))
            .args(BARE_ARGUMENTS);
        run(&mut cargo)?;
    }
    Ok(())
}

/// The names of the conformance guests.
pub fn conformance_guests(paths: &Paths) -> Result<Vec<String>> {
    programs_of(&metadata(paths)?, CONFORMANCE)
}

/// What cargo says about this workspace.
pub fn metadata(paths: &Paths) -> Result<serde_json::Value> {
    let output = output_of(plain_cargo(paths).args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ]))?;
    Ok(serde_json::from_slice(&output)?)
}

/// The programs of a package of this workspace.
fn programs_of(metadata: &serde_json::Value, package: &str) -> Result<Vec<String>> {
    programs_in(metadata, package)
        .with_context(|| format!("this workspace has no package {package}"))
}

fn programs_in(metadata: &serde_json::Value, package: &str) -> Option<Vec<String>> {
    let package = metadata["packages"]
        .as_array()?
        .iter()
        .find(|candidate| candidate["name"] == package)?;
    let targets = package["targets"].as_array()?;
    Some(
        targets
            .iter()
            .filter(|target| target["kind"][0] == "bin")
            .filter_map(|target| target["name"].as_str().map(str::to_owned))
            .collect(),
    )
}

fn strip_if_newer(toolchain: &Toolchain, from: &Path, to: &Path) -> Result<()> {
    if is_older(to, &[from]) {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        toolchain.strip(from, to)?;
    }
    Ok(())
}

/// Whether `made` has to be made again: it is missing, or older than something it is made from.
fn is_older(made: &Path, sources: &[&Path]) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let Some(made) = time(made) else {
        return true;
    };
    sources
        .iter()
        .any(|source| time(source).is_none_or(|source| source > made))
}

/// Leaves the file, and the time of its last change, alone where it has these contents already.
pub fn write_if_different(path: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == contents) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))
}

/// The program that makes disk images, built.
#[derive(Clone, Debug)]
pub struct ImageMaker {
    program: PathBuf,
}

impl ImageMaker {
    /// Builds it, if need be together with the boot loader.
    pub fn build(paths: &Paths, toolchain: &Toolchain) -> Result<Self> {
        let program = paths.boot().join("debug/plinth-boot");
        if !program.exists() {
            say("building the boot loader for the first time: two to four minutes, once");
        }
        let mut cargo = toolchain.cargo(paths, &paths.boot());
        cargo.args(["build", "--quiet", "--package", "plinth-boot"]);
        run(&mut cargo)?;
        Ok(Self { program })
    }

    /// Makes an image that boots `kernel` with `bundle` as its RAM disk.
    pub fn make(&self, kernel: &Path, bundle: &Path, out: &Path) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .arg("--kernel")
            .arg(kernel)
            .arg("--bundle")
            .arg(bundle)
            .arg("--out")
            .arg(out);
        run(&mut command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn the_programs_of_a_package_are_listed_without_its_library() {
        let metadata = serde_json::json!({"packages": [
            {"name": "other", "targets": [{"kind": ["bin"], "name": "no"}]},
            {"name": "plinth-guests", "targets": [
                {"kind": ["lib"], "name": "guests"},
                {"kind": ["bin"], "name": "hello"},
                {"kind": ["bin"], "name": "timer"}]}]});
        assert_eq!(programs_in(&metadata, GUESTS).unwrap(), ["hello", "timer"]);
        assert_eq!(programs_in(&metadata, "nobody"), None);
    }

    #[test]
    fn a_file_is_made_again_only_after_its_source_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (source, made) = (folder.path().join("source"), folder.path().join("made"));
        fs::write(&source, "").unwrap();
        assert!(is_older(&made, &[&source]));
        fs::write(&made, "").unwrap();
        assert!(!is_older(&made, &[&source]));
        let later = SystemTime::now() + Duration::from_secs(10);
        File::options()
            .write(true)
            .open(&source)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(is_older(&made, &[&source]));
    }
}
