//! Chunks on disk, in order.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Context;
use prost::Message;
use proto::v1::ReadingChunk;

/// A file of chunks that is removed with the process.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<File>,
    chunks: usize,
}

impl Spool {
    /// Creates an empty spool on the disk of `folder`, which has to hold the output anyway.
    pub(super) fn new_in(folder: &Path) -> anyhow::Result<Self> {
        let file = tempfile::tempfile_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
        Ok(Self { file: BufWriter::new(file), chunks: 0 })
    }

    /// Adds a chunk.
    pub(super) fn push(&mut self, chunk: &ReadingChunk) -> anyhow::Result<()> {
        let bytes = chunk.encode_to_vec();
        let length = u32::try_from(bytes.len()).context("a chunk is small")?;
        let written = self.file.write_all(&length.to_le_bytes()).and_then(|()| self.file.write_all(&bytes));
        written.context("cannot spool the readings beside the output")?;
        self.chunks += 1;
        Ok(())
    }

    /// Passes every chunk to `take`, in the order in which they were added.
    pub(super) fn each(&mut self, mut take: impl FnMut(ReadingChunk) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.file.flush().context("cannot spool the readings beside the output")?;
        let mut file = BufReader::new(self.file.get_ref());
        file.seek(SeekFrom::Start(0)).context("read the readings again")?;
        let mut bytes = Vec::new();
        for _ in 0..self.chunks {
            let mut length = [0; 4];
            file.read_exact(&mut length).context("read the readings again")?;
            bytes.resize(u32::from_le_bytes(length) as usize, 0);
            file.read_exact(&mut bytes).context("read the readings again")?;
            take(ReadingChunk::decode(bytes.as_slice()).context("read the readings again")?)?;
        }
        Ok(())
    }
}
