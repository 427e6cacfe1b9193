//! The rules of every registry: limits, repeats, clashes, the audit and the control log of each
//! change, over the rows of one transaction.
//!
//! On a server a change may run several times: the transaction is repeated after a conflict with
//! another one, and after a commit whose answer was lost.

pub(super) mod deletion;
pub(super) mod devices;
pub(super) mod groups;

use std::collections::HashMap;

use async_trait::async_trait;

use super::transaction::{Outcome, Request, Rows, Work};
use super::{
    AuditEvent, ChangeKind, Class, Created, Credential, CredentialKind, Denial, Error, Origin, Owner, REPEATS, Tenant,
    TenantState, TenantUpdate, Use,
};
use crate::CredentialId;
use deletion::check_kept;

/// Entries of the control log that are kept.
pub(super) const KEPT_CHANGES: u64 = 10_000;

/// Expired credentials that one creation removes: each is an entry of the control log, of which
/// followers must not miss more than are kept.
const REMOVED_EXPIRED: usize = 100;

/// Events at the end of a chain among which a repeated denial is searched.
const RECENT_EVENTS: usize = 64;

/// [`RegistryWrites::create_tenant`](super::RegistryWrites::create_tenant).
pub(super) struct CreateTenant(pub(super) Tenant, pub(super) Origin);

#[async_trait]
impl Work for CreateTenant {
    type Output = Created<Tenant>;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Self::Output> {
        let Self(tenant, origin) = self;
        rows.enter(&tenant.id).await?;
        let content = ("", tenant.pool.as_deref().unwrap_or_default());
        if let Some(known) = rows.tenant(&tenant.id).await? {
            if in_doubt && known == *tenant {
                return Ok(Created { row: known, is_repeat: false });
            }
            return match repeated(rows, &tenant.id, content, origin).await? {
                Some(_) => Ok(Created { row: known, is_repeat: true }),
                None => Err(Error::Exists(format!("tenants/{}", tenant.id)).into()),
            };
        }
        rows.put_tenant(tenant).await?;
        remember(rows, &tenant.id, content, "", origin).await?;
        let pool = tenant.pool.as_ref().map(|pool| format!(", pool {pool:?}")).unwrap_or_default();
        let detail = format!("display_name {:?}{pool}", tenant.display_name);
        record(rows, &tenant.id, format!("tenants/{}", tenant.id), detail, origin, ChangeKind::TenantActive).await?;
        Ok(Created { row: tenant.clone(), is_repeat: false })
    }
}

/// [`RegistryWrites::set_tenant_state`](super::RegistryWrites::set_tenant_state).
pub(super) struct SetTenantState(pub(super) String, pub(super) TenantState, pub(super) Origin);

#[async_trait]
impl Work for SetTenantState {
    type Output = Tenant;

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<Tenant> {
        let Self(id, state, origin) = self;
        let mut tenant = entered(rows, id).await?;
        if tenant.state == *state {
            return Ok(tenant);
        }
        check_kept(&tenant)?;
        tenant.state = *state;
        tenant.version += 1;
        rows.put_tenant(&tenant).await?;
        let kind = match state {
            TenantState::Active => ChangeKind::TenantActive,
            _ => ChangeKind::TenantSuspended,
        };
        record(rows, id, format!("tenants/{id}"), state.as_str().into(), origin, kind).await?;
        Ok(tenant)
    }
}

/// [`RegistryWrites::update_tenant`](super::RegistryWrites::update_tenant).
pub(super) struct UpdateTenant(pub(super) String, pub(super) TenantUpdate, pub(super) Origin);

#[async_trait]
impl Work for UpdateTenant {
    type Output = Tenant;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Tenant> {
        let Self(id, update, origin) = self;
        let mut tenant = entered(rows, id).await?;
        let before = TenantUpdate { version: None, ..update.clone() };
        if in_doubt && !before.apply(&mut tenant.clone())? {
            return Ok(tenant);
        }
        if update.apply(&mut tenant)? {
            check_kept(&tenant)?;
            rows.put_tenant(&tenant).await?;
            let name = format!("tenants/{id}");
            record(rows, id, name, update.detail(), origin, ChangeKind::TenantUpdated).await?;
        }
        Ok(tenant)
    }
}

/// [`RegistryWrites::create_credential`](super::RegistryWrites::create_credential).
pub(super) struct CreateCredential(pub(super) Credential, pub(super) Origin);

#[async_trait]
impl Work for CreateCredential {
    type Output = Created<Credential>;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Self::Output> {
        let Self(row, origin) = self;
        check_kept(&entered(rows, &row.tenant).await?)?;
        if in_doubt
            && let Some(known) = rows.credential(row.id).await?
            && known.created == row.created
            && known.kind == row.kind
        {
            return Ok(Created { row: known, is_repeat: false });
        }
        let content = row.kind.content();
        let target = (row.device().unwrap_or_default(), content.as_str());
        if let Some(id) = repeated(rows, &row.tenant, target, origin).await? {
            let known = match CredentialId::parse(&id) {
                Some(id) => rows.credential(id).await?,
                None => None,
            };
            let gone = || Error::Invalid {
                field: "request_id",
                reason: "its credential has been deleted: use another request id".into(),
            };
            return Ok(Created { row: known.ok_or_else(gone)?, is_repeat: true });
        }
        if let Some(device) = row.device() {
            check_client_ids(rows, &row.tenant, device).await?;
        }
        groups::check_groups(rows, row).await?;
        make_room(rows, row, origin).await?;
        if !rows.add_credential(row).await? {
            return Err(Error::Exists(row.name()).into());
        }
        remember(rows, &row.tenant, target, row.id.as_str(), origin).await?;
        record(rows, &row.tenant, row.name(), row.detail(), origin, ChangeKind::Created(row.id)).await?;
        Ok(Created { row: row.clone(), is_repeat: false })
    }
}

/// [`RegistryWrites::update_credential`](super::RegistryWrites::update_credential).
pub(super) struct UpdateCredential {
    pub(super) tenant: String,
    pub(super) id: CredentialId,
    pub(super) kind: CredentialKind,
    pub(super) etag: Option<String>,
    pub(super) origin: Origin,
}

#[async_trait]
impl Work for UpdateCredential {
    type Output = Credential;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Credential> {
        check_kept(&entered(rows, &self.tenant).await?)?;
        let row = rows.credential(self.id).await?.filter(|row| row.tenant == self.tenant);
        let row = row.ok_or_else(|| Error::NotFound(format!("credential {}", self.id)))?;
        let new = Credential { kind: self.kind.clone(), ..row.clone() };
        if new.owner() != row.owner() {
            return Err(Error::NotFound(format!("credential {}", self.id)).into());
        }
        if in_doubt && new == row {
            return Ok(row);
        }
        if self.etag.as_ref().is_some_and(|etag| *etag != row.etag()) {
            return Err(Error::Conflict(row.name()).into());
        }
        if new != row {
            groups::check_groups(rows, &new).await?;
            rows.put_credential(&new).await?;
            // What the old content opened ends, and is looked up again.
            record(rows, &self.tenant, new.name(), new.detail(), &self.origin, ChangeKind::Deleted(self.id)).await?;
            rows.control(&self.tenant, ChangeKind::Created(self.id)).await?;
        }
        Ok(new)
    }
}

/// The owner of a credential that is to be deleted.
#[derive(Debug, Clone)]
pub(super) enum OwnedBy {
    Device(String),
    Tenant(Class),
}

impl From<Owner<'_>> for OwnedBy {
    fn from(owner: Owner<'_>) -> Self {
        match owner {
            Owner::Device(device) => Self::Device(device.to_owned()),
            Owner::Tenant(class) => Self::Tenant(class),
        }
    }
}

impl OwnedBy {
    fn as_owner(&self) -> Owner<'_> {
        match self {
            Self::Device(device) => Owner::Device(device),
            Self::Tenant(class) => Owner::Tenant(*class),
        }
    }
}

/// [`RegistryWrites::delete_credential`](super::RegistryWrites::delete_credential).
pub(super) struct DeleteCredential {
    pub(super) tenant: String,
    pub(super) owner: OwnedBy,
    pub(super) id: CredentialId,
    pub(super) origin: Origin,
}

#[async_trait]
impl Work for DeleteCredential {
    type Output = ();

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<()> {
        rows.enter(&self.tenant).await?;
        let row = rows.credential(self.id).await?;
        let row = row.filter(|row| row.tenant == self.tenant && row.owner() == self.owner.as_owner());
        let Some(row) = row else {
            // The first time it was there.
            return if in_doubt { Ok(()) } else { Err(Error::NotFound(format!("credential {}", self.id)).into()) };
        };
        rows.remove_credential(&row).await?;
        record(rows, &self.tenant, row.name(), String::new(), &self.origin, ChangeKind::Deleted(self.id)).await
    }
}

/// [`RegistryWrites::record_uses`](super::RegistryWrites::record_uses).
pub(super) struct RecordUses(pub(super) Vec<Use>);

#[async_trait]
impl Work for RecordUses {
    type Output = ();

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<()> {
        let ids: Vec<CredentialId> = self.0.iter().map(|used| used.id).collect();
        let found = rows.tenants_of(&ids).await?;
        let tenants: HashMap<CredentialId, String> = found.into_iter().map(|(tenant, id)| (id, tenant)).collect();
        let mut uses: Vec<(&String, Use)> =
            self.0.iter().filter_map(|used| Some((tenants.get(&used.id)?, used.clone()))).collect();
        // One order for all processes: they wait for each other, and do not block each other.
        uses.sort_by_key(|(tenant, used)| (*tenant, used.id));
        for of_tenant in uses.chunk_by(|a, b| a.0 == b.0) {
            let uses: Vec<Use> = of_tenant.iter().map(|(_, used)| used.clone()).collect();
            rows.put_uses(of_tenant[0].0, &uses).await?;
        }
        Ok(())
    }
}

/// [`RegistryWrites::record_denials`](super::RegistryWrites::record_denials).
pub(super) struct RecordDenials(pub(super) Vec<Denial>);

#[async_trait]
impl Work for RecordDenials {
    type Output = ();

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<()> {
        let mut denials: Vec<&Denial> = self.0.iter().collect();
        denials.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        for of_tenant in denials.chunk_by(|a, b| a.tenant == b.tenant) {
            rows.enter(&of_tenant[0].tenant).await?;
            let recent = if in_doubt { rows.recent_events(RECENT_EVENTS).await? } else { Vec::new() };
            for denial in of_tenant {
                let event = denied(denial);
                let is_same =
                    |known: &AuditEvent| AuditEvent { sequence: 0, hash: event.hash, ..known.clone() } == event;
                if !recent.iter().any(is_same) {
                    rows.append(event).await?;
                }
            }
        }
        Ok(())
    }
}

/// [`RegistryWrites::record_action`](super::RegistryWrites::record_action).
pub(super) struct RecordAction {
    pub(super) tenant: String,
    pub(super) resource: String,
    pub(super) detail: String,
    pub(super) origin: Origin,
}

#[async_trait]
impl Work for RecordAction {
    type Output = ();

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<()> {
        let Self { tenant, resource, detail, origin } = self;
        rows.enter(tenant).await?;
        let recent = if in_doubt { rows.recent_events(RECENT_EVENTS).await? } else { Vec::new() };
        let event = event(resource.clone(), detail.clone(), origin);
        let is_same = |known: &AuditEvent| AuditEvent { sequence: 0, hash: event.hash, ..known.clone() } == event;
        if !recent.iter().any(is_same) {
            rows.append(event).await?;
        }
        Ok(())
    }
}

fn denied(denial: &Denial) -> AuditEvent {
    AuditEvent {
        at: denial.at,
        principal: denial.principal.clone(),
        method: denial.method.clone(),
        address: denial.address.map(|address| address.to_string()),
        granted: false,
        detail: denial.reason.clone(),
        count: denial.count,
        ..AuditEvent::default()
    }
}

/// [`RegistryWrites::match_peppers`](super::RegistryWrites::match_peppers).
pub(super) struct MatchPeppers(pub(super) Vec<(u32, [u8; 32])>);

#[async_trait]
impl Work for MatchPeppers {
    type Output = ();

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<()> {
        for (version, fingerprint) in &self.0 {
            if rows.pepper(*version, fingerprint).await? != fingerprint {
                return Err(Error::NeedsOperator(format!(
                    "pepper {version} is not the one that its secrets are kept under: restore the file of peppers"
                ))
                .into());
            }
        }
        Ok(())
    }
}

async fn entered<R: Rows>(rows: &mut R, id: &str) -> Outcome<Tenant> {
    rows.enter(id).await?;
    rows.tenant(id).await?.ok_or_else(|| Error::NotFound(format!("tenants/{id}")).into())
}

/// Adds the event of a change, and its entry of the control log.
async fn record<R: Rows>(
    rows: &mut R,
    tenant: &str,
    resource: String,
    detail: String,
    origin: &Origin,
    kind: ChangeKind,
) -> Outcome<()> {
    rows.append(event(resource, detail, origin)).await?;
    rows.control(tenant, kind).await
}

/// The event of a change.
fn event(resource: String, detail: String, origin: &Origin) -> AuditEvent {
    AuditEvent {
        at: origin.at,
        principal: origin.by.clone(),
        method: origin.method.to_owned(),
        resource,
        address: origin.address.map(|address| address.to_string()),
        request_id: origin.request_id.clone(),
        granted: true,
        detail,
        count: 1,
        ..AuditEvent::default()
    }
}

/// Removes expired credentials of the owner when there are as many as may be; the creation is
/// refused when that is not enough.
async fn make_room<R: Rows>(rows: &mut R, new: &Credential, origin: &Origin) -> Outcome<()> {
    let (what, most) = (new.class().plural(), new.class().most());
    let mut left = rows.count(&new.tenant, new.owner()).await?;
    if left < most {
        return Ok(());
    }
    // Rows without an end are not read, so that a refusal costs little.
    if matches!(new.class(), Class::Issuer | Class::RoleBinding) {
        return Err(Error::Limit { what, most }.into());
    }
    let expired = rows.credentials(&new.tenant, new.owner()).await?;
    let expired = expired.into_iter().filter(|row| row.has_expired(origin.at));
    for row in expired.take(REMOVED_EXPIRED) {
        rows.remove_credential(&row).await?;
        let reason = "expired; removed to make room for a new one".to_owned();
        record(rows, &row.tenant, row.name(), reason, origin, ChangeKind::Deleted(row.id)).await?;
        left -= 1;
    }
    if left < most { Ok(()) } else { Err(Error::Limit { what, most }.into()) }
}

/// Client ids of the device `a` begin with `a:`, so that the device `a:b` cannot exist beside it:
/// each could take over sessions of the other.
async fn check_client_ids<R: Rows>(rows: &mut R, tenant: &str, device: &str) -> Outcome<()> {
    let shorter: Vec<&str> = door::owners(device).skip(1).collect();
    match rows.device_among(tenant, &shorter, &format!("{device}:")).await? {
        None => Ok(()),
        Some(other) => {
            let reason = format!(
                "client ids of a device may begin with its id and ':', so it clashes with the device {other:?}"
            );
            Err(Error::Invalid { field: "device", reason }.into())
        }
    }
}

/// Returns the id that the same request created before.
async fn repeated<R: Rows>(
    rows: &mut R,
    tenant: &str,
    (target, content): (&str, &str),
    origin: &Origin,
) -> Outcome<Option<String>> {
    let Some(request_id) = &origin.request_id else { return Ok(None) };
    let known = rows.request(tenant, request_id).await?;
    let Some(known) = known.filter(|known| known.at.saturating_add(REPEATS) > origin.at) else { return Ok(None) };
    let is_same =
        (&*known.by, &*known.method, &*known.target, &*known.content) == (&*origin.by, origin.method, target, content);
    if !is_same {
        let reason = "it was used for another request: use a new one".to_owned();
        return Err(Error::Invalid { field: "request_id", reason }.into());
    }
    Ok(Some(known.id))
}

/// Keeps the request, and removes those that are too old to be repeated.
async fn remember<R: Rows>(
    rows: &mut R,
    tenant: &str,
    (target, content): (&str, &str),
    id: &str,
    origin: &Origin,
) -> Outcome<()> {
    let Some(request_id) = &origin.request_id else { return Ok(()) };
    let request = Request {
        by: origin.by.clone(),
        method: origin.method.to_owned(),
        target: target.to_owned(),
        content: content.to_owned(),
        id: id.to_owned(),
        at: origin.at,
    };
    rows.put_request(tenant, request_id, &request, origin.at.saturating_sub(REPEATS)).await
}
