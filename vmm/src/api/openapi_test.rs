//! The description against what the server does.

use std::collections::BTreeSet;

use super::super::problem::{Kind, Problem};
use super::super::routes::{ROUTES, description};
use super::super::types::{Event, RunState, Statistics, Vm};
use super::super::{host, http};
use super::*;

/// The operation with this id.
fn operation<'a>(document: &'a Value, id: &str) -> &'a Value {
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    operations.into_iter().find(|operation| operation["operationId"] == id).unwrap()
}

/// Both interfaces.
fn documents() -> [Value; 2] {
    [description(), host::description()]
}

/// Path, method and name of each operation there is.
fn described(document: &Value) -> BTreeSet<(String, String, String)> {
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(!operation["summary"].as_str().unwrap().is_empty());
            described.insert((path.clone(), method.to_uppercase(), id.to_owned()));
        }
    }
    described
}

fn served<S>(routes: &[Route<S>]) -> BTreeSet<(String, String, String)> {
    let of = |route: &Route<S>| {
        (route.path.to_owned(), route.method.name().to_owned(), route.id.to_owned())
    };
    routes.iter().map(of).collect()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let [guest, host] = documents();
    assert_eq!(described(&guest), served(ROUTES));
    assert_eq!(described(&host), served(host::ROUTES));
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
    for document in documents() {
        check(&document, &document);
    }
}

#[test]
fn only_the_description_itself_is_an_object_of_any_kind() {
    for document in documents() {
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (_, operation) in operations.as_object().unwrap() {
                let answer = &operation["responses"]["200"]["content"]["application/json"];
                let schema = resolved(&document, &answer["schema"]);
                let typed = schema["properties"].is_object() || schema["anyOf"].is_array();
                let is_json = answer.is_object() && !path.ends_with("openapi.json");
                assert!(typed || !is_json, "{path}: {schema}");
            }
        }
    }
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
    let [guest, host] = documents();
    let with_body = [with_body(ROUTES), with_body(host::ROUTES)];
    for (document, ids) in [guest, host].iter().zip(with_body) {
        assert!(!ids.is_empty());
        for id in ids {
            let body = &operation(document, id)["requestBody"];
            assert_eq!(body["required"], true);
            let schema = resolved(document, &body["content"]["application/json"]["schema"]);
            assert_eq!(schema["additionalProperties"], false, "{id}");
        }
    }
}

fn with_body<S>(routes: &[Route<S>]) -> Vec<&'static str> {
    let takes_one = |route: &&Route<S>| {
        let body = route.body.is_some();
        assert!(!body || route.method != http::Method::Get);
        body
    };
    routes.iter().filter(takes_one).map(|route| route.id).collect()
}
