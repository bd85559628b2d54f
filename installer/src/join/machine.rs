//! Whether another node of the cluster is this very machine, by the product UUID that its firmware tells: a machine that was
//! installed again under another name, a clone of one, or two whose vendor gave both the same. Pure. Kubernetes and Furrow
//! know nodes by their names, so that UUIDs which vendors are known to leave in many machines are told and let pass.

use super::JoinError;
use crate::checks::is_shared;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its name.
    pub(crate) node: String,
    /// `status.nodeInfo.systemUUID`: what its kubelet read where this node reads its own.
    pub(crate) uuid: String,
}

/// Refuses a node whose machine is one of the cluster's under another name. Says what is to be told where it may be so.
///
/// # Errors
/// With both names.
pub(crate) fn distinct(node: &str, uuid: &str, machines: &[Machine]) -> Result<Option<String>, JoinError> {
    let uuid = uuid.trim();
    if uuid.is_empty() {
        return Ok(None);
    }
    let same = |other: &&Machine| other.node != node && other.uuid.trim().eq_ignore_ascii_case(uuid);
    let Some(other) = machines.iter().find(same) else { return Ok(None) };
    if is_shared(uuid) {
        return Ok(Some(format!(
            "{node} and {} tell the same product UUID, {uuid}, which vendors left in many machines: set one in the \
             firmware",
            other.node
        )));
    }
    Err(JoinError::SameMachine { node: node.to_owned(), other: other.node.clone(), uuid: uuid.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "4c4c4544-0051-3610-8052-b4c04f4e4d32";
    const VENDORS: &str = "03000200-0400-0500-0006-000700080009";

    /// `expected`: a part of what is told, and whether it is a refusal.
    fn check((node, uuid): (&str, &str), machines: &[(&str, &str)], expected: Option<(&str, bool)>) {
        let machine = |(node, uuid): &(&str, &str)| Machine { node: (*node).into(), uuid: (*uuid).into() };
        let machines: Vec<Machine> = machines.iter().map(machine).collect();
        let said = match distinct(node, uuid, &machines) {
            Ok(told) => told.map(|text| (text, false)),
            Err(error) => Some((error.to_string(), true)),
        };
        match (said, expected) {
            (None, None) => {}
            (Some((text, refused)), Some((part, is_refusal))) if refused == is_refusal && text.contains(part) => {}
            (said, expected) => panic!("{node} with {uuid} got {said:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_machine_joins_under_one_name_only() {
        let upper = UUID.to_uppercase();
        let zeros = "00000000-0000-0000-0000-000000000000";
        for (joins, machines, expected) in [
            (("n3", UUID), &[("n1", "a"), ("n2", "b")][..], None),
            (("n3", UUID), &[("n1", "a"), ("n2", UUID)], Some(("n3 and n2, ", true))),
            (("n3", UUID), &[("n2", upper.as_str())], Some((UUID, true))),
            (("n3", "4c4c4544-0051-3610-8052-b4c04f4e4d32\n"), &[("n2", UUID)], Some(("furrow node remove n2", true))),
            // It comes back, perhaps before its old Node is gone.
            (("n3", UUID), &[("n3", UUID)], None),
            (("n3", UUID), &[("n3", UUID), ("n4", UUID)], Some(("n3 and n4, ", true))),
            // Firmware that tells none, or what it tells every machine.
            (("n3", ""), &[("n2", "")], None),
            (("n3", VENDORS), &[("n2", VENDORS)], Some(("n3 and n2 tell the same", false))),
            (("n3", zeros), &[("n2", zeros)], Some(("vendors left in many machines", false))),
            (("n3", VENDORS), &[("n2", UUID)], None),
        ] {
            check(joins, machines, expected);
        }
    }
}
