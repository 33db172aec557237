//! Runs a machine that boots Plinth: [`Machine`] says what is wanted, [`Running`] is the emulator at work.
//!
//! The configuration of each emulator is a pure function ([`bochs::configuration`], [`qemu::arguments`]). Whatever
//! the emulator, its first serial port is a TCP connection to a listener of ours: two ways, no overrun, and the
//! same for all. Every run has a folder of its own, with its copy of the disk image, and leaves nothing behind.

pub mod bochs;
pub mod cleanup;
pub mod console;
pub mod hang;
pub mod monitor;
pub mod qemu;

use crate::paths::Paths;
use crate::system::host::Virtualisation;
use crate::system::packages::{Need, ensure};
use anyhow::{Context, Result, bail};
use bundle::{ApicVirtualization, Pointer};
use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What executes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// QEMU with nested KVM: real VT-x.
    Kvm,
    /// Bochs: VT-x in software.
    Bochs,
    /// QEMU's own emulation, which has no VT-x: Plinth says so and stops.
    Qemu,
}

impl Engine {
    /// The engine for a machine like this one, where nobody asked for another.
    #[must_use]
    pub fn choose(virtualisation: Virtualisation) -> Self {
        if virtualisation.can_nest() {
            Self::Kvm
        } else {
            Self::Bochs
        }
    }

    /// How much of the guests' local APICs the processor is to do here. Bochs 2.7 delivers virtual interrupts to the first
    /// instruction of a handler whose gate has just cleared IF: a Linux that holds a lock there waits for itself.
    #[must_use]
    pub const fn usual_apic(self) -> ApicVirtualization {
        match self {
            Self::Kvm | Self::Qemu => ApicVirtualization::Hardware,
            Self::Bochs => ApicVirtualization::TaskPriority,
        }
    }
}

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// The old way, by the engine's usual BIOS.
    Bios,
    /// The new way.
    Uefi,
    /// The old way, by SeaBIOS in Bochs too: there it leaves VT-x's switch to whoever wants it.
    Seabios,
}

/// How an emulated machine's time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as instructions are executed; an idle machine skips ahead. Runs repeat exactly.
    Free,
    /// As fast, with twice as many instructions to a second: what KVM was measured with ([`crate::bench::baseline`]).
    Measured,
    /// No faster than real time: for somebody who types.
    RealTime,
}

/// The processor that Bochs emulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CpuModel {
    /// Without PML, TSC scaling and XSAVES.
    Haswell,
    /// The main one.
    #[default]
    Skylake,
    /// With CET, UMIP and sub-page protection as well.
    Tigerlake,
}

/// Which model-specific registers a processor has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Msrs {
    /// Those that the emulator has by itself; all others raise #GP.
    #[default]
    Emulators,
    /// Also those that every Intel processor has, and that an operating system reads before it can take a #GP.
    Everywhere,
}

/// Who controls the machine from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debugger {
    /// Nobody: it starts at once.
    None,
    /// It waits at its first instruction for gdb. QEMU itself listens on this port; Bochs's own debugger is left to
    /// whoever takes it ([`Running::take_debugger`]) and serves that port.
    Gdb {
        /// On the loopback interface.
        port: u16,
    },
    /// Nobody, but QEMU's monitor connects to this port, and the machine stays for it when it has switched itself off.
    Monitor {
        /// On the loopback interface.
        port: u16,
    },
}

/// Whether the hypervisor finds a serial port, which it looks for at COM1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SerialPort {
    /// It does.
    #[default]
    Com1,
    /// It does not: what is listened to is COM2. Only QEMU's machines can be so.
    None,
}

/// What the machine boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// An image whose RAM disk is a pointer; the emulator itself loads the bundle. BIOS only: UEFI firmware uses
    /// memory as it likes.
    WithPointer {
        /// The image, which is copied.
        image: PathBuf,
        /// What the pointer is to point to.
        bundle: Vec<u8>,
    },
    /// An image with everything in it.
    Complete {
        /// The image, which is copied.
        image: PathBuf,
    },
}

/// A machine to be run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What executes it.
    pub engine: Engine,
    /// What starts it.
    pub firmware: Firmware,
    /// Number of its CPUs.
    pub cpus: u32,
    /// The kind of its CPUs, where the engine has a choice.
    pub cpu_model: CpuModel,
    /// Which model-specific registers they have, where the engine has a choice.
    pub msrs: Msrs,
    /// Size of its memory.
    pub memory_mib: u32,
    /// How its time passes, where the engine has a choice.
    pub pace: Pace,
    /// Its serial port.
    pub serial: SerialPort,
    /// Who controls it.
    pub debugger: Debugger,
    /// What it boots from.
    pub disk: Disk,
}

/// Names of the files in a run's folder. The emulator runs in that folder, so no configuration has to quote a path.
pub(crate) mod files {
    pub(crate) const DISK: &str = "hd.img";
    pub(crate) const BUNDLE: &str = "bundle";
    pub(crate) const SECOND_SERIAL: &str = "com2.out";
    pub(crate) const DEBUG_PORT: &str = "debug-port.out";
    pub(crate) const OUTPUT: &str = "emulator.out";
    pub(crate) const LOG: &str = "emulator.log";
    pub(crate) const UEFI_VARIABLES: &str = "uefi-variables.fd";
}

/// Memory above this address may be something else: the windows of PCI devices start below 4 GiB.
const LOW_MEMORY_END_MIB: u32 = 2048;

/// Bochs takes no more of the host's memory than this.
const BOCHS_MEMORY_MIB: u32 = 2048;

/// Left free at the end of memory, where firmware keeps its tables.
const FIRMWARE_BYTES: u64 = 4 << 20;

/// A bundle starts at a multiple of this, so that it cuts no large page in two.
const BUNDLE_ALIGNMENT: u64 = 2 << 20;

/// The boot loader's and the hypervisor's own memory ends far below this.
const LOADER_BYTES: u64 = 48 << 20;

/// How much memory a machine needs to keep this much free below a bundle of this size.
#[must_use]
pub fn bytes_with_bundle(free_bytes: u64, bundle_bytes: u64) -> u64 {
    let below = free_bytes
        .max(LOADER_BYTES)
        .next_multiple_of(BUNDLE_ALIGNMENT);
    below + bundle_bytes.next_multiple_of(BUNDLE_ALIGNMENT) + FIRMWARE_BYTES
}

impl Machine {
    /// Where the emulator puts a bundle of this size: as high as it can, out of the way of the boot loader, which
    /// allocates upwards from the lowest address.
    pub fn bundle_address(&self, bundle_bytes: u64) -> Result<u64> {
        let end = (u64::from(self.memory_mib.min(LOW_MEMORY_END_MIB)) << 20)
            .saturating_sub(FIRMWARE_BYTES);
        let start = end.saturating_sub(bundle_bytes) / BUNDLE_ALIGNMENT * BUNDLE_ALIGNMENT;
        if start < LOADER_BYTES {
            bail!(
                "the guests' files ({} MiB) do not fit into a machine with {} MiB: use --host-memory with more",
                bundle_bytes >> 20,
                self.memory_mib
            );
        }
        Ok(start)
    }

    fn check(&self) -> Result<()> {
        match (self.engine, self.firmware) {
            (Engine::Bochs, _) if matches!(self.debugger, Debugger::Monitor { .. }) => {
                bail!("Bochs has no monitor: use --engine qemu")
            }
            (Engine::Bochs, _) if self.serial == SerialPort::None => {
                bail!("a machine without a serial port is made with --engine qemu only")
            }
            (Engine::Bochs, Firmware::Uefi) => {
                bail!("Bochs has no UEFI firmware: use --engine qemu or kvm, or --firmware bios")
            }
            (Engine::Bochs, _) if self.memory_mib > BOCHS_MEMORY_MIB => {
                bail!(
                    "Bochs has room for {BOCHS_MEMORY_MIB} MiB of memory, and this machine wants {}: give the guests less \
                     (--memory), or use --engine kvm",
                    self.memory_mib
                )
            }
            (_, Firmware::Uefi) if matches!(self.disk, Disk::WithPointer { .. }) => {
                bail!(
                    "UEFI firmware would overwrite a bundle that the emulator has loaded: use a complete image"
                )
            }
            _ => Ok(()),
        }
    }

    fn needs(&self) -> Vec<Need> {
        match (self.engine, self.firmware) {
            (Engine::Bochs, _) => Need::FOR_BOCHS.to_vec(),
            (_, Firmware::Bios | Firmware::Seabios) => vec![Need::Qemu],
            (_, Firmware::Uefi) => vec![Need::Qemu, Need::Ovmf],
        }
    }

    /// Starts the emulator, and returns once its serial port is connected.
    pub fn spawn(&self, paths: &Paths) -> Result<Running> {
        self.check()?;
        ensure(paths, &self.needs())?;
        let folder = self.prepare_folder(paths)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let bundle_address = match &self.disk {
            Disk::WithPointer { bundle, .. } => Some(self.bundle_address(bundle.len() as u64)?),
            Disk::Complete { .. } => None,
        };
        let mut command = match self.engine {
            Engine::Bochs => bochs::command(self, folder.path(), port, bundle_address)?,
            Engine::Kvm | Engine::Qemu => qemu::command(self, folder.path(), port, bundle_address)?,
        };
        let output = File::create(folder.path().join(files::OUTPUT))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        if self.engine == Engine::Bochs && self.debugger != Debugger::None {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            // Ctrl-C on the terminal is gdb's: it must not reach Bochs by itself.
            command.process_group(0);
        }
        let program = command.get_program().display().to_string();
        let child = command
            .current_dir(folder.path())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let registration = cleanup::register(child.id(), folder.path());
        let mut process = Process(child);
        let serial = accept(&listener, &mut process, folder.path())?;
        serial.set_nodelay(true)?;
        Ok(Running {
            engine: self.engine,
            process,
            serial,
            folder,
            _registration: registration,
        })
    }

    fn prepare_folder(&self, paths: &Paths) -> Result<TempDir> {
        fs::create_dir_all(paths.runs())?;
        let folder = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(paths.runs())?;
        let disk = folder.path().join(files::DISK);
        match &self.disk {
            Disk::Complete { image } => {
                fs::copy(image, &disk)
                    .with_context(|| format!("cannot copy {}", image.display()))?;
            }
            Disk::WithPointer { image, bundle } => {
                let mut bytes =
                    fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
                let bundle_bytes = bundle.len() as u64;
                let pointer = Pointer {
                    address: self.bundle_address(bundle_bytes)?,
                    bytes: bundle_bytes,
                };
                write_pointer(&mut bytes, pointer)
                    .with_context(|| format!("{} was not made for runs", image.display()))?;
                fs::write(&disk, bytes)?;
                fs::write(folder.path().join(files::BUNDLE), bundle)?;
            }
        }
        Ok(folder)
    }
}

/// Writes a pointer over the placeholder in a disk image. A file of one sector lies in one piece, so its bytes can
/// be found without reading the file system; files start at sectors.
fn write_pointer(image: &mut [u8], pointer: Pointer) -> Result<()> {
    let mut places = image
        .chunks_exact_mut(512)
        .filter(|sector| sector.starts_with(&Pointer::PLACEHOLDER));
    match (places.next(), places.next()) {
        (Some(sector), None) => {
            sector[..Pointer::WIRE_BYTES].copy_from_slice(&pointer.to_bytes());
            Ok(())
        }
        (None, _) => bail!("the image has no place for a pointer"),
        (Some(_), Some(_)) => bail!("the image has two places for a pointer"),
    }
}

/// How long an emulator may take to connect its serial port.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the emulator has connected its serial port.
fn accept(listener: &TcpListener, process: &mut Process, folder: &Path) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = process.0.try_wait()? {
            bail!(
                "the emulator did not start ({status}):\n{}",
                last_words(folder)
            );
        }
        if Instant::now() > deadline {
            bail!(
                "the emulator did not connect its serial port:\n{}",
                last_words(folder)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child process that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what the emulator itself had to say.
fn last_words(folder: &Path) -> String {
    let mut text = String::new();
    for name in [files::OUTPUT, files::LOG] {
        let bytes = fs::read(folder.join(name)).unwrap_or_default();
        let all = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = all.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(12)..] {
            text.push_str("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

/// An emulator at work. Dropped, it is killed and its folder removed.
#[derive(Debug)]
pub struct Running {
    engine: Engine,
    process: Process,
    serial: TcpStream,
    folder: TempDir,
    _registration: cleanup::Registration,
}

impl Running {
    /// The machine's first serial port, to be read from and written to.
    pub fn serial(&self) -> Result<TcpStream> {
        Ok(self.serial.try_clone()?)
    }

    /// What has come out of the second serial port so far.
    #[must_use]
    pub fn second_serial(&self) -> Vec<u8> {
        fs::read(self.folder.path().join(files::SECOND_SERIAL)).unwrap_or_default()
    }

    /// What has been written to port 0xE9 so far. In Bochs the emulator's own output is mixed with it.
    #[must_use]
    pub fn debug_port(&self) -> Vec<u8> {
        let own = fs::read(self.folder.path().join(files::DEBUG_PORT));
        own.or_else(|_| fs::read(self.folder.path().join(files::OUTPUT)))
            .unwrap_or_default()
    }

    /// The emulator's own log, whole.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.path().join(files::LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what the emulator itself had to say.
    #[must_use]
    pub fn last_words(&self) -> String {
        last_words(self.folder.path())
    }

    /// The processor's registers, where the emulator can tell: Bochs stops at an interrupt signal, and its debugger
    /// goes on with its script, which prints them. The machine is at its end after that.
    pub fn registers(&mut self) -> String {
        if self.engine != Engine::Bochs {
            return String::from("  (only Bochs tells the registers of a machine that hangs)\n");
        }
        let before = fs::read(self.folder.path().join(files::OUTPUT)).map_or(0, |text| text.len());
        if let Ok(pid) = i32::try_from(self.process.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        self.finish(Duration::from_secs(3));
        let output = fs::read(self.folder.path().join(files::OUTPUT)).unwrap_or_default();
        bochs::register_dump(&String::from_utf8_lossy(
            output.get(before..).unwrap_or_default(),
        ))
    }

    /// Bochs's own debugger: what it is told, and what it says. There once, and only in a machine that waits for gdb.
    pub fn take_debugger(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.process
            .0
            .stdin
            .take()
            .zip(self.process.0.stdout.take())
    }

    /// The emulator's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The run's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How the emulator ended, once it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.0.try_wait()?)
    }

    /// Whether the machine has switched itself off; it may have ended in other ways, or not at all.
    pub fn is_off(&mut self) -> bool {
        match self.process.0.try_wait() {
            Ok(Some(_)) if self.engine == Engine::Bochs => bochs::is_off(&self.log()),
            Ok(Some(status)) => status.success(),
            _ => false,
        }
    }

    /// Gives the emulator this long to end by itself, and kills it then.
    pub fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !matches!(self.process.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// Ends the emulator.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// A command for an emulator that is not to see the surroundings of `xtask`.
fn emulator_command(program: &str) -> Command {
    let mut command = Command::new(program);
    // `cargo run` puts the toolchain's libraries there; an emulator has its own.
    command.env_remove("LD_LIBRARY_PATH");
    command
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn machine(engine: Engine, firmware: Firmware) -> Machine {
        Machine {
            engine,
            firmware,
            cpus: 2,
            cpu_model: CpuModel::Skylake,
            msrs: Msrs::Emulators,
            memory_mib: 512,
            pace: Pace::Free,
            serial: SerialPort::Com1,
            debugger: Debugger::None,
            disk: Disk::Complete {
                image: PathBuf::from("image"),
            },
        }
    }

    #[test]
    fn nested_kvm_is_chosen_only_where_all_of_it_is_there() {
        let all = Virtualisation {
            kvm: true,
            vmx: true,
            nested: true,
        };
        assert_eq!(Engine::choose(all), Engine::Kvm);
        for lacking in [
            Virtualisation { kvm: false, ..all },
            Virtualisation { vmx: false, ..all },
            Virtualisation {
                nested: false,
                ..all
            },
        ] {
            assert_eq!(Engine::choose(lacking), Engine::Bochs);
        }
    }

    #[test]
    fn a_bundle_lies_at_the_end_of_memory_below_the_firmware() {
        let machine = machine(Engine::Bochs, Firmware::Bios);
        assert_eq!(machine.bundle_address(1).unwrap(), (512 - 6) << 20);
        assert_eq!(machine.bundle_address(2 << 20).unwrap(), (512 - 6) << 20);
        assert_eq!(
            machine.bundle_address((2 << 20) + 1).unwrap(),
            (512 - 8) << 20
        );
    }

    #[test]
    fn a_bundle_stays_below_the_pci_windows_of_a_large_machine() {
        let mut machine = machine(Engine::Kvm, Firmware::Bios);
        machine.memory_mib = 16 << 10;
        assert!(machine.bundle_address(1 << 20).unwrap() < 3 << 30);
    }

    #[test]
    fn a_bundle_too_large_for_the_machine_is_refused_with_a_remedy() {
        let error = machine(Engine::Bochs, Firmware::Bios)
            .bundle_address(500 << 20)
            .unwrap_err();
        assert!(error.to_string().contains("--host-memory"), "{error}");
    }

    #[test]
    fn the_pointer_is_written_over_its_placeholder_and_nowhere_else() {
        let mut image = vec![0; 4096];
        // Not at the start of a sector: part of the hypervisor, which knows the placeholder as well.
        image[700..700 + 32].copy_from_slice(&Pointer::PLACEHOLDER);
        image[1024..1024 + 32].copy_from_slice(&Pointer::PLACEHOLDER);
        let pointer = Pointer {
            address: 0x100_0000,
            bytes: 5,
        };
        write_pointer(&mut image, pointer).unwrap();
        assert_eq!(image[1024..1024 + 32], pointer.to_bytes());
        assert_eq!(image[700..700 + 32], Pointer::PLACEHOLDER);
        assert!(write_pointer(&mut image, pointer).is_err());
    }

    #[test]
    fn uefi_in_bochs_is_refused() {
        assert!(machine(Engine::Bochs, Firmware::Uefi).check().is_err());
    }

    #[test]
    fn more_memory_than_bochs_has_is_refused_with_a_remedy() {
        let mut large = machine(Engine::Bochs, Firmware::Bios);
        large.memory_mib = 2049;
        let error = large.check().unwrap_err().to_string();
        assert!(error.contains("--memory"), "{error}");
        large.engine = Engine::Kvm;
        assert!(large.check().is_ok());
    }
}
