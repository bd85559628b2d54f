//! Processors and disks that are plugged into a guest that runs.

use super::*;

#[tokio::test]
async fn processors_are_plugged_in_once_and_the_change_is_done() {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["cpu"] = json!({"sockets": 1, "cores": 2, "maxSockets": 4}));
    bench.pass().await;
    assert_eq!(bench.world.state().domains[DOMAIN].vcpus, Some((2, 8)));
    let under_way = json!([{"type": "HotVCPUChange", "status": "True"}]);
    bench.world.change(VMI, |vmi| {
        vmi["spec"]["domain"]["cpu"]["sockets"] = json!(3);
        vmi["status"]["conditions"] = under_way;
    });
    bench.world.state().failing.insert("plug vCPUs into the domain");
    bench.pass().await;
    assert_eq!(bench.condition("HotVCPUChange")["status"], "True");
    assert_eq!(bench.condition("Synchronized")["status"], "False", "the guest says what could not be done");
    assert_eq!(bench.status()["currentCPUTopology"]["sockets"], 1, "what is in force, not what is wished for");
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!(bench.world.state().domains[DOMAIN].vcpus, Some((6, 8)));
    assert_eq!(bench.status()["currentCPUTopology"]["sockets"], 3);
    assert!(bench.condition("HotVCPUChange").is_null() && bench.condition("Synchronized").is_null());
    assert_eq!(bench.world.state().started.len(), 1, "it was not started again");
}

/// A guest of one GiB that has room for four and runs.
async fn roomy() -> Bench {
    let mut bench = Bench::new();
    bench.world.change(VMI, |vmi| vmi["spec"]["domain"]["memory"] = json!({"guest": "1Gi", "maxGuest": "4Gi"}));
    bench.pass().await;
    bench
}

/// What control does when memory is to be added, once its pod has that generation.
fn ask_memory(bench: &Bench, guest: &str, generation: i64) {
    bench.world.change(VMI, |vmi| {
        vmi["spec"]["domain"]["memory"]["guest"] = json!(guest);
        let conditions = vmi["status"]["conditions"].as_array_mut().expect("conditions");
        conditions.push(json!({"type": "HotMemoryChange", "status": "True"}));
        vmi["metadata"]["annotations"]["furrow.io/reserved-generation"] = json!(generation.to_string());
    });
}

impl Bench {
    fn requested_kib(&self) -> u64 {
        self.world.state().domains[DOMAIN].memory.expect("a device").requested_kib
    }

    /// What the kubelet says of the pod.
    fn observe_pod(&self, status: Value) {
        self.world.change(POD, |pod| pod["status"] = status);
    }
}

#[tokio::test]
async fn memory_is_plugged_in_when_the_kubelet_has_granted_it() {
    let mut bench = roomy().await;
    assert_eq!(bench.requested_kib(), 0);
    assert_eq!(bench.status()["memory"]["guestAtBoot"], "1024Mi");
    ask_memory(&bench, "3Gi", 2);
    bench.pass().await;
    assert_eq!(bench.requested_kib(), 0, "the pod's new size has not been looked at yet");
    assert_eq!(bench.condition("HotMemoryChange")["status"], "True");
    assert_eq!(bench.status()["memory"]["guestRequested"], "1024Mi", "what is in force, not what is wished for");
    bench.observe_pod(json!({"observedGeneration": 2, "conditions": [
        {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "too little memory"}]}));
    bench.pass().await;
    assert_eq!(
        (bench.requested_kib(), &bench.condition("HotMemoryChange")["message"]),
        (0, &json!("too little memory"))
    );
    bench.observe_pod(json!({"observedGeneration": 2}));
    bench.pass().await;
    assert_eq!(bench.requested_kib(), 2 << 20);
    let memory = bench.status()["memory"].clone();
    assert_eq!((&memory["guestAtBoot"], &memory["guestRequested"]), (&json!("1024Mi"), &json!("3072Mi")));
    assert!(bench.condition("HotMemoryChange").is_null());
    assert_eq!(bench.world.state().started.len(), 1, "it was not started again");
}

#[tokio::test]
async fn memory_that_the_domain_does_not_take_leaves_the_guest_as_it_is_and_says_so() {
    let mut bench = roomy().await;
    ask_memory(&bench, "2Gi", 0);
    bench.world.state().failing.insert("plug memory into the domain");
    bench.pass().await;
    let change = bench.condition("HotMemoryChange");
    assert_eq!((&change["status"], &change["reason"]), (&json!("False"), &json!("Memory Hotplug Failed")));
    assert_eq!(change["message"], "memory hotplug failed, the VM configuration is not supported");
    assert_eq!((bench.phase(), &bench.status()["memory"]["guestRequested"]), ("Running".into(), &json!("1024Mi")));
    bench.world.state().failing.clear();
    bench.pass().await;
    assert_eq!(bench.requested_kib(), 0, "it waits for a restart");
    assert_eq!(bench.condition("HotMemoryChange")["status"], "False");
}

#[tokio::test]
async fn memory_that_the_node_can_never_grant_is_given_up() {
    let mut bench = roomy().await;
    ask_memory(&bench, "4Gi", 2);
    bench.observe_pod(json!({"observedGeneration": 2, "conditions": [
        {"type": "PodResizePending", "status": "True", "reason": "Infeasible", "message": "Node has too little"}]}));
    bench.pass().await;
    let change = bench.condition("HotMemoryChange");
    assert_eq!((&change["status"], &change["message"]), (&json!("False"), &json!("Node has too little")));
    assert_eq!(bench.requested_kib(), 0);
}

/// What control does when a volume is to be plugged: the guest's spec, and once the claim is bound, its reservation.
fn add_disk(bench: &Bench, name: &str) {
    bench.world.change(VMI, |vmi| {
        let spec = &mut vmi["spec"];
        let disk = json!({"name": name, "disk": {"bus": "scsi"}, "serial": name});
        spec["domain"]["devices"]["disks"].as_array_mut().expect("disks").push(disk);
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name, "hotpluggable": true}});
        spec["volumes"].as_array_mut().expect("volumes").push(volume);
    });
}

fn reserve_disk(bench: &Bench, name: &str) {
    change_reservation(bench, |volumes| {
        volumes.push(json!({"name": name, "claim": name, "pool": "volumes", "image": format!("csi-{name}"),
            "accessModes": ["ReadWriteMany"], "volumeMode": "Block", "readOnly": false, "capacityBytes": 1_048_576}));
    });
}

fn change_reservation(bench: &Bench, change: impl FnOnce(&mut Vec<Value>)) {
    bench.world.change(POD, |pod| {
        let annotation = &mut pod["metadata"]["annotations"]["furrow.io/reservation"];
        let mut reservation: Value = serde_json::from_str(annotation.as_str().expect("a text")).expect("a document");
        change(reservation["volumes"].as_array_mut().expect("volumes"));
        *annotation = reservation.to_string().into();
    });
}

fn remove_disk(bench: &Bench, name: &str) {
    bench.world.change(VMI, |vmi| {
        let other = |entry: &Value| entry["name"] != name;
        vmi["spec"]["domain"]["devices"]["disks"].as_array_mut().expect("disks").retain(other);
        vmi["spec"]["volumes"].as_array_mut().expect("volumes").retain(other);
    });
    change_reservation(bench, |volumes| volumes.retain(|volume| volume["name"] != name));
}

impl Bench {
    fn volume(&self, name: &str) -> Value {
        let volumes = self.status()["volumeStatus"].as_array().cloned().unwrap_or_default();
        volumes.into_iter().find(|volume| volume["name"] == name).unwrap_or_default()
    }

    fn disks(&self) -> Vec<String> {
        self.world.state().domains[DOMAIN].disks.iter().map(|disk| disk.target.clone()).collect()
    }
}

#[tokio::test]
async fn a_disk_is_plugged_in_and_out_while_the_guest_runs() {
    let mut bench = Bench::new();
    bench.pass().await;
    assert_eq!(bench.disks(), ["vda", "vdb"]);
    add_disk(&bench, "data");
    bench.pass().await;
    assert_eq!((bench.disks().len(), &bench.volume("data")["phase"]), (2, &json!("Pending")), "its claim is awaited");
    assert_eq!(bench.volume("root")["target"], "vda");
    reserve_disk(&bench, "data");
    bench.pass().await;
    assert_eq!(bench.disks(), ["vda", "vdb", "sda"]);
    assert!(bench.world.state().open.contains("volumes/csi-data"), "it was looked at in ceph first");
    let volume = bench.volume("data");
    assert_eq!(
        (&volume["phase"], &volume["target"], &volume["reason"]),
        (&json!("Ready"), &json!("sda"), &json!("VolumeReady"))
    );
    assert!(volume["hotplugVolume"].is_object() && bench.volume("root")["hotplugVolume"].is_null());

    bench.world.state().holds_disks = true;
    remove_disk(&bench, "data");
    let again = bench.pass().await.expect("it goes on");
    assert_eq!(bench.volume("data")["phase"], "Detaching");
    assert!(again <= Duration::from_secs(5), "a guest that does not let go is asked again: {again:?}");
    bench.world.state().holds_disks = false;
    bench.pass().await;
    bench.pass().await;
    assert_eq!(bench.world.state().unplugs, 2);
    assert_eq!(bench.disks(), ["vda", "vdb"]);
    assert!(bench.volume("data").is_null());
    assert_eq!(bench.world.state().started.len(), 1, "it was not started again");
}

#[tokio::test]
async fn a_disk_that_cannot_be_plugged_in_leaves_the_guest_as_it_is_and_says_why() {
    let mut bench = Bench::new();
    bench.pass().await;
    add_disk(&bench, "data");
    reserve_disk(&bench, "data");
    bench.world.state().failing.insert("plug in a device");
    bench.pass().await;
    assert_eq!(bench.condition("Synchronized")["status"], "False");
    assert_eq!(bench.volume("data")["phase"], "AttachedToNode");
    assert_eq!(bench.phase(), "Running");
    let writes = bench.world.state().writes;
    bench.pass().await;
    assert_eq!(bench.world.state().writes, writes, "it is said once");
    bench.world.state().failing.clear();
    bench.pass().await;
    assert!(bench.condition("Synchronized").is_null());
    assert_eq!((bench.disks().len(), &bench.volume("data")["phase"]), (3, &json!("Ready")));
}

#[tokio::test]
async fn a_disk_of_the_same_name_is_exchanged_only_after_the_old_one_is_gone() {
    let mut bench = Bench::new();
    add_disk(&bench, "data");
    reserve_disk(&bench, "data");
    bench.pass().await;
    assert_eq!(bench.disks(), ["vda", "vdb", "sda"], "one that may be plugged is there from the start");
    bench.world.state().holds_disks = true;
    change_reservation(&bench, |volumes| volumes.last_mut().expect("a volume")["image"] = json!("csi-other"));
    bench.pass().await;
    let image = |bench: &Bench| bench.world.state().domains[DOMAIN].disks[2].image.clone();
    assert_eq!((bench.disks().len(), image(&bench).as_deref()), (3, Some("volumes/csi-data")));
    bench.world.state().holds_disks = false;
    bench.pass().await;
    bench.pass().await;
    assert_eq!(image(&bench).as_deref(), Some("volumes/csi-other"));
}

#[tokio::test]
async fn a_disk_whose_image_another_guest_writes_to_is_not_plugged_in() {
    let mut bench = Bench::new();
    bench.pass().await;
    bench.owner.take_image("default_other", "volumes/csi-data");
    add_disk(&bench, "data");
    reserve_disk(&bench, "data");
    bench.pass().await;
    assert_eq!(bench.disks(), ["vda", "vdb"]);
    let synchronized = bench.condition("Synchronized");
    assert_eq!(synchronized["reason"], "ImageInUse");
    assert_eq!(
        synchronized["message"],
        "could not plug in disk data: its image volumes/csi-data is in use by the domain default_other"
    );
    assert_eq!(bench.phase(), "Running");
}
