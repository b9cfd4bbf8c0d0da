//! What Carve keeps about guests and a divided host in files, and reads again after whatever happened to them: each is
//! refused, or leads to an answer. The first byte says which file it is.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use resources::config::host::HostConfig;
use resources::inventory::Host;
use resources::plan::{Options, Present, plan};
use serde_json::{Map, Value, from_slice};
use tempfile::TempDir;
use vmm::guests::log::{Query, Reader};
use vmm::guests::report::{Report, Summary};
use vmm::guests::{Folders, Store, live};

const ID: &str = "0123456789ab";

/// A place for the files of one guest, each replaced by every input that is for it.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new_in("/dev/shm").expect("memory");
    for part in ["state/guests", "run"] {
        fs::create_dir_all(folder.path().join(part).join(ID)).expect("memory");
    }
    folder
});

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let text = include_str!("../../../resources/src/plan/golden/hosts/plain.json");
    Host::from_json(text).expect("an inventory")
});

fn store() -> Store {
    let at = |part: &str| FOLDER.path().join(part);
    Store::new(Folders { state: at("state"), runtime: at("run"), tenants: at("tenants") })
}

fn put(file: &str, bytes: &[u8]) {
    fs::write(FOLDER.path().join(file), bytes).expect("memory");
}

/// Everything that is told about guests.
fn look() {
    for entry in store().entries().expect("a folder") {
        let Ok(entry) = entry else { continue };
        assert_eq!(entry.state_folder(), FOLDER.path().join("state/guests").join(ID));
        let Ok(status) = entry.status() else { continue };
        serde_json::to_string(&Summary::of(&entry, &status)).expect("JSON");
        if let Some(record) = &status.record {
            let words = live::last_words(&entry.vmm_path());
            assert!(record.lost(None, false, words.as_deref()).exit_code != 0);
        }
        serde_json::to_string(&Report::of(&entry, status)).expect("JSON");
    }
}

/// A plan from what the ledger says.
fn divide(bytes: &[u8]) {
    let Ok(mut ledger) = from_slice::<Map<String, Value>>(bytes) else { return };
    let mut part = |name| ledger.remove(name).unwrap_or_default();
    let config = serde_json::from_value::<HostConfig>(part("config"));
    let present = serde_json::from_value::<Present>(part("present"));
    if let (Ok(config), Ok(present)) = (config, present) {
        let plan = plan(&config, &HOST, &present, Options::default());
        let _ = present.after(&plan, &config, &HOST, true);
    }
}

fn read_log() {
    let folder = FOLDER.path().join("state/guests").join(ID);
    for tail in [None, Some(0), Some(3)] {
        let query = Query { tail, ..Query::default() };
        let Ok(mut reader) = Reader::open(&folder, &query) else { continue };
        while let Ok(Some(_)) = reader.read() {}
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((file, bytes)) = data.split_first() else { return };
    let guest = |name: &str| format!("state/guests/{ID}/{name}");
    match file % 6 {
        0 => put(&guest("guest.json"), bytes),
        1 => put(&guest("record.json"), bytes),
        2 => put(&format!("run/{ID}/vmm"), bytes),
        3 => put(&guest("console.times"), bytes),
        4 => put(&guest("console.log"), bytes),
        _ => return divide(bytes),
    }
    match file % 6 {
        0..3 => look(),
        _ => read_log(),
    }
});
