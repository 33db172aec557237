//! The machine and distribution that `xtask` runs on: what there is ([`host`], [`distribution`]), how more is installed
//! ([`packages`]), how a package is unpacked without being installed ([`apt`]), how a command is run that may hang
//! ([`limited`]).

pub mod apt;
pub mod distribution;
pub mod host;
pub mod limited;
pub mod packages;

use std::path::{Path, PathBuf};

/// Where `program` is found along PATH.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The first of `candidates` that exists.
#[must_use]
pub fn first_existing(candidates: &[&str]) -> Option<PathBuf> {
    candidates
        .iter()
        .map(Path::new)
        .find(|candidate| candidate.exists())
        .map(Path::to_owned)
}
