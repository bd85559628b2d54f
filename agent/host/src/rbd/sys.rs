//! The C surface of librados and librbd that this crate uses, and nothing more.
//!
//! Written by hand from `rados/librados.h` and `rbd/librbd.h` of Debian 13 (Ceph 18.2.7): only
//! the functions below are bound, so that what the process can ask of Ceph is readable in one
//! file. Struct sizes are those a C compiler gives for these headers (see the test below).
//! Anything that interprets a result belongs in the sibling modules, not here.
#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};

pub(crate) type rados_t = *mut c_void;
pub(crate) type rados_ioctx_t = *mut c_void;
pub(crate) type rbd_image_t = *mut c_void;
pub(crate) type rbd_image_options_t = *mut c_void;
pub(crate) type rbd_completion_t = *mut c_void;
/// Called by a librbd thread when an asynchronous request is done.
pub(crate) type rbd_callback_t = Option<unsafe extern "C" fn(rbd_completion_t, *mut c_void)>;
/// Offset, total, argument; a negative answer stops the operation where it can be stopped.
pub(crate) type librbd_progress_fn_t = Option<unsafe extern "C" fn(u64, u64, *mut c_void) -> c_int>;

/// Offset, length, whether there is data, argument; a negative answer ends the iteration.
pub(crate) type rbd_diff_fn_t = Option<unsafe extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int>;

pub(crate) const RBD_IMAGE_OPTION_FEATURES: c_int = 1;
pub(crate) const RBD_IMAGE_OPTION_ORDER: c_int = 2;
pub(crate) const RBD_IMAGE_OPTION_CLONE_FORMAT: c_int = 12;

pub(crate) const RBD_SNAP_NAMESPACE_TYPE_USER: c_int = 0;

pub(crate) const RBD_LOCK_MODE_EXCLUSIVE: c_int = 0;

/// `LIBRADOS_OP_FLAG_FADVISE_SEQUENTIAL | LIBRADOS_OP_FLAG_FADVISE_DONTNEED`: an import is
/// written once from start to end and not read back by this client.
pub(crate) const FADVISE_STREAMED: c_int = 0x8 | 0x20;

/// `rbd_image_watcher_t`: who has the image open for writing.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct rbd_image_watcher_t {
    pub(crate) addr: *mut c_char,
    pub(crate) id: i64,
    pub(crate) cookie: u64,
}

/// `rbd_snap_info_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct rbd_snap_info_t {
    pub(crate) id: u64,
    pub(crate) size: u64,
    pub(crate) name: *const c_char,
}

/// `rbd_linked_image_spec_t`: a parent or a child of an image.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct rbd_linked_image_spec_t {
    pub(crate) pool_id: i64,
    pub(crate) pool_name: *mut c_char,
    pub(crate) pool_namespace: *mut c_char,
    pub(crate) image_id: *mut c_char,
    pub(crate) image_name: *mut c_char,
    pub(crate) trash: bool,
}

/// `rbd_snap_spec_t`: the snapshot of the parent that a clone hangs on.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct rbd_snap_spec_t {
    pub(crate) id: u64,
    pub(crate) namespace_type: c_int,
    pub(crate) name: *mut c_char,
}

/// `rbd_image_spec_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct rbd_image_spec_t {
    pub(crate) id: *mut c_char,
    pub(crate) name: *mut c_char,
}

/// `rbd_trash_image_info_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct rbd_trash_image_info_t {
    pub(crate) id: *mut c_char,
    pub(crate) name: *mut c_char,
    pub(crate) source: c_int,
    pub(crate) deletion_time: i64,
    pub(crate) deferment_end_time: i64,
}

/// `struct rados_cluster_stat_t`, all sizes in KiB.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct rados_cluster_stat_t {
    pub(crate) kb: u64,
    pub(crate) kb_used: u64,
    pub(crate) kb_avail: u64,
    pub(crate) num_objects: u64,
}

#[link(name = "rados")]
unsafe extern "C" {
    pub(crate) fn rados_create(cluster: *mut rados_t, id: *const c_char) -> c_int;
    pub(crate) fn rados_conf_read_file(cluster: rados_t, path: *const c_char) -> c_int;
    pub(crate) fn rados_conf_set(c: rados_t, option: *const c_char, value: *const c_char) -> c_int;
    pub(crate) fn rados_connect(cluster: rados_t) -> c_int;
    pub(crate) fn rados_shutdown(cluster: rados_t);
    pub(crate) fn rados_cluster_fsid(cluster: rados_t, buf: *mut c_char, len: usize) -> c_int;
    pub(crate) fn rados_cluster_stat(cluster: rados_t, result: *mut rados_cluster_stat_t) -> c_int;
    pub(crate) fn rados_ioctx_create(cluster: rados_t, pool: *const c_char, io: *mut rados_ioctx_t) -> c_int;
    pub(crate) fn rados_ioctx_destroy(io: rados_ioctx_t);
}

#[link(name = "rbd")]
unsafe extern "C" {
    pub(crate) fn rbd_image_options_create(opts: *mut rbd_image_options_t);
    pub(crate) fn rbd_image_options_destroy(opts: rbd_image_options_t);
    pub(crate) fn rbd_image_options_set_uint64(opts: rbd_image_options_t, option: c_int, value: u64) -> c_int;

    pub(crate) fn rbd_create4(io: rados_ioctx_t, name: *const c_char, size: u64, opts: rbd_image_options_t) -> c_int;
    pub(crate) fn rbd_clone3(
        parent_io: rados_ioctx_t,
        parent: *const c_char,
        snapshot: *const c_char,
        child_io: rados_ioctx_t,
        child: *const c_char,
        opts: rbd_image_options_t,
    ) -> c_int;
    pub(crate) fn rbd_remove_with_progress(
        io: rados_ioctx_t,
        name: *const c_char,
        cb: librbd_progress_fn_t,
        arg: *mut c_void,
    ) -> c_int;
    pub(crate) fn rbd_list2(io: rados_ioctx_t, images: *mut rbd_image_spec_t, max: *mut usize) -> c_int;
    pub(crate) fn rbd_image_spec_list_cleanup(images: *mut rbd_image_spec_t, count: usize);

    pub(crate) fn rbd_trash_list(io: rados_ioctx_t, entries: *mut rbd_trash_image_info_t, count: *mut usize) -> c_int;
    pub(crate) fn rbd_trash_list_cleanup(entries: *mut rbd_trash_image_info_t, count: usize);

    pub(crate) fn rbd_open(
        io: rados_ioctx_t,
        name: *const c_char,
        image: *mut rbd_image_t,
        snapshot: *const c_char,
    ) -> c_int;
    pub(crate) fn rbd_open_read_only(
        io: rados_ioctx_t,
        name: *const c_char,
        image: *mut rbd_image_t,
        snapshot: *const c_char,
    ) -> c_int;
    pub(crate) fn rbd_close(image: rbd_image_t) -> c_int;

    pub(crate) fn rbd_get_size(image: rbd_image_t, size: *mut u64) -> c_int;
    pub(crate) fn rbd_get_features(image: rbd_image_t, features: *mut u64) -> c_int;
    pub(crate) fn rbd_resize2(
        image: rbd_image_t,
        size: u64,
        allow_shrink: bool,
        cb: librbd_progress_fn_t,
        arg: *mut c_void,
    ) -> c_int;
    pub(crate) fn rbd_flatten_with_progress(image: rbd_image_t, cb: librbd_progress_fn_t, arg: *mut c_void) -> c_int;
    pub(crate) fn rbd_get_parent(
        image: rbd_image_t,
        parent: *mut rbd_linked_image_spec_t,
        snapshot: *mut rbd_snap_spec_t,
    ) -> c_int;
    pub(crate) fn rbd_linked_image_spec_cleanup(image: *mut rbd_linked_image_spec_t);
    pub(crate) fn rbd_snap_spec_cleanup(snapshot: *mut rbd_snap_spec_t);

    pub(crate) fn rbd_snap_create(image: rbd_image_t, name: *const c_char) -> c_int;
    pub(crate) fn rbd_snap_remove(image: rbd_image_t, name: *const c_char) -> c_int;
    pub(crate) fn rbd_snap_list(image: rbd_image_t, snaps: *mut rbd_snap_info_t, max: *mut c_int) -> c_int;
    pub(crate) fn rbd_snap_get_namespace_type(image: rbd_image_t, id: u64, kind: *mut c_int) -> c_int;
    pub(crate) fn rbd_snap_list_end(snaps: *mut rbd_snap_info_t);

    pub(crate) fn rbd_diff_iterate2(
        image: rbd_image_t,
        from_snapshot: *const c_char,
        offset: u64,
        len: u64,
        include_parent: u8,
        whole_object: u8,
        cb: rbd_diff_fn_t,
        arg: *mut c_void,
    ) -> c_int;

    pub(crate) fn rbd_watchers_list(image: rbd_image_t, watchers: *mut rbd_image_watcher_t, max: *mut usize) -> c_int;
    pub(crate) fn rbd_watchers_list_cleanup(watchers: *mut rbd_image_watcher_t, count: usize);
    pub(crate) fn rbd_lock_acquire(image: rbd_image_t, mode: c_int) -> c_int;
    pub(crate) fn rbd_lock_release(image: rbd_image_t) -> c_int;
    pub(crate) fn rbd_lock_get_owners(
        image: rbd_image_t,
        mode: *mut c_int,
        owners: *mut *mut c_char,
        max: *mut usize,
    ) -> c_int;
    pub(crate) fn rbd_lock_get_owners_cleanup(owners: *mut *mut c_char, count: usize);

    pub(crate) fn rbd_metadata_get(
        image: rbd_image_t,
        key: *const c_char,
        value: *mut c_char,
        len: *mut usize,
    ) -> c_int;
    pub(crate) fn rbd_metadata_set(image: rbd_image_t, key: *const c_char, value: *const c_char) -> c_int;
    pub(crate) fn rbd_metadata_remove(image: rbd_image_t, key: *const c_char) -> c_int;

    pub(crate) fn rbd_read(image: rbd_image_t, offset: u64, len: usize, buf: *mut c_char) -> isize;
    pub(crate) fn rbd_discard(image: rbd_image_t, offset: u64, len: u64) -> c_int;
    pub(crate) fn rbd_flush(image: rbd_image_t) -> c_int;
    pub(crate) fn rbd_aio_create_completion(
        arg: *mut c_void,
        cb: rbd_callback_t,
        completion: *mut rbd_completion_t,
    ) -> c_int;
    pub(crate) fn rbd_aio_release(completion: rbd_completion_t);
    pub(crate) fn rbd_aio_get_return_value(completion: rbd_completion_t) -> isize;
    pub(crate) fn rbd_aio_write2(
        image: rbd_image_t,
        offset: u64,
        len: usize,
        buf: *const c_char,
        completion: rbd_completion_t,
        op_flags: c_int,
    ) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    #[test]
    fn struct_sizes_are_those_of_the_c_headers_on_64_bit() {
        assert_eq!(size_of::<rbd_image_watcher_t>(), 24);
        assert_eq!(size_of::<rbd_snap_info_t>(), 24);
        assert_eq!(size_of::<rbd_linked_image_spec_t>(), 48);
        assert_eq!(size_of::<rbd_snap_spec_t>(), 24);
        assert_eq!(size_of::<rbd_image_spec_t>(), 16);
        assert_eq!(size_of::<rbd_trash_image_info_t>(), 40);
        assert_eq!(size_of::<rados_cluster_stat_t>(), 32);
    }
}
