//! Conversion of the platform parts of a spec: features, clock and timers, huge pages. Split from `super::convert`,
//! which owns the rules; refuses nothing that the model can say.

use furrow_api::vmi::{self, FeatureState};
use furrow_model::domain::{ClockOffset, ClockSpec, FeatureSpec, HypervSpec, TimerName, TimerSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::convert::{ConvertError, units};

/// Spinlock retries when a guest names none (KubeVirt's default).
const SPINLOCK_RETRIES: u32 = 4096;

pub(super) fn hugepage_kib(spec: &vmi::DomainSpec) -> Result<Option<u64>, ConvertError> {
    let pages = spec.memory.as_ref().and_then(|memory| memory.hugepages.as_ref());
    let Some(size) = pages.and_then(|pages| pages.page_size.clone()) else { return Ok(None) };
    let path = "domain.memory.hugepages.pageSize";
    let bytes = units(&Quantity(size), path)?;
    u64::try_from(bytes / 1024).ok().filter(|kib| *kib > 0).map(Some).ok_or(ConvertError::Count { path })
}

pub(super) fn features(features: Option<&vmi::Features>) -> Result<FeatureSpec, ConvertError> {
    let default = vmi::Features::default();
    let features = features.unwrap_or(&default);
    Ok(FeatureSpec {
        acpi: features.acpi.as_ref().is_none_or(enabled),
        apic: features.apic.as_ref().is_none_or(|apic| apic.enabled != Some(false)),
        apic_eoi: features.apic.as_ref().filter(|apic| apic.end_of_interrupt).map(|_| true),
        pvspinlock: features.pvspinlock.as_ref().map(enabled),
        smm: features.smm.as_ref().is_some_and(enabled),
        kvm_hidden: features.kvm.as_ref().is_some_and(|kvm| kvm.hidden),
        hyperv: features.hyperv.as_ref().map(hyperv).transpose()?,
        hyperv_passthrough: features.hyperv_passthrough.as_ref().is_some_and(enabled),
    })
}

fn enabled(state: &FeatureState) -> bool {
    state.enabled != Some(false)
}

fn hyperv(features: &vmi::FeatureHyperv) -> Result<HypervSpec, ConvertError> {
    let state = |state: &Option<FeatureState>| state.as_ref().map(enabled);
    let spinlocks = features.spinlocks.as_ref().map(|spinlocks| {
        let retries = spinlocks.spinlocks.map_or(Some(SPINLOCK_RETRIES), |retries| u32::try_from(retries).ok());
        let path = "domain.features.hyperv.spinlocks.spinlocks";
        retries.map(|retries| (spinlocks.enabled != Some(false), retries)).ok_or(ConvertError::Count { path })
    });
    Ok(HypervSpec {
        relaxed: state(&features.relaxed),
        vapic: state(&features.vapic),
        spinlocks: spinlocks.transpose()?,
        vpindex: state(&features.vpindex),
        runtime: state(&features.runtime),
        synic: state(&features.synic),
        synictimer: features
            .synictimer
            .as_ref()
            .map(|timer| (timer.enabled != Some(false), timer.direct.as_ref().map(enabled))),
        reset: state(&features.reset),
        frequencies: state(&features.frequencies),
        reenlightenment: state(&features.reenlightenment),
        tlbflush: features
            .tlbflush
            .as_ref()
            .map(|flush| (flush.enabled != Some(false), state(&flush.direct), state(&flush.extended))),
        ipi: state(&features.ipi),
        evmcs: state(&features.evmcs),
        vendor_id: features.vendorid.as_ref().map(|id| (id.enabled != Some(false), id.vendorid.clone())),
    })
}

pub(super) fn clock(clock: Option<&vmi::Clock>) -> ClockSpec {
    let Some(clock) = clock else { return ClockSpec::default() };
    let offset = match (&clock.timezone, &clock.utc) {
        (Some(zone), _) => ClockOffset::Timezone(zone.clone()),
        (None, Some(utc)) => utc.offset_seconds.map_or(ClockOffset::Utc, ClockOffset::Variable),
        (None, None) => ClockOffset::Utc,
    };
    ClockSpec { offset, timers: clock.timer.as_ref().map(timers).unwrap_or_default() }
}

fn timers(timer: &vmi::Timer) -> Vec<TimerSpec> {
    let tick = |name, timer: &vmi::TickTimer| TimerSpec {
        name,
        tick_policy: timer.tick_policy.as_ref().map(|policy| policy.as_str().to_owned()),
        track: None,
        present: Some(timer.present != Some(false)),
    };
    let plain = |name, timer: &vmi::PresentTimer| TimerSpec {
        name,
        tick_policy: None,
        track: None,
        present: Some(timer.present != Some(false)),
    };
    let rtc = timer.rtc.as_ref().map(|rtc| TimerSpec {
        name: TimerName::Rtc,
        tick_policy: rtc.tick_policy.as_ref().map(|policy| policy.as_str().to_owned()),
        track: rtc.track.as_ref().map(|track| track.as_str().to_owned()),
        present: Some(rtc.present != Some(false)),
    });
    let rest = [
        timer.pit.as_ref().map(|timer| tick(TimerName::Pit, timer)),
        timer.kvm.as_ref().map(|timer| plain(TimerName::Kvm, timer)),
        timer.hpet.as_ref().map(|timer| tick(TimerName::Hpet, timer)),
        timer.hyperv.as_ref().map(|timer| plain(TimerName::Hyperv, timer)),
    ];
    rtc.into_iter().chain(rest.into_iter().flatten()).collect()
}
