//! Runs a command that may hang: for no longer than it is given, and without leaving any of its children behind.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long processes that were asked to end may take to clear up.
const GRACE: Duration = Duration::from_secs(5);

/// What came of a command.
#[derive(Debug)]
pub struct Ended {
    /// How it ended by itself; `None` where it was cut off.
    pub status: Option<ExitStatus>,
    /// What it and its children have said, on both channels, in the order in which it came.
    pub text: String,
}

/// Runs `command` with nothing to read, for at most `limit`. After that it and all of its descendants are asked to end,
/// and ended if they do not.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let readers = [
        child.stdout.take().map(|pipe| keep(pipe, &said)),
        child.stderr.take().map(|pipe| keep(pipe, &said)),
    ];
    let status = wait(&mut child, Instant::now() + limit)?;
    if status.is_none() {
        end_all(&mut child)?;
    }
    // A stray descendant that has left the family tree may hold the pipes open for ever.
    let patience = Instant::now() + GRACE;
    for reader in readers.into_iter().flatten() {
        while !reader.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&said).into_owned();
    Ok(Ended { status, text })
}

fn keep(mut pipe: impl Read + Send + 'static, said: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend_from_slice(&buffer[..count]);
        }
    })
}

fn wait(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a child and everything below it, in its process group or not: emulators may have one of their own.
fn end_all(child: &mut Child) -> Result<()> {
    let family = descendants(child.id(), &parents());
    let signal = |which: Signal| {
        for pid in &family {
            if let Ok(pid) = i32::try_from(*pid) {
                let _ = kill(Pid::from_raw(pid), which);
            }
        }
    };
    // `xtask` removes its runs' folders.
    signal(Signal::SIGTERM);
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && family.iter().any(|pid| is_alive(*pid)) {
        child.try_wait()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(Signal::SIGKILL);
    child.wait()?;
    Ok(())
}

/// The parent of each process there is.
fn parents() -> BTreeMap<u32, u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parent(&stat)?))
        })
        .collect()
}

/// The parent in a process's `stat`. The program's name, in parentheses, may have anything in it.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    })
}

/// A process and all below it.
fn descendants(of: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut family = vec![of];
    let mut next = 0;
    while let Some(&elder) = family.get(next) {
        let children = parents.iter().filter(|(_, parent)| **parent == elder);
        family.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_ends_is_told_with_its_status_and_its_words() {
        let mut command = shell("echo out; echo err >&2; exit 3");
        let ended = run(&mut command, Duration::from_secs(60)).unwrap();
        assert_eq!(ended.status.and_then(|status| status.code()), Some(3));
        assert!(ended.text.contains("out\n") && ended.text.contains("err\n"));
    }

    #[test]
    fn a_command_that_hangs_is_cut_off_with_its_children_and_what_it_said_is_kept() {
        // A child in a process group and session of its own, which does not end when it is asked to.
        let script =
            "setsid sh -c 'trap \"\" TERM; echo child $$; while :; do sleep 0.1; done' & wait";
        let ended = run(&mut shell(script), Duration::from_secs(1)).unwrap();
        assert!(ended.status.is_none());
        let child = ended.text.trim().strip_prefix("child ").unwrap().parse();
        assert!(!is_alive(child.unwrap()), "{}", ended.text);
    }

    #[test]
    fn a_process_is_found_below_its_parents_whatever_it_is_called() {
        assert_eq!(parent("12 (a) b (c) S 7 12 12 0"), Some(7));
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1)].into();
        assert_eq!(descendants(2, &parents), [2, 3, 4]);
    }
}
