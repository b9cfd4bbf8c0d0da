//! Pausing a machine and letting it go on.
//!
//! vCPUs stop first, each with its last instruction complete, then disks finish what they have with the
//! host, then every device gives its queues back. Going on is the same the other way round. What takes
//! too long makes the pause fail, and the machine goes on as if it had not been asked for.

use std::time::{Duration, Instant};

use devices::mutex::lock;

use super::Machine;
use super::sources::Sources;
use crate::kvm::gate::Wish;

/// How long vCPUs may take to get out of what they do to a device.
const VCPUS: Duration = Duration::from_secs(5);
/// How long the host may take for the disk operations it has.
const DISKS: Duration = Duration::from_secs(5);

/// Why a machine runs on though it was to pause.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A vCPU is held up by a device.
    #[error("a vCPU has waited for a device for {} seconds, so the guest goes on; try again later", VCPUS.as_secs())]
    Vcpus,
    /// The host is slow, or a file system does not answer.
    #[error(
        "the host has not carried out operations of the disk `{disk}` for {} seconds, so the guest goes on; \
         see whether its file's storage answers, and try again", DISKS.as_secs()
    )]
    Disk {
        /// Its name in the configuration.
        disk: String,
    },
    /// It is over.
    #[error("the guest is ending or resetting itself; look again once it has")]
    Ended,
}

impl Machine {
    /// Whether it was paused and has not gone on.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Stops vCPUs and devices, whose host sides are in `sources`. Does nothing if they are stopped.
    ///
    /// # Errors
    ///
    /// [`Error`]; the machine runs as before.
    pub(crate) fn pause(&mut self, sources: &Sources) -> Result<(), Error> {
        if self.paused {
            return Ok(());
        }
        self.tell_vcpus(Wish::Pause);
        let paused = self.pause_devices(sources);
        self.paused = paused.is_ok();
        if paused.is_err() {
            self.tell_vcpus(Wish::Run);
        }
        paused
    }

    fn pause_devices(&self, sources: &Sources) -> Result<(), Error> {
        if !self.platform.gate.wait_until_empty(VCPUS) {
            return Err(Error::Vcpus);
        }
        if self.has_ended() {
            return Err(Error::Ended);
        }
        let _held =
            sources.disks().hold(Instant::now() + DISKS).map_err(|disk| Error::Disk { disk })?;
        for device in &self.virtio {
            lock(device).pause();
        }
        Ok(())
    }

    /// Lets devices and vCPUs go on.
    pub(crate) fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            for device in &self.virtio {
                lock(device).resume();
            }
            self.tell_vcpus(Wish::Run);
        }
    }
}
