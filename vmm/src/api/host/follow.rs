//! Streams of what is written to files by others: the journal of all guests, and the log of one.
//!
//! Files do not tell when they grow. While somebody follows one, a [`Ticker`] has them looked at a few times a second.

use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use devices::mutex::lock;
use vmm_sys_util::eventfd::EventFd;

use crate::api::stream::{Flow, Stream};
use crate::guests::log::Reader as LogReader;
use crate::guests::{Entry, JournalReader};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Stack of the thread in bytes.
const STACK: usize = 64 << 10;

/// How much a stream hands out at once, in bytes; one event more at most.
const CHUNK: usize = 16 << 10;

/// Events that are passed over at once, so that others have their turn.
const SKIPPED_AT_ONCE: usize = 256;

/// Wakes the server while somebody follows something.
#[derive(Debug, Default)]
pub struct Ticker(Mutex<Weak<()>>);

/// Somebody who follows.
pub type Tick = Arc<()>;

impl Ticker {
    /// Begins to wake the server, until what this returns is gone.
    ///
    /// # Errors
    ///
    /// The host has no thread left.
    pub fn follow(&self, wake: &Arc<EventFd>) -> io::Result<Tick> {
        let mut ticking = lock(&self.0);
        if let Some(tick) = ticking.upgrade() {
            return Ok(tick);
        }
        let tick = Tick::default();
        *ticking = Arc::downgrade(&tick);
        let (followed, wake) = (Arc::downgrade(&tick), Arc::clone(wake));
        thread::Builder::new().name("ticker".into()).stack_size(STACK).spawn(move || {
            while followed.strong_count() > 0 {
                thread::sleep(INTERVAL);
                let _ = wake.write(1);
            }
        })?;
        Ok(tick)
    }
}

/// Events of the journal, a line of JSON each.
#[derive(Debug)]
pub struct Events {
    /// What is read.
    pub journal: JournalReader,
    /// The first that are wanted, in milliseconds since 1970.
    pub since: u64,
    /// There while those to come are wanted, too.
    pub tick: Option<Tick>,
}

impl Stream for Events {
    fn next(&mut self, output: &mut Vec<u8>) -> Flow {
        for _ in 0..SKIPPED_AT_ONCE {
            let event = match self.journal.read() {
                Ok(Some(event)) => event,
                Ok(None) => return if self.tick.is_some() { Flow::Pause } else { Flow::End },
                Err(error) => {
                    tracing::warn!("the journal cannot be read: {error}");
                    return Flow::Lost;
                }
            };
            if event.time < self.since {
                continue;
            }
            if serde_json::to_writer(&mut *output, &event).is_ok() {
                output.push(b'\n');
            }
            if output.len() >= CHUNK {
                break;
            }
        }
        Flow::More
    }
}

/// What the log of a guest says.
#[derive(Debug)]
pub struct Log {
    entry: Entry,
    reader: LogReader,
    /// Bytes that were there at the beginning and are still to come, where nobody follows.
    left: u64,
    tick: Option<Tick>,
}

impl Log {
    /// What `reader` reads of the log of `entry`; what comes, too, with a `tick`.
    pub fn new(entry: Entry, reader: LogReader, tick: Option<Tick>) -> Self {
        // A guest that goes on and on is not followed unasked.
        let left = if tick.is_some() { u64::MAX } else { reader.available() };
        Self { entry, reader, left, tick }
    }

    /// Whether no more comes: the monitor, who keeps the log, leaves after its guest.
    fn is_over(&self) -> bool {
        let status = self.entry.status();
        self.tick.is_none()
            || !status.is_ok_and(|status| status.vmm.is_some() || status.monitor.is_some())
    }
}

impl Stream for Log {
    fn next(&mut self, output: &mut Vec<u8>) -> Flow {
        if self.left == 0 {
            return Flow::End;
        }
        match self.reader.read() {
            Ok(Some(mut piece)) => {
                piece.bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= piece.bytes.len() as u64;
                output.append(&mut piece.bytes);
                return Flow::More;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("the log of {} cannot be read: {error}", self.entry.guest.name);
                return Flow::Lost;
            }
        }
        if !self.is_over() {
            return Flow::Pause;
        }
        // What was written between the last look and the end.
        match self.reader.read() {
            Ok(Some(mut piece)) => {
                output.append(&mut piece.bytes);
                Flow::More
            }
            _ => Flow::End,
        }
    }
}
