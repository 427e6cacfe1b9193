//! Devices at the doors.

use std::sync::Arc;

use async_trait::async_trait;
use door::{Credentials, Gatekeeper, Identity, Refusal, RefusalKind};
use model::Nanos;

use super::live::{Entry, Subject};
use super::{Gate, Problem, pace};
use crate::{Token, TokenKind};

const METHOD: &str = "Connect";

#[async_trait]
impl Gatekeeper for Gate {
    /// The password is the secret of a device. The user name, or the client id without one, is the
    /// device; the client id is the device, `{device}:…`, or empty.
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let now = self.0.clock.now();
        let source = pace::source(credentials.peer.ip());
        let entry = match self.check_password(credentials, now).await {
            Ok(entry) => entry,
            Err(problem) => return Err(refusal(self.failed(problem, METHOD, Some(source), now))),
        };
        let Subject::Device { device, grants, .. } = &entry.subject else { return Err(refusal(wrong(&entry))) };
        if !belongs(credentials.client, device) {
            let reason = "the client id does not belong to the device";
            self.0.denials.add(&entry.tenant, &entry.principal(), METHOD, Some(source), reason, now);
            return Err(Refusal {
                kind: RefusalKind::ClientId,
                reason: format!("the client id has to be {device:?}, begin with \"{device}:\", or be empty").into(),
            });
        }
        Ok(Identity {
            tenant: Arc::clone(&entry.tenant),
            device: Some(Arc::clone(device)),
            grants: Arc::clone(grants),
            ended: Some(entry.ended.clone()),
        })
    }
}

impl Gate {
    async fn check_password(&self, credentials: &Credentials<'_>, now: Nanos) -> Result<Arc<Entry>, Problem> {
        let token = credentials.password.and_then(|password| Token::parse(TokenKind::DeviceSecret, password));
        let Some(token) = token else {
            return Err(Problem::Wrong { tenant: None, principal: String::new() });
        };
        let entry = self.check(&token, now).await?;
        match &entry.subject {
            Subject::Device { device, .. } if names(credentials, device) => Ok(entry),
            _ => Err(wrong(&entry)),
        }
    }
}

fn wrong(entry: &Entry) -> Problem {
    Problem::Wrong { tenant: Some(entry.tenant.as_ref().into()), principal: entry.principal() }
}

/// True when the client says that it is the device. Without a user name the client id says so; the
/// rule for client ids is checked apart.
fn names(credentials: &Credentials<'_>, device: &str) -> bool {
    match credentials.user.filter(|user| !user.is_empty()) {
        Some(user) => user == device,
        None => belongs(credentials.client, device),
    }
}

fn belongs(client: &str, device: &str) -> bool {
    match client.strip_prefix(device) {
        Some(rest) => rest.is_empty() || rest.starts_with(':'),
        None => client.is_empty(),
    }
}

fn refusal(problem: Problem) -> Refusal {
    let (kind, reason) = match problem {
        Problem::Wrong { .. } => (
            RefusalKind::BadCredentials,
            "user name or password is not valid: it may be wrong, expired or revoked".into(),
        ),
        Problem::Suspended { .. } => (RefusalKind::NotAuthorized, "the tenant is suspended".into()),
        Problem::Paced(wait) => (RefusalKind::Busy, paced(wait).into()),
        Problem::Unavailable(reason) => (RefusalKind::Unavailable, reason.into()),
    };
    Refusal { kind, reason }
}

pub(super) fn paced(wait: i64) -> String {
    format!("too many attempts with wrong credentials from this address: wait {wait} s")
}
