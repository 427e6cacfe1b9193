//! Callers at the api.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use super::admit::{BUSY, paced};
use super::live::Subject;
use super::tenants::Metered;
use super::{Gate, Problem, pace};
use crate::oauth::UnverifiedToken;
use crate::{Authenticator, Denied, Presented, Principal, Token, TokenKind};

const METHOD: &str = "Authenticate";

#[async_trait]
impl Authenticator for Gate {
    async fn authenticate(&self, presented: &Presented<'_>) -> Result<Principal, Denied> {
        let bearer = presented.bearer.ok_or(Denied::Missing)?;
        let now = self.0.clock.now();
        let source = presented.peer.map(pace::source);
        if UnverifiedToken::is_like(bearer) {
            let checked = self.check_access(bearer, now).await;
            let access = checked.map_err(|problem| denied(self.failed(problem, METHOD, source, now)))?;
            return Ok(Principal {
                tenant: Arc::clone(&access.tenant),
                name: Arc::clone(&access.name),
                role: access.role,
                scopes: access.scopes.clone(),
                networks: Arc::default(),
                reach: access.reach.clone(),
                ended: access.ended.clone(),
                meter: Some(access.meter.clone()),
            });
        }
        let checked = match Token::parse(TokenKind::ApiKey, bearer.as_bytes()) {
            Some(token) => self.check(&token, now).await,
            None => Err(Problem::Wrong { tenant: None, principal: String::new() }),
        };
        let entry = checked.map_err(|problem| denied(self.failed(problem, METHOD, source, now)))?;
        let Subject::Caller { name, role, scopes, networks, reach } = &entry.subject else {
            return Err(Denied::Invalid);
        };
        let peer = presented.peer.map(|peer| peer.to_canonical());
        let is_inside = peer.is_some_and(|peer| networks.iter().any(|network| network.contains(&peer)));
        if !networks.is_empty() && !is_inside {
            self.0.denials.add(&entry.tenant, name, METHOD, source, "the address is not in its networks", now);
            return Err(Denied::Network);
        }
        Ok(Principal {
            tenant: Arc::clone(&entry.tenant),
            name: Arc::clone(name),
            role: *role,
            scopes: scopes.clone(),
            networks: Arc::clone(networks),
            reach: reach.clone(),
            ended: entry.ended.clone(),
            meter: match &entry.meter {
                Some(Metered::Caller(meter)) => Some(meter.clone()),
                _ => None,
            },
        })
    }

    fn refused(&self, principal: &Principal, method: &str, peer: Option<IpAddr>, reason: &str) {
        self.deny(&principal.tenant, &principal.name, method, peer, reason);
    }
}

fn denied(problem: Problem) -> Denied {
    match problem {
        Problem::Wrong { .. } | Problem::Token { .. } => Denied::Invalid,
        Problem::NoRole { principal, .. } => Denied::NoRole(principal.into()),
        Problem::Suspended { .. } => Denied::Suspended,
        Problem::Paced(wait) => Denied::Unavailable(paced(wait).into()),
        Problem::Busy => Denied::Unavailable(BUSY.into()),
        Problem::Unavailable(reason) => Denied::Unavailable(reason.into()),
    }
}
