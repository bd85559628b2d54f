//! Copies a qcow2 image: its tables first, then its data in one pass in the order of the file.
//!
//! One thread reads and cuts the stream into runs; as many workers as there are processors (two
//! at most) decompress and write. Runs are up to 1 MiB of the disk, so that compressed clusters
//! of 64 KiB do not become as many requests to Ceph. An image with more extents than fit the
//! memory budget is copied in several such passes.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use furrow_host::rbd::Writer;
use furrow_model::qcow2::{Decoder, Extent, HEAD_BYTES, Header, Method, TableRef, order};

use super::error::ImportError;
use super::fetch::Source;
use super::spool::Spool;
use super::stream::{Copied, Progress};
use super::target::{Target, write_data};

/// Extents of one pass: 24 bytes each, 24 MiB at most.
const MAX_EXTENTS: usize = 1 << 20;
/// Tables that lie beside each other are fetched together, up to so many bytes.
const TABLE_FETCH: u64 = 2 << 20;
/// The disk is written in runs of at most this size; RBD's objects are a multiple of it.
const RUN: u64 = 1 << 20;
/// A gap in the file larger than this is jumped over, a smaller one is read and dropped.
const JUMP: u64 = 4 << 20;
/// Runs between the reader and the workers: with at most 2 MiB each.
const QUEUE: usize = 4;
const WORKERS: usize = 2;

/// Where the parts of the file come from.
pub(super) enum Parts {
    Remote(Box<Source>),
    Spooled(Spool),
}

impl Parts {
    fn part(&self, offset: u64, len: usize) -> Result<Vec<u8>, ImportError> {
        match self {
            Self::Remote(source) => source.part(offset, len),
            Self::Spooled(spool) => spool.part(offset, len),
        }
    }

    fn stream(&self, offset: u64) -> Box<dyn Read + '_> {
        match self {
            Self::Remote(source) => Box::new(source.stream(offset)),
            Self::Spooled(spool) => Box::new(spool.stream(offset)),
        }
    }
}

/// Refuses an image by its first bytes.
pub(super) fn check_head(head: &[u8], file_len: u64, capacity_bytes: u64) -> Result<Header, ImportError> {
    let header = Header::parse(head, file_len)?;
    if header.virtual_size > capacity_bytes {
        return Err(ImportError::TooLarge { virtual_size: header.virtual_size, capacity_bytes });
    }
    Ok(header)
}

/// Copies the image of `file_len` bytes in `parts`.
pub(super) fn copy(
    parts: &Parts,
    file_len: u64,
    target: &Target,
    progress: &Arc<Progress>,
) -> Result<Copied, ImportError> {
    let head_len = usize::try_from(file_len).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
    let header = check_head(&parts.part(0, head_len)?, file_len, target.capacity())?;
    let (offset, len) = header.l1_range();
    let tables = header.tables(&parts.part(offset, len)?)?;
    progress.total.store(file_len, Ordering::Relaxed);
    let writer = target.writer();
    let mut extents = Vec::new();
    let mut rest = tables.as_slice();
    while !rest.is_empty() {
        let group = beside_each_other(rest, header.table_bytes() as u64);
        read_tables(parts, &header, &rest[..group], &mut extents)?;
        rest = &rest[group..];
        if extents.len() >= MAX_EXTENTS || rest.is_empty() {
            order(&mut extents)?;
            pass(parts, &header, &extents, &writer, progress)?;
            extents.clear();
        }
    }
    let written = writer.finish()?;
    Ok(Copied { written, virtual_size: header.virtual_size })
}

/// How many of the first tables one fetch brings.
fn beside_each_other(tables: &[TableRef], table_bytes: u64) -> usize {
    let first = tables[0].offset;
    let fits = |(index, table): &(usize, &TableRef)| {
        let end = table.offset.saturating_add(table_bytes);
        let dense = table.offset >= first && end - first <= (*index as u64 + 1) * table_bytes * 4;
        *index == 0 || dense && end - first <= TABLE_FETCH
    };
    tables.iter().enumerate().take_while(fits).count().max(1)
}

fn read_tables(
    parts: &Parts,
    header: &Header,
    tables: &[TableRef],
    extents: &mut Vec<Extent>,
) -> Result<(), ImportError> {
    let size = header.table_bytes();
    let first = tables[0].offset;
    let last = tables.iter().map(|table| table.offset).max().unwrap_or(first);
    let bytes = parts.part(first, (last - first) as usize + size)?;
    for table in tables {
        let start = (table.offset - first) as usize;
        header.extents(*table, &bytes[start..start + size], extents)?;
    }
    Ok(())
}

/// One run of the disk: its bytes as they are in the file, and where in them the clusters are.
struct Run {
    guest: u64,
    bytes: Vec<u8>,
    /// Length on the disk, in bytes.
    len: usize,
    /// Start and end of each compressed cluster in `bytes`; empty: they are plain.
    clusters: Vec<(usize, usize)>,
}

fn pass(
    parts: &Parts,
    header: &Header,
    extents: &[Extent],
    writer: &Writer<'_>,
    progress: &Arc<Progress>,
) -> Result<(), ImportError> {
    let stop = AtomicBool::new(false);
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| work(header, &receiver, writer, &stop))).collect();
        let read = feed(parts, header, extents, (&sender, &stop), progress);
        drop(sender);
        let mut result = read;
        for worker in workers {
            let worked = worker.join().unwrap_or(Err(ImportError::Panicked));
            // A worker's error is the cause when the reader only saw that they stopped.
            result = worked.and(result);
        }
        result
    })
}

/// Reads the extents in order and hands them on.
fn feed(
    parts: &Parts,
    header: &Header,
    extents: &[Extent],
    (sender, stop): (&SyncSender<Run>, &AtomicBool),
    progress: &Arc<Progress>,
) -> Result<(), ImportError> {
    let mut window = Window::new(parts);
    let mut rest = extents;
    while !rest.is_empty() && !stop.load(Ordering::Relaxed) {
        let count = run_length(rest, header.cluster_size());
        let run = read_run(&mut window, header, &rest[..count])?;
        progress.done.store(window.offset, Ordering::Relaxed);
        rest = &rest[count..];
        for run in run {
            // Fails only when all workers ended, and they say why.
            if sender.send(run).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// How many of the first extents continue each other on the disk, within one run.
fn run_length(extents: &[Extent], cluster: u64) -> usize {
    let first = extents[0];
    if !first.compressed {
        return 1;
    }
    let mut count = 1;
    while let Some(next) = extents.get(count) {
        let guest = first.guest + count as u64 * cluster;
        let stored = next.host + u64::from(next.stored) - first.host;
        if !next.compressed || next.guest != guest || guest.is_multiple_of(RUN) || stored > 2 * RUN {
            break;
        }
        count += 1;
    }
    count
}

/// Reads one run of compressed clusters, or a plain extent in several.
fn read_run(window: &mut Window<'_>, header: &Header, extents: &[Extent]) -> Result<Vec<Run>, ImportError> {
    let first = extents[0];
    let clip = |guest: u64, len: u64| usize::try_from(len.min(header.virtual_size - guest)).unwrap_or(0);
    if first.compressed {
        let end = extents.iter().map(|e| e.host + u64::from(e.stored)).max().unwrap_or(first.host);
        let bytes = window.read(first.host, end)?.to_vec();
        let place = |e: &Extent| {
            let start = (e.host - first.host) as usize;
            (start, start + e.stored as usize)
        };
        let len = clip(first.guest, extents.len() as u64 * header.cluster_size());
        return Ok(vec![Run { guest: first.guest, bytes, len, clusters: extents.iter().map(place).collect() }]);
    }
    let mut runs = Vec::new();
    let mut done = 0u64;
    let stored = u64::from(first.stored);
    while done < stored && first.guest + done < header.virtual_size {
        let guest = first.guest + done;
        let len = (stored - done).min(RUN - guest % RUN);
        let mut bytes = window.read_short(first.host + done, first.host + done + len)?.to_vec();
        // A file that ends within its last cluster reads as zeros there.
        bytes.resize(clip(guest, len), 0);
        runs.push(Run { guest, len: bytes.len(), bytes, clusters: Vec::new() });
        done += len;
    }
    Ok(runs)
}

/// Decompresses and writes runs until there are no more.
fn work(
    header: &Header,
    receiver: &Mutex<Receiver<Run>>,
    writer: &Writer<'_>,
    stop: &AtomicBool,
) -> Result<(), ImportError> {
    let result = work_until_error(header, receiver, writer);
    if result.is_err() {
        stop.store(true, Ordering::Relaxed);
        // The reader may wait for room in the queue: it is emptied until it notices.
        while next(receiver).is_some() {}
    }
    result
}

fn next(receiver: &Mutex<Receiver<Run>>) -> Option<Run> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn work_until_error(header: &Header, receiver: &Mutex<Receiver<Run>>, writer: &Writer<'_>) -> Result<(), ImportError> {
    let mut decoder = new_decoder(header.method)?;
    let cluster = header.cluster_size() as usize;
    while let Some(run) = next(receiver) {
        if run.clusters.is_empty() {
            write_data(writer, run.guest, run.bytes)?;
            continue;
        }
        let mut data = writer.buffer(run.clusters.len() * cluster);
        data.resize(run.clusters.len() * cluster, 0);
        for ((start, end), out) in run.clusters.iter().zip(data.chunks_exact_mut(cluster)) {
            decoder.decode(run.guest, &run.bytes[*start..*end], out)?;
        }
        data.truncate(run.len);
        write_data(writer, run.guest, data)?;
    }
    Ok(())
}

fn new_decoder(method: Method) -> Result<Decoder, ImportError> {
    Decoder::new(method).ok_or_else(|| ImportError::Damaged("no memory for a decompressor".to_owned()))
}

/// A window over the file that only moves forward.
struct Window<'parts> {
    parts: &'parts Parts,
    stream: Option<Box<dyn Read + 'parts>>,
    /// Bytes of the file from `start` on; the stream stands at their end.
    bytes: Vec<u8>,
    start: u64,
    /// Where the stream stands.
    offset: u64,
}

impl<'parts> Window<'parts> {
    fn new(parts: &'parts Parts) -> Self {
        Self { parts, stream: None, bytes: Vec::new(), start: 0, offset: 0 }
    }

    /// The bytes from `from` to `to`; `from` never goes back.
    fn read(&mut self, from: u64, to: u64) -> Result<&[u8], ImportError> {
        let len = (to - from) as usize;
        let bytes = self.read_short(from, to)?;
        if bytes.len() < len {
            return Err(ImportError::Damaged("the image ends within its data".to_owned()));
        }
        Ok(bytes)
    }

    /// As `read`, but shorter where the file ends.
    fn read_short(&mut self, from: u64, to: u64) -> Result<&[u8], ImportError> {
        let drop = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.drain(..drop);
        self.start += drop as u64;
        if self.bytes.is_empty() && self.start != from {
            self.jump(from)?;
        }
        let missing = to.saturating_sub(self.offset);
        if missing > 0
            && let Some(stream) = self.stream.as_mut()
        {
            let read = stream.take(missing).read_to_end(&mut self.bytes).map_err(ImportError::of_read)?;
            self.offset += read as u64;
        }
        let end = self.bytes.len().min((to - from) as usize);
        Ok(&self.bytes[..end])
    }

    fn jump(&mut self, from: u64) -> Result<(), ImportError> {
        let gap = from.saturating_sub(self.offset);
        match self.stream.as_mut() {
            Some(stream) if gap <= JUMP => {
                let skipped = std::io::copy(&mut stream.take(gap), &mut std::io::sink());
                self.offset += skipped.map_err(ImportError::of_read)?;
            }
            _ => {
                self.stream = Some(self.parts.stream(from));
                self.offset = from;
            }
        }
        self.start = from;
        Ok(())
    }
}
