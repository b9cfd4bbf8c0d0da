//! The host's side of network devices: taps and passt processes, opened once, before any machine is
//! built, and kept over its resets; each machine gets fresh devices on them.
//!
//! What passes through them is the devices' business ([`devices::virtio::net`]); what is wanted is the
//! configuration's ([`resources::config::Net`]).

mod interface;
mod tap;
mod vhost;

use std::io;
use std::sync::Arc;

use devices::token_bucket::{Limits, LimitsHandle, Rate, SharedLimiter};
use devices::virtio::net::{self, Backend, Link, MacAddress, Passed, Vhost, VhostNet};
use resources::config::{self, Connection, LinkState, NetLimits};

use super::passt::{self, Outside, Passt};

/// The MTU between a guest and passt: the more a frame carries, the fewer there are, and none of them
/// ever passes a wire. The most that passt takes.
const PASST_MTU: u16 = 65520;
/// What may pass at once after a time of rest: so much of a second's worth.
pub(crate) const BURST: u64 = 20;

/// Why a network device cannot have its host side. Says which device, value, reason and remedy.
#[derive(Debug, thiserror::Error)]
#[error("{net}: {problem}")]
pub struct Error {
    /// What the device is written under, such as `net.lan`.
    pub net: String,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// See [`Error`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is.
pub enum Problem {
    #[error("cannot open /dev/net/tun for a tap: {0}; load the kernel's module tun, or use `user`")]
    Device(io::Error),
    #[error(
        "/dev/net/tun may not be opened by this user, so there can be no tap; let the user read and write it, or use `user`"
    )]
    DevicePermission,
    #[error(
        "this user may not make {name}, which takes CAP_NET_ADMIN; use `user`, or have a tap made with `ip tuntap add dev NAME mode tap user $USER` and give its name as tap=NAME"
    )]
    MakePermission { name: String },
    #[error("cannot make {name}: {source}")]
    Make { name: String, source: io::Error },
    #[error(
        "the tap {name} belongs to another user; have it made for this one with `ip tuntap add dev {name} mode tap user $USER`, or use `user`"
    )]
    UsePermission { name: String },
    #[error("the tap {name} is in use by another process; end that, or choose another tap")]
    Busy { name: String },
    #[error(
        "the interface {name} is {is}, but a network device takes a tap; choose another name, or that of no interface to have a tap made"
    )]
    NotATap { name: String, is: &'static str },
    #[error(
        "queues is {queues}, but the tap {name} was made for one; leave queues out, or make it with `ip tuntap add dev {name} mode tap multi_queue`"
    )]
    OneQueue { name: String, queues: u16 },
    #[error("the tap {name} cannot be used: {source}")]
    Attach { name: String, source: io::Error },
    #[error(
        "the MTU of {name} cannot be {}: {source}; have it set with `ip link set dev {name} mtu MTU`, or leave mtu out",
        .mtu.map_or_else(|| "asked for".to_owned(), |mtu| format!("set to {mtu}"))
    )]
    Mtu { name: String, mtu: Option<u16>, source: io::Error },
    #[error("{name} cannot be brought up: {source}; have it done with `ip link set dev {name} up`")]
    Up { name: String, source: io::Error },
    #[error(
        "there is no bridge {bridge}; make it with `ip link add {bridge} type bridge`, or choose another"
    )]
    NoBridge { bridge: String },
    #[error("{bridge} is no bridge; choose another, or name an interface of your own with tap")]
    NotABridge { bridge: String },
    #[error(
        "a tap cannot be attached to the bridge {bridge}: {source}; that takes CAP_NET_ADMIN, so use `user`, or have a tap made and attached with `ip link set dev NAME master {bridge}` and give its name as tap=NAME"
    )]
    Bridge { bridge: String, source: io::Error },
    #[error(
        "tap_fd is {fd}, but {reason}; pass a tap made with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR as that descriptor"
    )]
    Descriptor { fd: u32, reason: String },
    #[error(
        "cannot open /dev/vhost-net for vhost: {0}; load the kernel's module with `modprobe vhost_net`, or leave vhost out"
    )]
    Vhost(io::Error),
    #[error(
        "/dev/vhost-net may not be opened by this user, so there can be no vhost; let the user read and write it, or leave vhost out"
    )]
    VhostPermission,
    #[error("/dev/vhost-net cannot be used: {0}; leave vhost out, or use a newer kernel")]
    VhostFeatures(io::Error),
    #[error("the kernel starts no worker for vhost: {0}; leave vhost out")]
    VhostOwner(io::Error),
    #[error(
        "cannot start a thread for passt: {0}; end other programs, or raise the limit of threads"
    )]
    Follow(io::Error),
    #[error("cannot ask for the host's network interfaces: {0}")]
    Socket(io::Error),
    #[error("no random MAC address can be had: {0}; give one with mac")]
    Random(io::Error),
    #[error(transparent)]
    Passt(#[from] passt::Error),
}

/// What is at the host's end of a cable.
#[derive(Debug)]
enum HostEnd {
    /// A tap, and what serves its queues in the host's kernel.
    Tap(Arc<dyn Backend>, Vec<Arc<VhostNet>>),
    Passt(Passt),
}

/// Changes a network device while its guest runs, over all resets.
#[derive(Debug)]
pub struct Handle {
    name: String,
    link: Arc<Link>,
    receive: Arc<SharedLimiter>,
    send: Arc<SharedLimiter>,
    pairs: u16,
    vhost: bool,
}

impl Handle {
    /// What the device is written under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cable, to plug in and out.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Its name in the configuration.
    pub fn short_name(&self) -> &str {
        self.name.strip_prefix("net.").unwrap_or(&self.name)
    }

    /// What each pair of queues has passed on over all resets.
    pub fn statistics(&self) -> impl Iterator<Item = Passed> {
        (0..self.pairs).map(|pair| self.link.counters().pair(pair))
    }

    /// Whether the host's kernel moves its frames, which no limit bounds then, and nothing here counts.
    pub fn is_vhost(&self) -> bool {
        self.vhost
    }

    /// Bounds what the guest receives.
    pub fn receive_limits(&self) -> &Arc<LimitsHandle> {
        self.receive.handle()
    }

    /// Bounds what the guest sends.
    pub fn send_limits(&self) -> &Arc<LimitsHandle> {
        self.send.handle()
    }
}

#[derive(Debug)]
struct Network {
    host_end: HostEnd,
    mac: MacAddress,
    mtu: Option<u16>,
    queue_size: u16,
    handle: Handle,
}

/// The host sides of all network devices of a VM.
#[derive(Debug)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Opens what `nets` are connected to; each comes with what it is written under, such as
    /// `net.lan`, which messages call it by. Taps are those of the network namespace this thread is in.
    ///
    /// # Errors
    ///
    /// [`Error`] naming the device, the value, the reason and the remedy. Nothing stays behind.
    pub fn open(
        nets: &[(String, config::Net)],
        outside: Option<&dyn Outside>,
    ) -> Result<Self, Error> {
        let open = |(name, net): &(String, config::Net)| {
            Network::open(name, net, outside)
                .map_err(|problem| Error { net: name.clone(), problem })
        };
        Ok(Self(nets.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// Follows what happens to processes outside, and has the kernel's workers for vhost started, once threads
    /// are started as they are to be and this process is who it will be: from Linux 6.4 on those workers are
    /// threads of it.
    ///
    /// # Errors
    ///
    /// There are no more threads.
    pub fn follow(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|network| network.follow())
    }

    /// Fresh devices, in the order of the configuration. Only one machine at a time may use theirs.
    ///
    /// # Errors
    ///
    /// A passt process could not do what it was started for: waits a moment for it the first time.
    pub fn devices(&self) -> Result<Vec<net::Net>, Error> {
        (0..).zip(&self.0).map(|(index, network)| network.device(index)).collect()
    }

    /// What changes the devices while the guest runs, in the order of the configuration.
    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|network| &network.handle)
    }
}

impl Network {
    fn open(name: &str, net: &config::Net, outside: Option<&dyn Outside>) -> Result<Self, Problem> {
        let mac = match net.mac {
            Some(mac) => mac.bytes(),
            None => random_mac().map_err(Problem::Random)?,
        };
        let vhosts = if net.vhost { vhost::open(net.queues)? } else { Vec::new() };
        let tapped = |opened: tap::Opened| {
            let served = vhosts.iter().cloned().map(|vhost| vhost as Arc<dyn Vhost>).collect();
            let end: Arc<dyn Backend> = Arc::new(opened.tap.with_vhosts(served));
            (HostEnd::Tap(end, vhosts.clone()), opened.mtu)
        };
        let (host_end, mtu) = match &net.connection {
            Connection::Tap(tap) => tapped(tap::named(tap, net.queues, net.mtu)?),
            Connection::Bridge(bridge) => tapped(tap::on_bridge(bridge, net.queues, net.mtu)?),
            Connection::TapFd(fd) => tapped(tap::passed(*fd, net.mtu)?),
            Connection::User { forward, host } => {
                let (mtu, host) = (net.mtu.unwrap_or(PASST_MTU), *host);
                let options = passt::Options { name: name.to_owned(), mac, mtu, host };
                let passt = match outside.filter(|outside| outside.is_needed()) {
                    Some(outside) => Passt::start_outside(outside, &options, forward)?,
                    None => Passt::start(options, forward)?,
                };
                (HostEnd::Passt(passt), Some(mtu))
            }
        };
        let limiter = |limits| Arc::new(SharedLimiter::new(LimitsHandle::new(bounds(limits))));
        let handle = Handle {
            name: name.to_owned(),
            link: Link::new(net.link == LinkState::Up),
            receive: limiter(&net.receive),
            send: limiter(&net.send),
            pairs: net.queues,
            vhost: net.vhost,
        };
        Ok(Self { host_end, mac, mtu, queue_size: net.queue_size, handle })
    }

    fn error(&self, problem: Problem) -> Error {
        Error { net: self.handle.name.clone(), problem }
    }

    fn follow(&self) -> Result<(), Error> {
        let followed = match &self.host_end {
            HostEnd::Tap(_, vhosts) => {
                vhosts.iter().try_for_each(|vhost| vhost.own()).map_err(Problem::VhostOwner)
            }
            HostEnd::Passt(passt) => passt.follow().map_err(Problem::Follow),
        };
        followed.map_err(|problem| self.error(problem))
    }

    fn device(&self, index: usize) -> Result<net::Net, Error> {
        let backend = match &self.host_end {
            HostEnd::Tap(tap, _) => Arc::clone(tap),
            HostEnd::Passt(passt) => {
                passt.check().map_err(|error| self.error(Problem::Passt(error)))?;
                Arc::new(passt.socket().clone())
            }
        };
        let options = net::Options {
            name: format!("net{index}"),
            mac: self.mac,
            mtu: self.mtu,
            queue_size: self.queue_size,
            link: Arc::clone(&self.handle.link),
            // Limiters that bound nothing cost nothing, and can be told to later.
            receive_limit: Some(Arc::clone(&self.handle.receive)),
            send_limit: Some(Arc::clone(&self.handle.send)),
        };
        Ok(net::Net::new(backend, options))
    }
}

fn random_mac() -> io::Result<MacAddress> {
    let mut bytes = [0; 8];
    // Eight bytes come whole or not at all (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(config::MacAddress::local(bytes).bytes())
}

fn bounds(limits: &NetLimits) -> Limits {
    let rate = |per_second: u64| Rate { per_second, burst: (per_second / BURST).max(1) };
    Limits {
        bandwidth: limits.bandwidth.map(|bandwidth| rate(bandwidth.bytes_per_second())),
        operations: limits.packets.map(rate),
    }
}

#[cfg(test)]
#[path = "networks_test.rs"]
mod networks_test;
