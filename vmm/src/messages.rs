//! Messages between this process and those outside its jail: one packet each, as JSON, with at most one
//! descriptor (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message. The end of a run with its last output takes a few KiB.
const LONGEST: usize = 128 << 10;

/// Two connected ends.
///
/// # Errors
///
/// There are no more descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message, and a descriptor with it.
///
/// # Errors
///
/// Nobody is there, or the message is too long.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > LONGEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        // The space is for exactly one.
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message, and the descriptor that came with it; nothing at the end.
///
/// # Errors
///
/// The kernel's answer, or the message is not to be understood.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let length = take(socket, &mut [], &mut RecvAncillaryBuffer::default(), peek)?;
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = take(socket, &mut text, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    if received == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text)?, fd)))
}

fn take(
    socket: BorrowedFd<'_>,
    text: &mut [u8],
    ancillary: &mut RecvAncillaryBuffer<'_>,
    flags: RecvFlags,
) -> io::Result<usize> {
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(text)], ancillary, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?.bytes),
        }
    }
}

#[cfg(test)]
mod messages_test {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptor() {
        let (here, there) = pair().unwrap();
        send(here.as_fd(), &("word", 7), Some(here.as_fd())).unwrap();
        let received: Option<((String, u8), _)> = receive(there.as_fd()).unwrap();
        let (message, fd) = received.unwrap();
        assert_eq!((message.0.as_str(), message.1, fd.is_some()), ("word", 7, true));
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_the_end_is_none() {
        let (here, there) = pair().unwrap();
        for bytes in [&b"\xff\0nonsense"[..], b"{\"Other\":1}", b"[", &[b'['; 100_000]] {
            rustix::io::write(&here, bytes).unwrap();
            assert!(receive::<Result<(), String>>(there.as_fd()).is_err());
        }
        drop(here);
        assert!(receive::<Result<(), String>>(there.as_fd()).unwrap().is_none());
    }

    #[test]
    fn messages_have_a_longest() {
        let (here, there) = pair().unwrap();
        assert!(send(here.as_fd(), &"x".repeat(LONGEST), None).is_err());
        // Nor is a longer one read that comes all the same.
        let longer = format!("\"{}\"", "x".repeat(LONGEST));
        if rustix::io::write(&here, longer.as_bytes()).is_ok() {
            assert!(receive::<String>(there.as_fd()).is_err());
        }
    }
}
