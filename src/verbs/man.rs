//! `carve man`: the manual pages, for packagers.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{Cli, ManArgs};
use crate::exit;

/// The pages cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the manual pages cannot be written to {}; give --dir a folder you may write to", .folder.display())]
struct WriteError {
    folder: PathBuf,
    source: io::Error,
}

/// Writes a page for each command to the folder given, or the main one to standard output.
///
/// # Errors
///
/// A page cannot be written.
pub fn run(args: &ManArgs) -> Result<ExitCode, super::Error> {
    let command = Cli::command();
    let Some(folder) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return Ok(exit::print(&page));
    };
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|source| WriteError { folder: folder.clone(), source })?;
    Ok(ExitCode::SUCCESS)
}
