//! Waiting until a guest listens at a port of its vsock device.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use resources::config::Vsock;
use resources::config::host::Ready;

use crate::guests::Entry;

/// How often the port is tried.
const PACE: Duration = Duration::from_millis(100);

/// The guest did not become ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "it runs, but did not listen at port {port} of its vsock device within {seconds} seconds; see carve logs, or raise ready.timeout"
    )]
    Late { port: u32, seconds: u64 },
    #[error("it ended before it listened at port {port} of its vsock device; see carve inspect")]
    Ended { port: u32 },
}

/// Waits until the guest of `entry` accepts a connection, as `asked`.
pub(super) fn wait(entry: &Entry, vsock: &Vsock, asked: &Ready) -> Result<(), Error> {
    let (port, timeout) = (asked.vsock, asked.timeout.get());
    let until = Instant::now() + timeout;
    while connect(vsock, port).is_err() {
        if entry.status().is_ok_and(|status| status.vmm.is_none() && status.monitor.is_none()) {
            return Err(Error::Ended { port });
        }
        if Instant::now() >= until {
            return Err(Error::Late { port, seconds: timeout.as_secs() });
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// Asks for a connection by Firecracker's convention: `CONNECT PORT`, answered by `OK`.
fn connect(vsock: &Vsock, port: u32) -> io::Result<()> {
    let mut stream = UnixStream::connect(&vsock.socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    writeln!(stream, "CONNECT {port}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.starts_with("OK ") { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}
