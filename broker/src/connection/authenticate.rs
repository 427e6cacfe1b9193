//! Authentication by AUTH (MQTT 5, section 4.12): a client that connected with a token presents the
//! next one before the first expires, and stays connected.
//!
//! The method has one step: the token is the authentication data of CONNECT, or of an AUTH with
//! reason 0x19, which the broker answers with AUTH 0x00, or with DISCONNECT. Messages go on
//! meanwhile, in both directions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::admission::Refused;
use super::end::End;
use super::{Connection, Stream};
use crate::codec::{DecodeError, auth, encode, reason};
use door::{Credentials, Identity, Inbox, Refusal, RefusalKind};

/// The authentication method.
pub(super) const METHOD: &str = "WEIR-JWT";
/// Bytes of a token.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Minimum time between the checks of two tokens of one connection.
const PERIOD: Duration = Duration::from_secs(1);

type Check = Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send>>;

/// The authentication of a client that connected with a token.
#[derive(Default)]
pub(super) struct Authentication {
    /// The check of its next token, and the bytes of the token.
    check: Option<(Check, usize)>,
    /// When the check before may begin, or has begun.
    began: Option<Instant>,
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Begins the check of the token in an AUTH.
    pub(super) fn authenticate(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = auth::decode(body, self.version)?;
        let Some(authentication) = &mut self.authentication else {
            return Err(DecodeError::protocol("AUTH without an authentication method in CONNECT").into());
        };
        if packet.method != METHOD {
            let what = "the authentication method is not that of CONNECT";
            return Err(DecodeError { reason: reason::BAD_AUTHENTICATION_METHOD, what }.into());
        }
        if packet.reason != reason::REAUTHENTICATE {
            return Err(DecodeError::protocol("AUTH continues an exchange that was not begun: use reason 0x19").into());
        }
        if authentication.check.is_some() {
            return Err(DecodeError::protocol("AUTH was sent while the token before is checked").into());
        }
        let token = packet.data.unwrap_or_default();
        if token.len() > MAX_TOKEN_BYTES {
            let reason = format!("the token is longer than {MAX_TOKEN_BYTES} bytes").into();
            return Err(End::Refused(Refusal { kind: RefusalKind::BadCredentials, reason }.into()));
        }
        let now = Instant::now();
        let begins = authentication.began.map_or(now, |before| now.max(before + PERIOD));
        authentication.began = Some(begins);
        let (broker, sender, token) = (Arc::clone(&self.broker), self.sender.clone(), token.to_vec());
        let bytes = token.capacity();
        let check = async move {
            tokio::time::sleep_until(begins.into()).await;
            let credentials = Credentials {
                client: &sender.client,
                user: sender.user.as_deref(),
                password: None,
                token: Some(&token),
                certificates: &[],
                peer: sender.peer,
            };
            let patience = Duration::from_millis(broker.config.connect_timeout_ms);
            let checked = broker.gatekeeper.admit_again(&credentials, &sender);
            tokio::time::timeout(patience, checked).await.unwrap_or_else(|_| {
                Err(Refusal { kind: RefusalKind::Unavailable, reason: "the token was not checked in time".into() })
            })
        };
        authentication.check = Some((Box::pin(check), bytes));
        // Counted with the rest of the packets of this read.
        self.own_bytes += bytes;
        Ok(())
    }

    /// Goes on with the check of a token. True when the client has another credential now.
    pub(super) fn poll_authentication(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(authentication) = &mut self.authentication else { return Ok(false) };
        let Some((check, bytes)) = &mut authentication.check else { return Ok(false) };
        let Poll::Ready(checked) = check.as_mut().poll(cx) else { return Ok(false) };
        self.own_bytes -= *bytes;
        authentication.check = None;
        // It returns memory.
        self.count_memory().ok();
        let identity = checked.map_err(|refusal| End::Refused(refusal.into()))?;
        self.renew(identity)?;
        Ok(true)
    }

    /// The connection ends with the new credential and its token from now on, and so does what it
    /// leaves: its session, and its will message.
    fn renew(&mut self, identity: Identity) -> Result<(), End> {
        {
            let mut state = self.state()?;
            state.ended.clone_from(&identity.ended);
            if let Some(last) = &mut state.last_will {
                last.ended.clone_from(&identity.ended);
            }
        }
        self.deadline = None;
        if let Some(left) = left_until(identity.expires) {
            self.deadline = Instant::now().checked_add(left);
            self.wake_within(left);
        }
        self.ended = identity.ended;
        encode::auth(&mut self.out, reason::SUCCESS, METHOD);
        self.broker.metrics.replies.inc();
        Ok(())
    }
}

/// Returns the time until a token expires, if it does.
pub(super) fn left_until(expires: Option<model::Nanos>) -> Option<Duration> {
    expires.map(|at| Duration::from_nanos((at - model::clock::now()).max(0).unsigned_abs()))
}

impl Refused {
    /// The code of the DISCONNECT after an AUTH.
    pub(super) fn farewell(&self) -> u8 {
        match self.kind {
            RefusalKind::BadCredentials | RefusalKind::NotAuthorized | RefusalKind::ClientId => reason::NOT_AUTHORIZED,
            RefusalKind::Busy | RefusalKind::Unavailable => reason::SERVER_BUSY,
        }
    }
}
