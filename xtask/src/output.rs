//! [`output_of`]: what a program has to say that is only asked.

use anyhow::{Context, Result, bail};
use std::process::Command;

/// Runs a program and returns its standard output; what it says where it fails is the error.
pub fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_where_it_fails_is_the_error() {
        let shell = |script| output_of(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo said; echo not >&2").unwrap(), b"said\n");
        let error = shell("echo said; echo why >&2; exit 1").unwrap_err();
        assert_eq!(error.to_string(), "sh: why");
        let error = output_of(&mut Command::new("/nowhere/program")).unwrap_err();
        assert_eq!(error.to_string(), "cannot run /nowhere/program");
    }
}
