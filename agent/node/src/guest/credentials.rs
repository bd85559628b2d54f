//! `accessCredentials` that are handed to a guest by its own agent while it runs: the Secrets are read whenever the guest is
//! asked for its status (so that a changed Secret reaches the guest within that pause, as it would by a kubelet), and what
//! differs from what was put into place since the agent connected is done (`furrow_model::guest::credential_steps`). An
//! agent of this node that starts anew puts everything into place once. Refuses to log a credential.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use furrow_api::VirtualMachineInstance;
use furrow_api::vmi::{AccessCredential, CredentialSource};
use furrow_model::guest::{CredentialStep, Credentials, Password, credential_steps};
use furrow_model::reasons::chain;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::Context;
use super::conditions::{WantedCondition, wanted};
use super::publish::answered;

/// What was put into place, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Handed {
    applied: Credentials,
    /// Whether it succeeded, and why not.
    outcome: Option<Result<(), String>>,
}

impl Handed {
    /// The condition AccessCredentialsSynchronized.
    pub(super) fn condition(&self) -> Option<WantedCondition> {
        Some(match self.outcome.as_ref()? {
            Ok(()) => wanted("True", "", ""),
            Err(why) => wanted("False", "", why),
        })
    }
}

/// Whether a credential goes by the guest's agent.
fn is_for_agent(credential: &AccessCredential) -> bool {
    let key = credential.ssh_public_key.as_ref();
    let password = credential.user_password.as_ref();
    key.is_some_and(|key| key.propagation_method.qemu_guest_agent.is_some())
        || password.is_some_and(|password| password.propagation_method.qemu_guest_agent.is_some())
}

/// Brings a guest's credentials to what its Secrets say. The agent must be connected.
pub(super) async fn hand_over(context: &Context, vmi: &VirtualMachineInstance, domain: &str, handed: &mut Handed) {
    if !vmi.spec.access_credentials.iter().any(is_for_agent) {
        return;
    }
    let outcome = attempt(context, vmi, domain, &mut handed.applied).await;
    if handed.outcome.as_ref() == Some(&outcome) {
        return;
    }
    match &outcome {
        Ok(()) => context.events.normal(vmi, "AccessCredentialsSyncSuccess", "Access credentials sync successful."),
        Err(why) => {
            let note = format!("Access credentials sync failed: {why}");
            context.events.warning(vmi, "AccessCredentialsSyncFailed", &note);
        }
    }
    handed.outcome = Some(outcome);
}

async fn attempt(
    context: &Context,
    vmi: &VirtualMachineInstance,
    domain: &str,
    applied: &mut Credentials,
) -> Result<(), String> {
    let wanted = gather(context, vmi).await?;
    for step in credential_steps(applied, &wanted) {
        // libvirt's words may repeat the request, which holds a password.
        context.domains.agent(domain, request(&step).to_string()).await.map_err(|_| told(&step))?;
    }
    *applied = wanted;
    Ok(())
}

/// What could not be done, without what it was done with.
fn told(step: &CredentialStep) -> String {
    match step {
        CredentialStep::RemoveKeys { user, .. } => format!("could not take SSH keys away from user {user}"),
        CredentialStep::AddKeys { user, .. } => format!("could not give SSH keys to user {user}"),
        CredentialStep::SetPassword { user, .. } => format!("could not set the password of user {user}"),
    }
}

fn request(step: &CredentialStep) -> Value {
    match step {
        CredentialStep::RemoveKeys { user, keys } => json!({
            "execute": "guest-ssh-remove-authorized-keys", "arguments": {"username": user, "keys": keys},
        }),
        CredentialStep::AddKeys { user, keys } => json!({
            "execute": "guest-ssh-add-authorized-keys", "arguments": {"username": user, "keys": keys},
        }),
        CredentialStep::SetPassword { user, password } => json!({
            "execute": "guest-set-user-password",
            "arguments": {"username": user, "password": BASE64_STANDARD.encode(&password.0), "crypted": false},
        }),
    }
}

async fn gather(context: &Context, vmi: &VirtualMachineInstance) -> Result<Credentials, String> {
    let mut credentials = Credentials::default();
    for credential in &vmi.spec.access_credentials {
        if let Some(key) = &credential.ssh_public_key
            && let Some(agent) = &key.propagation_method.qemu_guest_agent
        {
            let texts = secret(context, vmi, &key.source).await?;
            for user in &agent.users {
                texts.iter().for_each(|(_, text)| credentials.add_keys(user, text));
            }
        }
        if let Some(password) = &credential.user_password
            && password.propagation_method.qemu_guest_agent.is_some()
        {
            // A Secret's keys are users, its values passwords.
            let texts = secret(context, vmi, &password.source).await?;
            credentials.passwords.extend(texts.into_iter().map(|(user, text)| (user, Password(text))));
        }
    }
    Ok(credentials)
}

/// The texts of a Secret, by key.
async fn secret(
    context: &Context,
    vmi: &VirtualMachineInstance,
    source: &CredentialSource,
) -> Result<Vec<(String, String)>, String> {
    let name = source.secret.as_ref().map(|secret| secret.secret_name.as_str()).unwrap_or_default();
    let namespace = vmi.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let found = answered(api.get_opt(name)).await.map_err(|error| chain(&error))?;
    let found = found.ok_or_else(|| format!("secret {namespace}/{name} does not exist"))?;
    let text = |(key, value): (String, ByteString)| -> Result<(String, String), String> {
        let text = String::from_utf8(value.0);
        let text = text.map_err(|_| format!("secret {namespace}/{name} has {key}, which is no text"))?;
        Ok((key, text.trim_end_matches('\n').to_owned()))
    };
    found.data.unwrap_or_default().into_iter().map(text).collect()
}
