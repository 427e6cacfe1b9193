//! Devices with certificates: pinned ones, and those of the authority of a tenant.
//!
//! A handshake shows that the client has the key of its certificate; all else is checked here, for
//! each connection, since a resumed TLS session does not verify a certificate again. The tenant is
//! that of the authority that verified the chain. A certificate of an authority is in the table
//! under the id that its revocation would have in the registry, and its token ends with that of the
//! authority.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use model::Nanos;

use super::live::{Entry, Subject};
use super::proof::{Presented, Proof};
use super::{Gate, LOOKUPS, Problem};
use crate::CredentialId;
use crate::certificate::{self, AuthorityCertificate, CertificateIdentity, Fingerprint};
use crate::registry::CredentialKind;

/// Certificates of a chain.
const MAX_CHAIN: usize = 4;
/// Memory for the certificate of an authority, besides its own length.
const AUTHORITY_BYTES: usize = 4 << 10;
/// Bytes of a chain.
const MAX_BYTES: usize = 64 << 10;

/// The rules of an authority.
#[derive(Debug)]
pub(super) struct Rules {
    certificate: AuthorityCertificate,
    identity: CertificateIdentity,
    /// Bytes of its PEM text: names of a certificate may be long.
    length: usize,
}

impl Rules {
    /// Memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        AUTHORITY_BYTES + self.length
    }

    /// Returns the device of a chain that is valid, and the time at which the chain expires.
    fn verify(&self, chain: &[Vec<u8>], tenant: &str, now: Nanos) -> Option<(String, Nanos)> {
        if !self.certificate.verify(chain, now) {
            return None;
        }
        let device = certificate::device(chain.first()?, self.identity, tenant)?;
        // Without a colon, client ids of two devices never clash.
        let is_plain = model::device::check_id(&device).is_ok() && !device.contains(['/', ':']);
        let expires = chain.iter().map(|der| certificate::expires(der)).min()??;
        (is_plain && !device.starts_with('$')).then_some((device, expires))
    }
}

impl Gate {
    /// Checks the certificates of a handshake, that of the client first.
    pub(super) async fn check_certificates(
        &self,
        chain: &[Vec<u8>],
        now: Nanos,
    ) -> Result<(Arc<Entry>, Option<Nanos>), Problem> {
        let unknown = Problem::Wrong { tenant: None, principal: String::new() };
        let Some(client) = chain.first() else { return Err(unknown) };
        if chain.len() > MAX_CHAIN || chain.iter().map(Vec::len).sum::<usize>() > MAX_BYTES {
            return Err(unknown);
        }
        let print = Fingerprint::of(client);
        if self.0.live.get(&print.id()).is_none()
            && let Some(entry) = self.check_chain(chain, print, now).await?
        {
            return Ok((entry, None));
        }
        self.check_presented(Presented::Certificate(print), now).await
    }

    /// Finds the authority of a chain. `None` without one, and for a chain that is not valid.
    async fn check_chain(
        &self,
        chain: &[Vec<u8>],
        print: Fingerprint,
        now: Nanos,
    ) -> Result<Option<Arc<Entry>>, Problem> {
        // The last certificate is from the authority, or the authority itself.
        for id in chain.iter().rev().filter_map(|der| certificate::authority_of(der)) {
            let Some(authority) = self.authority(id, chain, now).await? else { continue };
            // Names are not signed for by those that they name: another one may be right.
            if let Some(entry) = self.check_below(&authority, chain, print, now).await? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Returns the authority of a chain: from the table, or from the registry. That its tenant is
    /// suspended is an answer for its own devices only.
    async fn authority(&self, id: CredentialId, chain: &[Vec<u8>], now: Nanos) -> Result<Option<Arc<Entry>>, Problem> {
        let inner = &*self.0;
        if let Some(known) = inner.live.get(&id).filter(|_| self.is_fresh(now)) {
            return Ok(Some(known).filter(|known| !known.has_expired(now)));
        }
        for _ in 0..LOOKUPS {
            let epoch = inner.live.epoch_of(&id);
            let Some(found) = self.look_up(id).await? else { return Ok(None) };
            let credential = found.credential;
            let CredentialKind::Authority(authority) = &credential.kind else { return Ok(None) };
            let certificate = AuthorityCertificate::parse(&authority.certificate);
            let Some(certificate) = certificate.ok().filter(|_| !credential.has_expired(now)) else { return Ok(None) };
            let rules = Rules { certificate, identity: authority.identity, length: authority.certificate.len() };
            if !found.tenant.admits() {
                return match rules.verify(chain, &credential.tenant, now) {
                    Some(_) => Err(Problem::Suspended { principal: credential.name(), tenant: credential.tenant }),
                    None => Ok(None),
                };
            }
            let subject = Subject::Authority { name: credential.name().into(), rules };
            let entry = Entry::of(&credential, found.last_use, (Proof::None, subject), now);
            if let Some(entry) = inner.live.insert(entry, epoch) {
                return Ok(Some(entry));
            }
        }
        Err(Problem::Unavailable("credentials are being revoked".into()))
    }

    async fn check_below(
        &self,
        authority: &Arc<Entry>,
        chain: &[Vec<u8>],
        print: Fingerprint,
        now: Nanos,
    ) -> Result<Option<Arc<Entry>>, Problem> {
        let Subject::Authority { rules, .. } = &authority.subject else { return Ok(None) };
        let (live, id) = (&self.0.live, print.revoked_id(&authority.tenant));
        let is_valid = |entry: &Arc<Entry>| !entry.ended.is_cancelled() && !entry.has_expired(now);
        if let Some(known) = live.get(&id).filter(|known| self.is_fresh(now) && is_valid(known)) {
            known.used.fetch_max(now, Ordering::Relaxed);
            self.touch(authority, now);
            return Ok(Some(known));
        }
        for _ in 0..LOOKUPS {
            let epoch = live.epoch_of(&id);
            if self.look_up(id).await?.is_some() {
                let (tenant, principal) = (authority.tenant.as_ref().to_owned(), authority.principal());
                return Err(Problem::Wrong { tenant: Some(tenant), principal });
            }
            let Some((device, expires)) = rules.verify(chain, &authority.tenant, now) else { return Ok(None) };
            if authority.ended.is_cancelled() {
                return Ok(None);
            }
            let subject = self.device(&device).map_err(|error| {
                tracing::error!(device, %error, "the certificate of a device cannot be used");
                Problem::Unavailable("the certificate cannot be used: the log of the server has the reason".into())
            })?;
            let mut entry = Entry {
                id,
                tenant: Arc::clone(&authority.tenant),
                stamp: authority.stamp,
                proof: Proof::Certificate(print),
                expires: Some(authority.expires.map_or(expires, |end| end.min(expires))),
                subject,
                authority: Some(authority.id),
                meter: None,
                ended: authority.ended.child_token(),
                used: AtomicI64::new(now),
                // The registry has no row of it.
                recorded: AtomicI64::new(Nanos::MAX),
                is_registered: AtomicBool::new(false),
            };
            entry.meter = Some(self.metered(&entry).await?);
            if let Some(entry) = live.insert(entry, epoch) {
                self.touch(authority, now);
                return Ok(Some(entry));
            }
        }
        Err(Problem::Unavailable("credentials are being revoked".into()))
    }
}
