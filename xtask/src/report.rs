//! What `xtask` tells the person who waits: a spinner on a terminal, plain lines elsewhere.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Says what is going on, on standard error: standard output belongs to the guests.
pub fn say(message: impl AsRef<str>) {
    eprintln!("xtask: {}", message.as_ref());
}

/// A step that takes a while.
pub struct Step {
    bar: Option<ProgressBar>,
    message: String,
}

impl Step {
    /// Announces the step.
    #[must_use]
    pub fn begin(message: impl Into<String>) -> Self {
        let message = message.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("xtask: {msg} {spinner} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(message.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            say(format!("{message} ..."));
        }
        Self { bar, message }
    }

    /// Runs `command` with its output in `log`; where it fails, the end of that log becomes the error.
    pub fn run(&self, command: &mut Command, log: &Path) -> Result<()> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        if !status.success() {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(15)..];
            bail!(
                "{}: {} ended with {status}:\n{}\n(all of it: {})",
                self.message,
                command.get_program().display(),
                tail.join("\n"),
                log.display()
            );
        }
        Ok(())
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            say(format!(
                "{} ({:.1} s)",
                self.message,
                bar.elapsed().as_secs_f64()
            ));
        }
    }
}
