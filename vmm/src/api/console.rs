//! The guest's console as a stream: its output to the client, and the client's bytes to the guest.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::http::{Method, Response};
use super::problem::{Kind, Problem};
use super::route::Call;
use super::server::Handled;
use super::stream::{Flow, Stream};
use super::types::{CONSOLE_OFFSET, CONSOLE_PROTOCOL};
use crate::console::ConsoleHandle;
use crate::console::remote::RemoteInput;
use crate::console::ring::{Follower, Found};

/// How much is handed out at once, in bytes.
const CHUNK: usize = 8 << 10;

/// A client that has gone over to the console.
#[derive(Debug)]
struct Attachment {
    follower: Follower,
    client: Client,
    wake: Arc<EventFd>,
}

/// What the bytes are that a client sends.
#[derive(Debug)]
enum Client {
    /// Nothing: it only looks.
    Silent,
    /// For the guest to read.
    Types(RemoteInput),
    /// Lines with the offset in decimal up to which it has kept the output. This much of one is there.
    Keeps(u64),
}

/// Lets the client of `call` go over to `console`.
///
/// # Errors
///
/// [`Kind::Upgrade`] if it did not ask for that, [`Kind::Malformed`] for its query.
pub fn attach(console: &ConsoleHandle, call: &Call<'_>) -> Result<Handled, Problem> {
    let (from, input, keeper) =
        (call.number("from")?, call.flag("input", true)?, call.flag("log", false)?);
    let wanted = call.request.upgrade.as_deref();
    if !wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(CONSOLE_PROTOCOL))
        || call.request.method == Method::Head
    {
        let detail = format!(
            "the console is a stream of bytes; send GET with Connection: Upgrade and Upgrade: {CONSOLE_PROTOCOL}"
        );
        return Err(Problem::new(Kind::Upgrade, detail));
    }
    let client = match (keeper, input) {
        (true, _) => Client::Keeps(0),
        (false, true) => Client::Types(console.input.clone()),
        (false, false) => Client::Silent,
    };
    let follower = console.ring.follow(from, keeper, Arc::clone(call.wake));
    let offset = follower.position().to_string();
    let headers = vec![("Upgrade", CONSOLE_PROTOCOL.to_owned()), (CONSOLE_OFFSET, offset)];
    let response = Response { status: 101, headers, ..Response::done() };
    let attachment = Attachment { follower, client, wake: Arc::clone(call.wake) };
    Ok(Handled::Stream(response, Box::new(attachment)))
}

impl Stream for Attachment {
    fn next(&mut self, output: &mut Vec<u8>) -> Flow {
        output.resize(CHUNK, 0);
        let found = self.follower.read(output);
        output.truncate(if let Found::Bytes(count) = found { count } else { 0 });
        match found {
            Found::Bytes(_) => Flow::More,
            Found::Nothing => Flow::Pause,
            Found::Ended => Flow::End,
            // Whoever counts the bytes learns from the offset what is missing, when it comes again.
            Found::Lost(_) if matches!(self.client, Client::Keeps(_)) => Flow::Lost,
            Found::Lost(lost) => {
                let note =
                    format!("\r\n[carve: {lost} bytes of console output were lost here]\r\n");
                output.extend_from_slice(note.as_bytes());
                Flow::More
            }
        }
    }

    fn is_patient(&self) -> bool {
        true
    }

    fn has_input(&self) -> bool {
        !matches!(self.client, Client::Silent)
    }

    fn feed(&mut self, bytes: &[u8]) -> usize {
        match &mut self.client {
            Client::Silent => bytes.len(),
            Client::Types(input) => input.send(bytes, &self.wake),
            Client::Keeps(kept) => {
                for byte in bytes {
                    match byte {
                        b'0'..=b'9' => {
                            *kept = kept.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                        }
                        _ => self.follower.confirm(std::mem::take(kept)),
                    }
                }
                bytes.len()
            }
        }
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;
