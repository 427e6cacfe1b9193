//! Devices with chosen passwords.
//!
//! The user name finds the row: a password names no credential. A password that was right within
//! the last minutes is recognised by its verifier, so that a fleet that connects again costs
//! nothing. All others wait for their turn in the pool ([`Passwords`]), and their answers take the
//! same time: for a wrong password, for a device without one, and for a name that does not exist.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use door::Credentials;
use model::Nanos;
use model::time::SECOND;

use super::live::Entry;
use super::proof::Proof;
use super::{Gate, LOOKUPS, Problem, name};
use crate::password::{self, Busy, Kept, Lane, Params, PasswordHash};
use crate::registry::{Credential, CredentialKind, Found, Rehashed, Use};
use crate::{CredentialId, Passwords};

/// Time for which a verified password is recognised without a hash.
const RECENT: Nanos = 900 * SECOND;
/// Salt of the hash that is made where there is no password.
const NO_SALT: [u8; 16] = [0; 16];

/// A password that was verified.
#[derive(Debug)]
pub(super) struct KnownPassword {
    /// Time of the creation of its row: another one is of another password.
    pub(super) created: Nanos,
    /// Its value under the key of this start.
    verifier: [u8; 32],
    /// Time until which it is recognised by the verifier.
    until: AtomicI64,
}

impl KnownPassword {
    fn is_recent(&self, verifier: &[u8; 32], now: Nanos) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        // A clock that was set back says nothing about the time since.
        let is_recent = (until - RECENT..until).contains(&now);
        verify_slices_are_equal(&self.verifier, verifier).is_ok() && is_recent
    }

    /// True for the same password of the same row.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.created == other.created && self.verifier == other.verifier
    }
}

/// The outcome of a hash.
struct Checked {
    /// The form that was compared with, if there is a password.
    password: Option<PasswordHash>,
    is_right: bool,
    /// The form in which it is kept from now on, when that is another one.
    moved: Option<PasswordHash>,
}

impl Gate {
    /// Accepts chosen passwords, which are hashed by `passwords`.
    #[must_use]
    pub fn with_passwords(self, passwords: Passwords) -> Self {
        // The first one stays.
        self.0.passwords.set(passwords).ok();
        self
    }

    /// Returns the hasher of passwords; `None` while they are not accepted.
    pub(crate) fn passwords(&self) -> Option<&Passwords> {
        self.0.passwords.get()
    }

    /// Checks a chosen password. The caller counts a failure for the address.
    pub(super) async fn check_chosen(
        &self,
        passwords: &Passwords,
        credentials: &Credentials<'_>,
        source: IpAddr,
        now: Nanos,
    ) -> Result<Arc<Entry>, Problem> {
        let given = credentials.password.unwrap_or_default();
        let named = credentials.user.filter(|_| password::is_possible(given)).and_then(password::read_user);
        let Some((tenant, device)) = named else {
            return Err(Problem::Wrong { tenant: None, principal: String::new() });
        };
        let id = password::id_of(&tenant, &device);
        let verifier = passwords.verifier(&id, given);
        if let Some(entry) = self.0.live.get(&id).filter(|entry| self.is_fresh(now) && !entry.has_expired(now))
            && let Proof::Password(known) = &entry.proof
            && known.is_recent(&verifier, now)
        {
            self.touch(&entry, now);
            return Ok(entry);
        }
        // Before the hash, which is all that a guess would cost.
        if let Some(wait) = self.0.failures.wait(source, now) {
            return Err(Problem::Paced(wait));
        }
        // Counted first: guesses that are made at the same time are as many.
        let mut guess = self.0.guesses.guess(id, now).map_err(Problem::Paced)?;
        let mut checked: Option<Checked> = None;
        for _ in 0..LOOKUPS {
            let epoch = self.0.live.epoch_of(&id);
            let found = self.look_up(id).await?.filter(|found| {
                // The id is a hash of the two.
                (found.credential.tenant.as_str(), found.credential.device()) == (&*tenant, Some(&*device))
            });
            let kept = found.as_ref().and_then(|found| kept(&found.credential));
            // Once, unless another password was chosen meanwhile.
            let outcome = match checked.take().filter(|known| known.password.as_ref() == kept) {
                Some(known) => known,
                None => self.compare(passwords, (id, source), given, kept).await?,
            };
            let Some(found) = found else {
                guess.keep();
                return Err(Problem::Wrong { tenant: None, principal: String::new() });
            };
            if !outcome.is_right {
                guess.keep();
            }
            let mut entry = self.password_entry(found, (outcome.is_right, verifier), now)?;
            entry.meter = Some(self.metered(&entry).await?);
            let Some(entry) = self.0.live.insert(entry, epoch) else {
                checked = Some(outcome);
                continue;
            };
            if let Proof::Password(known) = &entry.proof {
                known.until.store(now + RECENT, Ordering::Relaxed);
            }
            if let (Some(from), Some(to)) = (outcome.password, outcome.moved) {
                self.record(Use { rehashed: Some(Box::new(Rehashed { from, to })), ..Use::at(id, now) });
            }
            self.touch(&entry, now);
            return Ok(entry);
        }
        Err(Problem::Unavailable("credentials are being revoked".into()))
    }

    /// Returns the entry of a password, if it is right and may be used.
    fn password_entry(
        &self,
        Found { credential, tenant, last_use }: Found,
        (is_right, verifier): (bool, [u8; 32]),
        now: Nanos,
    ) -> Result<Entry, Problem> {
        let principal = name(&credential);
        if !is_right || credential.has_expired(now) {
            return Err(Problem::Wrong { tenant: Some(credential.tenant), principal });
        }
        if !tenant.admits() {
            return Err(Problem::Suspended { tenant: credential.tenant, principal });
        }
        let known = KnownPassword { created: credential.created, verifier, until: AtomicI64::new(now + RECENT) };
        let subject = self.subject(&credential, &principal)?;
        Ok(Entry::of(&credential, last_use, (Proof::Password(known), subject), now))
    }

    /// Compares a password with the kept one. Without one, the same work is done.
    async fn compare(
        &self,
        passwords: &Passwords,
        (id, source): (CredentialId, IpAddr),
        given: &[u8],
        password: Option<&PasswordHash>,
    ) -> Result<Checked, Problem> {
        let peppers = &self.0.peppers;
        let kept = password.and_then(|password| {
            let Some(kept) = Kept::parse(&password.phc) else {
                tracing::error!(credential = %id, "the password of a device is kept in a form that is not known here");
                return None;
            };
            let input = peppers.of_password(password.pepper, &id, given);
            if input.is_none() {
                self.lost_pepper(password.pepper);
            }
            Some((kept, input?))
        });
        let (newest, current) = peppers.of_new_password(&id, given);
        let hash = match kept {
            Some((kept, input)) => passwords.hash((Lane::Known, Some(source)), (kept.params, kept.salt), input),
            None => passwords.hash((Lane::Unknown, Some(source)), (Params::CURRENT, NO_SALT), current),
        };
        let hashed = hash.await.map_err(|Busy| Problem::Busy)?;
        let right = kept.map(|(kept, _)| kept).filter(|kept| kept.is(&hashed));
        let is_old =
            right.is_some_and(|kept| kept.is_weak()) || password.is_some_and(|known| !peppers.is_current(known.pepper));
        let moved = match right.is_some() && is_old {
            // When too many wait, at another time.
            true => passwords.hash_new(Some(source), current).await.ok(),
            false => None,
        };
        Ok(Checked {
            password: password.cloned(),
            is_right: right.is_some(),
            moved: moved.map(|kept| PasswordHash { phc: kept.text(), pepper: newest }),
        })
    }
}

fn kept(credential: &Credential) -> Option<&PasswordHash> {
    match &credential.kind {
        CredentialKind::DevicePassword { password, .. } => Some(password),
        _ => None,
    }
}
