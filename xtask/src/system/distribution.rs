//! Which distribution this is, by `/etc/os-release`.

use std::fs;

/// What a distribution says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Its name and those of its ancestors, the nearest first: `ubuntu debian`.
    names: Vec<String>,
    /// What its release is called in package sources.
    pub codename: Option<String>,
}

impl Distribution {
    /// Looks at this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let places = ["/etc/os-release", "/usr/lib/os-release"];
        let text = places
            .iter()
            .find_map(|place| fs::read_to_string(place).ok());
        Self::parse(&text.unwrap_or_default())
    }

    /// Reads the file `os-release`.
    #[must_use]
    pub fn parse(os_release: &str) -> Self {
        let field = |name: &str| {
            os_release.lines().find_map(|line| {
                let value = line.trim().strip_prefix(name)?.strip_prefix('=')?;
                Some(value.trim_matches(['"', '\'']).to_owned())
            })
        };
        let ids = ["ID", "ID_LIKE"].map(|name| field(name).unwrap_or_default());
        Self {
            names: ids
                .iter()
                .flat_map(|ids| ids.split_whitespace())
                .map(str::to_owned)
                .collect(),
            codename: field("VERSION_CODENAME").filter(|name| !name.is_empty()),
        }
    }

    /// Whether it is Debian itself, whose packages are those of a Debian mirror.
    #[must_use]
    pub fn is_debian(&self) -> bool {
        self.names.first().is_some_and(|name| name == "debian")
    }

    /// Whether its packages are called as Ubuntu's are.
    #[must_use]
    pub fn is_like_ubuntu(&self) -> bool {
        self.names.iter().any(|name| name == "ubuntu")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const DEBIAN: &str =
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
    pub(crate) const UBUNTU: &str =
        "NAME=\"Ubuntu\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n";
    pub(crate) const MINT: &str =
        "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=wilma\n";
    pub(crate) const FEDORA: &str = "NAME=\"Fedora Linux\"\nID=fedora\nVERSION_CODENAME=\"\"\n";

    #[test]
    fn a_distribution_is_known_by_its_own_file() {
        let debian = Distribution::parse(DEBIAN);
        assert!(debian.is_debian() && !debian.is_like_ubuntu());
        assert_eq!(debian.codename.as_deref(), Some("bookworm"));
        for kin in [UBUNTU, MINT] {
            let kin = Distribution::parse(kin);
            assert!(kin.is_like_ubuntu() && !kin.is_debian());
        }
        let fedora = Distribution::parse(FEDORA);
        assert!(!fedora.is_debian() && !fedora.is_like_ubuntu());
        assert_eq!(fedora.codename, None);
        assert_eq!(Distribution::parse(""), Distribution::default());
    }
}
