//! Checks of certificate files.

use std::path::Path;

use tls::{Certificate, Named};

use super::Finding;
use crate::client::time;
use crate::config::Config;

const WHAT: &str = "certificate";

/// Days before the expiry from which on a certificate is to be renewed.
const SOON: i64 = 14;

/// Checks every certificate of the configuration: files, keys, dates and names.
pub(super) fn certificates(config: &Config) -> Vec<Finding> {
    let now = time::now().div_euclid(model::time::SECOND);
    let mut findings = Vec::new();
    if let Some(files) = config.tls.files() {
        findings.extend(own(&files.certificate, &files.key, &names(config), now));
        findings.extend(files.client_ca.map(|ca| authority(&ca, now)));
    }
    for listener in &config.mqtt.listener {
        let Some(files) = listener.files(config) else { continue };
        if Some(&files.certificate) != config.tls.files().as_ref().map(|shared| &shared.certificate) {
            findings.extend(own(&files.certificate, &files.key, &[], now));
        }
        if !listener.tls_client_ca.as_os_str().is_empty() {
            findings.extend(files.client_ca.map(|ca| authority(&ca, now)));
        }
    }
    if let Some((files, _)) = config.fleet.files() {
        let advertised = config.fleet.advertise.rsplit_once(':').map(|(host, _)| ("fleet.advertise", host.to_owned()));
        findings.extend(own(&files.certificate, &files.key, advertised.as_slice(), now));
        findings.extend(files.client_ca.map(|ca| authority(&ca, now)));
    }
    let (redis, influxdb) = (&config.redis.log, &config.influxdb.store);
    let of_pools = config.pool.iter().filter(|pool| !pool.redis.is_empty());
    let of_pools = of_pools.filter_map(|pool| Some((pool, config.of_pool(pool).ok()?.redis.log)));
    let of_pools = of_pools
        .map(|(pool, redis)| (format!("pool {}: redis.tls_", pool.name), redis.tls_cert_file, redis.tls_key_file));
    let own_servers = [
        ("redis.tls_".to_owned(), redis.tls_cert_file.clone(), redis.tls_key_file.clone()),
        ("influxdb.".to_owned(), influxdb.cert_file.clone(), influxdb.key_file.clone()),
    ];
    for (section, certificate, key) in own_servers.into_iter().chain(of_pools) {
        if let (Some(certificate), Some(key)) = (&certificate, &key) {
            let named = |name: &str, path: &Path| Named::new(format!("{section}{name}"), path);
            findings.extend(own(&named("cert_file", certificate), &named("key_file", key), &[], now));
        }
    }
    findings
}

/// Names under which others reach the ports, with their keys.
fn names(config: &Config) -> Vec<(&'static str, String)> {
    let addresses = config.addresses();
    let addresses = addresses.iter().filter(|(key, _)| *key != "mqtt.address").filter_map(|(key, address)| {
        let ip = address.parse::<std::net::SocketAddr>().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then(|| (*key, ip.to_string()))
    });
    let hosts = config.http.hosts.iter().filter(|host| *host != "*").map(|host| ("http.hosts", host.clone()));
    addresses.chain(hosts).collect()
}

/// A certificate with its key.
fn own(certificate: &Named, key: &Named, names: &[(&str, String)], now: i64) -> Vec<Finding> {
    if let Err(error) = tls::check_pair(certificate, key) {
        return vec![Finding::fail(WHAT, error.to_string())];
    }
    let found = match read(certificate) {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let mut findings = vec![dates(certificate, &found, now)];
    for (named_by, name) in names.iter().filter(|(_, name)| !found.is_for(name)) {
        let text = format!(
            "{} ({}) is not for {name} (`{named_by}`), so that clients which use this name refuse it: it is for {}; make one \
             with --host {name}",
            certificate.path.display(),
            certificate.key,
            found.names.join(", ")
        );
        findings.push(Finding::warn(WHAT, text));
    }
    if tls::is_world_readable(&key.path) {
        let path = key.path.display();
        let text = format!("every user of this machine can use the key {path} ({}): run `chmod 600 {path}`", key.key);
        findings.push(Finding::warn(WHAT, text));
    }
    findings
}

fn authority(file: &Named, now: i64) -> Finding {
    match read(file) {
        Ok(found) if !found.is_authority => {
            let text = format!(
                "{} ({}) is not the certificate of an authority: give ca.pem, not that of a server or a client",
                file.path.display(),
                file.key
            );
            Finding::fail(WHAT, text)
        }
        Ok(found) => dates(file, &found, now),
        Err(finding) => finding,
    }
}

fn read(file: &Named) -> Result<Certificate, Finding> {
    let chain = tls::read_certificates(file).map_err(|error| Finding::fail(WHAT, error.to_string()))?;
    Certificate::parse(&chain[0])
        .map_err(|error| Finding::fail(WHAT, format!("`{}` = {}: {error}", file.key, file.path.display())))
}

fn dates(file: &Named, found: &Certificate, now: i64) -> Finding {
    let (path, key, days) = (file.path.display(), &file.key, found.days_left(now));
    if days < 0 {
        Finding::fail(WHAT, format!("{path} ({key}) has expired {} days ago: replace the file", -days))
    } else if found.not_before > now {
        Finding::fail(WHAT, format!("{path} ({key}) is not valid yet: check the clock, or replace the file"))
    } else if days < SOON {
        Finding::warn(WHAT, format!("{path} ({key}) expires in {days} days: replace the file"))
    } else {
        Finding::ok(WHAT, format!("{path} ({key}) is valid for {days} days"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Level;
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn expiry_names_keys_and_rights_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let made = tls::create(dir.path(), &["weir.example".to_owned()], false).unwrap();
        let (certificate, key) = (Named::new("tls.certificate", &made.certificate), Named::new("tls.key", &made.key));
        let now = time::now().div_euclid(model::time::SECOND);
        let names = [("http.hosts", "weir.example".to_owned()), ("grpc.address", "10.0.0.7".to_owned())];
        let levels = |now| own(&certificate, &key, &names[..1], now).into_iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(now), [Level::Ok]);
        assert_eq!(levels(now + 815 * DAY), [Level::Warn]);
        assert_eq!(levels(now + 900 * DAY), [Level::Fail]);
        assert_eq!(levels(now - 2 * DAY), [Level::Fail]);
        let wrong = own(&certificate, &key, &names, now);
        assert!(wrong[1].text.contains("not for 10.0.0.7 (`grpc.address`)"), "{wrong:?}");
        std::fs::set_permissions(&made.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = own(&certificate, &key, &[], now);
        assert!(open[1].level == Level::Warn && open[1].text.contains("chmod 600"), "{open:?}");
        let other = tls::create_client(dir.path(), "other", false).unwrap();
        let mixed = own(&certificate, &Named::new("tls.key", &other.key), &[], now);
        assert!(mixed[0].level == Level::Fail && mixed[0].text.contains("does not belong"), "{mixed:?}");
        assert_eq!(authority(&Named::new("tls.client_ca", &made.ca), now).level, Level::Ok);
        assert_eq!(authority(&Named::new("tls.client_ca", &made.certificate), now).level, Level::Fail);
    }
}
