//! Fields of a guest that are realised: each sets values chosen at random in a manifest, and says what must stand in the
//! domain for them. One function a field, or a group of fields that exclude each other.

use serde_json::{Value, json};

use super::domain::{Expect, has, lacks};
use crate::random::Random;

/// Sets a field of a VMI's spec.
pub(super) type Set = fn(&mut Random, &mut Value) -> Vec<Expect>;

/// The claims that disks may be of; one guest has each once.
pub(super) const CLAIMS: [&str; 2] = ["random-a", "random-b"];

/// All of them, with the name that is printed.
pub(super) const FIELDS: &[(&str, Set)] = &[
    ("memory.guest", memory),
    ("cpu", cpu),
    ("cpu.maxSockets", room),
    ("ioThreadsPolicy", io_threads),
    ("chassis", chassis),
    ("firmware.uuid", uuid),
    ("firmware.serial", serial),
    ("firmware.bootloader", bootloader),
    ("machine.type", machine),
    ("clock", clock),
    ("clock.timer", timer),
    ("devices.rng", rng),
    ("devices.downwardMetrics", host_metrics),
    ("devices.watchdog", watchdog),
    ("devices.inputs", tablet),
    ("devices.panicDevices", panic_device),
    ("devices.sound", sound),
    ("devices.tpm", tpm),
    ("devices.autoattachSerialConsole", no_console),
    ("devices.autoattachGraphicsDevice", no_display),
    ("devices.autoattachMemBalloon", no_balloon),
    ("devices.disks[].disk", disk),
    ("devices.disks[].cdrom", cdrom),
    ("volumes[].cloudInit*", seed),
    ("volumes[].emptyDisk", empty_disk),
    ("devices.interfaces[]", interface),
    ("terminationGracePeriodSeconds", grace),
];

/// A guest that says as little as can be.
pub(super) fn least(name: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "namespace": "default", "labels": {"furrow.io/test": "random"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "domain": {
                "memory": {"guest": "96Mi"}, "cpu": {}, "firmware": {}, "features": {}, "clock": {},
                "devices": {"autoattachPodInterface": false, "disks": [], "interfaces": []},
            },
            "networks": [], "volumes": [],
        },
    })
}

fn push(list: &mut Value, element: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(element);
    }
}

fn memory(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let mib = 64 + 4 * random.below(40);
    spec["domain"]["memory"]["guest"] = json!(format!("{mib}Mi"));
    vec![has("memory", &["unit='KiB'", &format!(">{}<", mib * 1024)])]
}

fn cpu(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    if random.chance(30) {
        // The limit makes the vCPUs; what is reserved must fit two cores.
        let count = 1 + random.below(3);
        spec["domain"]["resources"] = json!({"requests": {"cpu": "200m"}, "limits": {"cpu": count.to_string()}});
        // Beside them there is room for more, four times as many unless it is said.
        return vec![has("vcpu", &[&format!("current='{count}'")]), has("topology", &["cores='1'"])];
    }
    let (sockets, cores) = (1 + random.below(2), 1 + random.below(2));
    let threads = if sockets * cores > 2 { 1 } else { 1 + random.below(2) };
    for (part, count) in [("sockets", sockets), ("cores", cores), ("threads", threads)] {
        spec["domain"]["cpu"][part] = json!(count);
    }
    let shape = [format!("cores='{cores}'"), format!("threads='{threads}'")];
    vec![has("vcpu", &[&format!("current='{}'", sockets * cores * threads)]), has("topology", &[&shape[0], &shape[1]])]
}

fn room(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    // No fewer than any guest here has.
    let most = 4 + random.below(5);
    spec["domain"]["cpu"]["maxSockets"] = json!(most);
    vec![has("topology", &[&format!("sockets='{most}'")])]
}

fn io_threads(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    // For virtio disks alone.
    push(&mut spec["domain"]["devices"]["disks"], json!({"name": "threaded", "disk": {"bus": "virtio"}}));
    push(&mut spec["volumes"], json!({"name": "threaded", "emptyDisk": {"capacity": "32Mi"}}));
    spec["domain"]["ioThreadsPolicy"] = json!("shared");
    vec![has("iothreads", &[">1<"])]
}

fn chassis(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let text = format!("A-{}", random.below(100_000));
    spec["domain"]["chassis"] = json!({"asset": text});
    vec![has("chassis", &["name='asset'", &format!(">{text}<")])]
}

fn panic_device(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["devices"]["panicDevices"] = json!([{"model": "isa"}]);
    vec![has("panic", &["model='isa'"])]
}

fn sound(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let model = *random.one(&["ich9", "ac97"]);
    spec["domain"]["devices"]["sound"] = json!({"name": "horn", "model": model});
    vec![has("sound", &[&format!("model='{model}'")])]
}

fn tpm(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["devices"]["tpm"] = json!({});
    vec![has("tpm", &["type='emulator'", "version='2.0'"])]
}

fn empty_disk(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    push(&mut spec["domain"]["devices"]["disks"], json!({"name": "blank", "disk": {"bus": "virtio"}}));
    push(&mut spec["volumes"], json!({"name": "blank", "emptyDisk": {"capacity": "32Mi"}}));
    vec![has("disk", &["ua-blank", "protocol='rbd'"])]
}

fn uuid(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let (high, low) = (random.next(), random.next());
    let text = format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    );
    spec["domain"]["firmware"]["uuid"] = json!(text);
    vec![has("uuid", &[&format!(">{text}<")])]
}

fn serial(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let text = format!("SN-{}", random.below(100_000));
    spec["domain"]["firmware"]["serial"] = json!(text);
    vec![has("entry", &["name='serial'", &format!(">{text}<")])]
}

fn bootloader(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let domain = &mut spec["domain"];
    match random.below(5) {
        0 => {
            domain["firmware"]["bootloader"] = json!({"bios": {}});
            vec![lacks("loader", &[]), has("acpi", &[])]
        }
        1 => {
            domain["firmware"]["bootloader"] = json!({"bios": {"useSerial": true}});
            vec![has("bios", &["useserial='yes'"])]
        }
        2 => {
            domain["firmware"]["bootloader"] = json!({"bios": {}});
            domain["features"]["acpi"] = json!({"enabled": false});
            vec![lacks("acpi", &[])]
        }
        3 => {
            domain["firmware"]["bootloader"] = json!({"efi": {"secureBoot": false}});
            vec![has("loader", &["type='pflash'"]), has("nvram", &[])]
        }
        _ => {
            domain["firmware"]["bootloader"] = json!({"efi": {}});
            domain["features"]["smm"] = json!({"enabled": true});
            vec![has("loader", &["type='pflash'", "secure='yes'"]), has("smm", &["state='on'"])]
        }
    }
}

fn machine(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["machine"] = json!({"type": "q35"});
    vec![has("type", &["machine='pc-q35-"])]
}

fn clock(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let clock = &mut spec["domain"]["clock"];
    match random.below(3) {
        0 => {
            clock["utc"] = json!({});
            vec![has("clock", &["offset='utc'"])]
        }
        1 => {
            let seconds = 60 * (1 + random.below(600));
            clock["utc"] = json!({"offsetSeconds": seconds});
            vec![has("clock", &["offset='variable'", &format!("adjustment='{seconds}'")])]
        }
        _ => {
            let zone = *random.one(&["Europe/Berlin", "Asia/Shanghai", "America/New_York"]);
            clock["timezone"] = json!(zone);
            vec![has("clock", &["offset='timezone'", &format!("timezone='{zone}'")])]
        }
    }
}

fn timer(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let timer = &mut spec["domain"]["clock"]["timer"];
    if random.chance(50) {
        *timer = json!({"hpet": {"present": false}});
        return vec![has("timer", &["name='hpet'", "present='no'"])];
    }
    let policy = *random.one(&["delay", "catchup"]);
    *timer = json!({"rtc": {"tickPolicy": policy}});
    vec![has("timer", &["name='rtc'", &format!("tickpolicy='{policy}'")])]
}

fn rng(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["devices"]["rng"] = json!({});
    vec![has("rng", &["model='virtio", "/dev/urandom"])]
}

fn host_metrics(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["devices"]["downwardMetrics"] = json!({});
    vec![has("channel", &["org.github.vhostmd.1", "host-metrics.sock"])]
}

fn watchdog(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let action = *random.one(&["reset", "poweroff", "shutdown"]);
    spec["domain"]["devices"]["watchdog"] = json!({"name": "dog", "i6300esb": {"action": action}});
    vec![has("watchdog", &["model='i6300esb'", &format!("action='{action}'")])]
}

fn tablet(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let bus = *random.one(&["usb", "virtio"]);
    spec["domain"]["devices"]["inputs"] = json!([{"name": "pen", "type": "tablet", "bus": bus}]);
    vec![has("input", &["type='tablet'", &format!("bus='{bus}'"), "ua-pen"])]
}

fn no_console(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["devices"]["autoattachSerialConsole"] = json!(false);
    vec![lacks("serial", &["type='unix'"])]
}

fn no_display(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["devices"]["autoattachGraphicsDevice"] = json!(false);
    vec![lacks("graphics", &[])]
}

fn no_balloon(_: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["domain"]["devices"]["autoattachMemBalloon"] = json!(false);
    vec![has("memballoon", &["model='none'"])]
}

fn disk(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let bus = *random.one(&["virtio", "sata", "scsi", "usb"]);
    let mut disk = json!({"name": "a", "disk": {"bus": bus}});
    let mut holds = vec!["ua-a".to_owned(), "protocol='rbd'".to_owned(), format!("bus='{bus}'")];
    if random.chance(50) {
        let text = format!("D-{}", random.below(10_000));
        disk["serial"] = json!(text);
        holds.push(format!("<serial>{text}</serial>"));
    }
    let shareable = random.chance(20);
    if random.chance(50) {
        // What several guests write is cached by none of their hosts.
        let modes: &[&str] = if shareable { &["none"] } else { &["none", "writethrough", "writeback"] };
        let cache = *random.one(modes);
        disk["cache"] = json!(cache);
        holds.push(format!("cache='{cache}'"));
    }
    if random.chance(40) {
        disk["io"] = json!("threads");
        holds.push("io='threads'".to_owned());
    }
    if random.chance(40) {
        let policy = *random.one(&["stop", "report", "ignore"]);
        disk["errorPolicy"] = json!(policy);
        holds.push(format!("error_policy='{policy}'"));
    }
    if random.chance(40) {
        disk["bootOrder"] = json!(1);
        holds.push("<boot order='1'/>".to_owned());
    }
    if shareable {
        disk["shareable"] = json!(true);
        holds.push("<shareable/>".to_owned());
    }
    push(&mut spec["domain"]["devices"]["disks"], disk);
    push(&mut spec["volumes"], json!({"name": "a", "dataVolume": {"name": CLAIMS[0]}}));
    vec![Expect { element: "disk", holds, there: true }]
}

fn cdrom(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let bus = *random.one(&["sata", "scsi"]);
    let cdrom = json!({"name": "b", "cdrom": {"bus": bus}, "bootOrder": 3});
    push(&mut spec["domain"]["devices"]["disks"], cdrom);
    push(&mut spec["volumes"], json!({"name": "b", "persistentVolumeClaim": {"claimName": CLAIMS[1]}}));
    vec![has("disk", &["ua-b", "device='cdrom'", "<readonly/>", "<boot order='3'/>", &format!("bus='{bus}'")])]
}

fn seed(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let kind = *random.one(&["cloudInitNoCloud", "cloudInitConfigDrive"]);
    push(&mut spec["domain"]["devices"]["disks"], json!({"name": "seed", "disk": {"bus": "virtio"}}));
    push(&mut spec["volumes"], json!({"name": "seed", kind: {"userData": "#cloud-config\nhostname: random\n"}}));
    vec![has("disk", &["ua-seed", "seed.iso", "<readonly/>"])]
}

fn interface(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    let model = *random.one(&["virtio", "e1000", "e1000e", "rtl8139"]);
    let mut interface = json!({"name": "lan", "bridge": {}, "model": model});
    let shown = if model == "virtio" { "<model type='virtio".to_owned() } else { format!("<model type='{model}'/>") };
    let mut holds = vec!["ua-lan".to_owned(), shown];
    if random.chance(60) {
        let mac = format!("02:{:02x}:{:02x}:{:02x}:00:01", random.below(256), random.below(256), random.below(256));
        interface["macAddress"] = json!(mac);
        holds.push(format!("address='{mac}'"));
    }
    if random.chance(30) {
        interface["bootOrder"] = json!(2);
        holds.push("<boot order='2'/>".to_owned());
    }
    if random.chance(20) {
        interface["state"] = json!("down");
        holds.push("<link state='down'/>".to_owned());
    }
    push(&mut spec["domain"]["devices"]["interfaces"], interface);
    push(&mut spec["networks"], json!({"name": "lan", "multus": {"networkName": "default/vlan100"}}));
    vec![Expect { element: "interface", holds, there: true }]
}

fn grace(random: &mut Random, spec: &mut Value) -> Vec<Expect> {
    spec["terminationGracePeriodSeconds"] = json!(random.below(4));
    Vec::new()
}
