//! The description against what the server does.

use std::collections::BTreeSet;

use super::super::problem::{Kind, Problem};
use super::super::routes::{ROUTES, description};
use super::super::types::{Event, RunState, Statistics, Vm};
use super::*;

/// The operation with this id.
fn operation<'a>(document: &'a Value, id: &str) -> &'a Value {
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    operations.into_iter().find(|operation| operation["operationId"] == id).unwrap()
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

/// What `reference` leads to if `schema` is one.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => schema,
    }
}

#[test]
fn answers_have_the_fields_that_are_described() {
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
    let problem = Problem::new(Kind::State, "the guest is paused already").response();
    let problem: Value = serde_json::from_slice(&problem.body).unwrap();
    let answer = |id| &operation(&document, id)["responses"]["200"]["content"];
    let of_problem = &document["components"]["responses"]["Problem"]["content"];
    for (schema, value) in [
        (&answer("getVm")["application/json"]["schema"], json!(vm)),
        (&answer("getStatistics")["application/json"]["schema"], json!(Statistics::default())),
        (&answer("getEvents")[LINES]["x-itemSchema"], json!(Event::default())),
        (&of_problem["application/problem+json"]["schema"], problem),
    ] {
        let schema = resolved(&document, schema);
        let described = schema["properties"].as_object().unwrap();
        let required = schema["required"].as_array().into_iter().flatten();
        for name in value.as_object().unwrap().keys() {
            assert!(described.contains_key(name), "{name} is not in {schema}");
        }
        for name in required {
            assert!(value.get(name.as_str().unwrap()).is_some(), "{name} is not in {value}");
        }
    }
}

#[test]
fn bodies_of_requests_have_no_fields_beside_those_described() {
    let document = description();
    let with_body: Vec<_> = ROUTES.iter().filter(|route| route.body.is_some()).collect();
    assert!(!with_body.is_empty());
    for route in with_body {
        let body = &operation(&document, route.id)["requestBody"];
        assert_eq!(body["required"], true);
        let schema = resolved(&document, &body["content"]["application/json"]["schema"]);
        assert_eq!(schema["additionalProperties"], false, "{}", route.id);
    }
}
