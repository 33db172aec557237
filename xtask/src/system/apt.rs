//! Fetches Debian packages and unpacks them without installing them.
//!
//! Everything apt knows and keeps is redirected into a folder of ours: own lists, own cache, and, where the machine's
//! sources (in the one-line form or in deb822) name a Debian mirror, own sources, so that any suite can be had. Other
//! machines of Debian's kin have the packages of their own sources, as these are.

use super::distribution::Distribution;
use crate::output::output_of;
use crate::report::Step;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the machine's keys are.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt: a folder with its state, and what it may fetch from.
pub struct Apt {
    folder: PathBuf,
    sources: Sources,
}

/// What packages are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sources {
    /// One suite of a Debian mirror.
    Mirror { mirror: String, suite: String },
    /// Whatever the machine's own apt fetches from.
    Machines,
}

impl Sources {
    /// Those with the packages of the release that the machine runs.
    fn of_own_release(distribution: &Distribution, mirror: Option<String>) -> Self {
        match (&distribution.codename, mirror) {
            (Some(suite), Some(mirror)) if distribution.is_debian() => Self::Mirror {
                mirror,
                suite: suite.clone(),
            },
            // Ubuntu has other packages, and a mirror may be named in a way that only apt understands.
            _ => Self::Machines,
        }
    }
}

impl Apt {
    /// An apt that only knows `suite` of the machine's own mirror.
    pub fn with_suite(folder: PathBuf, suite: &str) -> Result<Self> {
        let mirror = machine_mirror()
            .context("this machine's apt sources name no Debian mirror to take packages from")?;
        let suite = suite.to_owned();
        Self::with_sources(folder, Sources::Mirror { mirror, suite })
    }

    /// An apt that knows the release the machine itself runs.
    pub fn with_own_release(folder: PathBuf) -> Result<Self> {
        let distribution = Distribution::of_this_machine();
        let sources = Sources::of_own_release(&distribution, machine_mirror());
        Self::with_sources(folder, sources)
    }

    fn with_sources(folder: PathBuf, sources: Sources) -> Result<Self> {
        for part in ["state", "lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        if let Sources::Mirror { mirror, suite } = &sources {
            let signed_by = if Path::new(KEYRING).exists() {
                format!("[signed-by={KEYRING}] ")
            } else {
                String::new()
            };
            let line = format!("deb {signed_by}{mirror} {suite} main\n");
            fs::write(folder.join("sources.list"), line)?;
        }
        Ok(Self { folder, sources })
    }

    fn command(&self, program: &str) -> Command {
        let at = |part: &str| self.folder.join(part).display().to_string();
        let mut command = Command::new(program);
        if self.sources != Sources::Machines {
            let list = format!("Dir::Etc::sourcelist={}", at("sources.list"));
            command.args(["-o", &list, "-o", "Dir::Etc::sourceparts=/dev/null"]);
        }
        for option in [
            format!("Dir::State={}", at("state")),
            format!("Dir::State::lists={}", at("lists")),
            "Dir::State::status=/var/lib/dpkg/status".into(),
            format!("Dir::Cache={}", self.folder.display()),
            format!("Dir::Cache::archives={}", at("archives")),
            // Without this, root's downloads are done by a user who may not write here.
            "APT::Sandbox::User=root".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Fetches the package lists.
    pub fn update(&self, step: &Step) -> Result<()> {
        step.run(
            self.command("apt-get").arg("update"),
            &self.folder.join("update.log"),
        )
    }

    /// The newest version of `package` that starts with `prefix`.
    pub fn version(&self, package: &str, prefix: &str) -> Result<String> {
        let listing = self.query(&["madison", package])?;
        pick_version(&listing, prefix)
            .map(str::to_owned)
            .with_context(|| format!("no version {prefix}* of {package} is to be had"))
    }

    /// The first package that `package` depends on and whose name starts with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let listing = self.query(&["depends", package])?;
        listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on nothing called {prefix}*"))
    }

    fn query(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("apt-cache");
        let output = output_of(command.args(arguments).stdin(Stdio::null()))?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Fetches `package` (a name, or name=version) and unpacks it into `into`.
    pub fn unpack(&self, step: &Step, package: &str, into: &Path) -> Result<()> {
        let downloads = tempfile::tempdir_in(&self.folder)?;
        step.run(
            self.command("apt-get")
                .arg("download")
                .arg(package)
                .current_dir(downloads.path()),
            &self.folder.join("download.log"),
        )?;
        let archive = fs::read_dir(downloads.path())?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get downloaded no file for {package}"))?;
        fs::create_dir_all(into)?;
        step.run(
            Command::new("dpkg-deb").arg("-x").arg(archive).arg(into),
            &self.folder.join("unpack.log"),
        )
    }
}

/// Whether packages can be fetched at all: apt is there, and has sources.
#[must_use]
pub fn can_fetch_packages() -> bool {
    super::which("apt-get").is_some() && machine_sources().iter().any(|text| has_source(text))
}

/// Whether packages of any of Debian's suites can be fetched.
#[must_use]
pub fn can_fetch_suites() -> bool {
    super::which("apt-get").is_some() && machine_mirror().is_some()
}

/// The version column of `apt-cache madison`, newest first.
fn pick_version<'a>(madison: &'a str, prefix: &str) -> Option<&'a str> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| {
            // 1.95.0 must not match 1.95.01.
            version
                .strip_prefix(prefix)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// The mirror of the machine's own Debian sources.
fn machine_mirror() -> Option<String> {
    machine_sources().iter().find_map(|text| mirror_in(text))
}

/// The machine's own sources files.
fn machine_sources() -> Vec<String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    let parts = fs::read_dir("/etc/apt/sources.list.d").ok();
    let mut parts: Vec<_> = parts
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    parts.sort();
    texts.extend(
        parts
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok()),
    );
    texts
}

/// Whether an apt sources file of either form names anything.
fn has_source(sources: &str) -> bool {
    sources
        .lines()
        .any(|line| line.trim().starts_with("deb ") || line.starts_with("URIs:"))
}

/// The first address of a Debian main archive in an apt sources file of either form.
fn mirror_in(sources: &str) -> Option<String> {
    let one_line = sources.lines().filter_map(|line| {
        let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
        if rest.starts_with('[') {
            rest = rest.split_once(']')?.1.trim_start();
        }
        rest.split_whitespace().next()
    });
    let deb822 = sources
        .lines()
        .filter_map(|line| line.strip_prefix("URIs:"))
        .flat_map(str::split_whitespace);
    one_line
        .chain(deb822)
        .find(|uri| is_main_archive(uri))
        .map(|uri| uri.trim_end_matches('/').to_owned())
}

/// A mirror's main archive ends in `/debian`; the security archive and third parties do not.
fn is_main_archive(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("/debian")
}

#[cfg(test)]
mod tests {
    use super::super::distribution::tests::{DEBIAN, MINT, UBUNTU};
    use super::*;

    const UBUNTU_SOURCES: &str =
        "Types: deb\nURIs: http://archive.example/ubuntu/\nSuites: noble\n";
    const MIRROR_FILE: &str =
        "Types: deb\nURIs: mirror+file:/etc/apt/mirrors/debian.list\nSuites: bookworm\n";

    #[test]
    fn a_debian_takes_packages_of_its_release_from_its_mirror() {
        let debian = Distribution::parse(DEBIAN);
        let mirror = mirror_in("deb http://m.example/debian bookworm main\n");
        let sources = Sources::of_own_release(&debian, mirror);
        let (mirror, suite) = ("http://m.example/debian".into(), "bookworm".into());
        assert_eq!(sources, Sources::Mirror { mirror, suite });
    }

    #[test]
    fn ubuntu_and_a_debian_with_a_list_of_mirrors_use_the_sources_that_they_have() {
        for (os_release, text) in [
            (UBUNTU, UBUNTU_SOURCES),
            (MINT, UBUNTU_SOURCES),
            (DEBIAN, MIRROR_FILE),
            // Somebody else's archive is no mirror for Ubuntu's packages.
            (
                UBUNTU,
                "deb https://tools.example/linux/debian stable main\n",
            ),
        ] {
            assert!(has_source(text));
            let distribution = Distribution::parse(os_release);
            let sources = Sources::of_own_release(&distribution, mirror_in(text));
            assert_eq!(sources, Sources::Machines, "{text}");
        }
        assert!(!has_source("# deb http://m.example/debian x main\n"));
        let folder = tempfile::tempdir().unwrap();
        let apt = Apt::with_sources(folder.path().into(), Sources::Machines).unwrap();
        let command = apt.command("apt-get");
        let mut words = command.get_args().map(|word| word.to_string_lossy());
        assert!(!words.any(|word| word.contains("Dir::Etc")));
    }

    #[test]
    fn the_mirror_is_found_in_a_one_line_source() {
        let text = "# deb http://old.example/debian x main\n\
                    deb [arch=amd64 signed-by=/k] http://mirror.example/debian/ bookworm main contrib\n";
        assert_eq!(
            mirror_in(text).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn the_mirror_is_found_in_a_deb822_source_and_security_is_passed_over() {
        let text = "Types: deb\nURIs: http://m.example/debian-security\nSuites: s\n\n\
                    Types: deb\nURIs: http://m.example/debian http://other.example/debian\nSuites: bookworm\n";
        assert_eq!(mirror_in(text).as_deref(), Some("http://m.example/debian"));
    }

    #[test]
    fn third_parties_are_no_mirror() {
        assert_eq!(
            mirror_in("deb https://apt.example/tool stable main\n"),
            None
        );
    }

    #[test]
    fn the_newest_version_with_the_prefix_is_picked() {
        let madison = " rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://m trixie-backports/main amd64 Packages\n \
                       rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://m trixie-backports/main amd64 Packages\n";
        assert_eq!(
            pick_version(madison, "1.95.0"),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(pick_version(madison, "1.9"), None);
    }
}
