use super::*;

fn block_file(direct: Option<usize>) -> BlockFile {
    let file = tempfile::tempfile().unwrap();
    let (no_discard, lost) = Default::default();
    BlockFile { file, is_device: false, direct, no_discard, lost }
}

#[test]
fn after_a_flush_that_failed_none_succeeds() {
    let file = block_file(None);
    let failed = |number| file.flushed(Err(io::Error::from_raw_os_error(number)));
    assert!(failed(libc::EINTR).is_err() && file.flush().is_ok());
    assert!(failed(libc::EIO).is_err());
    assert!(file.flush().unwrap_err().to_string().contains("earlier flush"));
    // Direct writes fail themselves.
    let file = block_file(Some(512));
    assert!(file.flushed(Err(io::Error::from_raw_os_error(libc::EIO))).is_err());
    assert!(file.flush().is_ok());
}
