//! `cargo xtask debug`: a machine that waits at its first instruction, and gdb with the hypervisor's symbols.

use super::options::{GuestOptions, MachineOptions};
use crate::emulator::{Debugger, Engine};
use crate::gdb::bochs::BochsDebugger;
use crate::gdb::server::serve;
use crate::paths::Paths;
use crate::report::say;
use crate::system::packages::{Need, ensure};
use anyhow::{Context, Result};
use clap::Args;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What `cargo xtask debug` is told.
#[derive(Args, Clone, Debug)]
pub struct DebugOptions {
    #[command(flatten)]
    guest: GuestOptions,
    #[command(flatten)]
    machine: MachineOptions,
    /// Do not start gdb; wait for one on this port
    #[arg(help_heading = "Debugger", long, value_name = "PORT")]
    port: Option<u16>,
    /// Give gdb this command once it is connected, and leave after the last
    #[arg(
        help_heading = "Debugger",
        long,
        value_name = "COMMAND",
        conflicts_with = "port"
    )]
    execute: Vec<String>,
}

/// Starts the machine and gdb, and stays until gdb leaves.
pub fn debug(paths: &Paths, options: &DebugOptions) -> Result<()> {
    let content = options.guest.content_on(paths, &options.machine)?;
    let artifacts = &content.artifacts;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port.unwrap_or(0)))
        .context("the port for gdb is in use")?;
    let port = listener.local_addr()?.port();
    let machine = options
        .machine
        .machine(paths, &content, Debugger::Gdb { port })?;
    // Bochs is served by us; QEMU listens itself, so the port must be free again.
    let listener = (machine.engine == Engine::Bochs).then_some(listener);
    let starts_gdb = options.port.is_none() && provide_gdb(paths);
    let mut running = machine.spawn(paths)?;

    let log = paths.artifacts().join("debug-serial.log");
    let serial = running.serial()?;
    if starts_gdb {
        say(format!(
            "the machine's serial output goes to {}",
            log.display()
        ));
        copy_in_background(serial, File::create(&log)?)?;
    } else {
        say(format!(
            "waiting for gdb. Start it with: {}",
            command_line(&artifacts.kernel_with_symbols, port)?
        ));
        copy_in_background(serial, io::stdout())?;
    }

    let mut gdb = match starts_gdb {
        true => Some(gdb(&artifacts.kernel_with_symbols, port, &options.execute)?.spawn()?),
        false => None,
    };
    if let Some(listener) = listener {
        let (input, output) = running
            .take_debugger()
            .context("Bochs's debugger is not connected")?;
        let debugger = BochsDebugger::start(running.pid(), input, output)?;
        serve(&listener, debugger, machine.cpus)?;
    } else if gdb.is_none() {
        while running.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    if let Some(gdb) = &mut gdb {
        gdb.wait()?;
    }
    Ok(())
}

/// Whether there is a gdb to be started. Without one the machine still waits, for a gdb from elsewhere.
fn provide_gdb(paths: &Paths) -> bool {
    match ensure(paths, &[Need::Gdb]) {
        Ok(()) => true,
        Err(error) => {
            say(format!("{error:#}"));
            false
        }
    }
}

fn copy_in_background(mut from: TcpStream, mut to: impl Write + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name("serial".into())
        .spawn(move || io::copy(&mut from, &mut to))?;
    Ok(())
}

/// gdb with the hypervisor's symbols, connected, and with a breakpoint at the hypervisor's own first instruction.
fn gdb(symbols: &Path, port: u16, execute: &[String]) -> Result<Command> {
    wait_for_listener(port);
    let mut command = Command::new("gdb");
    command.args(arguments(
        &symbols.display().to_string(),
        entry_point(symbols)?,
        port,
    ));
    for line in execute {
        command.args(["-ex", line]);
    }
    if !execute.is_empty() {
        command.arg("-batch");
    }
    Ok(command)
}

/// QEMU needs a moment until it listens. What is wrong after that, gdb tells.
fn wait_for_listener(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        // Trying to connect would use up the one connection that there is.
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        if is_listening(&sockets, port) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether somebody listens on this port of the loopback interface, by the kernel's table of sockets.
fn is_listening(sockets: &str, port: u16) -> bool {
    let local = format!("0100007F:{port:04X}");
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some("0A")
    })
}

fn arguments(symbols: &str, entry: u64, port: u16) -> Vec<String> {
    let mut arguments = vec!["-q".to_owned(), symbols.to_owned()];
    for line in [
        "set pagination off".to_owned(),
        "set architecture i386:x86-64".to_owned(),
        format!("target remote 127.0.0.1:{port}"),
        format!("thbreak *{entry:#x}"),
    ] {
        arguments.push("-ex".to_owned());
        arguments.push(line);
    }
    arguments
}

fn command_line(symbols: &Path, port: u16) -> Result<String> {
    let arguments = arguments(&symbols.display().to_string(), entry_point(symbols)?, port);
    let quoted: Vec<_> = arguments
        .iter()
        .map(|word| {
            if word.contains([' ', '*']) {
                format!("'{word}'")
            } else {
                word.clone()
            }
        })
        .collect();
    Ok(format!("gdb {}", quoted.join(" ")))
}

/// The address of a 64-bit ELF program's first instruction.
fn entry_point(program: &Path) -> Result<u64> {
    const E_ENTRY: usize = 24;
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    bytes
        .get(E_ENTRY..)
        .and_then(<[u8]>::first_chunk)
        .map(|entry| u64::from_le_bytes(*entry))
        .with_context(|| format!("{} is no ELF file", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_recognised_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                        0: 0100007F:04D2 00000000:0000 0A 00000000:00000000\n\
                        1: 0100007F:04D3 0100007F:1111 01 00000000:00000000\n";
        assert!(is_listening(table, 1234));
        assert!(!is_listening(table, 1235));
    }

    #[test]
    fn gdb_is_connected_with_symbols_and_a_breakpoint_at_the_entry() {
        let line = arguments("/k", 0xffff_ffff_8000_1000, 1234).join(" ");
        assert!(line.starts_with("-q /k "), "{line}");
        assert!(line.contains("target remote 127.0.0.1:1234"), "{line}");
        assert!(line.ends_with("thbreak *0xffffffff80001000"), "{line}");
    }
}
