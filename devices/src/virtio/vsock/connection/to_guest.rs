//! What the host sends, and what the guest is to be told: made into packets when there are buffers for
//! them, and read straight into those.

use std::io::ErrorKind;
use std::slice;

use super::super::packet::{self, Header, op, shutdown};
use super::super::socket;
use super::{Connection, Context, State, to_u32};
use crate::virtio::chain::Chain;

impl Connection {
    /// Whether it has something for the guest, as far as is known.
    pub(in super::super) fn has_packet(&self) -> bool {
        match self.state {
            State::Greeting | State::Orphaned => false,
            State::Requested => self.opening,
            State::Open => {
                let reads =
                    self.reads_host() && (self.credit.peer_free() > 0 || !self.credit_asked);
                let tells = self.host_shut & !self.told_shut != 0;
                self.opening || reads || tells || self.owes_update()
            }
        }
    }

    fn reads_host(&self) -> bool {
        let shut = self.guest_shut & shutdown::RECEIVE | self.host_shut & shutdown::SEND;
        self.readable && shut == 0
    }

    fn owes_update(&self) -> bool {
        self.update_asked || self.credit.owes_update()
    }

    /// The next packet for the guest, if there is one; its payload is in `chain` already, behind
    /// room for the header.
    pub(in super::super) fn next_packet(
        &mut self,
        guest_cid: u64,
        chain: &Chain,
        context: &Context,
    ) -> Option<Header> {
        let (op, len) = match self.state {
            State::Greeting | State::Orphaned => return None,
            State::Requested if !self.opening => return None,
            State::Requested => (op::REQUEST, 0),
            State::Open if self.opening => (op::RESPONSE, 0),
            State::Open if self.owes_update() => (op::CREDIT_UPDATE, 0),
            State::Open => self.data(chain).or_else(|| self.shutdown(context))?,
        };
        match op {
            op::REQUEST | op::RESPONSE => self.opening = false,
            op::CREDIT_UPDATE => self.update_asked = false,
            _ => {}
        }
        let mut header = Header { len, ..Header::from_host(guest_cid, self.ports, op) };
        if op == op::SHUTDOWN {
            header.flags = self.told_shut;
        }
        self.credit.tell(&mut header);
        Some(header)
    }

    /// Data of the host's, as much as the guest has room for; or a question for more room.
    fn data(&mut self, chain: &Chain) -> Option<(u16, u32)> {
        if !self.reads_host() {
            return None;
        }
        let free = self.credit.peer_free();
        if free == 0 {
            let asked = std::mem::replace(&mut self.credit_asked, true);
            return (!asked).then_some((op::CREDIT_REQUEST, 0));
        }
        let room = chain.writable_len().saturating_sub(packet::LEN).min(free as usize);
        let count = self.receive(slice::from_ref(chain), room)?;
        Some((op::RW, count))
    }

    /// More data of the host's in `chains`, behind room for headers, if nothing else is to be said
    /// first: the header of its packets but for their lengths, and how many bytes it is.
    pub(in super::super) fn more_data(
        &mut self,
        guest_cid: u64,
        chains: &[Chain],
    ) -> Option<(Header, u32)> {
        let first = self.state != State::Open || self.opening || self.owes_update();
        let free = self.credit.peer_free();
        if first || free == 0 || chains.is_empty() || !self.reads_host() {
            return None;
        }
        let count = self.receive(chains, free as usize)?;
        let mut header = Header::from_host(guest_cid, self.ports, op::RW);
        self.credit.tell(&mut header);
        Some((header, count))
    }

    /// Reads what the host has sent, at most `room` bytes; none: it has sent nothing more yet, or no
    /// more will come.
    fn receive(&mut self, chains: &[Chain], room: usize) -> Option<u32> {
        match socket::receive(&self.socket, chains, packet::LEN, room) {
            Ok(count @ 1..) => {
                let count = to_u32(count);
                self.credit.sent(count);
                return Some(count);
            }
            Ok(0) => self.host_shut |= shutdown::SEND,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                self.host_receives_no_more();
                self.host_shut |= shutdown::SEND;
            }
        }
        self.readable = false;
        None
    }

    fn shutdown(&mut self, context: &Context) -> Option<(u16, u32)> {
        if self.host_shut & !self.told_shut == 0 {
            return None;
        }
        self.told_shut = self.host_shut;
        if self.told_shut == shutdown::BOTH {
            // The guest answers with a reset, or is sent one.
            self.deadline.get_or_insert(context.now + context.limits.close);
        }
        Some((op::SHUTDOWN, 0))
    }
}
