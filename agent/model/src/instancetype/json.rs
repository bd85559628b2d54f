//! Fields of a JSON object by dotted path. Null and absent are the same.

use serde_json::{Map, Value};

/// A field that is there.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let found = path.split('.').try_fold(value, |value, name| value.get(name))?;
    (!found.is_null()).then_some(found)
}

/// Whether a field says something: Go's clients write the zero of a type that has no absence. An empty object is said.
pub(super) fn says(value: &Value, path: &str) -> bool {
    at(value, path).is_some_and(|found| match found {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        Value::Object(_) => true,
        Value::Null => false,
    })
}

/// The object at a path, made where it is missing. What is no object on the way is replaced.
pub(super) fn object<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut node = map(value);
    for name in path.split('.').filter(|name| !name.is_empty()) {
        node = map(node.entry(name).or_insert(Value::Null));
    }
    node
}

fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

/// Sets a field.
pub(super) fn put(value: &mut Value, path: &str, new: Value) {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    object(value, parent).insert(name.to_owned(), new);
}

/// Sets a field that is absent, null or an empty text.
pub(super) fn put_absent(value: &mut Value, path: &str, new: &Value) {
    let there = at(value, path).is_some_and(|found| found.as_str() != Some(""));
    if !there {
        put(value, path, new.clone());
    }
}

/// A whole number at a path; 0 if there is none.
pub(super) fn count(value: &Value, path: &str) -> i64 {
    at(value, path).and_then(Value::as_i64).unwrap_or_default()
}

/// A text at a path; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// A quantity at a path as it is written: it may be a number.
pub(super) fn quantity(value: &Value, path: &str) -> Option<String> {
    let found = at(value, path)?;
    Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
}

/// The elements of a list.
pub(super) fn elements<'a>(value: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> {
    let pointer = format!("/{}", path.replace('.', "/"));
    value.pointer_mut(&pointer).and_then(Value::as_array_mut).into_iter().flatten()
}
