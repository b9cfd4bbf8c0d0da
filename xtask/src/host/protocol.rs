//! What `xtask host` and its agent inside the emulated host say to each other over one virtio-serial port: frames of a
//! kind byte, a little-endian 32-bit length and that many bytes. Both ends are the same binary, so there are no versions.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Largest payload of a frame: bounds the memory a damaged length could ask for.
const MAX_PAYLOAD: usize = 1 << 20;

/// What to run, sent once before everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// Working directory.
    pub directory: PathBuf,
    /// Folder mounted writable from the share.
    pub share: PathBuf,
    /// Kernel modules to offer at `/lib/modules/VERSION`.
    pub modules: PathBuf,
    /// busybox, which loads modules where the machine has no `modprobe`.
    pub busybox: PathBuf,
    /// Size of the terminal to run the command on, if on one.
    pub terminal: Option<Size>,
    /// Nanoseconds since the epoch, to set the clock by.
    pub now: u64,
}

/// Size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// A signal killed it.
    Signalled(i32),
    /// It, or the host, could not be started.
    Failed(String),
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the agent: run this.
    Start(Start),
    /// To the agent: bytes for the command's standard input.
    Input(Vec<u8>),
    /// To the agent: standard input ends.
    InputEnd,
    /// To the agent: the terminal changed its size.
    Resize(Size),
    /// To the agent: send the command's process group this signal.
    Signal(i32),
    /// To the agent: answer with [`Frame::Alive`].
    Ping,
    /// From the agent: the answer to a ping.
    Alive,
    /// From the agent: the host is up and the command runs.
    Started,
    /// From the agent: bytes the command wrote to its standard output.
    Output(Vec<u8>),
    /// From the agent: bytes the command wrote to its standard error.
    Error(Vec<u8>),
    /// From the agent, last: the command ended.
    Ended(Ending),
}

impl Frame {
    /// Writes the frame in one call.
    pub fn send(&self, out: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Start(start) => (b's', serde_json::to_vec(start)?),
            Self::Input(bytes) => (b'i', bytes.clone()),
            Self::InputEnd => (b'e', Vec::new()),
            Self::Resize(size) => (b'r', serde_json::to_vec(size)?),
            Self::Signal(signal) => (b'k', signal.to_le_bytes().to_vec()),
            Self::Ping => (b'p', Vec::new()),
            Self::Alive => (b'a', Vec::new()),
            Self::Started => (b'g', Vec::new()),
            Self::Output(bytes) => (b'1', bytes.clone()),
            Self::Error(bytes) => (b'2', bytes.clone()),
            Self::Ended(ending) => (b'x', serde_json::to_vec(ending)?),
        };
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "frame too long");
        if payload.len() > MAX_PAYLOAD {
            return Err(too_long());
        }
        let length = u32::try_from(payload.len()).map_err(|_| too_long())?;
        let mut frame = vec![kind];
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&payload);
        out.write_all(&frame)?;
        out.flush()
    }

    /// Reads the next frame; `None` where the other end is gone.
    pub fn receive(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; 5];
        match from.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let [kind, length @ ..] = header;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(invalid("frame too long"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Self::decode(kind, payload).map(Some)
    }

    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            b's' => Self::Start(serde_json::from_slice(&payload)?),
            b'i' => Self::Input(payload),
            b'e' => Self::InputEnd,
            b'r' => Self::Resize(serde_json::from_slice(&payload)?),
            b'k' => {
                let bytes = payload.try_into().map_err(|_| invalid("signal of a wrong length"))?;
                Self::Signal(i32::from_le_bytes(bytes))
            }
            b'p' => Self::Ping,
            b'a' => Self::Alive,
            b'g' => Self::Started,
            b'1' => Self::Output(payload),
            b'2' => Self::Error(payload),
            b'x' => Self::Ended(serde_json::from_slice(&payload)?),
            _ => return Err(invalid("frame of an unknown kind")),
        })
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[path = "protocol_test.rs"]
mod protocol_test;
