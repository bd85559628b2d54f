//! `docs/fields.md`: what becomes of each field of a guest, from the tables that admission goes by. `make bless` writes
//! it. Nothing in it is believed: words must stand in the golden document that a row names, and tests must exist.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::realised_tests::{self as realised, Proof};
use super::supported::{GUEST, Refused, When};

/// The paths of a guest by use, most used first: facts of a count over KubeVirt's examples and user guide, below `spec`
/// of a VirtualMachineInstance. `metadata` and other kinds are not in this table.
const RANKED: &str = include_str!("ranked_fields.txt");

fn agent() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What is said of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Realised,
    Refused,
    Unknown,
}

fn covers(table: &str, path: &str) -> bool {
    let rest = path.strip_prefix(table);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with("[]"))
}

fn fate(path: &str) -> Fate {
    let refused = GUEST.iter().filter(|entry| !matches!(entry.when, When::NotIn(_)));
    // The longer path is the exception from the shorter one.
    let longest = |found: Option<&str>| found.map_or(0, |found| found.len() + 1);
    let refused = longest(refused.map(|entry| entry.path).filter(|table| covers(table, path)).max_by_key(|t| t.len()));
    let rows = realised::GUEST.iter().map(|row| row.path);
    let realised = longest(rows.filter(|table| covers(table, path)).max_by_key(|table| table.len()));
    let below = realised::GUEST.iter().any(|row| covers(path, row.path));
    let partly = GUEST.iter().any(|entry| matches!(entry.when, When::NotIn(_)) && covers(entry.path, path));
    match (realised > refused || below || partly, refused > 0) {
        (true, _) => Fate::Realised,
        (false, true) => Fate::Refused,
        (false, false) => Fate::Unknown,
    }
}

fn proof(proof: Proof) -> String {
    match proof {
        Proof::Golden(name, _) => format!("[`{name}.xml`](../agent/model/src/domain/golden/{name}.xml)"),
        Proof::Test(file, name) => format!("[`{name}`](../agent/{file})"),
    }
}

fn condition(entry: &Refused) -> String {
    match entry.when {
        When::Set => String::new(),
        When::NotIn(words) => format!(" other than `{}`", words.join("`, `")),
    }
}

fn document() -> String {
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    for row in realised::GUEST {
        rows.insert(row.path.to_owned(), format!("| `{}` | {} | {} |", row.path, row.how, proof(row.proof)));
    }
    let by_table = "[`every_field_is_realised_or_refused`](../agent/control/src/admission/supported_tests.rs)";
    for entry in GUEST {
        let text = format!("| `{}`{} | refused: {} | {by_table} |", entry.path, condition(entry), entry.why);
        rows.insert(format!("{} ", entry.path), text);
    }
    let ranked: Vec<_> = RANKED.lines().filter(|line| !line.is_empty()).map(|path| (path, fate(path))).collect();
    let count = |fate: Fate| ranked.iter().filter(|(_, found)| *found == fate).count();
    let (done, not) = (count(Fate::Realised), count(Fate::Refused));
    let mut text = String::from("# Fields of a virtual machine\n\n");
    let _ = writeln!(
        text,
        "Written by `make bless` from the tables that admission goes by. Paths are below `spec` of a \
         VirtualMachineInstance, which is `spec.template.spec` of a VirtualMachine. A field stands for all below it \
         that has no row of its own. None is ignored: what is refused is refused when the object is written, with its \
         path and this reason.\n"
    );
    let _ = writeln!(text, "| | realised | refused |\n|---|---|---|");
    let _ = writeln!(text, "| rows of this table | {} | {} |", realised::GUEST.len(), GUEST.len());
    let _ = writeln!(text, "| of the {} paths that examples use | {done} | {not} |\n", ranked.len());
    let _ = writeln!(text, "| field | realised as, or why it is refused | test |\n|---|---|---|");
    for row in rows.values() {
        let _ = writeln!(text, "{row}");
    }
    let refused: Vec<_> = ranked.iter().filter(|(_, fate)| *fate == Fate::Refused).collect();
    let _ = writeln!(text, "\nOf the paths that examples use, refused, most used first:\n");
    for (path, _) in refused {
        let _ = writeln!(text, "- `{path}`");
    }
    text
}

#[test]
fn the_document_is_that_of_the_tables() {
    let path = agent().join("../docs/fields.md");
    let text = document();
    #[expect(clippy::disallowed_methods, reason = "how golden files are blessed")]
    if std::env::var("BLESS").is_ok() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} differs from the tables: run `make bless`", path.display());
}

#[test]
fn what_a_row_names_is_there() {
    for row in realised::GUEST {
        match row.proof {
            Proof::Golden(name, words) => {
                let path = agent().join(format!("model/src/domain/golden/{name}.xml"));
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(!words.is_empty(), "{} names no words", row.path);
                for word in words {
                    assert!(text.contains(word), "{}: {name}.xml has no {word}", row.path);
                }
            }
            Proof::Test(file, name) => {
                let text = std::fs::read_to_string(agent().join(file)).unwrap_or_default();
                assert!(text.contains(&format!("fn {name}(")), "{}: {file} has no test {name}", row.path);
            }
        }
    }
}

#[test]
fn no_path_that_examples_use_is_ignored() {
    let unknown: Vec<_> = RANKED.lines().filter(|path| !path.is_empty() && fate(path) == Fate::Unknown).collect();
    assert_eq!(unknown, [""; 0]);
}
