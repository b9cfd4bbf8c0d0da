//! The host's side of network devices, each test in a network namespace of its own. Needs the right to
//! make one; says so and passes without.

use std::process::Command;
use std::time::{Duration, Instant};

use devices::virtio::VirtioDevice;
use resources::config::{NetSpec, resolve_nets};
use rustix::thread::UnshareFlags;

use super::interface::Interfaces;
use super::*;

/// Runs `test` on a thread that is alone in a network namespace.
#[allow(unsafe_code)] // As the library says.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        // SAFETY: concerns this thread only, and no descriptors.
        if let Err(error) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) } {
            eprintln!("skipped: no network namespace: {error}");
        } else if let Err(error) = std::fs::File::open("/dev/net/tun") {
            eprintln!("skipped: /dev/net/tun: {error}");
        } else {
            test();
        }
    };
    std::thread::spawn(body).join().unwrap();
}

fn nets(texts: &[&str]) -> Vec<(String, config::Net)> {
    let specs = ('a'..)
        .zip(texts)
        .map(|(name, text)| (format!("net.{name}"), text.parse::<NetSpec>().unwrap()));
    resolve_nets(specs.collect(), None).unwrap()
}

fn open(texts: &[&str]) -> Result<Networks, Error> {
    Networks::open(&nets(texts), None)
}

#[track_caller]
fn refused(text: &str) -> String {
    open(&[text]).unwrap_err().to_string()
}

/// Runs ip(8); false if there is none.
fn ip(arguments: &str) -> bool {
    match Command::new("ip").args(arguments.split(' ')).status() {
        Ok(status) => {
            assert!(status.success(), "ip {arguments}");
            true
        }
        Err(error) => {
            eprintln!("skipped: ip: {error}");
            false
        }
    }
}

fn exists(name: &str) -> bool {
    Interfaces::open().unwrap().index(name).is_ok()
}

fn config_space(device: &net::Net) -> [u8; 12] {
    let mut space = [0; 12];
    device.read_config(0, &mut space);
    space
}

#[test]
fn a_tap_is_made_set_up_and_goes_with_its_owner() {
    in_namespace(|| {
        let networks =
            open(&["tap=lan0,mtu=9000,queues=3,mac=02:ca:4e:00:00:07,link=down"]).unwrap();
        let interfaces = Interfaces::open().unwrap();
        assert_eq!(interfaces.mtu("lan0").unwrap(), 9000);
        for _ in 0..2 {
            let devices = networks.devices().unwrap();
            let space = config_space(&devices[0]);
            assert_eq!(space[..6], [2, 0xca, 0x4e, 0, 0, 7]);
            assert_eq!(space[6..], [0, 0, 3, 0, 0x28, 0x23]);
        }
        let handle = networks.handles().next().unwrap();
        handle.link().set(true);
        assert_eq!(config_space(&networks.devices().unwrap()[0])[6], 1);
        assert_eq!(handle.name(), "net.a");
        drop(networks);
        // A child of another test may have its copy of the descriptor until it executes a program.
        let end = Instant::now() + Duration::from_secs(5);
        while exists("lan0") && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!exists("lan0"));
    });
}

#[test]
fn a_random_address_stays_over_resets() {
    in_namespace(|| {
        let networks = open(&["tap=t0", "tap=t1"]).unwrap();
        let address = |device: &net::Net| config_space(device)[..6].to_vec();
        let [first, second] =
            [0, 1].map(|_| networks.devices().unwrap().iter().map(address).collect::<Vec<_>>());
        assert_eq!(first, second);
        assert_ne!(first[0], first[1]);
    });
}

#[test]
fn a_tap_that_was_there_stays_as_it_was() {
    in_namespace(|| {
        if !ip("tuntap add dev old0 mode tap") || !ip("tuntap add dev many0 mode tap multi_queue") {
            return;
        }
        for text in ["tap=old0", "tap=many0", "tap=many0,queues=4"] {
            let networks = open(&[text]).unwrap();
            networks.devices().unwrap();
        }
        assert!(exists("old0") && exists("many0"));
        let networks = open(&["tap=old0"]).unwrap();
        let busy = refused("tap=old0");
        assert!(busy.contains("net.a: the tap old0 is in use"), "{busy}");
        drop(networks);
        let single = refused("tap=old0,queues=2");
        assert!(single.contains("queues is 2, but the tap old0 was made for one"), "{single}");
    });
}

#[test]
fn taps_join_a_bridge_and_do_not_lower_its_mtu() {
    in_namespace(|| {
        let missing = refused("bridge=br0");
        assert!(missing.contains("there is no bridge br0; make it with"), "{missing}");
        assert!(refused("bridge=lo").contains("lo is no bridge"));
        if !ip("link add br0 mtu 4000 type bridge") {
            return;
        }
        let networks = open(&["bridge=br0", "bridge=br0,queues=2"]).unwrap();
        let interfaces = Interfaces::open().unwrap();
        for (name, device) in ["carve0", "carve1"].into_iter().zip(networks.devices().unwrap()) {
            assert_eq!(interfaces.mtu(name).unwrap(), 4000);
            assert_eq!(config_space(&device)[10..], 4000u16.to_le_bytes());
        }
        assert_eq!(interfaces.mtu("br0").unwrap(), 4000);
        let taken = interfaces.join("br0", "carve0").unwrap_err();
        assert_eq!(taken.raw_os_error(), Some(libc::EBUSY), "it is on the bridge");
    });
}

#[test]
fn other_interfaces_and_descriptors_are_refused_by_name() {
    in_namespace(|| {
        assert!(refused("tap=lo").contains("lo is no tap"), "{}", refused("tap=lo"));
        if ip("tuntap add dev ip0 mode tun") {
            assert!(refused("tap=ip0").contains("ip0 is a tun"));
        }
        let none = refused("tap_fd=1000000");
        assert!(none.contains("tap_fd is 1000000, but there is no such descriptor"), "{none}");
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert!(refused(&format!("tap_fd={fd}")).contains("but it is no tap"));
    });
}

#[test]
fn a_tap_can_be_passed_as_a_descriptor() {
    in_namespace(|| {
        let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        net::tap::attach(&file, "given0", false).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let networks = open(&[&format!("tap_fd={fd},mtu=1400")]).unwrap();
        drop(file);
        assert!(exists("given0"));
        assert_eq!(config_space(&networks.devices().unwrap()[0])[10..], 1400u16.to_le_bytes());
    });
}

#[test]
fn a_host_without_vhost_net_is_named_with_the_remedy_and_keeps_no_tap() {
    in_namespace(|| {
        if std::path::Path::new("/dev/vhost-net").exists() {
            return eprintln!("skipped: this host has /dev/vhost-net");
        }
        let none = refused("tap=quick0,vhost");
        assert!(none.starts_with("net.a: cannot open /dev/vhost-net"), "{none}");
        assert!(none.contains("modprobe vhost_net") && none.contains("leave vhost out"), "{none}");
        assert!(!exists("quick0"));
    });
}

#[test]
fn limits_are_rates_with_little_burst() {
    let limits = NetLimits { bandwidth: "1Gbit/s".parse().ok(), packets: Some(3) };
    let bandwidth = Rate { per_second: 125_000_000, burst: 6_250_000 };
    let operations = Rate { per_second: 3, burst: 1 };
    let expected = Limits { bandwidth: Some(bandwidth), operations: Some(operations) };
    assert_eq!(bounds(&limits), expected);
    assert!(bounds(&NetLimits::default()).is_unlimited());
}
