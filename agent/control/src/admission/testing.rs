//! A cluster for admission's tests: state in fields, and a switch that makes it fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use furrow_api::vmi::EvictionStrategy;
use furrow_api::{ProviderNetwork, Subnet, VirtualMachine, VirtualMachineInstance, VirtualMachineInstancePreset, Vlan};
use furrow_model::instancetype::{Source, Which};
use furrow_model::vm::memory::ClusterRoom;
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::{Value, json};

use super::causes::Cause;
use super::facts::{AddressHolder, Facts, FactsError, Labelled, MacHolder, Reserved};
use super::review::{Answer, Request};

/// The fake.
#[derive(Debug, Default)]
pub(super) struct FakeCluster {
    pub(super) classes: BTreeMap<String, String>,
    pub(super) subnets: Vec<Arc<Subnet>>,
    pub(super) vlans: Vec<Arc<Vlan>>,
    pub(super) provider_networks: Vec<Arc<ProviderNetwork>>,
    pub(super) macs: Vec<MacHolder>,
    pub(super) addresses: Vec<AddressHolder>,
    /// Namespaces that every user may copy from.
    pub(super) open_namespaces: Vec<String>,
    pub(super) presets: Vec<Arc<VirtualMachineInstancePreset>>,
    /// Specs of instancetypes and preferences by kind and name.
    pub(super) types: BTreeMap<(&'static str, String), Value>,
    /// Claims, DataVolumes and DataSources.
    pub(super) labelled: Vec<(Source, Labelled)>,
    pub(super) broken: bool,
    pub(super) eviction_strategy: Option<EvictionStrategy>,
    pub(super) room: ClusterRoom,
    /// What every pod that is asked for reserves.
    pub(super) reserved: Option<Reserved>,
    /// Nodes that guests were marked to leave, and whether that was only tried.
    pub(super) marks: std::sync::Mutex<Vec<(String, bool)>>,
}

impl FakeCluster {
    /// A cluster as bootstrap leaves it, with the field report's network.
    pub(super) fn usual() -> Self {
        Self {
            classes: BTreeMap::from([("csi-rbd-sc".into(), "rbd.furrow.io".into()), ("nfs".into(), "nfs.io".into())]),
            provider_networks: vec![from(
                json!({"metadata": {"name": "provider"}, "spec": {"defaultInterface": "eth1"}}),
            )],
            vlans: vec![from(json!({"metadata": {"name": "ovn-vlan"}, "spec": {"id": 100, "provider": "provider"}}))],
            ..Self::default()
        }
    }
}

fn from<K: serde::de::DeserializeOwned + kube::Resource<DynamicType = ()>>(mut value: Value) -> Arc<K> {
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    Arc::new(serde_json::from_value(value).unwrap())
}

/// A subnet of the fake cluster.
pub(super) fn subnet(name: &str, spec: Value) -> Arc<Subnet> {
    from(json!({"metadata": {"name": name}, "spec": spec}))
}

impl Facts for FakeCluster {
    async fn provisioner(&self, class: &str) -> Result<Option<String>, FactsError> {
        if self.broken {
            return Err(FactsError("read StorageClass".into()));
        }
        Ok(self.classes.get(class).cloned())
    }

    fn subnets(&self) -> Vec<Arc<Subnet>> {
        self.subnets.clone()
    }

    fn vlans(&self) -> Vec<Arc<Vlan>> {
        self.vlans.clone()
    }

    fn provider_networks(&self) -> Vec<Arc<ProviderNetwork>> {
        self.provider_networks.clone()
    }

    fn macs(&self) -> Vec<MacHolder> {
        self.macs.clone()
    }

    fn addresses(&self) -> Vec<AddressHolder> {
        self.addresses.clone()
    }

    fn default_machine_type(&self) -> Option<String> {
        None
    }

    fn cluster_room(&self) -> ClusterRoom {
        self.room
    }

    fn presets(&self, _: &str) -> Vec<Arc<VirtualMachineInstancePreset>> {
        self.presets.clone()
    }

    async fn type_spec(&self, vm: &VirtualMachine, which: Which) -> Result<Result<Option<Value>, String>, FactsError> {
        let matcher = match which {
            Which::Instancetype => vm.spec.instancetype.as_ref(),
            Which::Preference => vm.spec.preference.as_ref(),
        };
        let Some(matcher) = matcher else { return Ok(Ok(None)) };
        let scope = which.scope(matcher.kind.as_deref().unwrap_or_default()).unwrap();
        let key = (which.kind(scope), matcher.name.clone().unwrap_or_default());
        let spec = self.types.get(&key).cloned();
        Ok(spec.map(Some).ok_or_else(|| format!("{} {:?} does not exist", key.0, key.1)))
    }

    async fn labels_of(&self, source: &Source) -> Result<Option<Labelled>, FactsError> {
        Ok(self.labelled.iter().find(|(there, _)| there == source).map(|(_, labelled)| labelled.clone()))
    }

    fn eviction_strategy(&self) -> Option<EvictionStrategy> {
        self.eviction_strategy.clone()
    }

    async fn reserved(&self, _: &str, _: &str) -> Result<Option<Reserved>, FactsError> {
        Ok(self.reserved.clone())
    }

    async fn mark_evacuation(&self, _: &VirtualMachineInstance, node: &str, dry_run: bool) -> Result<(), FactsError> {
        if self.broken {
            return Err(FactsError("write".into()));
        }
        self.marks.lock().unwrap().push((node.to_owned(), dry_run));
        Ok(())
    }

    async fn may_clone(&self, _: &UserInfo, namespace: &str, _: &str) -> Result<bool, FactsError> {
        if self.broken {
            Err(FactsError("ask".into()))
        } else {
            Ok(self.open_namespaces.iter().any(|n| n == namespace))
        }
    }
}

/// A user's attempt to create an object in namespace `shop`.
pub(super) fn create(object: Value) -> Request {
    Request {
        uid: "u".into(),
        operation: "CREATE".into(),
        user_info: UserInfo { username: Some("ann".into()), ..UserInfo::default() },
        namespace: Some("shop".into()),
        object,
        ..Request::default()
    }
}

/// A user's attempt to replace an object in namespace `shop`.
pub(super) fn update(old: Value, new: Value) -> Request {
    Request { operation: "UPDATE".into(), old_object: old, ..create(new) }
}

/// A user's attempt to delete an object.
pub(super) fn delete(object: Value) -> Request {
    Request { operation: "DELETE".into(), old_object: object, ..create(Value::Null) }
}

/// Fields an answer refuses, `[]` if it lets the object in.
pub(super) fn refused(answer: &Answer) -> Vec<&str> {
    match answer {
        Answer::Refused(causes) => causes.iter().map(|cause| cause.field.as_str()).collect(),
        Answer::Allowed(_) => Vec::new(),
        other => panic!("{other:?}"),
    }
}

/// What a refusal says.
pub(super) fn words(answer: &Answer) -> String {
    match answer {
        Answer::Refused(causes) => causes.iter().map(Cause::with_path).collect::<Vec<_>>().join("\n"),
        other => panic!("{other:?}"),
    }
}
