//! Lookups and lists of tenants and credentials.

use std::ops::Bound;

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::file::{Outcome, Stop};
use super::rows::{CREDENTIALS, OF_DEVICES, OF_TENANTS, TENANTS, USES, get, unseal};
use crate::CredentialId;
use crate::registry::{Class, Credential, Found, Listed, Tenant};

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
