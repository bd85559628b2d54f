//! VirtualMachines with what they refer to in them: one that is there, and one that a client sends. Refuses to write any.

use furrow_api::VirtualMachine;
use furrow_model::reasons::chain;
use kube::ResourceExt;

use super::carry::{Answer, Carrier, document, missing};
use super::failure::Failure;
use super::options;
use super::route::Target;
use crate::instancetype::{self, TypesError};

impl Carrier {
    /// Expands a VirtualMachine.
    ///
    /// # Errors
    /// Why it cannot be expanded.
    pub(super) async fn expand(&self, target: &Target) -> Result<Answer, Failure> {
        let vm = self.machine(target).await?.ok_or_else(|| missing(target))?;
        let expanded = instancetype::expand(&self.cluster, &vm).await;
        expanded.map(|vm| document(&vm)).map_err(|error| unexpanded(&error))
    }

    /// Expands a VirtualMachine that the client sends.
    ///
    /// # Errors
    /// Why it cannot be expanded.
    pub(super) async fn expand_sent(&self, body: &[u8], namespace: &str) -> Result<Answer, Failure> {
        let vm = sent(body, namespace)?;
        let expanded = instancetype::expand(&self.cluster, &vm).await;
        expanded.map(|vm| document(&vm)).map_err(|error| unexpanded(&error))
    }
}

/// What the machine says itself, or refers to, is the client's affair.
fn unexpanded(error: &TypesError) -> Failure {
    match error {
        TypesError::Missing { .. } | TypesError::Matcher { .. } | TypesError::Conflicts(_) => {
            Failure::bad_request(chain(error))
        }
        _ => Failure::internal(&chain(error)),
    }
}

/// The VirtualMachine that a client sends, which need not exist. `namespace`: where what it refers to is looked for.
///
/// # Errors
/// 400 when it sends none, or one of another namespace.
fn sent(body: &[u8], namespace: &str) -> Result<VirtualMachine, Failure> {
    let vm = options::document(body)?;
    if vm.is_null() {
        return Err(Failure::bad_request("empty request body"));
    }
    let vm: Result<VirtualMachine, _> = serde_json::from_value(vm);
    let mut vm = vm.map_err(|error| Failure::bad_request(format!("Object is not a valid VirtualMachine: {error}")))?;
    if vm.namespace().is_some_and(|own| !own.is_empty() && own != namespace) {
        let why = format!("VM namespace must be empty or {namespace}");
        return Err(Failure::bad_request(why));
    }
    vm.metadata.namespace = Some(namespace.to_owned());
    Ok(vm)
}
