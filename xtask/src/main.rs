//! `cargo xtask`: picks the command.

use anyhow::{Result, bail};
use lexopt::prelude::{Long, Short, Value, ValueExt};
use std::process::ExitCode;
use xtask::build::Artifacts;
use xtask::commands::run;
use xtask::paths::Paths;

const HELP: &str = "\
cargo xtask COMMAND [options]

  run [NAME]      boot Plinth in an emulator and run a guest (the default guest: hello)
  build           build the hypervisor, the guests and the disk image

`cargo xtask COMMAND --help` says more.
";

fn main() -> ExitCode {
    match command() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(run::CANNOT_RUN)
        }
    }
}

fn command() -> Result<ExitCode> {
    let paths = Paths::of_checkout();
    let mut parser = lexopt::Parser::from_env();
    let name = match parser.next()? {
        Some(Value(name)) => name.string()?,
        None | Some(Short('h') | Long("help")) => {
            print!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(other.unexpected().into()),
    };
    match name.as_str() {
        "run" => match run::Options::parse(&mut parser)? {
            Some(options) => run::run(&paths, &options),
            None => help(run::HELP_TEXT),
        },
        "build" => {
            Artifacts::build(&paths)?;
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("there is no command `{other}`. See `cargo xtask --help`"),
    }
}

fn help(text: &str) -> Result<ExitCode> {
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}
