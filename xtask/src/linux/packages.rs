//! [`KernelPackage`]: which of Debian's kernels, and how it gets here.
//!
//! A package is named as `NAME`, from the release that the machine runs, or as `SUITE/NAME`. It is fetched once from
//! the machine's own mirror and unpacked under `target/`; nothing is installed.

use crate::paths::Paths;
use crate::report::{Step, say};
use crate::system::apt::{Apt, can_fetch_packages, can_fetch_suites};
use crate::system::distribution::Distribution;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The package that depends on the newest kernel for virtual machines.
const DEFAULT: &str = "linux-image-cloud-amd64";

/// The same of Ubuntu and its kin.
const UBUNTUS: &str = "linux-image-virtual";

/// The usual kernel's package, as this distribution calls it.
pub(super) fn usual(distribution: &Distribution) -> &'static str {
    if distribution.is_like_ubuntu() {
        UBUNTUS
    } else {
        DEFAULT
    }
}

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
    pub fn packages(&self, distribution: &Distribution) -> Vec<&str> {
        if *self == Self::default() {
            vec![usual(distribution), TOOLS]
        } else {
            vec![&self.name]
        }
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
        let can_fetch = match self.suite {
            Some(_) => can_fetch_suites(),
            None => can_fetch_packages(),
        };
        if !can_fetch {
            bail!(
                "it comes from Debian's packages, and this machine has no apt that knows a mirror"
            );
        }
        let _lock = crate::build::lock(paths)?;
        if root.exists() {
            return Ok(());
        }
        let distribution = Distribution::of_this_machine();
        let wanted = self.packages(&distribution);
        let name = wanted.first().copied().unwrap_or(&self.name);
        say(format!(
            "{name} is fetched as this machine fetches packages (30 to 120 MB, once)"
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
        let kernel = match apt.dependency(name, KERNEL_PREFIX) {
            Ok(kernel) => kernel,
            Err(_) => name.to_owned(),
        };
        let mut packages = vec![kernel.clone()];
        packages.extend(wanted.iter().skip(1).map(|name| (*name).to_owned()));
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
    fn the_usual_kernel_is_called_as_the_distribution_calls_it() {
        use crate::system::distribution::tests::{DEBIAN, MINT, UBUNTU};
        let packages = |os_release| {
            let kernel = KernelPackage::default();
            let distribution = Distribution::parse(os_release);
            kernel.packages(&distribution).join(" ")
        };
        assert_eq!(packages(DEBIAN), "linux-image-cloud-amd64 busybox-static");
        assert_eq!(packages(UBUNTU), "linux-image-virtual busybox-static");
        assert_eq!(packages(MINT), packages(UBUNTU));
        let other: KernelPackage = "linux-image-amd64".parse().unwrap();
        assert_eq!(
            other.packages(&Distribution::parse(UBUNTU)),
            ["linux-image-amd64"]
        );
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
