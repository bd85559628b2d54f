//! Figures that a scenario measures, in `build/bench/NAME.json`: written after each one, so that a scenario that fails leaves
//! what it had. Names end in their unit.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The figures of one run.
pub(crate) struct Figures {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Figures {
    /// None yet; those of an earlier run go.
    pub(crate) fn new(source: &Path, name: &str) -> Result<Figures> {
        let dir = source.join("build/bench");
        std::fs::create_dir_all(&dir).with_context(|| format!("could not create {}", dir.display()))?;
        let figures = Figures { path: dir.join(format!("{name}.json")), values: Map::new() };
        let _ = std::fs::remove_file(&figures.path);
        Ok(figures)
    }

    /// Notes one, and prints it.
    pub(crate) fn record(&mut self, name: &str, value: u64) -> Result<()> {
        println!("         {name} {value}");
        self.values.insert(name.to_owned(), json!(value));
        let text = serde_json::to_string_pretty(&self.values)? + "\n";
        std::fs::write(&self.path, text).with_context(|| format!("could not write {}", self.path.display()))
    }

    /// The size of a file.
    pub(crate) fn record_size(&mut self, name: &str, file: &Path) -> Result<()> {
        let size = std::fs::metadata(file).with_context(|| format!("no {}", file.display()))?.len();
        self.record(name, size)
    }
}
