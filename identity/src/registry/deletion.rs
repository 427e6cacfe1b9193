//! The deletion of a tenant: asked for, under way, done; and the steps between.

use model::Nanos;
use serde::{Deserialize, Serialize};

use super::{Error, Result, Tenant, TenantState};

/// The deletion of a tenant, and its report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Name of the principal that asked for it.
    pub by: String,
    /// The reason that was given.
    pub reason: String,
    /// Time of the request.
    pub requested: Nanos,
    /// Time from which data is removed; until then the tenant can be restored.
    pub purge: Nanos,
    /// The state before.
    pub was: TenantState,
    /// Time at which the removal began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Nanos>,
    /// Time at which all places were found empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Nanos>,
    /// The process that removes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Worker>,
    /// The data that each place held when the removal began; `None` before it was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Vec<PlaceCount>>,
    /// Places that still have data of the tenant, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub residuals: Vec<Residual>,
    /// The reason why the removal does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A process that removes data of a tenant. No other one does until its time has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// Time until which it has to show that it goes on.
    pub until: Nanos,
}

/// Data of a tenant in a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceCount {
    /// The place: `store mongodb`, `export plant`, `registry`.
    pub place: String,
    /// The kind: `readings`, `latest_states`.
    pub kind: String,
    /// Entries.
    pub count: u64,
}

/// Data of a tenant that stays after its deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residual {
    /// The place: `log`, `export bus`, `backups`.
    pub place: String,
    /// The reason, and what ends it.
    pub reason: String,
    /// Time at which it is gone; `None` where that is not known to Weir.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Nanos>,
}

/// A step of a deletion. The registry takes it only in a state that it follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeletionStep {
    /// Asks for it: the tenant's credentials are refused from now on.
    Request {
        /// The version of the tenant that is meant; `None` is any.
        version: Option<u64>,
        /// The reason.
        reason: String,
        /// Time from which data is removed.
        purge: Nanos,
    },
    /// Takes the request back.
    Cancel,
    /// Begins to remove data, or goes on where another process has stopped.
    Claim(Worker),
    /// Notes why the removal of a tenant that is due does not begin or go on, while no worker has
    /// it.
    Waits {
        /// The reason.
        trouble: String,
    },
    /// Shows that the worker goes on.
    Progress {
        /// The worker, with its new time.
        worker: Worker,
        /// The data that there was; `None` leaves what is known.
        counts: Option<Vec<PlaceCount>>,
        /// The reason why the removal does not go on.
        trouble: Option<String>,
    },
    /// Ends it: every place is empty.
    End {
        /// Name of the worker.
        worker: String,
        /// Data that stays.
        residuals: Vec<Residual>,
    },
}

/// The effect of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing has changed.
    None,
    /// The row alone has.
    Row,
    /// The state has: with an event, and an entry in the control log.
    State,
    /// The deletion has ended: with an event in the chain of the installation, too.
    End,
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Invalid { field: "name", reason: reason.into() }
}

impl DeletionStep {
    /// Changes the row of a tenant at a time, for a principal.
    ///
    /// # Errors
    /// [`Error::Conflict`]: the tenant has another version, or another process removes.
    /// [`Error::Invalid`]: the step does not follow from the state.
    pub(super) fn apply(&self, tenant: &mut Tenant, by: &str, now: Nanos) -> Result<Effect> {
        let name = format!("tenants/{}", tenant.id);
        match self {
            Self::Request { version, reason, purge } => {
                if let Some(deletion) = &mut tenant.deletion {
                    // Asked for twice: the earlier time counts.
                    if tenant.state != TenantState::Deleting || deletion.purge <= *purge {
                        return Ok(Effect::None);
                    }
                    if version.is_some_and(|version| version != tenant.version) {
                        return Err(Error::Conflict(name));
                    }
                    deletion.purge = *purge;
                    tenant.version += 1;
                    return Ok(Effect::State);
                }
                if version.is_some_and(|version| version != tenant.version) {
                    return Err(Error::Conflict(name));
                }
                tenant.deletion = Some(Box::new(Deletion {
                    by: by.to_owned(),
                    reason: reason.clone(),
                    requested: now,
                    purge: *purge,
                    was: tenant.state,
                    started: None,
                    ended: None,
                    worker: None,
                    counts: None,
                    residuals: Vec::new(),
                    trouble: None,
                }));
                tenant.state = TenantState::Deleting;
            }
            Self::Cancel => match (tenant.state, &tenant.deletion) {
                (TenantState::Deleting, Some(deletion)) => {
                    tenant.state = deletion.was;
                    tenant.deletion = None;
                }
                (TenantState::Active | TenantState::Suspended, _) => return Ok(Effect::None),
                _ => return Err(refused("its data is being removed or is gone: it cannot be restored")),
            },
            Self::Claim(worker) => {
                let state = tenant.state;
                let deletion = begun(tenant)?;
                let is_due = now >= deletion.purge;
                let is_held = deletion.worker.as_ref().is_some_and(|held| held.name != worker.name && held.until > now);
                match state {
                    TenantState::Deleting if is_due => deletion.started = Some(now),
                    TenantState::Purging if !is_held => {}
                    TenantState::Deleted => return Ok(Effect::None),
                    _ => return Err(Error::Conflict(name)),
                }
                deletion.worker = Some(worker.clone());
                if state == TenantState::Purging {
                    return Ok(Effect::Row);
                }
                deletion.trouble = None;
                tenant.state = TenantState::Purging;
            }
            Self::Waits { trouble } => {
                let is_open = matches!(tenant.state, TenantState::Deleting | TenantState::Purging);
                let deletion = begun(tenant)?;
                let is_held = deletion.worker.as_ref().is_some_and(|held| held.until > now);
                if !is_open || is_held || deletion.purge > now {
                    return Err(Error::Conflict(name));
                }
                if deletion.trouble.as_ref() == Some(trouble) {
                    return Ok(Effect::None);
                }
                deletion.trouble = Some(trouble.clone());
                return Ok(Effect::Row);
            }
            Self::Progress { worker, counts, trouble } => {
                let deletion = held(tenant, &worker.name)?;
                deletion.worker = Some(worker.clone());
                deletion.trouble.clone_from(trouble);
                if counts.is_some() {
                    deletion.counts.clone_from(counts);
                }
                return Ok(Effect::Row);
            }
            Self::End { worker, residuals } => {
                if tenant.state == TenantState::Deleted {
                    return Ok(Effect::None);
                }
                let deletion = held(tenant, worker)?;
                deletion.worker = None;
                deletion.trouble = None;
                deletion.ended = Some(now);
                deletion.residuals.clone_from(residuals);
                tenant.state = TenantState::Deleted;
                tenant.display_name.clear();
                tenant.features.clear();
                tenant.limits = door::quota::Limits::default();
                tenant.version += 1;
                return Ok(Effect::End);
            }
        }
        tenant.version += 1;
        Ok(Effect::State)
    }
}

fn begun(tenant: &mut Tenant) -> Result<&mut Deletion> {
    tenant.deletion.as_deref_mut().ok_or_else(|| refused("it is not to be deleted"))
}

/// The deletion that a worker has under way.
fn held<'a>(tenant: &'a mut Tenant, worker: &str) -> Result<&'a mut Deletion> {
    let (is_purging, id) = (tenant.state == TenantState::Purging, tenant.id.clone());
    let deletion = begun(tenant)?;
    let is_own = deletion.worker.as_ref().is_some_and(|held| held.name == worker);
    if is_purging && is_own { Ok(deletion) } else { Err(Error::Conflict(format!("tenants/{id}"))) }
}
