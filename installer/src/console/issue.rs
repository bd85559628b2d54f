//! The short state above the login of serial lines, by agetty(8)'s issue files.

use std::path::Path;

use furrow_host::cmd::Cmd;

use crate::files::update;
use crate::observe::{Level, Part};

const PATH: &str = "/run/issue.d/furrow.issue";
/// Faults that are named; the console and `furrow-install status` have them all.
const MAX_FAULTS: usize = 3;

/// What was told last.
#[derive(Default)]
pub(super) struct Issue {
    told: String,
}

impl Issue {
    /// Tells the lines, where something has changed.
    pub(super) async fn tell(&mut self, host: &str, parts: &[&Part]) {
        let text = text(host, parts);
        if text == self.told {
            return;
        }
        // Without it a login stands alone, as before.
        let _ = update(Path::new(PATH), &text, 0o644);
        // Those that have a login name half written are left alone.
        let _ = Cmd::new("/usr/sbin/agetty").arg("--reload").run().await;
        self.told = text;
    }
}

fn text(host: &str, parts: &[&Part]) -> String {
    let of = |name: &str| parts.iter().find(|p| p.name == name).map(|p| p.text.as_str()).unwrap_or_default();
    let faults: Vec<&&Part> = parts.iter().filter(|p| p.level == Level::Fault).collect();
    let mut text = format!("{host}: {}\nAPI: {}\n", of("addresses"), of("api"));
    if faults.is_empty() {
        text += "all is well\n";
    }
    for fault in faults.iter().take(MAX_FAULTS) {
        let reason: String = fault.text.chars().take(100).collect();
        text += &format!("NOT WELL: {}: {reason}\n", fault.name);
    }
    // A backslash begins one of agetty's own words.
    text.replace('\\', "\\\\") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_stands_below_the_state() {
        let parts = [
            Part::new("addresses", Level::Well, "10.0.0.1 on eth0"),
            Part::new("api", Level::Well, "https://10.0.0.1:6443"),
            Part::new("ceph", Level::Warning, "HEALTH_WARN"),
        ];
        let all: Vec<&Part> = parts.iter().collect();
        assert_eq!(text("n1", &all), "n1: 10.0.0.1 on eth0\nAPI: https://10.0.0.1:6443\nall is well\n\n");
        let fault = Part::new("etcd", Level::Fault, r"no \quorum");
        let with = text("n1", &[all, vec![&fault]].concat());
        assert!(with.ends_with("NOT WELL: etcd: no \\\\quorum\n\n"), "{with}");
    }
}
