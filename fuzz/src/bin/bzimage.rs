//! A bzImage's header, and its payload through the decoders.

#![no_main]

use boot::kernel::bzimage::Header;
use boot::kernel::payload;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 4 << 20;

fuzz_target!(|data: &[u8]| {
    // Without a header all of the input is a payload, so that the decoders are reached often.
    let payload = match Header::parse(data, data.len() as u64) {
        Ok(header) => {
            let range = header.payload();
            &data[range.start as usize..range.end as usize]
        }
        Err(_) => data,
    };
    if let Ok(output) = payload::extract(payload, LIMIT) {
        assert!(output.len() <= LIMIT);
    }
});
