//! The JSON schema of a host file, made from the types that read it, its descriptions from the
//! tables of keys.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::super::{KEYS, Key, VmSpec};
use super::{HOST_KEYS, HostSection, PoolSpec, SHARE_KEYS, ShareSpec, TenantSpec};

/// The schema (JSON Schema, draft 2020-12) of `carve.toml`.
#[must_use]
pub fn json_schema() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let mut guest = of::<VmSpec>(&mut generator);
    let share = of::<ShareSpec>(&mut generator);
    if let (Some(guest), Some(Value::Object(share))) =
        (properties(&mut guest), share.get("properties").cloned())
    {
        guest.extend(share);
        guest.remove("name");
    }
    for key in SHARE_KEYS.iter().chain(KEYS).filter(|key| key.path != "name") {
        describe(&mut guest, key, key.path);
    }
    let name = json!({ "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" });
    let named = |schema: Value| json!({ "type": "object", "propertyNames": name, "additionalProperties": schema });
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Host file of Carve",
        "type": "object",
        "properties": {
            "version": { "const": 1 },
            "host": of::<HostSection>(&mut generator),
            "pool": named(of::<PoolSpec>(&mut generator)),
            "tenant": named(of::<TenantSpec>(&mut generator)),
        },
        "additionalProperties": false,
    });
    HOST_KEYS.iter().for_each(|key| describe(&mut schema, key, key.path));
    if let Some(sections) = properties(&mut schema) {
        sections.insert("defaults".to_owned(), guest.clone());
        sections.insert("vm".to_owned(), named(guest));
    }
    schema
}

/// The schema of `T`, without the comments of its source.
fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let mut schema = T::json_schema(generator).to_value();
    strip(&mut schema);
    schema
}

fn properties(schema: &mut Value) -> Option<&mut Map<String, Value>> {
    schema.get_mut("properties")?.as_object_mut()
}

/// Takes out what schemars made of comments: the tables of keys describe everything.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            // Not a key of that name, which is an object.
            for word in ["description", "title"] {
                if object.get(word).is_some_and(Value::is_string) {
                    object.remove(word);
                }
            }
            without_null(object);
            object.values_mut().for_each(strip);
        }
        Value::Array(array) => array.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Takes out that a value can be null, which TOML does not have: a key is left out instead.
fn without_null(object: &mut Map<String, Value>) {
    if object.get("default") == Some(&Value::Null) {
        object.remove("default");
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(forms)) = object.get_mut("anyOf") {
        forms.retain(|form| form.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(only)] = forms.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            object.extend(only);
        }
    }
}

/// Writes what `key` means wherever `path` leads to in `schema`.
fn describe(schema: &mut Value, key: &Key, path: &str) {
    if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        return forms.iter_mut().for_each(|form| describe(form, key, path));
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let inner = match first {
        // What may stand under any name; under any that is a name, if the type has names as keys.
        "*" if schema.get("patternProperties").is_some() => schema
            .get_mut("patternProperties")
            .and_then(|properties| properties.as_object_mut()?.values_mut().next()),
        "*" => schema.get_mut("additionalProperties"),
        _ => schema.get_mut("properties").and_then(|properties| properties.get_mut(first)),
    };
    let Some(inner) = inner else { return };
    if !rest.is_empty() {
        return describe(inner, key, rest);
    }
    if let Some(object) = inner.as_object_mut() {
        let mut text = format!("{}. Takes {}", key.meaning, key.takes);
        if !key.default.is_empty() {
            text.push_str(&format!(". Default: {}", key.default));
        }
        object.insert("description".to_owned(), text.into());
    }
}

#[cfg(test)]
#[path = "schema_test.rs"]
mod schema_test;
