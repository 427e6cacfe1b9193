//! Addresses that others can reach.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;

use super::{Config, Listener, Role, Site, parse_address};

/// Least length of `fleet.secret`.
const SECRET_LENGTH: usize = 16;

impl Config {
    /// Refuses to listen where others can reach it without encryption and authentication, unless
    /// `insecure` is set.
    ///
    /// # Errors
    /// Names the key and what to do.
    pub(crate) fn check_exposure(&self) -> anyhow::Result<()> {
        for (key, address) in self.addresses() {
            if self.insecure || parse_address(key, address)?.ip().is_loopback() {
                continue;
            }
            let otherwise = "or add --insecure (`insecure = true`) if the network around it is trusted";
            ensure!(
                key != "mqtt.address",
                "`{key}` is {address}, which others can reach, and its connections are not encrypted: use `mqtt.tls_address`, \
                 {otherwise}"
            );
            ensure!(
                self.tls.is_used(),
                "`{key}` is {address}, which others can reach, and nothing is encrypted: set `tls.certificate` and `tls.key` \
                 (`weir tls create` makes them), {otherwise}"
            );
            ensure!(
                self.auth.required,
                "`{key}` is {address}, which others can reach, and every client may do everything: set `auth.required = true` \
                 (`weir init` makes the first key), {otherwise}"
            );
        }
        for listener in &self.mqtt.listener {
            if let Site::Tcp(address) = listener.site()? {
                self.check_listener(listener, address)?;
            }
        }
        self.check_fleet_exposure()
    }

    /// Refuses a listener that others can reach without encryption and authentication, unless
    /// `insecure` is set.
    ///
    /// # Errors
    /// Names the listener and what to do.
    pub(crate) fn check_listener(&self, listener: &Listener, address: SocketAddr) -> anyhow::Result<()> {
        if self.insecure || address.ip().is_loopback() {
            return Ok(());
        }
        let otherwise = "or add --insecure (`insecure = true`) if the network around it is trusted";
        let name = &listener.name;
        ensure!(
            listener.tls,
            "[[mqtt.listener]] {name} is at {address}, which others can reach, and its connections are not encrypted: set \
             `tls = true`, {otherwise}"
        );
        ensure!(
            self.auth.required,
            "[[mqtt.listener]] {name} is at {address}, which others can reach, and every client may do everything: set \
             `auth.required = true` (`weir init` makes the first key), {otherwise}"
        );
        Ok(())
    }

    /// True when other processes of a fleet call this one.
    fn answers_fleet(&self) -> bool {
        self.has(Role::Flusher) || self.has(Role::Ingest)
    }

    fn check_fleet_exposure(&self) -> anyhow::Result<()> {
        let fleet = &self.fleet;
        ensure!(
            fleet.secret.is_empty() || fleet.secret.len() >= SECRET_LENGTH,
            "`fleet.secret` has {} characters: give at least {SECRET_LENGTH} random ones, as `openssl rand -hex 32` prints",
            fleet.secret.len()
        );
        let is_closed = !self.is_fleet()
            || !self.answers_fleet()
            || parse_address("fleet.address", &fleet.address)?.ip().is_loopback();
        ensure!(
            is_closed || fleet.is_encrypted() || !fleet.secret.is_empty(),
            "`fleet.address` is {}, which others can reach: set `fleet.certificate`, `fleet.key` and `fleet.ca` (`weir tls create` \
             makes them) in every process of the fleet",
            fleet.address
        );
        ensure!(
            is_closed || fleet.is_encrypted() || self.insecure,
            "`fleet.address` is {}, which others can reach, and `fleet.secret` would be sent unencrypted: set `fleet.certificate`, \
             `fleet.key` and `fleet.ca` in every process of the fleet, or add --insecure (`insecure = true`) if the network around \
             it is trusted",
            fleet.address
        );
        ensure!(
            !self.is_fleet()
                || !self.answers_fleet()
                || fleet.is_encrypted()
                || self.insecure
                || fleet.advertise.is_empty()
                || is_of_this_machine(&fleet.advertise),
            "`fleet.advertise` is {}, which other machines call, and `fleet.secret` would be sent unencrypted: set \
             `fleet.certificate`, `fleet.key` and `fleet.ca` in every process of the fleet, or add --insecure (`insecure = true`) if \
             the network around it is trusted",
            fleet.advertise
        );
        Ok(())
    }

    /// Says that flushers on other machines are not called, when there may be some.
    pub(crate) fn exposure_warning(&self) -> Option<String> {
        let is_open = self.is_fleet() && !self.fleet.is_encrypted() && !self.insecure;
        let of_pools = self.pool.iter().filter_map(|pool| self.of_pool(pool).ok()).map(|config| config.redis);
        let mut urls = of_pools.chain([self.redis.clone()]).flat_map(|redis| redis.log.urls);
        (is_open && urls.any(|url| !url.is_empty() && !is_of_this_machine(&url))).then(|| {
            "Redis is on another machine, and this process calls flushers on its own machine only, since `fleet.secret` would be \
             sent unencrypted: set `fleet.certificate`, `fleet.key` and `fleet.ca` in every process of the fleet (`weir tls create` \
             makes them), or `insecure = true` if the network around them is trusted"
                .to_owned()
        })
    }
}

/// True when the host of `host:port`, or of a URL, is this machine; a path of a socket has none.
fn is_of_this_machine(address: &str) -> bool {
    let authority = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let parsed: Result<IpAddr, _> = host.parse();
    parsed.map_or(host.is_empty() || host.eq_ignore_ascii_case("localhost"), |address| {
        address.to_canonical().is_loopback()
    })
}
