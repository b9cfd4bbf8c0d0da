//! Frames written and read back, whole and damaged.

use super::*;

#[test]
fn every_frame_reads_back() {
    let start = Start {
        command: vec!["echo".into(), "a b".into()],
        environment: BTreeMap::from([("HOME".into(), "/root".into())]),
        directory: "/work".into(),
        share: "/share".into(),
        modules: "/modules".into(),
        busybox: "/busybox".into(),
        terminal: Some(Size { columns: 80, rows: 24 }),
        now: 1,
    };
    let frames = [
        Frame::Start(start),
        Frame::Input(vec![0, 255, b'\n']),
        Frame::InputEnd,
        Frame::Resize(Size { columns: 1, rows: 2 }),
        Frame::Signal(15),
        Frame::Ping,
        Frame::Alive,
        Frame::Started,
        Frame::Output(Vec::new()),
        Frame::Error(b"oops".to_vec()),
        Frame::Ended(Ending::Signalled(9)),
    ];
    let mut wire = Vec::new();
    for frame in &frames {
        frame.send(&mut wire).unwrap();
    }
    let mut wire = &wire[..];
    for frame in frames {
        assert_eq!(Frame::receive(&mut wire).unwrap(), Some(frame));
    }
    assert_eq!(Frame::receive(&mut wire).unwrap(), None);
}

#[test]
fn a_frame_cut_short_is_an_error() {
    let mut wire = Vec::new();
    Frame::Output(b"abc".to_vec()).send(&mut wire).unwrap();
    wire.pop();
    assert!(Frame::receive(&mut &wire[..]).is_err());
}

#[test]
fn a_damaged_length_asks_for_no_memory() {
    let wire = [b'1', 0xff, 0xff, 0xff, 0xff];
    assert!(Frame::receive(&mut &wire[..]).is_err());
}
