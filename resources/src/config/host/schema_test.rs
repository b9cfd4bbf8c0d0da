use super::*;

/// The schema at `path` of `schema`; in a choice, that of the first form that has it.
fn at<'s>(schema: &'s Value, path: &str) -> Option<&'s Value> {
    if path.is_empty() {
        return Some(schema);
    }
    if let Some(Value::Array(forms)) = schema.get("anyOf") {
        return forms.iter().find_map(|form| at(form, path));
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let inner = match first {
        "*" => match schema.get("patternProperties") {
            Some(patterns) => patterns.as_object()?.values().next()?,
            None => schema.get("additionalProperties")?,
        },
        _ => schema.get("properties")?.get(first)?,
    };
    at(inner, rest)
}

#[test]
fn every_key_is_in_the_schema_with_its_meaning() {
    let schema = json_schema();
    let of_vm = SHARE_KEYS.iter().chain(KEYS).filter(|key| key.path != "name");
    let of_vm = of_vm.flat_map(|key| {
        [format!("vm.*.{}", key.path), format!("defaults.{}", key.path)].map(|path| (path, key))
    });
    let all = HOST_KEYS.iter().map(|key| (key.path.to_owned(), key)).chain(of_vm);
    for (path, key) in all {
        let found = at(&schema, &path).unwrap_or_else(|| panic!("no {path} in\n{schema:#}"));
        let text = found.get("description").and_then(Value::as_str).unwrap_or_default();
        assert!(text.starts_with(key.meaning), "{path}: {text}");
    }
    assert!(at(&schema, "vm.*.name").is_none());
}

#[test]
fn nothing_but_keys_of_the_tables_is_described() {
    let text = json_schema().to_string();
    for word in ["See [`", "\"$ref\"", "null"] {
        // Not the whole schema, which is long.
        let around =
            text.find(word).map(|at| text[..at].chars().rev().take(200).collect::<Vec<_>>());
        let around = around.map(|reversed| reversed.into_iter().rev().collect::<String>());
        assert_eq!(around, None, "{word} is in the schema");
    }
}
