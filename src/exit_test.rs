use std::collections::HashSet;

use super::*;

#[test]
fn codes_are_as_documented() {
    let guide = include_str!("../docs/user/exit-codes.md");
    for (end, expected) in [
        (End::PoweredOff, 0),
        (End::Rebooted, 0),
        (End::Panicked, 1),
        (End::Crashed { reason: String::new() }, 1),
        (End::ResetLoop { resets: 9, seconds: 9 }, 1),
        (End::DebugExit { code: 0 }, 1),
        (End::DebugExit { code: 0x2a }, 0x55),
        (End::DebugExit { code: 0xff }, 0xff),
        (End::Quit, 130),
        (End::Signal { number: libc::SIGTERM }, 143),
    ] {
        assert_eq!(end.code(), expected, "{end:?}");
        assert!(!end.message().is_empty());
        let kind = serde_json::to_value(&end).unwrap()["kind"].as_str().unwrap().to_owned();
        assert!(guide.contains(&format!("`{kind}`")), "{kind} is not in docs/user/exit-codes.md");
    }
}

#[test]
fn a_record_replaces_the_file_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.json");
    fs::write(&path, "old").unwrap();
    prepare_record(&path).unwrap();
    assert!(!path.exists(), "a record of an earlier run is not taken for this one's");
    Record::of_error("why".to_owned()).write(&path).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let expected = serde_json::json!({
        "version": 1, "end": { "kind": "error" }, "message": "why", "exit_code": 125, "resets": 0,
    });
    assert_eq!(record, expected);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_link_to_a_record_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::write(&path, "").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    Record::of_error(String::new()).write(&link).unwrap();
    assert!(link.is_symlink() && fs::read(&path).unwrap().starts_with(b"{"));
}

#[test]
fn devices_are_written_to_not_replaced() {
    let null = Path::new("/dev/null");
    prepare_record(null).unwrap();
    Record::of_error(String::new()).write(null).unwrap();
    assert!(is_special(null));
}

#[test]
fn a_place_that_takes_no_record_is_refused_before_the_run() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("none/record")] {
        let error = explain(&prepare_record(&path).unwrap_err());
        assert!(error.contains("--exit-record"), "{error}");
    }
}

#[test]
fn a_chain_says_each_cause_once() {
    let source = io::Error::other("the reason");
    let error = RecordError::Write { path: "p".into(), source };
    let text = explain(&error);
    assert!(text.ends_with(": the reason"), "{text}");
    let words: HashSet<_> = text.matches("the reason").collect();
    assert_eq!(words.len(), 1);
}
