use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use devices::virtio::VirtioDevice;
use devices::virtio::console::feature;
use tempfile::tempdir;

use super::*;

fn open_ports(texts: &[&str]) -> Result<ConsoleBackEnds, Error> {
    let port = |(number, text): (usize, &&str)| (format!("c{number}"), text.parse().unwrap());
    let ports: Vec<_> = texts.iter().enumerate().map(port).collect();
    ConsoleBackEnds::open(&ports, None)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn devices_are_made_after_every_reset() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let texts = [format!("socket={},name=agent", at("s")), format!("file={}", at("f"))];
    let back_ends = open_ports(&[&texts[0], &texts[1], "pty,name=screen", "off"]).unwrap();
    for _ in 0..3 {
        let device = back_ends.device().unwrap();
        assert_eq!(device.features() & feature::MULTIPORT, feature::MULTIPORT);
        assert_eq!(device.queue_sizes().len(), 2 * 4 + 2);
    }
    let names: Vec<_> = back_ends.ports.iter().map(|port| port.name.as_deref()).collect();
    assert_eq!(names, [None, None, Some("agent"), Some("screen")]);
    let terminals: Vec<_> = back_ends.terminals().map(|(name, _)| name).collect();
    assert_eq!(terminals, ["c2"]);
}

#[test]
fn files_are_appended_to_and_private() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("log");
    for _ in 0..2 {
        let back_ends = open_ports(&[&format!("file={}", path.display())]).unwrap();
        let Opened::Files { output: Some(output), .. } = &back_ends.ports[0].host else { panic!() };
        File::from(output.try_clone().unwrap()).write_all(b"line\n").unwrap();
    }
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"line\nline\n".to_vec(), 0o600));
    let error = open_ports(&["off", "file=/nonexistent/x"]).unwrap_err().to_string();
    assert!(error.starts_with("console.c1: cannot open /nonexistent/x: "), "{error}");
    assert!(error.contains("check the path"), "{error}");
}

#[test]
fn a_pseudo_terminal_is_raw_and_its_path_is_told() {
    let back_ends = open_ports(&["pty"]).unwrap();
    let (name, path) = back_ends.terminals().next().unwrap();
    assert_eq!(name, "c0");
    let Opened::Pty { master, .. } = &back_ends.ports[0].host else { panic!() };
    let mut slave =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap();
    let mut master = File::from(master.try_clone().unwrap());
    master.write_all(b"a\x03\n").unwrap();
    let mut bytes = [0; 3];
    slave.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"a\x03\n");
    slave.write_all(b"b\n").unwrap();
    let mut bytes = [0; 2];
    master.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"b\n");
}

#[test]
fn sockets_go_with_their_machine() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("socket");
    let text = format!("socket={}", path.display());
    let back_ends = open_ports(&[&text]).unwrap();
    drop(back_ends.device().unwrap());
    UnixStream::connect(&path).unwrap();
    let error = open_ports(&[&text]).unwrap_err().to_string();
    assert!(error.starts_with("console.c0: another process"), "{error}");
    drop(back_ends);
    assert!(!path.exists());
}
