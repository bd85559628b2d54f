//! Metrics of the host and of the guest itself, told to a guest over a virtio serial port: the protocol of vhostmd, which
//! SAP's and Red Hat's tools in guests speak (`vm-dump-metrics`), with the metrics that KubeVirt gives. A request is a line
//! and an empty line, the answer an XML document and an empty line. Pure; refuses any request but the one there is.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Longest request that is listened to.
const REQUEST_MAX_BYTES: usize = 1024;

/// What the answer to anything else is.
pub const INVALID: &str = "INVALID REQUEST\n\n";

/// A tick of `/proc/stat`, in seconds (USER_HZ, which is 100 on every architecture of Linux).
const TICK_S: f64 = 0.01;

/// A page on amd64, in KiB.
const PAGE_KIB: u64 = 4;

/// What was read of the node; a text that could not be read is empty, and what it would say is left out.
#[derive(Debug, Clone, Default)]
pub struct HostReading {
    /// Name of the node.
    pub node: String,
    /// `/proc/stat`.
    pub stat: String,
    /// `/proc/meminfo`.
    pub meminfo: String,
    /// `/proc/vmstat`.
    pub vmstat: String,
    /// `/proc/cpuinfo`.
    pub cpuinfo: String,
    /// Seconds since 1970.
    pub now_s: i64,
}

/// Takes the next request from what a guest has written; `None`: it is not there as a whole. The error is a request that
/// is none.
pub fn take_request(said: &mut Vec<u8>) -> Option<Result<(), ()>> {
    let text: Vec<u8> = said.iter().copied().filter(|byte| *byte != b'\r').collect();
    let Some(end) = text.windows(2).position(|two| two == b"\n\n") else {
        if said.len() <= REQUEST_MAX_BYTES {
            return None;
        }
        said.clear();
        return Some(Err(()));
    };
    let line = String::from_utf8_lossy(&text[..end]).trim_start_matches('\n').to_owned();
    *said = text[end + 2..].to_vec();
    let asked = line.strip_prefix("GET ").map(|path| path.split('?').next().unwrap_or_default());
    Some(if asked == Some("/metrics/XML") { Ok(()) } else { Err(()) })
}

/// The answer. `guest`: libvirt's statistics of the guest, by libvirt's names; `None` while there are none.
#[must_use]
pub fn document(host: &HostReading, guest: Option<&HashMap<String, String>>) -> String {
    let mut metrics = Metrics::default();
    metrics.add("host", ("HostName", "string", ""), Some(escape(&host.node)));
    metrics.add("host", ("HostSystemInfo", "string", ""), Some("linux".to_owned()));
    metrics.add("host", ("VirtualizationVendor", "string", ""), Some("kubevirt.io".to_owned()));
    metrics.add("host", ("VirtProductInfo", "string", ""), Some("QEMU".to_owned()));
    if let Some(guest) = guest {
        of_guest(guest, &mut metrics);
    }
    processors(host, &mut metrics);
    memory(host, &mut metrics);
    metrics.add("host", ("Time", "int64", "s"), Some(host.now_s.to_string()));
    format!("<metrics>\n{}</metrics>\n\n", metrics.0)
}

#[derive(Default)]
struct Metrics(String);

impl Metrics {
    fn add(&mut self, context: &str, (name, kind, unit): (&str, &str, &str), value: Option<String>) {
        let Some(value) = value else { return };
        let unit = if unit.is_empty() { String::new() } else { format!(" unit=\"{unit}\"") };
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.0,
            "  <metric type=\"{kind}\" context=\"{context}\"{unit}>\n    <name>{name}</name>\n    \
             <value>{value}</value>\n  </metric>"
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn of_guest(stats: &HashMap<String, String>, metrics: &mut Metrics) {
    let number = |name: &str| stats.get(name).and_then(|value| value.parse::<u64>().ok());
    let times = stats.iter().filter(|(name, _)| {
        let index = name.strip_prefix("vcpu.").and_then(|rest| rest.strip_suffix(".time"));
        index.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let ns: u64 = times.filter_map(|(_, value)| value.parse::<u64>().ok()).sum();
    metrics.add("vm", ("TotalCPUTime", "real64", "s"), Some(format!("{:.6}", ns as f64 / 1e9)));
    let count = number("vcpu.current").map(|count| count.to_string());
    metrics.add("vm", ("ResourceProcessorLimit", "uint64", ""), count);
    for name in ["PhysicalMemoryAllocatedToVirtualSystem", "ResourceMemoryLimit"] {
        metrics.add("vm", (name, "uint64", "KiB"), number("balloon.current").map(|kib| kib.to_string()));
    }
}

fn processors(host: &HostReading, metrics: &mut Metrics) {
    let mut packages: Vec<&str> = host.cpuinfo.lines().filter(|line| line.starts_with("physical id")).collect();
    packages.sort_unstable();
    packages.dedup();
    let known = host.cpuinfo.contains("processor");
    metrics.add("host", ("NumberOfPhysicalCPUs", "int64", ""), known.then(|| packages.len().max(1).to_string()));
    let line = host.stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let time = line.map(|line| {
        let ticks = line.split_ascii_whitespace().take(3).filter_map(|field| field.parse::<u64>().ok());
        format!("{:.6}", ticks.sum::<u64>() as f64 * TICK_S)
    });
    metrics.add("host", ("TotalCPUTime", "real64", "s"), time);
}

fn memory(host: &HostReading, metrics: &mut Metrics) {
    let kib = |name: &str| {
        let line = host.meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    if !host.meminfo.is_empty() {
        let cached = kib("Buffers") + kib("Cached");
        let (total, free) = (kib("MemTotal"), kib("MemFree"));
        let all = total + kib("SwapTotal");
        let values = [
            ("FreePhysicalMemory", free),
            ("FreeVirtualMemory", free + kib("SwapFree")),
            ("MemoryAllocatedToVirtualServers", total.saturating_sub(free + cached)),
            ("UsedVirtualMemory", all.saturating_sub(free + cached + kib("SwapCached"))),
        ];
        for (name, value) in values {
            metrics.add("host", (name, "uint64", "KiB"), Some(value.to_string()));
        }
    }
    let pages = |name: &str| {
        let line = host.vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|count| count.trim().parse::<u64>().ok()).map(|pages| (pages * PAGE_KIB).to_string())
    };
    metrics.add("host", ("PagedInMemory", "uint64", "KiB"), pages("pswpin"));
    metrics.add("host", ("PagedOutMemory", "uint64", "KiB"), pages("pswpout"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_is_answered_and_others_are_invalid() {
        let check = |said: &str, expected: Option<Result<(), ()>>, rest: &str| {
            let mut bytes = said.as_bytes().to_vec();
            assert_eq!(take_request(&mut bytes), expected, "{said}");
            assert_eq!(String::from_utf8_lossy(&bytes), rest, "{said}");
        };
        check("GET /metrics/XML\n\n", Some(Ok(())), "");
        check("GET /metrics/XML\r\n\r\nGET", Some(Ok(())), "GET");
        check("GET /metrics/XML\n", None, "GET /metrics/XML\n");
        check("GET /metrics/JSON\n\n", Some(Err(())), "");
        check("PUT /metrics/XML\n\n", Some(Err(())), "");
        check("GET /metrics/XML\nmore\n\n", Some(Err(())), "");
        check(&"x".repeat(1025), Some(Err(())), "");
    }

    fn host() -> HostReading {
        HostReading {
            node: "n1 & co".to_owned(),
            stat: "cpu  100 20 30 4000 5 6 7 0 0 0\ncpu0 1 1 1\n".to_owned(),
            meminfo: "MemTotal: 1000 kB\nMemFree: 400 kB\nBuffers: 10 kB\nCached: 90 kB\nSwapCached: 5 kB\n\
                      SwapTotal: 200 kB\nSwapFree: 150 kB\n"
                .to_owned(),
            vmstat: "pswpin 3\npswpout 4\npswpinned 9\n".to_owned(),
            cpuinfo: "processor : 0\nphysical id : 0\nprocessor : 1\nphysical id : 1\nprocessor : 2\nphysical id : 1\n"
                .to_owned(),
            now_s: 77,
        }
    }

    #[test]
    fn the_document_has_kubevirts_metrics() {
        let stats = [
            ("vcpu.current", "2"),
            ("vcpu.0.time", "1500000000"),
            ("vcpu.1.time", "500000000"),
            ("vcpu.1.wait", "7"),
            ("balloon.current", "131072"),
        ];
        let stats = stats.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let text = document(&host(), Some(&stats));
        assert!(text.starts_with("<metrics>\n") && text.ends_with("</metrics>\n\n"), "{text}");
        let has = |context: &str, name: &str, unit: &str, value: &str| {
            let metric = text.split("<metric ").find(|metric| {
                metric.contains(&format!("context=\"{context}\"")) && metric.contains(&format!("<name>{name}</name>"))
            });
            let metric = metric.unwrap_or_else(|| panic!("no {name} of the {context}: {text}"));
            assert!(metric.contains(&format!("<value>{value}</value>")), "{metric}");
            assert_eq!(metric.contains(&format!("unit=\"{unit}\"")), !unit.is_empty(), "{metric}");
        };
        has("host", "HostName", "", "n1 &amp; co");
        has("host", "VirtualizationVendor", "", "kubevirt.io");
        has("host", "NumberOfPhysicalCPUs", "", "2");
        has("host", "TotalCPUTime", "s", "1.500000");
        has("host", "FreePhysicalMemory", "KiB", "400");
        has("host", "FreeVirtualMemory", "KiB", "550");
        has("host", "MemoryAllocatedToVirtualServers", "KiB", "500");
        has("host", "UsedVirtualMemory", "KiB", "695");
        has("host", "PagedInMemory", "KiB", "12");
        has("host", "PagedOutMemory", "KiB", "16");
        has("host", "Time", "s", "77");
        has("vm", "TotalCPUTime", "s", "2.000000");
        has("vm", "ResourceProcessorLimit", "", "2");
        has("vm", "ResourceMemoryLimit", "KiB", "131072");
    }

    #[test]
    fn what_could_not_be_read_is_left_out() {
        let text = document(&HostReading { node: "n1".to_owned(), ..HostReading::default() }, None);
        for name in ["FreePhysicalMemory", "NumberOfPhysicalCPUs", "TotalCPUTime", "PagedInMemory"] {
            assert!(!text.contains(name), "{name}: {text}");
        }
        assert!(text.contains("HostName"));
    }
}
