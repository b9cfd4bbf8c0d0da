//! Guests on a file system of their own.

use std::thread;

use resources::config::VmSpec;
use tempfile::TempDir;

use super::*;
use crate::guests::{Ended, State};
use crate::jail::Settings;

pub(crate) fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let folders = Folders {
        state: folder.path().join("state"),
        runtime: folder.path().join("run"),
        tenants: folder.path().join("tenants"),
    };
    (folder, Store::new(folders))
}

fn config() -> VmConfig {
    let spec = VmSpec { kernel: Some("/boot/vmlinuz".into()), ..VmSpec::default() };
    spec.resolve().unwrap()
}

pub(crate) fn new(name: Option<&str>) -> New {
    New {
        name: name.map(|name| name.parse().unwrap()),
        folder: "/".into(),
        kvm_device: "/dev/kvm".into(),
        labels: BTreeMap::new(),
        restart: Restart::No,
        remove: false,
        confinement: Settings::default(),
        detached: true,
        of_file: false,
        config: config(),
    }
}

fn names(store: &Store) -> Vec<String> {
    store
        .entries()
        .unwrap()
        .into_iter()
        .map(|entry| entry.unwrap().guest.name.to_string())
        .collect()
}

#[test]
fn a_store_that_was_never_used_is_empty_and_stays_unmade() {
    let (folder, store) = store();
    assert!(store.entries().unwrap().is_empty());
    assert!(matches!(store.find("web"), Err(Error::NotFound(_))));
    assert!(!folder.path().join("state").exists());
}

#[test]
fn a_guest_is_found_by_name_by_id_and_by_the_beginning_of_either() {
    let (_folder, store) = store();
    let web = store.create(new(Some("web-1"))).unwrap();
    store.create(new(Some("web-2"))).unwrap();
    let found = |text: &str| store.find(text).map(|entry| entry.guest);
    assert_eq!(found("web-1").unwrap(), web.guest);
    assert_eq!(found(web.guest.id.as_str()).unwrap(), web.guest);
    assert_eq!(found(&web.guest.id.as_str()[..9]).unwrap(), web.guest);
    assert!(matches!(found("web"), Err(Error::Ambiguous { count: 2, .. })));
    assert!(matches!(found(""), Err(Error::NotFound(_))));
    assert!(matches!(found("web-3"), Err(Error::NotFound(_))));
}

#[test]
fn names_are_unique_and_free_again_after_removal() {
    let (_folder, store) = store();
    let web = store.create(new(Some("web"))).unwrap();
    assert!(matches!(store.create(new(Some("web"))), Err(Error::NameTaken { .. })));
    store.remove(&web).unwrap();
    store.remove(&web).unwrap();
    assert!(names(&store).is_empty());
    store.create(new(Some("web"))).unwrap();
}

#[test]
fn fifty_at_once_get_fifty_names() {
    let (_folder, store) = store();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| store.create(new(None)).unwrap());
        }
    });
    let mut names = names(&store);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 50);
}

#[test]
fn of_those_who_want_one_name_at_once_one_gets_it() {
    let (_folder, store) = store();
    let got = thread::scope(|scope| {
        let asking: Vec<_> =
            (0..20).map(|_| scope.spawn(|| store.create(new(Some("web"))).is_ok())).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).filter(|&got| got).count()
    });
    assert_eq!((got, names(&store).len()), (1, 1));
}

#[test]
fn a_renamed_guest_goes_by_its_new_name_alone() {
    let (_folder, store) = store();
    let mut web = store.create(new(Some("web"))).unwrap();
    store.create(new(Some("db"))).unwrap();
    assert!(matches!(store.rename(&mut web, "db".parse().unwrap()), Err(Error::NameTaken { .. })));
    let mut web = store.find("web").unwrap();
    store.rename(&mut web, "front".parse().unwrap()).unwrap();
    assert!(store.find("web").is_err());
    assert_eq!(store.find("front").unwrap().guest.id, web.guest.id);
    store.create(new(Some("web"))).unwrap();
}

#[test]
fn what_a_killed_command_left_is_swept() {
    let (_folder, store) = store();
    let web = store.create(new(Some("web"))).unwrap();
    let guests = store.folders().state.join("guests");
    // Killed while creating, while removing, and after removing the lasting part.
    fs::create_dir(guests.join("0123456789ab")).unwrap();
    fs::rename(&web.state, guests.join(format!("{}.removed", web.guest.id))).unwrap();
    assert!(names(&store).is_empty());
    store.create(new(Some("web"))).unwrap();
    store.sweep();
    assert_eq!(fs::read_dir(&guests).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&store.folders().runtime).unwrap().count(), 1);
}

#[test]
fn a_guest_that_says_it_is_another_is_neither() {
    let (_folder, store) = store();
    let [one, two] = ["one", "two"].map(|name| store.create(new(Some(name))).unwrap());
    let of = |entry: &Entry| entry.state_folder().join("guest.json");
    std::fs::copy(of(&one), of(&two)).unwrap();
    let refused = store.load(&two.guest.id).unwrap_err().to_string();
    assert!(refused.contains(&one.guest.id.to_string()), "{refused}");
    assert_eq!(store.load(&one.guest.id).unwrap().unwrap().guest.name, one.guest.name);
}

#[test]
fn a_damaged_or_newer_guest_is_reported_beside_the_others() {
    let (_folder, store) = store();
    let web = store.create(new(Some("web"))).unwrap();
    store.create(new(Some("db"))).unwrap();
    let path = web.state.join("guest.json");
    let text = fs::read_to_string(&path).unwrap();
    for bad in ["", "{}", &text.replace("\"version\": 1", "\"version\": 2")] {
        fs::write(&path, bad).unwrap();
        let (good, errors): (Vec<_>, Vec<_>) =
            store.entries().unwrap().into_iter().partition(Result::is_ok);
        assert_eq!(good.len(), 1);
        let error = errors.into_iter().next().unwrap().unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

#[test]
fn fields_that_a_newer_version_added_are_skipped() {
    let (_folder, store) = store();
    let web = store.create(new(Some("web"))).unwrap();
    let path = web.state.join("guest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen('{', "{ \"later\": [1],", 1)).unwrap();
    assert_eq!(store.find("web").unwrap().guest, web.guest);
}

#[test]
fn a_guest_is_created_then_exited_once_it_has_a_record() {
    let (_folder, store) = store();
    let web = store.create(new(Some("web"))).unwrap();
    assert_eq!(web.status().unwrap().state, State::Created);
    let mut record = Record::begin(1, 0);
    web.write_record(&record).unwrap();
    assert!(web.status().unwrap().is_lost());
    record.ended = Some(Ended::failed("no kernel".to_owned()));
    web.write_record(&record).unwrap();
    let status = web.status().unwrap();
    assert_eq!((status.state, status.is_lost()), (State::Exited, false));
    assert_eq!(status.record, Some(record));
}

#[test]
fn a_record_that_a_host_lost_with_its_power_is_none() {
    let (_folder, store) = store();
    let web = store.create(new(Some("web"))).unwrap();
    web.begin_record(&Record::begin(1, 0)).unwrap();
    let path = web.state.join("record.json");
    fs::write(&path, "").unwrap();
    assert_eq!((web.record().unwrap(), web.status().unwrap().state), (None, State::Created));
    fs::write(&path, "{").unwrap();
    assert!(matches!(web.record(), Err(Error::Damaged { .. })));
}

/// Whether all fields of `old` are in `new` with the same values.
fn keeps(old: &serde_json::Value, new: &serde_json::Value) -> bool {
    match (old.as_object(), new.as_object()) {
        (Some(old), Some(new)) => {
            old.iter().all(|(key, old)| new.get(key).is_some_and(|new| keeps(old, new)))
        }
        _ => old == new,
    }
}

#[test]
fn what_the_first_version_wrote_is_read_and_nothing_of_it_lost_when_it_is_written_again() {
    let (_folder, store) = store();
    let golden = [
        ("guest.json", include_str!("golden/guest.json")),
        ("record.json", include_str!("golden/record.json")),
    ];
    let folder = store.folders().state.join("guests/13ba8d34376c");
    make(&folder).unwrap();
    make(&store.folders().state.join("names")).unwrap();
    for (name, text) in golden {
        fs::write(folder.join(name), text).unwrap();
    }
    let events = include_str!("golden/events.ndjson");
    fs::write(store.journal().path(), events).unwrap();

    let entry = store.find("13ba").unwrap();
    assert_eq!((entry.guest.name.as_str(), entry.guest.config.vcpus), ("web-1", 2));
    let status = entry.status().unwrap();
    let ended = status.record.as_ref().unwrap().ended.clone().unwrap();
    assert_eq!((status.state, ended.kind.as_str()), (State::Exited, "killed"));
    assert_eq!(store.journal().last_end(&entry.guest.id).unwrap().exit_code, 137);
    entry.save().unwrap();
    entry.write_record(&status.record.unwrap()).unwrap();
    for (name, text) in golden {
        let written = fs::read_to_string(folder.join(name)).unwrap();
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert!(keeps(&value(text), &value(&written)), "{name}: {written}");
    }
}

#[test]
fn everything_is_for_the_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, store) = store();
    let web = store.create(new(Some("web"))).unwrap();
    for path in [&web.state, &web.runtime, &web.state.join("guest.json")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{path:?}");
    }
}
