//! Decompresses clusters. One decoder serves one thread and is used again for every cluster:
//! making its state anew would cost more than many clusters do.

use super::{Method, Qcow2Error};
use flate2::{Decompress, FlushDecompress};
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation as _, OutBuffer};

/// A decoder of clusters.
pub struct Decoder(State);

enum State {
    Zlib(Decompress),
    Zstd(ZstdDecoder<'static>),
}

impl Decoder {
    /// A decoder for the image's method; `None` when the library has no memory for it.
    pub fn new(method: Method) -> Option<Self> {
        Some(Self(match method {
            Method::Zlib => State::Zlib(Decompress::new(false)),
            Method::Zstd => State::Zstd(ZstdDecoder::new().ok()?),
        }))
    }

    /// Decompresses `stored`, which may have foreign bytes behind it, to fill `cluster`, which is
    /// the one for byte `guest` of the disk.
    pub fn decode(&mut self, guest: u64, stored: &[u8], cluster: &mut [u8]) -> Result<(), Qcow2Error> {
        let filled = match &mut self.0 {
            State::Zlib(state) => {
                state.reset(false);
                // An answer other than "end" is no error when the cluster is full: QEMU accepts
                // streams without an end mark too.
                let _ = state.decompress(stored, cluster, FlushDecompress::Finish);
                usize::try_from(state.total_out()).unwrap_or(0)
            }
            State::Zstd(state) => decode_zstd(state, stored, cluster).unwrap_or(0),
        };
        if filled == cluster.len() { Ok(()) } else { Err(Qcow2Error::Damaged { guest }) }
    }
}

fn decode_zstd(state: &mut ZstdDecoder<'static>, stored: &[u8], cluster: &mut [u8]) -> std::io::Result<usize> {
    state.reinit()?;
    let mut input = InBuffer::around(stored);
    let mut output = OutBuffer::around(cluster);
    loop {
        let before = (input.pos(), output.pos());
        let left = state.run(&mut input, &mut output)?;
        if left == 0 || output.pos() == output.capacity() || before == (input.pos(), output.pos()) {
            return Ok(output.pos());
        }
    }
}
