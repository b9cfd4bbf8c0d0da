//! Starting the monitors of guests, and burying them.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::life::{Error, host};
use super::monitor::{First, MONITOR_VERB, PROGRAM, TAKE_OVER};
use super::store::Entry;

/// Starts a monitor for the guest and returns what it says about the VMM.
pub(super) fn monitor(entry: &Entry, first: First) -> Result<String, Error> {
    let mut child = Command::new(PROGRAM)
        .arg0("carve")
        .args([MONITOR_VERB, entry.guest.id.as_str()])
        .args((first == First::TakeOver).then_some(TAKE_OVER))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(host("start the guest's monitor"))?;
    let pipe = child.stdout.take();
    reap(Some(child));
    let mut line = String::new();
    if let Some(pipe) = pipe {
        BufReader::new(pipe).read_line(&mut line).map_err(host("hear from the guest's monitor"))?;
    }
    Ok(line)
}

/// Takes back from the kernel what is left of monitors that ended, as their parent has to; `new` is one more to see to.
/// For a command that is over at once this means nothing, for a server that goes on it does.
pub fn reap(new: Option<Child>) {
    static MONITORS: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    let mut monitors = devices::mutex::lock(&MONITORS);
    monitors.extend(new);
    monitors.retain_mut(|monitor| matches!(monitor.try_wait(), Ok(None)));
}
