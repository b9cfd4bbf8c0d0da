//! The file of a VM: read, and resolved into a configuration that is written into the files of its guest and read back.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use resources::config::{Error, File, KEYS, VmConfig, VmSpec, load};

/// Every problem is told, with a place that is in the text.
fn check(error: &Error, text: &[u8]) {
    assert!(!error.problems.is_empty() && !error.to_string().is_empty());
    let lines = String::from_utf8_lossy(text).lines().count().max(1);
    for location in error.problems.iter().filter_map(|problem| problem.location.as_ref()) {
        // A place may be right behind the last line.
        assert!((1..=lines + 1).contains(&location.line) && location.column >= 1);
    }
}

fuzz_target!(|text: &[u8]| {
    let file = match File::parse(Path::new("folder/vm.toml"), text.to_vec()) {
        Ok(file) => file,
        Err(error) => return check(&error, text),
    };
    for key in KEYS {
        let _ = file.locate(key.path);
    }
    match load(Some(&file), VmSpec::default()) {
        Ok(config) => {
            let written = serde_json::to_string(&config).expect("JSON");
            let read: VmConfig = serde_json::from_str(&written).expect("its own writing");
            assert_eq!(read, config);
        }
        Err(error) => check(&error, text),
    }
});
