//! Control groups by systemd, on hosts where it is the first process.
//!
//! There each control group of version 2 has one writer (<https://systemd.io/CGROUP_DELEGATION>): slices and what limits
//! scopes are systemd's, so it is asked for them. What is below a delegated scope is Carve's, and so is what systemd
//! has no property for: see ADR 26.
//!
//! | file | what |
//! |---|---|
//! | `bus` | calls, and jobs |
//! | `properties` | a control group as properties of a unit |

mod bus;
mod properties;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use self::bus::{Bus, call};
use self::properties::{Property, limits, scope};
use crate::plan::Cgroup;

pub use self::bus::Error;

/// The socket of the system bus, below the root.
pub const BUS: &str = "run/dbus/system_bus_socket";
/// Has the VMs of the host file end before systemd ends what is left.
const SERVICE: &str = "carve.service";
/// How long the scope of a process that has ended may take to go.
const GOING: Duration = Duration::from_secs(5);
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A property that comes with a unit that comes with another: none of Carve's do.
type Auxiliary = Vec<(String, Vec<Property>)>;

/// The systemd that is this host's first process.
pub struct Systemd {
    bus: Bus,
}

/// Whether that is what a host is run by, whose file system begins at `root`.
pub fn runs(root: &Path) -> bool {
    // sd_booted(3) looks no further; but containers are given the folder, and not the process.
    let first = fs::read_to_string(root.join("proc/1/comm"));
    root.join("run/systemd/system").is_dir() && first.is_ok_and(|name| name.trim() == "systemd")
}

impl Systemd {
    /// Connects to it.
    pub fn connect() -> Result<Self, Error> {
        Ok(Self { bus: Bus::connect()? })
    }

    /// Whether it has `unit` at present.
    pub fn has(&mut self, unit: &str) -> Result<bool, Error> {
        let mut get = call("GetUnit");
        push(&mut get, unit)?;
        match self.bus.ask("GetUnit", &mut get) {
            Ok(_) => Ok(true),
            Err(error) if error.is(NO_SUCH_UNIT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a slice with the limits of `group`, or gives it those.
    pub fn slice(&mut self, unit: &str, group: &Cgroup) -> Result<(), Error> {
        match self.start(unit, &limits(group)) {
            Err(error) if error.is(UNIT_EXISTS) => self.change(unit, group)?,
            started => return started,
        }
        // A file of an administrator's may have made it known; that does not start it.
        let mut start = call("StartUnit");
        push(&mut start, unit)?;
        push(&mut start, "replace")?;
        self.bus.carry_out("StartUnit", &mut start)
    }

    /// Gives a unit that is there the limits of `group`.
    pub fn change(&mut self, unit: &str, group: &Cgroup) -> Result<(), Error> {
        let mut set = call("SetUnitProperties");
        push(&mut set, unit)?;
        // Until the next boot.
        push(&mut set, true)?;
        push(&mut set, limits(group))?;
        self.bus.ask("SetUnitProperties", &mut set)?;
        // The answer comes before it has written them; not so that of the next call.
        self.has(unit).map(drop)
    }

    /// Makes a scope, with the limits of `group`, in `slice`, and moves the process `pid` there.
    pub fn scope(
        &mut self,
        (slice, unit): (&str, &str),
        group: &Cgroup,
        pid: u32,
    ) -> Result<(), Error> {
        let mut properties = scope(slice, pid, SERVICE);
        properties.extend(limits(group));
        let begun = Instant::now();
        loop {
            match self.start(unit, &properties) {
                // That of the run before, which systemd has still to see the end of.
                Err(error) if error.is(UNIT_EXISTS) && begun.elapsed() < GOING => {
                    thread::sleep(GOING / 250);
                }
                started => return started,
            }
        }
    }

    fn start(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let mut start = call("StartTransientUnit");
        push(&mut start, unit)?;
        push(&mut start, "fail")?;
        push(&mut start, properties)?;
        push(&mut start, Auxiliary::new())?;
        self.bus.carry_out("StartTransientUnit", &mut start)
    }

    /// Ends a unit; one that is not there is no error.
    pub fn stop(&mut self, unit: &str) -> Result<(), Error> {
        let mut stop = call("StopUnit");
        push(&mut stop, unit)?;
        push(&mut stop, "replace")?;
        match self.bus.carry_out("StopUnit", &mut stop) {
            Err(error) if error.is(NO_SUCH_UNIT) => Ok(()),
            stopped => stopped,
        }
    }
}

fn push(
    call: &mut rustbus::message_builder::MarshalledMessage,
    argument: impl rustbus::Marshal,
) -> Result<(), Error> {
    let pushed = call.body.push_param(argument);
    pushed.map_err(|error| Error::from(rustbus::connection::Error::from(error)))
}

#[cfg(test)]
mod systemd_test {
    use super::*;

    #[test]
    fn only_a_first_process_called_systemd_counts() {
        let root = tempfile::tempdir().unwrap();
        let run = |name: &str| {
            fs::create_dir_all(root.path().join("proc/1")).unwrap();
            fs::write(root.path().join("proc/1/comm"), format!("{name}\n")).unwrap();
            runs(root.path())
        };
        assert!(!run("systemd"));
        fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        assert!(run("systemd") && !run("sh"));
    }
}
