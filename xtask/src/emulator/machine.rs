//! [`Machine`]: a machine to be run, and the ways in which one differs from another.

use super::{Disk, Engine, Running, bochs, files, qemu};
use crate::paths::Paths;
use crate::system::packages::{Need, ensure};
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

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

/// Bochs takes no more of the host's memory than this.
const BOCHS_MEMORY_MIB: u32 = 2048;

impl Machine {
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
        fs::create_dir_all(paths.runs())?;
        let folder = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(paths.runs())?;
        let bundle_address = self.disk.write_to(folder.path(), self.memory_mib)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
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
        Running::start(self.engine, command, folder, &listener)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::path::PathBuf;

    pub(in crate::emulator) fn machine(engine: Engine, firmware: Firmware) -> Machine {
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
