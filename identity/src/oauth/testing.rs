//! An issuer for tests: keys of its own, documents in memory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Algorithm, Fetch, FetchError, Fetched, Reach};

/// A key of a test's issuer. Cheap to clone.
#[derive(Clone)]
pub struct TestKey {
    id: String,
    algorithm: Algorithm,
    pair: Arc<Pair>,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(rsa::KeyPair),
}

impl TestKey {
    /// A new key.
    ///
    /// # Panics
    /// When none can be generated.
    pub fn new(id: &str, algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::Es256 => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key")),
            Algorithm::EdDsa => Pair::Ed(Ed25519KeyPair::generate().expect("a key")),
            Algorithm::Rs256 | Algorithm::Ps256 => {
                Pair::Rsa(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("a key"))
            }
        };
        Self { id: id.into(), algorithm, pair: Arc::new(pair) }
    }

    /// Returns its public form (RFC 7517).
    pub fn jwk(&self) -> Value {
        let mut jwk = match &*self.pair {
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) }),
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                let n = key.modulus().big_endian_without_leading_zero().to_vec();
                let e = key.exponent().big_endian_without_leading_zero().to_vec();
                json!({ "kty": "RSA", "n": encode(&n), "e": encode(&e) })
            }
        };
        jwk["kid"] = self.id.clone().into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm.as_str().into();
        jwk
    }

    /// Returns the header of its tokens.
    pub fn header(&self) -> Value {
        json!({ "alg": self.algorithm.as_str(), "typ": "at+jwt", "kid": self.id })
    }

    /// Returns a token with its usual header.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.header(), claims)
    }

    /// Returns a token with a header.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match &*self.pair {
            Pair::Ec(pair) => pair.sign(&random, message.as_bytes()).expect("a signature").as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let signed = match self.algorithm {
                    Algorithm::Ps256 => pair.sign(&RSA_PSS_SHA256, &random, message.as_bytes(), &mut signature),
                    _ => pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature),
                };
                signed.expect("a signature");
                signature
            }
        };
        format!("{message}.{}", encode(&signature))
    }
}

/// Returns bytes as text, as tokens hold them.
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer for tests.
#[derive(Debug)]
pub struct TestIssuer {
    url: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: Vec<Value>,
    named: Option<String>,
    fault: Option<String>,
    max_age: Option<Duration>,
    reads: usize,
}

impl TestIssuer {
    /// An issuer with keys.
    pub fn new(url: &str, keys: &[&TestKey]) -> Arc<Self> {
        let issuer = Arc::new(Self { url: url.into(), state: Mutex::default() });
        issuer.publish(keys);
        issuer
    }

    /// Replaces its keys.
    pub fn publish(&self, keys: &[&TestKey]) {
        self.publish_raw(keys.iter().map(|key| key.jwk()).collect());
    }

    /// Replaces its keys by these.
    pub fn publish_raw(&self, keys: Vec<Value>) {
        self.state.lock().keys = keys;
    }

    /// Its documents cannot be read from now on, or can be again.
    pub fn fail(&self, fault: Option<&str>) {
        self.state.lock().fault = fault.map(str::to_owned);
    }

    /// Its document names this issuer from now on.
    pub fn name(&self, issuer: &str) {
        self.state.lock().named = Some(issuer.into());
    }

    /// Its keys may be kept for this time.
    pub fn max_age(&self, age: Duration) {
        self.state.lock().max_age = Some(age);
    }

    /// Returns how often its keys were asked for, failures included.
    pub fn reads(&self) -> usize {
        self.state.lock().reads
    }
}

#[async_trait]
impl Fetch for TestIssuer {
    async fn get(&self, url: &str, _reach: Reach) -> Result<Fetched, FetchError> {
        // Other calls run meanwhile, as they do during a real one.
        tokio::task::yield_now().await;
        let mut state = self.state.lock();
        let path = url.strip_prefix(&self.url).unwrap_or(url);
        state.reads += usize::from(path != "/keys");
        if let Some(fault) = &state.fault {
            return Err(FetchError(fault.clone()));
        }
        let (status, body) = match path {
            "/.well-known/openid-configuration" => {
                let issuer = state.named.as_ref().unwrap_or(&self.url);
                (200, json!({ "issuer": issuer, "jwks_uri": format!("{}/keys", self.url) }))
            }
            "/keys" => (200, json!({ "keys": state.keys })),
            _ => (404, Value::Null),
        };
        Ok(Fetched { status, max_age: state.max_age, date: None, body: body.to_string().into() })
    }
}
