//! Finds the server of a key and keeps connections.
//!
//! The server is a single one, the master of the sentinels, or the cluster's master of the key's
//! slot: a command goes to one server over a plain connection. After a failed connection, or a
//! redirect by the server, the servers are looked up again. Keys in a migrating slot return errors
//! until the end of the migration, which counts as an outage.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use model::tls::Difference;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult, Script, TlsCertificates,
};

use super::config::{Config, Secret};
use super::error::{OpenError, is_lost, is_no_script, refused, strange, words};
use super::keys::slot;

/// Host and port.
pub(super) type Address = (String, u16);

/// Connections to the servers of the keys.
#[derive(Debug)]
pub(super) struct Servers {
    config: Arc<Config>,
    /// Configured addresses: a server, some nodes of a cluster, or sentinels.
    seeds: Vec<ConnectionInfo>,
    certificates: TlsCertificates,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// First and last slot with their master; without a cluster one master for all slots. Empty
    /// when unknown.
    masters: Vec<(u16, u16, Address)>,
    /// Shared connections.
    open: HashMap<Address, MultiplexedConnection>,
}

impl Servers {
    pub(super) fn new(config: Arc<Config>) -> Result<Self, OpenError> {
        static PROVIDER: Once = Once::new();
        // An error means that another task has installed a provider.
        PROVIDER.call_once(|| drop(rustls::crypto::aws_lc_rs::default_provider().install_default()));
        let seeds = config.urls.iter().map(|url| seed(url, &config)).collect::<Result<_, _>>()?;
        let read = |key: &str, file: &Option<PathBuf>| {
            let bytes = file.as_ref().map(|file| {
                std::fs::read(file).map_err(|error| {
                    OpenError::Config(format!("cannot read {}: {error}: look at redis.{key}", file.display()))
                })
            });
            bytes.transpose()
        };
        let root_cert = read("tls_ca_file", &config.tls_ca_file)?;
        let own = read("tls_cert_file", &config.tls_cert_file)?.zip(read("tls_key_file", &config.tls_key_file)?);
        let client_tls = own.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let certificates = TlsCertificates { client_tls, root_cert };
        Ok(Self { config, seeds, certificates, state: Mutex::default() })
    }

    /// Connects to every master; an error names the server and the key to change.
    pub(super) async fn masters(&self) -> Result<Vec<(String, MultiplexedConnection)>, OpenError> {
        let named = self.seeds.iter().map(|seed| seed.addr().to_string()).collect::<Vec<_>>().join(", ");
        let masters = match self.find().await {
            Ok(masters) => masters,
            Err(error) => return Err(self.explained(&named, &host_and_port(self.seeds[0].addr()), &error).await),
        };
        let mut addresses: Vec<Address> = masters.into_iter().map(|(_, _, address)| address).collect();
        addresses.sort();
        addresses.dedup();
        let mut found = Vec::new();
        for address in addresses {
            let name = format!("{}:{}", address.0, address.1);
            let connection = self.connect(&address, self.config.response_timeout()).await;
            match connection {
                Ok(connection) => found.push((name, connection)),
                Err(error) => return Err(self.explained(&name, &address, &error).await),
            }
        }
        Ok(found)
    }

    /// The error of a refused connection to `address`, with what its port shows about TLS.
    async fn explained(&self, name: &str, address: &Address, error: &RedisError) -> OpenError {
        let OpenError::Unreachable(reason) = refused(name, error) else { return refused(name, error) };
        let tls = matches!(self.seeds[0].addr(), ConnectionAddr::TcpTls { .. });
        let wanted = if tls { "redis://" } else { "rediss://" };
        match super::tls::differs(&address.0, address.1, tls).await {
            Some(Difference::Certain(what)) => OpenError::Config(format!(
                "cannot use redis at {name}: {what}: write {wanted} in redis.urls ({})",
                words(error)
            )),
            Some(Difference::Possible(what)) => {
                OpenError::Unreachable(format!("{reason}; {what}: if TLS is not enabled there, write {wanted}"))
            }
            None => OpenError::Unreachable(reason),
        }
    }

    /// Opens a separate connection to the master of a key.
    pub(super) async fn dedicated(&self, key: &str, response: Duration) -> RedisResult<MultiplexedConnection> {
        let connected = match self.master(key).await {
            Ok(address) => self.connect(&address, response).await,
            Err(error) => Err(error),
        };
        connected.inspect_err(|_| self.forget(None))
    }

    /// Runs an idempotent command on the master of a key; repeats it once after a lost connection.
    pub(super) async fn run<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> RedisResult<T> {
        let mut tried = false;
        loop {
            let mut shared = self.shared(key).await?;
            match command.query_async(&mut shared.1).await {
                Err(error) if is_lost(&error) => {
                    self.forget(Some(&shared.0));
                    if std::mem::replace(&mut tried, true) {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Runs a script; all its keys have the hash tag of the first.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[&str],
    ) -> RedisResult<T> {
        let command = invoke(script, keys, arguments);
        match self.run(keys[0], &command).await {
            Err(error) if is_no_script(&error) => {
                script.load_async(&mut self.shared(keys[0]).await?.1).await?;
                self.run(keys[0], &command).await
            }
            other => other,
        }
    }

    /// Loads a script on the master of a key.
    pub(super) async fn load(&self, key: &str, script: &Script) -> RedisResult<()> {
        script.load_async(&mut self.shared(key).await?.1).await.map(drop)
    }

    /// Looks up the servers again before the next command, and drops the connection to `address`.
    pub(super) fn forget(&self, address: Option<&Address>) {
        let mut state = self.state.lock();
        state.masters.clear();
        if let Some(address) = address {
            state.open.remove(address);
        }
    }

    async fn shared(&self, key: &str) -> RedisResult<(Address, MultiplexedConnection)> {
        let address = self.master(key).await.inspect_err(|_| self.forget(None))?;
        let held = self.state.lock().open.get(&address).cloned();
        if let Some(connection) = held {
            return Ok((address, connection));
        }
        let connection = self
            .connect(&address, self.config.response_timeout())
            .await
            .inspect_err(|_| self.forget(Some(&address)))?;
        self.state.lock().open.insert(address.clone(), connection.clone());
        Ok((address, connection))
    }

    async fn master(&self, key: &str) -> RedisResult<Address> {
        let slot = slot(key);
        let of = |masters: &[(u16, u16, Address)]| {
            masters.iter().find(|(from, to, _)| (*from..=*to).contains(&slot)).map(|(_, _, address)| address.clone())
        };
        let known = of(&self.state.lock().masters);
        if let Some(address) = known {
            return Ok(address);
        }
        let found = self.find().await?;
        let address = of(&found).ok_or_else(|| strange("no server of the cluster has this slot"));
        self.state.lock().masters = found;
        address
    }

    async fn find(&self) -> RedisResult<Vec<(u16, u16, Address)>> {
        if !self.config.cluster && self.config.sentinel_master.is_none() {
            return Ok(vec![(0, u16::MAX, host_and_port(self.seeds[0].addr()))]);
        }
        let mut last = strange("no server is named");
        for seed in &self.seeds {
            let answer = match &self.config.sentinel_master {
                Some(name) => self.ask_sentinel(seed, name).await,
                None => self.ask_cluster(seed).await,
            };
            match answer {
                Ok(masters) => return Ok(masters),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_sentinel(&self, seed: &ConnectionInfo, name: &str) -> RedisResult<Vec<(u16, u16, Address)>> {
        let Config { sentinel_username: user, sentinel_password: password, .. } = &*self.config;
        let settings = with_user(RedisConnectionInfo::default(), user.as_deref(), password.as_ref());
        let mut connection =
            self.open(seed.clone().set_redis_settings(settings), self.config.response_timeout()).await?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let master: Option<Address> = ask.query_async(&mut connection).await?;
        let master =
            master.ok_or_else(|| strange("the sentinels know no master of this name (redis.sentinel_master)"))?;
        Ok(vec![(0, u16::MAX, master)])
    }

    async fn ask_cluster(&self, seed: &ConnectionInfo) -> RedisResult<Vec<(u16, u16, Address)>> {
        let mut connection = self.open(seed.clone(), self.config.response_timeout()).await?;
        let ranges: Vec<(u16, u16, Vec<redis::Value>)> =
            redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let asked = host_and_port(seed.addr());
        let mut masters = Vec::new();
        for (from, to, master) in ranges {
            let (host, port): (Option<String>, u16) = match &master[..] {
                [host, port, ..] => (redis::from_redis_value_ref(host)?, redis::from_redis_value_ref(port)?),
                _ => return Err(strange("a range of slots has no server")),
            };
            // Without a host: the queried server.
            let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.0.clone());
            masters.push((from, to, (host, port)));
        }
        Ok(masters)
    }

    /// Opens a connection to a master with the settings of the first url.
    async fn connect(&self, address: &Address, response: Duration) -> RedisResult<MultiplexedConnection> {
        let seed = &self.seeds[0];
        let place = match seed.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: address.0.clone(),
                port: address.1,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(address.0.clone(), address.1),
        };
        let mut connection = self.open(seed.clone().set_addr(place), response).await?;
        let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
        let role: String = role.first().map(redis::from_redis_value_ref).transpose()?.unwrap_or_default();
        if role == "master" { Ok(connection) } else { Err(strange("it is no master: name the master")) }
    }

    async fn open(&self, info: ConnectionInfo, response: Duration) -> RedisResult<MultiplexedConnection> {
        let client = match info.addr() {
            ConnectionAddr::TcpTls { .. } => Client::build_with_tls(info, self.certificates.clone())?,
            _ => Client::open(info)?,
        };
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout()))
            .set_response_timeout(Some(response));
        // The time-out of the connection covers only a part of this.
        let connecting = client.get_multiplexed_async_connection_with_config(&settings);
        tokio::time::timeout(self.config.connect_timeout() * 2, connecting)
            .await
            .map_err(|_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))?
    }
}

/// Calls a script that is loaded on the server.
pub(super) fn invoke(script: &Script, keys: &[&str], arguments: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys).arg(arguments);
    command
}

fn seed(url: &str, config: &Config) -> Result<ConnectionInfo, OpenError> {
    let info = url.into_connection_info().map_err(|error| {
        // The url may contain a password and is not shown.
        OpenError::Config(format!(
            "redis.urls has an entry that is not redis://host:port or rediss://host:port: {error}"
        ))
    })?;
    let settings = with_user(info.redis_settings().clone(), config.username.as_deref(), config.password.as_ref());
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        // Detects a vanished server, even on an idle connection.
        .set_user_timeout(config.response_timeout() * 2);
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
}

fn with_user(mut settings: RedisConnectionInfo, user: Option<&str>, password: Option<&Secret>) -> RedisConnectionInfo {
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(Secret(password)) = password {
        settings = settings.set_password(password);
    }
    settings
}

fn host_and_port(address: &ConnectionAddr) -> Address {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port),
        other => (other.to_string(), 0),
    }
}
