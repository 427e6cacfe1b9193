//! Targets outside of Weir that checkpoints are handed to.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::hex;
use crate::oauth::HttpFetch;
use crate::secret::{read_private, sync_folder_of};

/// Time after which a disk that does not answer is reported.
const PATIENCE: Duration = Duration::from_secs(30);

/// A target of checkpoints.
#[derive(Debug)]
pub enum CheckpointTarget {
    /// A folder: lines are added to the file `checkpoints-{signer}.ndjson`, which is never changed
    /// otherwise. The folder may be a mount that can only be added to.
    Folder(PathBuf),
    /// An address.
    Webhook(Webhook),
}

/// An address that gets checkpoints by POST, as lines of JSON.
#[derive(Debug)]
pub struct Webhook {
    /// The address, with `https`; with `http` on this host only.
    pub url: String,
    /// File of the token that the calls have (`authorization: Bearer`).
    pub token: Option<PathBuf>,
    /// The client.
    pub http: HttpFetch,
}

impl CheckpointTarget {
    /// Returns its name in the file of checkpoints that were signed: another place is another
    /// target, whose checkpoints begin anew.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Folder(path) => format!("folder {}", path.display()),
            Self::Webhook(hook) => format!("webhook {}", hex::encode(&Sha256::digest(&hook.url))),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Folder(_) => "folder",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Returns its name for operators; the address of a webhook may hold a secret.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Webhook(hook) => {
                let uri = hook.url.parse::<http::Uri>().ok();
                format!("the webhook at {}", uri.as_ref().and_then(http::Uri::host).unwrap_or_default())
            }
        }
    }

    /// Hands lines over; the target has them durably when this returns. Calls `slow` when it does
    /// not answer for long.
    pub(super) async fn deliver(&self, signer: &str, lines: &[String], slow: impl Fn(&str)) -> Result<(), String> {
        let mut text = lines.join("\n");
        text.push('\n');
        match self {
            Self::Folder(folder) => {
                let path = folder.join(format!("checkpoints-{signer}.ndjson"));
                let mut writes = tokio::task::spawn_blocking(move || {
                    append(&path, text.as_bytes()).map_err(|error| reason(&path, &error))
                });
                let written = tokio::select! {
                    written = &mut writes => written,
                    () = tokio::time::sleep(PATIENCE) => {
                        slow("the disk does not answer");
                        writes.await
                    }
                };
                written.map_err(|error| error.to_string())?
            }
            Self::Webhook(hook) => hook.post(text.into()).await,
        }
    }
}

impl Webhook {
    async fn post(&self, lines: Bytes) -> Result<(), String> {
        let token = match &self.token {
            None => None,
            Some(path) => {
                let text = read_private(path).map_err(|error| error.to_string())?;
                let text = text.ok_or_else(|| format!("{} does not exist", path.display()))?;
                let token = String::from_utf8(text).map_err(|_| format!("{} is not UTF-8", path.display()))?;
                Some(token.trim().to_owned())
            }
        };
        match self.http.post(&self.url, "application/x-ndjson", token.as_deref(), lines).await {
            Ok(200..=299) => Ok(()),
            Ok(status) => Err(format!("it answers with status {status}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Adds text to a file. What was added before is not changed: after a part of a line, the text
/// begins on a new one.
fn append(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let is_new = !path.try_exists()?;
    let mut bytes = if is_new || ends_with_line_feed(path)? { Vec::new() } else { vec![b'\n'] };
    bytes.extend_from_slice(text);
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    if is_new { sync_folder_of(path) } else { Ok(()) }
}

/// False also for a file that cannot be read: an empty line more is no harm.
fn ends_with_line_feed(path: &Path) -> std::io::Result<bool> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
        opened => opened?,
    };
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    let read = file.seek(SeekFrom::End(-1)).and_then(|_| file.read(&mut last));
    Ok(read.is_ok() && last == *b"\n")
}

fn reason(path: &Path, error: &std::io::Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull => format!("no space left for {path}: free some"),
        ErrorKind::NotFound => format!("{path} cannot be made: create its folder, or mount it"),
        _ => format!("cannot add to {path}: {error}"),
    }
}
