//! The file of the checkpoints that this process has signed: for each target of them, the newest
//! one of each audit chain.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

use super::file::{Outcome, RegistryFile, Stop};
use super::rows::{seal, unseal};
use crate::CredentialId;
use crate::checkpoint::SignedCheckpoint;
use crate::registry::Result;

const CACHE_BYTES: usize = 1 << 20;

/// Target to the signer of its checkpoints.
const SIGNERS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("signers");
/// Target, tenant to the newest checkpoint.
const CHECKPOINTS: TableDefinition<'static, (&'static str, &'static str), &'static [u8]> =
    TableDefinition::new("checkpoints");

/// A checkpoint that was signed for a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldCheckpoint {
    pub(crate) checkpoint: SignedCheckpoint,
    /// True once the target has it.
    pub(crate) is_delivered: bool,
}

/// The file. It is opened by its first use. Calls block the thread.
#[derive(Debug)]
pub(crate) struct CheckpointFile(RegistryFile);

impl CheckpointFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let open = |path: &std::path::Path| Database::builder().set_cache_size(CACHE_BYTES).create(path);
        Self(RegistryFile::new(path, Arc::new(open), prepare))
    }

    /// Returns the signer of the checkpoints of a target; a new one for a new target.
    pub(crate) fn signer(&self, target: &str) -> Result<String> {
        self.0.run(|database| {
            let known = database.begin_read()?.open_table(SIGNERS)?.get(target)?.map(|bytes| bytes.value().to_vec());
            if let Some(bytes) = known {
                return unseal(target, &bytes);
            }
            let new = CredentialId::generate().map_err(|error| Stop::Failed(redb::Error::Io(error)))?;
            let write = database.begin_write()?;
            write.open_table(SIGNERS)?.insert(target, seal(&new.as_str()).as_slice())?;
            write.commit()?;
            Ok(new.as_str().to_owned())
        })
    }

    /// Returns the newest checkpoint of each tenant for a target.
    pub(crate) fn all(&self, target: &str) -> Result<HashMap<String, HeldCheckpoint>> {
        self.0.run(|database| {
            let table = database.begin_read()?.open_table(CHECKPOINTS)?;
            let mut found = HashMap::new();
            for entry in table.range((Bound::Included((target, "")), Bound::Unbounded))? {
                let (key, bytes) = entry?;
                let (of, tenant) = key.value();
                if of != target {
                    break;
                }
                found.insert(tenant.to_owned(), unseal(tenant, bytes.value())?);
            }
            Ok(found)
        })
    }

    /// Keeps checkpoints in place of earlier ones; on disk when this returns.
    pub(crate) fn put(&self, target: &str, held: &[HeldCheckpoint]) -> Result<()> {
        self.0.run(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(CHECKPOINTS)?;
                for held in held {
                    table.insert((target, held.checkpoint.tenant.as_str()), seal(held).as_slice())?;
                }
            }
            write.commit()?;
            Ok(())
        })
    }
}

fn prepare(database: &Database) -> Outcome<()> {
    let read = database.begin_read()?;
    match read.open_table(SIGNERS).map(drop).and_then(|()| read.open_table(CHECKPOINTS).map(drop)) {
        Err(TableError::TableDoesNotExist(_)) => {}
        opened => return Ok(opened?),
    }
    let write = database.begin_write()?;
    write.open_table(SIGNERS)?;
    write.open_table(CHECKPOINTS)?;
    write.commit()?;
    Ok(())
}
