//! Tables by hand and garbage by proptest: the parser answers everything and panics at nothing.

use super::*;
use proptest::prelude::*;
use std::io::Write as _;

const CLUSTER: u64 = 1 << 16;

struct Image(Vec<u8>);

impl Image {
    /// Version 3, 64 KiB clusters, L1 at cluster 1, one L2 at cluster 2.
    fn new(virtual_size: u64) -> Self {
        let mut image = Self(vec![0; 8 * CLUSTER as usize]);
        image.0[..4].copy_from_slice(b"QFI\xfb");
        image.put32(4, 3).put32(20, 16).put64(24, virtual_size).put32(36, 1).put64(40, CLUSTER);
        image.put32(96, 4).put32(100, 112);
        image.put64(CLUSTER as usize, (2 * CLUSTER) | (1 << 63));
        image
    }

    fn put32(&mut self, at: usize, value: u32) -> &mut Self {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }

    fn put64(&mut self, at: usize, value: u64) -> &mut Self {
        self.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
        self
    }

    fn l2(&mut self, index: usize, value: u64) -> &mut Self {
        self.put64(2 * CLUSTER as usize + index * 8, value)
    }

    fn header(&self) -> Result<Header, Qcow2Error> {
        Header::parse(&self.0[..HEAD_BYTES.min(self.0.len())], self.0.len() as u64)
    }

    fn extents(&self) -> Result<Vec<Extent>, Qcow2Error> {
        let header = self.header()?;
        let (offset, len) = header.l1_range();
        let slice = |offset: u64, len: usize| {
            let start = (offset as usize).min(self.0.len());
            &self.0[start..(start + len).min(self.0.len())]
        };
        let mut extents = Vec::new();
        for table in header.tables(slice(offset, len))? {
            header.extents(table, slice(table.offset, header.table_bytes()), &mut extents)?;
        }
        order(&mut extents)?;
        Ok(extents)
    }
}

fn plain(guest: u64, host: u64, stored: u64) -> Extent {
    Extent { guest, host, stored: stored as u32, compressed: false }
}

#[test]
fn extents_come_in_the_order_of_the_file() {
    let mut image = Image::new(10 * CLUSTER);
    image
        .l2(0, (5 * CLUSTER) | (1 << 63))
        .l2(1, (6 * CLUSTER) | (1 << 63))
        .l2(4, 4 * CLUSTER)
        .l2(5, (3 * CLUSTER) | 1)
        .l2(6, 1);
    let expected = vec![plain(4 * CLUSTER, 4 * CLUSTER, CLUSTER), plain(0, 5 * CLUSTER, 2 * CLUSTER)];
    assert_eq!(image.extents(), Ok(expected));
}

#[test]
fn compressed_extents_end_at_a_sector_or_the_file() {
    let mut image = Image::new(10 * CLUSTER);
    let shift = 62 - 8;
    let end = image.0.len() as u64;
    image.l2(0, 1 << 62 | 2 << shift | (3 * CLUSTER + 100)).l2(1, 1 << 62 | 9 << shift | (end - 700));
    let extents = image.extents().unwrap();
    assert_eq!((extents[0].host, extents[0].stored), (3 * CLUSTER + 100, 3 * 512 - 100));
    assert_eq!((extents[1].host, extents[1].stored), (end - 700, 700));
}

#[test]
fn subclusters_are_extents_of_their_own() {
    let mut image = Image::new(10 * CLUSTER);
    image.put64(72, EXTENDED_L2);
    let l2 = 2 * CLUSTER as usize;
    image.put64(l2, 4 * CLUSTER).put64(l2 + 8, 0b1011 | 1 << (32 + 7));
    let expected = vec![plain(0, 4 * CLUSTER, 4096), plain(6144, 4 * CLUSTER + 6144, 2048)];
    assert_eq!(image.extents(), Ok(expected));
    image.put64(l2 + 8, 1 | 1 << 32);
    assert!(matches!(image.extents(), Err(Qcow2Error::Entry { .. })));
}

#[test]
fn what_needs_more_than_the_image_is_refused() {
    let refused = |change: &dyn Fn(&mut Image)| {
        let mut image = Image::new(10 * CLUSTER);
        change(&mut image);
        image.header().unwrap_err()
    };
    let backing = refused(&|image| {
        image.0[600..611].copy_from_slice(b"/etc/shadow");
        image.put64(8, 600).put32(16, 11);
    });
    assert_eq!(backing, Qcow2Error::BackingFile("/etc/shadow".to_owned()));
    assert_eq!(
        refused(&|i| {
            i.put64(72, DATA_FILE);
        }),
        Qcow2Error::DataFile
    );
    assert_eq!(
        refused(&|i| {
            i.put64(72, CORRUPT);
        }),
        Qcow2Error::MarkedCorrupt
    );
    assert_eq!(
        refused(&|i| {
            i.put64(72, 1 << 9);
        }),
        Qcow2Error::Features(1 << 9)
    );
    assert_eq!(
        refused(&|i| {
            i.put32(32, 2);
        }),
        Qcow2Error::Encrypted(2)
    );
    assert_eq!(
        refused(&|i| {
            i.put32(4, 1);
        }),
        Qcow2Error::Version(1)
    );
    assert!(matches!(
        refused(&|i| {
            i.put32(20, 63);
        }),
        Qcow2Error::Header(_)
    ));
    assert!(matches!(
        refused(&|i| {
            i.put64(24, u64::MAX);
        }),
        Qcow2Error::Header(_)
    ));
    assert!(matches!(
        refused(&|i| {
            i.put64(40, 1 << 40);
        }),
        Qcow2Error::Header(_)
    ));
}

#[test]
fn inconsistent_tables_are_refused() {
    let refused = |change: &dyn Fn(&mut Image)| {
        let mut image = Image::new(10 * CLUSTER);
        change(&mut image);
        image.extents().unwrap_err()
    };
    assert!(matches!(
        refused(&|i| {
            i.l2(0, 4 * CLUSTER).l2(1, 4 * CLUSTER);
        }),
        Qcow2Error::Shared { .. }
    ));
    assert!(matches!(
        refused(&|i| {
            i.l2(0, 4 * CLUSTER + 512);
        }),
        Qcow2Error::Entry { .. }
    ));
    assert!(matches!(
        refused(&|i| {
            i.l2(0, 1 << 40);
        }),
        Qcow2Error::Entry { .. }
    ));
    assert!(matches!(
        refused(&|i| {
            i.l2(0, 1 << 57);
        }),
        Qcow2Error::Entry { .. }
    ));
    assert!(matches!(
        refused(&|i| {
            i.l2(0, 1 << 62 | 1 << 40);
        }),
        Qcow2Error::Entry { .. }
    ));
}

#[test]
fn clusters_are_decompressed_with_foreign_bytes_behind_them() {
    let cluster: Vec<u8> = (0..CLUSTER).map(|i| (i / 7) as u8).collect();
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    deflate.write_all(&cluster).unwrap();
    let zstd = zstd::encode_all(&cluster[..], 3).unwrap();
    for (method, mut stored) in [(Method::Zlib, deflate.finish().unwrap()), (Method::Zstd, zstd)] {
        stored.extend_from_slice(&[0xaa; 300]);
        let mut decoder = Decoder::new(method).unwrap();
        for _ in 0..3 {
            let mut out = vec![0; cluster.len()];
            decoder.decode(0, &stored, &mut out).unwrap();
            assert_eq!(out, cluster, "{method:?}");
            assert!(decoder.decode(7, &stored[..50], &mut out).is_err());
            assert!(decoder.decode(7, &[0xff; 600], &mut out).is_err());
        }
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_extents_stay_in_bounds(
        size in 0u64..1 << 40,
        patches in proptest::collection::vec((0usize..3 * (1 << 16), any::<u64>()), 0..40),
        bits in prop_oneof![Just(16u32), 8u32..24],
        entries in proptest::collection::vec((0usize..64, 0u64..12, any::<bool>()), 0..64),
    ) {
        let mut image = Image::new(size);
        image.put32(20, bits).put32(36, 1 << 16);
        for (index, cluster, compressed) in entries {
            image.l2(index, (cluster * CLUSTER) | if compressed { 1 << 62 } else { 0 });
        }
        for (at, value) in patches {
            image.put64(at.min(image.0.len() - 8), value);
        }
        if let Ok(extents) = image.extents() {
            let header = image.header().unwrap();
            for extent in extents {
                prop_assert!(extent.guest < header.virtual_size);
                prop_assert!(extent.host < image.0.len() as u64);
            }
        }
    }

    #[test]
    fn any_bytes_are_an_answer(head in proptest::collection::vec(any::<u8>(), 0..300), file_len in any::<u64>()) {
        let _ = Header::parse(&head, file_len);
        let mut with_magic = b"QFI\xfb\0\0\0\x03".to_vec();
        with_magic.extend(&head);
        if let Ok(header) = Header::parse(&with_magic, file_len) {
            let _ = header.tables(&head);
            let _ = header.extents(TableRef { guest: 0, offset: 0 }, &head, &mut Vec::new());
        }
    }
}
