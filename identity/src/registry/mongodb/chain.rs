//! The check of an audit chain.

use std::future::IntoFuture;

use mongodb::bson::{Document, doc};

use super::Inner;
use super::answer::meaning;
use super::rows::{checkpoint, event_bytes, number, signed};
use crate::registry::audit::Walk;
use crate::registry::transaction::Outcome;
use crate::registry::{AuditRange, AuditReport};

impl Inner {
    /// Checks a part of a chain.
    pub(super) async fn check(&self, tenant: &str, range: &AuditRange) -> Outcome<AuditReport> {
        self.ready().await?;
        let store = &self.store;
        // Events and head of one moment.
        let mut session = store.within(store.client.start_session().snapshot(true)).await?;
        let mut walk = Walk::new(range);
        let audit = store.audit();
        let filter = doc! { "tenant": tenant, "sequence": { "$gte": signed(walk.next()) } };
        let find = audit.find(filter).sort(doc! { "sequence": 1 }).session(&mut session).into_future();
        let mut cursor = store.within(find).await?;
        while store.within(cursor.advance(&mut session)).await? {
            let row: Document = cursor.deserialize_current().map_err(|error| meaning(&error, &store.shown))?;
            let (hash, bytes) = event_bytes(&row);
            if let Err(fault) = walk.step(number(&row, "sequence"), hash, bytes) {
                return Ok(AuditReport { verified: walk.last(), fault: Some(fault) });
            }
            if walk.is_done() {
                return Ok(AuditReport { verified: walk.last(), fault: None });
            }
        }
        let head = store.within(store.heads().find_one(doc! { "_id": tenant }).session(&mut session)).await?;
        let head = head.map(|row| checkpoint(&store.shown, &row)).transpose();
        // A damaged head is that of no event.
        let fault = walk.end(head.unwrap_or_default().unwrap_or_default()).err();
        Ok(AuditReport { verified: walk.last(), fault })
    }
}
