//! Leaves nothing behind: emulators and their folders are cleared away also when `xtask` is interrupted.

use crate::terminal::Before;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// What has to be undone. Locked briefly by whoever starts or ends something, and by the signal's thread.
static STATE: Mutex<State> = Mutex::new(State {
    runs: Vec::new(),
    terminal: None,
});
static HANDLER: Once = Once::new();

struct State {
    runs: Vec<(u32, PathBuf)>,
    terminal: Option<Before>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The status of a program that was interrupted, as shells have it.
pub const INTERRUPTED: i32 = 130;

/// Remembers an emulator until it is dropped.
#[derive(Debug)]
pub struct Registration(u32);

/// Remembers the emulator `pid` and its folder.
pub fn register(pid: u32, folder: &Path) -> Registration {
    install_handler();
    state().runs.push((pid, folder.to_owned()));
    Registration(pid)
}

impl Drop for Registration {
    fn drop(&mut self) {
        state().runs.retain(|(pid, _)| *pid != self.0);
    }
}

/// Remembers (or forgets) how the terminal is to be again.
pub fn remember_terminal(before: Option<Before>) {
    install_handler();
    state().terminal = before;
}

fn install_handler() {
    HANDLER.call_once(|| {
        // Without a handler an interrupted run would leave its emulator behind; that is no reason not to run.
        let _ = ctrlc::set_handler(|| {
            undo();
            std::process::exit(INTERRUPTED);
        });
    });
}

fn undo() {
    let mut state = state();
    for (pid, folder) in state.runs.drain(..) {
        if let Ok(pid) = i32::try_from(pid) {
            // It is gone, and its time counts as ours, before its folder goes. Whoever else waits for it may have been
            // quicker.
            let pid = Pid::from_raw(pid);
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        let _ = fs::remove_dir_all(folder);
    }
    if let Some(before) = state.terminal.take() {
        before.restore(std::io::stdin(), std::io::stdout());
    }
}
