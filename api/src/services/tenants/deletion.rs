//! The deletion of a tenant as a message.

use identity::{Deletion, PlaceCount, Residual};
use model::Nanos;
use proto::v1::TenantDeletion;
use proto::v1::tenant_deletion::{Count, Residual as ProtoResidual};
use tonic::Status;

use crate::convert::timestamp;
use crate::{errors, names};

/// The time of a field.
pub(super) fn time(field: &str, time: &prost_types::Timestamp) -> Result<Nanos, Status> {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    Nanos::try_from(nanos).map_err(|_| errors::invalid(field, "is not a time between 1678 and 2261"))
}

pub(super) fn to_proto(tenant: &identity::Tenant, deletion: Deletion) -> TenantDeletion {
    let count = |PlaceCount { place, kind, count }| Count { place, kind, count };
    let residual =
        |Residual { place, reason, expires }| ProtoResidual { place, reason, expire_time: expires.map(timestamp) };
    TenantDeletion {
        name: names::tenant(&tenant.id),
        state: super::state_of(tenant).into(),
        principal: deletion.by,
        reason: deletion.reason,
        delete_time: Some(timestamp(deletion.requested)),
        purge_time: Some(timestamp(deletion.purge)),
        start_time: deletion.started.map(timestamp),
        end_time: deletion.ended.map(timestamp),
        counts: deletion.counts.unwrap_or_default().into_iter().map(count).collect(),
        residuals: deletion.residuals.into_iter().map(residual).collect(),
        waits_for: deletion.trouble.unwrap_or_default(),
    }
}
