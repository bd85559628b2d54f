//! The operations of an OVSDB transaction and their results (RFC 7047, section 5.2). Owns their JSON; refuses to know
//! any table.

use serde_json::{Value, json};
use uuid::Uuid;

use super::OvsdbError;
use super::value::{Datum, Row};

/// Which rows an operation is about: all of these must hold. Empty: every row of the table.
pub type Where = Vec<(&'static str, Compare, Datum)>;

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `==`.
    Equal,
    /// The column contains the value.
    Includes,
}

/// How a column is mutated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutator {
    /// `+=`, for integers.
    Add,
    /// Members or pairs are added.
    Insert,
    /// Members or pairs are removed.
    Delete,
}

/// One step of a transaction: all of them happen, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes a row, which later operations may refer to by `name`.
    Insert {
        /// Table.
        table: &'static str,
        /// Columns that differ from their defaults.
        row: Row,
        /// The name for [`super::value::Atom::Named`].
        name: String,
    },
    /// Sets columns.
    Update {
        /// Table.
        table: &'static str,
        /// Which rows.
        rows: Where,
        /// The columns to set.
        row: Row,
    },
    /// Changes columns relative to what they are.
    Mutate {
        /// Table.
        table: &'static str,
        /// Which rows.
        rows: Where,
        /// Column, how, by what.
        mutations: Vec<(&'static str, Mutator, Datum)>,
    },
    /// Removes rows. In root tables only: others are collected when nothing refers to them.
    Delete {
        /// Table.
        table: &'static str,
        /// Which rows.
        rows: Where,
    },
    /// Reads columns.
    Select {
        /// Table.
        table: &'static str,
        /// Which rows.
        rows: Where,
        /// Which columns.
        columns: Vec<&'static str>,
    },
    /// Fails the transaction unless exactly these rows are there now: a guard.
    Expect {
        /// Table.
        table: &'static str,
        /// Which rows.
        rows: Where,
        /// Their columns; empty: no such row may be there.
        are: Vec<Row>,
    },
    /// Written to the database's log.
    Comment(String),
}

/// The result of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Rows changed or removed.
    pub count: Option<u64>,
    /// The row inserted.
    pub uuid: Option<Uuid>,
    /// Rows read.
    pub rows: Vec<Row>,
}

impl Operation {
    /// Its JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Insert { table, row, name } => {
                json!({"op": "insert", "table": table, "row": row.to_json(), "uuid-name": name})
            }
            Self::Update { table, rows, row } => {
                json!({"op": "update", "table": table, "where": conditions(rows), "row": row.to_json()})
            }
            Self::Mutate { table, rows, mutations } => {
                let mutation = |(column, how, by): &(&str, Mutator, Datum)| json!([column, how.word(), by.to_json()]);
                let mutations: Vec<_> = mutations.iter().map(mutation).collect();
                json!({"op": "mutate", "table": table, "where": conditions(rows), "mutations": mutations})
            }
            Self::Delete { table, rows } => json!({"op": "delete", "table": table, "where": conditions(rows)}),
            Self::Select { table, rows, columns } => {
                json!({"op": "select", "table": table, "where": conditions(rows), "columns": columns})
            }
            Self::Expect { table, rows, are } => expect(table, rows, are),
            Self::Comment(text) => json!({"op": "comment", "comment": text}),
        }
    }
}

fn expect(table: &str, rows: &Where, are: &[Row]) -> Value {
    let columns: Vec<&String> = are.first().map(|row| row.0.keys().collect()).unwrap_or_default();
    let are: Vec<Value> = are.iter().map(Row::to_json).collect();
    // `timeout: 0` makes `wait` a test of this moment instead of a wait.
    json!({"op": "wait", "table": table, "where": conditions(rows), "columns": columns,
           "until": "==", "rows": are, "timeout": 0})
}

fn conditions(rows: &Where) -> Vec<Value> {
    rows.iter().map(|(column, how, value)| json!([column, how.word(), value.to_json()])).collect()
}

impl Compare {
    fn word(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Includes => "includes",
        }
    }
}

impl Mutator {
    fn word(self) -> &'static str {
        match self {
            Self::Add => "+=",
            Self::Insert => "insert",
            Self::Delete => "delete",
        }
    }
}

/// Reads the result of a transaction of `count` operations.
///
/// # Errors
/// `Refused` by the first operation that failed, or by the commit; `Malformed`.
pub(super) fn outcomes(result: &Value, count: usize) -> Result<Vec<Outcome>, OvsdbError> {
    let results = result.as_array().ok_or_else(|| OvsdbError::malformed("a transaction's result is no array"))?;
    for (operation, one) in results.iter().enumerate() {
        if let Some(error) = one.get("error").and_then(Value::as_str) {
            let details = one.get("details").and_then(Value::as_str).unwrap_or("no details given").to_owned();
            return Err(OvsdbError::Refused { operation, error: error.to_owned(), details });
        }
    }
    if results.len() < count {
        return Err(OvsdbError::malformed("a transaction's result has too few members"));
    }
    results.iter().take(count).map(outcome).collect()
}

fn outcome(result: &Value) -> Result<Outcome, OvsdbError> {
    let uuid = match result.get("uuid").and_then(Value::as_array).map(Vec::as_slice) {
        Some([_, Value::String(text)]) => text.parse().ok(),
        _ => None,
    };
    let rows = result.get("rows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows = rows.iter().map(Row::from_json).collect::<Result<_, _>>()?;
    Ok(Outcome { count: result.get("count").and_then(Value::as_u64), uuid, rows })
}
