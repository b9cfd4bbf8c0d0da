//! The configuration of a running guest as it is in force: what it was started with, and what was
//! changed since, read from the devices themselves.

use devices::token_bucket::{Limits, Rate};
use devices::virtio::balloon;
use resources::Size;
use resources::config::{Bandwidth, LinkState, NetLimits, VmConfig};

use crate::changes::DISK_BURST;
use crate::machine::sources::Sources;

/// `config` with what holds now: sizes of disks, rates, links, and the balloon's target.
pub(crate) fn config(sources: &Sources, config: &VmConfig) -> VmConfig {
    let mut config = config.clone();
    for (name, disk) in &mut config.disk {
        let Some(handle) = sources.disks().named(name.as_str()) else { continue };
        let Limits { bandwidth, operations } = handle.limits().get();
        disk.iops = operations.map(|rate| rate.per_second);
        disk.iops_burst = operations.and_then(burst);
        disk.bandwidth = bandwidth.and_then(|rate| Bandwidth::new(rate.per_second));
        disk.bandwidth_burst = bandwidth.and_then(burst).map(Size::from_bytes);
        if let Some(volume) = &mut disk.volume {
            volume.size = Size::from_bytes(handle.capacity());
        }
    }
    for handle in sources.networks().handles() {
        let own = config.net.iter_mut().find(|(name, _)| name.as_str() == handle.short_name());
        let Some((_, net)) = own else { continue };
        net.receive = of_net(handle.receive_limits().get());
        net.send = of_net(handle.send_limits().get());
        net.link = if handle.link().is_up() { LinkState::Up } else { LinkState::Down };
    }
    if let (Some(handle), Some(own)) = (sources.balloon(), &mut config.balloon) {
        let target = u64::from(handle.handle().target_pages()) * balloon::PAGE;
        own.target = Size::from_bytes(target);
    }
    config
}

/// The burst, where it is not the one that follows from the rate.
fn burst(rate: Rate) -> Option<u64> {
    (rate.burst != (rate.per_second / DISK_BURST).max(1)).then_some(rate.burst)
}

fn of_net(limits: Limits) -> NetLimits {
    NetLimits {
        bandwidth: limits.bandwidth.and_then(|rate| Bandwidth::new(rate.per_second)),
        packets: limits.operations.map(|rate| rate.per_second),
    }
}
