//! What the guest sends, on its way to the host's socket: at once as far as that takes it, from a buffer
//! bounded by the guest's credit where the host is slow.

use std::io::{self, ErrorKind};
use std::net::Shutdown;

use super::super::packet::{self, Packet, shutdown};
use super::super::socket;
use super::{Connection, Context, Fate, State, to_u32};
use crate::virtio::chain::Chain;

impl Connection {
    /// Data of the guest's, at least one packet.
    pub(super) fn on_data(&mut self, packets: &[Packet], context: &mut Context) -> Fate {
        let (mut total, mut sound, mut fate) = (0, 0, Fate::Lives);
        for packet in packets {
            if let Err(what) = self.check(packet, total) {
                fate = Fate::Violation(what);
                break;
            }
            total += packet.header.len as usize;
            sound += 1;
        }
        let packets = &packets[..sound];
        if self.host_shut & shutdown::RECEIVE != 0 {
            self.credit.forwarded(to_u32(total));
            return fate;
        }
        match self.send(packets, total) {
            Ok(done) if done < total => self.hold(packets, done, context),
            Ok(_) => {}
            Err(_) => {
                self.credit.forwarded(to_u32(total));
                self.host_receives_no_more();
            }
        }
        fate
    }

    /// Whether the guest may send this, behind `before` bytes that came with it.
    fn check(&self, Packet { header, chain }: &Packet, before: usize) -> Result<(), &'static str> {
        if self.guest_shut & shutdown::SEND != 0 {
            return Err("data after the end of data");
        }
        if chain.readable_len().saturating_sub(packet::LEN) < header.len as usize {
            return Err("a packet that is shorter than it says");
        }
        if !self.credit.allows(self.buffer.len() + before, header.len) {
            return Err("more data than there was credit for");
        }
        Ok(())
    }

    /// Sends what the host's socket takes of `total` bytes of payload; how much that is.
    fn send(&mut self, packets: &[Packet], total: usize) -> io::Result<usize> {
        let mut done = 0;
        while self.buffer.is_empty() && done < total {
            match socket::send(&self.socket, payloads(packets, done)) {
                Ok(0) => break,
                Ok(sent) => done += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.credit.forwarded(to_u32(done));
        Ok(done)
    }

    /// Keeps the bytes of payload from `from` on until the host's socket has room.
    fn hold(&mut self, packets: &[Packet], from: usize, context: &mut Context) {
        if self.buffer.capacity() == 0 {
            self.buffer = context.spare();
        }
        let mut scratch = [0; 4096];
        for (chain, offset, len) in payloads(packets, from) {
            for start in (0..len).step_by(scratch.len()) {
                let piece = &mut scratch[..(len - start).min(4096)];
                // The chain has been found to be long enough.
                if chain.read(offset + start, piece).is_ok() {
                    self.buffer.extend(&*piece);
                }
            }
        }
    }

    /// Sends what the host's socket takes now of what was held.
    pub(super) fn flush(&mut self, context: &mut Context) -> Fate {
        let mut moved = 0;
        while !self.buffer.is_empty() {
            match socket::send_bytes(&self.socket, self.buffer.as_slices().0) {
                Ok(0) => break,
                Ok(sent) => {
                    self.buffer.drain(..sent);
                    moved += sent;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.host_receives_no_more(),
            }
        }
        self.credit.forwarded(to_u32(moved));
        if moved > 0 && self.deadline.is_some() {
            self.deadline = Some(context.now + context.limits.linger);
        }
        self.after_flush(context)
    }

    /// What was waiting until all of the guest's bytes had reached the host.
    pub(super) fn after_flush(&mut self, context: &mut Context) -> Fate {
        if !self.buffer.is_empty() {
            return Fate::Lives;
        }
        context.give_back(std::mem::take(&mut self.buffer));
        if self.state == State::Orphaned {
            return Fate::Gone;
        }
        if self.guest_shut == shutdown::BOTH {
            return Fate::Reset;
        }
        if self.guest_shut & shutdown::SEND != 0 && !self.write_closed {
            self.write_closed = true;
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Fate::Lives
    }

    pub(super) fn host_receives_no_more(&mut self) {
        self.host_shut |= shutdown::RECEIVE;
        self.credit.forwarded(to_u32(self.buffer.len()));
        self.buffer.clear();
    }
}

/// Where the bytes of payload from `skip` on are: chains, offsets in them, and lengths.
fn payloads(packets: &[Packet], mut skip: usize) -> impl Iterator<Item = (&Chain, usize, usize)> {
    packets.iter().filter_map(move |Packet { header, chain }| {
        let len = header.len as usize;
        let skipped = skip.min(len);
        skip -= skipped;
        (skipped < len).then_some((chain, packet::LEN + skipped, len - skipped))
    })
}
