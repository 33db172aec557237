//! [`KernelPackage`]: which of Debian's kernels, and how it gets here.
//!
//! A package is named as `NAME`, from the release that the machine runs, or as `SUITE/NAME`. It is fetched once from
//! the machine's own mirror and unpacked under `target/`; nothing is installed.

use crate::paths::Paths;
use crate::report::{Step, say};
use crate::system::apt::{Apt, can_fetch_packages};
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The package that depends on the newest kernel for virtual machines.
const DEFAULT: &str = "linux-image-cloud-amd64";

/// What the name of a package with a kernel begins with.
const KERNEL_PREFIX: &str = "linux-image-";

/// What newer releases have put into packages of their own, which the kernel's depends on.
const PARTS_PREFIXES: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// The shell and tools, in one program without libraries.
const TOOLS: &str = "busybox-static";

/// Kernels that the guest is tried with besides the usual one: every age that Debian's suites have, and the large
/// build for any machine.
const OTHERS: [&str; 8] = [
    "bullseye/linux-image-cloud-amd64",
    "bullseye/linux-image-amd64",
    "linux-image-amd64",
    "bookworm-backports/linux-image-cloud-amd64",
    "trixie/linux-image-cloud-amd64",
    "trixie/linux-image-amd64",
    "sid/linux-image-cloud-amd64",
    "sid/linux-image-amd64",
];

/// A package of Debian's that has a kernel, or depends on the one that has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPackage {
    suite: Option<String>,
    name: String,
}

impl Default for KernelPackage {
    fn default() -> Self {
        Self {
            suite: None,
            name: DEFAULT.to_owned(),
        }
    }
}

impl FromStr for KernelPackage {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (suite, name) = match text.split_once('/') {
            Some((suite, name)) => (Some(suite), name),
            None => (None, text),
        };
        let is_word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.~".contains(c))
        };
        ensure!(
            suite.is_none_or(is_word) && is_word(name) && name.starts_with(KERNEL_PREFIX),
            "`{text}` names no kernel: write {KERNEL_PREFIX}..., or SUITE/{KERNEL_PREFIX}..., such as {}",
            OTHERS.join(", ")
        );
        Ok(Self {
            suite: suite.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for KernelPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(suite) = &self.suite {
            write!(f, "{suite}/")?;
        }
        f.write_str(&self.name)
    }
}

impl KernelPackage {
    /// Those that the guest is tried with besides the usual one, as one names them.
    #[must_use]
    pub fn others() -> Vec<Self> {
        OTHERS.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Whether it has been fetched.
    #[must_use]
    pub fn is_there(&self, paths: &Paths) -> bool {
        self.folder(paths).exists()
    }

    /// The packages that one gets by it, but for those that the kernel's depends on.
    #[must_use]
    pub fn packages(&self) -> Vec<&str> {
        let tools = (*self == Self::default()).then_some(TOOLS);
        [self.name.as_str()].into_iter().chain(tools).collect()
    }

    /// Where its contents are.
    pub(super) fn folder(&self, paths: &Paths) -> PathBuf {
        if *self == Self::default() {
            return paths.fetched().join(super::NAME);
        }
        paths.fetched().join(self.to_string().replace('/', "-"))
    }

    /// Fetches and unpacks what is not there yet, and gives the folder.
    pub(super) fn provide(&self, paths: &Paths) -> Result<PathBuf> {
        let root = self.folder(paths);
        if !root.exists() {
            self.fetch(paths, &root)
                .with_context(|| format!("{self} is not to be had"))?;
        }
        Ok(root)
    }

    /// The folder appears only when it is complete.
    fn fetch(&self, paths: &Paths, root: &Path) -> Result<()> {
        if !can_fetch_packages() {
            bail!(
                "it comes from Debian's packages, and this machine has no apt that knows a mirror"
            );
        }
        let _lock = crate::build::lock(paths)?;
        if root.exists() {
            return Ok(());
        }
        say(format!(
            "{self} is fetched from this machine's Debian mirror (30 to 120 MB, once)"
        ));
        let apt = match &self.suite {
            None => Apt::with_own_release(paths.fetched().join("apt"))?,
            Some(suite) => Apt::with_suite(paths.fetched().join(format!("apt-{suite}")), suite)?,
        };
        let partial = root.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        {
            let step = Step::begin("fetching the package lists");
            apt.update(&step)?;
        }
        // The name with a version in it has the kernel itself.
        let kernel = match apt.dependency(&self.name, KERNEL_PREFIX) {
            Ok(kernel) => kernel,
            Err(_) => self.name.clone(),
        };
        let mut packages = vec![kernel.clone()];
        if *self == Self::default() {
            packages.push(TOOLS.to_owned());
        }
        for prefix in PARTS_PREFIXES {
            packages.extend(apt.dependency(&kernel, prefix).ok());
        }
        for package in &packages {
            let step = Step::begin(format!("fetching {package}"));
            apt.unpack(&step, package, &partial)?;
        }
        fs::rename(&partial, root).with_context(|| format!("cannot make {}", root.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_with_or_without_its_suite() {
        let parse = |text: &str| text.parse::<KernelPackage>();
        assert_eq!(
            parse("linux-image-cloud-amd64").unwrap(),
            KernelPackage::default()
        );
        let newest = parse("sid/linux-image-amd64").unwrap();
        assert_eq!(newest.suite.as_deref(), Some("sid"));
        assert_eq!(newest.to_string(), "sid/linux-image-amd64");
        for wrong in [
            "",
            "busybox",
            "/linux-image-x",
            "a b/linux-image-x",
            "-o/linux-image-x",
            "sid/linux-image-x y",
            "../linux-image-x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_kernel_has_a_folder_of_its_own() {
        let paths = Paths::of_checkout();
        let mut folders: Vec<_> = OTHERS
            .iter()
            .map(|name| name.parse::<KernelPackage>().unwrap().folder(&paths))
            .collect();
        folders.push(KernelPackage::default().folder(&paths));
        folders.sort();
        folders.dedup();
        assert_eq!(folders.len(), OTHERS.len() + 1);
        assert_eq!(KernelPackage::others().len(), OTHERS.len());
    }
}
