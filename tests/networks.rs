//! Guests on networks of the host. Runs on a KVM host (`cargo xtask host`).
#![allow(clippy::unwrap_used, unsafe_code, missing_docs)]

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::Running;
use support::guests::{BOOT, DEFAULT, Guest, assert_clean, value};
use support::host::until;
use support::networks::{
    Interface, dhcp_server, interface, interface_exists, iperf3, iperf3_datagrams, iperf3_rate,
    iperf3_server,
};
use support::rates::assert_limits;
use support::user::User;

/// A Debian with iperf3 and the other programs, on a network.
fn guest(net: &str) -> Guest {
    Guest::debian(DEFAULT, "ext4").with(&format!("--net {net}"))
}

/// Prints how many of three pings to `address` were answered.
fn ping(address: &str) -> String {
    format!("echo answers=$(ping -c 3 -i 0.2 -W 5 {address} | grep -c 'bytes from')")
}

#[test]
fn a_guest_on_a_tap_and_the_host_reach_each_other() {
    let tap = Interface::tap();
    let script = format!("{}; {}", tap.set_up(1), ping(&tap.host()));
    let log = guest(&format!("tap={}", tap.name())).run(&script).expect(0).text();
    assert_eq!(value(&log, "answers"), "3");
}

#[test]
fn a_flood_of_the_longest_frames_is_answered_and_datagrams_pass_both_ways() {
    let tap = Interface::tap();
    let host = tap.host();
    let script = format!(
        "{}; echo mtu=$(cat /sys/class/net/eth0/mtu); ping -q -c 1 -W 5 {host} >/dev/null; \
         echo answers=$(ping -q -f -c 300 -W 5 -s 8972 -M do {host} | sed -n 's/.* \\([0-9]*\\) received.*/\\1/p'); \
         socat -u UDP4-RECV:7002 OPEN:/tmp/in,creat & \
         seq 1 1000 | xargs -n 100 | socat -u - UDP4-SENDTO:{host}:7001; echo sent=yes; read line; cat /tmp/in",
        tap.set_up(1)
    );
    let socket = UdpSocket::bind((host.as_str(), 7001)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let net = format!("tap={},mtu=9000", tap.name());
    let mut running = guest(&net).start(Some(&script));
    running.wait_for("sent=yes", BOOT);
    let (mut received, mut datagram) = (String::new(), [0; 9000]);
    while !received.contains(" 1000") {
        let count = socket.recv(&mut datagram).unwrap();
        received += std::str::from_utf8(&datagram[..count]).unwrap();
    }
    let expected = (1..=1000).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(received.split_whitespace().collect::<Vec<_>>(), expected);
    for text in ["from ", "the ", "host\n"] {
        socket.send_to(text.as_bytes(), (tap.guest(1).as_str(), 7002)).unwrap();
    }
    thread::sleep(Duration::from_secs(2));
    running.send(b"\n");
    let log = running.finish(BOOT).expect(0).text();
    assert_clean(&log);
    assert_eq!((value(&log, "mtu"), value(&log, "answers")), ("9000", "300"));
    assert!(log.contains("from the host"), "{log}");
}

#[test]
fn a_tap_that_is_not_there_is_made_and_goes_with_the_guest() {
    let mut running = guest("tap=made-e2e").start(Some("read line"));
    running.wait_for("carve-guest: ready", BOOT);
    assert!(interface_exists("made-e2e"));
    running.send(b"\n");
    running.finish(BOOT).expect(0);
    assert!(!interface_exists("made-e2e"));
}

/// Two guests on a bridge, one on PCI and one on MMIO.
#[test]
fn guests_on_one_bridge_exchange_streams_and_datagrams_unharmed_and_leave_nothing_on_it() {
    let bridge = Interface::bridge();
    let guest = |transport: &str| {
        guest(&format!("bridge={}", bridge.name())).with(&format!("--transport {transport}"))
    };
    // The one sends back what comes, and says what it was.
    let script = format!(
        "{}; iperf3 --server >/dev/null & \
         socat -t 60 TCP-LISTEN:7000,reuseaddr SYSTEM:'tee /tmp/in' & echo up=yes; read line; md5sum </tmp/in | sed 's/^/sum=/'",
        bridge.set_up(1)
    );
    let mut first = guest("pci").start(Some(&script));
    first.wait_for("up=yes", BOOT);
    let other = bridge.guest(1);
    let script = format!(
        "{}; {}; {}; head -c 8M /dev/urandom >/tmp/out; md5sum </tmp/out | sed 's/^/sum=/'; \
         socat -t 60 - TCP:{other}:7000 </tmp/out | cmp - /tmp/out && echo same=yes",
        bridge.set_up(2),
        ping(&other),
        both_ways(&other)
    );
    let log = guest("mmio").run(&script).expect(0).text();
    assert_eq!((value(&log, "answers"), value(&log, "same")), ("3", "yes"), "{log}");
    assert_went_both_ways(&log);
    first.send(b"\n");
    let of_first = first.finish(BOOT).expect(0).text();
    assert_clean(&of_first);
    assert_eq!(value(&of_first, "sum"), value(&log, "sum"));
    let ports = format!("/sys/class/net/{}/brif", bridge.name());
    assert_eq!(std::fs::read_dir(ports).unwrap().count(), 0);
}

/// The guest asks on its bridge for an address, and is reached at that.
#[track_caller]
fn leases(transport: &str) {
    let bridge = Interface::bridge();
    let leased = bridge.guest(99);
    let (server, _folder) = dhcp_server(&bridge, &leased);
    let script = format!(
        "busybox udhcpc -i eth0 -n -q -s /etc/udhcpc/default.script >/dev/null 2>&1 || echo bad=dhcp; \
         echo address=$(ip -4 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4); echo router=$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'); {}; \
         echo listening; socat -u TCP-LISTEN:7000 - | sed 's/^/heard=/'",
        ping(&bridge.host())
    );
    let net = format!("bridge={}", bridge.name());
    let mut running = guest(&net).with(&format!("--transport {transport}")).start(Some(&script));
    running.wait_for("listening", BOOT);
    until(|| {
        TcpStream::connect((leased.as_str(), 7000))
            .is_ok_and(|mut stream| stream.write_all(b"the host\n").is_ok())
    });
    let log = running.finish(BOOT).expect(0).text();
    assert_clean(&log);
    assert!(!log.contains("bad="), "{log}");
    let found = ["address", "router", "answers", "heard"].map(|key| value(&log, key));
    assert_eq!(found, [&format!("{leased}/24"), &bridge.host(), "3", "the host"]);
    server.signal(libc::SIGTERM);
    let said = server.finish(Duration::from_secs(20)).stderr;
    assert!(said.contains(&format!("sending ACK to {leased}")), "{said}");
}

support::on_pci_and_mmio! {
    a_guest_on_a_bridge_is_reached_at_the_address_it_leases: leases();
}

#[test]
fn the_guest_sees_hardware_address_mtu_and_queues() {
    let tap = Interface::multi_queue_tap();
    let net = format!("tap={},mac=02:ca:4e:00:00:07,mtu=1280,queues=2", tap.name());
    let script = "cd /sys/class/net/eth0; echo mac=$(cat address); echo mtu=$(cat mtu); \
        ethtool -L eth0 combined 2; echo queues=$(ethtool -l eth0 | grep Combined | tail -1 | tr -dc 0-9)";
    let log = guest(&net).with("--cpus 2").run(script).expect(0).text();
    let found = ["mac", "mtu", "queues"].map(|key| value(&log, key));
    assert_eq!(found, ["02:ca:4e:00:00:07", "1280", "2"]);
    assert_eq!(interface(tap.name())["mtu"], 1280);
}

#[test]
fn an_unplugged_cable_is_seen_by_the_guest() {
    let tap = Interface::tap();
    let net = format!("tap={},link=down", tap.name());
    let script = "ip link set eth0 up; sleep 1; echo carrier=$(cat /sys/class/net/eth0/carrier)";
    let log = guest(&net).run(script).expect(0).text();
    assert_eq!(value(&log, "carrier"), "0");
}

/// The commands by which a guest exchanges streams and datagrams with an iperf3 server, for [`assert_went_both_ways`].
fn both_ways(server: &str) -> String {
    // Datagrams as long as a packet may be without being cut.
    let datagrams = "--time 2 --bitrate 4M --length $(($(cat /sys/class/net/eth0/mtu)-28))";
    let commands = [
        iperf3(server, "--time 2"),
        iperf3(server, "--time 2 --reverse"),
        iperf3_datagrams(server, datagrams),
        iperf3_datagrams(server, &format!("{datagrams} --reverse")),
    ];
    commands.join("; ")
}

#[track_caller]
fn assert_went_both_ways(log: &str) {
    let ends: Vec<_> =
        log.match_indices("iperf3=").map(|(at, _)| at).skip(1).chain([log.len()]).collect();
    assert_eq!(ends.len(), 4, "{log}");
    // How fast it is a benchmark tells; an emulated guest on a busy machine is not.
    let least = [1e5, 1e5, 20.0, 20.0];
    for (end, least) in ends.into_iter().zip(least) {
        assert!(iperf3_rate(&log[..end]) > least, "{log}");
    }
}

/// Streams and datagrams get through, out and in.
#[track_caller]
fn iperf3_gets_through(options: &str, arguments: &str) {
    let tap = Interface::tap();
    let (host, server) = (tap.host(), iperf3_server(&tap.host()));
    let guest = guest(&format!("tap={}{options}", tap.name())).with(arguments);
    let log = guest.run(&format!("{}; {}", tap.set_up(1), both_ways(&host))).expect(0).text();
    drop(server);
    assert_went_both_ways(&log);
}

#[test]
fn streams_and_datagrams_get_through_in_both_directions_on_pci() {
    iperf3_gets_through("", "--transport pci");
}

#[test]
fn long_streams_and_datagrams_get_through_in_both_directions_on_mmio() {
    iperf3_gets_through(",mtu=9000", "--transport mmio");
}

/// Has streams each `carry` what it can: several, one of which alone waits for its window.
fn streams(
    listener: &TcpListener,
    carry: fn(&TcpStream) -> io::Result<u64>,
) -> [Arc<TcpStream>; 8] {
    [(); 8].map(|()| {
        let stream = Arc::new(listener.accept().unwrap().0);
        let carried = Arc::clone(&stream);
        thread::spawn(move || carry(&carried));
        stream
    })
}

#[test]
fn a_guest_sends_and_receives_as_many_bytes_a_second_as_its_limits_say() {
    let tap = Interface::tap();
    let listener = TcpListener::bind((tap.host(), 0)).unwrap();
    let host = listener.local_addr().unwrap();
    let script = format!(
        "{}; echo up=yes; all() {{ for n in $(seq 8); do socat -u $1 $2 2>/dev/null & done; }}; \
         all OPEN:/dev/zero TCP:{host}; wait; all TCP:{host} OPEN:/dev/null; read line",
        tap.set_up(1)
    );
    // Frames are longer than what is let through at once.
    let net = format!("tap={},tx_bandwidth=400kB/s,rx_bandwidth=500kB/s", tap.name());
    let mut running = guest(&net).start(Some(&script));
    running.wait_for("up=yes", BOOT);
    let start = Instant::now();
    let sent = streams(&listener, |mut stream| io::copy(&mut stream, &mut io::sink()));
    assert_limits([("bytes sent", 400_000)], || (start.elapsed(), [tap.counted("rx_bytes")]));
    for stream in sent {
        let _ = stream.shutdown(Shutdown::Both);
    }
    let _received = streams(&listener, |mut stream| io::copy(&mut io::repeat(0), &mut stream));
    assert_limits([("bytes received", 500_000)], || (start.elapsed(), [tap.counted("tx_bytes")]));
    running.send(b"\n");
    assert_clean(&running.finish(BOOT).expect(0).text());
}

/// Datagrams to everybody: no answer to ARP is lost among them.
#[test]
fn a_guest_sends_and_receives_as_many_packets_a_second_as_its_limits_say() {
    let tap = Interface::tap();
    let host = UdpSocket::bind((tap.host(), 0)).unwrap();
    host.set_broadcast(true).unwrap();
    let all = format!("{}:7001", tap.broadcast());
    let script = format!(
        "{}; socat -u -b 200 OPEN:/dev/zero UDP4-DATAGRAM:{all},broadcast & echo up=yes; read line; kill %1",
        tap.set_up(1)
    );
    let net = format!("tap={},tx_packets=300,rx_packets=200", tap.name());
    let mut running = guest(&net).with("--transport mmio").start(Some(&script));
    running.wait_for("up=yes", BOOT);
    // As long as there is a tap; what it has no room for is lost.
    thread::spawn(move || {
        while host.send_to(&[0; 200], &all).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let start = Instant::now();
    assert_limits([("packets sent", 300), ("packets received", 200)], || {
        (start.elapsed(), ["rx_packets", "tx_packets"].map(|name| tap.counted(name)))
    });
    running.send(b"\n");
    assert_clean(&running.finish(BOOT).expect(0).text());
}

/// Everything that needs no right on the host: every device there is, jailed as strictly as can be.
#[test]
fn a_guest_of_an_ordinary_user_with_every_device_reaches_out_and_is_reached() {
    // passt carries on what leaves the host, for which the host needs a way out.
    let uplink = Interface::bridge();
    support::tool(&format!("ip route add default via {}", uplink.guest(1)));
    let script = "busybox udhcpc -i eth0 -n -q -s /etc/udhcpc/default.script >/dev/null 2>&1 || echo bad=dhcp; echo address=$(ip -4 -o addr show eth0 | wc -l); \
        for d in /sys/bus/virtio/devices/*; do d=$(readlink $d/driver); echo ${d##*/}; done | sort | uniq -c | tr -s ' \\n' ',' | sed 's/^/drivers=/'; echo; \
        dd if=/dev/urandom of=/dev/vdb bs=1M count=8 oflag=direct status=none || echo bad=disk; \
        echo reached=$(socat -u TCP:$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'):18081 -); \
        echo listening=yes; socat -u TCP-LISTEN:80 - | sed 's/^/heard=/'";
    let listener = TcpListener::bind("127.0.0.1:18081").unwrap();
    thread::spawn(move || listener.accept().unwrap().0.write_all(b"a service\n").unwrap());
    let user = User::ordinary();
    let disk = user.file("disk", 8 << 20);
    let guest = guest("user,host,forward=127.0.0.1:18080:80").with(
        "--jail strict --disk path=disk --console file=console --vsock cid=3,socket=vsock --balloon",
    );
    let mut running = Running::start(&mut user.command(&guest.command(Some(script))));
    running.wait_for("listening=yes", BOOT);
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        // passt takes connections also while nobody in the guest does.
        if let Ok(mut stream) = TcpStream::connect("127.0.0.1:18080") {
            let _ = stream.write_all(b"hello\n");
        }
        thread::sleep(Duration::from_secs(1));
        if running.exited() {
            break;
        }
    }
    let log = running.finish(BOOT).expect(0).text();
    assert!(!log.contains("bad="), "{log}");
    assert_eq!((value(&log, "address"), value(&log, "heard")), ("1", "hello"));
    assert_eq!(value(&log, "reached"), "a service");
    let drivers = value(&log, "drivers");
    for driver in [
        "2,virtio_blk",
        "1,virtio_net",
        "1,virtio_console",
        "1,virtio_balloon",
        "1,virtio_rng",
        "1,vmw_vsock",
    ] {
        assert!(drivers.contains(driver), "{driver} in {drivers}");
    }
    assert_ne!(std::fs::read(&disk).unwrap(), vec![0; 8 << 20]);
}

#[test]
fn megabytes_through_a_tap_arrive_unharmed() {
    let tap = Interface::tap();
    let listener = TcpListener::bind((tap.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let receiver = thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let script = format!(
        "{}; seq 1 500000 | socat -u - TCP:{}:{port} || echo bad=sent",
        tap.set_up(1),
        tap.host()
    );
    let log = guest(&format!("tap={}", tap.name())).run(&script).expect(0).text();
    assert!(!log.contains("bad="), "{log}");
    let received = String::from_utf8(receiver.join().unwrap()).unwrap();
    assert!(
        received.lines().eq((1..=500_000).map(|n: u32| n.to_string())),
        "{} bytes",
        received.len()
    );
}

/// CPU time, in clock ticks, of the kernel's workers for the vhost devices of `process`: kernel threads before Linux
/// 6.4, threads of the process from there on.
#[track_caller]
fn vhost_ticks(process: i32) -> u64 {
    let name = format!("(vhost-{process})");
    let stats = |folder: &str| {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        let stats: Vec<String> = entries
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
            .filter(|stat| stat.contains(&name))
            .collect();
        stats
    };
    let mut found = stats("/proc");
    found.extend(stats(&format!("/proc/{process}/task")));
    assert!(!found.is_empty(), "there is no worker {name}");
    let ticks = |stat: &String| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    found.iter().map(ticks).sum()
}

#[test]
fn with_vhost_no_frame_is_lost_to_pauses_and_a_reboot_and_long_ones_pass_over_two_queues() {
    let tap = Interface::multi_queue_tap();
    let host = tap.host();
    let script = format!(
        "{}; ethtool -L eth0 combined 2; ping -q -c 1 -W 5 {host} >/dev/null; echo up=$(cat /sys/class/net/eth0/mtu); \
         echo answers=$(ping -q -f -c 3000 -W 5 -s 8972 -M do {host} | sed -n 's/.* \\([0-9]*\\) received.*/\\1/p'); \
         read line; [ $line = again ] && reboot -f",
        tap.set_up(1)
    );
    let net = format!("tap={},mtu=9000,queues=2,vhost", tap.name());
    let mut running = guest(&net).with("--cpus 2 --name vhost-pauses").start(Some(&script));
    let carve = |verb: &str| {
        assert!(support::carve().args([verb, "vhost-pauses"]).output().unwrap().status.success());
    };
    for boot in 1..=2 {
        running.wait_for_count("up=9000", boot, BOOT);
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(100));
            carve("pause");
            let before = vhost_ticks(running.pid());
            thread::sleep(Duration::from_millis(200));
            assert_eq!(vhost_ticks(running.pid()), before, "it works for a paused guest");
            carve("unpause");
        }
        running.wait_for_count("answers=3000", boot, BOOT);
        assert!(vhost_ticks(running.pid()) > 0, "the kernel has moved nothing");
        running.send(if boot == 1 { b"again\n" } else { b"end\n" });
    }
    let log = running.finish(BOOT).expect(0).text();
    assert_clean(&log);
}

#[test]
fn with_vhost_megabytes_pass_unharmed_both_ways_on_mmio_and_a_link_can_be_cut() {
    let tap = Interface::tap();
    let listener = TcpListener::bind((tap.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Sends back what comes.
    let echo = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let host = tap.host();
    let script = format!(
        "{}; seq 1 300000 >/tmp/out; socat -t 60 - TCP:{host}:{port} </tmp/out >/tmp/in || echo bad=socat; \
         cmp /tmp/out /tmp/in && echo same=yes; echo link=up; read line; \
         echo carrier=$(cat /sys/class/net/eth0/carrier); read line; sleep 1; {}",
        tap.set_up(1),
        ping(&host)
    );
    let net = format!("tap={},vhost", tap.name());
    let guest = guest(&net).with("--transport mmio --name vhost-mmio");
    let mut running = guest.start(Some(&script));
    let carve = |arguments: &str| {
        let arguments = arguments.split(' ');
        assert!(support::carve().args(arguments).output().unwrap().status.success());
    };
    running.wait_for("link=up", BOOT);
    assert!(vhost_ticks(running.pid()) > 0, "the kernel has moved nothing");
    let limit = ["update", "vhost-mmio", "--net", "net0,tx-bandwidth=1MB"];
    let refused = support::carve().args(limit).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("vhost"), "{told}");
    carve("update vhost-mmio --net net0,link=down");
    running.send(b"\n");
    running.wait_for("carrier=", BOOT);
    carve("update vhost-mmio --net net0,link=up");
    running.send(b"\n");
    let log = running.finish(BOOT).expect(0).text();
    echo.join().unwrap();
    assert_clean(&log);
    let found = ["same", "carrier", "answers"].map(|key| value(&log, key));
    assert_eq!(found, ["yes", "0", "3"], "{log}");
}
