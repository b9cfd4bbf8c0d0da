//! The sources of a host's configuration, one after each NUL: read, laid over one another, resolved, and planned on a
//! host, twice.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use resources::config::Error;
use resources::config::host::{HostConfig, Layers, Source};
use resources::inventory::Host;
use resources::plan::{Options, Present, plan};

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let text = include_str!("../../../resources/src/plan/golden/hosts/plain.json");
    Host::from_json(text).expect("an inventory")
});

/// VMs that a plan is made for: how long many take is a benchmark's business.
const GUESTS: usize = 64;

fn resolve(text: &[u8]) -> Result<HostConfig, Error> {
    let source = |(number, text): (usize, &[u8])| Source {
        path: format!("/etc/carve.d/{number}.toml").into(),
        content: text.to_vec(),
    };
    let layers = Layers::parse(text.split(|&byte| byte == 0).enumerate().map(source).collect())?;
    for value in layers.values() {
        assert!(!value.origin.is_empty());
        let _ = layers.locate(&value.key);
    }
    layers.resolve()
}

fuzz_target!(|text: &[u8]| {
    let config = match resolve(text) {
        Ok(config) => config,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let written = serde_json::to_string(&config).expect("JSON");
    let read: HostConfig = serde_json::from_str(&written).expect("its own writing");
    assert_eq!(read, config);
    if config.guests.len() > GUESTS {
        return;
    }
    let nothing = Present::default();
    let first = plan(&config, &HOST, &nothing, Options::default());
    let Some(present) = nothing.after(&first, &config, &HOST, false) else { return };
    let written = serde_json::to_string(&present).expect("JSON");
    let read: Present = serde_json::from_str(&written).expect("its own writing");
    assert_eq!(read, present);
    // What was admitted stays so, and there is nothing more to do.
    let second = plan(&config, &HOST, &present, Options::default());
    assert!(second.is_admitted(), "{:?}", second.conflicts);
    assert!(!second.has_changes(), "{:?}", second.actions);
});
