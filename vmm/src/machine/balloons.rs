//! The memory balloon of a VM over its resets: made from the configuration once, and put into a fresh
//! device for every machine.
//!
//! What a balloon does is the device's business ([`devices::virtio::balloon`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use devices::virtio::balloon::{Balloon, Handle, Options};
use resources::config;

/// Why a balloon cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the balloon: {0}")]
pub struct Error(#[from] io::Error);

/// The host's side of a balloon.
#[derive(Debug)]
pub struct BalloonControl {
    options: Options,
    handle: Arc<Handle>,
}

impl BalloonControl {
    /// The balloon that `config` describes.
    ///
    /// # Errors
    ///
    /// [`Error`]: the host has no more descriptors.
    pub fn new(config: &config::Balloon) -> Result<Self, Error> {
        let options = Options {
            deflate_on_oom: config.deflate_on_oom,
            reporting: config.reporting,
            statistics_interval: config
                .stats_interval
                .map(|seconds| Duration::from_secs(seconds.get().into())),
        };
        let handle = Handle::new(0)?;
        handle.set_target_bytes(config.target.bytes());
        Ok(Self { options, handle })
    }

    /// What asks the guest for memory and knows its statistics, whichever machine runs.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// A device for the next machine. Only one of them at a time is of use.
    pub fn device(&self) -> Balloon {
        Balloon::new(self.options, Arc::clone(&self.handle))
    }
}

#[cfg(test)]
mod balloons_test {
    use devices::virtio::VirtioDevice;
    use devices::virtio::balloon::feature;

    use super::*;

    fn control(text: &str) -> BalloonControl {
        let spec: config::BalloonSpec = text.parse().unwrap();
        let memory = resources::Size::from_bytes(1 << 30);
        BalloonControl::new(&spec.resolve(memory).unwrap()).unwrap()
    }

    fn target(device: &Balloon) -> u32 {
        let mut bytes = [0; 4];
        device.read_config(0, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn a_target_outlives_the_machine_it_was_set_in() {
        let control = control("target=8MiB");
        assert_eq!(target(&control.device()), 2048);
        control.handle().set_target_bytes(16 << 20);
        let mut device = control.device();
        device.reset();
        assert_eq!(target(&device), 4096);
    }

    #[test]
    fn the_configuration_decides_what_is_offered() {
        let all = control("target=0").device().features();
        assert_ne!(all & feature::REPORTING, 0);
        assert_ne!(all & feature::DEFLATE_ON_OOM, 0);
        let none = control("deflate_on_oom=false,reporting=false").device().features();
        assert_eq!(none, feature::STATS_VQ);
    }
}
