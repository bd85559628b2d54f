//! The cases, in their order.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Error as Missed, Event as Finalized, finalizer};
use kube::runtime::wait::conditions::is_deleted;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::world::{NAME, NAMESPACE, World, object, refused, says, until};

type Case = for<'a> fn(&'a World) -> LocalBoxFuture<'a, Result<()>>;

const MANAGER: &str = "kube-client";
/// More than there are finalizers of others.
const LOOKS: u32 = 10;
const FINALIZER: &str = "furrow.io/kube-client-test";
const VMS: &str = "virtualmachines";
const VMIS: &str = "virtualmachineinstances";

pub(crate) const ALL: &[(&str, Case)] = &[
    ("discovery, aggregated and not, tells kinds, verbs and subresources", |w| discovery(w).boxed_local()),
    ("a dry run makes nothing", |w| dry_run(w).boxed_local()),
    ("server-side apply makes a VM, and the same again changes nothing", |w| apply(w).boxed_local()),
    ("lists by pages, and metadata alone", |w| lists(w).boxed_local()),
    ("a finalizer is added", |w| finalized(w).boxed_local()),
    ("start runs it, and a watch sees each phase in its order", |w| start(w).boxed_local()),
    ("start of one that runs is refused with a Status", |w| start_again(w).boxed_local()),
    ("what happened stands in its events", |w| events(w).boxed_local()),
    ("replace with a stale resourceVersion is a conflict", |w| stale(w).boxed_local()),
    ("a JSON patch whose test fails changes nothing", |w| failed_test(w).boxed_local()),
    ("pause and unpause are seen as conditions", |w| pause(w).boxed_local()),
    ("a replica set is scaled by its scale subresource", |w| scale(w).boxed_local()),
    ("stop ends the guest", |w| stop(w).boxed_local()),
    ("a VM with a finalizer goes when that is done, and not before", |w| delete(w).boxed_local()),
];

async fn discovery(world: &World) -> Result<()> {
    let groups = ["kubevirt.io", "instancetype.kubevirt.io", "pool.kubevirt.io", "subresources.kubevirt.io"];
    let wanted = || Discovery::new(world.client.clone()).filter(&groups);
    for (how, found) in [("aggregated", wanted().run_aggregated().await), ("plain", wanted().run().await)] {
        let found = found.with_context(|| how.to_owned())?;
        for group in groups {
            ensure!(found.has_group(group), "{how}: there is no group {group}");
        }
        for (version, kind, subresource) in [
            ("v1", "VirtualMachine", Some("status")),
            ("v1alpha3", "VirtualMachine", Some("status")),
            ("v1", "VirtualMachineInstance", None),
            ("v1", "VirtualMachineInstanceReplicaSet", Some("scale")),
            ("v1", "KubeVirt", None),
        ] {
            // By kind the preferred version alone is offered.
            let of_version = found.get("kubevirt.io").map(|group| group.versioned_resources(version));
            let (_, can) = of_version
                .into_iter()
                .flatten()
                .find(|(resource, _)| resource.kind == kind)
                .with_context(|| format!("{how}: there is no {version} {kind}"))?;
            ensure!(can.scope == Scope::Namespaced, "{how}: {version} {kind} is of the whole cluster");
            for verb in [verbs::GET, verbs::LIST, verbs::WATCH, verbs::CREATE, verbs::PATCH, verbs::DELETE] {
                ensure!(can.supports_operation(verb), "{how}: {version} {kind} lacks {verb}");
            }
            let has = |name: &str| can.subresources.iter().any(|(resource, _)| resource.plural.ends_with(name));
            ensure!(
                subresource.is_none_or(has),
                "{how}: {version} {kind} lacks {subresource:?}: {:?}",
                can.subresources
            );
        }
    }
    Ok(())
}

async fn dry_run(world: &World) -> Result<()> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let made = world.vms.create(&params, &object(world.vm.clone())?).await?;
    ensure!(made.uid().is_some(), "it answered {made:?}");
    ensure!(world.vms.get_opt(NAME).await?.is_none(), "the dry run has made it");
    Ok(())
}

async fn apply(world: &World) -> Result<()> {
    let send = async || world.vms.patch(NAME, &PatchParams::apply(MANAGER), &Patch::Apply(&world.vm)).await;
    let first = send().await?;
    let second = send().await?;
    ensure!(first.meta().generation == Some(1), "its first generation is {:?}", first.meta().generation);
    ensure!(
        second.meta().generation == first.meta().generation,
        "its generation became {:?}",
        second.meta().generation
    );
    let managers: BTreeSet<_> = second.managed_fields().iter().filter_map(|entry| entry.manager.as_deref()).collect();
    ensure!(managers.contains(MANAGER), "its fields are of {managers:?}");
    // A field that somebody else has is a conflict, unless it is forced.
    let other = PatchParams::apply("somebody-else");
    let claimed = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": NAME},
        "spec": {"runStrategy": "Manual"}});
    refused(world.vms.patch(NAME, &other, &Patch::Apply(&claimed)).await, 409, "Conflict", MANAGER)
}

async fn lists(world: &World) -> Result<()> {
    let second = format!("{NAME}-second");
    let mut other = object(world.vm.clone())?;
    other.metadata.name = Some(second.clone());
    for pointer in
        ["/spec/dataVolumeTemplates", "/spec/template/spec/volumes", "/spec/template/spec/domain/devices/disks"]
    {
        if let Some(list) = other.data.pointer_mut(pointer) {
            *list = json!([]);
        }
    }
    world.vms.create(&PostParams::default(), &other).await?;
    let mut pages = ListParams::default().limit(1);
    let mut seen = BTreeSet::new();
    loop {
        let page = world.vms.list(&pages).await?;
        ensure!(page.items.len() <= 1, "a page of one has {}", page.items.len());
        seen.extend(page.items.iter().map(|vm| vm.name_any()));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => pages = pages.continue_token(&token),
            _ => break,
        }
    }
    let whole = world.vms.list_metadata(&ListParams::default()).await?;
    let whole: BTreeSet<_> = whole.items.iter().map(|vm| vm.name_any()).collect();
    ensure!(seen == whole && seen.contains(NAME) && seen.contains(&second), "pages have {seen:?} of {whole:?}");
    let alone = world.vms.get_metadata(NAME).await?;
    ensure!(alone.types.is_some_and(|types| types.kind == "PartialObjectMetadata"), "it is a whole object");
    world.vms.delete(&second, &DeleteParams::background()).await?;
    until(&world.vms, &second, |vm| vm.is_none()).await.map(drop)
}

async fn finalized(world: &World) -> Result<()> {
    settle(world).await?;
    let vm = world.vms.get(NAME).await?;
    ensure!(vm.finalizers().iter().any(|name| name == FINALIZER), "its finalizers are {:?}", vm.finalizers());
    Ok(())
}

/// What a controller does at each look at the VM; the action that it took. Another's finalizer may come or go between the
/// look and the patch, whose test fails then: it looks again.
async fn settle(world: &World) -> Result<&'static str> {
    let did = Cell::new("added");
    let mut looks = 0;
    loop {
        let vm = Arc::new(world.vms.get(NAME).await?);
        let reconcile = async |event: Finalized<DynamicObject>| {
            did.set(if matches!(event, Finalized::Cleanup(_)) { "cleanup" } else { "apply" });
            Ok::<_, std::io::Error>(Action::await_change())
        };
        looks += 1;
        match finalizer(&world.vms, FINALIZER, vm, reconcile).await {
            Ok(_) => return Ok(did.get()),
            Err(Missed::AddFinalizer(_) | Missed::RemoveFinalizer(_)) if looks < LOOKS => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("the finalizer, after {looks} looks")),
        }
    }
}

async fn start(world: &World) -> Result<()> {
    let of_it = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut seen = pin!(watcher(world.vmis.clone(), of_it).applied_objects());
    world.operate(VMS, "start", "").await?;
    let mut phases: Vec<String> = Vec::new();
    while phases.last().is_none_or(|phase| phase != "Running") {
        let vmi = seen.try_next().await?.context("the watch ended")?;
        let phase = vmi.data.pointer("/status/phase").and_then(|phase| phase.as_str()).unwrap_or("").to_owned();
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
    }
    let order = ["", "Pending", "Scheduling", "Scheduled", "Running"];
    let places: Vec<_> = phases.iter().map(|phase| order.iter().position(|known| known == phase)).collect();
    ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "its phases were {phases:?}");
    until(&world.vms, NAME, |vm| says(vm, "/status/printableStatus", "Running")).await.map(drop)
}

async fn start_again(world: &World) -> Result<()> {
    refused(world.operate(VMS, "start", "").await, 409, "Conflict", "VM is already running")?;
    refused(world.operate(VMS, "start", "{").await, 400, "BadRequest", "")
}

async fn events(world: &World) -> Result<()> {
    let events: Api<Event> = Api::namespaced(world.client.clone(), NAMESPACE);
    let of_guest = format!("involvedObject.name={NAME},involvedObject.kind=VirtualMachineInstance");
    let found = events.list(&ListParams::default().fields(&of_guest)).await?;
    let reasons: BTreeSet<_> = found.items.iter().filter_map(|event| event.reason.as_deref()).collect();
    ensure!(reasons.contains("Started"), "its guest's events are {reasons:?}");
    Ok(())
}

async fn stale(world: &World) -> Result<()> {
    let mut vm = world.vms.get(NAME).await?;
    vm.metadata.resource_version = Some("1".into());
    refused(world.vms.replace(NAME, &PostParams::default(), &vm).await, 409, "Conflict", "has been modified")
}

async fn failed_test(world: &World) -> Result<()> {
    let patch = serde_json::from_value(json!([
        {"op": "test", "path": "/spec/runStrategy", "value": "Manual"},
        {"op": "replace", "path": "/spec/runStrategy", "value": "RerunOnFailure"},
    ]))?;
    let result = world.vms.patch(NAME, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
    refused(result, 422, "Invalid", "")?;
    let changed = says(Some(&world.vms.get(NAME).await?), "/spec/runStrategy", "RerunOnFailure");
    ensure!(!changed, "it was changed all the same");
    Ok(())
}

async fn pause(world: &World) -> Result<()> {
    let paused = |vmi: Option<&DynamicObject>| {
        let conditions = vmi.and_then(|vmi| vmi.data.pointer("/status/conditions")?.as_array());
        conditions.into_iter().flatten().any(|condition| condition["type"] == "Paused" && condition["status"] == "True")
    };
    world.operate(VMIS, "pause", "{}").await?;
    until(&world.vmis, NAME, paused).await?;
    world.operate(VMIS, "unpause", "{}").await?;
    until(&world.vmis, NAME, |vmi| vmi.is_some() && !paused(vmi)).await.map(drop)
}

async fn scale(world: &World) -> Result<()> {
    let name = format!("{NAME}-set");
    let labels = json!({"kube-client": "set"});
    let guest = json!({"terminationGracePeriodSeconds": 0, "domain": {"memory": {"guest": "64Mi"},
        "devices": {"autoattachPodInterface": false}}});
    let set = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet",
        "metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": guest}}});
    world.replica_sets.create(&PostParams::default(), &object(set)?).await?;
    let replicas = |count: i64| {
        move |set: Option<&DynamicObject>| {
            let found =
                |name: &str| set.and_then(|set| set.data.pointer(&format!("/status/{name}"))?.as_i64()).unwrap_or(0);
            set.is_some() && found("replicas") == count && found("readyReplicas") == count
        }
    };
    for count in [2, 0] {
        let patch = Patch::Merge(json!({"spec": {"replicas": count}}));
        world.replica_sets.patch_scale(&name, &PatchParams::default(), &patch).await?;
        until(&world.replica_sets, &name, replicas(count)).await?;
        let scale = world.replica_sets.get_scale(&name).await?;
        let of = (scale.spec.and_then(|spec| spec.replicas), scale.status.map(|status| i64::from(status.replicas)));
        ensure!(of.1 == Some(count), "its scale is {of:?}, and {count} are wanted");
    }
    world.replica_sets.delete(&name, &DeleteParams::background()).await?;
    until(&world.replica_sets, &name, |set| set.is_none()).await.map(drop)
}

async fn stop(world: &World) -> Result<()> {
    world.operate(VMS, "stop", r#"{"gracePeriod": 5}"#).await?;
    until(&world.vmis, NAME, |vmi| vmi.is_none()).await?;
    until(&world.vms, NAME, |vm| says(vm, "/status/printableStatus", "Stopped")).await.map(drop)
}

async fn delete(world: &World) -> Result<()> {
    let uid = world.vms.get(NAME).await?.uid().context("it has no UID")?;
    world.vms.delete(NAME, &DeleteParams::foreground()).await?;
    let waits = world.vms.get(NAME).await?;
    ensure!(waits.meta().deletion_timestamp.is_some(), "it is not being deleted");
    let did = settle(world).await?;
    ensure!(did == "cleanup", "the finalizer did {did}");
    kube::runtime::wait::await_condition(world.vms.clone(), NAME, is_deleted(&uid)).await?;
    refused(world.vms.get(NAME).await, 404, "NotFound", NAME)
}
