//! `cargo xtask check`: formatting, lints with warnings denied, and the rules of the house.

use crate::build::{CONFORMANCE, GUEST_PROFILE, GUESTS, KERNEL, PROGRAMS, metadata};
use crate::check::readme::Inventory;
use crate::check::{Violation, layers, readme, source};
use crate::paths::Paths;
use crate::report::say;
use crate::toolchain::{BARE_ARGUMENTS, Toolchain, plain_cargo};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs every check, also after one has failed.
pub fn check(paths: &Paths) -> Result<()> {
    let toolchain = Toolchain::provide(paths)?;
    let mut failed = Vec::new();
    let mut note = |what: &str, is_fine: bool| {
        if !is_fine {
            failed.push(what.to_owned());
        }
    };
    say("formatting");
    note(
        "formatting (cargo fmt)",
        succeeds(plain_cargo(paths).args(["fmt", "--all", "--check"]))?,
    );
    say("rules of the house");
    note("rules of the house", rules(paths)?);
    say("lints of what runs on the host");
    note(
        "lints of what runs on the host",
        succeeds(&mut host_lints(paths))?,
    );
    say("lints of what runs on the bare machine");
    note(
        "lints of what runs on the bare machine",
        succeeds(&mut bare_lints(paths, &toolchain))?,
    );
    say("lints of the image maker");
    note(
        "lints of the image maker",
        succeeds(&mut boot_lints(paths, &toolchain))?,
    );
    if !failed.is_empty() {
        bail!("not in order: {}", failed.join("; "));
    }
    say("everything is in order");
    Ok(())
}

fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(status.success())
}

fn host_lints(paths: &Paths) -> Command {
    let mut cargo = plain_cargo(paths);
    cargo.args(["clippy", "--quiet", "--keep-going"]);
    cargo.args(["--workspace", "--all-targets"]);
    for package in [KERNEL, GUESTS, CONFORMANCE, PROGRAMS, "plinth-boot"] {
        cargo.args(["--exclude", package]);
    }
    cargo.args(["--", "-D", "warnings"]);
    cargo
}

/// One profile for both packages, so that what they share is checked once; lints look at no profile.
fn bare_lints(paths: &Paths, toolchain: &Toolchain) -> Command {
    let mut cargo = toolchain.cargo(paths, &paths.bare());
    cargo
        .args([
            "clippy",
            "--quiet",
            "--keep-going",
            "--package",
            KERNEL,
            "--package",
            GUESTS,
            "--package",
            CONFORMANCE,
            "--package",
            PROGRAMS,
            "--profile",
            GUEST_PROFILE,
        ])
        .args(BARE_ARGUMENTS)
        .args(["--", "-D", "warnings"]);
    cargo
}

fn boot_lints(paths: &Paths, toolchain: &Toolchain) -> Command {
    let mut cargo = toolchain.cargo(paths, &paths.boot());
    cargo.args([
        "clippy",
        "--quiet",
        "--package",
        "plinth-boot",
        "--",
        "-D",
        "warnings",
    ]);
    cargo
}

/// Where the sources are, and what else stands beside them.
const FOLDERS: [&str; 5] = ["boot", "guests", "kernel", "tests", "xtask"];
const ROOT_FILES: [&str; 3] = ["Cargo.toml", "README.md", "rust-toolchain.toml"];

/// Where guests are, and where they are listed.
const GUEST_TABLES: [(&str, &str); 2] = [
    ("guests/src/bin/", "guests/src/lib.rs"),
    (
        "guests/conformance/src/bin/",
        "guests/conformance/README.md",
    ),
];

fn rules(paths: &Paths) -> Result<bool> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(paths.root(), &paths.root().join(folder), &mut files)?;
    }
    for name in ROOT_FILES {
        files.push((
            name.to_owned(),
            fs::read_to_string(paths.root().join(name))?,
        ));
    }
    let mut inventory = Inventory::default();
    for (path, text) in &files {
        inventory.add(path, if path.ends_with(".rs") { text } else { "" });
    }
    let mut violations = layers::violations(&metadata(paths)?);
    for (path, text) in &files {
        if path.ends_with(".rs") {
            violations.extend(source::violations(path, text));
            violations.extend(readme::stale_comments(path, text, &inventory));
        } else if path.ends_with("/Cargo.toml") {
            violations.extend(manifest_violation(path, text));
        } else if path.ends_with("README.md") {
            violations.extend(readme::violations(path, text, &inventory));
        }
    }
    for (folder, table) in GUEST_TABLES {
        let programs = files
            .iter()
            .filter_map(|(path, _)| path.strip_prefix(folder)?.split(['/', '.']).next())
            .collect();
        if let Some((path, text)) = files.iter().find(|(path, _)| path == table) {
            violations.extend(readme::guests_table(path, text, &programs));
        }
    }
    for violation in &violations {
        eprintln!("{violation}");
    }
    Ok(violations.is_empty())
}

/// All files below a folder that are text, by their paths relative to the checkout.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            files.push((relative.to_string_lossy().into_owned(), text));
        }
    }
    Ok(())
}

/// Each crate takes part in the workspace's lints, among them that every `unsafe` block has a SAFETY comment.
fn manifest_violation(path: &str, manifest: &str) -> Option<Violation> {
    let takes_part = manifest
        .split_once("[lints]")
        .is_some_and(|(_, rest)| rest.trim_start().starts_with("workspace = true"));
    (!takes_part).then(|| Violation {
        place: path.to_owned(),
        message: "must have `[lints] workspace = true`".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_outside_the_common_lints_is_noticed() {
        assert!(manifest_violation("x/Cargo.toml", "[package]\nname = \"x\"\n").is_some());
        assert!(manifest_violation("x/Cargo.toml", "[lints]\nworkspace = true\n").is_none());
    }
}
