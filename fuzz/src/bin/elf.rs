//! An ELF kernel, parsed and copied to guest memory.

#![no_main]

use boot::kernel::elf;
use carve_fuzz::guest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(elf) = elf::parse(&data, data.len() as u64) else { return };
    let layout = &elf.image.layout;
    assert!(layout.contains_address(layout.entry));
    let (memory, ram) = guest();
    let loaded = elf.image.load(&data, &memory, 0);
    assert!(loaded.is_ok() || layout.end() > ram.size());
});
