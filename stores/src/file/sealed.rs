//! Sealed lines.
//!
//! ```text
//! {"sealed":1,"tenant":T,"log":LOG,"first":OFFSET,"data":BASE64}
//! ```
//! The data are the lines of one tenant, sealed with its key; log and offset are authenticated.
//! Readings of a tenant whose keys were destroyed are left out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::{HEAD_BYTES, Keyring, SealError, UnsealError};
use serde::{Deserialize, Serialize};

use crate::contract::{Result, StoreError};
use crate::reading::Row;

const VERSION: u32 = 1;
/// Bytes of lines that are sealed as one.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    sealed: u32,
    #[serde(borrow)]
    tenant: Cow<'a, str>,
    #[serde(borrow)]
    log: Cow<'a, str>,
    first: u64,
    data: String,
}

/// Authenticated with a line.
fn place(log: &str, first: u64) -> Vec<u8> {
    [b"export ", &first.to_le_bytes()[..], log.as_bytes()].concat()
}

/// The lines of one tenant that are not sealed yet, behind room for the head.
struct Piece {
    first: u64,
    readings: u64,
    bytes: Vec<u8>,
}

/// Returns readings as sealed lines.
pub(super) fn lines(keys: &Keyring, log: &str, rows: &[Row<'_>]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(rows.len() * 256);
    let prepared = keys.prepare(rows.iter().map(|row| &*row.block.id.device.tenant));
    prepared.map_err(|error| StoreError::busy(error.to_string()))?;
    let mut pieces: BTreeMap<&str, Piece> = BTreeMap::new();
    for row in rows {
        let tenant: &str = &row.block.id.device.tenant;
        let piece = pieces.entry(tenant).or_insert_with(|| Piece {
            first: row.offset,
            readings: 0,
            bytes: vec![0; HEAD_BYTES],
        });
        row.write_json(&mut piece.bytes);
        piece.bytes.push(b'\n');
        piece.readings += 1;
        if piece.bytes.len() >= PIECE_BYTES
            && let Some(piece) = pieces.remove(tenant)
        {
            seal(keys, log, tenant, piece, &mut out)?;
        }
    }
    for (tenant, piece) in pieces {
        seal(keys, log, tenant, piece, &mut out)?;
    }
    Ok(out)
}

fn seal(keys: &Keyring, log: &str, tenant: &str, piece: Piece, out: &mut Vec<u8>) -> Result<()> {
    let Piece { first, readings, mut bytes } = piece;
    match keys.seal(tenant, &place(log, first), &mut bytes, 0) {
        Ok(()) => {}
        Err(SealError::Destroyed(_)) => {
            keys.note_discarded(readings);
            return Ok(());
        }
        Err(error @ SealError::NoKey { .. }) => return Err(StoreError::busy(error.to_string())),
    }
    let data = STANDARD.encode(&bytes);
    let line = Line { sealed: VERSION, tenant: tenant.into(), log: log.into(), first, data };
    serde_json::to_writer(&mut *out, &line).map_err(|error| StoreError::Refused(error.to_string()))?;
    out.push(b'\n');
    Ok(())
}

/// Returns the lines in a line of a file: itself if it is in plain, none if the keys of its tenant
/// were destroyed.
///
/// # Errors
/// A sentence: it is damaged, or the keyring does not have its key.
pub fn decrypt(keys: &Keyring, line: &str) -> std::result::Result<Option<Vec<u8>>, String> {
    if !line.starts_with("{\"sealed\":") {
        return Ok(Some(format!("{line}\n").into_bytes()));
    }
    let line: Line<'_> = serde_json::from_str(line).map_err(|error| format!("it is not a sealed line: {error}"))?;
    if line.sealed != VERSION {
        return Err(format!("it has form {}, this release reads {VERSION}", line.sealed));
    }
    let mut bytes = STANDARD.decode(&line.data).map_err(|error| error.to_string())?;
    match keys.open_sealed(&line.tenant, &place(&line.log, line.first), &mut bytes) {
        Ok(lines) => Ok(Some(lines.to_vec())),
        Err(UnsealError::Destroyed(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
