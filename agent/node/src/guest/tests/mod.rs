//! One guest from binding to its end, over the fakes: the same owner, plan, executor and status as on a node.

mod fakes;
mod fields;
mod pinning;
mod plug;
mod shares;
mod state;
mod tpm;

use std::sync::Arc;
use std::time::Duration;

use furrow_api::VirtualMachineInstance;
use furrow_host::libvirt::{DomainState, OffReason, PauseReason};
use furrow_model::port::TapName;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::bound::BoundPod;
use super::dispatch::Snapshot;
use super::host_metrics::RecentStats;
use super::images::Images;
use super::owner::{Artefacts, Owner};
use super::record::Events;
use super::settings::Settings;
use super::{Context, Key, NodeFacts};
use fakes::World;

const VMI: &str = "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances/vm";
const POD: &str = "/api/v1/namespaces/default/pods/virt-launcher-vm-x";
const DOMAIN: &str = "default_vm";
/// What guests mount, in the directory of the guests' own.
const SHARES: &str = ".shares";

/// A world with one VMI that is bound to this node, and the owner of its guest.
struct Bench {
    world: World,
    owner: Owner,
    guests: tempfile::TempDir,
    stop: CancellationToken,
}

fn vmi(uid: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": "default", "uid": uid, "generation": 1},
        "spec": {
            "domain": {
                "memory": {"guest": "128Mi"},
                "devices": {
                    "disks": [
                        {"name": "root", "disk": {"bus": "virtio"}},
                        {"name": "seed", "disk": {"bus": "virtio"}},
                    ],
                    "interfaces": [{"name": "default", "bridge": {}}],
                },
            },
            "networks": [{"name": "default", "multus": {"networkName": "lan"}}],
            "volumes": [
                {"name": "root", "dataVolume": {"name": "vm-root"}},
                {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config\n"}},
            ],
        },
        "status": {
            "phase": "Scheduling",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "DataVolumesReady", "status": "True"}],
        },
    })
}

fn pod(uid: &str) -> Value {
    let reservation = json!({
        "vmi": {"namespace": "default", "name": "vm", "uid": uid},
        "nics": [{
            "name": "default", "network": "default/lan", "subnet": "s", "bridge": "br-p", "vlan": 100,
            "mac": "02:00:00:00:00:01", "ip": "192.168.10.2", "prefixLen": 23, "gateway": "192.168.10.1",
            "dns": [], "mtu": 1500, "ipObject": "vm.default",
        }],
        "volumes": [{
            "name": "root", "claim": "vm-root", "pool": "volumes", "image": "csi-vol-1",
            "accessModes": ["ReadWriteMany"], "volumeMode": "Block", "readOnly": false, "capacityBytes": 1_073_741_824,
        }],
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "virt-launcher-vm-x", "namespace": "default", "uid": format!("pod-of-{uid}"),
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm", "uid": uid,
                "controller": true,
            }],
            "annotations": {"furrow.io/reservation": reservation.to_string()},
        },
        "spec": {"containers": [], "nodeName": "node-1"},
        "status": {"phase": "Pending"},
    })
}

impl Bench {
    fn new() -> Self {
        let world = World::default();
        world.put(VMI, vmi("uid-1"));
        world.put(POD, pod("uid-1"));
        let guests = tempfile::tempdir().expect("a directory");
        let stop = CancellationToken::new();
        let owner = owner(&world, &guests, &stop);
        Self { world, owner, guests, stop }
    }

    /// What the watches would have delivered.
    fn snapshot(&self) -> Snapshot {
        let vmi: Option<VirtualMachineInstance> = serde_json::from_value(self.world.object(VMI)).ok();
        let labelled =
            vmi.filter(|vmi| vmi.metadata.labels.as_ref().is_some_and(|l| l.contains_key("kubevirt.io/nodeName")));
        let pod: Option<Pod> = serde_json::from_value(self.world.object(POD)).ok();
        let pods = pod.iter().filter_map(BoundPod::read).map(Arc::new).collect();
        Snapshot { pods, vmi: labelled.map(Arc::new), ..Snapshot::default() }
    }

    async fn pass(&mut self) -> Option<Duration> {
        let snapshot = self.snapshot();
        self.owner.passes(&snapshot).await
    }

    /// A new agent on the same node: it knows what it finds.
    fn restart_agent(&mut self) {
        self.owner = owner(&self.world, &self.guests, &self.stop);
        let ports = self.world.state().ports.iter().map(|(tap, (uid, _))| (tap.clone(), uid.clone())).collect();
        let files = self.world.state().domains.values().filter_map(|d| Some(d.owner.as_ref()?.uid.clone())).collect();
        let states = self.world.state().tpm.local.keys().cloned().collect();
        self.owner.found(Artefacts { ports, files, states });
    }

    fn status(&self) -> Value {
        self.world.object(VMI)["status"].clone()
    }

    fn phase(&self) -> String {
        self.status()["phase"].as_str().unwrap_or_default().to_owned()
    }

    fn condition(&self, type_: &str) -> Value {
        let conditions = self.status()["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
    }

    /// A pass without a cause leaves the API server alone.
    async fn assert_the_same_again_writes_nothing(&mut self) {
        let writes = self.world.state().writes;
        self.pass().await;
        assert_eq!(self.world.state().writes, writes, "the same again writes nothing");
    }

    fn assert_nothing_left(&self) {
        let state = self.world.state();
        assert!(state.domains.is_empty(), "domains: {:?}", state.domains);
        assert!(state.ports.is_empty(), "ports: {:?}", state.ports);
        assert!(state.tpm.local.is_empty(), "states of TPMs: {:?}", state.tpm.local);
        let entries = |dir: std::path::PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let files = entries(self.guests.path().to_owned()).filter(|entry| entry.file_name() != SHARES);
        assert_eq!(files.count(), 0, "guest directories");
        assert_eq!(entries(self.guests.path().join(SHARES)).count(), 0, "what guests mounted");
    }
}

fn owner(world: &World, guests: &tempfile::TempDir, stop: &CancellationToken) -> Owner {
    let client = world.client();
    let facts = NodeFacts {
        node: "node-1".to_owned(),
        emulator: "/usr/bin/qemu".to_owned(),
        firmware_dir: "/usr/share/OVMF".to_owned(),
        guests_dir: guests.path().to_owned(),
        shares_dir: guests.path().join(SHARES),
        tpm_dir: "/run/furrow/tpm".into(),
        kvm: false,
    };
    let context = Context {
        events: Events::start(client.clone(), &facts.node, stop.clone()),
        client,
        volumes: Arc::new(world.clone()),
        tpm: Arc::new(world.clone()),
        ports: Arc::new(world.clone()),
        domains: Arc::new(world.clone()),
        dial: Arc::new(world.clone()),
        stats: RecentStats::new(Arc::new(world.clone())),
        kernels: Arc::new(world.clone()),
        facts,
        shown: Arc::default(),
        settings: watch::Sender::new(Some(Settings::default())).subscribe(),
        images: Images::default(),
        cpus: Arc::new(pinning::dedicated(world)),
        starts: Semaphore::new(1),
        probes: Semaphore::new(1),
        reaching: Semaphore::new(1),
        stop: stop.clone(),
    };
    Owner::new(Arc::new(context), Key { namespace: "default".to_owned(), name: "vm".to_owned() }, Artefacts::default())
}

#[tokio::test]
async fn a_bound_guest_is_started_and_described() {
    let mut bench = Bench::new();
    assert!(bench.pass().await.is_some(), "the owner goes on");
    assert_eq!(bench.world.state().started, [DOMAIN]);
    let object = bench.world.object(VMI);
    assert_eq!(object["metadata"]["labels"]["kubevirt.io/nodeName"], "node-1");
    let status = &object["status"];
    assert_eq!((&status["phase"], &status["nodeName"]), (&json!("Running"), &json!("node-1")));
    let nic = &status["interfaces"][0];
    assert_eq!((&nic["ipAddress"], &nic["name"]), (&json!("192.168.10.2"), &json!("default")));
    assert_eq!((&nic["mac"], &nic["infoSource"]), (&json!("02:00:00:00:00:01"), &json!("domain")));
    let targets: Vec<_> = status["volumeStatus"].as_array().expect("volumes").iter().map(|v| &v["target"]).collect();
    assert_eq!(targets, ["vda", "vdb"]);
    let phases: Vec<_> =
        status["phaseTransitionTimestamps"].as_array().expect("phases").iter().map(|p| &p["phase"]).collect();
    assert_eq!(phases, ["Scheduled", "Running"]);
    for type_ in ["Ready", "LiveMigratable", "SoftwareEmulation", "PodScheduled", "DataVolumesReady"] {
        assert_eq!(bench.condition(type_)["status"], "True", "{type_}");
    }
    assert!(bench.guests.path().join("uid-1/seed.iso").exists());
    bench.assert_the_same_again_writes_nothing().await;
}

#[tokio::test]
async fn a_guest_that_is_bound_before_control_says_so_has_the_whole_of_its_way_in_its_status() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| {
        let waits = json!({"type": "Synchronized", "status": "False", "reason": "PvcNotBound"});
        vmi["status"] = json!({"phase": "Pending", "conditions": [waits],
            "phaseTransitionTimestamps": [{"phase": "Pending", "phaseTransitionTimestamp": "2026-01-01T00:00:00Z"}]});
    });
    bench.pass().await;
    let status = bench.world.object(VMI)["status"].clone();
    let phases: Vec<_> =
        status["phaseTransitionTimestamps"].as_array().expect("phases").iter().map(|p| &p["phase"]).collect();
    assert_eq!(phases, ["Pending", "Scheduling", "Scheduled", "Running"]);
    assert_eq!(bench.condition("DataVolumesReady")["reason"], "AllDVsReady");
    assert_eq!(bench.condition("Synchronized"), Value::Null);
}

#[tokio::test]
async fn a_guest_that_is_to_start_paused_does_not_execute() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["startStrategy"] = json!("Paused"));
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
    let paused = bench.condition("Paused");
    assert_eq!((&paused["status"], &paused["reason"]), (&json!("True"), &json!("PausedByUser")));
}

#[tokio::test]
async fn a_running_guest_survives_a_new_agent_untouched() {
    let mut bench = Bench::new();
    bench.pass().await;
    let ensured = bench.world.state().ensured;
    let writes = bench.world.state().writes;
    bench.restart_agent();
    bench.pass().await;
    let state = bench.world.state();
    assert_eq!(state.started.len(), 1, "it was not started again");
    assert_eq!(state.ensured, ensured + 1, "its port answers DHCP again");
    assert_eq!(state.writes, writes, "its status was right");
}

#[tokio::test]
async fn a_guest_that_shuts_down_has_succeeded_and_one_that_crashes_has_failed() {
    for (reason, phase) in [(OffReason::Shutdown, "Succeeded"), (OffReason::Crashed, "Failed")] {
        let mut bench = Bench::new();
        bench.pass().await;
        bench.world.end(DOMAIN, reason);
        bench.pass().await;
        assert_eq!(bench.phase(), phase);
        assert_eq!(bench.condition("Ready")["reason"], "GuestNotRunning");
        bench.assert_nothing_left();
        assert!(bench.world.state().open.is_empty());
    }
}

#[tokio::test]
async fn the_end_is_told_even_if_it_came_while_no_agent_ran() {
    let mut bench = Bench::new();
    bench.pass().await;
    bench.world.end(DOMAIN, OffReason::Shutdown);
    bench.restart_agent();
    bench.pass().await;
    assert_eq!(bench.phase(), "Succeeded");
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_node_that_restarted_has_failed_guests() {
    let mut bench = Bench::new();
    bench.pass().await;
    bench.world.state().domains.clear();
    bench.world.state().ports.clear();
    bench.restart_agent();
    bench.pass().await;
    assert_eq!(bench.phase(), "Failed");
    assert_eq!(bench.status()["reason"], "NodeRestarted");
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_deleted_guest_is_asked_then_killed_then_cleared() {
    let mut bench = Bench::new();
    bench.pass().await;
    let now = jiff::Timestamp::now().to_string();
    bench.world.change(VMI, |vmi| vmi["metadata"]["deletionTimestamp"] = json!(now));
    let wake = bench.pass().await.expect("a next look");
    assert_eq!(bench.world.state().asked, 1);
    assert!(wake <= Duration::from_secs(5), "{wake:?}");
    assert_eq!(bench.phase(), "Running");
    bench.world.change(VMI, |vmi| vmi["spec"]["terminationGracePeriodSeconds"] = json!(0));
    bench.pass().await;
    assert_eq!(bench.phase(), "Succeeded");
    bench.assert_nothing_left();
    bench.world.state().objects.clear();
    assert_eq!(bench.pass().await, None, "nothing is left to look after");
}

#[tokio::test]
async fn nothing_starts_when_a_part_fails_and_the_object_says_why() {
    for operation in ["ensure a port", "open a volume", "start the domain"] {
        let mut bench = Bench::new();
        bench.world.state().failing.insert(operation);
        let wake = bench.pass().await.expect("a retry");
        assert_eq!(wake, Duration::from_secs(1), "{operation}");
        assert!(bench.world.state().started.is_empty(), "{operation}");
        assert_eq!(bench.phase(), "Scheduled");
        let condition = bench.condition("Synchronized");
        assert_eq!(condition["status"], "False", "{operation}");
        assert!(condition["message"].as_str().is_some_and(|message| message.contains("told to fail")), "{condition}");
        assert_eq!(bench.pass().await, Some(Duration::from_secs(2)), "the pause doubles");
        bench.world.state().failing.clear();
        bench.pass().await;
        assert_eq!(bench.phase(), "Running", "{operation}");
        assert!(bench.condition("Synchronized").is_null());
    }
}

#[tokio::test]
async fn a_guest_that_never_started_leaves_nothing_when_deleted() {
    let mut bench = Bench::new();
    bench.world.state().failing.insert("open a volume");
    bench.pass().await;
    bench.world.change(VMI, |vmi| vmi["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    bench.pass().await;
    assert_eq!(bench.phase(), "Succeeded");
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_kernel_is_fetched_before_the_guest_starts() {
    let mut bench = Bench::new();
    let container = json!({"image": "r.example/k:1", "kernelPath": "/boot/k", "initrdPath": "/boot/i"});
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["firmware"] = json!({"kernelBoot": {"container": container}}));
    bench.pass().await;
    assert!(bench.world.state().started.is_empty(), "control has not said which image it is");
    bench.world.change(POD, |pod| {
        let annotation = &mut pod["metadata"]["annotations"]["furrow.io/reservation"];
        let mut reservation: Value = serde_json::from_str(annotation.as_str().expect("a text")).expect("a document");
        reservation["kernel"] = json!({"image": "r.example/k@sha256:1"});
        *annotation = json!(reservation.to_string());
    });
    bench.world.state().failing.insert("fetch a kernel");
    bench.pass().await;
    assert!(bench.world.state().started.is_empty(), "nothing starts without its kernel");
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
    let file = |name: &str| std::fs::read_to_string(bench.guests.path().join("uid-1").join(name)).expect("a file");
    assert_eq!((file("kernel").as_str(), file("initrd").as_str()), ("/boot/k", "/boot/i"));
}

#[tokio::test]
async fn conflicts_are_resolved_by_reading_again() {
    let mut bench = Bench::new();
    bench.world.state().rivals = 3;
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
}

#[tokio::test]
async fn a_new_guest_waits_until_the_old_one_of_its_name_is_gone() {
    let mut bench = Bench::new();
    bench.pass().await;
    bench.world.put(VMI, vmi("uid-2"));
    bench.world.put(POD, pod("uid-2"));
    bench.world.state().failing.insert("destroy the domain");
    bench.pass().await;
    assert_eq!(bench.world.state().started.len(), 1, "nothing starts when a removal failed");
    bench.world.state().failing.clear();
    bench.pass().await;
    let state = bench.world.state();
    assert_eq!(state.started.len(), 2);
    assert_eq!(state.domains[DOMAIN].owner.as_ref().map(|owner| owner.uid.as_str()), Some("uid-2"));
    let taps: Vec<_> = state.ports.keys().cloned().collect();
    assert_eq!(taps, [TapName::of("uid-2", "default").as_str()]);
}

#[tokio::test]
async fn a_guest_whose_object_is_gone_is_killed_and_cleared() {
    let mut bench = Bench::new();
    bench.pass().await;
    bench.world.state().objects.clear();
    bench.restart_agent();
    assert_eq!(bench.pass().await, None);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_running_guest_is_left_alone_while_the_api_is_unreachable() {
    let mut bench = Bench::new();
    bench.pass().await;
    bench.restart_agent();
    bench.world.state().unreachable = true;
    let empty = Snapshot::default();
    assert_eq!(bench.owner.passes(&empty).await, Some(Duration::from_secs(1)));
    assert_eq!(bench.world.state().domains.len(), 1);
    bench.world.state().unreachable = false;
    // The caches are still empty, but the API server says that everything is wanted.
    bench.owner.passes(&empty).await;
    assert_eq!(bench.world.state().domains.len(), 1);
    assert_eq!(bench.phase(), "Running");
}

#[tokio::test]
async fn a_connected_guest_agent_completes_the_status() {
    let mut bench = Bench::new();
    bench.pass().await;
    bench.world.state().domains.get_mut(DOMAIN).expect("it runs").agent_connected = true;
    bench.pass().await;
    assert_eq!(bench.condition("AgentConnected")["status"], "True");
    assert_eq!(bench.status()["guestOSInfo"]["prettyName"], "Debian GNU/Linux 13 (trixie)");
    let nic = &bench.status()["interfaces"][0];
    assert_eq!((&nic["interfaceName"], &nic["infoSource"]), (&json!("enp1s0"), &json!("domain, guest-agent")));
    assert_eq!(nic["ipAddresses"], json!(["192.168.10.2"]));
}

#[tokio::test]
async fn an_agent_that_lacks_commands_is_told_and_asked_for_them_once() {
    let mut bench = Bench::new();
    let commands = json!({"supported_commands": [{"name": "guest-ping", "enabled": true}]});
    bench.world.state().answers.insert("guest-info".to_owned(), commands);
    bench.pass().await;
    bench.world.state().domains.get_mut(DOMAIN).expect("it runs").agent_connected = true;
    bench.pass().await;
    bench.pass().await;
    assert_eq!(bench.world.state().questions, ["info", "guest-info"], "nothing is asked again at once");
    let condition = bench.condition("AgentVersionNotSupported");
    assert_eq!(condition["status"], "True");
    assert!(condition["reason"].as_str().is_some_and(|reason| reason.contains("required basic commands")));
}

#[tokio::test]
async fn a_paused_guest_is_not_ready_and_tells_when_it_goes_on() {
    let mut bench = Bench::new();
    bench.pass().await;
    for (pause, reason) in [(PauseReason::User, "PausedByUser"), (PauseReason::IoError, "PausedIOError")] {
        bench.world.state().domains.get_mut(DOMAIN).expect("it runs").state = DomainState::Paused(pause);
        bench.pass().await;
        let paused = bench.condition("Paused");
        assert_eq!((&paused["status"], &paused["reason"]), (&json!("True"), &json!(reason)));
        let ready = bench.condition("Ready");
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")));
    }
    bench.world.state().domains.get_mut(DOMAIN).expect("it runs").state = DomainState::Running;
    bench.pass().await;
    assert_eq!(bench.condition("Ready")["status"], "True");
    assert!(bench.condition("Paused").is_null());
}

#[tokio::test]
async fn the_status_names_pods_users_memory_and_every_volume() {
    let mut bench = Bench::new();
    bench.pass().await;
    let status = bench.status();
    assert_eq!(status["activePods"], json!({"pod-of-uid-1": "node-1"}));
    assert_eq!((&status["runtimeUser"], &status["migrationMethod"]), (&json!(64_055), &json!("LiveMigration")));
    let memory = json!({"guestAtBoot": "128Mi", "guestCurrent": "128Mi", "guestRequested": "128Mi"});
    assert_eq!(status["memory"], memory);
    let volumes = status["volumeStatus"].as_array().expect("volumes");
    let shown: Vec<_> = volumes.iter().map(|v| (v["name"].clone(), v["phase"].clone())).collect();
    assert_eq!(shown, [(json!("root"), json!("Ready")), (json!("seed"), json!("Ready"))]);
    assert!(volumes[1]["size"].as_i64().is_some_and(|size| size > 0), "{}", volumes[1]);
    assert_eq!(bench.condition("StorageLiveMigratable")["status"], "True");
}

#[tokio::test]
async fn a_guest_with_a_readiness_probe_is_ready_when_that_says_so() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["readinessProbe"] = json!({"guestAgentPing": {}, "periodSeconds": 1}));
    bench.pass().await;
    let ready = bench.condition("Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ContainersNotReady")));
    bench.world.state().answers.insert("guest-ping".to_owned(), json!({}));
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.pass().await;
        if bench.condition("Ready")["status"] == "True" {
            return;
        }
    }
    panic!("its probe passes and it never gets ready");
}

#[tokio::test]
async fn a_guest_is_ready_as_long_as_its_port_answers() {
    let mut bench = Bench::new();
    let probe = json!({"tcpSocket": {"port": 22}, "periodSeconds": 1, "failureThreshold": 1});
    bench.world.change(VMI, |vmi| vmi["spec"]["readinessProbe"] = probe);
    bench.pass().await;
    for (listening, expected) in [(false, "False"), (true, "True"), (false, "False")] {
        if listening {
            bench.world.state().listening.insert(22);
        } else {
            bench.world.state().listening.clear();
        }
        let mut turns = 0;
        while bench.condition("Ready")["status"] != expected {
            turns += 1;
            assert!(turns < 200, "its port listens: {listening}, and it is not {expected}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            bench.pass().await;
        }
    }
    assert!(bench.world.state().events.iter().any(|reason| reason == "Unhealthy"));
}

#[tokio::test]
async fn a_guest_that_asks_is_told_of_the_nodes_metrics() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["devices"]["downwardMetrics"] = json!({}));
    bench.pass().await;
    let socket = bench.guests.path().join("uid-1").join(furrow_model::domain::HOST_METRICS_SOCKET);
    let listener = tokio::net::UnixListener::bind(&socket).expect("QEMU listens");
    let connected = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
    let (mut guest, _) = connected.expect("within its time").expect("the agent connects");
    guest.write_all(b"GET /metrics/XML\n\n").await.expect("written");
    let mut told = String::new();
    while !told.ends_with("\n\n") {
        let mut chunk = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(10), guest.read(&mut chunk)).await;
        told.push_str(&String::from_utf8_lossy(&chunk[..read.expect("within its time").expect("read")]));
    }
    assert!(told.contains("<value>node-1</value>") && told.contains("<value>4.000000</value>"), "{told}");
}

#[tokio::test]
async fn a_guest_with_a_disk_of_metrics_finds_them_there() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| {
        vmi["spec"]["volumes"].as_array_mut().expect("volumes").push(json!({"name": "told", "downwardMetrics": {}}));
        let disk = json!({"name": "told", "disk": {"bus": "virtio"}});
        vmi["spec"]["domain"]["devices"]["disks"].as_array_mut().expect("disks").push(disk);
    });
    bench.pass().await;
    assert_eq!(bench.phase(), "Running", "{}", bench.condition("Synchronized"));
    let path = bench.guests.path().join("uid-1/host-metrics.img");
    for _ in 0..100 {
        let disk = std::fs::read(&path).expect("the disk");
        assert_eq!((disk.len(), &disk[..4]), (262_144, &b"mvbd"[..]));
        if String::from_utf8_lossy(&disk).contains("<value>node-1</value>") {
            bench.world.end(DOMAIN, OffReason::Shutdown);
            bench.pass().await;
            return bench.assert_nothing_left();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody writes to {}", path.display());
}

#[tokio::test]
async fn a_guest_that_fails_its_liveness_probe_ends_as_failed() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| {
        vmi["spec"]["terminationGracePeriodSeconds"] = json!(0);
        vmi["spec"]["livenessProbe"] = json!({"guestAgentPing": {}, "failureThreshold": 1});
    });
    bench.pass().await;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.pass().await;
        if bench.phase() == "Failed" {
            assert_eq!(bench.status()["reason"], "LivenessProbeFailed");
            return bench.assert_nothing_left();
        }
    }
    panic!("its probe fails and it goes on");
}

#[tokio::test]
async fn a_field_that_is_not_realised_is_named_and_not_retried() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["devices"]["autoattachVSOCK"] = json!(true));
    let wake = bench.pass().await.expect("a next look");
    assert!(wake > Duration::from_secs(60), "{wake:?}");
    let condition = bench.condition("Synchronized");
    assert_eq!(condition["reason"], "FieldNotSupported");
    assert_eq!(bench.status()["nodeName"], "node-1", "only the node that is named may write");
    assert!(
        condition["message"].as_str().is_some_and(|m| m.contains("spec.domain.devices.autoattachVSOCK")),
        "{condition}"
    );
    assert!(bench.world.state().started.is_empty());
}

#[tokio::test]
async fn what_a_failing_start_causes_itself_does_not_cut_its_pause_short() {
    let mut bench = Bench::new();
    let before = bench.snapshot();
    bench.world.state().failing.insert("open a volume");
    bench.pass().await;
    let after = bench.snapshot();
    assert!(after.vmi.is_some(), "the claim made the VMI appear");
    assert!(!after.differs_in_wish(&before));
    bench.world.change(VMI, |vmi| vmi["status"]["reason"] = json!("changed"));
    assert!(!bench.snapshot().differs_in_wish(&after), "a status is no wish");
    bench.world.change(VMI, |vmi| vmi["spec"]["terminationGracePeriodSeconds"] = json!(1));
    assert!(bench.snapshot().differs_in_wish(&after), "a spec is");
    let before_plug = bench.snapshot();
    bench.world.change(POD, |pod| pod["metadata"]["annotations"]["furrow.io/reservation"] = json!("{}"));
    assert!(bench.snapshot().differs_in_wish(&before_plug), "and so is what control reserved");
    bench.world.change(POD, |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert!(bench.snapshot().differs_in_wish(&before), "and so is the end of a pod");
}

#[test]
fn what_the_model_writes_into_a_domain_is_what_the_host_looks_for() {
    assert_eq!(furrow_model::domain::METADATA_NAMESPACE, furrow_host::libvirt::METADATA_NAMESPACE);
}

#[tokio::test]
async fn objects_are_shown_as_files() {
    let mut bench = Bench::new();
    let object =
        |kind: &str, data: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "o"}, "data": data});
    let path = |plural: &str| format!("/api/v1/namespaces/default/{plural}/o");
    bench.world.put(&path("configmaps"), object("ConfigMap", json!({"settings.ini": "colour=blue"})));
    bench.world.put(&path("secrets"), object("Secret", json!({"password": "b3BlbiBzZXNhbWU="})));
    bench.world.change(VMI, |vmi| {
        vmi["metadata"]["labels"] = json!({"app": "shown"});
        let volumes = [
            json!({"name": "map", "configMap": {"name": "o"}}),
            json!({"name": "secret", "secret": {"secretName": "o", "volumeLabel": "keys"}}),
            json!({"name": "setup", "sysprep": {"configMap": {"name": "o"}}}),
            json!({"name": "down", "downwardAPI": {"fields": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
        ];
        for volume in volumes {
            let disk = json!({"name": volume["name"], "disk": {"bus": "virtio"}});
            vmi["spec"]["domain"]["devices"]["disks"].as_array_mut().expect("disks").push(disk);
            vmi["spec"]["volumes"].as_array_mut().expect("volumes").push(volume);
        }
    });
    bench.pass().await;
    assert_eq!(bench.phase(), "Running");
    let expected = [
        ("map", "cfgdata", "colour=blue"),
        ("secret", "keys", "open sesame"),
        ("setup", "unattendCD", "colour=blue"),
        ("down", "cfgdata", "app=\"shown\""),
    ];
    for (volume, label, text) in expected {
        let iso = std::fs::read(bench.guests.path().join(format!("uid-1/volume-{volume}.iso"))).expect("a volume");
        let iso = String::from_utf8_lossy(&iso);
        assert!(iso.contains(text) && iso.contains(label), "{volume}");
    }
}
