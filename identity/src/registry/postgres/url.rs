//! The address of a server, from its URL.

use std::time::Duration;

use tls::{ClientFiles, Named};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::registry::{Error, Result};

/// Time for a packet to be acknowledged; then the connection is lost.
const PACKET_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A server, or several of which one is the primary, and how it is reached.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) tls: Option<ClientFiles>,
    /// Hosts and database, without user and password.
    pub(super) shown: String,
}

fn invalid(reason: impl std::fmt::Display) -> Error {
    Error::NeedsOperator(format!("the URL of the PostgreSQL server is not valid: {reason}"))
}

/// Parses a URL, `postgresql://user:password@host:5432/database?sslrootcert=ca.pem`.
///
/// Parameters of TLS are read here: `sslmode` (`disable` or `verify-full`; `require` means the
/// latter), `sslrootcert`, `sslcert`, `sslkey`. Without `sslmode` a connection beyond this machine
/// is encrypted.
pub(super) fn parse(url: &str) -> Result<Address> {
    if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
        return Err(invalid("it begins with postgresql://"));
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut rest) = (None, Vec::new());
    let (mut roots, mut certificate, mut private) = (None, None, None);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let file = || decoded(value).map(|path| Some(Named::new(key, path)));
        match key {
            "sslmode" => mode = Some(value),
            "sslrootcert" => roots = file()?,
            "sslcert" => certificate = file()?,
            "sslkey" => private = file()?,
            _ => rest.push(parameter),
        }
    }
    let base = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    let mut config: Config =
        base.parse().map_err(|error: tokio_postgres::Error| invalid(super::answer::chain(&error)))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(invalid("it names no host: postgresql://user:password@host/database"));
    }
    let names_files = roots.is_some() || certificate.is_some() || private.is_some();
    let encrypted = match mode {
        Some("disable") if names_files => {
            return Err(invalid("sslmode=disable uses no certificates: remove one of both"));
        }
        Some("disable") => false,
        Some("require" | "verify-full") => true,
        Some(other) => {
            let reason = "use verify-full, or disable in a network that is trusted";
            return Err(invalid(format!("sslmode={other:.20} is not supported: {reason}")));
        }
        None => names_files || !config.get_hosts().iter().all(is_here),
    };
    let identity = match (certificate, private) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(invalid("sslcert and sslkey belong together: set both, or neither")),
    };
    let files = ClientFiles { ca: roots, identity };
    config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
    config.connect_timeout(config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT));
    config.tcp_user_timeout(PACKET_TIMEOUT).keepalives_idle(KEEPALIVE);
    if config.get_application_name().is_none() {
        config.application_name("weir");
    }
    let shown = shown(&config);
    Ok(Address { config, tls: encrypted.then_some(files), shown })
}

/// True for a host that no network lies before.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) if name == "localhost" => true,
        Host::Tcp(name) => name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
        Host::Unix(_) => true,
    }
}

fn shown(config: &Config) -> String {
    let host = |(at, host): (usize, &Host)| {
        let ports = config.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}/{database}", hosts.join(","))
}

/// Decodes `%2F` and the like.
fn decoded(value: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| invalid(format!("{value:?} has a % without two digits behind it")))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| invalid(format!("{value:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(url: &str) -> String {
        match parse(url) {
            Err(Error::NeedsOperator(reason)) => reason,
            Err(error) => panic!("{error}"),
            Ok(address) => panic!("{} is accepted", address.shown),
        }
    }

    #[test]
    fn a_connection_beyond_this_machine_is_encrypted_unless_the_url_forbids_it() {
        let is_encrypted = |url: &str| {
            let address = parse(url).unwrap();
            let mode = if address.tls.is_some() { SslMode::Require } else { SslMode::Disable };
            assert_eq!(address.config.get_ssl_mode(), mode);
            address.tls.is_some()
        };
        assert!(is_encrypted("postgresql://weir:x@db.example/weir"));
        assert!(is_encrypted("postgresql://weir@10.0.0.1/weir?sslmode=require&connect_timeout=3"));
        assert!(is_encrypted("postgresql://weir@localhost/weir?sslmode=verify-full"));
        assert!(is_encrypted("postgresql://weir@localhost/weir?sslrootcert=ca.pem"));
        assert!(!is_encrypted("postgresql://weir@db.example/weir?sslmode=disable"));
        assert!(!is_encrypted("postgres://weir@127.0.0.1:5433,localhost/weir?target_session_attrs=read-write"));
        assert!(!is_encrypted("postgresql://weir@%2Frun%2Fpostgresql/weir"));
    }

    #[test]
    fn files_of_tls_are_read_from_the_url() {
        let address = parse("postgresql://w@h/d?sslcert=a%20b.pem&sslkey=%2Fk.pem&sslrootcert=ca.pem").unwrap();
        let identity = (Named::new("sslcert", "a b.pem"), Named::new("sslkey", "/k.pem"));
        let files = ClientFiles { ca: Some(Named::new("sslrootcert", "ca.pem")), identity: Some(identity) };
        assert_eq!(address.tls, Some(files));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_the_cure() {
        assert!(reason("mysql://h/d").contains("postgresql://"));
        assert!(reason("postgresql:///weir").contains("names no host"));
        assert!(reason("postgresql://h/d?sslmode=prefer").contains("verify-full"));
        assert!(reason("postgresql://h/d?sslcert=a.pem").contains("belong together"));
        assert!(reason("postgresql://h/d?sslmode=disable&sslrootcert=a").contains("remove one"));
        assert!(reason("postgresql://h/d?sslrootcert=%zz").contains('%'));
        assert!(reason("postgresql://h/d?colour=red").contains("colour"));
    }

    #[test]
    fn a_password_is_not_shown() {
        let address = parse("postgresql://weir:s3cret@db1,db2:5433/weir").unwrap();
        assert_eq!(address.shown, "db1:5432,db2:5433/weir");
        assert!(!reason("postgresql://weir:s3cret@h/d?sslmode=prefer").contains("s3cret"));
    }
}
