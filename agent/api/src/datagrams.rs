//! Datagrams in a stream of bytes, as the channel to an agent carries them: two bytes of length, the more significant one
//! first, then the datagram. Refuses to keep more than one that is not whole.

/// Bytes before each datagram.
const PREFIX: usize = 2;

/// Puts a datagram behind others; `false`, and nothing is put, for one that is too long for its prefix.
pub fn put(datagram: &[u8], stream: &mut Vec<u8>) -> bool {
    let Ok(length) = u16::try_from(datagram.len()) else { return false };
    stream.extend_from_slice(&length.to_be_bytes());
    stream.extend_from_slice(datagram);
    true
}

/// Takes datagrams out of what is read of such a stream.
#[derive(Debug, Default)]
pub struct Datagrams {
    read: Vec<u8>,
    /// Bytes at the front that were taken already.
    taken: usize,
}

impl Datagrams {
    /// Adds what was read. Take every datagram before the next: what is kept is then less than one of them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.read.drain(..self.taken);
        self.taken = 0;
        self.read.extend_from_slice(bytes);
    }

    /// The next whole datagram.
    pub fn take(&mut self) -> Option<&[u8]> {
        let rest = self.read.get(self.taken..)?;
        let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        let whole = PREFIX + length;
        if rest.len() < whole {
            return None;
        }
        let start = self.taken + PREFIX;
        self.taken += whole;
        self.read.get(start..start + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_as_they_went_in_however_the_stream_is_cut() {
        let sent = [b"one".to_vec(), Vec::new(), vec![7; 65_535], b"last".to_vec()];
        let mut stream = Vec::new();
        assert!(sent.iter().all(|datagram| put(datagram, &mut stream)));
        for cut in [1, 2, 3, 1000, stream.len()] {
            let mut datagrams = Datagrams::default();
            let mut found = Vec::new();
            for part in stream.chunks(cut) {
                datagrams.push(part);
                while let Some(datagram) = datagrams.take() {
                    found.push(datagram.to_vec());
                }
                assert!(datagrams.read.len() <= PREFIX + 65_535 + cut);
            }
            assert!(found == sent, "cut into {cut}");
        }
    }

    #[test]
    fn one_that_is_too_long_is_not_put() {
        let mut stream = vec![1];
        assert!(!put(&[0; 65_536], &mut stream));
        assert_eq!(stream, [1]);
    }
}
