//! [`Facts`] from the caches of this process and, where they may be behind, from the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use furrow_api::vmi::{EvictionStrategy, VirtualMachineInstanceSpec};
use furrow_api::{ProviderNetwork, Subnet, VirtualMachine, VirtualMachineInstance, VirtualMachineInstancePreset, Vlan};
use furrow_model::instancetype::{Source, Which};
use furrow_model::mac::Mac;
use furrow_model::vm::memory::ClusterRoom;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::reflector::Store;
use serde_json::Value;

use super::eviction;
use super::facts::{AddressHolder, Facts, FactsError, Labelled, MacHolder, Reserved};
use crate::calls::{self, Object};
use crate::cluster::{Cluster, controller, find, find_cluster};
use crate::instancetype::{self, TypesError};
use crate::room;

/// The API server's own limit for a webhook is 10 s; an answer must still fit.
const REVIEW_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl Facts for Cluster {
    async fn provisioner(&self, class: &str) -> Result<Option<String>, FactsError> {
        if let Some(class) = find_cluster(&self.classes, class) {
            return Ok(Some(class.provisioner.clone()));
        }
        // A class applied together with what uses it may not have reached the cache.
        let class = calls::get(&self.api_all::<StorageClass>(), class).await;
        class.map(|class| class.map(|class| class.provisioner)).map_err(|error| FactsError(error.message()))
    }

    fn subnets(&self) -> Vec<Arc<Subnet>> {
        staying(&self.subnets)
    }

    fn vlans(&self) -> Vec<Arc<Vlan>> {
        staying(&self.vlans)
    }

    fn provider_networks(&self) -> Vec<Arc<ProviderNetwork>> {
        staying(&self.provider_networks)
    }

    fn macs(&self) -> Vec<MacHolder> {
        let mut holders = Vec::new();
        let mut add = |mac: &str, namespace: &str, name: &str| {
            if let Ok(mac) = mac.parse::<Mac>() {
                holders.push(MacHolder { mac, namespace: namespace.to_owned(), name: name.to_owned() });
            }
        };
        for ip in self.ips.state() {
            add(&ip.spec.mac_address, &ip.spec.namespace, &ip.spec.pod_name);
        }
        for vm in staying(&self.vms) {
            let namespace = vm.namespace().unwrap_or_default();
            asked(&vm.spec.template.spec).for_each(|mac| add(mac, &namespace, &vm.name_any()));
        }
        for vmi in staying(&self.vmis) {
            let namespace = vmi.namespace().unwrap_or_default();
            asked(&vmi.spec).for_each(|mac| add(mac, &namespace, &vmi.name_any()));
        }
        holders
    }

    fn addresses(&self) -> Vec<AddressHolder> {
        let holder = |ip: Arc<furrow_api::IP>| AddressHolder {
            object: ip.name_any(),
            subnet: ip.spec.subnet.clone(),
            address: ip.spec.v4_ip_address.as_deref().unwrap_or(&ip.spec.ip_address).parse().ok(),
            mac: ip.spec.mac_address.parse().ok(),
        };
        self.ips.state().into_iter().map(holder).collect()
    }

    fn default_machine_type(&self) -> Option<String> {
        let settings = crate::kubevirt::settings(&self.kubevirts)?;
        let configuration = settings.spec.configuration.as_ref()?;
        let amd64 = configuration.architecture_configuration.as_ref().and_then(|all| all.amd64.as_ref());
        // The one of the architecture came later, and wins in KubeVirt as well.
        let named = [amd64.and_then(|amd64| amd64.machine_type.clone()), configuration.machine_type.clone()];
        named.into_iter().flatten().find(|machine| !machine.is_empty())
    }

    fn cluster_room(&self) -> ClusterRoom {
        room::of_cluster(crate::kubevirt::settings(&self.kubevirts).as_deref())
    }

    fn presets(&self, namespace: &str) -> Vec<Arc<VirtualMachineInstancePreset>> {
        let mut presets = staying(&self.presets);
        presets.retain(|preset| preset.namespace().as_deref() == Some(namespace));
        presets
    }

    async fn type_spec(&self, vm: &VirtualMachine, which: Which) -> Result<Result<Option<Value>, String>, FactsError> {
        match instancetype::spec_of(self, vm, which).await {
            Ok(spec) => Ok(Ok(spec)),
            Err(TypesError::Call(error)) => Err(FactsError(error.message())),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    async fn labels_of(&self, source: &Source) -> Result<Option<Labelled>, FactsError> {
        instancetype::labels_of(self, source).await.map_err(|error| FactsError(error.message()))
    }

    fn eviction_strategy(&self) -> Option<EvictionStrategy> {
        let settings = self.kubevirts.state();
        settings.iter().find_map(|kubevirt| kubevirt.spec.configuration.as_ref()?.eviction_strategy.clone())
    }

    async fn reserved(&self, namespace: &str, pod: &str) -> Result<Option<Reserved>, FactsError> {
        let pod = match find(&self.pods, namespace, pod) {
            Some(pod) => Some(pod.as_ref().clone()),
            // One that was bound a moment ago may not have reached the cache.
            None if eviction::may_reserve(pod) => asked_for(calls::get(&self.api::<Pod>(namespace), pod).await)?,
            None => None,
        };
        let Some(pod) = pod else { return Ok(None) };
        let Some(owner) = controller::<VirtualMachineInstance>(&pod) else { return Ok(None) };
        // Not from the cache: whether it is marked already is what decides.
        let vmi = asked_for(calls::get(&self.api::<VirtualMachineInstance>(namespace), &owner.name).await)?;
        Ok(eviction::reserved(&pod, vmi))
    }

    async fn mark_evacuation(&self, vmi: &VirtualMachineInstance, node: &str, dry_run: bool) -> Result<(), FactsError> {
        let (name, namespace) = (vmi.name_any(), vmi.namespace().unwrap_or_default());
        let body = serde_json::json!({
            "metadata": {"resourceVersion": vmi.resource_version(), "uid": vmi.uid()},
            "status": {"evacuationNodeName": node},
        });
        let field_manager = Some(furrow_api::names::CONTROL_FIELD_MANAGER.to_owned());
        let params = PatchParams { dry_run, field_manager, ..PatchParams::default() };
        let (api, patch) = (self.api::<VirtualMachineInstance>(&namespace), Patch::Merge(&body));
        let written = tokio::time::timeout(REVIEW_TIMEOUT, api.patch(&name, &params, &patch)).await;
        let written = written.map_err(|_| FactsError("no answer in time".to_owned()))?;
        written.map(drop).map_err(|error| FactsError(error.to_string()))
    }

    async fn may_clone(&self, user: &UserInfo, namespace: &str, claim: &str) -> Result<bool, FactsError> {
        let extra: BTreeMap<_, _> = user.extra.clone().unwrap_or_default();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username.clone(),
                groups: user.groups.clone(),
                uid: user.uid.clone(),
                extra: Some(extra),
                // CDI's own: a made-up subresource that administrators grant.
                resource_attributes: Some(ResourceAttributes {
                    group: Some("cdi.kubevirt.io".to_owned()),
                    resource: Some("datavolumes".to_owned()),
                    subresource: Some("source".to_owned()),
                    verb: Some("create".to_owned()),
                    namespace: Some(namespace.to_owned()),
                    name: Some(claim.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = self.api_all::<SubjectAccessReview>();
        let params = PostParams::default();
        let answer = tokio::time::timeout(REVIEW_TIMEOUT, api.create(&params, &review)).await;
        let failed = |why: String| FactsError(format!("could not ask who may copy claim {namespace}/{claim}: {why}"));
        let answer = answer.map_err(|_| failed("no answer in time".to_owned()))?;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

fn asked_for<K>(answer: Result<Option<K>, calls::CallError>) -> Result<Option<K>, FactsError> {
    answer.map_err(|error| FactsError(error.message()))
}

/// Objects that are not being deleted.
fn staying<K: Object>(store: &Store<K>) -> Vec<Arc<K>> {
    let mut objects = store.state();
    objects.retain(|object| object.meta().deletion_timestamp.is_none());
    objects
}

/// Hardware addresses that a guest asks for.
fn asked(spec: &VirtualMachineInstanceSpec) -> impl Iterator<Item = &str> {
    spec.domain.devices.interfaces.iter().filter_map(|interface| interface.mac_address.as_deref())
}
