use vmm::api::types::MemoryStatistics;

use super::*;

fn seen(answered: bool) -> Seen {
    let memory = MemoryStatistics {
        size: 128 << 20,
        resident: 24 << 20,
        balloon: 16 << 20,
        available: Some(64 << 20),
        ..MemoryStatistics::default()
    };
    let rates = rates::Rates { cpu_percent: 99.5, disk_read: 2048, ..rates::Rates::default() };
    Seen {
        id: "0123456789ab".parse().unwrap(),
        name: "web".into(),
        state: if answered { State::Running } else { State::Exited },
        vcpus: 2,
        memory: 128 << 20,
        use_of_memory: answered.then_some(memory),
        rates: answered.then_some(rates),
    }
}

#[test]
fn a_guest_uses_what_is_neither_available_nor_in_its_balloon() {
    assert_eq!(seen(true).used(), Some(48 << 20));
    assert_eq!(seen(false).used(), None);
}

#[test]
fn what_is_not_known_is_a_dash_in_the_table_and_left_out_of_json() {
    let running = ["web", "running", "99.5", "24MiB / 128MiB", "48MiB", "2KiB", "0B", "0B", "0B"];
    assert_eq!(cells(&seen(true)), running);
    let ended = ["web", "exited", "-", "- / 128MiB", "-", "-", "-", "-", "-"];
    assert_eq!(cells(&seen(false)), ended);
    let json = serde_json::to_value(row(&seen(false))).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 5, "{json}");
    let json = serde_json::to_value(row(&seen(true))).unwrap();
    assert_eq!((&json["memory_held"], &json["cpu_percent"]), (&(24 << 20).into(), &99.5.into()));
}

#[test]
fn the_screen_is_not_left_whatever_the_number_of_guests() {
    let table = "HEAD\none\ntwo\nthree\n";
    assert_eq!(over(table, 24), "\x1b[HHEAD\x1b[K\none\x1b[K\ntwo\x1b[K\nthree\x1b[K\n\x1b[J");
    assert_eq!(over(table, 4), "\x1b[HHEAD\x1b[K\none\x1b[K\n … 2 more\x1b[K\n\x1b[J");
    assert_eq!(over(table, 1).lines().count(), 3);
}
