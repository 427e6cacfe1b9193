//! Reads frames from the ring, or from segments if they are older.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use envelope::Keyring;

use super::EmbeddedLog;
use super::segment::{SECTOR, Segment};
use crate::frame::{Frame, HEADER_BYTES, Header};
use crate::log::ReadError;

impl EmbeddedLog {
    pub(super) async fn read_frames(&self, from: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        let end = *self.end.borrow();
        let segments = {
            let shared = self.shared();
            let start = shared.segments[0].first_offset;
            if from < start {
                return Err(ReadError::Trimmed { offset: from, start });
            }
            if from >= end {
                return Ok(Vec::new());
            }
            if let Some(frames) = shared.ring.read(from, max_bytes) {
                return Ok(frames);
            }
            let at = shared.segments.partition_point(|s| s.first_offset <= from) - 1;
            shared.segments[at..].to_vec()
        };
        self.metrics.disk_reads.inc();
        let keys = self.config.keys.clone();
        blocking(move || read_segments(&segments, keys.as_ref(), (from, end), max_bytes)).await
    }

    pub(super) async fn find_time(&self, time: model::Nanos) -> Result<u64, ReadError> {
        let end = *self.end.borrow();
        let segment = {
            let shared = self.shared.lock();
            let at = shared.segments.partition_point(|s| s.first_time() < time);
            Arc::clone(&shared.segments[at.saturating_sub(1)])
        };
        blocking(move || {
            let mut place = 0;
            while place < segment.end() {
                let header = header_at(&segment, place)?;
                if header.appended >= time {
                    return Ok(header.first_offset);
                }
                place = (place + header.frame_bytes() as u64).next_multiple_of(SECTOR);
                if place >= segment.end() {
                    return Ok(header.end_offset());
                }
            }
            Ok(end)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(read).await.map_err(|error| ReadError::Unavailable(error.to_string()))?
}

fn read_segments(
    segments: &[Arc<Segment>],
    keys: Option<&Keyring>,
    (from, end): (u64, u64),
    max_bytes: usize,
) -> Result<Vec<Frame>, ReadError> {
    let mut frames = Vec::new();
    let mut bytes = 0;
    for segment in segments {
        let mut place = segment.place_before(from);
        while place < segment.end() {
            let header = header_at(segment, place)?;
            if header.first_offset >= end || bytes >= max_bytes {
                return Ok(frames);
            }
            let length = header.frame_bytes();
            if header.end_offset() > from {
                let frame = Frame::open(&bytes_at(segment, place, length)?, keys)
                    .map_err(|error| damaged(segment, place, &error.to_string()))?;
                frames.push(frame);
                bytes += length;
            }
            place = (place + length as u64).next_multiple_of(SECTOR);
        }
    }
    Ok(frames)
}

fn header_at(segment: &Segment, place: u64) -> Result<Header, ReadError> {
    Header::read(&bytes_at(segment, place, HEADER_BYTES)?).map_err(|error| damaged(segment, place, &error.to_string()))
}

fn bytes_at(segment: &Segment, place: u64, length: usize) -> Result<Bytes, ReadError> {
    if place + length as u64 > segment.capacity() {
        return Err(damaged(segment, place, "a frame reaches past the end of the segment"));
    }
    let mut bytes = vec![0; length];
    segment
        .file
        .read_exact_at(&mut bytes, place)
        .map_err(|error| ReadError::Unavailable(format!("read {}: {error}", segment.path.display())))?;
    Ok(bytes.into())
}

fn damaged(segment: &Segment, place: u64, what: &str) -> ReadError {
    ReadError::Damaged(format!("{}, byte {place}: {what}", segment.path.display()))
}
