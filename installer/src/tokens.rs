//! `furrow-install token`: one-time join tokens, on a server, with the administrator's kubeconfig.
//!
//! A token is two Secrets. `kube-system/bootstrap-token-ID` makes it valid, and Kubernetes removes it when it expires;
//! `furrow-system/join-ID` holds what the node needs, and only the token's own user may read it. The roles that say so
//! belong to the two Secrets and go with them. Kubernetes does not know that `join-ID` belongs to the token, so the first
//! of `token create`, `token list` and the servers' two-minute look that comes after the token's end removes it.

use std::path::Path;
use std::time::Duration;

use furrow_host::ceph::Monitor;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role as RbacRole, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use crate::config::Role;
use crate::join::{
    Authority, CephMaterial, Joined, K3sTokens, Material, NAMESPACE, Token, entities, material_secret, token_secret,
};
use crate::steps::{self, STATE, StepError};

/// Where Kubernetes looks for bootstrap tokens.
const TOKENS: &str = "kube-system";
/// Marks both Secrets of a token.
const LABEL: &str = "furrow.io/join";
/// What a token may make of a node.
const ROLE_ANNOTATION: &str = "furrow.io/join-role";
/// Where k3s keeps what is its own on servers.
const K3S_SERVER: &str = "/var/lib/rancher/k3s/server";
/// Longer lives defeat the purpose of a token that is used once.
const LONGEST: Duration = Duration::from_secs(7 * 86400);
const SHORTEST: Duration = Duration::from_secs(60);

/// What a token may make of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A server: its holder could become the cluster's administrator.
    Server,
    /// An agent.
    Agent,
    /// What node.yaml says, or the cluster needs.
    Any,
}

impl Kind {
    fn roles(self) -> &'static [Role] {
        match self {
            Kind::Server => &[Role::Server],
            Kind::Agent => &[Role::Agent],
            Kind::Any => &[Role::Server, Role::Agent],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Server => "server",
            Kind::Agent => "agent",
            Kind::Any => "any",
        }
    }
}

/// A life such as `90s`, `30m`, `2h` or `1d`.
///
/// # Errors
/// When it is none, or shorter than a minute or longer than a week.
pub(crate) fn parse_life(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err("expected a number and s, m, h or d, such as 1h".into()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    let life = Duration::from_secs(seconds.ok_or("expected a number and s, m, h or d, such as 1h")?);
    if (SHORTEST..=LONGEST).contains(&life) { Ok(life) } else { Err("expected 1m to 7d".into()) }
}

/// Makes a token.
///
/// # Errors
/// When this is no server, or the cluster does not answer.
pub(crate) async fn create(life: Duration, kind: Kind) -> Result<String, StepError> {
    let client = administrator().await?;
    sweep_with(&client).await?;
    let ca = read(K3S_SERVER, "tls/server-ca.crt")?;
    let random = |_| StepError::Answer("the machine", "no random numbers".into());
    let token = Token::generate(ca.as_bytes()).map_err(random)?;
    let material = gather(kind).await?;
    steps::ensure_namespace(&client).await?;
    let expires = Timestamp::now() + SignedDuration::from_secs(life.as_secs() as i64);
    let valid = publish(&client, TOKENS, &validity(&token, kind, expires)).await?;
    let holder = Holder { name: format!("furrow:join:{}", token.id), user: format!("system:bootstrap:{}", token.id) };
    grant(&client, &valid, &holder, vec![secret_rule(&valid, &["delete"])]).await?;
    let kept = publish(&client, NAMESPACE, &keeping(&token, kind, &material)?).await?;
    // A node that was removed and comes back takes the mark of that away. Its name is not known yet.
    let marks = PolicyRule {
        resources: Some(vec!["configmaps".into()]),
        resource_names: None,
        ..secret_rule(&kept, &["delete"])
    };
    grant(&client, &kept, &holder, vec![secret_rule(&kept, &["get", "delete"]), marks]).await?;
    Ok(token.text())
}

/// Prints the tokens that are valid.
///
/// # Errors
/// As [`create`].
pub(crate) async fn list() -> Result<(), StepError> {
    let client = administrator().await?;
    sweep_with(&client).await?;
    println!("{:8} {:8} EXPIRES", "ID", "ROLE");
    for (secret, expires) in living(&secrets(&client, TOKENS).await?) {
        let role = secret.annotations().get(ROLE_ANNOTATION).cloned().unwrap_or_default();
        println!("{:8} {role:8} {expires}", id_of(secret, "bootstrap-token-"));
    }
    Ok(())
}

/// Removes a token. Says whether there was one.
///
/// # Errors
/// As [`create`].
pub(crate) async fn revoke(id: &str) -> Result<bool, StepError> {
    let client = administrator().await?;
    let valid = remove(&client, TOKENS, &token_secret(id)).await?;
    Ok(remove(&client, NAMESPACE, &material_secret(id)).await? || valid)
}

/// Removes what tokens that have ended left behind; returns their ids.
///
/// # Errors
/// As [`create`].
pub(crate) async fn sweep() -> Result<Vec<String>, StepError> {
    sweep_with(&administrator().await?).await
}

async fn sweep_with(client: &Client) -> Result<Vec<String>, StepError> {
    let valid = secrets(client, TOKENS).await?;
    let living: Vec<&str> = living(&valid).map(|(secret, _)| id_of(secret, "bootstrap-token-")).collect();
    let mut removed = Vec::new();
    for kept in secrets(client, NAMESPACE).await? {
        let id = id_of(&kept, "join-");
        if !living.contains(&id) {
            remove(client, NAMESPACE, &material_secret(id)).await?;
            removed.push(id.to_owned());
        }
    }
    Ok(removed)
}

pub(crate) async fn administrator() -> Result<Client, StepError> {
    let state = Path::new(STATE);
    let role = Joined::role(state).map_err(steps::file_error("read the join record below", state))?;
    if role == Role::Agent {
        return Err(StepError::Answer("this node", "it is an agent; this is done on servers".into()));
    }
    steps::client(role).await
}

fn read(dir: &str, name: &str) -> Result<String, StepError> {
    let path = Path::new(dir).join(name);
    std::fs::read_to_string(&path).map_err(steps::file_error("read", &path))
}

/// What a node of this kind needs, and nothing that it does not.
pub(crate) async fn gather(kind: Kind) -> Result<Material, StepError> {
    let has = |role| kind.roles().contains(&role);
    let monitors = Monitor::administrator();
    let (fsid, mon_host) = steps::describe_ceph(&monitors).await?;
    let mut ceph = CephMaterial { fsid, mon_host, ..CephMaterial::default() };
    for entity in kind.roles().iter().flat_map(|role| entities(*role)) {
        ceph.keyrings.insert((*entity).to_owned(), steps::ceph_keyring(&monitors, entity).await?);
    }
    let mut material = Material { k3s: K3sTokens::default(), ceph, ca: None };
    if has(Role::Server) {
        material.k3s.server = Some(read(K3S_SERVER, "node-token")?.trim().to_owned());
        material.ca = Some(Authority { crt: read(STATE, "ca/ca.crt")?, key: read(STATE, "ca/ca.key")? });
    }
    if has(Role::Agent) {
        material.k3s.agent = Some(read(K3S_SERVER, "agent-token")?.trim().to_owned());
    }
    Ok(material)
}

fn metadata(name: String, kind: Kind) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
        annotations: Some([(ROLE_ANNOTATION.to_owned(), kind.name().to_owned())].into()),
        ..ObjectMeta::default()
    }
}

/// The Secret that makes a token valid.
fn validity(token: &Token, kind: Kind, expires: Timestamp) -> Secret {
    let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let data = [
        ("token-id", token.id.as_str()),
        ("token-secret", &token.secret),
        ("expiration", &expires),
        ("usage-bootstrap-authentication", "true"),
        ("usage-bootstrap-signing", "true"),
        ("description", "joins one node, by furrow-install"),
    ];
    Secret {
        metadata: metadata(token_secret(&token.id), kind),
        type_: Some("bootstrap.kubernetes.io/token".into()),
        string_data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
        ..Secret::default()
    }
}

/// The Secret with what the node needs.
fn keeping(token: &Token, kind: Kind, material: &Material) -> Result<Secret, StepError> {
    let text = serde_json::to_vec(material).map_err(|_| StepError::Answer("the material", "it has no JSON".into()))?;
    Ok(Secret {
        metadata: metadata(material_secret(&token.id), kind),
        type_: Some("furrow.io/join".into()),
        immutable: Some(true),
        data: Some([("material".to_owned(), ByteString(text))].into()),
        ..Secret::default()
    })
}

pub(crate) async fn publish(client: &Client, namespace: &str, secret: &Secret) -> Result<Secret, StepError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let what = format!("make Secret {namespace}/{}", secret.name_any());
    api.create(&PostParams::default(), secret).await.map_err(steps::refused(what))
}

/// Who may do something with a Secret.
pub(crate) struct Holder {
    /// Of the Role and the RoleBinding that say so.
    pub(crate) name: String,
    /// The user.
    pub(crate) user: String,
}

/// This with the one Secret.
pub(crate) fn secret_rule(secret: &Secret, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["secrets".into()]),
        resource_names: Some(vec![secret.name_any()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}

/// Lets the holder do this in the Secret's namespace, for as long as the Secret is there.
pub(crate) async fn grant(
    client: &Client,
    secret: &Secret,
    holder: &Holder,
    rules: Vec<PolicyRule>,
) -> Result<(), StepError> {
    let (name, namespace) = (holder.name.clone(), secret.namespace().unwrap_or_default());
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Secret".into(),
        name: secret.name_any(),
        uid: secret.uid().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let metadata =
        ObjectMeta { name: Some(name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
    let role = RbacRole { metadata: metadata.clone(), rules: Some(rules) };
    let binding = RoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".into()),
            kind: "Role".into(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            api_group: Some("rbac.authorization.k8s.io".into()),
            kind: "User".into(),
            name: holder.user.clone(),
            namespace: None,
        }]),
    };
    let roles: Api<RbacRole> = Api::namespaced(client.clone(), &namespace);
    let refused = || steps::refused(format!("make Role {namespace}/{name}"));
    roles.create(&PostParams::default(), &role).await.map_err(refused())?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
    bindings.create(&PostParams::default(), &binding).await.map_err(refused())?;
    Ok(())
}

/// Says whether it was there.
pub(crate) async fn remove(client: &Client, namespace: &str, name: &str) -> Result<bool, StepError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let deleted = steps::gone(api.delete(name, &DeleteParams::default()).await);
    deleted.map_err(steps::refused(format!("remove Secret {namespace}/{name}")))
}

async fn secrets(client: &Client, namespace: &str) -> Result<Vec<Secret>, StepError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(LABEL)).await;
    Ok(list.map_err(steps::refused(format!("list the join tokens in {namespace}")))?.items)
}

fn id_of<'a>(secret: &'a Secret, prefix: &str) -> &'a str {
    secret.metadata.name.as_deref().and_then(|name| name.strip_prefix(prefix)).unwrap_or_default()
}

/// Those that have not ended yet, with their ends.
fn living(secrets: &[Secret]) -> impl Iterator<Item = (&Secret, Timestamp)> {
    let now = Timestamp::now();
    secrets.iter().filter_map(move |secret| Some((secret, expiration(secret).filter(|at| *at > now)?)))
}

fn expiration(secret: &Secret) -> Option<Timestamp> {
    let text = secret.data.as_ref()?.get("expiration")?;
    std::str::from_utf8(&text.0).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_bounded() {
        assert_eq!(parse_life("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_life("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_life("7d"), Ok(LONGEST));
        for text in ["", "h", "1", "1w", "59s", "8d", "-1h", "99999999999999999999d"] {
            assert!(parse_life(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tokens_secret_is_what_kubernetes_expects() {
        let token = Token { ca_hash: "h".into(), id: "abcdef".into(), secret: "0123456789abcdef".into() };
        let expires = "2030-01-02T03:04:05.678Z".parse().expect("a time");
        let secret = validity(&token, Kind::Any, expires);
        assert_eq!(secret.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
        assert_eq!(secret.type_.as_deref(), Some("bootstrap.kubernetes.io/token"));
        let data = secret.string_data.expect("there");
        assert_eq!(data["expiration"], "2030-01-02T03:04:05Z");
        assert!(!data.contains_key("auth-extra-groups"));
    }

    #[test]
    fn an_expired_token_is_read_as_one() {
        let data = [("expiration".to_owned(), ByteString(b"2020-01-02T03:04:05Z".to_vec()))].into();
        let secret = Secret { data: Some(data), ..Secret::default() };
        assert!(expiration(&secret).expect("a time") < Timestamp::now());
        assert_eq!(expiration(&Secret::default()), None);
    }
}
