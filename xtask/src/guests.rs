//! Which guests are to run, and the bundle that brings them to the hypervisor.

use crate::build::Artifacts;
use crate::packaged::Packaged;
use anyhow::{Context, Result, bail};
use bundle::{
    Compression, Config, FileIndex, HypervisorOptions, KernelFormat, Module, VmConfig, Writer,
};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// One guest with its files. The file numbers in its configuration are filled in by [`pack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Everything but the files.
    pub config: VmConfig,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its modules, each with a command line.
    pub modules: Vec<(PathBuf, String)>,
}

impl Guest {
    /// Memory of one of our own guests.
    pub const TINY_BYTES: u64 = 32 << 20;

    /// Memory of a kernel that somebody brings along.
    pub const USUAL_BYTES: u64 = 512 << 20;

    /// A guest with one CPU.
    #[must_use]
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>, memory_bytes: u64) -> Self {
        Self {
            config: VmConfig::new(name, FileIndex(0), memory_bytes),
            kernel: kernel.into(),
            initrd: None,
            modules: Vec::new(),
        }
    }

    /// One of our own tiny guests.
    pub fn tiny(artifacts: &Artifacts, name: &str) -> Result<Self> {
        let Some(kernel) = artifacts.guests.get(name) else {
            let known: Vec<_> = artifacts.guests.keys().map(String::as_str).collect();
            bail!(
                "there is no guest `{name}`. There are: linux, {}, {}. For a kernel of your own: --kernel FILE",
                Packaged::names(),
                known.join(", ")
            );
        };
        Ok(Self::new(name, kernel, Self::TINY_BYTES))
    }
}

/// The frequencies, in MHz, that a guest's time-stamp counter can be asked to have: CPUID leaf 16H has 16 bits for it.
pub const TSC_MHZ: RangeInclusive<u32> = 1..=0xffff;

/// The frequency of a time-stamp counter that was asked for in MHz.
#[must_use]
pub const fn tsc_hz(megahertz: u32) -> u64 {
    megahertz as u64 * 1_000_000
}

/// Makes the bundle of these guests.
pub fn pack(
    guests: &[Guest],
    hypervisor: HypervisorOptions,
    compression: Compression,
) -> Result<Vec<u8>> {
    let mut writer = Writer::new(compression);
    let mut vms: Vec<VmConfig> = Vec::with_capacity(guests.len());
    for guest in guests {
        let mut config = guest.config.clone();
        if vms.iter().any(|other| other.name == config.name) {
            bail!("two guests are called `{}`: names must differ", config.name);
        }
        config.kernel = add(&mut writer, &guest.kernel)?;
        config.initrd = match &guest.initrd {
            Some(path) => Some(add(&mut writer, path)?),
            None => None,
        };
        config.modules = Vec::with_capacity(guest.modules.len());
        for (path, cmdline) in &guest.modules {
            config.modules.push(Module {
                file: add(&mut writer, path)?,
                cmdline: cmdline.clone(),
            });
        }
        vms.push(config);
    }
    Ok(writer.finish(Config { hypervisor, vms })?)
}

fn add(writer: &mut Writer, path: &Path) -> Result<FileIndex> {
    let contents = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    Ok(writer.add_file(name, contents))
}

/// Memory that a machine needs for these guests: theirs, the bundle's, and what the hypervisor takes itself.
#[must_use]
pub fn host_memory_mib(guests: &[Guest], bundle_bytes: u64) -> u32 {
    const HYPERVISOR_BYTES: u64 = 128 << 20;
    const STEP_MIB: u64 = 128;
    let guests: u64 = guests.iter().map(|guest| guest.config.memory_bytes).sum();
    let bytes = guests
        .saturating_add(bundle_bytes)
        .saturating_add(HYPERVISOR_BYTES);
    let mib = bytes.div_ceil(1 << 20).next_multiple_of(STEP_MIB);
    u32::try_from(mib).unwrap_or(u32::MAX)
}

/// A boot module as people write it: `FILE` or `FILE:ARGS`. Its command line begins with the file's name, as boot
/// loaders have it. A file whose own name has a colon counts as a file.
pub fn parse_module(text: &str) -> Result<(PathBuf, String)> {
    let (file, arguments) = match text.split_once(':') {
        Some(parts) if !Path::new(text).exists() => parts,
        _ => (text, ""),
    };
    let path = PathBuf::from(file);
    if path.file_name().is_none() {
        bail!("`{text}` names no file: write FILE or FILE:ARGS");
    }
    let cmdline = module_cmdline(&path, arguments);
    Ok((path, cmdline))
}

/// A module's command line: the name of its file, and what it is told.
pub fn module_cmdline(file: &Path, arguments: &str) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if arguments.is_empty() {
        name.into_owned()
    } else {
        format!("{name} {arguments}")
    }
}

/// A kernel's format as people write it.
pub fn parse_format(text: &str) -> Result<KernelFormat> {
    const BELOW: u32 = 0x10_0000;
    Ok(match text.split_once('@') {
        None => match text {
            "auto" => KernelFormat::Auto,
            "linux" => KernelFormat::Linux,
            "elf" => KernelFormat::Elf,
            "multiboot" => KernelFormat::Multiboot,
            "multiboot2" => KernelFormat::Multiboot2,
            "pvh" => KernelFormat::Pvh,
            "flat" => KernelFormat::BOOT_SECTOR,
            _ => bail!(
                "possible values: auto, linux, elf, multiboot, multiboot2, pvh, flat, flat@ADDRESS"
            ),
        },
        Some(("flat", address)) => {
            let digits = address.strip_prefix("0x").unwrap_or(address);
            let address = u32::from_str_radix(digits, 16)
                .ok()
                .filter(|&address| address < BELOW && address % 16 == 0)
                .with_context(|| {
                    format!("`{address}` is no hexadecimal multiple of 16 below {BELOW:#x}")
                })?;
            KernelFormat::Flat { address }
        }
        Some(_) => bail!("only flat binaries are put at an address: flat@ADDRESS"),
    })
}

/// A size as people write it: `64M`, `1G`, `512` (MiB), `4096K`.
pub fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KB" | "KIB" => 10,
        "" | "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => bail!("`{text}` is no size: write 64M, 1G or 4096K"),
    };
    let number: u64 = digits
        .parse()
        .ok()
        .with_context(|| format!("`{text}` is no size: write 64M, 1G or 4096K"))?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .with_context(|| format!("`{text}` is no possible size"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::Bundle;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("64M", 64 << 20),
            ("64", 64 << 20),
            ("1g", 1 << 30),
            ("4096KiB", 4 << 20),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "M", "12X", "-5M", "0", "99999999999999G", "1.5G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_module_is_a_file_with_or_without_words() {
        let parsed = |text| parse_module(text).unwrap();
        assert_eq!(parsed("/m/disk"), ("/m/disk".into(), "disk".into()));
        assert_eq!(
            parsed("disk:a b=c:d"),
            ("disk".into(), "disk a b=c:d".into())
        );
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a:b");
        fs::write(&odd, "").unwrap();
        assert_eq!(parsed(odd.to_str().unwrap()), (odd.clone(), "a:b".into()));
        assert!(parse_module("").is_err() && parse_module(":words").is_err());
    }

    #[test]
    fn a_format_is_named_and_a_flat_one_has_an_address() {
        assert_eq!(parse_format("pvh").unwrap(), KernelFormat::Pvh);
        assert_eq!(parse_format("flat").unwrap(), KernelFormat::BOOT_SECTOR);
        let at = KernelFormat::Flat { address: 0x8000 };
        assert_eq!(parse_format("flat@0x8000").unwrap(), at);
        assert_eq!(parse_format("flat@8000").unwrap(), at);
        for text in ["flat@", "flat@0x8001", "flat@0x100000", "elf@0x8000", "exe"] {
            assert!(parse_format(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_packed_guest_arrives_with_all_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["kernel", "initrd", "module"] {
            fs::write(at(name), name).unwrap();
        }
        let mut guest = Guest::new("g", at("kernel"), 1 << 20);
        guest.initrd = Some(at("initrd"));
        guest.modules.push((at("module"), "words".into()));
        let bytes = pack(&[guest], HypervisorOptions::default(), Compression::Off).unwrap();
        let bundle = Bundle::parse(&bytes).unwrap();
        let vm = &bundle.config().vms[0];
        let contents = |index| bundle.file(index).unwrap().contents().unwrap().into_owned();
        assert_eq!(contents(vm.kernel), b"kernel");
        assert_eq!(contents(vm.initrd.unwrap()), b"initrd");
        assert_eq!(contents(vm.modules[0].file), b"module");
        assert_eq!(vm.modules[0].cmdline, "words");
    }

    #[test]
    fn two_guests_of_one_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("k");
        fs::write(&kernel, "").unwrap();
        let guest = Guest::new("twin", &kernel, 1 << 20);
        let error = pack(
            &[guest.clone(), guest],
            HypervisorOptions::default(),
            Compression::Off,
        );
        assert!(error.unwrap_err().to_string().contains("`twin`"));
    }

    #[test]
    fn a_missing_kernel_is_named() {
        let guest = Guest::new("g", "/nowhere/kernel", 1 << 20);
        let error = pack(&[guest], HypervisorOptions::default(), Compression::Off).unwrap_err();
        assert!(error.to_string().contains("/nowhere/kernel"));
    }

    #[test]
    fn the_host_has_room_for_its_guests_and_itself() {
        let guest = Guest::new("g", "k", 512 << 20);
        assert_eq!(host_memory_mib(&[guest.clone(), guest], 0), 1152);
        assert_eq!(host_memory_mib(&[], 0), 128);
    }
}
