//! What the driver has told the device: kept while it runs, saved with it, and checked when restored.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::counters::Counters;
use super::features;
use super::filter::{Filter, MacAddress};
use super::link::Link;
use crate::rate_limit::RateLimitedLog;
use crate::token_bucket::{Limits, LimitsHandle, Rate, SharedLimiter};
use crate::virtio::device::RestoreError;

/// How often commands change the host's interface.
const CHANGES: Limits =
    Limits { bandwidth: None, operations: Some(Rate { per_second: 20, burst: 40 }) };

/// What the driver has set by commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub filter: Filter,
    /// Pairs of queues in use.
    pub pairs: u16,
    /// Offloads towards the driver in force.
    pub offloads: u64,
}

/// The device's part of a saved machine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// None: no driver has started the device since its reset.
    pub settings: Option<Settings>,
    /// The driver has been asked to announce itself and has not acknowledged.
    pub announce: bool,
}

impl State {
    pub(super) fn bytes(&self) -> Vec<u8> {
        // Only types that postcard cannot represent fail, and there is none here.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads a state back for a device of `pairs` pairs that offers `offered`.
    pub(super) fn read(bytes: &[u8], pairs: u16, offered: u64) -> Result<Self, RestoreError> {
        let refuse = |reason: &str| RestoreError { device: "net", reason: reason.to_owned() };
        let state: Self =
            postcard::from_bytes(bytes).map_err(|error| refuse(&error.to_string()))?;
        if let Some(settings) = &state.settings {
            if settings.pairs == 0 || settings.pairs > pairs {
                return Err(refuse("it uses more pairs of queues than there are"));
            }
            if settings.offloads & !(features::GUEST_OFFLOADS & offered) != 0 {
                return Err(refuse("it uses offloads that there are not"));
            }
            if !settings.filter.is_valid() {
                return Err(refuse("its receive filter is malformed"));
            }
        }
        Ok(state)
    }
}

/// What the device and its workers share. Workers read atomics; the lock is taken when a command
/// changes something.
#[derive(Debug)]
pub(super) struct Shared {
    pub link: Arc<Link>,
    pub counters: Arc<Counters>,
    pub receive_limit: Option<Arc<SharedLimiter>>,
    pub send_limit: Option<Arc<SharedLimiter>>,
    pub log: RateLimitedLog,
    /// Bounds how often commands change the host's interface: kernels do so under a lock of all
    /// interfaces, which a guest must not keep from the others.
    pub changes: Arc<SharedLimiter>,
    /// The driver should announce itself to the network.
    announce: AtomicBool,
    /// The address of the settings, for the configuration space.
    mac: AtomicU64,
    settings: Mutex<Settings>,
    /// Changes with the settings.
    generation: AtomicU32,
}

impl Shared {
    pub(super) fn new(
        link: Arc<Link>,
        receive_limit: Option<Arc<SharedLimiter>>,
        send_limit: Option<Arc<SharedLimiter>>,
        settings: Settings,
    ) -> Self {
        Self {
            counters: Arc::clone(link.counters()),
            link,
            receive_limit,
            send_limit,
            log: RateLimitedLog::new(),
            changes: Arc::new(SharedLimiter::new(LimitsHandle::new(CHANGES))),
            announce: AtomicBool::new(false),
            mac: AtomicU64::new(packed(settings.filter.mac)),
            settings: Mutex::new(settings),
            generation: AtomicU32::new(0),
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the settings.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Settings) -> R) -> R {
        let mut settings = self.settings();
        let result = change(&mut settings);
        self.mac.store(packed(settings.filter.mac), Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
        result
    }

    pub(super) fn mac(&self) -> MacAddress {
        let [_, _, mac @ ..] = self.mac.load(Ordering::Acquire).to_be_bytes();
        mac
    }

    pub(super) fn announces(&self) -> bool {
        self.announce.load(Ordering::Acquire)
    }

    pub(super) fn set_announce(&self, announce: bool) {
        self.announce.store(announce, Ordering::Release);
    }
}

fn packed(mac: MacAddress) -> u64 {
    mac.iter().fold(0, |bytes, &byte| bytes << 8 | u64::from(byte))
}
