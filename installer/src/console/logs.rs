//! The journal on the console: which units, what of it was read, how far it is scrolled. [`read`] asks journalctl; the rest
//! is pure.

use std::collections::VecDeque;
use std::time::Duration;

use furrow_host::cmd::Cmd;

/// Lines kept of one journal: a day of a quiet unit, 300 KiB of memory.
const MAX_LINES: usize = 1000;
/// Lines read at first.
const FIRST: &str = "--lines=300";
const TIMEOUT: Duration = Duration::from_secs(10);
/// What an answer may weigh: [`MAX_LINES`] of long lines.
const MAX_BYTES: usize = 1024 * 1024;

/// A journal: its name, and how journalctl is asked for it.
pub(super) struct Log {
    pub(super) name: &'static str,
    args: &'static [&'static str],
}

/// The journals, in the order in which they are turned.
pub(super) const LOGS: [Log; 8] = [
    Log { name: "furrow", args: &["--unit=furrow-*"] },
    Log { name: "kubernetes", args: &["--unit=k3s.service", "--unit=k3s-agent.service"] },
    Log { name: "ceph", args: &["--unit=ceph*"] },
    Log { name: "libvirt", args: &["--unit=libvirtd.service", "--unit=virtlogd.service"] },
    Log { name: "open vswitch", args: &["--unit=ovs*"] },
    Log {
        name: "network",
        args: &["--unit=systemd-networkd.service", "--unit=systemd-resolved.service", "--unit=keepalived.service"],
    },
    Log { name: "kernel", args: &["--dmesg"] },
    Log { name: "all", args: &[] },
];

/// One journal on the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Logs {
    /// Place in [`LOGS`].
    pub(super) which: usize,
    pub(super) lines: VecDeque<String>,
    /// Lines between the newest one and the last one that is shown; 0 follows.
    pub(super) back: usize,
    /// Where the next reading goes on.
    cursor: Option<String>,
}

impl Logs {
    pub(super) fn new() -> Logs {
        Logs::default()
    }

    /// Another journal, nothing of it read yet.
    pub(super) fn of(which: usize) -> Logs {
        Logs { which, ..Logs::default() }
    }

    /// The journal that has to do with a part of the node.
    pub(super) fn for_part(part: Option<&str>) -> Logs {
        let name = match part.unwrap_or_default() {
            "kubernetes" | "etcd" | "api" | "k3s" | "k3s-agent" => "kubernetes",
            "ceph" | "osds" => "ceph",
            "libvirtd" => "libvirt",
            "open vswitch" => "open vswitch",
            "addresses" | "vip" => "network",
            "links" | "disks" => "kernel",
            _ => "furrow",
        };
        Logs::of(LOGS.iter().position(|log| log.name == name).unwrap_or(0))
    }

    /// Goes back by so many lines, or forward by fewer than none.
    pub(super) fn scroll(&mut self, lines: isize) {
        self.back = self.back.saturating_add_signed(lines).min(self.lines.len().saturating_sub(1));
    }

    /// To the newest line, and on with it.
    pub(super) fn follow(&mut self) {
        self.back = 0;
    }

    /// The lines of a window of this height.
    pub(super) fn window(&self, height: usize) -> impl Iterator<Item = &str> {
        let end = self.lines.len().saturating_sub(self.back).max(height.min(self.lines.len()));
        self.lines.range(end.saturating_sub(height)..end).map(String::as_str)
    }

    /// Takes what was read of journal `which`; of another one, which is not shown any more, nothing.
    pub(super) fn take(&mut self, which: usize, answer: Answer) {
        if which != self.which {
            return;
        }
        for line in answer.lines {
            self.lines.push_back(line);
            // Whoever reads older lines goes on seeing them.
            if self.back > 0 {
                self.back += 1;
            }
        }
        while self.lines.len() > MAX_LINES {
            self.lines.pop_front();
        }
        self.scroll(0);
        self.cursor = answer.cursor.or(self.cursor.take());
    }

    /// What to ask next.
    pub(super) fn question(&self) -> (usize, Option<String>) {
        (self.which, self.cursor.clone())
    }
}

/// What journalctl answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    lines: Vec<String>,
    cursor: Option<String>,
}

/// Reads what is new in a journal.
pub(super) async fn read((which, cursor): (usize, Option<String>)) -> Answer {
    let after = cursor.map_or_else(|| FIRST.to_owned(), |cursor| format!("--after-cursor={cursor}"));
    let args = ["--quiet", "--no-pager", "--no-hostname", "--boot", "--output=short", "--show-cursor", &after];
    let run = Cmd::new("/usr/bin/journalctl").args(args).args(LOGS[which].args);
    match run.timeout(TIMEOUT).output_limit(MAX_BYTES).run_unchecked().await {
        Ok(out) => parse(&out.text()),
        Err(error) => Answer { lines: vec![format!("the journal cannot be read: {error}")], cursor: None },
    }
}

/// The lines and, in the last one, the cursor.
fn parse(text: &str) -> Answer {
    let mut answer = Answer::default();
    for line in text.lines() {
        match line.strip_prefix("-- cursor: ") {
            Some(cursor) => answer.cursor = Some(cursor.to_owned()),
            // Whatever a program logs, the terminal gets letters only.
            None => answer.lines.push(line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()),
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(lines: usize) -> Logs {
        let mut logs = Logs::of(1);
        logs.take(1, Answer { lines: (0..lines).map(|n| n.to_string()).collect(), cursor: Some("c".into()) });
        logs
    }

    fn shown(logs: &Logs) -> Vec<&str> {
        logs.window(3).collect()
    }

    #[test]
    fn the_newest_lines_are_followed() {
        let mut logs = filled(5);
        assert_eq!(shown(&logs), ["2", "3", "4"]);
        logs.take(1, parse("x\n-- cursor: d\n"));
        assert_eq!(shown(&logs), ["3", "4", "x"]);
        assert_eq!(logs.question(), (1, Some("d".into())));
    }

    #[test]
    fn who_reads_older_lines_goes_on_seeing_them() {
        let mut logs = filled(9);
        logs.scroll(4);
        assert_eq!(shown(&logs), ["2", "3", "4"]);
        logs.take(1, parse("x\ny\n"));
        assert_eq!(shown(&logs), ["2", "3", "4"]);
        logs.scroll(100);
        assert_eq!(shown(&logs), ["0", "1", "2"]);
        logs.follow();
        assert_eq!(shown(&logs), ["8", "x", "y"]);
    }

    #[test]
    fn memory_has_a_bound_and_answers_that_come_late_are_dropped() {
        let mut logs = filled(MAX_LINES + 10);
        assert_eq!((logs.lines.len(), logs.lines[0].as_str()), (MAX_LINES, "10"));
        logs.take(2, parse("another journal's\n"));
        assert_eq!(logs.lines.back().map(String::as_str), Some("1009"));
    }

    #[test]
    fn a_terminal_gets_no_commands_from_the_journal() {
        assert_eq!(parse("a\u{1b}[2Jb\n").lines, ["a [2Jb"]);
    }

    #[test]
    fn a_parts_journal_is_offered_first() {
        let name = |part| LOGS[Logs::for_part(part).which].name;
        assert_eq!([name(Some("etcd")), name(Some("osds")), name(None)], ["kubernetes", "ceph", "furrow"]);
    }
}
