//! Developer tasks of Carve, run as `cargo xtask TASK`: guests to boot, a KVM host to boot them on, tests and
//! measurements. Nothing here is part of what users install.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod apt;
mod bench;
mod cargo;
mod child;
mod cpio;
mod decompress;
mod demo;
mod files;
mod fuzz;
mod guest;
mod host;
mod hostile;
mod initramfs;
mod kernels;
mod modules;
mod percent;
mod process;
mod rootfs;
mod sbom;
mod test;
mod tsc;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

/// Developer tasks of Carve
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Task {
    /// Build the static release binary and print its path
    Build,
    /// Fetch stock kernels, and build initramfs images and disks for them
    Guest(guest::Arguments),
    /// Run a command on a KVM host: this machine, or an emulated one that sees the same files
    Host(host::Arguments),
    /// Run every check and test, and sum up
    Test(test::Arguments),
    /// Boot a stock Debian guest and give its prompt, from nothing
    Demo(demo::Arguments),
    /// Measure beside a peer and print ratios
    #[command(subcommand)]
    Bench(bench::Arguments),
    /// Have a malicious guest attack its monitor, for a time
    Hostile(hostile::Arguments),
    /// Fuzz parsers and devices, for a time
    Fuzz(fuzz::Arguments),
    /// Print what the released binary is made of, as a CycloneDX bill of materials
    Sbom,
    /// First process of the emulated host
    #[command(hide = true)]
    HostAgent,
}

fn main() -> ExitCode {
    let workspace = Workspace::find();
    let result: Result<ExitCode, Box<dyn std::error::Error>> = match Task::parse() {
        Task::Build => cargo::build_carve(&workspace, cargo::Profile::Release, None)
            .map(|carve| {
                println!("{}", carve.display());
                ExitCode::SUCCESS
            })
            .map_err(Into::into),
        Task::Guest(arguments) => done(guest::run(&workspace, &arguments)),
        Task::Host(arguments) => {
            host::run(&workspace, &arguments).map(ExitCode::from).map_err(Into::into)
        }
        Task::Test(arguments) => Ok(match test::run(&workspace, &arguments) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }),
        Task::Demo(arguments) => {
            demo::run(&workspace, &arguments).map(ExitCode::from).map_err(Into::into)
        }
        Task::Bench(arguments) => bench::run(&workspace, &arguments).map(|()| ExitCode::SUCCESS),
        Task::Hostile(arguments) => {
            hostile::run(&workspace, &arguments).map(|()| ExitCode::SUCCESS)
        }
        Task::Fuzz(arguments) => fuzz::run(&workspace, &arguments).map(|()| ExitCode::SUCCESS),
        Task::Sbom => sbom::run(&workspace).map(|()| ExitCode::SUCCESS),
        Task::HostAgent => host::agent::run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {}", chain(error.as_ref()));
        ExitCode::from(125)
    })
}

/// An error with all its causes, in one line unless a cause has more.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    message
}

fn done<E: std::error::Error + 'static>(
    result: Result<(), E>,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    result?;
    Ok(ExitCode::SUCCESS)
}
