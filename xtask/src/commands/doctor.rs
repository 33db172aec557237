//! `cargo xtask doctor`: what this machine has and lacks, and what to do about it.

use crate::linux::{KernelPackage, Own};
use crate::packaged::Packaged;
use crate::paths::Paths;
use crate::system::apt::{can_fetch_packages, can_fetch_suites};
use crate::system::distribution::Distribution;
use crate::system::host::Virtualisation;
use crate::system::packages::{Manager, Need};
use crate::toolchain::Active;
use anyhow::Result;
use clap::ValueEnum;
use std::path::PathBuf;
use std::process::Command;

/// The state of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is there.
    Good,
    /// It is not there, and xtask gets it by itself when it is needed.
    Later,
    /// It is not there, and is not needed.
    Optional,
    /// It is not there, and somebody has to do something.
    Bad,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Later => "later",
            Self::Optional => "-",
            Self::Bad => "MISSING",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    what: String,
    state: State,
    found: String,
    remedy: String,
}

impl Row {
    fn new(what: &str, state: State, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            state,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// Prints the table; false where somebody has to do something.
pub fn doctor(paths: &Paths) -> bool {
    let manager = Manager::of_this_machine();
    let active = Active::find(paths);
    let has_rustups = active
        .as_ref()
        .is_ok_and(|active| active.has_source() && active.has_llvm_tools());
    let mut rows = toolchain_rows(paths, active, manager);
    rows.extend(Need::ALL.iter().map(|need| {
        // With rustup's components nobody looks for the distribution's LLVM.
        let is_needed = !(*need == Need::Gdb || *need == Need::LlvmTools && has_rustups);
        need_row(*need, need.find(), manager, is_needed)
    }));
    let distribution = Distribution::of_this_machine();
    let own = Own::of_this_machine().remedy(manager, &distribution);
    rows.extend(guest_rows(
        paths,
        &distribution,
        Fetching::here(),
        own.as_deref(),
    ));
    rows.extend(virtualisation_rows(Virtualisation::of_this_machine()));
    print!("{}", table(&rows));
    let is_healthy = rows.iter().all(|row| row.state != State::Bad);
    println!();
    if is_healthy {
        println!(
            "`cargo xtask run` and `cargo xtask test` will work here. `later` is fetched when it is needed."
        );
    } else {
        println!("Something is missing that xtask cannot get by itself: see the last column.");
    }
    is_healthy
}

fn toolchain_rows(paths: &Paths, active: Result<Active>, manager: Option<Manager>) -> Vec<Row> {
    let active = match active {
        Ok(active) => active,
        Err(error) => {
            let remedy = "install rustup: https://rustup.rs";
            return vec![Row::new("Rust", State::Bad, format!("{error:#}"), remedy)];
        }
    };
    let component = |what: &str, is_there: bool, fetched: bool, source: &str| {
        if is_there {
            Row::new(what, State::Good, "from rustup", "")
        } else if fetched {
            Row::new(what, State::Good, "in target/toolchain", "")
        } else if manager == Some(Manager::Apt) && can_fetch_suites() {
            Row::new(what, State::Later, "", format!("from {source}, by itself"))
        } else {
            Row::new(what, State::Bad, "", format!("rustup component add {what}"))
        }
    };
    let private = Active {
        sysroot: paths.toolchain().join("sysroot"),
        ..active.clone()
    };
    vec![
        Row::new(
            "Rust",
            State::Good,
            format!("{} for {}", active.release, active.host),
            "",
        ),
        component(
            "rust-src",
            active.has_source(),
            private.has_source(),
            "Debian's package rust-src",
        ),
        component(
            "llvm-tools",
            active.has_llvm_tools(),
            private.has_llvm_tools(),
            "Debian's package llvm",
        ),
    ]
}

fn need_row(need: Need, found: Option<PathBuf>, manager: Option<Manager>, is_needed: bool) -> Row {
    if let Some(path) = found {
        return Row::new(need.name(), State::Good, version_of(need, &path), "");
    }
    let without = if is_needed {
        State::Bad
    } else {
        State::Optional
    };
    let package = manager.and_then(|manager| Some((manager, need.package(manager)?)));
    let (state, remedy) = match package {
        Some((Manager::Apt, package)) => (State::Later, format!("package {package}, by itself")),
        Some((manager, package)) => (without, manager.command(&[package])),
        None if is_needed => (without, "install it by hand".to_owned()),
        None => (without, "not needed".to_owned()),
    };
    Row::new(need.name(), state, "", remedy)
}

/// What can be fetched here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fetching {
    /// The packages of this machine's release.
    packages: bool,
    /// Those of any of Debian's suites.
    suites: bool,
}

impl Fetching {
    fn here() -> Self {
        Self {
            packages: can_fetch_packages(),
            suites: can_fetch_suites(),
        }
    }
}

/// The guests that come out of packages: the one that `run` boots, which is needed, and others. Without packages
/// that one is made of what the machine itself runs; `own` is the command for what is missing of that.
fn guest_rows(
    paths: &Paths,
    distribution: &Distribution,
    can_fetch: Fetching,
    own: Option<&str>,
) -> Vec<Row> {
    let row = |what: &str, packages: &[&str], is_there: bool, without: Row| {
        let packages = packages.join(", ");
        if is_there {
            Row::new(what, State::Good, packages, "")
        } else if can_fetch.packages {
            let remedy = format!("packages {packages}, by itself");
            Row::new(what, State::Later, "", remedy)
        } else {
            without
        }
    };
    let usual = KernelPackage::default();
    let name = "guest linux";
    let mut rows = vec![row(
        name,
        &usual.packages(distribution),
        usual.is_there(paths),
        match own {
            None => Row::new(
                name,
                State::Good,
                "this machine's own kernel and busybox",
                "",
            ),
            Some(command) => Row::new(name, State::Bad, "", command),
        },
    )];
    rows.extend(Packaged::value_variants().iter().map(|guest| {
        let name = format!("guest {}", guest.name());
        let without = Row::new(&name, State::Optional, "", "only with Debian's packages");
        row(&name, guest.packages(), guest.is_there(paths), without)
    }));
    rows.extend(KernelPackage::others().iter().map(|kernel| {
        let there = kernel.is_there(paths);
        let state = if there { State::Good } else { State::Optional };
        let found = if there { "fetched" } else { "" };
        let remedy = match (there, can_fetch.suites) {
            (true, _) => "",
            (false, true) => "fetched by `run --kernel-package`, for who wants it",
            (false, false) => "no Debian mirror is known",
        };
        Row::new(&kernel.to_string(), state, found, remedy)
    }));
    rows
}

/// A program's version, or where a file is.
fn version_of(need: Need, path: &std::path::Path) -> String {
    let argument = match need {
        Need::Qemu | Need::Gdb | Need::LlvmTools => "--version",
        Need::Bochs => "--help",
        _ => return path.display().to_string(),
    };
    let output = Command::new(path).arg(argument).output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| {
            let both = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&both).into_owned()
        },
    );
    text.lines()
        .map(|line| line.trim_matches(|c: char| c == '=' || c.is_whitespace()))
        .find(|line| line.chars().any(|c| c.is_ascii_digit()))
        .map_or_else(|| path.display().to_string(), str::to_owned)
}

fn virtualisation_rows(virtualisation: Virtualisation) -> Vec<Row> {
    let row = |what: &str, is_there: bool, yes: &str, no: &str, remedy: &str| {
        let state = if is_there {
            State::Good
        } else {
            State::Optional
        };
        Row::new(
            what,
            state,
            if is_there { yes } else { no },
            if is_there { "" } else { remedy },
        )
    };
    let Virtualisation { kvm, vmx, nested } = virtualisation;
    let engine = if virtualisation.can_nest() {
        "kvm"
    } else {
        "bochs"
    };
    vec![
        row(
            "KVM",
            kvm,
            "/dev/kvm opens",
            "/dev/kvm does not open",
            "not needed: Bochs is used",
        ),
        row(
            "VT-x",
            vmx,
            "the CPU shows vmx",
            "the CPU shows no vmx",
            "not needed: Bochs emulates it",
        ),
        row(
            "nested VT-x",
            nested,
            "kvm_intel passes it on",
            "kvm_intel does not pass it on",
            if vmx {
                "sudo modprobe -r kvm_intel && sudo modprobe kvm_intel nested=1"
            } else {
                "not needed"
            },
        ),
        Row::new("default engine", State::Good, engine, ""),
    ]
}

/// The rows in columns.
fn table(rows: &[Row]) -> String {
    let width = |column: fn(&Row) -> usize| rows.iter().map(column).max().unwrap_or(0);
    let what = width(|row| row.what.chars().count());
    let found = width(|row| row.found.chars().count()).min(60);
    let mut text = String::new();
    for row in rows {
        let line = format!(
            "{:what$}  {:7}  {:found$}  {}",
            row.what,
            row.state.word(),
            row.found,
            row.remedy
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_straight_columns_and_no_trailing_spaces() {
        let rows = [
            Row::new("a", State::Good, "x", ""),
            Row::new("longer", State::Bad, "", "do this"),
        ];
        assert_eq!(
            table(&rows),
            "a       ok       x\nlonger  MISSING     do this\n"
        );
    }

    const NOTHING: Fetching = Fetching {
        packages: false,
        suites: false,
    };

    #[test]
    fn what_is_not_needed_here_is_no_false_alarm() {
        let row = |need, manager, is_needed| need_row(need, None, manager, is_needed);
        let fedora = Some(Manager::Dnf);
        // With rustup's components, and without.
        let llvm = row(Need::LlvmTools, fedora, false);
        assert_eq!(llvm.state, State::Optional);
        assert_eq!(row(Need::LlvmTools, fedora, true).state, State::Bad);
        assert_eq!(row(Need::Gdb, fedora, false).state, State::Optional);
        assert_eq!(row(Need::Gdb, None, false).state, State::Optional);
        let bochs = row(Need::Bochs, fedora, true);
        assert_eq!(bochs.state, State::Bad);
        assert_eq!(bochs.remedy, "sudo dnf install -y bochs");
        assert_eq!(row(Need::Bochs, None, true).state, State::Bad);
    }

    #[test]
    fn guests_that_are_fetched_or_can_be_are_told_with_their_packages() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::of(folder.path());
        let find =
            |rows: &[Row], what: &str| rows.iter().find(|row| row.what == what).unwrap().clone();
        let all = Fetching {
            packages: true,
            suites: true,
        };
        let debian = Distribution::default();
        let linux = find(&guest_rows(&paths, &debian, all, None), "guest linux");
        assert_eq!(linux.state, State::Later);
        assert!(
            linux
                .remedy
                .contains("linux-image-cloud-amd64, busybox-static"),
            "{linux:?}"
        );
        std::fs::create_dir_all(paths.fetched().join("linux")).unwrap();
        let rows = guest_rows(&paths, &debian, NOTHING, Some("do this"));
        assert_eq!(find(&rows, "guest linux").state, State::Good);
        // Nobody needs these for `run`.
        for what in [
            "guest memtest86+",
            "guest ipxe",
            "guest grub",
            "sid/linux-image-amd64",
        ] {
            assert_eq!(find(&rows, what).state, State::Optional);
        }
    }

    #[test]
    fn a_machine_without_a_mirror_is_told_how_to_get_a_guest() {
        let folder = tempfile::tempdir().unwrap();
        let rows = |own| {
            let paths = Paths::of(folder.path());
            guest_rows(&paths, &Distribution::default(), NOTHING, own)
        };
        let command = "sudo dnf install -y kernel-core busybox";
        let lacking = &rows(Some(command))[0];
        assert_eq!(
            (lacking.state, lacking.remedy.as_str()),
            (State::Bad, command)
        );
        assert_eq!(rows(None)[0].state, State::Good);
    }

    #[test]
    fn a_machine_without_vmx_is_told_that_it_needs_none() {
        let rows = virtualisation_rows(Virtualisation {
            kvm: true,
            vmx: false,
            nested: false,
        });
        assert!(rows.iter().all(|row| row.state != State::Bad));
        assert_eq!(rows.last().unwrap().found, "bochs");
    }

    #[test]
    fn nesting_that_is_switched_off_gets_the_command_that_switches_it_on() {
        let rows = virtualisation_rows(Virtualisation {
            kvm: true,
            vmx: true,
            nested: false,
        });
        assert!(
            rows.iter()
                .any(|row| row.remedy.contains("kvm_intel nested=1"))
        );
    }
}
