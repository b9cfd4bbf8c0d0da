//! Network devices as written: in files, as flags, and what is wrong with them.

use super::*;

fn flag_text(text: &str) -> NetSpec {
    text.parse().unwrap()
}

fn name() -> Name {
    "web".parse().unwrap()
}

fn resolved(texts: &[&str]) -> Result<Vec<Net>, Vec<NetConflict>> {
    let nets = resolve_nets(named(texts), Some(&name()))?;
    Ok(nets.into_iter().map(|(_, net)| net).collect())
}

/// Devices `net.a`, `net.b` and so on.
fn named(texts: &[&str]) -> Vec<(String, NetSpec)> {
    ('a'..).zip(texts).map(|(name, text)| (format!("net.{name}"), flag_text(text))).collect()
}

#[test]
fn flags_and_files_say_the_same() {
    let flags = flag_text(
        "tap=tap0,mac=02:ca:4e:00:00:01,mtu=9000,queues=4,queue_size=512,rx_bandwidth=1Gbit/s,\
         rx_packets=1000,tx_bandwidth=10MB/s,tx_packets=500,link=down",
    );
    let file: NetSpec = toml::from_str(
        r#"
        tap = "tap0"
        mac = "02:ca:4e:00:00:01"
        mtu = 9000
        queues = 4
        queue_size = 512
        rx_bandwidth = "125MB/s"
        rx_packets = 1000
        tx_bandwidth = 10000000
        tx_packets = 500
        link = "down"
        "#,
    )
    .unwrap();
    assert_eq!(flags, file);
    let user = flag_text("user,forward=8080:80,forward=udp:53:53");
    let file = "user = true\nforward = [\"8080:80\", \"udp:53:53\"]";
    assert_eq!(user, toml::from_str(file).unwrap());
}

#[test]
fn what_is_left_out_has_defaults() {
    let [tap, user] = resolved(&["tap=tap0", "user"]).unwrap().try_into().unwrap();
    assert_eq!(tap.connection, Connection::Tap("tap0".to_owned()));
    assert_eq!((tap.queues, tap.queue_size, tap.link), (1, 256, LinkState::Up));
    assert_eq!(tap.mac, Some(MacAddress::derived(&name(), 0)));
    assert_eq!(user.mac, Some(MacAddress::derived(&name(), 1)));
    assert_eq!(user.connection, Connection::User { forward: vec![], host: false });
    assert_eq!(
        (tap.mtu, tap.receive, tap.send),
        (None, NetLimits::default(), NetLimits::default())
    );
    let nameless = resolve_nets(named(&["user"]), None).unwrap();
    assert_eq!((nameless[0].0.as_str(), nameless[0].1.mac), ("net.a", None));
}

#[test]
fn a_resolved_device_is_written_as_it_could_have_been_given() {
    for text in ["tap=t0,mtu=1400,queues=2", "tap_fd=5", "bridge=br0", "user,forward=1:2,link=down"]
    {
        let net = resolved(&[text]).unwrap().remove(0);
        let written = toml::to_string(&net).unwrap();
        let spec: NetSpec = toml::from_str(&written).unwrap();
        let again = resolve_nets(vec![("net.a".to_owned(), spec)], None).unwrap();
        assert_eq!(again[0].1, net, "{written}");
    }
}

#[test]
fn errors_of_flags_name_the_part_and_show_the_form() {
    for (text, part) in [
        ("", "`` is none of its keys tap, "),
        ("tap", "`tap` has no value"),
        ("tap=a,tap=b", "tap is given twice"),
        ("tap=a,ip=1.2.3.4", "`ip` is none of its keys"),
        ("user=maybe", "user `maybe` is neither"),
        ("user,forward=x", "`x` is not a port"),
        ("tap=a,mac=1", "`1` is not the MAC address"),
        ("tap=a,queues=-1", "queues `-1`"),
        ("tap=a,mtu=99999999999", "mtu `99999999999`"),
        ("tap=a,link=half", "`half` is not one of up, down"),
        ("tap=a,rx_bandwidth=fast", "`fast` is not a bandwidth"),
    ] {
        let error = text.parse::<NetSpec>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("write it as in tap="), "{error}");
    }
    assert!(toml::from_str::<NetSpec>("ip = 1").unwrap_err().to_string().contains("unknown field"));
}

#[test]
fn every_rule_names_value_place_and_remedy() {
    for (text, key, parts) in [
        ("mtu=1500", "tap", ["connected to nothing", "give it one of"]),
        ("tap=t0,user", "user", ["tap and user are both given", "keep one"]),
        ("tap=,mtu=1500", "tap", ["tap is ``", "such as tap0"]),
        ("tap=a/b", "tap", ["tap is `a/b`", "such as tap0"]),
        ("tap=tap%d", "tap", ["tap is `tap%d`", "such as tap0"]),
        ("bridge=a-very-long-name", "bridge", ["bridge is `a-very", "such as br0"]),
        ("tap_fd=2", "tap_fd", ["tap_fd is 2", "3 or above"]),
        ("tap=a,forward=1:1", "forward", ["only `user`", "leave forward out"]),
        ("user,forward=1:1,forward=1:2", "forward", ["1:2 is forwarded", "another port"]),
        ("tap=a,mtu=67", "mtu", ["mtu is 67", "use 1500"]),
        ("tap=a,mtu=65536", "mtu", ["mtu is 65536", "use 1500"]),
        ("tap=a,queues=0", "queues", ["queues is 0", "choose"]),
        ("tap=a,queues=17", "queues", ["queues is 17", "choose"]),
        ("user,queues=2", "queues", ["queues is 2, but user", "leave queues out"]),
        ("tap_fd=3,queues=2", "queues", ["queues is 2, but tap_fd", "leave queues out"]),
        ("tap=a,queue_size=300", "queue_size", ["queue_size is 300", "use 256"]),
        ("tap=a,queue_size=2048", "queue_size", ["queue_size is 2048", "use 256"]),
        ("user,vhost", "vhost", ["serves taps only", "leave vhost out"]),
        ("tap=a,vhost,bandwidth=1MB/s", "bandwidth", ["bandwidth and vhost are", "keep one"]),
        ("tap=a,vhost,rx_packets=5", "rx_packets", ["rx_packets and vhost are", "keep one"]),
        ("bridge=a,tx_bandwidth=1MB/s,vhost", "tx_bandwidth", ["knows no limits", "keep one"]),
        ("tap=a,tx_packets=0", "tx_packets", ["tx_packets is 0", "link = \"down\""]),
    ] {
        let conflicts = resolved(&["user", text]).unwrap_err();
        let [conflict] = &conflicts[..] else { panic!("{text}: {conflicts:?}") };
        let message = conflict.to_string();
        assert_eq!(conflict.rule.key(), key, "{message}");
        assert!(message.starts_with("net.b: "), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn devices_must_not_share_what_is_one_ones_own() {
    let mac = "mac=02:ca:4e:00:00:01";
    for (first, second, key) in [
        (format!("tap=a,{mac}"), format!("user,{mac}"), "mac"),
        ("tap=a".to_owned(), "tap=a".to_owned(), "tap"),
        ("tap_fd=3".to_owned(), "tap_fd=3".to_owned(), "tap_fd"),
        ("user,forward=80".to_owned(), "user,forward=127.0.0.1:80".to_owned(), "forward"),
    ] {
        let conflicts = resolved(&[&first, &second]).unwrap_err();
        assert_eq!((conflicts.len(), conflicts[0].name.as_str()), (1, "net.b"));
        assert_eq!(conflicts[0].rule.key(), key);
        assert!(conflicts[0].to_string().contains("net.a"), "{}", conflicts[0]);
    }
    let separate = ["bridge=br0", "bridge=br0", "user,forward=80", "user,forward=udp:80"];
    assert_eq!(resolved(&separate).unwrap().len(), 4);
}

#[test]
fn every_problem_is_reported() {
    let conflicts = resolved(&["mtu=1,queues=0", "tap=a", "tap=a"]).unwrap_err();
    assert_eq!(conflicts.len(), 4, "{conflicts:?}");
}
