//! `carve update`: changes of guests that hold at once and at their next starts.

use std::process::ExitCode;

use vmm::guests::Update;

use super::which;
use crate::cli::guests::UpdateArgs;
use crate::cli::update::{DiskChange, NetChange};

/// Changes each guest.
///
/// # Errors
///
/// There is no place for guests, or nothing is to change.
pub fn run(args: &UpdateArgs) -> Result<ExitCode, super::Error> {
    let disks = args.disks.iter().map(|DiskChange(name, update)| (name.clone(), *update));
    let nets = args.nets.iter().map(|NetChange(name, update)| (name.clone(), *update));
    let update = Update {
        disks: disks.collect(),
        nets: nets.collect(),
        balloon: args.balloon,
        restart: args.restart,
        labels: args.labels.clone(),
    };
    if update.is_empty() {
        let flags = "--disk, --net, --balloon, --restart or --label";
        return Err(format!("nothing is to change; give one of {flags}").into());
    }
    which::each(&args.which.guests, |store, entry| update.apply(store, entry))
}
