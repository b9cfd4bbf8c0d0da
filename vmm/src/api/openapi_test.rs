//! The description against what the server does.

use std::collections::BTreeSet;

use super::super::problem::{Kind, Problem};
use super::super::routes::{ROUTES, description};
use super::super::types::{
    BalloonUpdate, ConsoleSize, DiskStatistics, DiskUpdate, Event, LimitsUpdate, NetStatistics,
    NetUpdate, RunState, Statistics, VcpuStatistics, Vm,
};
use super::*;

/// Whether `value` is what `schema`, a part of `document`, describes.
fn is_valid(document: &Value, schema: &Value, value: &Value) -> bool {
    // References lead into the document's components.
    let whole = json!({ "allOf": [schema], "components": document["components"] });
    jsonschema::draft202012::new(&whole).unwrap().is_valid(value)
}

/// The operation with this id.
fn operation<'a>(document: &'a Value, id: &str) -> &'a Value {
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    operations.into_iter().find(|operation| operation["operationId"] == id).unwrap()
}

fn answer_schema<'a>(document: &'a Value, id: &str) -> &'a Value {
    &operation(document, id)["responses"]["200"]["content"]["application/json"]["schema"]
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = description();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(!operation["summary"].as_str().unwrap().is_empty());
            described.insert((path.clone(), method.to_uppercase(), id.to_owned()));
        }
    }
    let served = ROUTES
        .iter()
        .map(|route| (route.path.to_owned(), route.method.name().to_owned(), route.id.to_owned()));
    assert_eq!(described, served.collect());
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(document: &Value, part: &Value) {
        match part {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let place = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(place).is_some(), "{reference}");
                }
                fields.values().for_each(|field| check(document, field));
            }
            Value::Array(items) => items.iter().for_each(|item| check(document, item)),
            _ => {}
        }
    }
    let document = description();
    check(&document, &document);
}

#[test]
fn answers_are_as_they_are_described() {
    let document = description();
    let vm = Vm {
        id: "0123456789ab".into(),
        name: "web".into(),
        state: RunState::Paused,
        pid: 1,
        carve_version: "0.1.0".into(),
        vcpus: 2,
        memory: 1 << 30,
        resets: 0,
        started_at: u64::MAX,
    };
    let mut statistics =
        Statistics { vcpus: vec![VcpuStatistics::default()], ..Statistics::default() };
    statistics.disks.insert("root".into(), DiskStatistics { size: u64::MAX, ..Default::default() });
    statistics.nets.insert("lan".into(), NetStatistics::default());
    statistics.memory.available = Some(1);
    let problem = Problem::new(Kind::State, "the guest is paused already").response();
    let problem: Value = serde_json::from_slice(&problem.body).unwrap();
    let of_problem = &document["components"]["responses"]["Problem"]["content"];
    let of_event = &operation(&document, "getEvents")["responses"]["200"]["content"][LINES];
    for (schema, answer) in [
        (answer_schema(&document, "getVm"), json!(vm)),
        (answer_schema(&document, "getStatistics"), json!(statistics)),
        (answer_schema(&document, "getDescription"), document.clone()),
        (&of_event["x-itemSchema"], json!(Event::default())),
        (&of_problem["application/problem+json"]["schema"], problem),
    ] {
        assert!(is_valid(&document, schema, &answer), "{answer} is not {schema}");
        assert!(!is_valid(&document, schema, &json!([])), "{schema} takes anything");
    }
    let mut wrong = json!(vm);
    wrong["state"] = "asleep".into();
    assert!(!is_valid(&document, answer_schema(&document, "getVm"), &wrong));
}

#[test]
fn requests_are_as_they_are_described_and_unknown_fields_are_refused() {
    let document = description();
    let limits = LimitsUpdate { bytes_per_second: Some(1), operations_per_second: None };
    for (id, body) in [
        ("updateDisk", json!(DiskUpdate { size: Some(1 << 40), limits: Some(limits) })),
        ("updateNet", json!(NetUpdate { link_up: Some(true), ..NetUpdate::default() })),
        ("updateBalloon", json!(BalloonUpdate { target: 0 })),
        ("setConsoleSize", json!(ConsoleSize { columns: u16::MAX, rows: 0 })),
    ] {
        let body_of = &operation(&document, id)["requestBody"];
        let schema = &body_of["content"]["application/json"]["schema"];
        assert!(is_valid(&document, schema, &body), "{body} is not {schema}");
        let mut unknown = body.clone();
        unknown["unknown"] = 1.into();
        assert!(!is_valid(&document, schema, &unknown), "{schema} takes {unknown}");
    }
    let bodies = ROUTES.iter().filter(|route| route.body.is_some()).count();
    assert_eq!(bodies, 4, "the others have to be here, too");
}
