//! Settings of an issuer.

use http::Uri;
use serde::{Deserialize, Serialize};

use super::Reach;
use crate::registry::{Error, Result};
use crate::{CredentialId, Role};

/// Maximum size of a URL, an audience and a value of a claim, in bytes. The name of a principal
/// holds the URL and has a bound of its own.
const MAX_TEXT_BYTES: usize = 200;
/// Maximum size of the address of keys, in bytes.
const MAX_ADDRESS_BYTES: usize = 2048;
const MAX_ROLES: usize = 64;
/// Longest time between `iat` and `exp` of a token, in seconds.
const MAX_LIFETIME: u32 = 24 * 3600;
const MIN_LIFETIME: u32 = 60;

/// A signature algorithm of tokens. Others are not accepted, even when an issuer announces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 4] = [Self::Es256, Self::EdDsa, Self::Rs256, Self::Ps256];

    /// Returns its name in the header of a token: `ES256`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    /// Returns the algorithm of a name; `Ed25519` (RFC 9864) is `EdDSA`.
    pub fn parse(name: &str) -> Option<Self> {
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// The role that a value of the role claim stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleOfClaim {
    /// The value.
    pub value: String,
    /// The role.
    pub role: Role,
}

/// An issuer of OAuth 2 access tokens (RFC 9068).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Issuer {
    /// Its name for people.
    pub display_name: String,
    /// Its URL, as in the claim `iss`.
    pub url: String,
    /// The audience: a token names it in `aud`.
    pub audience: String,
    /// Algorithms that its tokens may have.
    pub algorithms: Vec<Algorithm>,
    /// True when the type of its tokens need not be `at+jwt`: then an id token with the audience is
    /// accepted too.
    pub any_type: bool,
    /// True when the scopes of its tokens do not limit them: for issuers whose scopes are no
    /// permissions of Weir.
    pub ignores_scopes: bool,
    /// Claim that holds roles: its name, or a path as `realm_access.roles`.
    pub role_claim: Option<String>,
    /// Roles of its values. A value without one gives no role.
    pub roles: Vec<RoleOfClaim>,
    /// Highest role that its principals have, from the claim and from bindings.
    pub max_role: Role,
    /// Claim that names the tenant, in place of the tenant of the issuer. For issuers that an
    /// operator created.
    pub tenant_claim: Option<String>,
    /// Longest time between `iat` and `exp` of its tokens, in seconds.
    pub max_lifetime_secs: u32,
    /// True when an operator of the installation created it.
    pub is_operated: bool,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            display_name: String::new(),
            url: String::new(),
            audience: String::new(),
            algorithms: Algorithm::ALL.to_vec(),
            any_type: false,
            ignores_scopes: false,
            role_claim: None,
            roles: Vec::new(),
            max_role: Role::TenantAdmin,
            tenant_claim: None,
            max_lifetime_secs: MAX_LIFETIME,
            is_operated: false,
        }
    }
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid { field, reason: reason.into() }
}

fn text(field: &'static str, text: &str) -> Result<()> {
    let is_good = !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
    let reason = format!("use 1 to {MAX_TEXT_BYTES} bytes without control characters");
    if is_good { Ok(()) } else { Err(invalid(field, reason)) }
}

impl Issuer {
    /// Returns the id of the issuer with a URL and an audience: there is one in the installation.
    pub fn id(url: &str, audience: &str) -> CredentialId {
        CredentialId::derived(&["issuer", url, audience])
    }

    /// Returns the addresses that its keys may come from.
    pub fn reach(&self) -> Reach {
        if self.is_operated { Reach::Operator } else { Reach::Public }
    }

    /// Returns the settings in their usual form.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn checked(mut self) -> Result<Self> {
        check_url(&self.url)?;
        text("audience", &self.audience)?;
        if self.algorithms.is_empty() {
            self.algorithms = Algorithm::ALL.to_vec();
        }
        self.algorithms.sort_unstable();
        self.algorithms.dedup();
        self.role_claim.as_deref().map_or(Ok(()), |claim| text("role_claim", claim))?;
        self.tenant_claim.as_deref().map_or(Ok(()), |claim| text("tenant_claim", claim))?;
        if self.tenant_claim.is_some() && !self.is_operated {
            let reason = "only an operator of the installation creates an issuer whose tokens name their tenant";
            return Err(invalid("tenant_claim", reason));
        }
        if self.roles.len() > MAX_ROLES || self.roles.is_empty() != self.role_claim.is_none() {
            let reason = format!("give 1 to {MAX_ROLES} values of `role_claim` with their roles, or neither");
            return Err(invalid("roles", reason));
        }
        for given in &self.roles {
            text("roles", &given.value)?;
            if given.role > self.max_role {
                let (role, max) = (given.role.as_str(), self.max_role.as_str());
                return Err(invalid("roles", format!("{role} is above `max_role` ({max})")));
            }
        }
        if self.max_lifetime_secs == 0 {
            self.max_lifetime_secs = MAX_LIFETIME;
        }
        if !(MIN_LIFETIME..=MAX_LIFETIME).contains(&self.max_lifetime_secs) {
            return Err(invalid("max_lifetime", format!("use {MIN_LIFETIME} s to {MAX_LIFETIME} s")));
        }
        Ok(self)
    }
}

/// Checks the URL of an issuer.
fn check_url(url: &str) -> Result<()> {
    text("url", url)?;
    let refused = |reason: &str| invalid("url", format!("{reason}: use https://host/path, as in `iss` of the tokens"));
    check_address(url).map_err(refused)?;
    if url.contains(['?', '#']) {
        return Err(refused("it has a query or a fragment"));
    }
    Ok(())
}

/// Checks that a document is read over https, or from the host itself. An address of keys may have
/// a query.
///
/// # Errors
/// The reason.
pub(super) fn check_address(url: &str) -> std::result::Result<(), &'static str> {
    if url.len() > MAX_ADDRESS_BYTES || url.contains('#') {
        return Err("it is too long, or has a fragment");
    }
    let uri: Uri = url.parse().map_err(|_| "it is not a URL")?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("it names no host")?;
    let is_here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_here => {}
        _ => return Err("its scheme is not https"),
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("it holds a user");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Issuer {
        Issuer { url: "https://login.example.com/t1".into(), audience: "weir".into(), ..Issuer::default() }
    }

    fn field(settings: Issuer) -> &'static str {
        match settings.checked() {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_are_brought_into_their_usual_form() {
        let algorithms = vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::Rs256];
        let settings = Issuer { algorithms, ..good() };
        assert_eq!(settings.checked().unwrap().algorithms, [Algorithm::Es256, Algorithm::Rs256]);
        let settings = Issuer { algorithms: Vec::new(), max_lifetime_secs: 0, ..good() };
        let checked = settings.checked().unwrap();
        assert_eq!(checked.algorithms, Algorithm::ALL);
        assert_eq!(checked.max_lifetime_secs, 86_400);
        assert_eq!(checked.clone().checked().unwrap(), checked);
    }

    #[test]
    fn a_url_is_https_or_of_the_host_itself() {
        for url in [
            "https://a.example",
            "https://a.example:8443/x/",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
            "http://localhost:3000/r",
        ] {
            assert!(check_url(url).is_ok(), "{url}");
        }
        let long = format!("https://a.example/{}", "x".repeat(MAX_TEXT_BYTES));
        let bad = [
            "",
            "a.example",
            "/x",
            "ftp://a.example",
            "http://a.example",
            "http://10.0.0.1",
            "https://",
            "https://u@a.example",
            "https://u:p@a.example",
            "https://a.example?x=1",
            "https://a.example#x",
            "https://a.example/\n",
            &long,
            "http://127.0.0.1.example",
            "http://localhost.example",
        ];
        for url in bad {
            assert_eq!(field(Issuer { url: url.into(), ..good() }), "url", "{url}");
        }
    }

    #[test]
    fn an_address_of_keys_may_have_a_query() {
        let long = format!("https://a.example/{}", "x".repeat(MAX_TEXT_BYTES));
        for url in ["https://a.example/keys?p=policy", "http://127.0.0.1:1/keys", &long] {
            assert_eq!(check_address(url), Ok(()), "{url}");
        }
        let longest = format!("https://a.example/{}", "x".repeat(MAX_ADDRESS_BYTES));
        for url in ["http://a.example/keys", "https://u:p@a.example/keys", "file:///keys", "/keys", &longest] {
            assert!(check_address(url).is_err(), "{url}");
        }
    }

    #[test]
    fn every_setting_has_its_bounds() {
        assert_eq!(field(Issuer { audience: String::new(), ..good() }), "audience");
        assert_eq!(field(Issuer { audience: "x".repeat(MAX_TEXT_BYTES + 1), ..good() }), "audience");
        assert_eq!(field(Issuer { max_lifetime_secs: 59, ..good() }), "max_lifetime");
        assert_eq!(field(Issuer { max_lifetime_secs: 86_401, ..good() }), "max_lifetime");
        assert_eq!(field(Issuer { role_claim: Some("groups".into()), ..good() }), "roles");
        let roles = vec![RoleOfClaim { value: "ops".into(), role: Role::Installation }];
        assert_eq!(field(Issuer { roles: roles.clone(), ..good() }), "roles");
        let above = Issuer { role_claim: Some("groups".into()), roles, ..good() };
        assert_eq!(field(above.clone()), "roles");
        assert!(Issuer { max_role: Role::Installation, ..above }.checked().is_ok());
        assert_eq!(field(Issuer { tenant_claim: Some("tenant".into()), ..good() }), "tenant_claim");
        let operated = Issuer { tenant_claim: Some("tenant".into()), is_operated: true, ..good() };
        assert!(operated.checked().is_ok());
    }
}
