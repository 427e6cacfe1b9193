//! Changes: the rules of every registry, over the rows of one transaction of the file.

use async_trait::async_trait;
use futures::FutureExt;
use model::Nanos;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::audit;
use super::file::{Outcome, Stop};
use super::rows::{
    CREDENTIALS, OF_DEVICES, OF_TENANTS, PEPPERS, REQUEST_TIMES, REQUESTS, TENANTS, USES, get, put, seal, unseal,
};
use crate::CredentialId;
use crate::registry::transaction::{self, Request, Rows, Work};
use crate::registry::{AuditEvent, ChangeKind, Credential, Error, Owner, Tenant, Use};

/// Old requests that one creation removes.
const REMOVED_REQUESTS: usize = 100;

/// A table that lists credentials.
type Index = TableDefinition<'static, (&'static str, &'static str, &'static str), ()>;

/// Makes a change in a transaction.
pub(super) fn make<W: Work>(write: &WriteTransaction, work: &W) -> Outcome<W::Output> {
    let mut rows = FileRows { write, tenant: String::new(), stop: None };
    // A commit has an answer, so no change is in doubt.
    let outcome = work.run(&mut rows, false).now_or_never().expect("rows of a file wait for nothing");
    outcome.map_err(|refused| rows.stop.unwrap_or_else(|| refused.error().into()))
}

/// The rows of one transaction.
pub(super) struct FileRows<'a> {
    write: &'a WriteTransaction,
    /// The tenant that was entered.
    tenant: String,
    /// The reason of the file why the transaction ended early.
    stop: Option<Stop>,
}

impl FileRows<'_> {
    pub(super) fn run<T>(
        &mut self,
        work: impl FnOnce(&WriteTransaction, &str) -> Outcome<T>,
    ) -> transaction::Outcome<T> {
        work(self.write, &self.tenant).map_err(|stop| {
            self.stop = Some(stop);
            transaction::Stop::Refused(Error::Unavailable(String::new()))
        })
    }
}

#[async_trait]
impl Rows for FileRows<'_> {
    async fn enter(&mut self, tenant: &str) -> transaction::Outcome<()> {
        tenant.clone_into(&mut self.tenant);
        Ok(())
    }

    async fn tenant(&mut self, id: &str) -> transaction::Outcome<Option<Tenant>> {
        self.run(|write, _| get(&write.open_table(TENANTS)?, id))
    }

    async fn put_tenant(&mut self, tenant: &Tenant) -> transaction::Outcome<()> {
        self.run(|write, _| put(write, TENANTS, &tenant.id, tenant))
    }

    async fn credential(&mut self, id: CredentialId) -> transaction::Outcome<Option<Credential>> {
        self.run(|write, tenant| {
            let row: Option<Credential> = get(&write.open_table(CREDENTIALS)?, id.as_str())?;
            Ok(row.filter(|row| row.tenant == tenant))
        })
    }

    async fn add_credential(&mut self, row: &Credential) -> transaction::Outcome<bool> {
        self.run(|write, _| {
            let is_new = write.open_table(CREDENTIALS)?.get(row.id.as_str())?.is_none();
            if is_new {
                put(write, CREDENTIALS, row.id.as_str(), row)?;
                let (table, key) = place(row);
                write.open_table(table)?.insert(key, ())?;
            }
            Ok(is_new)
        })
    }

    async fn put_credential(&mut self, row: &Credential) -> transaction::Outcome<()> {
        self.run(|write, _| put(write, CREDENTIALS, row.id.as_str(), row))
    }

    async fn remove_credential(&mut self, row: &Credential) -> transaction::Outcome<()> {
        self.run(|write, _| {
            let id = row.id.as_str();
            write.open_table(CREDENTIALS)?.remove(id)?;
            write.open_table(USES)?.remove(id)?;
            let (table, key) = place(row);
            write.open_table(table)?.remove(key)?;
            Ok(())
        })
    }

    async fn count(&mut self, tenant: &str, owner: Owner<'_>) -> transaction::Outcome<usize> {
        self.run(|write, _| Ok(ids_of(write, tenant, owner)?.len()))
    }

    async fn credentials(&mut self, tenant: &str, owner: Owner<'_>) -> transaction::Outcome<Vec<Credential>> {
        self.run(|write, _| {
            let ids = ids_of(write, tenant, owner)?;
            let table = write.open_table(CREDENTIALS)?;
            ids.iter().filter_map(|id| get(&table, id).transpose()).collect()
        })
    }

    async fn some_credentials(&mut self, tenant: &str, most: usize) -> transaction::Outcome<Vec<Credential>> {
        self.run(|write, _| {
            let table = write.open_table(CREDENTIALS)?;
            let ids = ids_of_tenant(write, tenant, most)?;
            ids.iter().filter_map(|id| get(&table, id).transpose()).collect()
        })
    }

    async fn count_credentials(&mut self, tenant: &str) -> transaction::Outcome<u64> {
        self.run(|write, _| Ok(ids_of_tenant(write, tenant, usize::MAX)?.len() as u64))
    }

    async fn remove_requests(&mut self, tenant: &str) -> transaction::Outcome<usize> {
        self.run(|write, _| {
            let mut times = write.open_table(REQUEST_TIMES)?;
            let mut requests = write.open_table(REQUESTS)?;
            let mut found = Vec::new();
            for entry in requests.range((tenant, "")..)? {
                let (key, value) = entry?;
                let (of, id) = key.value();
                if of != tenant {
                    break;
                }
                found.push((id.to_owned(), unseal::<Request>(id, value.value())?.at));
            }
            for (id, at) in &found {
                requests.remove((tenant, &**id))?;
                times.remove((*at, tenant, &**id))?;
            }
            Ok(found.len())
        })
    }

    async fn device_among(
        &mut self,
        tenant: &str,
        devices: &[&str],
        prefix: &str,
    ) -> transaction::Outcome<Option<String>> {
        self.run(|write, _| {
            let table = write.open_table(OF_DEVICES)?;
            let first = |from: &str| -> Outcome<Option<String>> {
                let entry = table.range((tenant, from, "")..)?.next().transpose()?;
                Ok(entry.filter(|(key, _)| key.value().0 == tenant).map(|(key, _)| key.value().1.to_owned()))
            };
            for device in devices {
                if let Some(found) = first(device)?.filter(|found| found == device) {
                    return Ok(Some(found));
                }
            }
            Ok(first(prefix)?.filter(|found| found.starts_with(prefix)))
        })
    }

    async fn request(&mut self, tenant: &str, id: &str) -> transaction::Outcome<Option<Request>> {
        self.run(|write, _| {
            let table = write.open_table(REQUESTS)?;
            table.get((tenant, id))?.map(|bytes| unseal(id, bytes.value())).transpose()
        })
    }

    async fn put_request(
        &mut self,
        tenant: &str,
        id: &str,
        request: &Request,
        oldest: Nanos,
    ) -> transaction::Outcome<()> {
        self.run(|write, _| {
            let mut requests = write.open_table(REQUESTS)?;
            let mut times = write.open_table(REQUEST_TIMES)?;
            for _ in 0..REMOVED_REQUESTS {
                let first = times.first()?.map(|(key, _)| {
                    let (at, tenant, request) = key.value();
                    (at, tenant.to_owned(), request.to_owned())
                });
                let Some((at, tenant, request)) = first.filter(|(at, ..)| *at <= oldest) else { break };
                times.remove((at, &*tenant, &*request))?;
                requests.remove((&*tenant, &*request))?;
            }
            requests.insert((tenant, id), seal(request).as_slice())?;
            times.insert((request.at, tenant, id), ())?;
            Ok(())
        })
    }

    async fn append(&mut self, event: AuditEvent) -> transaction::Outcome<()> {
        self.run(|write, tenant| audit::append(write, tenant, event))
    }

    async fn recent_events(&mut self, limit: usize) -> transaction::Outcome<Vec<AuditEvent>> {
        self.run(|write, tenant| audit::newest(&write.open_table(super::rows::AUDIT)?, tenant, None, limit))
    }

    async fn control(&mut self, tenant: &str, kind: ChangeKind) -> transaction::Outcome<()> {
        self.run(|write, _| audit::control(write, tenant, kind))
    }

    async fn tenants_of(&mut self, ids: &[CredentialId]) -> transaction::Outcome<Vec<(String, CredentialId)>> {
        self.run(|write, _| {
            let table = write.open_table(CREDENTIALS)?;
            let mut found = Vec::new();
            for id in ids {
                match get::<Credential>(&table, id.as_str()) {
                    Ok(row) => found.extend(row.map(|row| (row.tenant, *id))),
                    // A lookup names the damage; uses of other credentials go on.
                    Err(Stop::Damaged(_)) => {}
                    Err(stop) => return Err(stop),
                }
            }
            Ok(found)
        })
    }

    async fn put_uses(&mut self, _tenant: &str, uses: &[Use]) -> transaction::Outcome<()> {
        self.run(|write, _| {
            for used in uses {
                let id = used.id.as_str();
                write.open_table(USES)?.insert(id, used.at)?;
                if !used.moves() {
                    continue;
                }
                let row: Option<Credential> = get(&write.open_table(CREDENTIALS)?, id)?;
                if let Some(row) = row.and_then(|row| row.moved_by(used)) {
                    put(write, CREDENTIALS, id, &row)?;
                }
            }
            Ok(())
        })
    }

    async fn pepper(&mut self, version: u32, fingerprint: &[u8; 32]) -> transaction::Outcome<Vec<u8>> {
        self.run(|write, _| {
            let mut table = write.open_table(PEPPERS)?;
            if let Some(known) = table.get(version)? {
                return Ok(known.value().to_vec());
            }
            table.insert(version, fingerprint.as_slice())?;
            Ok(fingerprint.to_vec())
        })
    }
}

/// Returns the table that lists the credentials of an owner, and its part of their keys.
fn index(owner: Owner<'_>) -> (Index, &str) {
    match owner {
        Owner::Device(device) => (OF_DEVICES, device),
        Owner::Tenant(class) => (OF_TENANTS, class.as_str()),
    }
}

/// Returns the table that lists a credential, and its key there.
fn place(row: &Credential) -> (Index, (&str, &str, &str)) {
    let (table, owner) = index(row.owner());
    (table, (&row.tenant, owner, row.id.as_str()))
}

/// Returns the ids of some credentials of a tenant.
fn ids_of_tenant(write: &WriteTransaction, tenant: &str, most: usize) -> Outcome<Vec<String>> {
    let mut ids = Vec::new();
    for table in [OF_DEVICES, OF_TENANTS] {
        for entry in write.open_table(table)?.range((tenant, "", "")..)? {
            let (key, _) = entry?;
            let (of, _, id) = key.value();
            if of != tenant || ids.len() >= most {
                break;
            }
            ids.push(id.to_owned());
        }
    }
    Ok(ids)
}

/// Returns the ids of all credentials of an owner.
fn ids_of(write: &WriteTransaction, tenant: &str, owner: Owner<'_>) -> Outcome<Vec<String>> {
    let (table, owner) = index(owner);
    let table = write.open_table(table)?;
    let mut ids = Vec::new();
    for entry in table.range((tenant, owner, "")..)? {
        let (key, _) = entry?;
        let (of, at, id) = key.value();
        if (of, at) != (tenant, owner) {
            break;
        }
        ids.push(id.to_owned());
    }
    Ok(ids)
}
