//! Changes and lists of tenants and credentials.

use std::ops::Bound;

use model::Nanos;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::audit::record;
use super::file::{Outcome, Stop};
use super::rows::{
    CREDENTIALS, OF_DEVICES, OF_TENANTS, PEPPERS, REQUEST_TIMES, REQUESTS, TENANTS, USES, get, put, seal, unseal,
};
use crate::CredentialId;
use crate::registry::{
    ChangeKind, Class, Created, Credential, Error, Found, Listed, Origin, Owner, REPEATS, Tenant, TenantState,
    TenantUpdate, Use,
};

/// Old requests that one creation removes.
const REMOVED_REQUESTS: usize = 100;

/// A table that lists credentials.
type Index = TableDefinition<'static, (&'static str, &'static str, &'static str), ()>;

/// A creation with a request id.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    by: String,
    method: String,
    /// The device of a secret; empty otherwise.
    target: String,
    /// Id of the credential; empty for a tenant.
    id: String,
    at: Nanos,
}

pub(super) fn create_tenant(write: &WriteTransaction, tenant: Tenant, origin: &Origin) -> Outcome<Created<Tenant>> {
    let known: Option<Tenant> = get(&write.open_table(TENANTS)?, &tenant.id)?;
    if let Some(known) = known {
        return match repeated(write, &tenant.id, "", origin)? {
            Some(_) => Ok(Created { row: known, is_repeat: true }),
            None => Err(Error::Exists(format!("tenants/{}", tenant.id)).into()),
        };
    }
    put(write, TENANTS, &tenant.id, &tenant)?;
    remember(write, &tenant.id, "", "", origin)?;
    let detail = format!("display_name {:?}", tenant.display_name);
    record(write, &tenant.id, format!("tenants/{}", tenant.id), detail, origin, ChangeKind::TenantActive)?;
    Ok(Created { row: tenant, is_repeat: false })
}

pub(super) fn set_state(write: &WriteTransaction, id: &str, state: TenantState, origin: &Origin) -> Outcome<Tenant> {
    let mut tenant = tenant_of(write, id)?;
    if tenant.state == state {
        return Ok(tenant);
    }
    tenant.state = state;
    tenant.version += 1;
    put(write, TENANTS, id, &tenant)?;
    let kind = match state {
        TenantState::Active => ChangeKind::TenantActive,
        TenantState::Suspended => ChangeKind::TenantSuspended,
    };
    record(write, id, format!("tenants/{id}"), state.as_str().into(), origin, kind)?;
    Ok(tenant)
}

pub(super) fn update_tenant(
    write: &WriteTransaction,
    id: &str,
    update: &TenantUpdate,
    origin: &Origin,
) -> Outcome<Tenant> {
    let mut tenant = tenant_of(write, id)?;
    if update.apply(&mut tenant)? {
        put(write, TENANTS, id, &tenant)?;
        record(write, id, format!("tenants/{id}"), update.detail(), origin, ChangeKind::TenantUpdated)?;
    }
    Ok(tenant)
}

fn tenant_of(write: &WriteTransaction, id: &str) -> Outcome<Tenant> {
    get(&write.open_table(TENANTS)?, id)?.ok_or_else(|| Error::NotFound(format!("tenants/{id}")).into())
}

pub(super) fn create(write: &WriteTransaction, row: Credential, origin: &Origin) -> Outcome<Created<Credential>> {
    tenant_of(write, &row.tenant)?;
    let target = row.device().unwrap_or_default();
    if let Some(id) = repeated(write, &row.tenant, target, origin)? {
        let known: Option<Credential> = get(&write.open_table(CREDENTIALS)?, &id)?;
        let gone = || Error::Invalid {
            field: "request_id",
            reason: "its credential has been deleted: use another request id".into(),
        };
        // An id that is derived from the content may belong to another tenant now.
        let known = known.filter(|known| known.tenant == row.tenant);
        return Ok(Created { row: known.ok_or_else(gone)?, is_repeat: true });
    }
    if let Some(device) = row.device() {
        check_client_ids(write, &row.tenant, device)?;
    }
    make_room(write, &row, origin)?;
    if write.open_table(CREDENTIALS)?.get(row.id.as_str())?.is_some() {
        return Err(Error::Exists(row.name()).into());
    }
    put(write, CREDENTIALS, row.id.as_str(), &row)?;
    let (table, key) = place(&row);
    write.open_table(table)?.insert(key, ())?;
    remember(write, &row.tenant, target, row.id.as_str(), origin)?;
    record(write, &row.tenant, row.name(), row.detail(), origin, ChangeKind::Created(row.id))?;
    Ok(Created { row, is_repeat: false })
}

/// Returns the table that lists a credential, and its key there.
fn place(row: &Credential) -> (Index, (&str, &str, &str)) {
    match row.owner() {
        Owner::Device(device) => (OF_DEVICES, (&row.tenant, device, row.id.as_str())),
        Owner::Tenant(class) => (OF_TENANTS, (&row.tenant, class.as_str(), row.id.as_str())),
    }
}

/// Removes expired credentials of the owner when there are as many as may be; the creation is
/// refused when that is not enough.
fn make_room(write: &WriteTransaction, new: &Credential, origin: &Origin) -> Outcome<()> {
    let (what, most) = (new.class().plural(), new.class().most());
    let ids = ids_beside(write, new)?;
    if ids.len() < most {
        return Ok(());
    }
    let mut left = ids.len();
    for id in ids {
        let row: Option<Credential> = get(&write.open_table(CREDENTIALS)?, &id)?;
        if let Some(row) = row.filter(|row| row.has_expired(origin.at)) {
            remove(write, &row)?;
            let reason = "expired; removed to make room for a new one".to_owned();
            record(write, &row.tenant, row.name(), reason, origin, ChangeKind::Deleted(row.id))?;
            left -= 1;
        }
    }
    if left < most { Ok(()) } else { Err(Error::Limit { what, most }.into()) }
}

/// Client ids of the device `a` begin with `a:`, so that the device `a:b` cannot exist beside it:
/// each could take over sessions of the other.
fn check_client_ids(write: &WriteTransaction, tenant: &str, device: &str) -> Outcome<()> {
    let table = write.open_table(OF_DEVICES)?;
    let first = |from: &str| -> Outcome<Option<String>> {
        let entry = table.range((tenant, from, "")..)?.next().transpose()?;
        Ok(entry.filter(|(key, _)| key.value().0 == tenant).map(|(key, _)| key.value().1.to_owned()))
    };
    for shorter in door::owners(device).skip(1) {
        if first(shorter)?.is_some_and(|found| found == shorter) {
            return Err(clash(shorter));
        }
    }
    let prefix = format!("{device}:");
    match first(&prefix)? {
        Some(longer) if door::belongs_to(&longer, device) => Err(clash(&longer)),
        _ => Ok(()),
    }
}

fn clash(other: &str) -> Stop {
    let reason =
        format!("client ids of a device may begin with its id and ':', so it clashes with the device {other:?}");
    Error::Invalid { field: "device", reason }.into()
}

/// Returns the ids of all credentials of the same owner.
fn ids_beside(write: &WriteTransaction, new: &Credential) -> Outcome<Vec<String>> {
    let (table, (tenant, owner, _)) = place(new);
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

pub(super) fn delete(
    write: &WriteTransaction,
    tenant: &str,
    owner: Owner<'_>,
    id: CredentialId,
    origin: &Origin,
) -> Outcome<()> {
    let row: Option<Credential> = get(&write.open_table(CREDENTIALS)?, id.as_str())?;
    let row = row.filter(|row| row.tenant == tenant && row.owner() == owner);
    let row = row.ok_or_else(|| Error::NotFound(format!("credential {id}")))?;
    remove(write, &row)?;
    record(write, tenant, row.name(), String::new(), origin, ChangeKind::Deleted(id))
}

fn remove(write: &WriteTransaction, row: &Credential) -> Outcome<()> {
    let id = row.id.as_str();
    write.open_table(CREDENTIALS)?.remove(id)?;
    write.open_table(USES)?.remove(id)?;
    let (table, key) = place(row);
    write.open_table(table)?.remove(key)?;
    Ok(())
}

/// Returns the id that the same request created before.
fn repeated(write: &WriteTransaction, tenant: &str, target: &str, origin: &Origin) -> Outcome<Option<String>> {
    let Some(request_id) = &origin.request_id else { return Ok(None) };
    let table = write.open_table(REQUESTS)?;
    let known: Option<Request> =
        table.get((tenant, &**request_id))?.map(|bytes| unseal(request_id, bytes.value())).transpose()?;
    let Some(known) = known.filter(|known| known.at.saturating_add(REPEATS) > origin.at) else { return Ok(None) };
    if (&*known.by, &*known.method, &*known.target) != (&*origin.by, origin.method, target) {
        let reason = "it was used for another request: use a new one".to_owned();
        return Err(Error::Invalid { field: "request_id", reason }.into());
    }
    Ok(Some(known.id))
}

/// Keeps the request, and removes some that are too old to be repeated.
fn remember(write: &WriteTransaction, tenant: &str, target: &str, id: &str, origin: &Origin) -> Outcome<()> {
    let mut requests = write.open_table(REQUESTS)?;
    let mut times = write.open_table(REQUEST_TIMES)?;
    for _ in 0..REMOVED_REQUESTS {
        let oldest = times.first()?.map(|(key, _)| {
            let (at, tenant, request) = key.value();
            (at, tenant.to_owned(), request.to_owned())
        });
        match oldest {
            Some((at, tenant, request)) if at.saturating_add(REPEATS) <= origin.at => {
                times.remove((at, &*tenant, &*request))?;
                requests.remove((&*tenant, &*request))?;
            }
            _ => break,
        }
    }
    if let Some(request_id) = &origin.request_id {
        let request = Request {
            by: origin.by.clone(),
            method: origin.method.to_owned(),
            target: target.to_owned(),
            id: id.to_owned(),
            at: origin.at,
        };
        requests.insert((tenant, &**request_id), seal(&request).as_slice())?;
        times.insert((origin.at, tenant, &**request_id), ())?;
    }
    Ok(())
}

pub(super) fn record_uses(write: &WriteTransaction, uses: &[Use]) -> Outcome<()> {
    for used in uses {
        let id = used.id.as_str();
        let row: Outcome<Option<Credential>> = get(&write.open_table(CREDENTIALS)?, id);
        let mut row = match row {
            Ok(Some(row)) => row,
            // A lookup names the damage; uses of other credentials go on.
            Ok(None) | Err(Stop::Damaged(_)) => continue,
            Err(stop) => return Err(stop),
        };
        write.open_table(USES)?.insert(id, used.at)?;
        if let Some(digest) = used.digest.filter(|digest| row.digest.is_some_and(|known| digest.pepper > known.pepper))
        {
            row.digest = Some(digest);
            put(write, CREDENTIALS, id, &row)?;
        }
    }
    Ok(())
}

pub(super) fn match_peppers(write: &WriteTransaction, fingerprints: &[(u32, [u8; 32])]) -> Outcome<()> {
    let mut table = write.open_table(PEPPERS)?;
    for (version, fingerprint) in fingerprints {
        let known = table.get(version)?.map(|known| known.value() == fingerprint);
        match known {
            Some(true) => {}
            None => {
                table.insert(version, fingerprint.as_slice())?;
            }
            Some(false) => {
                return Err(Error::NeedsOperator(format!(
                    "pepper {version} is not the one that its secrets are kept under: restore the file of peppers"
                ))
                .into());
            }
        }
    }
    Ok(())
}

pub(super) fn find(database: &Database, id: CredentialId) -> Outcome<Option<Found>> {
    let read = database.begin_read()?;
    let Some(credential): Option<Credential> = get(&read.open_table(CREDENTIALS)?, id.as_str())? else {
        return Ok(None);
    };
    let tenant: Option<Tenant> = get(&read.open_table(TENANTS)?, &credential.tenant)?;
    let tenant = tenant.ok_or_else(|| Stop::Damaged(format!("entry {}", credential.tenant)))?.state;
    let last_use = read.open_table(USES)?.get(id.as_str())?.map(|at| at.value());
    Ok(Some(Found { credential, tenant, last_use }))
}

pub(super) fn tenants(database: &Database, after: &str, limit: usize) -> Outcome<Vec<Tenant>> {
    let table = database.begin_read()?.open_table(TENANTS)?;
    let after = (Bound::Excluded(after), Bound::Unbounded);
    let mut found = Vec::new();
    for entry in table.range::<&str>(after)?.take(limit) {
        let (id, bytes) = entry?;
        found.push(unseal(id.value(), bytes.value())?);
    }
    Ok(found)
}

pub(super) fn of_devices(
    database: &Database,
    tenant: &str,
    device: Option<&str>,
    after: Option<(&str, CredentialId)>,
    limit: usize,
) -> Outcome<Vec<Listed>> {
    let read = database.begin_read()?;
    let first = (tenant, device.unwrap_or_default(), "");
    let after = after.as_ref().map_or(first, |(device, id)| (tenant, device, id.as_str())).max(first);
    let table = read.open_table(OF_DEVICES)?;
    let mut found = Vec::new();
    for entry in table.range((Bound::Excluded(after), Bound::Unbounded))?.take(limit) {
        let (key, _) = entry?;
        let (of, at, id) = key.value();
        if of != tenant || device.is_some_and(|device| device != at) {
            break;
        }
        found.push(listed(&read, id)?);
    }
    Ok(found)
}

pub(super) fn of_tenant(
    database: &Database,
    tenant: &str,
    class: Class,
    after: Option<CredentialId>,
    limit: usize,
) -> Outcome<Vec<Listed>> {
    let read = database.begin_read()?;
    let class = class.as_str();
    let after = (tenant, class, after.as_ref().map_or("", CredentialId::as_str));
    let table = read.open_table(OF_TENANTS)?;
    let mut found = Vec::new();
    for entry in table.range((Bound::Excluded(after), Bound::Unbounded))?.take(limit) {
        let (key, _) = entry?;
        let (of, at, id) = key.value();
        if (of, at) != (tenant, class) {
            break;
        }
        found.push(listed(&read, id)?);
    }
    Ok(found)
}

fn listed(read: &ReadTransaction, id: &str) -> Outcome<Listed> {
    let credential = get(&read.open_table(CREDENTIALS)?, id)?.ok_or_else(|| Stop::Damaged(format!("entry {id}")))?;
    let last_use = read.open_table(USES)?.get(id)?.map(|at| at.value());
    Ok(Listed { credential, last_use })
}
