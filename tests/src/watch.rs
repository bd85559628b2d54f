//! A running `kubectl get --watch` of one text of each object, such as its phase. Owns the process and its end; what is
//! kept of what is seen is the caller's affair.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::cluster::Cluster;

/// Ends with it.
pub(crate) struct Watch(Child);

impl Watch {
    /// Watches `path` of the objects of `kind` in all namespaces; `seen` is given an object's name and the text, which may
    /// be empty, at each change.
    pub(crate) fn start(
        cluster: &Cluster,
        kind: &str,
        path: &str,
        mut seen: impl FnMut(&str, &str) + Send + 'static,
    ) -> Result<Watch> {
        let template = format!("-o=jsonpath={{.metadata.name}} {{{path}}}{{\"\\n\"}}");
        let words = cluster.command();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["get", kind, "-A", "--watch", &template]);
        let mut kubectl = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("kubectl --watch")?;
        let lines = BufReader::new(kubectl.stdout.take().context("stdout")?).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(std::result::Result::ok) {
                let (name, text) = line.split_once(' ').unwrap_or((&line, ""));
                seen(name, text);
            }
        });
        Ok(Watch(kubectl))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
