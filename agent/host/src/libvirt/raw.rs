//! The unsafe edge to libvirt: domain events, the close callback and guest information, for which the `virt` crate has
//! no safe call. Owns every `virt::sys` call of this crate. Refuses to think: callbacks copy what they are told into a
//! bounded queue and return, because they run on libvirt's event loop, which must never wait.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use tokio::sync::mpsc;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::LibvirtEvent;

/// Where callbacks put what happened.
#[derive(Clone)]
pub(super) struct Sink {
    pub(super) events: mpsc::Sender<LibvirtEvent>,
    /// Set when the queue was full: the reader then looks at every domain instead of trusting single events.
    pub(super) lost: Arc<AtomicBool>,
    /// Wakes the connection's owner when libvirtd has gone away. One slot: once is enough.
    pub(super) closed: SyncSender<()>,
}

impl Sink {
    pub(super) fn publish(&self, event: LibvirtEvent) {
        if self.events.try_send(event).is_err() {
            self.lost.store(true, Ordering::Release);
        }
    }
}

/// Registers the callbacks of one connection. They live until the connection is closed; libvirt then frees each sink.
pub(super) fn register(connection: &Connect, sink: &Sink) -> Result<(), Error> {
    // SAFETY: libvirt calls back with the signature that belongs to the event id; the generic function pointer type is
    // how its C interface carries all of them (VIR_DOMAIN_EVENT_CALLBACK does the same cast).
    let callbacks = unsafe {
        [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, as_generic(on_lifecycle as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_REBOOT, as_generic(on_reboot as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, as_generic(on_agent as *const ())),
            (sys::VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE, as_generic(on_memory as *const ())),
        ]
    };
    for (id, callback) in callbacks {
        let opaque = Box::into_raw(Box::new(sink.clone())).cast::<c_void>();
        // SAFETY: the connection is open; `opaque` is a leaked Box that only `free_sink` takes back.
        let registered = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection.as_ptr(),
                std::ptr::null_mut(),
                id as c_int,
                callback,
                opaque,
                Some(free_sink),
            )
        };
        if registered < 0 {
            // SAFETY: on failure libvirt has not taken the pointer, so it is still ours alone.
            unsafe { free_sink(opaque) };
            return Err(Error::last_error());
        }
    }
    let opaque = Box::into_raw(Box::new(sink.clone())).cast::<c_void>();
    // SAFETY: as above.
    let registered =
        unsafe { sys::virConnectRegisterCloseCallback(connection.as_ptr(), Some(on_close), opaque, Some(free_sink)) };
    if registered < 0 {
        // SAFETY: as above.
        unsafe { free_sink(opaque) };
        return Err(Error::last_error());
    }
    Ok(())
}

/// Asks a running domain to let go of a device.
pub(super) fn detach_alias(domain: &Domain, alias: &str) -> Result<(), Error> {
    let alias = std::ffi::CString::new(alias).unwrap_or_default();
    // SAFETY: the domain is open and the name ends with a zero; libvirt keeps neither.
    let asked =
        unsafe { sys::virDomainDetachDeviceAlias(domain.as_ptr(), alias.as_ptr(), sys::VIR_DOMAIN_AFFECT_LIVE) };
    if asked < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Unregisters the close callback, without which libvirt keeps the connection object alive.
pub(super) fn unregister_close(connection: &Connect) {
    // SAFETY: the connection object is alive; libvirt compares the function pointer with the registered one.
    unsafe { sys::virConnectUnregisterCloseCallback(connection.as_ptr(), Some(on_close)) };
}

/// Asks the guest agent, as libvirt's flat list of named values. `types`: `virDomainGuestInfoTypes`; 0 is everything that
/// the agent knows, while one that is named and that it does not know is an error.
pub(super) fn guest_info(
    domain: &Domain,
    types: sys::virDomainGuestInfoTypes,
) -> Result<HashMap<String, String>, Error> {
    let mut params: sys::virTypedParameterPtr = std::ptr::null_mut();
    let mut count: c_int = 0;
    // SAFETY: the domain is alive; both out-pointers are valid for writes.
    let result =
        unsafe { sys::virDomainGetGuestInfo(domain.as_ptr(), types as c_uint, &raw mut params, &raw mut count, 0) };
    if result < 0 {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt returned an array of `count` parameters.
    let values = unsafe { named_values(params, count) };
    // SAFETY: the array came from libvirt with this length and is not used after this line.
    unsafe { sys::virTypedParamsFree(params, count) };
    Ok(values)
}

/// The statistics of every active domain, by its name, in one call that waits for none of them: of one that is busy libvirt
/// tells what it can.
pub(super) fn all_stats(
    connection: &Connect,
    types: sys::virDomainStatsTypes,
) -> Result<HashMap<String, HashMap<String, String>>, Error> {
    let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
    let mut records: *mut sys::virDomainStatsRecordPtr = std::ptr::null_mut();
    // SAFETY: the connection is open; the out-pointer is valid for writes.
    let count = unsafe {
        sys::virConnectGetAllDomainStats(connection.as_ptr(), types as c_uint, &raw mut records, flags as c_uint)
    };
    if count < 0 {
        return Err(Error::last_error());
    }
    let mut stats = HashMap::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned an array of `count` pointers to records, each with a live domain and its parameters.
        unsafe {
            let record = &**records.add(index);
            let name = sys::virDomainGetName(record.dom);
            if !name.is_null() {
                let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                stats.insert(name, named_values(record.params, record.nparams));
            }
        }
    }
    // SAFETY: the list came from libvirt, ends with a null pointer as libvirt made it, and is not used after this line.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(stats)
}

/// # Safety
/// `params` must be an array of `count` parameters that libvirt filled.
unsafe fn named_values(params: sys::virTypedParameterPtr, count: c_int) -> HashMap<String, String> {
    let mut values = HashMap::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller vouches for the array.
        let param = unsafe { &*params.add(index) };
        // SAFETY: `field` is a NUL-terminated name inside its fixed array.
        let name = unsafe { CStr::from_ptr(param.field.as_ptr()) }.to_string_lossy().into_owned();
        if let Some(value) = value_text(param) {
            values.insert(name, value);
        }
    }
    values
}

/// Has the guest agent freeze all file systems.
pub(super) fn freeze(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is alive; no mount points are named, so that there is no array to read.
    let frozen = unsafe { sys::virDomainFSFreeze(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    if frozen < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Has the guest agent thaw all file systems.
pub(super) fn thaw(domain: &Domain) -> Result<(), Error> {
    // SAFETY: as above.
    let thawed = unsafe { sys::virDomainFSThaw(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    if thawed < 0 { Err(Error::last_error()) } else { Ok(()) }
}

fn value_text(param: &sys::virTypedParameter) -> Option<String> {
    // SAFETY: `type_` names the member that libvirt filled; a non-null string member is NUL-terminated.
    unsafe {
        match param.type_ as sys::virTypedParameterType {
            sys::VIR_TYPED_PARAM_INT => Some(param.value.i.to_string()),
            sys::VIR_TYPED_PARAM_UINT => Some(param.value.ui.to_string()),
            sys::VIR_TYPED_PARAM_LLONG => Some(param.value.l.to_string()),
            sys::VIR_TYPED_PARAM_ULLONG => Some(param.value.ul.to_string()),
            sys::VIR_TYPED_PARAM_BOOLEAN => Some((param.value.b != 0).to_string()),
            sys::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                Some(CStr::from_ptr(param.value.s).to_string_lossy().into_owned())
            }
            _ => None,
        }
    }
}

/// # Safety
/// `function` must be an `extern "C"` function with the signature of the event it is registered for.
unsafe fn as_generic(function: *const ()) -> sys::virConnectDomainEventGenericCallback {
    // SAFETY: function pointers have one size; the caller vouches for the signature.
    unsafe { std::mem::transmute(function) }
}

unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    // SAFETY: every opaque pointer handed to libvirt came from Box::into_raw of a Sink, and is freed once.
    drop(unsafe { Box::from_raw(opaque.cast::<Sink>()) });
}

/// # Safety
/// `domain` and `opaque` must be what libvirt passed to a callback registered by [`register`].
unsafe fn publish(domain: sys::virDomainPtr, opaque: *mut c_void, make: impl FnOnce(String) -> LibvirtEvent) {
    // SAFETY: libvirt passes a live domain; the name belongs to it and is copied here.
    let name = unsafe { sys::virDomainGetName(domain) };
    if name.is_null() {
        return;
    }
    // SAFETY: not null, NUL-terminated.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    // SAFETY: the sink lives until free_sink.
    unsafe { &*opaque.cast::<Sink>() }.publish(make(name));
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: called by libvirt with what was registered.
    unsafe { publish(domain, opaque, |domain| LibvirtEvent::Lifecycle { domain, event, detail }) };
    0
}

unsafe extern "C" fn on_reboot(_: sys::virConnectPtr, domain: sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: called by libvirt with what was registered.
    unsafe { publish(domain, opaque, |domain| LibvirtEvent::Rebooted { domain }) };
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: called by libvirt with what was registered.
    unsafe { publish(domain, opaque, |domain| LibvirtEvent::GuestAgent { domain }) };
}

unsafe extern "C" fn on_memory(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    _bytes: c_ulonglong,
    opaque: *mut c_void,
) {
    // SAFETY: called by libvirt with what was registered.
    unsafe { publish(domain, opaque, |domain| LibvirtEvent::MemorySize { domain }) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: the sink lives until free_sink. A full slot means that the owner has been told already.
    let _ = unsafe { &*opaque.cast::<Sink>() }.closed.try_send(());
}
