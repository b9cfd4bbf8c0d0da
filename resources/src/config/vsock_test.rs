use super::*;

fn vsock(cid: u32, socket: &str) -> Vsock {
    Vsock { cid, socket: socket.into() }
}

#[test]
fn a_flag_and_a_table_say_the_same() {
    for text in ["cid=3,socket=/run/vm.vsock", "socket=/run/vm.vsock,cid=3"] {
        assert_eq!(text.parse(), Ok(vsock(3, "/run/vm.vsock")));
    }
    let table = toml::from_str::<Vsock>("cid = 4294967294\nsocket = \"a,b\"").unwrap();
    assert_eq!(table, vsock(0xffff_fffe, "a,b"));
    assert_eq!(toml::from_str(&toml::to_string(&table).unwrap()), Ok(table));
    let shown = vsock(3, "vm=1").to_string();
    assert_eq!(shown.parse(), Ok(vsock(3, "vm=1")));
}

#[test]
fn errors_name_the_part_and_the_remedy() {
    let long = format!("cid=3,socket={}", "x".repeat(97));
    for (text, parts) in [
        ("", ["`` has no value", "cid=3,socket="]),
        ("3", ["`3` has no value", "write it as"]),
        ("cid=3", ["socket is missing", "write it as"]),
        ("socket=s", ["cid is missing", "write it as"]),
        ("cid=3,cid=4,socket=s", ["cid is given twice", "write it as"]),
        ("cid=x,socket=s", ["cid `x` is not a whole number", "write it as"]),
        ("cid=3,socket=s,port=1", ["`port` is not cid or socket", "write it as"]),
        ("cid=2,socket=s", ["cid is 2", "from 3 to 4294967294"]),
        ("cid=-1,socket=s", ["cid is -1", "from 3 to 4294967294"]),
        ("cid=4294967295,socket=s", ["cid is 4294967295", "choose"]),
        ("cid=3,socket=", ["socket is an empty path", "such as"]),
        ("cid=3,socket=a\0b", ["'\\0'", "leave it out"]),
        (&long, ["has 97 bytes", "at most 96"]),
    ] {
        let error = text.parse::<Vsock>().unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in {error}");
    }
}

#[test]
fn tables_are_checked_like_flags() {
    for (text, part) in [
        ("cid = 2\nsocket = \"s\"", "cid is 2"),
        ("cid = 4294967299\nsocket = \"s\"", "cid is 4294967299"),
        ("cid = 3\nsocket = \"\"", "empty path"),
        ("cid = 3", "missing field `socket`"),
        ("cid = 3\nsocket = \"s\"\nport = 1", "unknown field `port`"),
    ] {
        let error = toml::from_str::<Vsock>(text).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn the_longest_path_leaves_room_for_the_longest_port() {
    let path = "x".repeat(96);
    assert!(format!("cid=3,socket={path}").parse::<Vsock>().is_ok());
    assert_eq!(format!("{path}_{}", u32::MAX).len(), LONGEST_PATH);
}
