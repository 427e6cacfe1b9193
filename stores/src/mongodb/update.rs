//! Many updates in one command. The driver combines them only for MongoDB 8; the command itself is
//! older than that.

use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::answer::Failure;
use super::server::Server;
use super::writer::Writer;
use crate::contract::{Result, StoreError};

/// Bytes of updates in one command, which is one document.
const BYTES: usize = 8 << 20;
/// Updates in one command.
const UPDATES: usize = 10_000;

/// Updates of one collection, applied in any order.
pub(super) struct Updates {
    collection: String,
    commands: Vec<RawDocumentBuf>,
    open: Vec<RawDocumentBuf>,
    bytes: usize,
}

impl Updates {
    pub(super) fn new(collection: &str) -> Self {
        Self { collection: collection.to_owned(), commands: Vec::new(), open: Vec::new(), bytes: 0 }
    }

    /// Adds an update, with the fields `q`, `u` and `upsert`.
    pub(super) fn add(&mut self, fill: impl FnOnce(&mut Writer)) {
        let update = Writer::document(fill);
        let size = update.as_bytes().len();
        if self.bytes + size > BYTES || self.open.len() == UPDATES {
            self.close();
        }
        self.bytes += size;
        self.open.push(update);
    }

    fn close(&mut self) {
        self.bytes = 0;
        let updates = std::mem::take(&mut self.open);
        if updates.is_empty() {
            return;
        }
        self.commands.push(Writer::document(|w| {
            w.text("update", &self.collection);
            w.array("updates", |w| updates.iter().enumerate().for_each(|(i, update)| w.document_at(i, update)));
            w.boolean("ordered", false);
            w.nested("writeConcern", |w| {
                w.text("w", "majority");
                w.boolean("j", true);
            });
        }));
    }
}

impl Server {
    /// Runs updates; durable when it returns.
    pub(super) async fn update(&self, mut updates: Updates) -> Result<()> {
        updates.close();
        for command in updates.commands {
            let answer = self.send("update", self.database.run_raw_command(command)).await;
            let answer = answer.map_err(|error| self.failed(&error))?;
            let answer = RawDocumentBuf::try_from(&answer).map_err(|error| StoreError::busy(error.to_string()))?;
            judge(&answer, |code, meaning| self.named(code, meaning)).map_err(|error| self.counted(error))?;
        }
        Ok(())
    }
}

fn failure(document: &RawDocument) -> Failure {
    let code = document.get_i32("code").unwrap_or_default();
    Failure { code, message: document.get_str("errmsg").unwrap_or_default().to_owned() }
}

/// Returns the meaning of the answer to an update: of each part, and of the write concern.
fn judge(answer: &RawDocument, named: impl Fn(i32, StoreError) -> StoreError) -> Result<()> {
    if let Ok(Some(RawBsonRef::Array(errors))) = answer.get("writeErrors") {
        let mut refused = None;
        for error in errors.into_iter().filter_map(|e| e.ok()?.as_document()) {
            let failure = failure(error);
            // Two writers insert the same key at the same time: one of them has to retry.
            let code = failure.code;
            let meaning =
                if failure.is_there_already() { StoreError::busy(failure.message) } else { failure.meaning() };
            match named(code, meaning) {
                meaning @ (StoreError::Refused(_) | StoreError::TooLarge(_)) => refused = refused.or(Some(meaning)),
                other => return Err(other),
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
    }
    match answer.get("writeConcernError") {
        Ok(Some(RawBsonRef::Document(error))) => {
            let failure = failure(error);
            Err(named(failure.code, StoreError::busy(format!("{} (code {})", failure.message, failure.code))))
        }
        _ => Ok(()),
    }
}
