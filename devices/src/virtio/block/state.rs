//! What a block device saves, and whether it can be believed.

use serde::{Deserialize, Serialize};

use crate::virtio::device::RestoreError;

/// A quiesced device: nothing is in flight, so there is only what the driver was shown and chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Size of the disk in bytes.
    pub(super) capacity: u64,
    /// What the driver made of the field `writeback`.
    pub(super) writeback: bool,
    /// Whether the device was read-only.
    pub(super) read_only: bool,
}

pub(super) fn refuse(reason: impl Into<String>) -> RestoreError {
    RestoreError { device: "block", reason: reason.into() }
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Integers and flags: there is nothing that could fail.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RestoreError> {
        let (state, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
        if !rest.is_empty() {
            return Err(refuse("it is too long"));
        }
        if !state.capacity.is_multiple_of(512) {
            return Err(refuse(format!("{} bytes are not whole sectors", state.capacity)));
        }
        Ok(state)
    }
}
