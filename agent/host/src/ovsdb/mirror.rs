//! A copy of the monitored tables, kept by the server's updates (`update3` of ovsdb-server(7)). Refuses to guess: an
//! update of a row it does not have is an error, and the session starts over with a full dump.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::OvsdbError;
use super::value::{Datum, Row};

/// The monitored rows, by table and row id. Clones are cheap: rows are shared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tables {
    tables: BTreeMap<String, BTreeMap<Uuid, Arc<Row>>>,
}

/// Which columns hold at most one value: in their updates the new value stands, in others the difference.
#[derive(Debug, Clone, Default)]
pub(super) struct Scalars(BTreeSet<(String, String)>);

impl Tables {
    /// The rows of a table.
    pub fn rows(&self, table: &str) -> impl Iterator<Item = (Uuid, &Row)> {
        self.tables.get(table).into_iter().flatten().map(|(uuid, row)| (*uuid, row.as_ref()))
    }

    /// One row.
    #[must_use]
    pub fn row(&self, table: &str, uuid: Uuid) -> Option<&Row> {
        self.tables.get(table)?.get(&uuid).map(Arc::as_ref)
    }

    /// Applies `<table-updates2>`.
    pub(super) fn apply(&mut self, updates: &Value, scalars: &Scalars) -> Result<(), OvsdbError> {
        let tables = updates.as_object().ok_or_else(|| OvsdbError::malformed("table updates are no object"))?;
        for (table, rows) in tables {
            let rows = rows.as_object().ok_or_else(|| OvsdbError::malformed("row updates are no object"))?;
            for (uuid, update) in rows {
                let uuid = uuid.parse().map_err(|_| OvsdbError::malformed("a row's id is no UUID"))?;
                self.apply_row(table, uuid, update, scalars)?;
            }
        }
        Ok(())
    }

    fn apply_row(&mut self, table: &str, uuid: Uuid, update: &Value, scalars: &Scalars) -> Result<(), OvsdbError> {
        let rows = self.tables.entry(table.to_owned()).or_default();
        let update = update.as_object().and_then(|update| update.iter().next());
        match update {
            Some((kind, row)) if kind == "initial" || kind == "insert" => {
                rows.insert(uuid, Arc::new(Row::from_json(row)?));
            }
            Some((kind, _)) if kind == "delete" => {
                rows.remove(&uuid);
            }
            Some((kind, difference)) if kind == "modify" => {
                let known = rows.get(&uuid).ok_or_else(|| OvsdbError::malformed("an unknown row was modified"))?;
                let mut row = Row::clone(known);
                for (column, change) in Row::from_json(difference)?.0 {
                    let scalar = scalars.0.contains(&(table.to_owned(), column.clone()));
                    let old = row.0.remove(&column);
                    row.0.insert(column, changed(old, change, scalar));
                }
                rows.insert(uuid, Arc::new(row));
            }
            _ => return Err(OvsdbError::malformed("a row update is of no known kind")),
        }
        Ok(())
    }
}

impl Scalars {
    /// Reads a database schema (RFC 7047, section 3.2).
    pub(super) fn of_schema(schema: &Value) -> Self {
        let mut scalars = BTreeSet::new();
        let tables = schema.get("tables").and_then(Value::as_object);
        for (table, definition) in tables.into_iter().flatten() {
            let columns = definition.get("columns").and_then(Value::as_object);
            for (column, definition) in columns.into_iter().flatten() {
                let kind = definition.get("type");
                let max = kind.and_then(|kind| kind.get("max"));
                let is_map = kind.and_then(|kind| kind.get("value")).is_some();
                if !is_map && max.is_none_or(|max| max.as_u64() == Some(1)) {
                    scalars.insert((table.clone(), column.clone()));
                }
            }
        }
        Self(scalars)
    }
}

/// A column after a change: for scalars the new value, for sets the symmetric difference, for maps the pairs that
/// appeared or vanished (as they were) or have a new value.
fn changed(old: Option<Datum>, change: Datum, scalar: bool) -> Datum {
    match (old, change) {
        (_, new) if scalar => new,
        (None, new) => new,
        (Some(Datum::Set(old)), Datum::Set(change)) => Datum::Set(old.symmetric_difference(&change).cloned().collect()),
        (Some(Datum::Map(mut old)), Datum::Map(change)) => {
            for (key, value) in change {
                if old.get(&key) == Some(&value) {
                    old.remove(&key);
                } else {
                    old.insert(key, value);
                }
            }
            Datum::Map(old)
        }
        // An empty map and an empty set look alike until a value says which it is.
        (Some(_), new) => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scalars() -> Scalars {
        Scalars::of_schema(&json!({"tables": {"Port": {"columns": {
            "name": {"type": "string"},
            "tag": {"type": {"key": {"type": "integer"}, "min": 0, "max": 1}},
            "trunks": {"type": {"key": {"type": "integer"}, "min": 0, "max": 4096}},
            "external_ids": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
        }}}}))
    }

    fn check(updates: &[Value], expected: &Value) {
        let uuid = Uuid::from_u128(7);
        let mut tables = Tables::default();
        for update in updates {
            let update = json!({"Port": {uuid.to_string(): update}});
            tables.apply(&update, &scalars()).expect("a valid update");
        }
        let expected = (!expected.is_null()).then(|| Row::from_json(expected).expect("a valid row"));
        assert_eq!(tables.row("Port", uuid), expected.as_ref());
    }

    #[test]
    fn rows_come_change_and_go() {
        let insert = json!({"insert": {"name": "p", "trunks": ["set", [1, 2]],
            "external_ids": ["map", [["a", "1"], ["b", "2"]]]}});
        let modify = json!({"modify": {"tag": 5, "trunks": ["set", [2, 3]],
            "external_ids": ["map", [["a", "1"], ["b", "9"], ["c", "3"]]]}});
        let after = json!({"name": "p", "tag": 5, "trunks": ["set", [1, 3]],
            "external_ids": ["map", [["b", "9"], ["c", "3"]]]});
        check(&[insert.clone(), modify.clone()], &after);
        let untag = json!({"modify": {"tag": ["set", []]}});
        let mut untagged = after;
        untagged["tag"] = json!(["set", []]);
        check(&[insert.clone(), modify, untag], &untagged);
        check(&[insert, json!({"delete": null})], &Value::Null);
    }

    #[test]
    fn a_change_of_an_unknown_row_is_refused() {
        let update = json!({"Port": {Uuid::nil().to_string(): {"modify": {"tag": 1}}}});
        assert!(Tables::default().apply(&update, &scalars()).is_err());
    }
}
