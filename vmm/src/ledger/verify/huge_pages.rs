//! Huge pages of a running guest: that its memory lies on them, by its process's map (proc(5), smaps).

use resources::Size;

/// The file that a guest's memory in huge pages is (`memfd_create(2)`).
const FILE: &str = "/memfd:carve-ram";

/// Bytes of guest memory that are mapped in pages of `page`.
pub(super) fn mapped(smaps: &str, page: Size) -> Size {
    let (mut bytes, mut is_ram, mut len) = (0u64, false, 0u64);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        match first.strip_suffix(':') {
            // The head of a mapping: addresses, access, offset, device, inode, path.
            None => (is_ram, len) = (words.nth(4).is_some_and(|path| path == FILE), 0),
            Some("Size") => len = kib(words.next()),
            Some("KernelPageSize") if is_ram && kib(words.next()) == page.bytes() => {
                bytes = bytes.saturating_add(len);
            }
            Some(_) => {}
        }
    }
    Size::from_bytes(bytes)
}

fn kib(word: Option<&str>) -> u64 {
    word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod huge_pages_test {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0004000000 rw-s 00000000 00:0f 1053 /memfd:carve-ram (deleted)
Size:              65536 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
VmFlags: rd wr sh mr mw me ms de ht dc
7f0010000000-7f0012000000 rw-s 00000000 00:0f 1054 /memfd:carve-ram (deleted)
Size:              32768 kB
KernelPageSize:     2048 kB
7f0020000000-7f0020400000 rw-s 00000000 00:0f 1055 /memfd:other (deleted)
Size:               4096 kB
KernelPageSize:     2048 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0    [stack]
Size:                132 kB
KernelPageSize:        4 kB
";

    #[test]
    fn only_guest_memory_in_pages_of_that_size_counts() {
        assert_eq!(mapped(SMAPS, Size::from_mib(2)), Size::from_mib(96));
        assert_eq!(mapped(SMAPS, Size::from_mib(1024)), Size::from_mib(0));
        assert_eq!(mapped(&SMAPS.replace("2048 kB", "4 kB"), Size::from_mib(2)).bytes(), 0);
        assert_eq!(mapped("", Size::from_mib(2)).bytes(), 0);
    }
}
