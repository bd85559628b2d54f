//! A small cluster and node in memory: an API server that knows the few calls of an owner (with resourceVersions and
//! conflicts), domains, ports and volumes that keep state and can be told to fail. No mocking library: what a test
//! asserts is state, not calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use furrow_api::channel::Forward;
use furrow_api::reservation::ReservedVolume;
use furrow_host::libvirt::{
    DomainOwner, DomainRecord, DomainState, LibvirtError, LiveDisk, LiveMemory, OffReason, PauseReason, TpmSecret,
};
use furrow_model::cpus::{CpuSet, HostTopology, KubeletState, Share};
use furrow_model::domain::RbdSource;
use furrow_model::port::{PortSpec, TapName};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::Client;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::metrics::{AllStats, Statistics};

use super::super::cpus::Processors;
use super::super::kernel::{FetchesFiles, KernelFiles};
use super::super::ports::{Dial, Domains, HostError, PortRecord, Ports, Volumes};
use super::super::tpm::{Saved, TpmChanges, TpmGuest, TpmStates};

/// Everything there is.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Objects by path.
    pub(super) objects: BTreeMap<String, Value>,
    version: u64,
    /// The API server does not answer.
    pub(super) unreachable: bool,
    /// Writes that the API server accepted, events not counted.
    pub(super) writes: u32,
    /// Somebody else writes the object before this many next patches arrive.
    pub(super) rivals: u32,
    /// Reasons of the events written.
    pub(super) events: Vec<String>,
    /// Domains by name.
    pub(super) domains: BTreeMap<String, DomainRecord>,
    /// Domains that were started, in order.
    pub(super) started: Vec<String>,
    /// Times that a guest was asked to shut down.
    pub(super) asked: u32,
    /// Taps with the UID and the name of their guest.
    pub(super) ports: BTreeMap<String, (String, String)>,
    /// Times that a port was ensured.
    pub(super) ensured: u32,
    /// Images that were opened.
    pub(super) open: BTreeSet<String>,
    /// Images that are flash chips, and the template that each was made from.
    pub(super) flashes: BTreeMap<String, String>,
    /// States of TPMs.
    pub(super) tpm: Tpm,
    /// What was done that has an order.
    pub(super) order: Vec<String>,
    /// Documents of the domains that were started.
    pub(super) documents: Vec<String>,
    /// The key that libvirt was lent last.
    pub(super) lent: Option<TpmSecret>,
    /// What guests' agents were asked, in order.
    pub(super) questions: Vec<String>,
    /// What guests' agents answer, by command.
    pub(super) answers: BTreeMap<String, Value>,
    /// Times that a guest was asked to let go of a disk.
    pub(super) unplugs: u32,
    /// Ports of the guest on which somebody listens.
    pub(super) listening: BTreeSet<u16>,
    /// Guests do not let go of their disks.
    pub(super) holds_disks: bool,
    /// The kubelet's record of CPUs.
    pub(super) cpu_record: Option<String>,
    /// What guests without CPUs of their own are kept to; the last is in force.
    pub(super) shares: Vec<String>,
    /// What the node's labels say: CPUs are set aside, and real time.
    pub(super) labels: Option<(bool, bool)>,
    /// Operations that fail, by name.
    pub(super) failing: BTreeSet<&'static str>,
}

/// States of TPMs: in images, with the guest that has claimed each, and on the node, by guest.
#[derive(Debug, Default)]
pub(super) struct Tpm {
    pub(super) images: BTreeMap<String, (String, String)>,
    pub(super) local: BTreeMap<String, String>,
    /// Which image the state of a guest is from.
    from: BTreeMap<String, String>,
    /// Who watches.
    watchers: Vec<mpsc::Sender<()>>,
}

/// A handle to it.
#[derive(Clone, Default)]
pub(super) struct World(Arc<Mutex<State>>);

impl World {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while holding it")
    }

    /// Puts an object, as a user or another controller would.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.objects.insert(path.to_owned(), object);
    }

    /// Changes an object, as a user or another controller would.
    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.state().objects[path].clone();
        change(&mut object);
        self.put(path, object);
    }

    pub(super) fn object(&self, path: &str) -> Value {
        self.state().objects.get(path).cloned().unwrap_or_default()
    }

    pub(super) fn client(&self) -> Client {
        let world = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let world = world.clone();
            async move { Ok::<_, Infallible>(world.serve(request).await) }
        });
        Client::new(service, "default")
    }

    async fn serve(&self, request: Request<kube::client::Body>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let mut state = self.state();
        if state.unreachable {
            return failure(503, "ServiceUnavailable");
        }
        if path.contains("/events") {
            let event: Value = serde_json::from_slice(&body).unwrap_or_default();
            state.events.extend(event["reason"].as_str().map(str::to_owned));
            return answer(201, &event);
        }
        match parts.method {
            Method::GET if path.ends_with("/pods") => {
                let pods: Vec<_> = state
                    .objects
                    .iter()
                    .filter(|(key, _)| key.starts_with(&path))
                    .map(|(_, pod)| pod.clone())
                    .collect();
                answer(200, &json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods}))
            }
            Method::GET => state.objects.get(&path).map_or_else(|| failure(404, "NotFound"), |o| answer(200, o)),
            Method::PATCH => state.patch(&path, &body),
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn check(&self, operation: &'static str) -> Result<(), HostError> {
        if self.state().failing.contains(operation) {
            let message = format!("could not {operation}: told to fail");
            return Err(HostError { reason: "ToldToFail", message, permanent: false });
        }
        Ok(())
    }

    fn check_libvirt(&self, operation: &'static str) -> Result<(), LibvirtError> {
        if self.state().failing.contains(operation) {
            return Err(LibvirtError::Failed { operation, message: "told to fail".to_owned() });
        }
        Ok(())
    }

    /// A running TPM writes.
    pub(super) async fn change_tpm(&self, guest: &str, state: &str) {
        self.state().tpm.local.insert(guest.to_owned(), state.to_owned());
        let watchers = self.state().tpm.watchers.clone();
        for watcher in watchers {
            // One whose reader has ended is of an earlier agent.
            let _ = watcher.send(()).await;
        }
    }

    /// Ends a guest's QEMU with a reason.
    pub(super) fn end(&self, domain: &str, reason: OffReason) {
        self.state().domains.get_mut(domain).expect("the domain is there").state = DomainState::Off(reason);
    }
}

impl State {
    fn patch(&mut self, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
        let Some(mut object) = self.objects.get(path).cloned() else { return failure(404, "NotFound") };
        let patch: Value = serde_json::from_slice(body).unwrap_or_default();
        if self.rivals > 0 {
            self.rivals -= 1;
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.objects.insert(path.to_owned(), object.clone());
        }
        let expected = &patch["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != object["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        merge(&mut object, &patch);
        self.version += 1;
        self.writes += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object.clone());
        answer(200, &object)
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn answer(code: u16, body: &Value) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("a value serialises");
    Response::builder().status(code).body(Full::new(body.into())).expect("a response")
}

fn failure(code: u16, reason: &str) -> Response<Full<Bytes>> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "code": code, "reason": reason, "message": reason,
    });
    answer(code, &status)
}

fn ready<T: Send + 'static>(result: T) -> BoxFuture<'static, T> {
    futures::future::ready(result).boxed()
}

impl FetchesFiles for World {
    fn fetch<'a>(&'a self, wanted: &'a KernelFiles, into: &'a Path) -> BoxFuture<'a, Result<(), HostError>> {
        let failed = self.check("fetch a kernel");
        if failed.is_ok() {
            for file in &wanted.files {
                std::fs::write(into.join(file.name), &file.path).expect("the guest's directory");
            }
        }
        ready(failed)
    }
}

impl Ports for World {
    fn ensure<'a>(&'a self, spec: &'a PortSpec) -> BoxFuture<'a, Result<TapName, HostError>> {
        let tap = spec.tap();
        let mut state = self.state();
        state.ensured += 1;
        state.ports.insert(tap.as_str().to_owned(), (spec.vmi_uid.clone(), spec.vmi.clone()));
        drop(state);
        ready(self.check("ensure a port").map(|()| tap))
    }

    fn remove<'a>(&'a self, tap: &'a TapName) -> BoxFuture<'a, Result<(), HostError>> {
        let result = self.check("remove a port");
        if result.is_ok() {
            self.state().ports.remove(tap.as_str());
        }
        ready(result)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PortRecord>, HostError>> {
        let state = self.state();
        let ports = state.ports.iter().filter_map(|(tap, (vmi_uid, vmi))| {
            Some(PortRecord { tap: TapName::recognise(tap)?, vmi_uid: vmi_uid.clone(), vmi: vmi.clone() })
        });
        ready(Ok(ports.collect()))
    }
}

impl Statistics for World {
    fn all(&self) -> BoxFuture<'_, Result<AllStats, LibvirtError>> {
        let stats = HashMap::from([("vcpu.0.time".to_owned(), "4000000000".to_owned())]);
        ready(Ok(HashMap::from([("default_vm".to_owned(), stats)])))
    }
}

impl Dial for World {
    fn dial<'a>(&'a self, _: &'a str, to: &'a Forward, _: Duration) -> BoxFuture<'a, Result<DuplexStream, String>> {
        assert_eq!((to.nic.as_str(), to.address), ("default", [192, 168, 10, 2].into()));
        let listens = self.state().listening.contains(&to.port);
        ready(if listens { Ok(tokio::io::duplex(1).0) } else { Err("connection refused".to_owned()) })
    }
}

impl Volumes for World {
    fn open_check<'a>(&'a self, volume: &'a ReservedVolume, _: bool) -> BoxFuture<'a, Result<RbdSource, HostError>> {
        let (pool, image) = (volume.pool.clone(), volume.image.clone());
        self.state().open.insert(format!("{pool}/{image}"));
        let monitors = vec![("10.0.0.1".to_owned(), 3300)];
        let source = RbdSource { pool, image, monitors, user: "u".into(), secret: uuid::Uuid::nil() };
        ready(self.check("open a volume").map(|()| source))
    }

    fn fill_flash<'a>(
        &'a self,
        volume: &'a ReservedVolume,
        template: &'a Path,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        let image = format!("{}/{}", volume.pool, volume.image);
        let name = template.display().to_string();
        let result = self.check("prepare UEFI variables");
        let mut state = self.state();
        assert!(!state.open.contains(&image), "it is written while somebody has it open");
        if result.is_ok() {
            state.flashes.entry(image).or_insert(name);
        }
        drop(state);
        ready(result)
    }

    fn release<'a>(&'a self, volume: &'a ReservedVolume) -> BoxFuture<'a, Result<(), HostError>> {
        let image = format!("{}/{}", volume.pool, volume.image);
        self.state().open.remove(&image);
        self.state().order.push(format!("release {image}"));
        ready(Ok(()))
    }
}

impl Processors for World {
    fn record(&self) -> Result<Option<KubeletState>, HostError> {
        let record = self.state().cpu_record.clone();
        Ok(record.map(|text| KubeletState::read(&text).expect("a record")))
    }

    /// Eight of one thread each, on one NUMA node.
    fn topology(&self) -> Result<HostTopology, HostError> {
        Ok(HostTopology::new(&CpuSet::from_iter(0..8), &[], &[]))
    }

    fn realtime(&self) -> bool {
        false
    }

    fn confine<'a>(&'a self, share: &'a Share) -> BoxFuture<'a, Result<(), HostError>> {
        if let Err(error) = self.check("keep guests off CPUs") {
            return ready(Err(error));
        }
        self.state().shares.push(share.to_string());
        ready(Ok(()))
    }

    fn label(&self, dedicated: bool, realtime: bool) -> BoxFuture<'_, Result<(), HostError>> {
        self.state().labels = Some((dedicated, realtime));
        ready(Ok(()))
    }
}

impl TpmStates for World {
    fn restore<'a>(&'a self, guest: TpmGuest<'a>, volume: &'a ReservedVolume) -> BoxFuture<'a, Result<(), HostError>> {
        if let Err(error) = self.check("restore a TPM's state") {
            return ready(Err(error));
        }
        let image = format!("{}/{}", volume.pool, volume.image);
        let mut state = self.state();
        assert!(!state.tpm.local.contains_key(guest.uid), "what is there would be lost");
        state.order.push(format!("restore {}", guest.uid));
        let claimed = state.tpm.images.entry(image.clone()).or_default();
        claimed.0 = guest.uid.to_owned();
        let kept = claimed.1.clone();
        state.tpm.local.insert(guest.uid.to_owned(), kept);
        state.tpm.from.insert(guest.uid.to_owned(), image);
        drop(state);
        ready(Ok(()))
    }

    fn changes(&self, _: &str) -> std::io::Result<TpmChanges> {
        let (told, changes) = mpsc::channel(8);
        self.state().tpm.watchers.push(told);
        Ok(ReceiverStream::new(changes).boxed())
    }

    fn save<'a>(&'a self, guest: &'a str) -> BoxFuture<'a, Result<Saved, HostError>> {
        if let Err(error) = self.check("write a TPM's state") {
            return ready(Err(error));
        }
        let mut state = self.state();
        state.order.push(format!("save {guest}"));
        let (Some(local), Some(image)) = (state.tpm.local.get(guest).cloned(), state.tpm.from.get(guest).cloned())
        else {
            return ready(Ok(Saved::Nothing));
        };
        let Some(kept) = state.tpm.images.get_mut(&image).filter(|(owner, _)| owner == guest) else {
            return ready(Ok(Saved::Superseded("told to be".to_owned())));
        };
        kept.1 = local;
        drop(state);
        ready(Ok(Saved::Kept))
    }

    fn remove<'a>(&'a self, guest: &'a str) -> BoxFuture<'a, Result<(), HostError>> {
        let mut state = self.state();
        state.order.push(format!("remove {guest}"));
        state.tpm.local.remove(guest);
        drop(state);
        ready(Ok(()))
    }

    fn has(&self, guest: &str) -> bool {
        self.state().tpm.local.contains_key(guest)
    }

    fn list(&self) -> Result<Vec<(String, String)>, HostError> {
        Ok(self.state().tpm.local.keys().map(|uid| (uid.clone(), "default/vm".to_owned())).collect())
    }
}

impl Domains for World {
    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainRecord>, LibvirtError>> {
        ready(Ok(self.state().domains.values().cloned().collect()))
    }

    fn observe<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<DomainRecord>, LibvirtError>> {
        ready(Ok(self.state().domains.get(name).cloned()))
    }

    fn start(&self, xml: String, paused: bool, tpm: Option<TpmSecret>) -> BoxFuture<'_, Result<(), LibvirtError>> {
        if let Err(error) = self.check_libvirt("start the domain") {
            return ready(Err(error));
        }
        let mut record = read_record(&xml);
        if paused {
            record.state = DomainState::Paused(PauseReason::User);
        }
        let mut state = self.state();
        state.started.push(record.name.clone());
        state.order.push(format!("start {}", record.name));
        state.documents.push(xml);
        state.lent = tpm;
        state.domains.insert(record.name.clone(), record);
        ready(Ok(()))
    }

    fn plug_vcpus<'a>(&'a self, name: &'a str, count: u32) -> BoxFuture<'a, Result<(), LibvirtError>> {
        let result = self.check_libvirt("plug vCPUs into the domain");
        if result.is_ok()
            && let Some(record) = self.state().domains.get_mut(name)
        {
            record.vcpus = record.vcpus.map(|(_, most)| (count, most));
        }
        ready(result)
    }

    fn plug_memory<'a>(&'a self, name: &'a str, requested_kib: u64) -> BoxFuture<'a, Result<(), LibvirtError>> {
        let result = self.check_libvirt("plug memory into the domain");
        if result.is_ok()
            && let Some(record) = self.state().domains.get_mut(name)
        {
            record.memory = record.memory.map(|memory| LiveMemory { requested_kib, ..memory });
        }
        ready(result)
    }

    fn ask_shutdown<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>> {
        self.state().asked += 1;
        ready(Ok(()))
    }

    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>> {
        let result = self.check_libvirt("destroy the domain");
        if result.is_ok() {
            self.end(name, OffReason::Destroyed);
        }
        ready(result)
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), LibvirtError>> {
        self.state().domains.remove(name);
        ready(Ok(()))
    }

    fn plug_in<'a>(&'a self, name: &'a str, xml: String) -> BoxFuture<'a, Result<(), LibvirtError>> {
        let result = self.check_libvirt("plug in a device");
        if result.is_ok()
            && let Some(record) = self.state().domains.get_mut(name)
        {
            let disk = read_disk(&xml);
            record.images.extend(disk.image.clone());
            record.disks.push(disk);
        }
        ready(result)
    }

    fn plug_out<'a>(&'a self, name: &'a str, alias: String) -> BoxFuture<'a, Result<(), LibvirtError>> {
        let mut state = self.state();
        state.unplugs += 1;
        let obeys = !state.holds_disks;
        if let Some(record) = state.domains.get_mut(name).filter(|_| obeys) {
            record.disks.retain(|disk| disk.alias != alias);
            record.images = record.disks.iter().filter_map(|disk| disk.image.clone()).collect();
        }
        drop(state);
        ready(Ok(()))
    }

    fn guest_info<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>> {
        let info = [
            ("os.pretty-name", "Debian GNU/Linux 13 (trixie)"),
            ("if.count", "1"),
            ("if.0.name", "enp1s0"),
            ("if.0.hwaddr", "02:00:00:00:00:01"),
            ("if.0.addr.count", "1"),
            ("if.0.addr.0.addr", "192.168.10.2"),
        ];
        self.state().questions.push("info".to_owned());
        ready(Ok(info.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    fn filesystems<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<HashMap<String, String>, LibvirtError>> {
        ready(Ok(HashMap::from([("fs.count".to_owned(), "0".to_owned())])))
    }

    fn agent<'a>(&'a self, _: &'a str, request: String) -> BoxFuture<'a, Result<String, LibvirtError>> {
        let request: Value = serde_json::from_str(&request).unwrap_or_default();
        let command = request["execute"].as_str().unwrap_or_default().to_owned();
        let mut state = self.state();
        let answer = state.answers.get(&command).cloned();
        state.questions.push(command);
        drop(state);
        ready(answer.map(|answer| json!({"return": answer}).to_string()).ok_or(LibvirtError::Failed {
            operation: "ask the guest agent",
            message: "told to say nothing".to_owned(),
        }))
    }
}

/// What libvirt would show of a domain that was started from this XML. Attributes are found by text: the fake is not
/// the place to parse XML a second time.
fn read_record(xml: &str) -> DomainRecord {
    let between = |before: &str, after: &str| {
        let rest = xml.split_once(before).expect("the text before").1;
        rest.split_once(after).expect("the text after").0.to_owned()
    };
    let owner = DomainOwner {
        namespace: between(" namespace=\"", "\""),
        name: between("libvirt/1\" namespace=\"default\" name=\"", "\""),
        uid: between(" uid=\"", "\""),
        generation: 1,
    };
    let number64 = |text: &str| text.parse().expect("a number");
    let number = |text: String| text.parse().expect("a number");
    let most = number(between("<vcpu placement=\"static\"", "</vcpu>").split_once('>').expect("a number").1.to_owned());
    let vcpus = (if xml.contains(" current=\"") { number(between(" current=\"", "\"")) } else { most }, most);
    DomainRecord {
        name: between("<name>", "</name>"),
        owner: Some(owner),
        state: DomainState::Running,
        software: xml.contains("<domain type=\"qemu\""),
        agent_connected: false,
        taps: Vec::new(),
        images: Vec::new(),
        vcpus: Some(vcpus),
        cpus: xml.contains("<vcpu placement=\"static\" cpuset=").then(|| between(" cpuset=\"", "\"")),
        current_memory_kib: Some(131_072),
        memory: xml.contains("<memory model=").then(|| LiveMemory {
            boot_kib: number64(&between("<currentMemory unit=\"KiB\">", "<")),
            size_kib: number64(&between("<size unit=\"KiB\">", "<")),
            block_kib: number64(&between("<block unit=\"KiB\">", "<")),
            requested_kib: number64(&between("<requested unit=\"KiB\">", "<")),
            taken_kib: 0,
        }),
        user: Some(64_055),
        disks: xml.split("<disk ").skip(1).map(read_disk).collect(),
    }
}

/// A disk as libvirt would show it, from the document that made it.
fn read_disk(xml: &str) -> LiveDisk {
    let xml = xml.split("</disk>").next().unwrap_or(xml);
    let between = |before: &str| Some(xml.split_once(before)?.1.split_once('"')?.0.to_owned());
    let image = between(" name=\"volumes/").map(|image| format!("volumes/{image}"));
    LiveDisk {
        alias: between("<alias name=\"").expect("an alias"),
        target: between("<target dev=\"").expect("a target"),
        image: image.filter(|_| !xml.contains("<readonly/>")),
    }
}
