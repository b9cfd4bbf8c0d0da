//! Ports of the host that lead into a guest, tried before passt is to listen at them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use resources::config::{Forward, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::Error;

/// Whether a port is free now: passt goes on if one of two address families is, and says less.
pub(super) fn check(forward: &Forward) -> Result<(), Error> {
    let any = Ipv4Addr::UNSPECIFIED;
    let v4 = SocketAddr::from((forward.address.unwrap_or(any), forward.host));
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, forward.host));
    let addresses = [Some(v4), forward.address.is_none().then_some(v6)];
    for address in addresses.into_iter().flatten() {
        match try_port(forward.protocol, address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => return Err(Error::PortInUse(*forward)),
            Err(Errno::ACCESS | Errno::PERM) => return Err(Error::PortPermission(*forward)),
            // A host without IPv6.
            Err(_) if address.is_ipv6() => {}
            Err(Errno::ADDRNOTAVAIL) => return Err(Error::NoSuchAddress(*forward)),
            Err(error) => return Err(Error::Port { forward: *forward, source: error.into() }),
        }
    }
    Ok(())
}

fn try_port(protocol: Protocol, address: SocketAddr) -> rustix::io::Result<()> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that have ended are in nobody's way.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)
}
