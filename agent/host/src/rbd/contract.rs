//! The contract with a real cluster: every promise the storage code builds on, tried out.
//!
//! Runs only where `FURROW_CEPH_CONF` names a `ceph.conf` of a throw-away cluster with a pool
//! `volumes`; `FURROW_CEPH_KEYRING` is a keyring with `client.furrow-agent`.

use super::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const MIB: u64 = 1 << 20;

fn pool() -> Option<Pool> {
    let conf = PathBuf::from(std::env::var_os("FURROW_CEPH_CONF")?);
    let mut config = ClusterConfig::standard("furrow-agent");
    config.keyring = std::env::var_os("FURROW_CEPH_KEYRING").map(PathBuf::from).or(config.keyring);
    config.conf = conf;
    Some(Cluster::connect(&config).unwrap().pool("volumes").unwrap())
}

fn clone_of(pool: &Pool, parent: &str, child: &str) {
    let image = pool.open_image(parent).unwrap();
    image.snapshot(child).unwrap();
    pool.clone_image(parent, child, child).unwrap();
    image.remove_snapshot(child).unwrap();
}

fn fresh(pool: &Pool, name: &str, size: u64) {
    let _ = pool.remove(name);
    pool.create(name, size).unwrap();
}

#[test]
fn an_image_is_made_once_written_in_parallel_and_removed() {
    let Some(pool) = pool() else { return };
    fresh(&pool, "contract-a", 64 * MIB);
    assert_eq!(pool.create("contract-a", 64 * MIB).unwrap_err().kind(), RbdErrorKind::Exists);
    let image = pool.open_image("contract-a").unwrap();
    assert_eq!(image.size().unwrap(), 64 * MIB);
    assert!(image.has_exclusive_lock().unwrap());
    image.lock().unwrap();
    assert_eq!(image.lock_owners().unwrap().len(), 1);
    assert_eq!(image.watchers().unwrap().len(), 1);
    let writer = Writer::new(&image, 8 << 20);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let writer = &writer;
            scope.spawn(move || {
                for i in (thread..16).step_by(2) {
                    let mut buffer = writer.buffer(4 << 20);
                    buffer.resize(4 << 20, i as u8 + 1);
                    writer.write(i * 4 * MIB, buffer).unwrap();
                }
            });
        }
    });
    assert_eq!(writer.finish().unwrap(), 64 * MIB);
    let mut read = [0u8; 2];
    image.read(20 * MIB - 1, &mut read).unwrap();
    assert_eq!(read, [5, 6]);
    let past_the_end = Writer::new(&image, 1 << 20);
    let _ = past_the_end.write(64 * MIB, vec![1; 4096]);
    assert!(past_the_end.finish().is_err());
    image.discard_all(|_| {}).unwrap();
    image.read(20 * MIB - 1, &mut read).unwrap();
    assert_eq!(read, [0, 0]);
    image.set_metadata("furrow.test", "x").unwrap();
    assert_eq!(image.metadata("furrow.test").unwrap().as_deref(), Some("x"));
    image.remove_metadata("furrow.test").unwrap();
    image.remove_metadata("furrow.test").unwrap();
    assert_eq!(image.metadata("furrow.test").unwrap(), None);
    assert_eq!(pool.remove("contract-a").unwrap_err().kind(), RbdErrorKind::Busy);
    drop(image);
    pool.remove("contract-a").unwrap();
    assert_eq!(pool.remove("contract-a").unwrap_err().kind(), RbdErrorKind::NotFound);
}

#[test]
fn a_held_lock_is_not_given_to_another_client() {
    let (Some(one), Some(two)) = (pool(), pool()) else { return };
    fresh(&one, "contract-lock", 16 * MIB);
    let held = one.open_image("contract-lock").unwrap();
    held.lock().unwrap();
    let other = two.open_image("contract-lock").unwrap();
    assert_eq!(other.watchers().unwrap().len(), 2);
    assert!(other.lock().is_err());
    held.unlock().unwrap();
    other.lock().unwrap();
    drop((held, other));
    one.remove("contract-lock").unwrap();
}

#[test]
fn a_parent_with_clones_goes_to_the_trash_and_vanishes_with_the_last_clone() {
    let Some(pool) = pool() else { return };
    for left in ["contract-c1", "contract-c2"] {
        let _ = pool.remove(left);
    }
    fresh(&pool, "contract-gold", 64 * MIB);
    {
        let image = pool.open_image("contract-gold").unwrap();
        let writer = Writer::new(&image, 1 << 20);
        writer.write(0, vec![7; 4096]).unwrap();
        writer.finish().unwrap();
    }
    let started = Instant::now();
    clone_of(&pool, "contract-gold", "contract-c1");
    println!("clone: {:?}", started.elapsed());
    clone_of(&pool, "contract-gold", "contract-c2");
    let parent = pool.open_read_only("contract-c1").unwrap().parent().unwrap().unwrap();
    assert_eq!((parent.image.as_str(), parent.trashed), ("contract-gold", false));
    assert!(pool.open_read_only("contract-gold").unwrap().snapshots().unwrap().is_empty());
    pool.remove("contract-gold").unwrap();
    assert!(!pool.images().unwrap().contains(&"contract-gold".to_owned()));
    let clone = pool.open_image("contract-c1").unwrap();
    let mut read = [0u8; 1];
    clone.read(0, &mut read).unwrap();
    assert_eq!(read, [7]);
    clone.grow(128 * MIB).unwrap();
    assert!(clone.grow(64 * MIB).is_err());
    assert!(clone.parent().unwrap().unwrap().trashed);
    drop(clone);
    pool.remove("contract-c1").unwrap();
    let trash = |pool: &Pool| pool.trashed().unwrap().into_iter().filter(|t| t.name == "contract-gold").count();
    assert_eq!(trash(&pool), 1);
    pool.remove("contract-c2").unwrap();
    assert_eq!(trash(&pool), 0, "the parent went with its last clone");
}

#[test]
fn a_snapshot_tells_whether_the_image_changed_since() {
    let Some(pool) = pool() else { return };
    if let Ok(left) = pool.open_image("contract-base") {
        let _ = left.remove_snapshot("base");
    }
    let _ = pool.remove("contract-base-c");
    fresh(&pool, "contract-base", 1 << 34);
    let image = pool.open_image("contract-base").unwrap();
    let write = |offset: u64| {
        let writer = Writer::new(&image, 1 << 20);
        writer.write(offset, vec![7; 4096]).unwrap();
        writer.finish().unwrap();
    };
    write(0);
    let started = Instant::now();
    image.snapshot("base").unwrap();
    println!("snapshot: {:?}", started.elapsed());
    let started = Instant::now();
    let reader = pool.open_read_only("contract-base").unwrap();
    assert!(!reader.changed_since("base").unwrap());
    assert_eq!(reader.snapshots().unwrap().len(), 1);
    println!("open and compare: {:?}", started.elapsed());
    let started = Instant::now();
    pool.clone_image("contract-base", "base", "contract-base-c").unwrap();
    println!("clone: {:?}", started.elapsed());
    write(8192 * 3);
    assert!(reader.changed_since("base").unwrap());
    drop((reader, image));
    assert_eq!(pool.remove("contract-base").unwrap_err().kind(), RbdErrorKind::NotEmpty);
    pool.open_image("contract-base").unwrap().remove_snapshot("base").unwrap();
    pool.remove("contract-base").unwrap();
    pool.remove("contract-base-c").unwrap();
    assert!(pool.trashed().unwrap().iter().all(|t| t.name != "contract-base"));
}

#[tokio::test]
async fn async_calls_reach_the_cluster_and_time_out() {
    let Some(conf) = std::env::var_os("FURROW_CEPH_CONF") else { return };
    let mut config = ClusterConfig::standard("furrow-agent");
    config.conf = PathBuf::from(conf);
    config.keyring = std::env::var_os("FURROW_CEPH_KEYRING").map(PathBuf::from).or(config.keyring);
    let ceph = Arc::new(Ceph::new(config));
    let limit = std::time::Duration::from_secs(10);
    let error = ceph.run("no-such-pool", "list", limit, |p| p.images()).await.unwrap_err();
    assert_eq!(error.kind(), RbdErrorKind::NotFound);
    let short = std::time::Duration::from_millis(20);
    let late = ceph.run("volumes", "sleep in", short, |_| {
        let (_never, wait) = std::sync::mpsc::sync_channel::<()>(1);
        let _ = wait.recv_timeout(std::time::Duration::from_millis(200));
        Ok(())
    });
    assert!(matches!(late.await, Err(RbdError::Timeout { .. })));
}
