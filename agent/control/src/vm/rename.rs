//! Carries out the renaming of a virtual machine, one step a time and none of it by the word of a cache; see
//! `furrow_model::vm::rename` for the order. Refuses to begin one: the subresource `rename` marks the machine.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use furrow_api::{DataVolume, IP, VirtualMachine, VirtualMachineInstance, names};
use furrow_model::ipam::Owner;
use furrow_model::vm::rename::{Namesake, Observed, Step, next, record_name};

use super::{Machines, VmError, owner_reference};
use crate::calls::{self, CallError, Object};
use crate::cluster::key_of;
use crate::dispatch::Next;
use crate::ipam;

/// Steps of one pass: more than a machine has disks and addresses.
const STEPS_MAX: usize = 256;

/// While something else has to happen first.
const AGAIN: Duration = Duration::from_secs(1);

/// What kubectl keeps of a manifest: it has the old name.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The machine that a machine succeeds: the value of [`names::ANNOTATION_SUCCEEDS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Predecessor {
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
}

impl Predecessor {
    /// Of a machine that says it has one.
    pub(crate) fn of(vm: &VirtualMachine) -> Option<Self> {
        serde_json::from_str(vm.annotations().get(names::ANNOTATION_SUCCEEDS)?).ok()
    }

    /// Whether a record of an address is its own. A mark can be anybody's invention: its UID alone is not believed, which
    /// may be that of a machine of another name that lives.
    fn had(&self, ip: &IP, namespace: &str) -> bool {
        let own = |owner: Owner| owner.uid == self.uid && owner.name == self.name && owner.namespace == namespace;
        ipam::owner_of(ip).is_some_and(own)
    }
}

/// The machine that takes over, as it is created.
///
/// # Errors
/// When the mark has no JSON form.
pub(crate) fn successor(vm: &VirtualMachine, name: &str) -> Result<VirtualMachine, serde_json::Error> {
    let predecessor = Predecessor { name: vm.name_any(), uid: vm.uid().unwrap_or_default() };
    let mut annotations = vm.annotations().clone();
    annotations.remove(names::ANNOTATION_RENAME_TO);
    annotations.remove(LAST_APPLIED);
    annotations.insert(names::ANNOTATION_SUCCEEDS.to_owned(), serde_json::to_string(&predecessor)?);
    Ok(VirtualMachine {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: vm.namespace(),
            labels: Some(vm.labels().clone()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: vm.spec.clone(),
        status: None,
    })
}

impl Machines {
    /// Goes on with a renaming; `None` when the machine is not in one, or has to lose its guest first.
    pub(super) async fn rename(&self, vm: &VirtualMachine) -> Result<Option<Next>, VmError> {
        let marked = |key: &str| vm.annotations().contains_key(key);
        if !marked(names::ANNOTATION_RENAME_TO) && !marked(names::ANNOTATION_SUCCEEDS) {
            return Ok(None);
        }
        let Some(vm) = calls::get(&self.api(vm), &vm.name_any()).await?.filter(|now| now.uid() == vm.uid()) else {
            return Ok(Some(Next::OnChange));
        };
        if let Some(predecessor) = Predecessor::of(&vm) {
            return self.take_over(&vm, &predecessor).await;
        }
        let Some(name) = vm.annotations().get(names::ANNOTATION_RENAME_TO).cloned() else { return Ok(None) };
        for _ in 0..STEPS_MAX {
            let step = next(&self.observe_renaming(&vm, &name).await?);
            match &step {
                // Its end is a change, and with it this goes on.
                Step::WaitForGuest => return Ok(None),
                Step::WaitForNamesake => return Ok(Some(Next::After(AGAIN))),
                Step::GiveUp => return self.give_up(&vm, &name).await,
                _ => {}
            }
            self.carry_out(&vm, &name, &step).await?;
            tracing::info!(vm = %key_of(&vm), name, step = ?step, "renaming goes on");
            if step == Step::DeleteOld {
                return Ok(Some(Next::OnChange));
            }
        }
        Ok(Some(Next::After(AGAIN)))
    }

    async fn observe_renaming(&self, vm: &VirtualMachine, name: &str) -> Result<Observed, VmError> {
        let (namespace, uid) = (vm.namespace().unwrap_or_default(), vm.uid().unwrap_or_default());
        let guest = calls::get(&self.cluster.api::<VirtualMachineInstance>(&namespace), &vm.name_any()).await?;
        let namesake = calls::get(&self.api(vm), name).await?;
        let ips = list(&self.cluster.api_all::<IP>()).await?;
        let renamed = |record: String| Some((record.clone(), record_name(&record, &namespace, &vm.name_any(), name)?));
        let successor = namesake.as_ref().and_then(ResourceExt::uid).unwrap_or_default();
        Ok(Observed {
            guest: guest.is_some_and(|vmi| super::owned_by(&vmi, vm)),
            namesake: namesake.as_ref().map(|other| Namesake {
                succeeds: Predecessor::of(other).map(|predecessor| predecessor.uid),
                going: other.metadata.deletion_timestamp.is_some(),
            }),
            data_volumes: owned_names(&list(&self.cluster.api::<DataVolume>(&namespace)).await?, &uid),
            claims: owned_names(&list(&self.cluster.api::<PersistentVolumeClaim>(&namespace)).await?, &uid),
            revisions: self.revisions(vm).await?,
            addresses: records_of(&ips, &uid).into_iter().filter_map(renamed).collect(),
            kept: records_of(&ips, &successor),
            uid,
        })
    }

    async fn carry_out(&self, vm: &VirtualMachine, name: &str, step: &Step) -> Result<(), VmError> {
        let namespace = vm.namespace().unwrap_or_default();
        match step {
            Step::CreateSuccessor => {
                let new = successor(vm, name).map_err(|source| VmError::Rename { vm: key_of(vm), source })?;
                calls::create(&self.api(vm), &new).await?;
            }
            Step::HandOverDataVolume(owned) => {
                self.hand_over(&self.cluster.api::<DataVolume>(&namespace), owned, (vm, name)).await?;
            }
            Step::HandOverClaim(owned) => {
                self.hand_over(&self.cluster.api::<PersistentVolumeClaim>(&namespace), owned, (vm, name)).await?;
            }
            Step::HandOverRevision(owned) => {
                self.hand_over(&self.cluster.api::<ControllerRevision>(&namespace), owned, (vm, name)).await?;
            }
            Step::KeepAddress(old, new) => self.keep_address(vm, name, (old, new)).await?,
            Step::DeleteOld => calls::delete(&self.api(vm), vm).await?,
            Step::WaitForGuest | Step::WaitForNamesake | Step::GiveUp => {}
        }
        Ok(())
    }

    /// What the machine's instancetype and preference were when it took them on. The specification that its last guest was
    /// made from goes with the machine.
    async fn revisions(&self, vm: &VirtualMachine) -> Result<Vec<String>, CallError> {
        let api = self.cluster.api::<ControllerRevision>(&vm.namespace().unwrap_or_default());
        let matchers = [&vm.spec.instancetype, &vm.spec.preference];
        let names = matchers.into_iter().flatten().filter_map(|matcher| matcher.revision_name.clone());
        let mut kept = Vec::new();
        for name in names.filter(|name| !name.is_empty()) {
            kept.extend(calls::get(&api, &name).await?);
        }
        Ok(owned_names(&kept, vm.metadata.uid.as_deref().unwrap_or_default()))
    }

    async fn hand_over<K: Object>(
        &self,
        api: &Api<K>,
        owned: &str,
        (vm, name): (&VirtualMachine, &str),
    ) -> Result<(), VmError> {
        let Some(successor) = calls::get(&self.api(vm), name).await? else { return Ok(()) };
        let Some(object) = calls::get(api, owned).await? else { return Ok(()) };
        let mut new = object.clone();
        for owner in new.owner_references_mut().iter_mut().filter(|owner| Some(&owner.uid) == vm.metadata.uid.as_ref())
        {
            *owner = owner_reference(&successor);
        }
        calls::update(api, &object, &new).await?;
        Ok(())
    }

    async fn keep_address(&self, vm: &VirtualMachine, name: &str, (old, new): (&str, &str)) -> Result<(), VmError> {
        let Some(successor) = calls::get(&self.api(vm), name).await? else { return Ok(()) };
        let api = self.cluster.api_all::<IP>();
        let Some(ip) = calls::get(&api, old).await? else { return Ok(()) };
        let owner = Owner {
            kind: VirtualMachine::kind(&()).into_owned(),
            namespace: vm.namespace().unwrap_or_default(),
            name: name.to_owned(),
            uid: successor.uid().unwrap_or_default(),
        };
        let kept = ipam::handed_over(&ip, new, &owner).map_err(|source| VmError::Rename { vm: key_of(vm), source })?;
        // One of that name that is not the successor's was left by a machine that is gone: its collection is awaited.
        if calls::create(&api, &kept).await?.is_none() {
            return Err(VmError::Behind { vm: key_of(vm) });
        }
        Ok(())
    }

    /// The name was taken while the machine was marked: it stays what it was, and says so.
    async fn give_up(&self, vm: &VirtualMachine, name: &str) -> Result<Option<Next>, VmError> {
        let mut new = vm.clone();
        new.annotations_mut().remove(names::ANNOTATION_RENAME_TO);
        calls::update(&self.api(vm), vm, &new).await?;
        let note = format!("Could not rename to {name}: there is another VirtualMachine of that name");
        self.cluster.events.warning(vm, "RenameFailed", note);
        Ok(Some(Next::OnChange))
    }

    /// A successor does nothing until its predecessor is gone, and its records of addresses with it.
    async fn take_over(&self, vm: &VirtualMachine, predecessor: &Predecessor) -> Result<Option<Next>, VmError> {
        let old = calls::get(&self.api(vm), &predecessor.name).await?;
        let old = old.filter(|old| old.uid().as_ref() == Some(&predecessor.uid));
        let marked = |old: &VirtualMachine| {
            old.annotations().get(names::ANNOTATION_RENAME_TO) == Some(&vm.name_any())
                || old.metadata.deletion_timestamp.is_some()
        };
        match old {
            Some(old) if marked(&old) => return Ok(Some(Next::After(AGAIN))),
            // It was never to be renamed to this: the mark is somebody's own invention.
            Some(_) => {}
            None => {
                let ips = self.cluster.api_all::<IP>();
                let namespace = vm.namespace().unwrap_or_default();
                for record in list(&ips).await?.iter().filter(|ip| predecessor.had(ip, &namespace)) {
                    calls::delete(&ips, record).await?;
                }
            }
        }
        let mut new = vm.clone();
        new.annotations_mut().remove(names::ANNOTATION_SUCCEEDS);
        calls::update(&self.api(vm), vm, &new).await?;
        let note = format!("Renamed from {}", predecessor.name);
        self.cluster.events.normal(vm, "Renamed", note);
        tracing::info!(vm = %key_of(vm), old = predecessor.name, "virtual machine renamed");
        // The change comes back as an event.
        Ok(Some(Next::OnChange))
    }
}

fn is_of(ip: &IP, owner_uid: &str) -> bool {
    ipam::owner_of(ip).is_some_and(|owner| owner.uid == owner_uid)
}

fn records_of(ips: &[IP], owner_uid: &str) -> Vec<String> {
    ips.iter().filter(|ip| is_of(ip, owner_uid)).map(ResourceExt::name_any).collect()
}

fn owned_names<K: ResourceExt>(objects: &[K], owner_uid: &str) -> Vec<String> {
    let owned = |object: &&K| object.owner_references().iter().any(|owner| owner.uid == owner_uid);
    objects.iter().filter(owned).map(ResourceExt::name_any).collect()
}

async fn list<K: Object>(api: &Api<K>) -> Result<Vec<K>, CallError> {
    let what = || format!("list {}", K::plural(&()));
    calls::within(what, api.list(&ListParams::default())).await.map(|list| list.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_names_another_machines_uid_costs_it_no_address() {
        let owner = |namespace: &str, name: &str| Owner {
            kind: "VirtualMachine".into(),
            namespace: namespace.into(),
            name: name.into(),
            uid: "v-1".into(),
        };
        let blank: IP = serde_json::from_value(serde_json::json!({"metadata": {"name": "x"}, "spec": {
            "podName": "", "namespace": "", "subnet": "", "ipAddress": "", "macAddress": ""}}))
        .unwrap();
        let held = |owner: &Owner| ipam::handed_over(&blank, "x", owner).unwrap();
        let predecessor = Predecessor { name: "web".into(), uid: "v-1".into() };
        assert!(predecessor.had(&held(&owner("shop", "web")), "shop"));
        assert!(!predecessor.had(&held(&owner("bank", "web")), "shop"));
        assert!(!predecessor.had(&held(&owner("shop", "db")), "shop"));
        let other = Predecessor { uid: "v-2".into(), ..predecessor };
        assert!(!other.had(&held(&owner("shop", "web")), "shop"));
    }

    #[test]
    fn an_address_gets_another_owner_and_stays_what_it_is() {
        let ip: IP = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web.shop.lan", "labels": {names::LABEL_SUBNET: "lan"}},
            "spec": {"podName": "web", "namespace": "shop", "subnet": "lan", "ipAddress": "192.168.10.7",
                "macAddress": "02:00:00:00:00:07"}}))
        .unwrap();
        let owner =
            Owner { kind: "VirtualMachine".into(), namespace: "shop".into(), name: "site".into(), uid: "v-2".into() };
        let kept = ipam::handed_over(&ip, "site.shop.lan", &owner).unwrap();
        let mut expected = ip.spec.clone();
        expected.pod_name = "site".into();
        assert_eq!((kept.name_any().as_str(), &kept.spec, kept.labels()), ("site.shop.lan", &expected, ip.labels()));
        assert_eq!(ipam::owner_of(&kept), Some(owner));
    }

    #[test]
    fn a_successor_is_the_same_but_for_its_name_and_its_mark() {
        let text = include_str!("../../../../tests/manifests/field-report/debian.yaml");
        let mut vm: VirtualMachine = serde_saphyr::from_str(text).unwrap();
        vm.metadata.uid = Some("v-1".into());
        vm.metadata.resource_version = Some("7".into());
        vm.finalizers_mut().push(names::FINALIZER_VM.into());
        vm.labels_mut().insert("tier".into(), "front".into());
        for (key, value) in [(names::ANNOTATION_RENAME_TO, "site"), (LAST_APPLIED, "{}"), ("note", "kept")] {
            vm.annotations_mut().insert(key.into(), value.into());
        }
        let new = successor(&vm, "site").unwrap();
        assert_eq!((new.name_any(), new.namespace(), &new.spec), ("site".to_owned(), vm.namespace(), &vm.spec));
        assert_eq!(new.labels()["tier"], "front");
        assert_eq!((new.uid(), new.resource_version(), new.finalizers().len()), (None, None, 0));
        let predecessor = Predecessor { name: vm.name_any(), uid: "v-1".into() };
        assert_eq!(Predecessor::of(&new), Some(predecessor));
        let keys: Vec<_> = new.annotations().keys().map(String::as_str).collect();
        assert!(
            keys.contains(&"note") && !keys.contains(&names::ANNOTATION_RENAME_TO) && !keys.contains(&LAST_APPLIED)
        );
        assert_eq!(Predecessor::of(&vm), None);
    }
}
