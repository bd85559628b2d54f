//! The network devices that the kernel shows below `/sys/class/net`. Reads only; which of them count is its callers' matter.

use std::path::Path;

/// Where they are.
pub(crate) const SYSFS: &str = "/sys/class/net";

/// A network device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Card {
    pub(crate) name: String,
    /// Its own MAC address, also as a port of a bond, which lends it another.
    pub(crate) mac: String,
    pub(crate) has_link: bool,
    /// Mbit/s.
    pub(crate) speed: Option<u32>,
    /// It has a device below it, as bridges, bonds and the like have not.
    pub(crate) is_hardware: bool,
    pub(crate) is_ethernet: bool,
    /// The bond, bridge or switch that it is a port of.
    pub(crate) master: Option<String>,
}

/// All of them, by name.
pub(crate) fn cards(sysfs: &Path) -> Vec<Card> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sysfs).into_iter().flatten().flatten() {
        let path = entry.path();
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
        let own = read("bonding_slave/perm_hwaddr");
        let master = std::fs::read_link(path.join("master")).ok();
        found.push(Card {
            name: entry.file_name().to_string_lossy().into_owned(),
            mac: if own.is_empty() { read("address") } else { own },
            has_link: read("carrier") == "1",
            // -1, also as an unsigned number, where it is not known.
            speed: read("speed").parse::<i64>().ok().and_then(|s| u32::try_from(s).ok()).filter(|s| *s != u32::MAX),
            is_hardware: path.join("device").exists(),
            is_ethernet: read("type") == "1",
            master: master.and_then(|m| Some(m.file_name()?.to_string_lossy().into_owned())),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
