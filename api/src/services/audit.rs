//! `AuditService`.

use identity::{AuditRange, Checkpoint};
use proto::v1::audit_service_server::AuditService;
use proto::v1::{
    AuditEvent, ListAuditEventsRequest, ListAuditEventsResponse, SignedAuditCheckpoint, VerifyAuditEventsRequest,
    VerifyAuditEventsResponse,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::Resource;
use crate::auth::Caller;
use crate::convert::timestamp;
use crate::errors;

/// Events that a check compares at most.
const MAX_KNOWN: usize = 10_000;

/// Implementation of `AuditService`.
pub(crate) struct AuditApi(pub(crate) Shared);

fn to_proto(event: identity::AuditEvent) -> AuditEvent {
    AuditEvent {
        sequence: event.sequence,
        event_time: Some(timestamp(event.at)),
        principal: event.principal,
        method: event.method,
        resource: event.resource,
        granted: event.granted,
        client_address: event.address.unwrap_or_default(),
        request_id: event.request_id.unwrap_or_default(),
        detail: event.detail,
        count: event.count,
        hash: event.hash.to_vec(),
    }
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    async fn list_audit_events(
        &self,
        request: Request<ListAuditEventsRequest>,
    ) -> Result<Response<ListAuditEventsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let page = self.0.page(&mut request)?;
        let events = admin.list_audit(&tenant, page.from, page.size).await;
        let events = events.map_err(|error| Resource::Tenant.refused(&request.parent, &request.parent, error))?;
        Ok(Response::new(ListAuditEventsResponse {
            next_page_token: page.next_after(&events, |event| event.sequence),
            audit_events: events.into_iter().map(to_proto).collect(),
        }))
    }

    async fn verify_audit_events(
        &self,
        request: Request<VerifyAuditEventsRequest>,
    ) -> Result<Response<VerifyAuditEventsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let range = range_of(request.known_sequence, &request.known_hash, &request)?;
        let report = admin.check_audit(&tenant, &range).await;
        let report = report.map_err(|error| Resource::Tenant.refused(&request.parent, &request.parent, error))?;
        let is_whole = report.fault.is_none() && range.from.sequence == 0 && range.to.is_none();
        let signed = if is_whole { admin.sign_audit(&tenant, report.verified) } else { None };
        let (checkpoint, public_key) = signed.unzip();
        Ok(Response::new(VerifyAuditEventsResponse {
            sequence: report.verified.sequence,
            hash: report.verified.hash.to_vec(),
            fault: report.fault.map(|fault| fault.to_string()).unwrap_or_default(),
            checkpoint: checkpoint.map(signed_to_proto),
            public_key: public_key.map(|key| key.to_vec()).unwrap_or_default(),
            handed_out: admin.handed_out(&tenant).into_iter().map(signed_to_proto).collect(),
        }))
    }
}

fn signed_to_proto(checkpoint: identity::SignedCheckpoint) -> SignedAuditCheckpoint {
    SignedAuditCheckpoint {
        signer: checkpoint.signer,
        tenant: checkpoint.tenant,
        sequence: checkpoint.sequence,
        hash: checkpoint.hash.to_vec(),
        sign_time: Some(timestamp(checkpoint.time)),
        previous: checkpoint.previous.to_vec(),
        key: checkpoint.key,
        signature: checkpoint.signature.to_vec(),
    }
}

/// Returns the part of the chain that a request asks to check.
fn range_of(sequence: u64, hash: &[u8], request: &VerifyAuditEventsRequest) -> Result<AuditRange, Status> {
    if request.known_events.len() > MAX_KNOWN {
        return Err(errors::invalid("known_events", "has more than 10000 events: check a part of the chain at a time"));
    }
    let mut known = match (sequence, hash) {
        (0, []) => Vec::new(),
        (1.., hash) => vec![point("known_hash", sequence, hash)?],
        _ => return Err(errors::invalid("known_sequence", "must be given with `known_hash`")),
    };
    for event in &request.known_events {
        known.push(point("known_events", event.sequence, &event.hash)?);
    }
    let from = request.from_event.as_ref().map(|event| point("from_event", event.sequence, &event.hash)).transpose()?;
    let to = Some(request.to_sequence).filter(|to| *to > 0);
    let from = from.unwrap_or_default();
    if known.iter().any(|event| event.sequence < from.sequence || to.is_some_and(|to| event.sequence > to)) {
        return Err(errors::invalid("known_events", "has an event outside of the part that is to be checked"));
    }
    Ok(AuditRange { from, to, known })
}

fn point(field: &'static str, sequence: u64, hash: &[u8]) -> Result<Checkpoint, Status> {
    let hash = hash.try_into().map_err(|_| errors::invalid(field, "must have a hash of 32 bytes"))?;
    Ok(Checkpoint { sequence, hash })
}
