//! Sizes of a guest that runs: which change is carried out in place, and which waits for a restart. The texts are
//! KubeVirt's (`pkg/virt-controller/watch/vm`, `handleCPUChangeRequest` and `handleMemoryHotplugRequest`): people search
//! for them. Refuses to plug anything.
//!
//! Memory is never changed in place: the domain has no virtio-mem device that it could be added to, and a balloon can only
//! take what is there. Its change waits for a restart, and says so.

/// How many sockets a guest has and how many it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// What the template says.
    pub wanted: i64,
    /// What the guest's spec says.
    pub current: i64,
    /// What its domain has room for.
    pub most: i64,
    /// An earlier change is still being carried out.
    pub plugging: bool,
    /// The guest is moving to another node.
    pub migrating: bool,
}

/// What becomes of a change of size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plug {
    /// There is nothing to change.
    Nothing,
    /// Change it now.
    Now,
    /// Try again when the guest has changed. With the reason in words.
    Later(&'static str),
    /// It waits for a restart. With the reason in words.
    Restart(&'static str),
}

/// Judges a change of sockets.
#[must_use]
pub fn sockets(sockets: Sockets) -> Plug {
    match sockets {
        Sockets { wanted, current, .. } if wanted == current => Plug::Nothing,
        Sockets { plugging: true, .. } => Plug::Later("another CPU hotplug is in progress"),
        Sockets { migrating: true, .. } => Plug::Later("CPU hotplug is not allowed while VMI is migrating"),
        Sockets { wanted, most, .. } if wanted > most => {
            Plug::Restart("CPU sockets updated in template spec to a value higher than what's available")
        }
        Sockets { wanted, current, .. } if wanted < current => {
            Plug::Restart("Reduction of CPU socket count requires a restart")
        }
        _ => Plug::Now,
    }
}

/// Judges a change of memory, both in bytes; a size that is not known changes nothing.
#[must_use]
pub fn memory(wanted: Option<i64>, current: Option<i64>) -> Plug {
    match (wanted, current) {
        (Some(wanted), Some(current)) if wanted != current => {
            Plug::Restart("memory updated in template spec. Memory-hotplug is not available for this VM configuration")
        }
        _ => Plug::Nothing,
    }
}

/// The most sockets a guest's domain has room for when its spec names none: four times as many as it starts with, as
/// KubeVirt has it (`maxHotplugRatio`), within the processors that the machine takes. All of them positive.
#[must_use]
pub fn room(sockets: i64, cores: i64, threads: i64, vcpus_max: i64) -> i64 {
    /// KubeVirt's default of `liveUpdateConfiguration.maxHotplugRatio`.
    const RATIO: i64 = 4;
    let each = cores.max(1).saturating_mul(threads.max(1));
    sockets.saturating_mul(RATIO).min(vcpus_max / each).max(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Sockets = Sockets { wanted: 2, current: 2, most: 8, plugging: false, migrating: false };

    #[test]
    fn sockets_are_added_within_the_room_and_never_taken() {
        let check = |change: Sockets, expected| assert_eq!(sockets(change), expected, "{change:?}");
        check(TWO, Plug::Nothing);
        check(Sockets { plugging: true, migrating: true, ..TWO }, Plug::Nothing);
        check(Sockets { wanted: 3, ..TWO }, Plug::Now);
        check(Sockets { wanted: 8, ..TWO }, Plug::Now);
        let above = Plug::Restart("CPU sockets updated in template spec to a value higher than what's available");
        check(Sockets { wanted: 9, ..TWO }, above);
        check(Sockets { wanted: 1, ..TWO }, Plug::Restart("Reduction of CPU socket count requires a restart"));
        check(Sockets { wanted: 3, plugging: true, ..TWO }, Plug::Later("another CPU hotplug is in progress"));
        let moving = Plug::Later("CPU hotplug is not allowed while VMI is migrating");
        check(Sockets { wanted: 3, migrating: true, ..TWO }, moving);
    }

    #[test]
    fn memory_waits_for_a_restart() {
        assert_eq!(memory(Some(1), Some(1)), Plug::Nothing);
        assert_eq!(memory(None, Some(1)), Plug::Nothing);
        assert!(matches!(memory(Some(2), Some(1)), Plug::Restart(text) if text.starts_with("memory updated")));
        assert!(matches!(memory(Some(1), Some(2)), Plug::Restart(_)));
    }

    #[test]
    fn the_room_is_four_times_the_size_within_the_machine() {
        assert_eq!(room(1, 1, 1, 255), 4);
        assert_eq!(room(2, 4, 2, 255), 8);
        assert_eq!(room(16, 4, 2, 255), 31);
        assert_eq!(room(200, 1, 1, 255), 255);
        assert_eq!(room(300, 1, 1, 255), 300, "what is too large already is admission's to refuse");
    }
}
