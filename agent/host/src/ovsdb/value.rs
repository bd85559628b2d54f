//! The values of OVSDB and their JSON (RFC 7047, section 5.1): atoms, sets, maps, rows. Refuses reals, which no column
//! that Furrow reads has: an approximate key would break every comparison.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

/// One indivisible value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// `integer`.
    Integer(i64),
    /// `boolean`.
    Boolean(bool),
    /// `string`.
    String(String),
    /// A row that exists.
    Uuid(Uuid),
    /// A row that the same transaction inserts, by its `uuid-name`.
    Named(String),
}

/// The value of a column. A scalar is a set of one, an absent optional value the empty set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datum {
    /// Scalars, optional values and sets.
    Set(BTreeSet<Atom>),
    /// Maps.
    Map(BTreeMap<Atom, Atom>),
}

/// Columns by name. The server leaves out columns that have their default value: an absent one reads as empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row(pub BTreeMap<String, Datum>);

/// JSON that is no value of OVSDB.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is no OVSDB {expected}")]
pub struct NotOvsdb {
    what: String,
    expected: &'static str,
}

fn refuse(what: &Value, expected: &'static str) -> NotOvsdb {
    // A malformed document can be large; its beginning says which one it is.
    NotOvsdb { what: what.to_string().chars().take(120).collect(), expected }
}

impl Atom {
    /// Its JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Integer(number) => json!(number),
            Self::Boolean(flag) => json!(flag),
            Self::String(text) => json!(text),
            Self::Uuid(uuid) => json!(["uuid", uuid.to_string()]),
            Self::Named(name) => json!(["named-uuid", name]),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`NotOvsdb`].
    pub fn from_json(value: &Value) -> Result<Self, NotOvsdb> {
        let read = match value {
            Value::Number(number) => number.as_i64().map(Self::Integer),
            Value::Bool(flag) => Some(Self::Boolean(*flag)),
            Value::String(text) => Some(Self::String(text.clone())),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(tag), Value::String(text)] if tag == "uuid" => text.parse().ok().map(Self::Uuid),
                [Value::String(tag), Value::String(text)] if tag == "named-uuid" => Some(Self::Named(text.clone())),
                _ => None,
            },
            _ => None,
        };
        read.ok_or_else(|| refuse(value, "atom"))
    }
}

impl From<i64> for Atom {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Atom {
    fn from(flag: bool) -> Self {
        Self::Boolean(flag)
    }
}

impl From<&str> for Atom {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<Uuid> for Atom {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl Datum {
    /// A scalar.
    pub fn one(atom: impl Into<Atom>) -> Self {
        Self::Set(BTreeSet::from([atom.into()]))
    }

    /// An absent optional value, or an empty set.
    #[must_use]
    pub fn empty() -> Self {
        Self::Set(BTreeSet::new())
    }

    /// A set.
    pub fn set<A: Into<Atom>>(atoms: impl IntoIterator<Item = A>) -> Self {
        Self::Set(atoms.into_iter().map(Into::into).collect())
    }

    /// A map of strings.
    pub fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::Map(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// Its JSON: a set of one is written as the bare atom, as the server does.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Set(atoms) if atoms.len() == 1 => atoms.iter().next().map(Atom::to_json).unwrap_or_default(),
            Self::Set(atoms) => json!(["set", atoms.iter().map(Atom::to_json).collect::<Vec<_>>()]),
            Self::Map(pairs) => {
                json!(["map", pairs.iter().map(|(key, value)| [key.to_json(), value.to_json()]).collect::<Vec<_>>()])
            }
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`NotOvsdb`].
    pub fn from_json(value: &Value) -> Result<Self, NotOvsdb> {
        let Some([Value::String(tag), Value::Array(items)]) = value.as_array().map(Vec::as_slice) else {
            return Atom::from_json(value).map(Self::one);
        };
        match tag.as_str() {
            "set" => items.iter().map(Atom::from_json).collect::<Result<_, _>>().map(Self::Set),
            "map" => {
                let pair = |item: &Value| match item.as_array().map(Vec::as_slice) {
                    Some([key, value]) => Ok((Atom::from_json(key)?, Atom::from_json(value)?)),
                    _ => Err(refuse(item, "pair of a map")),
                };
                items.iter().map(pair).collect::<Result<_, _>>().map(Self::Map)
            }
            _ => Err(refuse(value, "set or map")),
        }
    }
}

impl Row {
    /// A row of these columns.
    pub fn of<'a>(columns: impl IntoIterator<Item = (&'a str, Datum)>) -> Self {
        Self(columns.into_iter().map(|(name, datum)| (name.to_owned(), datum)).collect())
    }

    /// The only atom of a column, if it has exactly one.
    #[must_use]
    pub fn atom(&self, column: &str) -> Option<&Atom> {
        match self.0.get(column) {
            Some(Datum::Set(atoms)) if atoms.len() == 1 => atoms.first(),
            _ => None,
        }
    }

    /// A string; empty if the column is.
    #[must_use]
    pub fn text(&self, column: &str) -> &str {
        match self.atom(column) {
            Some(Atom::String(text)) => text,
            _ => "",
        }
    }

    /// An integer; `None` if the column is empty or has its default, 0.
    #[must_use]
    pub fn integer(&self, column: &str) -> Option<i64> {
        match self.atom(column) {
            Some(Atom::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    /// The rows that a column refers to.
    pub fn references(&self, column: &str) -> impl Iterator<Item = Uuid> {
        let atoms = match self.0.get(column) {
            Some(Datum::Set(atoms)) => Some(atoms),
            _ => None,
        };
        atoms.into_iter().flatten().filter_map(|atom| match atom {
            Atom::Uuid(uuid) => Some(*uuid),
            _ => None,
        })
    }

    /// The value of a key in a map of strings.
    #[must_use]
    pub fn key(&self, column: &str, key: &str) -> Option<&str> {
        let Some(Datum::Map(pairs)) = self.0.get(column) else { return None };
        match pairs.get(&Atom::from(key)) {
            Some(Atom::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Its JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, datum)| (name.clone(), datum.to_json())).collect())
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`NotOvsdb`].
    pub fn from_json(value: &Value) -> Result<Self, NotOvsdb> {
        let columns = value.as_object().ok_or_else(|| refuse(value, "row"))?;
        let read = |(name, value): (&String, &Value)| Ok((name.clone(), Datum::from_json(value)?));
        columns.iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn atoms() -> impl Strategy<Value = Atom> {
        prop_oneof![
            any::<i64>().prop_map(Atom::Integer),
            any::<bool>().prop_map(Atom::Boolean),
            ".{0,12}".prop_map(Atom::String),
            any::<u128>().prop_map(|bits| Atom::Uuid(Uuid::from_u128(bits))),
            "[a-z_]{1,8}".prop_map(Atom::Named),
        ]
    }

    fn data() -> impl Strategy<Value = Datum> {
        prop_oneof![
            prop::collection::btree_set(atoms(), 0..6).prop_map(Datum::Set),
            prop::collection::btree_map(atoms(), atoms(), 0..6).prop_map(Datum::Map),
        ]
    }

    proptest! {
        #[test]
        fn rows_survive_the_wire(columns in prop::collection::btree_map("[a-z_]{1,10}", data(), 0..6)) {
            let row = Row(columns);
            let text = row.to_json().to_string();
            let value: Value = serde_json::from_str(&text).expect("valid JSON");
            prop_assert_eq!(Row::from_json(&value), Ok(row));
        }

        #[test]
        fn anything_else_is_refused_without_panic(text in "\\[\"(set|map|uuid|x)\",(\\[[0-9,\"]{0,8}\\]|\"[a-f0-9-]{0,40}\"|1.5|null)\\]") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = Datum::from_json(&value);
            }
        }
    }

    #[test]
    fn sets_of_one_are_bare_atoms() {
        assert_eq!(Datum::one(100).to_json(), json!(100));
        assert_eq!(Datum::empty().to_json(), json!(["set", []]));
        assert_eq!(Datum::from_json(&json!(["set", [100]])), Ok(Datum::one(100)));
        assert!(Datum::from_json(&json!(1.5)).is_err());
    }
}
