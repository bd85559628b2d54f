//! VirtualMachineInstanceMigrations: requests to move a running guest. None is carried out in this release, and each ends
//! at once as Failed with that reason, so that nobody who waits for one waits for ever. Refuses to touch the guest: it
//! stays where it is.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;

use furrow_api::migration::{
    MigrationPhase, MigrationPhaseTransitionTimestamp, VirtualMachineInstanceMigrationSpec,
    VirtualMachineInstanceMigrationState,
};
use furrow_api::subresources::MigrateOptions;
use furrow_api::{VirtualMachineInstance, VirtualMachineInstanceMigration, names};

use crate::calls::{self, CallError};
use crate::cluster::{Cluster, find, key_of};
use crate::dispatch::{Disposition, Key, Next, Reconcile};

/// How names of migrations begin that the `migrate` operation asks for; KubeVirt's.
const GENERATED: &str = "kubevirt-migrate-vm-";

/// Why none succeeds.
const NOT_CARRIED_OUT: &str =
    "this release does not move running guests: stop and start the virtual machine to have it placed anew";

/// The controller of migrations.
pub(crate) struct Migrations {
    /// The cluster.
    pub(crate) cluster: Cluster,
}

impl Reconcile for Migrations {
    type Error = CallError;

    const NAME: &'static str = "migration";

    fn keys(&self) -> Vec<Key> {
        self.cluster.migrations.state().iter().map(|migration| key_of(migration.as_ref())).collect()
    }

    /// Observe: the request and its guest. Plan: `refused`. Report: its status, and an event.
    async fn reconcile(&self, key: &Key) -> Result<Next, CallError> {
        let Some(migration) = find(&self.cluster.migrations, &key.namespace, &key.name) else {
            return Ok(Next::OnChange);
        };
        if migration.metadata.deletion_timestamp.is_some() || is_over(&migration) {
            return Ok(Next::OnChange);
        }
        let api = self.cluster.api::<VirtualMachineInstanceMigration>(&key.namespace);
        let vmi = find(&self.cluster.vmis, &key.namespace, vmi_name(&migration));
        // Clients find the migrations of a guest by this label.
        let labelled = calls::update(&api, migration.as_ref(), &labelled(&migration)).await?;
        let migration = labelled.unwrap_or_else(|| migration.as_ref().clone());
        let new = refused(&migration, vmi.as_deref(), Timestamp::now());
        calls::update_status(&api, &migration, &new).await?;
        let why = failure(&new);
        tracing::info!(%key, vmi = vmi_name(&migration), why, "migration not carried out");
        self.cluster.events.warning(&migration, "FailedMigration", why);
        Ok(Next::OnChange)
    }

    fn disposition(error: &CallError) -> Disposition {
        Disposition::of_call(error)
    }
}

fn vmi_name(migration: &VirtualMachineInstanceMigration) -> &str {
    migration.spec.vmi_name.as_deref().unwrap_or_default()
}

/// Whether nothing more will become of a migration.
fn is_over(migration: &VirtualMachineInstanceMigration) -> bool {
    let phase = migration.status.as_ref().map(|status| &status.phase);
    matches!(phase, Some(MigrationPhase::Succeeded | MigrationPhase::Failed))
}

/// A migration of a guest that is not over yet.
pub(crate) fn in_flight(cluster: &Cluster, namespace: &str, vmi: &str) -> Option<String> {
    let here = cluster.migrations.state();
    let own = |migration: &&std::sync::Arc<VirtualMachineInstanceMigration>| {
        migration.namespace().as_deref() == Some(namespace) && vmi_name(migration) == vmi && !is_over(migration)
    };
    here.iter().find(own).map(|migration| migration.uid().unwrap_or_default())
}

/// The request that the `migrate` operation makes; the API server makes its name.
pub(crate) fn request(vmi: &VirtualMachineInstance, asked: &MigrateOptions) -> VirtualMachineInstanceMigration {
    let name = vmi.name_any();
    VirtualMachineInstanceMigration {
        metadata: ObjectMeta {
            generate_name: Some(GENERATED.to_owned()),
            namespace: vmi.namespace(),
            labels: Some([(names::LABEL_VMI_NAME.to_owned(), name.clone())].into()),
            ..ObjectMeta::default()
        },
        spec: VirtualMachineInstanceMigrationSpec {
            vmi_name: Some(name),
            added_node_selector: asked.added_node_selector.clone(),
            ..VirtualMachineInstanceMigrationSpec::default()
        },
        status: None,
    }
}

fn labelled(migration: &VirtualMachineInstanceMigration) -> VirtualMachineInstanceMigration {
    let mut new = migration.clone();
    new.labels_mut().insert(names::LABEL_VMI_NAME.to_owned(), vmi_name(migration).to_owned());
    new
}

/// The same, ended as Failed.
fn refused(
    migration: &VirtualMachineInstanceMigration,
    vmi: Option<&VirtualMachineInstance>,
    now: Timestamp,
) -> VirtualMachineInstanceMigration {
    let mut new = migration.clone();
    let name = vmi_name(migration);
    let namespace = migration.namespace().unwrap_or_default();
    let guest = vmi.and_then(|vmi| vmi.status.as_ref());
    let why = match (vmi, guest) {
        (None, _) => format!("the VMI \"{namespace}/{name}\" does not exist"),
        (_, Some(status)) if status.phase.is_final() => "Cannot migrate VMI in finalized state.".to_owned(),
        _ => NOT_CARRIED_OUT.to_owned(),
    };
    let status = new.status.get_or_insert_default();
    status.phase = MigrationPhase::Failed;
    status.phase_transition_timestamps.push(MigrationPhaseTransitionTimestamp {
        phase: MigrationPhase::Failed,
        phase_transition_timestamp: Some(Time(now)),
    });
    status.migration_state = Some(VirtualMachineInstanceMigrationState {
        start_timestamp: Some(Time(now)),
        end_timestamp: Some(Time(now)),
        source_node: guest.and_then(|status| status.node_name.clone()),
        completed: true,
        failed: true,
        failure_reason: Some(why),
        migration_uid: migration.uid(),
        ..VirtualMachineInstanceMigrationState::default()
    });
    new
}

fn failure(migration: &VirtualMachineInstanceMigration) -> &str {
    let state = migration.status.as_ref().and_then(|status| status.migration_state.as_ref());
    state.and_then(|state| state.failure_reason.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vmi(status: Value) -> VirtualMachineInstance {
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"domain": {"devices": {}}}, "status": status});
        serde_json::from_value(vmi).unwrap()
    }

    fn asked() -> VirtualMachineInstanceMigration {
        let selector = [("zone".to_owned(), "b".to_owned())].into();
        let options = MigrateOptions { added_node_selector: selector, ..MigrateOptions::default() };
        request(&vmi(json!({"phase": "Running"})), &options)
    }

    #[test]
    fn a_request_is_found_by_its_guest() {
        let request = serde_json::to_value(asked()).unwrap();
        assert_eq!(request["metadata"]["generateName"], "kubevirt-migrate-vm-");
        assert_eq!(request["metadata"]["labels"], json!({"kubevirt.io/vmi-name": "web"}));
        assert_eq!(request["spec"], json!({"vmiName": "web", "addedNodeSelector": {"zone": "b"}}));
        let mut own = asked();
        own.metadata.labels = None;
        assert_eq!(labelled(&own).labels(), asked().labels());
    }

    #[test]
    fn each_ends_as_failed_and_says_why() {
        let check = |vmi: Option<VirtualMachineInstance>, expected: &str, node: Option<&str>| {
            let new = refused(&asked(), vmi.as_ref(), Timestamp::UNIX_EPOCH);
            assert!(is_over(&new) && !is_over(&asked()));
            assert!(failure(&new).contains(expected), "{}", failure(&new));
            let status = serde_json::to_value(new.status).unwrap();
            let state = &status["migrationState"];
            assert_eq!(
                (&status["phase"], &state["failed"], &state["completed"]),
                (&json!("Failed"), &json!(true), &json!(true))
            );
            assert_eq!(status["phaseTransitionTimestamps"][0]["phase"], "Failed");
            assert_eq!((state["sourceNode"].as_str(), &state["endTimestamp"]), (node, &json!("1970-01-01T00:00:00Z")));
        };
        check(None, "the VMI \"shop/web\" does not exist", None);
        check(Some(vmi(json!({"phase": "Succeeded"}))), "finalized state", None);
        let running = vmi(json!({"phase": "Running", "nodeName": "n1"}));
        check(Some(running), "does not move running guests", Some("n1"));
    }
}
