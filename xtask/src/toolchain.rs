//! The compiler for the bare machine: Rust's own, together with the library's source and LLVM's tools.
//!
//! Where rustup has installed `rust-src` and `llvm-tools` (rust-toolchain.toml asks for them) there is nothing to
//! do. Elsewhere they come from Debian's packages into a private sysroot under `target/toolchain`: links to the
//! active toolchain, and beside them what it lacks. The user's toolchain is never touched.
//!
//! `core` and `alloc` are built from source, which stable Rust only does with `RUSTC_BOOTSTRAP=1`. That variable
//! is set for these builds and for nothing else; our own code uses no unstable feature.

use crate::output::output_of;
use crate::paths::Paths;
use crate::report::{Step, say};
use crate::system::apt::Apt;
use crate::system::packages::{Need, ensure};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Debian suite whose `rust-src` has the compiler's version.
const SUITE: &str = "trixie-backports";

/// Changes whenever a private sysroot is laid out in another way, so that old ones are made again.
const LAYOUT: u32 = 1;

/// The target of the hypervisor and the guests.
pub const BARE_TARGET: &str = "x86_64-unknown-none";

/// A compiler that can build for the bare machine.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Has the library's source and LLVM's tools.
    sysroot: PathBuf,
    host: String,
    path: OsString,
}

/// What the active toolchain has.
#[derive(Clone, Debug)]
pub struct Active {
    /// Where it is.
    pub sysroot: PathBuf,
    /// The platform it runs on.
    pub host: String,
    /// The release, as in `1.95.0`.
    pub release: String,
}

impl Active {
    /// Asks the `rustc` that cargo uses in this checkout.
    pub fn find(paths: &Paths) -> Result<Self> {
        let ask = |arguments: &[&str]| -> Result<String> {
            let mut rustc = Command::new("rustc");
            rustc
                .args(arguments)
                .current_dir(paths.root())
                .env_remove("RUSTC_BOOTSTRAP");
            let output = output_of(&mut rustc)
                .context("rustc does not answer: install Rust with rustup (https://rustup.rs)")?;
            Ok(String::from_utf8(output)?)
        };
        let version = ask(&["-vV"])?;
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
                .with_context(|| format!("`rustc -vV` has no line {name}"))
        };
        Ok(Self {
            sysroot: PathBuf::from(ask(&["--print", "sysroot"])?.trim()),
            host: field("host:")?,
            release: field("release:")?,
        })
    }

    /// Whether the component `rust-src` is there.
    #[must_use]
    pub fn has_source(&self) -> bool {
        has_source(&self.sysroot)
    }

    /// Whether the component `llvm-tools` is there.
    #[must_use]
    pub fn has_llvm_tools(&self) -> bool {
        let tools = tools_of(&self.sysroot, &self.host);
        tools.join("llvm-objdump").exists() && tools.join("llvm-objcopy").exists()
    }
}

fn has_source(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .exists()
}

fn tools_of(sysroot: &Path, host: &str) -> PathBuf {
    sysroot.join("lib/rustlib").join(host).join("bin")
}

impl Toolchain {
    /// Finds or makes it.
    pub fn provide(paths: &Paths) -> Result<Self> {
        let active = Active::find(paths)?;
        let sysroot = if active.has_source() && active.has_llvm_tools() {
            active.sysroot
        } else {
            private_sysroot(paths, &active)?
        };
        // The boot loader's build script runs whatever `rustc` comes first in PATH.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(sysroot.join("bin")).chain(std::env::split_paths(&path));
        Ok(Self {
            path: std::env::join_paths(folders)?,
            sysroot,
            host: active.host,
        })
    }

    /// `cargo` with everything it needs to build for the bare machine, and its output in `target_dir`.
    #[must_use]
    pub fn cargo(&self, paths: &Paths, target_dir: &Path) -> Command {
        let mut command = plain_cargo(paths);
        command
            .env("PATH", &self.path)
            .env("RUSTC", self.sysroot.join("bin/rustc"))
            // clippy's driver does not ask the `rustc` above.
            .env("SYSROOT", &self.sysroot)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", target_dir);
        command
    }

    /// Copies an ELF file without its symbols and debug information; a flat binary as it is.
    pub fn strip(&self, from: &Path, to: &Path) -> Result<()> {
        let is_elf = fs::read(from)
            .with_context(|| format!("cannot read {}", from.display()))?
            .starts_with(b"\x7fELF");
        if !is_elf {
            fs::copy(from, to).with_context(|| format!("cannot write {}", to.display()))?;
            return Ok(());
        }
        let tools = tools_of(&self.sysroot, &self.host);
        let mut objcopy = Command::new(tools.join("llvm-objcopy"));
        output_of(objcopy.arg("--strip-all").args([from, to]))
            .with_context(|| format!("cannot strip {}", from.display()))?;
        Ok(())
    }
}

/// The arguments that make cargo build for the bare machine.
pub const BARE_ARGUMENTS: [&str; 4] = [
    "--target",
    BARE_TARGET,
    "-Zbuild-std=core,alloc,compiler_builtins",
    "-Zbuild-std-features=compiler-builtins-mem",
];

/// `cargo` as for any host crate, in this checkout, without what the cargo that runs `xtask` left behind.
#[must_use]
pub fn plain_cargo(paths: &Paths) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths.root());
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "SYSROOT",
    ] {
        command.env_remove(variable);
    }
    command
}

/// The private sysroot for the active toolchain, made if it is not there yet.
fn private_sysroot(paths: &Paths, active: &Active) -> Result<PathBuf> {
    let folder = paths.toolchain();
    let sysroot = folder.join("sysroot");
    let stamp = folder.join("stamp");
    let wanted = format!(
        "layout {LAYOUT}\n{}\n{}\n",
        active.release,
        active.sysroot.display()
    );
    let is_current = fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    if is_current
        && has_source(&sysroot)
        && tools_of(&sysroot, &active.host)
            .join("llvm-objdump")
            .exists()
    {
        return Ok(sysroot);
    }
    let _ = fs::remove_file(&stamp);
    fs::create_dir_all(&folder)?;
    let library = if active.has_source() {
        active.sysroot.join("lib/rustlib/src/rust/library")
    } else {
        library_source(paths, &active.release)?
    };
    let objdump = if active.has_llvm_tools() {
        tools_of(&active.sysroot, &active.host).join("llvm-objdump")
    } else {
        ensure(paths, &[Need::LlvmTools])?;
        Need::LlvmTools
            .find()
            .context("llvm-objdump is not there")?
    };
    lay_out(&sysroot, active, &library, &objdump)
        .with_context(|| format!("cannot make {}", sysroot.display()))?;
    fs::write(&stamp, wanted)?;
    Ok(sysroot)
}

/// The source of Rust's library: from Debian's package, or from the copy beside the checkout.
fn library_source(paths: &Paths, release: &str) -> Result<PathBuf> {
    let folder = paths.toolchain().join(format!("rust-src-{release}"));
    let in_package = folder.join(format!("usr/src/rustc-{release}/library"));
    let in_copy = folder.join("library");
    for library in [&in_package, &in_copy] {
        if library.join("Cargo.lock").exists() {
            return Ok(library.clone());
        }
    }
    say(format!(
        "rustup has no rust-src here; the library's source of Rust {release} is taken from a package (45 MB, once)"
    ));
    let Err(error) = unpack_package(paths, release, &folder) else {
        return Ok(in_package);
    };
    let copy = paths
        .shared()
        .join(format!("toolchain/rust-library-{release}.tar.xz"));
    if !copy.exists() {
        return Err(error.context(format!(
            "the source of Rust {release}'s library is missing. Install it with: rustup component add rust-src llvm-tools"
        )));
    }
    let step = Step::begin("unpacking the copy of the library's source");
    fs::create_dir_all(&folder)?;
    step.run(
        Command::new("tar")
            .arg("-xJf")
            .arg(&copy)
            .arg("-C")
            .arg(&folder),
        &paths.logs().join("rust-src.log"),
    )?;
    if in_copy.join("Cargo.lock").exists() {
        return Ok(in_copy);
    }
    bail!("{} does not hold Rust's library", copy.display())
}

fn unpack_package(paths: &Paths, release: &str, folder: &Path) -> Result<()> {
    let apt = Apt::with_suite(paths.toolchain().join("apt"), SUITE)?;
    let step = Step::begin(format!("fetching rust-src {release}"));
    apt.update(&step)?;
    let version = apt.version("rust-src", release)?;
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    apt.unpack(&step, &format!("rust-src={version}"), &partial)?;
    let _ = fs::remove_dir_all(folder);
    fs::rename(&partial, folder)?;
    Ok(())
}

/// Makes a sysroot that consists of links to the active one, the library's source, and LLVM's tools.
fn lay_out(final_place: &Path, active: &Active, library: &Path, objdump: &Path) -> Result<()> {
    // Put together beside its place: a build that uses the old one notices next to nothing.
    let sysroot = &final_place.with_extension("partial");
    let _ = fs::remove_dir_all(sysroot);
    let bin = sysroot.join("bin");
    let lib = sysroot.join("lib");
    let rustlib = lib.join("rustlib");
    let tools = tools_of(sysroot, &active.host);
    for folder in [&bin, &tools, &rustlib.join("src/rust")] {
        fs::create_dir_all(folder)?;
    }

    link_all(&active.sysroot.join("bin"), &bin, &["rustc"])?;
    link_all(&active.sysroot.join("lib"), &lib, &["rustlib"])?;
    let real_rustlib = active.sysroot.join("lib/rustlib");
    link_all(&real_rustlib, &rustlib, &["src", &active.host])?;
    let real_host = real_rustlib.join(&active.host);
    link_all(&real_host, &rustlib.join(&active.host), &["bin"])?;
    let real_tools = real_host.join("bin");
    link_all(&real_tools, &tools, &["llvm-objcopy", "llvm-objdump"])?;

    symlink(fs::canonicalize(library)?, rustlib.join("src/rust/library"))?;
    symlink(objdump, tools.join("llvm-objdump"))?;
    let objcopy = ["llvm-objcopy", "rust-objcopy"]
        .iter()
        .map(|name| real_tools.join(name))
        .find(|path| path.exists())
        .context("the toolchain has neither llvm-objcopy nor rust-objcopy")?;
    // Linked against LLVM's library, which it only looks for in places relative to where rustup puts it.
    write_script(
        &tools.join("llvm-objcopy"),
        &format!(
            "LD_LIBRARY_PATH={}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} exec {} \"$@\"",
            quoted(&active.sysroot.join("lib")),
            quoted(&objcopy)
        ),
    )?;
    write_script(
        &bin.join("rustc"),
        &format!(
            "exec {} --sysroot {} \"$@\"",
            quoted(&active.sysroot.join("bin/rustc")),
            quoted(final_place)
        ),
    )?;
    let _ = fs::remove_dir_all(final_place);
    fs::rename(sysroot, final_place)?;
    Ok(())
}

/// Links everything in `from`, except the names in `but`, into `to`.
fn link_all(from: &Path, to: &Path, but: &[&str]) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let name = entry?.file_name();
        if !but.iter().any(|excluded| name == *excluded) {
            symlink(from.join(&name), to.join(&name))?;
        }
    }
    Ok(())
}

fn write_script(path: &Path, line: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{line}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_quote_stays_one_word() {
        assert_eq!(quoted(Path::new("/a b/c'd")), r"'/a b/c'\''d'");
    }

    #[test]
    fn a_private_sysroot_has_what_the_active_one_lacks_and_links_to_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for file in [
            "real/bin/rustc",
            "real/bin/rustdoc",
            "real/lib/libdriver.so",
            "real/lib/rustlib/h/lib/libcore.rlib",
            "real/lib/rustlib/h/bin/rust-objcopy",
            "library/Cargo.lock",
            "llvm-objdump",
        ] {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write(at(file), file).unwrap();
        }
        let active = Active {
            sysroot: at("real"),
            host: "h".into(),
            release: "1.0.0".into(),
        };
        assert!(!active.has_source() && !active.has_llvm_tools());
        lay_out(&at("private"), &active, &at("library"), &at("llvm-objdump")).unwrap();
        let made = Active {
            sysroot: at("private"),
            ..active
        };
        assert!(made.has_source() && made.has_llvm_tools());
        for link in [
            "bin/rustdoc",
            "lib/libdriver.so",
            "lib/rustlib/h/lib/libcore.rlib",
        ] {
            assert!(made.sysroot.join(link).exists(), "{link}");
        }
        let rustc = fs::read_to_string(made.sysroot.join("bin/rustc")).unwrap();
        assert!(rustc.contains("--sysroot") && rustc.contains("real/bin/rustc"));
    }
}
