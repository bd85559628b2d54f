//! The cluster as its users have it: kubectl on the build host with the kubeconfig that `make run` prints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::{self, Output, run_with};

/// A kubectl and a kubeconfig.
#[derive(Clone)]
pub(crate) struct Cluster {
    k3s: PathBuf,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// `k3s` is the static binary of the image, which brings kubectl.
    pub(crate) fn new(k3s: &Path, kubeconfig: &Path) -> Cluster {
        Cluster { k3s: k3s.to_owned(), kubeconfig: kubeconfig.to_owned() }
    }

    /// Runs kubectl, whatever it answers.
    pub(crate) fn kubectl_raw(&self, args: &[&str], stdin: &str) -> Result<Output> {
        let (k3s, config) = (self.k3s.display().to_string(), format!("--kubeconfig={}", self.kubeconfig.display()));
        run_with(&[&[k3s.as_str(), "kubectl", &config], args].concat(), stdin, Duration::from_secs(90))
    }

    /// The kubeconfig, for clients of other kinds.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The words that start this kubectl, for processes that live longer than a call.
    pub(crate) fn command(&self) -> [String; 3] {
        [self.k3s.display().to_string(), "kubectl".into(), format!("--kubeconfig={}", self.kubeconfig.display())]
    }

    /// Runs kubectl; anything but success is an error.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_raw(args, "")?.ok(&format!("kubectl {}", args.join(" ")))
    }

    /// `kubectl apply` of a document.
    pub(crate) fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_raw(&["apply", "-f", "-"], yaml)?.ok("kubectl apply")
    }

    /// Applies a document that must be refused, and returns what was said.
    pub(crate) fn refused(&self, yaml: &str) -> Result<String> {
        let out = self.kubectl_raw(&["apply", "-f", "-"], yaml)?;
        if out.code == 0 {
            bail!("accepted, but it should have been refused: {}", out.stdout.trim());
        }
        Ok(out.stderr)
    }

    /// One object as JSON.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let text = self.kubectl(&["get", kind, name, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("kubectl's JSON of {kind} {name}"))
    }

    /// All objects of a kind in all namespaces.
    pub(crate) fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", kind, "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("kubectl's JSON of {kind}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until the JSON pointer of an object has one of the wanted values, and returns the object.
    pub(crate) fn wait(&self, object: (&str, &str), pointer: &str, wanted: &[&str], seconds: u64) -> Result<Value> {
        let (kind, name) = object;
        let what = format!("{kind} {name} {pointer} = {}", wanted.join("|"));
        host::until(&what, Duration::from_secs(seconds), || {
            let found = self.get(kind, name)?;
            let value = found.pointer(pointer).map(text_of).unwrap_or_default();
            if wanted.contains(&value.as_str()) { Ok(found) } else { bail!("it is `{value}`") }
        })
    }

    /// Waits until an object is gone.
    pub(crate) fn wait_gone(&self, kind: &str, name: &str, seconds: u64) -> Result<()> {
        host::until(&format!("{kind} {name} to be gone"), Duration::from_secs(seconds), || {
            let out = self.kubectl_raw(&["get", kind, name], "")?;
            if out.code != 0 && out.stderr.contains("NotFound") { Ok(()) } else { bail!("it is still there") }
        })
    }

    /// The messages of an object's events, oldest first, as `reason: message`.
    pub(crate) fn events(&self, name: &str) -> Result<Vec<String>> {
        let selector = format!("involvedObject.name={name}");
        let text = self.kubectl(&["get", "events", "-A", "--field-selector", &selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().map(|e| format!("{}: {}", text_of(&e["reason"]), text_of(&e["message"]))).collect())
    }
}

/// A JSON scalar as text, without quotes.
pub(crate) fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

/// Status of a condition, empty when there is none.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}
