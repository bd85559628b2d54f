//! A running guest's metrics under KubeVirt's names, from libvirt's statistics of its domain: a flat list of named values
//! (<https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats>). Pure. Refuses to show what libvirt
//! did not say: a value that is missing is no zero.

use std::collections::HashMap;

use super::{Descriptor, Labels, Metrics, counter, gauge, label_name};

/// Beginning of the labels made of a VMI's own.
const LABEL_PREFIX: &str = "kubernetes_vmi_label_";
/// More of anything than a guest has.
const MOST: usize = 1024;
const NANOSECONDS: f64 = 1e-9;
const KIB: f64 = 1024.0;

/// One value of libvirt's: its name, what it becomes, and the factor between their units.
type Row = (&'static str, Descriptor, f64);

const WHOLE: &[Row] = &[
    (
        "cpu.time",
        counter(
            "kubevirt_vmi_cpu_usage_seconds_total",
            "Total CPU time spent in all modes (sum of both vcpu and hypervisor usage).",
        ),
        NANOSECONDS,
    ),
    (
        "cpu.user",
        counter("kubevirt_vmi_cpu_user_usage_seconds_total", "Total CPU time spent in user mode."),
        NANOSECONDS,
    ),
    (
        "cpu.system",
        counter("kubevirt_vmi_cpu_system_usage_seconds_total", "Total CPU time spent in system mode."),
        NANOSECONDS,
    ),
    (
        "balloon.rss",
        gauge("kubevirt_vmi_memory_resident_bytes", "Resident set size of the process running the domain."),
        KIB,
    ),
    (
        "balloon.available",
        gauge("kubevirt_vmi_memory_available_bytes", "Amount of usable memory as seen by the domain."),
        KIB,
    ),
    (
        "balloon.unused",
        gauge("kubevirt_vmi_memory_unused_bytes", "The amount of memory left completely unused by the system."),
        KIB,
    ),
    (
        "balloon.disk_caches",
        gauge(
            "kubevirt_vmi_memory_cached_bytes",
            "The amount of memory that is used to cache I/O and is available to be reclaimed.",
        ),
        KIB,
    ),
    (
        "balloon.swap_in",
        gauge(
            "kubevirt_vmi_memory_swap_in_traffic_bytes",
            "The total amount of data read from swap space of the guest.",
        ),
        KIB,
    ),
    (
        "balloon.swap_out",
        gauge(
            "kubevirt_vmi_memory_swap_out_traffic_bytes",
            "The total amount of memory written out to swap space of the guest.",
        ),
        KIB,
    ),
    (
        "balloon.major_fault",
        counter("kubevirt_vmi_memory_pgmajfault_total", "The number of page faults when disk I/O was required."),
        1.0,
    ),
    (
        "balloon.minor_fault",
        counter("kubevirt_vmi_memory_pgminfault_total", "The number of page faults when disk I/O was not required."),
        1.0,
    ),
    ("balloon.current", gauge("kubevirt_vmi_memory_actual_balloon_bytes", "Current balloon size."), KIB),
    (
        "balloon.usable",
        gauge(
            "kubevirt_vmi_memory_usable_bytes",
            "The amount of memory which can be reclaimed by balloon without pushing the guest system to swap.",
        ),
        KIB,
    ),
    (
        "balloon.maximum",
        gauge("kubevirt_vmi_memory_domain_bytes", "The amount of memory allocated to the domain."),
        KIB,
    ),
];

const VCPU_SECONDS: Descriptor = counter(
    "kubevirt_vmi_vcpu_seconds_total",
    "Total amount of time spent in each state by each vcpu; state is offline, running or blocked.",
);
const VCPU: &[Row] = &[
    (
        "wait",
        counter("kubevirt_vmi_vcpu_wait_seconds_total", "Amount of time spent by each vcpu while waiting on I/O."),
        NANOSECONDS,
    ),
    (
        "delay",
        counter(
            "kubevirt_vmi_vcpu_delay_seconds_total",
            "Amount of time spent by each vcpu waiting in the queue instead of running.",
        ),
        NANOSECONDS,
    ),
];

const NETWORK: &[Row] = &[
    ("rx.bytes", counter("kubevirt_vmi_network_receive_bytes_total", "Total network traffic received in bytes."), 1.0),
    (
        "tx.bytes",
        counter("kubevirt_vmi_network_transmit_bytes_total", "Total network traffic transmitted in bytes."),
        1.0,
    ),
    ("rx.pkts", counter("kubevirt_vmi_network_receive_packets_total", "Total network traffic received packets."), 1.0),
    (
        "tx.pkts",
        counter("kubevirt_vmi_network_transmit_packets_total", "Total network traffic transmitted packets."),
        1.0,
    ),
    ("rx.errs", counter("kubevirt_vmi_network_receive_errors_total", "Total network received error packets."), 1.0),
    ("tx.errs", counter("kubevirt_vmi_network_transmit_errors_total", "Total network transmitted error packets."), 1.0),
    (
        "rx.drop",
        counter("kubevirt_vmi_network_receive_packets_dropped_total", "The total number of received packets dropped."),
        1.0,
    ),
    (
        "tx.drop",
        counter("kubevirt_vmi_network_transmit_packets_dropped_total", "The total number of sent packets dropped."),
        1.0,
    ),
];

const NETWORK_TRAFFIC: Descriptor =
    counter("kubevirt_vmi_network_traffic_bytes_total", "Deprecated: total number of bytes sent and received.");

const STORAGE: &[Row] = &[
    ("rd.reqs", counter("kubevirt_vmi_storage_iops_read_total", "Total number of I/O read operations."), 1.0),
    ("wr.reqs", counter("kubevirt_vmi_storage_iops_write_total", "Total number of I/O write operations."), 1.0),
    (
        "rd.bytes",
        counter("kubevirt_vmi_storage_read_traffic_bytes_total", "Total number of bytes read from storage."),
        1.0,
    ),
    ("wr.bytes", counter("kubevirt_vmi_storage_write_traffic_bytes_total", "Total number of written bytes."), 1.0),
    (
        "rd.times",
        counter("kubevirt_vmi_storage_read_times_seconds_total", "Total time spent on read operations."),
        NANOSECONDS,
    ),
    (
        "wr.times",
        counter("kubevirt_vmi_storage_write_times_seconds_total", "Total time spent on write operations."),
        NANOSECONDS,
    ),
    ("fl.reqs", counter("kubevirt_vmi_storage_flush_requests_total", "Total storage flush requests."), 1.0),
    (
        "fl.times",
        counter("kubevirt_vmi_storage_flush_times_seconds_total", "Total time spent on cache flushing."),
        NANOSECONDS,
    ),
];

const FILESYSTEM_CAPACITY: Descriptor =
    gauge("kubevirt_vmi_filesystem_capacity_bytes", "Total VM filesystem capacity in bytes.");
const FILESYSTEM_USED: Descriptor =
    gauge("kubevirt_vmi_filesystem_used_bytes", "Used VM filesystem capacity in bytes.");

/// A file system inside a guest, as its agent said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestFilesystem {
    /// Name of the disk in the guest.
    pub disk: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Its type.
    pub kind: String,
    /// Bytes used.
    pub used_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Who a guest is, and what libvirt's names of its devices mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// Its node.
    pub node: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Labels of its VMI.
    pub labels: Vec<(String, String)>,
    /// Tap -> interface and network of the spec.
    pub interfaces: HashMap<String, (String, String)>,
    /// Target, such as `vda` -> volume.
    pub drives: HashMap<String, String>,
    /// Its file systems.
    pub filesystems: Vec<GuestFilesystem>,
}

impl Guest {
    fn with(&self, own: &[(&str, &str)]) -> Labels {
        let named = [("node", &self.node), ("namespace", &self.namespace), ("name", &self.name)];
        let mut labels: Labels = self.labels.iter().map(|(k, v)| (label_name(LABEL_PREFIX, k), v.clone())).collect();
        labels.extend(named.into_iter().map(|(name, value)| (name.to_owned(), value.clone())));
        labels.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        labels
    }
}

/// Adds a guest. `stats`: libvirt's names, each with its value as text.
pub fn add(metrics: &mut Metrics, guest: &Guest, stats: &HashMap<String, String>) {
    let value = |name: &str| stats.get(name).and_then(|text| text.parse::<f64>().ok());
    let rows = |metrics: &mut Metrics, prefix: &str, rows: &[Row], labels: &Labels| {
        for (name, descriptor, factor) in rows {
            if let Some(value) = value(&format!("{prefix}{name}")) {
                metrics.add(*descriptor, labels.clone(), value * factor);
            }
        }
    };
    rows(metrics, "", WHOLE, &guest.with(&[]));
    for index in 0..count(stats, "vcpu.maximum") {
        let id = index.to_string();
        if let Some(time) = value(&format!("vcpu.{index}.time")) {
            let state = vcpu_state(stats.get(&format!("vcpu.{index}.state")).map(String::as_str));
            metrics.add(VCPU_SECONDS, guest.with(&[("id", &id), ("state", state)]), time * NANOSECONDS);
        }
        rows(metrics, &format!("vcpu.{index}."), VCPU, &guest.with(&[("id", &id)]));
    }
    for index in 0..count(stats, "net.count") {
        let Some(tap) = stats.get(&format!("net.{index}.name")) else { continue };
        let (interface, network) = guest.interfaces.get(tap).cloned().unwrap_or_else(|| (tap.clone(), String::new()));
        let labels = guest.with(&[("interface", &interface), ("network", &network)]);
        rows(metrics, &format!("net.{index}."), NETWORK, &labels);
        for direction in ["rx", "tx"] {
            if let Some(bytes) = value(&format!("net.{index}.{direction}.bytes")) {
                metrics.add(NETWORK_TRAFFIC, guest.with(&[("interface", &interface), ("type", direction)]), bytes);
            }
        }
    }
    for index in 0..count(stats, "block.count") {
        let Some(target) = stats.get(&format!("block.{index}.name")) else { continue };
        let drive = guest.drives.get(target).unwrap_or(target);
        rows(metrics, &format!("block.{index}."), STORAGE, &guest.with(&[("drive", drive)]));
    }
    for filesystem in &guest.filesystems {
        let GuestFilesystem { disk, mount_point, kind, .. } = filesystem;
        let labels = guest.with(&[("disk_name", disk), ("mount_point", mount_point), ("file_system_type", kind)]);
        let bytes = |bytes: u64| bytes as f64;
        metrics.add(FILESYSTEM_CAPACITY, labels.clone(), bytes(filesystem.total_bytes));
        metrics.add(FILESYSTEM_USED, labels, bytes(filesystem.used_bytes));
    }
}

fn count(stats: &HashMap<String, String>, name: &str) -> usize {
    stats.get(name).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0).min(MOST)
}

/// `virVcpuState` in KubeVirt's words.
fn vcpu_state(state: Option<&str>) -> &'static str {
    match state {
        Some("0") => "offline",
        Some("1") => "running",
        Some("2") => "blocked",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest {
            node: "n1".into(),
            namespace: "shop".into(),
            name: "web".into(),
            labels: vec![("kubevirt.io/nodeName".into(), "n1".into())],
            interfaces: HashMap::from([("fw0".into(), ("default".into(), "lan".into()))]),
            drives: HashMap::from([("vda".into(), "root".into())]),
            filesystems: vec![GuestFilesystem {
                disk: "vda1".into(),
                mount_point: "/".into(),
                kind: "ext4".into(),
                used_bytes: 5,
                total_bytes: 9,
            }],
        }
    }

    fn lines(stats: &[(&str, &str)]) -> Vec<String> {
        let stats = stats.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut metrics = Metrics::default();
        add(&mut metrics, &guest(), &stats);
        let text = metrics.text().expect("a text");
        let common = "kubernetes_vmi_label_kubevirt_io_nodeName=\"n1\"";
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .inspect(|line| assert!(line.contains(common), "{line}"))
            .map(|line| line.replace(&format!("{common},"), ""))
            .collect()
    }

    #[test]
    fn libvirts_values_become_kubevirts_metrics() {
        let found = lines(&[
            ("cpu.time", "1500000000"),
            ("balloon.rss", "2"),
            ("vcpu.maximum", "1"),
            ("vcpu.0.state", "1"),
            ("vcpu.0.time", "500000000"),
            ("vcpu.0.wait", "0"),
            ("net.count", "1"),
            ("net.0.name", "fw0"),
            ("net.0.rx.bytes", "10"),
            ("block.count", "2"),
            ("block.0.name", "vda"),
            ("block.0.rd.reqs", "3"),
            ("block.1.name", "sda"),
            ("block.1.wr.times", "1000000000"),
        ]);
        let who = "name=\"web\",namespace=\"shop\"";
        let expected = [
            format!("kubevirt_vmi_cpu_usage_seconds_total{{{who},node=\"n1\"}} 1.5"),
            format!(
                "kubevirt_vmi_filesystem_capacity_bytes{{disk_name=\"vda1\",file_system_type=\"ext4\",mount_point=\"/\",\
                 {who},node=\"n1\"}} 9.0"
            ),
            format!(
                "kubevirt_vmi_filesystem_used_bytes{{disk_name=\"vda1\",file_system_type=\"ext4\",mount_point=\"/\",{who},\
                 node=\"n1\"}} 5.0"
            ),
            format!("kubevirt_vmi_memory_resident_bytes{{{who},node=\"n1\"}} 2048.0"),
            format!(
                "kubevirt_vmi_network_receive_bytes_total{{interface=\"default\",{who},network=\"lan\",node=\"n1\"}} 10.0"
            ),
            format!(
                "kubevirt_vmi_network_traffic_bytes_total{{interface=\"default\",{who},node=\"n1\",type=\"rx\"}} 10.0"
            ),
            format!("kubevirt_vmi_storage_iops_read_total{{drive=\"root\",{who},node=\"n1\"}} 3.0"),
            format!("kubevirt_vmi_storage_write_times_seconds_total{{drive=\"sda\",{who},node=\"n1\"}} 1.0"),
            format!("kubevirt_vmi_vcpu_seconds_total{{id=\"0\",{who},node=\"n1\",state=\"running\"}} 0.5"),
            format!("kubevirt_vmi_vcpu_wait_seconds_total{{id=\"0\",{who},node=\"n1\"}} 0.0"),
        ];
        let mut found = found;
        // Labels of the VMI sort between a metric's own.
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_libvirt_did_not_say_is_not_shown() {
        let found = lines(&[("vcpu.maximum", "4000000000"), ("net.count", "x"), ("cpu.time", "much")]);
        assert_eq!(found.len(), 2, "the file systems only: {found:?}");
    }
}
