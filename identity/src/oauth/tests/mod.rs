mod http;
mod keys;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use model::time::SECOND;
use model::{Clock, Nanos};
use serde_json::{Value, json};

use super::testing::{TestIssuer, TestKey};
use super::*;

const URL: &str = "https://login.example";
const NOW: i64 = 1_700_000_000;

/// A clock that tests set.
#[derive(Debug)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

struct World {
    clock: Arc<Hand>,
    fake: Arc<TestIssuer>,
    issuer: TokenIssuer,
}

impl World {
    fn new(settings: Issuer, keys: &[&TestKey]) -> Self {
        let clock = Arc::new(Hand(AtomicI64::new(NOW * SECOND)));
        let fake = TestIssuer::new(URL, keys);
        let issuer = TokenIssuer::new(settings.checked().unwrap(), fake.clone(), clock.clone());
        Self { clock, fake, issuer }
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }

    async fn check(&self, token: &str) -> Result<ValidToken, TokenError> {
        self.issuer.check(&UnverifiedToken::parse(token)?, self.clock.now()).await
    }

    async fn fault(&self, token: &str) -> TokenFault {
        match self.check(token).await {
            Err(TokenError::Invalid(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }
}

fn settings() -> Issuer {
    Issuer { url: URL.into(), audience: "weir".into(), ..Issuer::default() }
}

fn claims() -> Value {
    json!({ "iss": URL, "aud": "weir", "sub": "alice", "client_id": "app", "iat": NOW, "exp": NOW + 600 })
}

/// The claims with one of them replaced, or removed if it is null.
fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(claim)),
        value => claims[claim] = value,
    }
    claims
}
