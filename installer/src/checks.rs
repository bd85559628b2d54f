//! Whether a machine can become a node, before anything is asked or written: firmware, processor, memory, disks, cards, clock,
//! product UUID. Looks, and reads a little of each disk; changes nothing. The text interface shows all of it, an unattended
//! installation prints it and ends where something is bad.

mod speed;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use furrow_host::block::Device;

use self::speed::Speed;
use crate::observe::{Level, Part};

/// MiB below which a node cannot do its work.
pub(crate) const LEAST_MEMORY_MIB: u64 = 3584;
/// MiB below which it has little room for guests.
const GOOD_MEMORY_MIB: u64 = 7680;
/// What a node takes for itself, MiB, measured with an idle cluster of one.
const OWN_MIB: u64 = 1300;
/// A clock this far after the image was made is as wrong as one before it, seconds: ten years.
const IMAGE_LIFE: u64 = 10 * 365 * 86400;
/// A disk that reads less, bytes a second, makes every guest wait.
const SLOW: u64 = 40_000_000;

/// The UUID of the machine, as its firmware tells it.
pub(crate) const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";

/// All checks. `disks` that can be installed to, `nics`: how many cards there are, and how many have a link.
pub(crate) async fn all(disks: &[Device], nics: (usize, usize)) -> Vec<Part> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let speeds = speed::of(disks).await;
    vec![
        firmware(Path::new("/sys/firmware/efi").exists()),
        virtualisation(&read("/proc/cpuinfo"), Path::new("/dev/kvm").exists()),
        memory(&read("/proc/meminfo")),
        disks_check(&speeds),
        network(nics),
        clock(crate::steps::now(), image_made()),
        product(&read(PRODUCT_UUID)),
    ]
}

/// When the image was made: all its files have that time. Seconds since 1970.
fn image_made() -> u64 {
    let made = std::fs::metadata("/usr/lib/os-release").and_then(|m| m.modified());
    let made = made.ok().and_then(|at: SystemTime| at.duration_since(UNIX_EPOCH).ok());
    made.map_or(0, |at| at.as_secs())
}

fn firmware(uefi: bool) -> Part {
    match uefi {
        true => Part::new("firmware", Level::Well, "UEFI"),
        false => Part::new("firmware", Level::Fault, "not UEFI: switch legacy or CSM boot off"),
    }
}

fn virtualisation(cpuinfo: &str, kvm: bool) -> Part {
    let flags = cpuinfo.lines().find_map(|l| l.strip_prefix("flags")).unwrap_or_default();
    let kind = flags.split_ascii_whitespace().find_map(|flag| match flag {
        "vmx" => Some("VT-x"),
        "svm" => Some("AMD-V"),
        _ => None,
    });
    match (kind, kvm) {
        (Some(kind), true) => Part::new("virtualisation", Level::Well, format!("KVM by {kind}")),
        (None, true) => Part::new("virtualisation", Level::Well, "KVM"),
        (Some(kind), false) => Part::new(
            "virtualisation",
            Level::Warning,
            format!("{kind} is switched off in the firmware: guests are emulated"),
        ),
        (None, false) => Part::new(
            "virtualisation",
            Level::Warning,
            "no VT-x or AMD-V, or switched off in the firmware: guests are emulated",
        ),
    }
}

/// MiB of all memory, from `/proc/meminfo`; 0 where that does not say.
pub(crate) fn total_memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn memory(meminfo: &str) -> Part {
    let mib = total_memory_mib(meminfo);
    let (least, good) = (LEAST_MEMORY_MIB, GOOD_MEMORY_MIB);
    let text = format!("{mib} MiB; a node takes {OWN_MIB} MiB for itself");
    match mib {
        _ if mib < least => Part::new("memory", Level::Fault, format!("{text}, at least {least} MiB are needed")),
        _ if mib < good => Part::new("memory", Level::Warning, format!("{text}: little is left for guests")),
        _ => Part::new("memory", Level::Well, text),
    }
}

fn disks_check(speeds: &[(String, Speed)]) -> Part {
    let mut result = if speeds.is_empty() { Level::Fault } else { Level::Well };
    let mut said = Vec::new();
    for (path, speed) in speeds {
        let name = path.trim_start_matches("/dev/");
        said.push(match speed {
            Speed::Reads(rate) if *rate < SLOW => {
                result = Level::Warning;
                format!("{name} SLOW, {} MB/s", rate / 1_000_000)
            }
            Speed::Reads(rate) => format!("{name} {} MB/s", rate / 1_000_000),
            Speed::Fails(reason) => {
                result = Level::Warning;
                format!("{name} CANNOT BE READ: {reason}")
            }
            Speed::NotTested => name.to_owned(),
        });
    }
    Part::new("disks", result, if said.is_empty() { "none".to_owned() } else { said.join(", ") })
}

fn network((cards, linked): (usize, usize)) -> Part {
    let text = format!("{cards} cards, {linked} with a link");
    let result = match (cards, linked) {
        (0, _) => Level::Fault,
        (_, 0) => Level::Warning,
        _ => Level::Well,
    };
    Part::new("network", result, text)
}

/// `now`, and when the image was made: seconds since 1970.
fn clock(now: u64, made: u64) -> Part {
    let day = i64::try_from(now).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    let day = day.map(|d| d.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default();
    match now {
        _ if now < made => {
            Part::new("clock", Level::Warning, format!("{day} is before this image was made: set it in the firmware"))
        }
        _ if now > made + IMAGE_LIFE => {
            Part::new("clock", Level::Warning, format!("{day} is ten years after this image was made: is it right?"))
        }
        _ => Part::new("clock", Level::Well, day),
    }
}

/// UUIDs that vendors left in many machines, beside those of one repeated digit.
const SHARED_UUIDS: [&str; 5] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "12345678-1234-1234-1234-123456789abc",
    "01234567-8910-1112-1314-151617181920",
];

/// Whether a product UUID is known to be that of many machines.
pub(crate) fn is_shared(uuid: &str) -> bool {
    let uuid = uuid.trim().to_ascii_lowercase();
    let digits: Vec<char> = uuid.chars().filter(|c| *c != '-').collect();
    let repeats = digits.windows(2).all(|pair| pair[0] == pair[1])
        || digits.chunks(2).collect::<Vec<_>>().windows(2).all(|pair| pair[0] == pair[1]);
    repeats || SHARED_UUIDS.contains(&uuid.as_str())
}

fn product(uuid: &str) -> Part {
    let uuid = uuid.trim().to_ascii_lowercase();
    match uuid.as_str() {
        "" => Part::new("product UUID", Level::Warning, "the firmware tells none"),
        _ if is_shared(&uuid) => Part::new(
            "product UUID",
            Level::Warning,
            format!("{uuid} is that of many machines: set one in the firmware"),
        ),
        _ => Part::new("product UUID", Level::Well, uuid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Level::{Fault as Bad, Warning, Well as Good};

    fn expect(check: &Part, result: Level, text: &str) {
        assert!(check.level == result && check.text.contains(text), "{check:?}, expected {result:?} with `{text}`");
    }

    #[test]
    fn a_processor_that_can_is_told_from_one_whose_firmware_says_no() {
        let intel = "processor\t: 0\nflags\t\t: fpu vmx sse\n";
        expect(&virtualisation(intel, true), Good, "KVM by VT-x");
        expect(&virtualisation(intel, false), Warning, "VT-x is switched off in the firmware");
        expect(&virtualisation("flags : fpu svm\n", true), Good, "AMD-V");
        expect(&virtualisation("flags : fpu svmx\n", false), Warning, "no VT-x or AMD-V");
    }

    #[test]
    fn memory_has_a_least_amount() {
        for (kib, result, text) in [
            (3_600_000, Bad, "3515 MiB; a node takes 1300 MiB for itself, at least 3584"),
            (6_094_324, Warning, "5951 MiB"),
            (16_000_000, Good, "15625 MiB"),
        ] {
            expect(&memory(&format!("MemTotal:        {kib} kB\nMemFree: 1 kB\n")), result, text);
        }
        expect(&memory(""), Bad, "0 MiB");
    }

    #[test]
    fn a_slow_disk_and_one_that_fails_are_named() {
        let disk = |speed| vec![("/dev/sda".to_owned(), speed)];
        expect(&disks_check(&[]), Bad, "none");
        expect(&disks_check(&disk(Speed::Reads(200_000_000))), Good, "sda 200 MB/s");
        expect(&disks_check(&disk(Speed::Reads(5_000_000))), Warning, "sda SLOW, 5 MB/s");
        expect(&disks_check(&disk(Speed::Fails("I/O error".into()))), Warning, "sda CANNOT BE READ: I/O error");
        expect(&disks_check(&disk(Speed::NotTested)), Good, "sda");
    }

    #[test]
    fn a_clock_is_compared_with_the_image() {
        let made = 1_764_547_200;
        expect(&clock(946_684_800, made), Warning, "2000-01-01 00:00 UTC is before this image was made");
        expect(&clock(made + 1, made), Good, "2025-12-01");
        expect(&clock(made + IMAGE_LIFE + 1, made), Warning, "ten years after");
    }

    #[test]
    fn uuids_that_many_machines_have_are_known() {
        for shared in [
            "03000200-0400-0500-0006-000700080009\n",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "fefefefe-fefe-fefe-fefe-fefefefefefe",
        ] {
            expect(&product(shared), Warning, "is that of many machines");
        }
        expect(&product("4c4c4544-0051-3610-8052-b4c04f4e4d32\n"), Good, "4c4c4544");
        expect(&product(""), Warning, "tells none");
    }

    #[test]
    fn cards_without_a_link_are_no_reason_to_stop() {
        expect(&network((0, 0)), Bad, "0 cards");
        expect(&network((2, 0)), Warning, "2 cards, 0 with a link");
        expect(&network((2, 1)), Good, "1 with a link");
    }
}
