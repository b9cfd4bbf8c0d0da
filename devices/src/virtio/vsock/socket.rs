//! Bytes between sockets of the host and buffers of the guest, without a copy in between, without
//! waiting and without SIGPIPE.
#![allow(unsafe_code)] // Hands buffers in guest memory to the kernel.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags};

use crate::virtio::chain::Chain;

/// Most buffers for one system call. Linux guests use two for a packet, or some twenty.
const PIECES: usize = 64;

const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Sends parts of chains that the guest filled, or the first of their bytes: each part is an offset and a
/// length that the chain has. At least one byte.
pub(super) fn send<'a>(
    socket: &UnixStream,
    parts: impl Iterator<Item = (&'a Chain, usize, usize)>,
) -> io::Result<usize> {
    let mut pieces = [EMPTY; PIECES];
    let mut filled = 0;
    for (chain, offset, len) in parts {
        let (count, bytes) = cut(&mut pieces[filled..], chain.readable(), offset, len);
        filled += count;
        if bytes < len {
            break;
        }
    }
    let message = message(&mut pieces[..filled]);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message's pieces are guest RAM, which the chains keep mapped.
    let count = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Receives up to `len` bytes, at least 1, into the writable parts of the chains from `offset` of each
/// on: one after the other is filled. 0 at the end of the stream.
pub(super) fn receive(
    socket: &UnixStream,
    chains: &[Chain],
    offset: usize,
    mut len: usize,
) -> io::Result<usize> {
    let mut pieces = [EMPTY; PIECES];
    let mut filled = 0;
    for chain in chains {
        let (count, bytes) = cut(&mut pieces[filled..], chain.writable(), offset, len);
        filled += count;
        len -= bytes;
    }
    let mut message = message(&mut pieces[..filled]);
    // SAFETY: the message's pieces are guest RAM, which the chains keep mapped.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Sends the first of `bytes`, as many as the socket takes.
pub(super) fn send_bytes(socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Looks at the next bytes, or takes them away.
pub(super) fn receive_bytes(socket: &UnixStream, to: &mut [u8], peek: bool) -> io::Result<usize> {
    let peek = if peek { RecvFlags::PEEK } else { RecvFlags::empty() };
    Ok(rustix::net::recv(socket, to, RecvFlags::DONTWAIT | peek)?.0)
}

/// Makes `pieces` the `len` bytes from `offset` on of `buffers`, or the first of them; how many pieces, and
/// how many bytes.
fn cut(
    pieces: &mut [libc::iovec],
    buffers: &[libc::iovec],
    mut offset: usize,
    len: usize,
) -> (usize, usize) {
    let (mut count, mut left) = (0, len);
    for buffer in buffers {
        let skip = offset.min(buffer.iov_len);
        offset -= skip;
        let take = (buffer.iov_len - skip).min(left);
        if take == 0 {
            continue;
        }
        let Some(piece) = pieces.get_mut(count) else { break };
        let start = buffer.iov_base.cast::<u8>().wrapping_add(skip);
        *piece = libc::iovec { iov_base: start.cast(), iov_len: take };
        count += 1;
        left -= take;
    }
    (count, len - left)
}

fn message(pieces: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeros are a message without name, pieces and control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    message
}
