//! Volumes against a real cluster: what CSI promises, tried out with cut-short and repeated calls.
//!
//! Runs only where `FURROW_CEPH_CONF` names the `ceph.conf` of a throw-away cluster with a pool
//! `volumes`; `FURROW_CEPH_KEYRING` is a keyring with `client.furrow-agent`.

use std::path::PathBuf;
use std::time::Instant;

use furrow_host::rbd::{Cluster, ClusterConfig, Pool, Writer};
use furrow_model::tpm::{self, Kept, TpmError};

use super::images::{self, BASE, ImageError, NOTE_IMPORT, Size};
use super::tpm::change;

const MIB: u64 = 1 << 20;

fn pool() -> Option<Pool> {
    let mut config = ClusterConfig::standard("furrow-agent");
    config.conf = PathBuf::from(std::env::var_os("FURROW_CEPH_CONF")?);
    config.keyring = std::env::var_os("FURROW_CEPH_KEYRING").map(PathBuf::from).or(config.keyring);
    Some(Cluster::connect(&config).unwrap().pool("volumes").unwrap())
}

fn at_least(mib: u64) -> Size {
    Size { required: mib * MIB, limit: None }
}

fn write(pool: &Pool, image: &str, offset: u64) {
    let image = pool.open_image(image).unwrap();
    let writer = Writer::new(&image, 1 << 20);
    writer.write(offset, vec![7; 4096]).unwrap();
    writer.finish().unwrap();
}

fn remove_all(pool: &Pool, names: &[&str]) {
    for name in names {
        images::remove(pool, name).unwrap();
    }
}

#[test]
fn creating_twice_is_creating_once() {
    let Some(pool) = pool() else { return };
    let names = ["ct-blank", "ct-blank-copy"];
    remove_all(&pool, &names);
    assert_eq!(images::create(&pool, "ct-blank", at_least(16)).unwrap(), 16 * MIB);
    assert_eq!(images::create(&pool, "ct-blank", at_least(16)).unwrap(), 16 * MIB);
    let larger = images::create(&pool, "ct-blank", at_least(32));
    assert!(matches!(larger, Err(ImageError::Different { .. })), "{larger:?}");
    assert_eq!(images::grow(&pool, "ct-blank", 32 * MIB).unwrap(), 32 * MIB);
    assert_eq!(images::grow(&pool, "ct-blank", 16 * MIB).unwrap(), 32 * MIB);
    images::clone(&pool, "ct-blank", "ct-blank-copy", at_least(32)).unwrap();
    assert!(matches!(images::create(&pool, "ct-blank-copy", at_least(32)), Err(ImageError::Different { .. })));
    remove_all(&pool, &names);
    remove_all(&pool, &names);
}

#[test]
fn golden_images_are_cloned_in_milliseconds_and_deleted_at_any_time() {
    let Some(pool) = pool() else { return };
    let names = ["ct-gold", "ct-clone-1", "ct-clone-2", "ct-clone-3"];
    remove_all(&pool, &names);
    images::create(&pool, "ct-gold", at_least(64)).unwrap();
    write(&pool, "ct-gold", 0);
    pool.open_image("ct-gold").unwrap().snapshot(BASE).unwrap();
    let started = Instant::now();
    assert_eq!(images::clone(&pool, "ct-gold", "ct-clone-1", at_least(128)).unwrap(), 128 * MIB);
    println!("clone and grow: {:?}", started.elapsed());
    assert_eq!(images::clone(&pool, "ct-gold", "ct-clone-1", at_least(128)).unwrap(), 128 * MIB);
    let base = |pool: &Pool| pool.open_read_only("ct-gold").unwrap().snapshots().unwrap().len();
    assert_eq!(base(&pool), 1);
    write(&pool, "ct-gold", 4 * MIB);
    images::clone(&pool, "ct-gold", "ct-clone-2", at_least(64)).unwrap();
    assert_eq!(base(&pool), 0, "a base that is out of date goes");
    let mut byte = [0; 1];
    pool.open_read_only("ct-clone-2").unwrap().read(4 * MIB, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    pool.open_read_only("ct-clone-1").unwrap().read(4 * MIB, &mut byte).unwrap();
    assert_eq!(byte, [0]);
    let small = images::clone(&pool, "ct-gold", "ct-clone-3", at_least(32));
    assert!(matches!(small, Err(ImageError::TooSmall { .. })), "{small:?}");
    images::remove(&pool, "ct-gold").unwrap();
    assert!(matches!(images::clone(&pool, "ct-gold", "ct-clone-3", at_least(64)), Err(ImageError::NoSource { .. })));
    images::clone(&pool, "ct-clone-1", "ct-clone-3", at_least(128)).unwrap();
    remove_all(&pool, &["ct-clone-1", "ct-clone-2", "ct-clone-3"]);
    let left: Vec<_> = pool.trashed().unwrap().into_iter().filter(|t| t.name.starts_with("ct-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_half_made_clone_is_made_again() {
    let Some(pool) = pool() else { return };
    let names = ["ct-half", "ct-half-source"];
    remove_all(&pool, &names);
    images::create(&pool, "ct-half-source", at_least(16)).unwrap();
    // What a clone that was cut short leaves: an image without the note.
    pool.create("ct-half", 4 * MIB).unwrap();
    assert_eq!(images::clone(&pool, "ct-half-source", "ct-half", at_least(16)).unwrap(), 16 * MIB);
    remove_all(&pool, &names);
}

#[test]
fn what_is_in_use_or_half_imported_is_left_alone() {
    let Some(pool) = pool() else { return };
    let names = ["ct-used", "ct-used-copy"];
    remove_all(&pool, &names);
    images::create(&pool, "ct-used", at_least(16)).unwrap();
    let user = pool.open_image("ct-used").unwrap();
    let refused = images::remove(&pool, "ct-used");
    assert!(matches!(&refused, Err(ImageError::InUse { users, .. }) if users.len() == 1), "{refused:?}");
    images::clone(&pool, "ct-used", "ct-used-copy", at_least(16)).unwrap();
    images::remove(&pool, "ct-used-copy").unwrap();
    user.set_metadata(NOTE_IMPORT, "running").unwrap();
    let refused = images::clone(&pool, "ct-used", "ct-used-copy", at_least(16));
    assert!(matches!(refused, Err(ImageError::Importing { .. })), "{refused:?}");
    user.snapshot("by-hand").unwrap();
    drop(user);
    assert!(matches!(images::remove(&pool, "ct-used"), Err(ImageError::HasSnapshots { .. })));
    pool.open_image("ct-used").unwrap().remove_snapshot("by-hand").unwrap();
    remove_all(&pool, &names);
}

#[test]
fn the_state_of_a_tpm_is_claimed_written_and_read_again_and_a_late_guest_changes_nothing() {
    let Some(pool) = pool() else { return };
    let name = "ct-tpm";
    remove_all(&pool, &[name]);
    images::create(&pool, name, at_least(1)).unwrap();
    // As swtpm writes it with a key.
    let state = |content: &[u8]| {
        let bytes = u32::try_from(10 + content.len()).unwrap();
        [[2, 1, 0, 10, 0, 9].as_slice(), &bytes.to_be_bytes(), content].concat()
    };
    let claim = |guest: &str| {
        let work = |now: Option<&Kept>| Ok((now.map(|kept| kept.state().to_vec()), tpm::claim(now, guest)?));
        change(&pool, name, work).unwrap().unwrap()
    };
    let save = |guest: &str, content: &[u8]| {
        change(&pool, name, |now: Option<&Kept>| Ok(((), tpm::save(now, guest, &state(content))?))).unwrap()
    };
    assert_eq!(claim("uid-1"), None);
    for content in [b"one".as_slice(), b"two", b"three"] {
        save("uid-1", content).unwrap();
    }
    assert_eq!(claim("uid-2"), Some(state(b"three")));
    assert_eq!(save("uid-1", b"late"), Err(TpmError::Claimed { guest: "uid-2".to_owned() }));
    assert_eq!(claim("uid-2"), Some(state(b"three")));
    remove_all(&pool, &[name]);
}
