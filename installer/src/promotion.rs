//! A worker becomes a server. What a server needs, which a worker must not have, is kept for it in one Secret, under a name
//! that nobody can guess: the node learns it by asking what it may do, which the API server tells each about himself only.
//!
//! ```text
//!  server: Secret promote-RANDOM (the node's user may read and delete it), annotation on the Node ──┐
//!  worker, every two minutes: annotation? ──> its rights ──> Secret ──> record rewritten ──> Secret deleted ──> bootstrap
//! ```
//! Killed at any point, the next look goes on: the record says server or it does not. A Secret that nobody fetched ends
//! after an hour.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::core::v1::{Node as KubeNode, Secret};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::config::Role;
use crate::files;
use crate::join::{Joined, Material, NAMESPACE, letters};
use crate::steps::{self, Node, StepError};
use crate::tokens::{self, Holder, Kind};

/// On a Node: it is to become a server.
const ANNOTATION: &str = "furrow.io/promotion";
/// Label of the Secret, with the node's name.
const LABEL: &str = "furrow.io/promotion";
const EXPIRES: &str = "furrow.io/expires";
const PREFIX: &str = "promote-";
const RANDOM_LETTERS: usize = 32;
const LIFE: SignedDuration = SignedDuration::from_hours(1);
/// One question of a node to the API server.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// On an agent links to what its kubelet renews, and on a server files of its own.
const LINKS: [&str; 2] =
    ["/var/lib/rancher/k3s/agent/client-kubelet.crt", "/var/lib/rancher/k3s/agent/client-kubelet.key"];

/// Makes it possible for a worker to become a server, and tells it to. `server` is where it finds the cluster.
///
/// # Errors
/// When the cluster does not answer.
pub(crate) async fn offer(client: &Client, server: &str, name: &str) -> Result<(), StepError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let of_node = ListParams::default().labels(&format!("{LABEL}={name}"));
    let present = secrets.list(&of_node).await.map_err(steps::refused(format!("list what is kept for {name}")))?;
    let living = |secret: &&Secret| expires(secret).is_some_and(|at| at > Timestamp::now());
    if present.items.iter().find(living).is_none() {
        let secret = keeping(name, server, &tokens::gather(Kind::Server).await?)?;
        let kept = tokens::publish(client, NAMESPACE, &secret).await?;
        let holder = Holder { name: format!("furrow:{}", kept.name_any()), user: format!("system:node:{name}") };
        let rule = tokens::secret_rule(&kept, &["get", "delete"]);
        tokens::grant(client, &kept, &holder, vec![rule]).await?;
    }
    annotate(client, name, Some(&Timestamp::now().to_string())).await
}

fn keeping(name: &str, server: &str, material: &Material) -> Result<Secret, StepError> {
    let random = letters(RANDOM_LETTERS).map_err(|_| StepError::Answer("the machine", "no random numbers".into()))?;
    let text = serde_json::to_vec(material).map_err(|_| StepError::Answer("the material", "it has no JSON".into()))?;
    let data = [("material".to_owned(), ByteString(text)), ("server".to_owned(), ByteString(server.into()))];
    let expires = (Timestamp::now() + LIFE).to_string();
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{random}")),
            namespace: Some(NAMESPACE.into()),
            labels: Some([(LABEL.to_owned(), name.to_owned())].into()),
            annotations: Some([(EXPIRES.to_owned(), expires)].into()),
            ..ObjectMeta::default()
        },
        type_: Some("furrow.io/promotion".into()),
        immutable: Some(true),
        data: Some(data.into()),
        ..Secret::default()
    })
}

fn expires(secret: &Secret) -> Option<Timestamp> {
    secret.annotations().get(EXPIRES)?.parse().ok()
}

/// Takes an offer back, or what is left of one that was taken.
///
/// # Errors
/// When the cluster does not answer.
pub(crate) async fn withdraw(client: &Client, name: &str) -> Result<(), StepError> {
    delete_kept(client, |secret| secret.labels().get(LABEL).map(String::as_str) == Some(name)).await?;
    annotate(client, name, None).await
}

/// Removes offers that nobody took in time.
///
/// # Errors
/// When the cluster does not answer.
pub(crate) async fn sweep(client: &Client) -> Result<(), StepError> {
    delete_kept(client, |secret| expires(secret).is_none_or(|at| at <= Timestamp::now())).await
}

async fn delete_kept(client: &Client, which: impl Fn(&Secret) -> bool) -> Result<(), StepError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let all = secrets.list(&ListParams::default().labels(LABEL)).await;
    for secret in all.map_err(steps::refused("list what is kept for nodes"))?.items.iter().filter(|s| which(s)) {
        tokens::remove(client, NAMESPACE, &secret.name_any()).await?;
    }
    Ok(())
}

/// Writes or removes the annotation by which the node knows.
async fn annotate(client: &Client, name: &str, value: Option<&str>) -> Result<(), StepError> {
    let nodes: Api<KubeNode> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: value}}}));
    match nodes.patch_metadata(name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 && value.is_none() => Ok(()),
        Err(error) => Err(steps::refused(format!("annotate the Node {name}"))(error)),
    }
}

/// A worker's look: whether it is to become a server, and if so the way there. Says whether it is on it.
pub(crate) async fn look(node: &Node) -> Result<bool, StepError> {
    let name = &node.config.hostname;
    let client = steps::client(Role::Agent).await?;
    let nodes: Api<KubeNode> = Api::all(client.clone());
    let own = within("show its Node", nodes.get_metadata(name)).await?;
    if !own.annotations().contains_key(ANNOTATION) {
        return Ok(false);
    }
    let lock = files::lock(&node.state).map_err(steps::file_error("lock the steps below", &node.state))?;
    let Some(_lock) = lock else { return Ok(false) };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let Some(kept) = allowed(&client).await? else {
        node.say("it is to become a server, and what it needs for that is not there (any more)");
        return Ok(false);
    };
    let secret = within("fetch what a server needs", secrets.get(&kept)).await?;
    take(node, secret)?;
    node.say("becoming a server: fetched what a server needs");
    // Should it stay, it ends by itself.
    let deleted = within("delete what was kept for it", secrets.delete(&kept, &DeleteParams::default())).await;
    if let Err(error) = deleted {
        node.say(&format!("Secret {kept} stays until it expires: {error}"));
    }
    Ok(true)
}

/// The name of the Secret that this node may read, as the API server tells it alone.
async fn allowed(client: &Client) -> Result<Option<String>, StepError> {
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let ask = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec { namespace: Some(NAMESPACE.into()) },
        ..SelfSubjectRulesReview::default()
    };
    let answer = within("ask what it may do", reviews.create(&PostParams::default(), &ask)).await?;
    let rules = answer.status.map(|status| status.resource_rules).unwrap_or_default();
    let names = rules.into_iter().filter(|rule| rule.verbs.iter().any(|verb| verb == "get"));
    let names = names.flat_map(|rule| rule.resource_names.unwrap_or_default());
    Ok(names.into_iter().find(|name| name.starts_with(PREFIX)))
}

/// Makes the record one of a server, whole or not at all.
fn take(node: &Node, secret: Secret) -> Result<(), StepError> {
    let name = secret.name_any();
    let mut data = secret.data.unwrap_or_default();
    let senseless = |what: &str| StepError::Answer("the Secret for this node", format!("{what} in {name}"));
    // The parser's words could show a part of it.
    let material = data.remove("material").ok_or_else(|| senseless("no material"))?;
    let material: Material = serde_json::from_slice(&material.0).map_err(|_| senseless("no material"))?;
    material.check(Role::Server).map_err(|missing| senseless(&format!("no {missing}")))?;
    let server = data.remove("server").and_then(|text| String::from_utf8(text.0).ok());
    let server = server.ok_or_else(|| senseless("no server"))?;
    let record = node.joined()?.ok_or_else(|| StepError::Answer("the join record", "there is none".into()))?;
    let joined = Joined { role: Role::Server, server, material, ..record };
    joined.save(&node.state).map_err(steps::file_error("write the join record below", &node.state))
}

/// What a worker has that a server has not: the unit of k3s, links to what its kubelet renews, and an identity that asks
/// at the common address. Does nothing on a node that has none of it.
///
/// # Errors
/// When one of them cannot be removed.
pub(crate) async fn leave_worker_behind(node: &Node) -> Result<(), StepError> {
    let unit = steps::k3s_unit(Role::Agent);
    if !Path::new("/etc/systemd/system/multi-user.target.wants").join(unit).exists() {
        return Ok(());
    }
    node.say("it was a worker: k3s goes on as a server");
    steps::systemctl(&["stop", unit]).await?;
    for link in LINKS.map(Path::new).into_iter().filter(|path| path.is_symlink()) {
        std::fs::remove_file(link).map_err(steps::file_error("remove", link))?;
    }
    let certificate = node.state.join("pki/agent.crt");
    files::remove(&certificate).map_err(steps::file_error("remove", &certificate))?;
    // Last: by it the next run knows that something is left to do.
    steps::systemctl(&["disable", unit]).await.map(|_| ())
}

async fn within<T>(what: &str, question: impl Future<Output = kube::Result<T>>) -> Result<T, StepError> {
    match tokio::time::timeout(ASK_TIMEOUT, question).await {
        Ok(answer) => answer.map_err(steps::refused(what)),
        Err(_) => Err(StepError::Timeout {
            what: what.to_owned(),
            seconds: ASK_TIMEOUT.as_secs(),
            last: "the API server does not answer".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: &Path) -> Node {
        let text = "apiVersion: furrow.io/v1alpha1\nkind: Node\nhostname: n4\nmanagement: {interface: e, address: 10.0.0.4}\nceph: {disks: [{path: /dev/b}]}\n";
        let mut node = Node::new(crate::config::parse(text).expect("good"));
        node.state = state.to_owned();
        node
    }

    fn record() -> Joined {
        Joined {
            role: Role::Agent,
            server: "https://10.0.0.1:6443".into(),
            token_id: "abcdef".into(),
            material: Material::default(),
            consumed: true,
        }
    }

    #[test]
    fn names_cannot_be_guessed_and_offers_end() {
        let secret = || keeping("n4", "https://10.0.0.2:6443", &Material::default()).expect("made");
        let (one, other) = (secret(), secret());
        assert_ne!(one.name_any(), other.name_any());
        assert_eq!(one.name_any().len(), PREFIX.len() + RANDOM_LETTERS);
        let end = expires(&one).expect("a time");
        assert!(end > Timestamp::now() && end <= Timestamp::now() + LIFE);
    }

    #[test]
    fn a_worker_keeps_its_record_unless_all_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        record().save(dir.path()).expect("saved");
        let secret = keeping("n4", "https://10.0.0.2:6443", &Material::default()).expect("made");
        let error = take(&node(dir.path()), secret).expect_err("it is incomplete").to_string();
        assert!(error.contains("k3s's token"), "{error}");
        assert_eq!(Joined::load(dir.path()).expect("there"), Some(record()));
    }

    #[test]
    fn the_record_becomes_a_servers() {
        let dir = tempfile::tempdir().expect("a directory");
        record().save(dir.path()).expect("saved");
        let mut material = Material::default();
        material.k3s.server = Some("t".into());
        material.ca = Some(crate::join::Authority { crt: "c".into(), key: "k".into() });
        material.ceph.fsid = "f".into();
        material.ceph.mon_host = "m".into();
        for entity in crate::join::entities(Role::Server) {
            material.ceph.keyrings.insert((*entity).to_owned(), "k".into());
        }
        take(&node(dir.path()), keeping("n4", "https://10.0.0.2:6443", &material).expect("made")).expect("taken");
        let joined = Joined::load(dir.path()).expect("there").expect("a record");
        assert_eq!((joined.role, joined.server.as_str()), (Role::Server, "https://10.0.0.2:6443"));
        assert_eq!(joined.token_id, "abcdef");
    }
}
