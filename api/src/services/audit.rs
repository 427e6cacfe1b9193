//! `AuditService`.

use identity::Checkpoint;
use proto::v1::audit_service_server::AuditService;
use proto::v1::{
    AuditEvent, ListAuditEventsRequest, ListAuditEventsResponse, VerifyAuditEventsRequest, VerifyAuditEventsResponse,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::Resource;
use crate::auth::Caller;
use crate::convert::timestamp;
use crate::errors;

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
        let known = match (request.known_sequence, &*request.known_hash) {
            (0, []) => None,
            (sequence, hash) if sequence > 0 => {
                let hash = hash.try_into().map_err(|_| errors::invalid("known_hash", "must be 32 bytes"))?;
                Some(Checkpoint { sequence, hash })
            }
            _ => return Err(errors::invalid("known_sequence", "must be given with `known_hash`")),
        };
        let report = admin.verify_audit(&tenant, known).await;
        let report = report.map_err(|error| Resource::Tenant.refused(&request.parent, &request.parent, error))?;
        Ok(Response::new(VerifyAuditEventsResponse {
            sequence: report.verified.sequence,
            hash: report.verified.hash.to_vec(),
            fault: report.fault.map(|fault| fault.to_string()).unwrap_or_default(),
        }))
    }
}
