//! The adapter against libvirt's built-in test driver: no daemon, but real XML, life cycle, events and errors. One
//! test, because libvirt's event loop is one a process and the driver's default connection is shared.

use std::time::Duration;

use super::*;

const DOMAIN: &str = "<domain type='test'><name>ns_vm</name><memory>8192</memory><os><type>hvm</type></os>
  <metadata><furrow:guest xmlns:furrow='https://furrow.io/libvirt/1' namespace='ns' name='vm' uid='u' generation='1'/></metadata>
</domain>";

async fn next(events: &mut EventStream) -> LibvirtEvent {
    tokio::time::timeout(Duration::from_secs(10), events.next()).await.expect("an event in time").expect("threads live")
}

#[tokio::test]
async fn a_domain_lives_and_ends_with_events_and_reasons() {
    let options = LibvirtOptions { uri: "test:///default".to_owned(), secrets: Vec::new() };
    let (libvirt, mut events) = Libvirt::start(options).expect("the threads start");
    assert_eq!(next(&mut events).await, LibvirtEvent::Connected);

    libvirt.start_domain(DOMAIN.to_owned(), false, None).await.expect("the domain starts");
    assert!(matches!(next(&mut events).await, LibvirtEvent::Lifecycle { domain, .. } if domain == "ns_vm"));
    let record = libvirt.domain("ns_vm").await.expect("it is observed").expect("it is there");
    assert_eq!(record.state, DomainState::Running);
    assert_eq!(record.owner.as_ref().map(|owner| owner.uid.as_str()), Some("u"));
    assert!(libvirt.domains().await.expect("the list").contains(&record));

    libvirt.pause_domain("ns_vm").await.expect("it is paused");
    let record = libvirt.domain("ns_vm").await.expect("it is observed").expect("it is there");
    assert_eq!(record.state, DomainState::Paused(PauseReason::User));
    libvirt.resume_domain("ns_vm").await.expect("it goes on");
    assert!(matches!(libvirt.pause_domain("ns_other").await, Err(LibvirtError::NoDomain { .. })));

    assert!(matches!(libvirt.remove_domain("ns_vm").await, Err(LibvirtError::WrongState { .. })));
    libvirt.shutdown_domain("ns_vm").await.expect("it is asked");
    let record = libvirt.domain("ns_vm").await.expect("it is observed").expect("a definition keeps its reason");
    assert_eq!(record.state, DomainState::Off(OffReason::Shutdown));
    assert!(matches!(libvirt.destroy_domain("ns_vm").await, Err(LibvirtError::WrongState { .. })));
    libvirt.remove_domain("ns_vm").await.expect("it is removed");
    libvirt.remove_domain("ns_vm").await.expect("removing it twice is no error");
    assert_eq!(libvirt.domain("ns_vm").await.expect("it is observed"), None);

    let error = libvirt.start_domain("<domain/>".to_owned(), false, None).await.expect_err("nonsense is refused");
    assert!(error.is_permanent(), "{error}");
}
