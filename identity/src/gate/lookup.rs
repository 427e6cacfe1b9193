//! Lookups in the registry, each within a bound of time.

use super::{Gate, LOOKUP, Problem};
use crate::CredentialId;
use crate::registry::{Error, Found, Tenant};

impl Gate {
    pub(super) async fn look_up(&self, id: CredentialId) -> Result<Option<Found>, Problem> {
        answer(self.0.registry.credential(id)).await
    }

    pub(super) async fn look_up_tenant(&self, id: &str) -> Result<Option<Tenant>, Problem> {
        answer(self.0.registry.tenant(id)).await
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
