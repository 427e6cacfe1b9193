//! Lookups in the registry, each within a bound of time.

use std::sync::Arc;

use super::{Gate, LOOKUP, Problem};
use crate::CredentialId;
use crate::registry::{Error, Found, Tenant};

impl Gate {
    pub(super) async fn look_up(&self, id: CredentialId) -> Result<Option<Found>, Problem> {
        let registry = Arc::clone(&self.0.registry);
        let ask = move |ids: Vec<CredentialId>| {
            let registry = Arc::clone(&registry);
            async move { registry.credentials(&ids).await }
        };
        answer(self.0.lookups.get(id, ask)).await
    }

    pub(super) async fn look_up_tenant(&self, id: &str) -> Result<Option<Tenant>, Problem> {
        let registry = Arc::clone(&self.0.registry);
        let ask = move |ids: Vec<Box<str>>| {
            let registry = Arc::clone(&registry);
            async move {
                let mut found = Vec::with_capacity(ids.len());
                for id in ids {
                    found.push(registry.tenant(&id).await);
                }
                found
            }
        };
        answer(self.0.tenant_lookups.get(id.into(), ask)).await
    }
}

/// Waits for an answer of the registry.
pub(super) async fn answer<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Problem> {
    match tokio::time::timeout(LOOKUP, asked).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a credential cannot be checked");
            // The text of the error names files: it is for the log.
            Err(Problem::Unavailable("the registry of credentials does not answer".into()))
        }
        Err(_) => Err(Problem::Unavailable("the registry of credentials does not answer in time".into())),
    }
}
