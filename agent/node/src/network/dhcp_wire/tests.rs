//! DHCP frames there and back.

use super::*;
use furrow_model::dhcp::{Answer, answer};
use furrow_model::port::{PortRequest, PortSpec};

fn lease() -> Lease {
    let request = PortRequest {
        bridge: "br-a".into(),
        mac: "02:00:5e:10:00:01".into(),
        ip: Some("192.168.10.7".into()),
        prefix_len: Some(23),
        gateway: Some("192.168.10.1".into()),
        dns: vec!["192.168.10.2".into(), "192.168.10.3".into()],
        mtu: 1450,
        hostname: Some("db".into()),
        ..PortRequest::default()
    };
    Lease::of(&PortSpec::parse(request).expect("valid")).expect("it has an address")
}

/// A client's frame with this DHCP payload.
fn frame(dhcp: &[u8]) -> Vec<u8> {
    let mut frame = [[0xff; 6], lease().mac.bytes()].concat();
    frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame.extend_from_slice(&u16::try_from(28 + dhcp.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67]);
    frame.extend_from_slice(&u16::try_from(8 + dhcp.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(dhcp);
    frame
}

fn client(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_xid(7).set_chaddr(&lease().mac.bytes());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message.opts_mut().insert(DhcpOption::ClientIdentifier(vec![1, 2, 3]));
    message
}

fn answered(message: &Message) -> Option<Vec<u8>> {
    let heard = read(&frame(&message.to_vec().expect("it encodes")))?;
    match answer(&lease(), &heard.request) {
        Answer::Reply(reply) => write(&heard, &lease(), reply),
        Answer::Silence | Answer::Conflict => None,
    }
}

#[test]
fn an_offer_carries_everything_the_guest_needs() {
    let frame = answered(&client(MessageType::Discover)).expect("it is answered");
    assert_eq!(frame[..6], lease().mac.bytes());
    assert_eq!(checksum(&[&frame[14..34]]), 0, "the header's checksum holds");
    let udp = &frame[34..];
    let pseudo = [&frame[26..34], &[0, 17], &udp[4..6]].concat();
    assert_eq!(checksum(&[&pseudo, udp]), 0, "the datagram's checksum holds");
    let offer = Message::from_bytes(&udp[8..]).expect("it decodes");
    let options = offer.opts();
    assert_eq!((offer.xid(), offer.yiaddr()), (7, Ipv4Addr::new(192, 168, 10, 7)));
    assert_eq!(options.msg_type(), Some(MessageType::Offer));
    for expected in [
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 254, 0)),
        DhcpOption::Router(vec![Ipv4Addr::new(192, 168, 10, 1)]),
        DhcpOption::DomainNameServer(vec![Ipv4Addr::new(192, 168, 10, 2), Ipv4Addr::new(192, 168, 10, 3)]),
        DhcpOption::Hostname("db".into()),
        DhcpOption::InterfaceMtu(1450),
        DhcpOption::AddressLeaseTime(86_400),
        DhcpOption::ServerIdentifier(Ipv4Addr::new(192, 168, 10, 1)),
        DhcpOption::ClientIdentifier(vec![1, 2, 3]),
    ] {
        assert_eq!(options.get(OptionCode::from(&expected)), Some(&expected));
    }
}

#[test]
fn a_wrong_address_is_refused_to_everybody_on_the_wire() {
    let mut request = client(MessageType::Request);
    request.opts_mut().insert(DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 9, 9, 9)));
    let frame = answered(&request).expect("it is answered");
    assert_eq!(frame[..6], [0xff; 6]);
    let nak = Message::from_bytes(&frame[42..]).expect("it decodes");
    assert_eq!((nak.opts().msg_type(), nak.yiaddr()), (Some(MessageType::Nak), Ipv4Addr::UNSPECIFIED));
    assert_eq!(nak.opts().get(OptionCode::SubnetMask), None);
}

#[test]
fn no_cut_and_no_flipped_byte_of_a_frame_breaks_the_reader() {
    let whole = frame(&client(MessageType::Discover).to_vec().expect("it encodes"));
    for length in 0..whole.len() {
        let _ = read(&whole[..length]);
    }
    for place in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut frame = whole.clone();
            frame[place] = value;
            let _ = read(&frame).map(|heard| answer(&lease(), &heard.request));
        }
    }
}

#[test]
fn an_answer_says_what_the_guest_asked_for() {
    let asked = furrow_model::dhcp_options::Asked {
        boot_file: Some("boot.efi"),
        tftp_server: Some("10.0.0.1"),
        ntp_servers: vec!["10.0.0.2"],
        private: vec![(230, "mine")],
    };
    let options = furrow_model::dhcp_options::DhcpOptions::parse(&asked).expect("they can be said");
    let (domain, searches) = (Some("db.shop.svc.cluster.local".to_owned()), vec!["a.bc".to_owned(), "d".to_owned()]);
    let options = furrow_model::dhcp_options::DhcpOptions { domain, searches, ..options };
    let told = Lease { options, ..lease() };
    let heard = read(&frame(&client(MessageType::Discover).to_vec().expect("it encodes"))).expect("it is read");
    let Answer::Reply(reply) = answer(&told, &heard.request) else { panic!("it is answered") };
    let frame = write(&heard, &told, reply).expect("it encodes");
    let offer = Message::from_bytes(&frame[42..]).expect("it decodes");
    let options = offer.opts();
    assert_eq!(options.get(OptionCode::BootfileName), Some(&DhcpOption::BootfileName(b"boot.efi".to_vec())));
    assert_eq!(options.get(OptionCode::TFTPServerName), Some(&DhcpOption::TFTPServerName(b"10.0.0.1".to_vec())));
    assert_eq!(options.get(OptionCode::NtpServers), Some(&DhcpOption::NtpServers(vec![Ipv4Addr::new(10, 0, 0, 2)])));
    let domain = DhcpOption::DomainName("db.shop.svc.cluster.local".to_owned());
    assert_eq!(options.get(OptionCode::DomainName), Some(&domain));
    let searches = b"\x77\x09\x01a\x02bc\x00\x01d\x00";
    assert!(frame.windows(searches.len()).any(|bytes| bytes == searches), "the domains to search are told");
    let private = options.get(OptionCode::from(230));
    assert_eq!(private, Some(&DhcpOption::Unknown(UnknownOption::new(OptionCode::from(230), b"mine".to_vec()))));
}
