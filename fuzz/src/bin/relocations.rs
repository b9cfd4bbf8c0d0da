//! A relocation table, recognised and applied to a kernel of two segments.

#![no_main]

use boot::kernel::image::Layout;
use boot::kernel::relocations::Table;
use carve_fuzz::guest;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

const BASE: u64 = 16 << 20;
const GAP: std::ops::Range<u64> = BASE + 0x8000..BASE + 0xA000;
const END: u64 = BASE + 0x1_0000;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(table)) = Table::find(&data, 0, data.len() as u64) else { return };
    let layout = Layout {
        ranges: vec![BASE..GAP.start, GAP.end..END],
        entry: BASE,
        pvh_entry: None,
        linux: true,
    };
    let (memory, _) = guest();
    let _ = table.apply(&data, &layout, &memory, 0, 0x0123_4567);
    for (start, end) in [(BASE - 0x1000, BASE), (GAP.start, GAP.end), (END, END + 0x1000)] {
        let mut outside = vec![0; (end - start) as usize];
        memory.read_slice(&mut outside, GuestAddress(start)).expect("RAM");
        assert!(outside.iter().all(|byte| *byte == 0));
    }
});
