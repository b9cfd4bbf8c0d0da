//! What the interfaces were like when they first had a version, and that what was is still there: programs, and commands
//! of a newer Carve that talk to guests of an older one, rely on it. `golden/` has the descriptions, without their
//! prose, and answers; what is added since belongs there once it was in a release.

use serde_json::Value;

use super::types::{Statistics, Vm};
use super::{host, routes};

/// Whether everything of `old` is in `new`, too; else where the first difference is.
fn kept(at: &str, old: &Value, new: &Value) -> Result<(), String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let closed = new.get("additionalProperties") == Some(&Value::Bool(false));
            if closed && new.contains_key("required") && !old.contains_key("required") {
                return Err(format!("{at} requires something now"));
            }
            old.iter().try_for_each(|(key, old)| {
                let at = format!("{at}/{key}");
                let new = new.get(key).ok_or_else(|| format!("{at} is gone"))?;
                // What a request, which takes no unknown fields, must have never becomes more.
                if key == "required" && closed { kept(&at, new, old) } else { kept(&at, old, new) }
            })
        }
        (Value::Array(old), Value::Array(new)) => old.iter().try_for_each(|old| {
            let found = new.iter().any(|new| kept(at, old, new).is_ok());
            if found { Ok(()) } else { Err(format!("{at} has {old} no more")) }
        }),
        _ if old == new => Ok(()),
        _ => Err(format!("{at} was {old} and is {new}")),
    }
}

#[test]
fn what_was_described_once_stays() {
    let golden = [include_str!("golden/guest.json"), include_str!("golden/host.json")];
    for (golden, now) in golden.into_iter().zip([routes::description(), host::description()]) {
        kept("", &serde_json::from_str(golden).unwrap(), &now).unwrap();
    }
}

#[test]
fn a_field_or_path_that_went_and_one_more_that_is_required_are_noticed() {
    let golden: Value = serde_json::from_str(include_str!("golden/guest.json")).unwrap();
    let path = |document: &mut Value| {
        document["paths"].as_object_mut().unwrap().remove("/v1/pause");
    };
    let field = |document: &mut Value| {
        let vm = &mut document["components"]["schemas"]["Vm"];
        vm["properties"].as_object_mut().unwrap().remove("resets");
    };
    let required = |document: &mut Value| {
        document["components"]["schemas"]["DiskUpdate"]["required"] = serde_json::json!(["size"]);
    };
    for spoil in [&path as &dyn Fn(&mut Value), &field, &required] {
        let mut spoilt = golden.clone();
        spoil(&mut spoilt);
        kept("", &golden, &spoilt).unwrap_err();
    }
}

#[test]
fn answers_of_guests_that_the_first_version_started_are_understood() {
    let vm: Vm = serde_json::from_str(include_str!("golden/vm.json")).unwrap();
    assert_eq!((vm.name.as_str(), vm.vcpus), ("web-1", 2));
    let statistics: Statistics = serde_json::from_str(include_str!("golden/stats.json")).unwrap();
    assert_eq!((statistics.vcpus.len(), statistics.disks["disk0"].size), (2, 1 << 20));
}
