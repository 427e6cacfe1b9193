//! Bytes for a broker.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Bytes that the buffer keeps while it is empty.
const KEEP_BYTES: usize = 64 << 10;

/// Bytes for a broker.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// Packets are appended here.
    pub(crate) bytes: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl Outbound {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// True when there is nothing to write.
    pub(crate) fn is_done(&self) -> bool {
        self.len() == 0 && !self.unflushed
    }

    /// Writes once, or flushes what was written. Cancelling it loses no byte.
    pub(crate) async fn write(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.len() == 0 {
            stream.flush().await?;
            self.unflushed = false;
            return Ok(());
        }
        let written = stream.write(&self.bytes[self.written..]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.written += written;
        if self.len() == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(KEEP_BYTES);
            self.written = 0;
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}
