//! The description of an interface in OpenAPI 3.1, made from its routes and their types.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::route::{Content, Route, schema};
use super::routes::LINES;
use super::types::{ProblemDocument, VERSION};

/// What is said about an interface as a whole.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Whose it is.
    pub title: &'static str,
    /// What `{name}` means in its paths.
    pub name: &'static str,
}

/// Describes `routes`.
pub fn document<S>(about: &About, routes: &[Route<S>]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = schema::<ProblemDocument>(&mut generator);
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(about, route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(route.method.name().to_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": about.title,
            "description": "HTTP/1.1 over a unix socket. Sizes are bytes and times are milliseconds unless a name \
                says otherwise. Fields are only ever added within a version; unknown ones in a request are refused.",
            "version": VERSION,
        },
        "servers": [{ "url": "http://localhost", "description": "any name will do: it is a unix socket" }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": { "Problem": {
                "description": "It was refused, and nothing has changed unless it says so",
                "content": { "application/problem+json": { "schema": problem } },
            } },
        },
    })
}

fn operation<S>(about: &About, route: &Route<S>, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "responses": responses(route, generator),
    });
    let mut parameters = Vec::new();
    if route.path.contains("{name}") {
        parameters.push(json!({
            "name": "name",
            "in": "path",
            "required": true,
            "description": about.name,
            "schema": { "type": "string", "minLength": 1, "pattern": "^[^/]+$" },
        }));
    }
    parameters.extend(route.query.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.summary,
            "schema": (parameter.schema)(generator),
        })
    }));
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = route.body {
        let content = json!({ "application/json": { "schema": body(generator) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn responses<S>(route: &Route<S>, generator: &mut SchemaGenerator) -> Value {
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    let content = |media: &str, schema: Value| json!({ "description": "It is there", "content": { media: { "schema": schema } } });
    let (status, answer) = match route.answer {
        Content::Nothing => ("204", json!({ "description": "It was done" })),
        Content::Json(schema) => ("200", content("application/json", schema(generator).to_value())),
        Content::Created(schema) => {
            let mut created = content("application/json", schema(generator).to_value());
            created["description"] = "It was made".into();
            created["headers"]["Location"] = json!({
                "description": "Its path", "required": true, "schema": { "type": "string" },
            });
            ("201", created)
        }
        Content::Lines(schema) => {
            let mut lines = content(LINES, json!({ "type": "string" }));
            lines["description"] = "A line of JSON each".into();
            // OpenAPI 3.1 has no word for it; 3.2 calls it so.
            lines["content"][LINES]["x-itemSchema"] = schema(generator).to_value();
            ("200", lines)
        }
        Content::Text(media) => ("200", content(media, json!({ "type": "string" }))),
        Content::Protocol(name) => {
            ("101", json!({ "description": format!("The connection goes over to {name}") }))
        }
    };
    json!({ status: answer, "4XX": problem, "5XX": problem })
}

#[cfg(test)]
#[path = "openapi_test.rs"]
mod openapi_test;
