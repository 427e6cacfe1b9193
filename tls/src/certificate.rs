//! The contents of a certificate that an operator needs to know.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names and dates of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Subject, as `CN=weir`.
    pub subject: String,
    /// Names and addresses for which it is valid.
    pub names: Vec<String>,
    /// First second of its validity, in Unix time.
    pub not_before: i64,
    /// Last second of its validity, in Unix time.
    pub not_after: i64,
    /// It says that it is for servers: one that does not say what it is for is not.
    pub is_for_servers: bool,
    /// It may sign other certificates.
    pub is_authority: bool,
}

/// Seconds of a day.
const DAY: i64 = 86_400;

impl Certificate {
    /// Reads one in DER.
    ///
    /// # Errors
    /// The fault of the encoding.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, found) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let names = found.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        Ok(Self {
            subject: found.subject().to_string(),
            names: names.filter_map(name).collect(),
            not_before: found.validity().not_before.timestamp(),
            not_after: found.validity().not_after.timestamp(),
            is_for_servers: found.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.server_auth),
            is_authority: found.is_ca(),
        })
    }

    /// Whole days until it expires; negative once it has.
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(DAY)
    }

    /// True when it is valid for a host name or an address.
    pub fn is_for(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        self.names.iter().map(|name| name.to_ascii_lowercase()).any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => name == host,
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Now, in Unix time.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
