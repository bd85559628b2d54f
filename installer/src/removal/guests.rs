//! Guests and pods of a node that is to leave: which there are, and how they go. A guest is stopped by deleting its
//! VirtualMachineInstance, which its agent ends in order and its VirtualMachine makes anew. Of a lost node no agent
//! answers: what may still write to a guest's images is shut out of Ceph before its objects are let go.

use std::time::Duration;

use furrow_host::ceph::{Monitor, commands};
use furrow_host::cmd::Cmd;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::facts::Guest;
use crate::steps::{self, Node, StepError};

/// A guest's own time to end, three minutes by default, and what its agent needs after that.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// A disruption budget that allows no eviction for so long does not allow it at all.
const EVICT_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two looks at what is to go.
const PAUSE: Duration = Duration::from_secs(1);
/// Keeps a VirtualMachineInstance until its guest is gone.
const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// For longer than any client tries again; its next start is another client. A day.
const SHUT_OUT_S: u32 = 86_400;
const RESERVATION: &str = "furrow.io/reservation";
const RESERVATIONS: &str = "kubevirt.io=virt-launcher";

fn resource(group: &str, kind: &str) -> ApiResource {
    let version = if group == "kubevirt.io" { "v1" } else { "v1beta1" };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

async fn list(client: &Client, group: &str, kind: &str, params: &ListParams) -> Result<Vec<DynamicObject>, StepError> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource(group, kind));
    Ok(api.list(params).await.map_err(steps::refused(format!("list {kind} objects")))?.items)
}

/// The guests that the node has.
pub(super) async fn on_node(client: &Client, node: &str) -> Result<Vec<Guest>, StepError> {
    let all = list(client, "kubevirt.io", "VirtualMachineInstance", &ListParams::default()).await?;
    let here = all.iter().filter(|vmi| vmi.data["status"]["nodeName"] == node && !is_over(vmi));
    let mut guests = Vec::new();
    for vmi in here {
        let vm = owner(client, vmi).await?;
        guests.push(Guest {
            namespace: vmi.namespace().unwrap_or_default(),
            name: vmi.name_any(),
            has_vm: vm.is_some(),
            restarts: vm.is_some_and(|vm| restarts(&vm.data["spec"])),
            is_pinned: vmi.data["spec"]["nodeSelector"]["kubernetes.io/hostname"] == node,
        });
    }
    guests.sort();
    Ok(guests)
}

fn is_over(vmi: &DynamicObject) -> bool {
    vmi.data["status"]["phase"].as_str().is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// Whether a VirtualMachine's specification makes its guest anew when that is deleted.
fn restarts(spec: &Value) -> bool {
    spec["runStrategy"].as_str().map_or(spec["running"] == true, |s| matches!(s, "Always" | "RerunOnFailure"))
}

async fn owner(client: &Client, vmi: &DynamicObject) -> Result<Option<DynamicObject>, StepError> {
    let owner = vmi.owner_references().iter().find(|owner| owner.kind == "VirtualMachine");
    let Some(owner) = owner else { return Ok(None) };
    let namespace = vmi.namespace().unwrap_or_default();
    let api =
        Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &resource("kubevirt.io", "VirtualMachine"));
    api.get_opt(&owner.name).await.map_err(steps::refused(format!("show VirtualMachine {namespace}/{}", owner.name)))
}

/// The DataVolumes that the node is filling.
pub(super) async fn imports(client: &Client, node: &str) -> Result<Vec<String>, StepError> {
    let params = ListParams::default().labels(&format!("furrow.io/import-node={node}"));
    let volumes = list(client, "cdi.kubevirt.io", "DataVolume", &params).await?;
    let is_over = |volume: &&DynamicObject| {
        matches!(volume.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
            || volume.metadata.deletion_timestamp.is_some()
    };
    let names = volumes.iter().filter(|volume| !is_over(volume));
    Ok(names.map(|volume| format!("{}/{}", volume.namespace().unwrap_or_default(), volume.name_any())).collect())
}

fn instances(client: &Client, guest: &Guest) -> Api<DynamicObject> {
    let kind = resource("kubevirt.io", "VirtualMachineInstance");
    Api::namespaced_with(client.clone(), &guest.namespace, &kind)
}

/// Deletes an instance unless it runs elsewhere by now. Says whether it was on the node.
async fn delete(client: &Client, node: &str, guest: &Guest) -> Result<bool, StepError> {
    let api = instances(client, guest);
    let refused = |what: &str| steps::refused(format!("{what} guest {}", guest.label()));
    let Some(vmi) = api.get_opt(&guest.name).await.map_err(refused("show"))? else { return Ok(false) };
    if vmi.data["status"]["nodeName"] != node {
        return Ok(false);
    }
    if vmi.metadata.deletion_timestamp.is_none() {
        let this = DeleteParams { preconditions: precondition(&vmi), ..DeleteParams::default() };
        api.delete(&guest.name, &this).await.map_err(refused("stop"))?;
    }
    Ok(true)
}

/// Only this very object, not one of its name that came since.
fn precondition(object: &DynamicObject) -> Option<kube::api::Preconditions> {
    Some(kube::api::Preconditions { uid: object.uid(), resource_version: None })
}

/// Stops the guests and waits until they are gone from the node.
pub(super) async fn stop(node: &Node, client: &Client, name: &str, guests: &[Guest]) -> Result<(), StepError> {
    for guest in guests {
        if delete(client, name, guest).await? {
            node.say(&format!("stopping {}", guest.label()));
        }
    }
    node.wait("the guests to end", STOP_TIMEOUT, async || {
        let left = on_node(client, name).await.map_err(|e| e.to_string())?;
        if left.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        Err(left.iter().map(Guest::label).collect::<Vec<_>>().join(", "))
    })
    .await
}

/// Gives the guests of a lost node free: its Ceph clients are shut out, then the objects are let go.
pub(super) async fn release(
    node: &Node,
    client: &Client,
    (name, address): (&str, &str),
    guests: &[Guest],
) -> Result<(), StepError> {
    let ceph = node.ceph()?;
    for guest in guests {
        let api = instances(client, guest);
        let refused = |what: &str| steps::refused(format!("{what} guest {}", guest.label()));
        let Some(vmi) = api.get_opt(&guest.name).await.map_err(refused("show"))? else { continue };
        if vmi.data["status"]["nodeName"] != name {
            continue;
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), &guest.namespace);
        let found = pods.list(&ListParams::default().labels(RESERVATIONS)).await.map_err(refused("find the pod of"))?;
        let own = |pod: &&Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == vmi.metadata.uid.as_ref());
        for pod in found.items.iter().filter(own) {
            for image in images(pod) {
                for watcher in shut_out(ceph, &image, address).await? {
                    node.say(&format!("{watcher} may not write to {image} any more"));
                }
            }
        }
        delete(client, name, guest).await?;
        // The pod first: a new guest's has the same name.
        for pod in found.items.iter().filter(own) {
            let at_once = DeleteParams::default().grace_period(0);
            steps::gone(pods.delete(&pod.name_any(), &at_once).await).map_err(refused("delete the pod of"))?;
        }
        let kept: Vec<&String> = vmi.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = Patch::Merge(json!({"metadata": {"uid": vmi.uid(), "finalizers": kept}}));
        match api.patch(&guest.name, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(refused("let go of")(error)),
        }
        node.say(&format!("{} is free", guest.label()));
    }
    Ok(())
}

/// The images that a reservation pod names, as `pool/image`.
fn images(pod: &Pod) -> Vec<String> {
    let text = pod.annotations().get(RESERVATION).map(String::as_str).unwrap_or_default();
    let reservation: Value = serde_json::from_str(text).unwrap_or_default();
    let volumes = reservation["volumes"].as_array().into_iter().flatten();
    let image = |volume: &Value| Some(format!("{}/{}", volume["pool"].as_str()?, volume["image"].as_str()?));
    volumes.filter_map(image).collect()
}

/// Shuts those clients of the node out of Ceph that have the image open; returns them.
async fn shut_out(ceph: &Monitor, image: &str, address: &str) -> Result<Vec<String>, StepError> {
    let status = Cmd::new("/usr/bin/rbd").args(["status", image, "--format", "json"]).run_unchecked().await?;
    let Ok(status) = serde_json::from_slice::<Value>(&status.stdout) else { return Ok(Vec::new()) };
    let clients = watchers_at(&status, address);
    for client in &clients {
        ceph.send(commands::osd_blocklist_add(client, SHUT_OUT_S)).await?;
    }
    Ok(clients)
}

fn watchers_at(status: &Value, address: &str) -> Vec<String> {
    let watchers = status["watchers"].as_array().into_iter().flatten().filter_map(|w| w["address"].as_str());
    let host = |client: &str| client.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    watchers.filter(|client| host(client).as_deref() == Some(address)).map(str::to_owned).collect()
}

/// Evicts the node's pods, except those that a DaemonSet would only make again.
pub(super) async fn evict(node: &Node, client: &Client, name: &str) -> Result<(), StepError> {
    node.wait("the pods to leave", EVICT_TIMEOUT, async || {
        let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let pods: Api<Pod> = Api::all(client.clone());
        let left: Vec<Pod> =
            pods.list(&here).await.map_err(|e| e.to_string())?.items.into_iter().filter(leaves).collect();
        let mut reasons = Vec::new();
        for pod in &left {
            let own: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
            let label = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
            // A reservation goes with its guest.
            if pod.metadata.deletion_timestamp.is_some() || pod.labels().get("kubevirt.io").is_some() {
                reasons.push(label);
                continue;
            }
            match own.evict(&pod.name_any(), &EvictParams::default()).await {
                Err(kube::Error::Api(status)) if status.code != 404 => {
                    reasons.push(format!("{label}: {}", status.message));
                }
                _ => reasons.push(label),
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        Err(reasons.join(", "))
    })
    .await
}

/// Whether a pod has to leave.
fn leaves(pod: &Pod) -> bool {
    let is_over =
        pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed");
    let of_node = pod.owner_references().iter().any(|owner| matches!(owner.kind.as_str(), "DaemonSet" | "Node"));
    !(is_over || of_node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_other_nodes_are_left_alone() {
        let watcher = |address: &str| json!({"address": address, "client": 1, "cookie": 2});
        let status = json!({"watchers": [
            watcher("10.0.0.1:0/123"), watcher("10.0.0.11:0/4"), watcher("[fd00::1]:0/5"),
        ]});
        assert_eq!(watchers_at(&status, "10.0.0.1"), ["10.0.0.1:0/123"]);
        assert_eq!(watchers_at(&status, "fd00::1"), ["[fd00::1]:0/5"]);
        assert!(watchers_at(&json!({}), "10.0.0.1").is_empty());
    }

    #[test]
    fn which_vms_start_anew() {
        for (spec, expected) in [
            (json!({"runStrategy": "Always"}), true),
            (json!({"runStrategy": "RerunOnFailure"}), true),
            (json!({"runStrategy": "Manual"}), false),
            (json!({"running": true}), true),
            (json!({"running": false}), false),
        ] {
            assert_eq!(restarts(&spec), expected, "{spec}");
        }
    }

    #[test]
    fn pods_that_a_daemon_set_makes_again_stay() {
        let pod = |kind: &str, phase: &str| {
            let owner = json!({"apiVersion": "v1", "kind": kind, "name": "x", "uid": "u"});
            let pod = json!({"metadata": {"ownerReferences": [owner]}, "status": {"phase": phase}});
            serde_json::from_value::<Pod>(pod).expect("a pod")
        };
        assert!(leaves(&pod("ReplicaSet", "Running")) && leaves(&Pod::default()));
        assert!(!leaves(&pod("DaemonSet", "Running")) && !leaves(&pod("Node", "Running")));
        assert!(!leaves(&pod("Job", "Succeeded")));
    }
}
