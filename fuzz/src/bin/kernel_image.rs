//! A whole kernel file: recognised, unpacked, and loaded twice as after a reboot.

#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use boot::cmdline::CommandLine;
use boot::kernel::{Kernel, Options};
use boot::{BootSource, Protocol};
use carve_fuzz::guest;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::GuestAddress;

fuzz_target!(|data: &[u8]| {
    for protocol in [None, Some(Protocol::Pvh)] {
        let file = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC).expect("memfd"));
        file.write_all_at(data, 0).expect("memory");
        let options = Options { protocol, ..Options::default() };
        let Ok(kernel) = Kernel::open(file, Path::new("kernel"), &options) else { continue };
        let cmdline = CommandLine::new("").expect("no text");
        let source = BootSource { kernel, initrd: None, cmdline };
        for _ in 0..2 {
            let (memory, ram) = guest();
            if let Ok(entry) = source.load(&memory, &ram, GuestAddress(0xE_0000)) {
                assert!(entry.kernel.end <= ram.size());
            }
        }
    }
});
