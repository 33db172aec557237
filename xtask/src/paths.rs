//! Where things are: the checkout, and what `xtask` keeps under its `target/`.

use std::path::{Path, PathBuf};

/// The folders of one checkout. Everything `xtask` makes lies under [`Paths::target`].
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The checkout that this program was built from.
    #[must_use]
    pub fn of_checkout() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            root: manifest.parent().unwrap_or(manifest).to_owned(),
        }
    }

    /// The folders of a checkout elsewhere.
    #[cfg(test)]
    pub(crate) fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The checkout itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that can be made again.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The library's source, LLVM's tools and the private sysroot that has both.
    #[must_use]
    pub fn toolchain(&self) -> PathBuf {
        self.target().join("toolchain")
    }

    /// Cargo's output for the bare machine.
    #[must_use]
    pub fn bare(&self) -> PathBuf {
        self.target().join("bare")
    }

    /// Cargo's output for the program that makes disk images.
    #[must_use]
    pub fn boot(&self) -> PathBuf {
        self.target().join("boot")
    }

    /// Finished pieces: stripped kernels and guests, disk images.
    #[must_use]
    pub fn artifacts(&self) -> PathBuf {
        self.target().join("plinth")
    }

    /// Our own programs for the user space of the Linux guest.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.artifacts().join("programs")
    }

    /// One temporary folder for each running emulator.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.target().join("runs")
    }

    /// What package managers had to say.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.target().join("logs")
    }

    /// Guest kernels and the like, unpacked from the distribution's packages.
    #[must_use]
    pub fn fetched(&self) -> PathBuf {
        self.target().join("guests-fetched")
    }

    /// The folder beside the checkout with things that several checkouts share; it need not exist.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.root.join("../shared")
    }
}
