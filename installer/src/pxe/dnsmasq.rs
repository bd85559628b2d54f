//! dnsmasq's configuration, as data and as its file (dnsmasq(8)), and what its log says, for people. One configuration of
//! our own for a child of ours; the system's is neither read nor written. It answers DHCP and TFTP on one interface, and no
//! DNS.
//!
//! ```text
//!  firmware, PXE ──DHCP──> file name ──TFTP──> iPXE ─┐
//!  firmware, HTTP ─DHCP──> URL ───────HTTP───> iPXE ─┴──DHCP, as user class `iPXE`──> URL of a script
//! ```

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::lan::{Lan, Range};

/// How addresses are come by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mode {
    /// Another server gives addresses, this one says what to boot.
    Proxy,
    /// This server gives these addresses.
    Full(Range),
}

/// What dnsmasq is told.
pub(super) struct Settings<'a> {
    pub(super) lan: &'a Lan,
    pub(super) mode: Mode,
    /// iPXE's program, a file of `tftp`.
    pub(super) loader: &'a str,
    /// Port of our HTTP server on the LAN's address.
    pub(super) port: u16,
    /// What is served by TFTP.
    pub(super) tftp: &'a Path,
    /// Where leases and the process id are kept.
    pub(super) run: &'a Path,
}

/// One line of the file.
#[derive(Debug, PartialEq)]
enum Line {
    Flag(&'static str),
    Value(&'static str, String),
}

/// Where the process id is kept.
pub(super) fn pid_file(run: &Path) -> PathBuf {
    run.join("dnsmasq.pid")
}

/// The URL of the script that iPXE is sent to.
pub(super) fn script_url(address: Ipv4Addr, port: u16) -> String {
    format!("http://{address}:{port}/boot.ipxe")
}

/// The configuration's text.
pub(super) fn config(settings: &Settings<'_>) -> String {
    let mut text = "# Written by `furrow-install pxe serve` for its own dnsmasq.\n".to_owned();
    for line in base(settings).into_iter().chain(boot(settings)) {
        match line {
            Line::Flag(name) => text += &format!("{name}\n"),
            Line::Value(name, value) => text += &format!("{name}={value}\n"),
        }
    }
    text
}

fn base(settings: &Settings<'_>) -> Vec<Line> {
    let Settings { lan, run, tftp, .. } = settings;
    let mut lines = vec![
        Line::Value("port", "0".into()),
        // Debian's user for it, which `image/ids` numbers.
        Line::Value("user", "dnsmasq".into()),
        Line::Value("interface", lan.interface.clone()),
        // Without it dnsmasq listens on all addresses and drops what comes by other interfaces.
        Line::Flag("bind-interfaces"),
        Line::Flag("no-hosts"),
        Line::Flag("no-resolv"),
        Line::Value("pid-file", pid_file(run).display().to_string()),
        Line::Value("dhcp-leasefile", run.join("leases").display().to_string()),
        Line::Value("enable-tftp", lan.interface.clone()),
        Line::Value("tftp-root", tftp.display().to_string()),
    ];
    match settings.mode {
        Mode::Proxy => lines.push(Line::Value("dhcp-range", format!("{},proxy,{}", lan.network(), lan.mask()))),
        Mode::Full(Range { first, last }) => lines.extend([
            Line::Value("dhcp-range", format!("{first},{last},{},1h", lan.mask())),
            // Neither a route nor a name server: machines need this LAN only, and what they become has its own.
            Line::Value("dhcp-option", "option:router".into()),
            Line::Value("dhcp-option", "option:dns-server".into()),
        ]),
    }
    lines
}

/// What to boot, by the architecture that a client names (RFC 4578; 7 and 9 are UEFI on x86-64, 16 is the same by HTTP).
fn boot(settings: &Settings<'_>) -> Vec<Line> {
    let Settings { lan, loader, port, .. } = settings;
    let http = format!("http://{}:{port}/{loader}", lan.address);
    let script = script_url(lan.address, *port);
    let mut lines = vec![Line::Value("dhcp-userclass", "set:ipxe,iPXE".into())];
    for (tag, architecture) in [("efi", 7), ("efi", 9), ("http", 16)] {
        lines.push(Line::Value("dhcp-match", format!("set:{tag},option:client-arch,{architecture}")));
    }
    lines.push(Line::Value("dhcp-boot", format!("tag:ipxe,{script}")));
    match settings.mode {
        Mode::Full(_) => lines.extend([
            Line::Value("dhcp-boot", format!("tag:!ipxe,tag:efi,{loader},,{}", lan.address)),
            Line::Value("dhcp-boot", format!("tag:!ipxe,tag:http,{http}")),
            // Firmware takes an answer to its HTTP request only from a server that says so.
            Line::Value("dhcp-option-force", "tag:!ipxe,tag:http,60,HTTPClient".into()),
        ]),
        Mode::Proxy => lines.extend([
            Line::Value("dhcp-pxe-vendor", "PXEClient,HTTPClient".into()),
            Line::Value("pxe-service", format!("tag:!ipxe,7,Furrow,{loader}")),
            Line::Value("pxe-service", format!("tag:!ipxe,9,Furrow,{loader}")),
            Line::Value("dhcp-boot", format!("tag:!ipxe,tag:http,{http}")),
        ]),
    }
    lines
}

/// What a line of its log tells an administrator: an address offered, a file sent, a fault. None for the rest.
pub(super) fn event(line: &str) -> Option<String> {
    let (source, text) = line.split_once(": ")?;
    // With `log-dhcp` a number would come before it; without it the action is first.
    if source.starts_with("dnsmasq-dhcp") {
        let mut words = text.split(' ');
        let action = words.next()?.split('(').next()?;
        let rest: Vec<&str> = words.collect();
        return match (action, rest.as_slice()) {
            ("DHCPOFFER", [address, mac, ..]) => Some(format!("{mac}: address {address} offered")),
            ("PXE", [mac, "proxy", ..]) => Some(format!("{mac}: boot server offered")),
            ("DHCPNAK", _) => Some(format!("refused: {}", rest.join(" "))),
            _ => fault(text),
        };
    }
    if source.starts_with("dnsmasq-tftp") {
        let sent = text.strip_prefix("sent ").and_then(|rest| rest.split_once(" to "));
        return match sent {
            Some((path, address)) => {
                Some(format!("{address}: {} sent by TFTP", path.rsplit('/').next().unwrap_or(path)))
            }
            // Firmware asks for a size first, and breaks off.
            None if text.contains("User aborted the transfer") => None,
            None => fault(text),
        };
    }
    fault(text)
}

fn fault(text: &str) -> Option<String> {
    let is_one = ["fail", "cannot", "no address", "not available", "error"].iter().any(|w| text.contains(w));
    (is_one && !text.contains("autoexec.ipxe")).then(|| format!("dnsmasq: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(mode: Mode) -> String {
        let lan = Lan { interface: "eno1".into(), address: Ipv4Addr::new(10, 0, 0, 1), prefix: 24 };
        let (tftp, run) = (Path::new("/run/pxe/tftp"), Path::new("/run/pxe"));
        config(&Settings { lan: &lan, mode, loader: "ipxe.efi", port: 8067, tftp, run })
    }

    #[test]
    fn both_modes_are_as_the_golden_files_say() {
        let range = "10.0.0.100-10.0.0.200".parse().expect("a range");
        assert_eq!(text(Mode::Full(range)), include_str!("testdata/full.conf"));
        assert_eq!(text(Mode::Proxy), include_str!("testdata/proxy.conf"));
    }

    #[test]
    fn the_log_is_told_in_short() {
        for (line, expected) in [
            (
                "dnsmasq-dhcp: DHCPOFFER(br0) 10.0.0.7 52:54:00:00:78:01",
                Some("52:54:00:00:78:01: address 10.0.0.7 offered"),
            ),
            ("dnsmasq-dhcp: DHCPDISCOVER(br0) 52:54:00:00:78:01", None),
            ("dnsmasq-dhcp: PXE(br0) 52:54:00:00:78:01 proxy", Some("52:54:00:00:78:01: boot server offered")),
            ("dnsmasq-tftp: sent /run/pxe/tftp/ipxe.efi to 10.0.0.7", Some("10.0.0.7: ipxe.efi sent by TFTP")),
            ("dnsmasq-tftp: error 8 User aborted the transfer received from 10.0.0.7", None),
            (
                "dnsmasq: failed to create listening socket for 10.0.0.1: Address already in use",
                Some("dnsmasq: failed to create listening socket for 10.0.0.1: Address already in use"),
            ),
        ] {
            assert_eq!(event(line).as_deref(), expected, "{line}");
        }
    }
}
