//! The rows of one transaction. Rows are JSON; a field beside it is there to be searched by.

use std::future::IntoFuture;

use async_trait::async_trait;
use model::Nanos;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{ClientSession, Collection};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::{is_duplicate, meaning};
use super::store::Store;
use crate::CredentialId;
use crate::registry::audit::{extend, read_event};
use crate::registry::rules::KEPT_CHANGES;
use crate::registry::transaction::{Outcome, Request, Rows};
use crate::registry::{AuditEvent, Change, ChangeKind, Checkpoint, Credential, Error, Owner, Tenant, Use};

/// Every so many changes, entries of the control log that are no longer kept are removed.
const TRIMMED_EVERY: u64 = 64;

pub(super) struct MongoRows<'a> {
    pub(super) store: &'a Store,
    pub(super) session: &'a mut ClientSession,
    tenant: String,
    head: Checkpoint,
    /// The number up to which the control log is to be trimmed after the commit.
    pub(super) trim_to: Option<u64>,
}

impl<'a> MongoRows<'a> {
    pub(super) fn new(store: &'a Store, session: &'a mut ClientSession) -> Self {
        Self { store, session, tenant: String::new(), head: Checkpoint::default(), trim_to: None }
    }

    /// Returns the tenant that was entered.
    pub(super) fn entered(&self) -> &str {
        &self.tenant
    }

    pub(super) async fn one(&mut self, of: Collection<Document>, filter: Document) -> Outcome<Option<Document>> {
        self.store.within(of.find_one(filter).session(&mut *self.session)).await
    }

    /// Returns the rows that a filter finds; a limit of 0 is none.
    pub(super) async fn all(
        &mut self,
        of: Collection<Document>,
        filter: Document,
        order: Document,
        limit: i64,
    ) -> Outcome<Vec<Document>> {
        let find = of.find(filter).sort(order).limit(limit).session(&mut *self.session).into_future();
        let mut cursor = self.store.within(find).await?;
        let mut found = Vec::new();
        while self.store.within(cursor.advance(self.session)).await? {
            let row = cursor.deserialize_current().map_err(|error| meaning(&error, &self.store.shown))?;
            found.push(row);
        }
        Ok(found)
    }

    async fn put(
        &mut self,
        of: Collection<Document>,
        id: impl Into<mongodb::bson::Bson>,
        set: Document,
    ) -> Outcome<()> {
        let update = of.update_one(doc! { "_id": id.into() }, doc! { "$set": set }).upsert(true);
        self.store.within(update.session(&mut *self.session)).await.map(drop)
    }

    /// Changes a row, which is made if there is none, and returns it.
    pub(super) async fn changed(&mut self, of: Collection<Document>, id: &str, update: Document) -> Outcome<Document> {
        let change = of.find_one_and_update(doc! { "_id": id }, update).upsert(true);
        let change = change.return_document(ReturnDocument::After).session(&mut *self.session);
        let row = self.store.within(change).await?;
        Ok(row.ok_or_else(|| damaged(&self.store.shown, id))?)
    }
}

pub(super) fn damaged(shown: &str, place: &str) -> Error {
    Error::NeedsOperator(format!("{shown}: {place} is damaged: restore it from a backup"))
}

/// Reads a row that is JSON.
pub(super) fn body<T: DeserializeOwned>(shown: &str, place: &str, row: &Document) -> Result<T, Error> {
    let json = row.get_str("body").ok().and_then(|text| serde_json::from_str(text).ok());
    json.ok_or_else(|| damaged(shown, place))
}

pub(super) fn json<T: Serialize>(row: &T) -> String {
    serde_json::to_string(row).expect("plain fields are JSON")
}

/// Numbers are far below 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn binary(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

/// Reads the field of a number.
pub(super) fn number(row: &Document, field: &str) -> u64 {
    row.get_i64(field).ok().and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
}

/// Reads the end of a chain.
pub(super) fn checkpoint(shown: &str, row: &Document) -> Result<Checkpoint, Error> {
    let hash = row.get_binary_generic("hash").ok().and_then(|hash| hash.as_slice().try_into().ok());
    let hash = hash.ok_or_else(|| damaged(shown, "the head of an audit"))?;
    Ok(Checkpoint { sequence: number(row, "sequence"), hash })
}

/// Returns the hash and the bytes of an event, empty when there are none.
pub(super) fn event_bytes(row: &Document) -> (&[u8], &[u8]) {
    let bytes = |field| row.get_binary_generic(field).map_or(&[][..], Vec::as_slice);
    (bytes("hash"), bytes("event"))
}

pub(super) fn event(shown: &str, row: &Document) -> Result<AuditEvent, Error> {
    let (hash, bytes) = event_bytes(row);
    read_event(hash, bytes).ok_or_else(|| damaged(shown, "an event of the audit"))
}

/// Returns the filter that finds the credentials of an owner.
fn of_owner(tenant: &str, owner: Owner<'_>) -> Document {
    match owner {
        Owner::Device(device) => doc! { "tenant": tenant, "device": device },
        Owner::Tenant(class) => doc! { "tenant": tenant, "class": class.as_str(), "device": null },
    }
}

fn request_id(tenant: &str, id: &str) -> Document {
    doc! { "tenant": tenant, "id": id }
}

#[async_trait]
impl Rows for MongoRows<'_> {
    async fn enter(&mut self, tenant: &str) -> Outcome<()> {
        // The change of the head is the lock: another transaction that makes one conflicts.
        let empty = Checkpoint::default();
        let update = doc! {
            "$inc": { "changes": 1_i64 },
            "$setOnInsert": { "sequence": signed(empty.sequence), "hash": binary(&empty.hash) },
        };
        let head = self.changed(self.store.heads(), tenant, update).await?;
        self.head = checkpoint(&self.store.shown, &head)?;
        tenant.clone_into(&mut self.tenant);
        Ok(())
    }

    async fn tenant(&mut self, id: &str) -> Outcome<Option<Tenant>> {
        let row = self.one(self.store.tenants(), doc! { "_id": id }).await?;
        Ok(row.map(|row| body(&self.store.shown, id, &row)).transpose()?)
    }

    async fn put_tenant(&mut self, tenant: &Tenant) -> Outcome<()> {
        self.put(self.store.tenants(), tenant.id.as_str(), doc! { "body": json(tenant) }).await
    }

    async fn credential(&mut self, id: CredentialId) -> Outcome<Option<Credential>> {
        let filter = doc! { "_id": id.as_str(), "tenant": &self.tenant };
        let row = self.one(self.store.credentials(), filter).await?;
        Ok(row.map(|row| body(&self.store.shown, id.as_str(), &row)).transpose()?)
    }

    async fn add_credential(&mut self, row: &Credential) -> Outcome<bool> {
        let mut document = doc! {
            "_id": row.id.as_str(),
            "tenant": &row.tenant,
            "class": row.class().as_str(),
            "body": json(row),
        };
        if let Some(device) = row.device() {
            document.insert("device", device);
        }
        let added = self.store.credentials();
        match self.store.answer(added.insert_one(document).session(&mut *self.session)).await? {
            Ok(_) => Ok(true),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(meaning(&error, &self.store.shown)),
        }
    }

    async fn put_credential(&mut self, row: &Credential) -> Outcome<()> {
        let filter = doc! { "_id": row.id.as_str(), "tenant": &row.tenant };
        let (credentials, update) = (self.store.credentials(), doc! { "$set": { "body": json(row) } });
        self.store.within(credentials.update_one(filter, update).session(&mut *self.session)).await.map(drop)
    }

    async fn remove_credential(&mut self, row: &Credential) -> Outcome<()> {
        let filter = doc! { "_id": row.id.as_str(), "tenant": &row.tenant };
        let credentials = self.store.credentials();
        self.store.within(credentials.delete_one(filter).session(&mut *self.session)).await.map(drop)
    }

    async fn count(&mut self, tenant: &str, owner: Owner<'_>) -> Outcome<usize> {
        let credentials = self.store.credentials();
        let count = credentials.count_documents(of_owner(tenant, owner)).session(&mut *self.session);
        Ok(usize::try_from(self.store.within(count).await?).unwrap_or(usize::MAX))
    }

    async fn credentials(&mut self, tenant: &str, owner: Owner<'_>) -> Outcome<Vec<Credential>> {
        let rows = self.all(self.store.credentials(), of_owner(tenant, owner), doc! { "_id": 1 }, 0).await?;
        let shown = &self.store.shown;
        Ok(rows.iter().map(|row| body(shown, "a credential", row)).collect::<Result<_, _>>()?)
    }

    async fn some_credentials(&mut self, tenant: &str, most: usize) -> Outcome<Vec<Credential>> {
        let limit = signed(most as u64);
        let rows = self.all(self.store.credentials(), doc! { "tenant": tenant }, doc! { "_id": 1 }, limit).await?;
        let shown = &self.store.shown;
        Ok(rows.iter().map(|row| body(shown, "a credential", row)).collect::<Result<_, _>>()?)
    }

    async fn count_credentials(&mut self, tenant: &str) -> Outcome<u64> {
        let credentials = self.store.credentials();
        let count = credentials.count_documents(doc! { "tenant": tenant }).session(&mut *self.session);
        self.store.within(count).await
    }

    async fn remove_requests(&mut self, tenant: &str) -> Outcome<usize> {
        let requests = self.store.requests();
        let delete = requests.delete_many(doc! { "tenant": tenant }).session(&mut *self.session);
        let deleted = self.store.within(delete).await?.deleted_count;
        Ok(usize::try_from(deleted).unwrap_or(usize::MAX))
    }

    async fn device_among(&mut self, tenant: &str, devices: &[&str], prefix: &str) -> Outcome<Option<String>> {
        // Behind all that begin with `a:` comes `a;`, since `;` is the character behind `:`.
        let end = prefix.strip_suffix(':').map(|device| format!("{device};")).unwrap_or_default();
        let found = [
            doc! { "tenant": tenant, "device": { "$in": devices } },
            doc! { "tenant": tenant, "device": { "$gte": prefix, "$lt": end } },
        ];
        for filter in found {
            if let Some(row) = self.one(self.store.credentials(), filter).await? {
                return Ok(row.get_str("device").ok().map(str::to_owned));
            }
        }
        Ok(None)
    }

    async fn request(&mut self, tenant: &str, id: &str) -> Outcome<Option<Request>> {
        let row = self.one(self.store.requests(), doc! { "_id": request_id(tenant, id) }).await?;
        Ok(row.map(|row| body(&self.store.shown, id, &row)).transpose()?)
    }

    async fn put_request(&mut self, tenant: &str, id: &str, request: &Request, oldest: Nanos) -> Outcome<()> {
        let requests = self.store.requests();
        let old = doc! { "tenant": tenant, "at": { "$lte": oldest } };
        self.store.within(requests.delete_many(old).session(&mut *self.session)).await?;
        let row = doc! { "tenant": tenant, "at": request.at, "body": json(request) };
        self.put(requests, request_id(tenant, id), row).await
    }

    async fn append(&mut self, event: AuditEvent) -> Outcome<()> {
        let (head, bytes) = extend(self.head, event);
        let (sequence, hash) = (signed(head.sequence), binary(&head.hash));
        let row = doc! { "tenant": &self.tenant, "sequence": sequence, "hash": &hash, "event": binary(&bytes) };
        let audit = self.store.audit();
        self.store.within(audit.insert_one(row).session(&mut *self.session)).await?;
        let tenant = self.tenant.clone();
        self.put(self.store.heads(), tenant, doc! { "sequence": sequence, "hash": hash }).await?;
        self.head = head;
        Ok(())
    }

    async fn recent_events(&mut self, limit: usize) -> Outcome<Vec<AuditEvent>> {
        let (filter, order) = (doc! { "tenant": &self.tenant }, doc! { "sequence": -1 });
        let rows = self.all(self.store.audit(), filter, order, signed(limit as u64)).await?;
        Ok(rows.iter().map(|row| event(&self.store.shown, row)).collect::<Result<_, _>>()?)
    }

    async fn control(&mut self, tenant: &str, kind: ChangeKind) -> Outcome<()> {
        let head = self.changed(self.store.state(), "control", doc! { "$inc": { "newest": 1_i64 } }).await?;
        let number = number(&head, "newest");
        let change = Change { number, tenant: tenant.to_owned(), kind };
        let row = doc! { "_id": signed(number), "tenant": tenant, "body": json(&change) };
        let control = self.store.control();
        self.store.within(control.insert_one(row).session(&mut *self.session)).await?;
        if number.is_multiple_of(TRIMMED_EVERY) {
            self.trim_to = number.checked_sub(KEPT_CHANGES);
        }
        Ok(())
    }

    async fn tenants_of(&mut self, ids: &[CredentialId]) -> Outcome<Vec<(String, CredentialId)>> {
        let ids: Vec<&str> = ids.iter().map(CredentialId::as_str).collect();
        let rows = self.all(self.store.credentials(), doc! { "_id": { "$in": ids } }, doc! { "_id": 1 }, 0).await?;
        let of = |row: &Document| {
            let id = CredentialId::parse(row.get_str("_id").ok()?)?;
            Some((row.get_str("tenant").ok()?.to_owned(), id))
        };
        Ok(rows.iter().filter_map(of).collect())
    }

    async fn put_uses(&mut self, tenant: &str, uses: &[Use]) -> Outcome<()> {
        let credentials = self.store.credentials();
        for used in uses {
            let filter = doc! { "_id": used.id.as_str(), "tenant": tenant };
            let mut update = doc! { "$max": { "last_use": used.at } };
            if used.moves() {
                // A lookup names a damage; uses of other credentials go on.
                let row = self.one(credentials.clone(), filter.clone()).await?;
                let row = row.and_then(|row| body::<Credential>(&self.store.shown, "", &row).ok());
                if let Some(row) = row.and_then(|row| row.moved_by(used)) {
                    update.insert("$set", doc! { "body": json(&row) });
                }
            }
            self.store.within(credentials.update_one(filter, update).session(&mut *self.session)).await?;
        }
        Ok(())
    }

    async fn pepper(&mut self, version: u32, fingerprint: &[u8; 32]) -> Outcome<Vec<u8>> {
        let update = doc! { "$setOnInsert": { "fingerprint": binary(fingerprint) } };
        let row = self.changed(self.store.state(), &format!("pepper-{version}"), update).await?;
        Ok(row.get_binary_generic("fingerprint").cloned().unwrap_or_default())
    }
}
