//! The host's side of a VM's disks: files and block devices, opened and locked once, before any machine
//! is built, and given to fresh devices after every reset.
//!
//! What requests do to them is the device's business ([`devices::virtio::block`]); what is wanted is the
//! configuration's ([`resources::config::Disk`]).

mod error;
mod files;
mod image;
pub(crate) mod volume;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use devices::mutex::lock;
use devices::token_bucket::{Limits, LimitsHandle, Rate};
use devices::virtio::block::backend::Storage;
use devices::virtio::block::{Block, Counters, Handle, Properties, Requests};
use resources::config::Disk;

use self::error::Failure;
use self::files::Files;

pub use self::error::{Error, Problem};

/// Longest time between two looks at whether operations are over.
const LONGEST_NAP: Duration = Duration::from_micros(500);

/// The disks of a VM, over its resets. They stay locked until this and all devices are gone.
pub struct Disks {
    disks: Vec<Opened>,
}

/// One disk.
struct Opened {
    name: String,
    path: PathBuf,
    storage: Arc<dyn Storage>,
    properties: Properties,
    /// Requests without room that [`Disks::newly_full`] has told of.
    told: AtomicU64,
    /// Of the device made last.
    handle: Mutex<Option<Handle>>,
}

impl Disks {
    /// Opens `disks`, each with what the user wrote for it.
    ///
    /// # Errors
    ///
    /// [`Error`] naming disk, file, reason and remedy.
    pub fn open(disks: &[(String, Disk)]) -> Result<Self, Error> {
        let mut files = Files::default();
        let open = |(name, disk): &(String, Disk)| {
            let storage =
                image::open(&mut files, name, disk).map_err(|failure| failure.of(name))?;
            Ok(Opened {
                name: name.clone(),
                path: disk.path.clone(),
                storage,
                properties: properties(disk),
                told: AtomicU64::new(0),
                handle: Mutex::new(None),
            })
        };
        Ok(Self { disks: disks.iter().map(open).collect::<Result<_, Error>>()? })
    }

    /// A fresh device for each disk, in the order they were given in. At most one of each may be in use
    /// at a time.
    ///
    /// # Errors
    ///
    /// [`Problem::Device`]: the configuration is none that was checked.
    pub fn devices(&self) -> Result<Vec<Block>, Error> {
        self.disks.iter().map(Opened::device).collect()
    }

    /// Through which to change the disk `name` while it runs: its size and limits. Good until the
    /// next reset; none if there is no such disk, or no machine yet.
    pub fn named(&self, name: &str) -> Option<Handle> {
        let disk = self.disks.iter().find(|disk| disk.name == name)?;
        lock(&disk.handle).clone()
    }

    /// Their names in the configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.disks.iter().map(|disk| disk.name.as_str())
    }

    /// Each disk's name, its size in bytes, and what its queues have done over all resets.
    pub fn statistics(&self) -> impl Iterator<Item = (&str, u64, Vec<Requests>)> {
        self.disks.iter().map(|disk| {
            let size = lock(&disk.handle).as_ref().map_or(0, Handle::capacity);
            let Properties { queues, counters, .. } = &disk.properties;
            (disk.name.as_str(), size, (0..*queues).map(|queue| counters.queue(queue)).collect())
        })
    }

    /// Disks for which requests failed since this was asked last because the host had no room for what they write,
    /// and the file or device of each.
    pub fn newly_full(&self) -> Vec<(&str, &Path)> {
        let full = self.disks.iter().filter(|disk| {
            let Properties { queues, counters, .. } = &disk.properties;
            let failed = (0..*queues).map(|queue| counters.queue(queue).no_room).sum();
            disk.told.swap(failed, Ordering::Relaxed) != failed
        });
        full.map(|disk| (disk.name.as_str(), disk.path.as_path())).collect()
    }

    /// Has no disk take requests from its guest any more, until what is returned is dropped, and waits
    /// until the host has carried out those it has.
    ///
    /// # Errors
    ///
    /// The name of a disk whose operations take longer than until `deadline`.
    pub fn hold(&self, deadline: Instant) -> Result<Held, String> {
        let handles = self.disks.iter().filter_map(|disk| {
            let handle = lock(&disk.handle).clone()?;
            handle.hold(true);
            Some((&disk.name, handle))
        });
        let (names, handles): (Vec<_>, Vec<_>) = handles.unzip();
        let held = Held(handles);
        let mut nap = Duration::from_micros(10);
        for (name, handle) in names.into_iter().zip(&held.0) {
            while handle.in_flight() > 0 {
                if Instant::now() >= deadline {
                    return Err(name.clone());
                }
                thread::sleep(nap);
                nap = (nap * 2).min(LONGEST_NAP);
            }
        }
        Ok(held)
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    /// Shows guests what was added to the files and block devices of their disks.
    pub fn follow_host(&self) {
        for disk in &self.disks {
            if let Some(handle) = lock(&disk.handle).as_ref()
                && let Err(error) = handle.follow_host()
            {
                tracing::debug!(disk = disk.name, "its size cannot be told: {error}");
            }
        }
    }
}

/// Disks that take no requests while this lives.
pub struct Held(Vec<Handle>);

impl Drop for Held {
    fn drop(&mut self) {
        for handle in &self.0 {
            handle.hold(false);
        }
    }
}

impl Opened {
    fn device(&self) -> Result<Block, Error> {
        let device =
            Block::new(Arc::clone(&self.storage), self.properties.clone()).map_err(|error| {
                let problem = Problem::Device(error);
                Failure { path: self.path.clone(), problem }.of(&self.name)
            })?;
        *lock(&self.handle) = Some(device.handle());
        Ok(device)
    }
}

fn properties(disk: &Disk) -> Properties {
    let rate = |(per_second, burst)| Rate { per_second, burst };
    let limits = Limits {
        bandwidth: disk.bandwidth_limit().map(rate),
        operations: disk.operations_limit().map(rate),
    };
    Properties {
        read_only: disk.readonly,
        serial: disk.serial.clone().unwrap_or_default(),
        queues: disk.queues,
        queue_size: disk.queue_size,
        block_size: disk.block_size,
        limits: LimitsHandle::new(limits),
        counters: Counters::new(),
    }
}

#[cfg(test)]
#[path = "disks_test.rs"]
mod disks_test;
