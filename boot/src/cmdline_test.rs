use super::*;

#[test]
fn user_text_follows_the_defaults() {
    let line = CommandLine::new(" root=/dev/vda  quiet ").unwrap();
    assert_eq!(line.as_str(), "console=ttyS0 panic=-1 root=/dev/vda  quiet");
    assert_eq!(CommandLine::new("").unwrap().as_str(), DEFAULTS);
    let line = CommandLine::on_virtio_console(1, "quiet").unwrap();
    assert_eq!(line.as_str(), "console=hvc1 panic=-1 quiet");
}

#[test]
fn nul_and_line_breaks_are_refused_with_their_place_in_the_users_text() {
    assert_eq!(CommandLine::new("ro\0x"), Err(Error::Nul(2)));
    assert_eq!(CommandLine::new("ro\nquiet"), Err(Error::LineBreak(2)));
    assert_eq!(CommandLine::exactly("\r"), Err(Error::LineBreak(0)));
}

#[test]
fn flags_match_whole_words_only() {
    let line = CommandLine::exactly("xnokaslr nokaslr=1 foo.nokaslr").unwrap();
    assert!(!line.has_flag("nokaslr"));
    for text in ["nokaslr", "quiet nokaslr", "nokaslr\tquiet", "init=/bin/sh -- nokaslr"] {
        assert!(CommandLine::exactly(text).unwrap().has_flag("nokaslr"), "{text:?}");
    }
}

#[test]
fn values_are_found_by_their_whole_name() {
    let line = CommandLine::exactly("mem=1G memtest=3 initramfs").unwrap();
    assert!(line.has_value("mem") && line.has_value("memtest"));
    assert!(!line.has_value("memmap") && !line.has_value("initramfs"));
}
