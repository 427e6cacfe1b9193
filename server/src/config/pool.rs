//! `[[pool]]`: a log, a store and exports of their own for some tenants. A pool is a configuration
//! of its own, derived from that of the process.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Context;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Config, Export, Influxdb, Key, Redis, keys, load};

/// Begins the variables of pools: `WEIR_POOL_<NAME>_MONGODB_<KEY>`, `…_REDIS_<KEY>` and
/// `…_LOG_<KEY>`.
pub(super) const VARIABLE: &str = "WEIR_POOL_";
/// Name of the pool of all other tenants, in reports.
pub(crate) const SHARED: &str = "shared";
/// Keys of a `[[pool]]`.
pub(super) const KEYS: [&str; 4] = ["name", "mongodb", "redis", "log"];
/// More pools than this need more files, connections and memory than one process has.
const MOST: usize = 64;

/// One `[[pool]]` table.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Pool {
    /// Name of the pool: lowercase letters, digits and dashes. `weir tenants add --pool` places a
    /// tenant in it, for good; its log is in the folder `pools/NAME` of the data folder, or on
    /// Redis.
    pub(crate) name: String,
    /// `[pool.mongodb]`: keys of `[mongodb]` that are others for this pool: another `database` on
    /// the same servers, or another `uri`. Without it the pool has a store in its own folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub(crate) mongodb: Option<toml::Table>,
    /// `[pool.redis]`: keys of `[redis]` that are others for this pool. Without it the pool has a
    /// log of its own on the same servers.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    #[schemars(skip)]
    pub(crate) redis: toml::Table,
    /// `[pool.log]`: keys of `[log]` that are others for this pool.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    #[schemars(skip)]
    pub(crate) log: toml::Table,
}

impl fmt::Debug for Pool {
    /// Without its settings, which hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `base` with other values for the keys of `table`.
fn overlay<T: Serialize + DeserializeOwned>(base: &T, table: &toml::Table) -> anyhow::Result<T> {
    let mut tree = toml::Table::try_from(base).context("settings are a table")?;
    for (key, value) in table {
        let names = || tree.keys().cloned().collect::<Vec<_>>().join(", ");
        anyhow::ensure!(tree.contains_key(key), "unknown key `{key}`; there are {}", names());
        let mut alone = toml::Table::try_from(base).context("settings are a table")?;
        alone.insert(key.clone(), value.clone());
        alone.try_into::<T>().map_err(|error| anyhow::anyhow!("`{key}`: {}", first_line(error.message())))?;
        tree.insert(key.clone(), value.clone());
    }
    tree.try_into().map_err(|error: toml::de::Error| anyhow::anyhow!("{}", first_line(error.message())))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

impl Config {
    /// Lanes: the shared one and that of each pool.
    pub(crate) fn lanes(&self) -> u64 {
        1 + self.pool.len() as u64
    }

    /// The configuration of the shared pool: all that the others do not have.
    pub(crate) fn of_shared(&self) -> Self {
        let mut config = self.clone();
        config.export.retain(|export| export.pool.is_empty());
        config
    }

    /// The configuration of a pool.
    ///
    /// # Errors
    /// Names the pool and the key.
    pub(crate) fn of_pool(&self, pool: &Pool) -> anyhow::Result<Self> {
        let of_pool = |section: &str| format!("pool `{}`: [pool.{section}]", pool.name);
        let mongodb = match &pool.mongodb {
            Some(keys) => {
                let mongodb = overlay(&self.mongodb, keys).with_context(|| of_pool("mongodb"))?;
                stores::mongodb::Config { app_name: self.mongodb.app_name.clone(), ..mongodb }
            }
            None => stores::mongodb::Config::default(),
        };
        let log = overlay(&self.log, &pool.log).with_context(|| of_pool("log"))?;
        let log = buffer::embedded::Config {
            dir: self.log.dir.clone(),
            batch: self.log.batch.clone(),
            keys: self.log.keys.clone(),
            // Within the share of the memory.
            ring_bytes: log.ring_bytes.min(self.log.ring_bytes),
            ..log
        };
        let redis = overlay(&self.redis, &pool.redis).with_context(|| of_pool("redis"))?;
        let redis = Redis {
            log: buffer::redis::Config {
                pool: Some(pool.name.clone()),
                batch: self.redis.log.batch.clone(),
                ..redis.log
            },
            ..redis
        };
        let mut config = Self { mongodb, log, redis, influxdb: Influxdb::default(), ..self.clone() };
        config.export.retain(|export| export.pool == pool.name);
        Ok(config)
    }
}

/// Checks every pool, each against the others.
///
/// # Errors
/// Names the pool and the key.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let names: BTreeSet<&str> = config.pool.iter().map(|pool| pool.name.as_str()).collect();
    for export in config.export.iter().filter(|export| !export.pool.is_empty()) {
        let Export { name, pool, .. } = export;
        anyhow::ensure!(
            names.contains(pool.as_str()),
            "export `{name}`: there is no pool {pool:?}: name one of [[pool]], or leave `pool` out for the shared one"
        );
    }
    if config.pool.is_empty() {
        return Ok(());
    }
    anyhow::ensure!(
        config.auth.required,
        "[[pool]] needs tenants: set `auth.required = true` (`weir init` makes a configuration with a key)"
    );
    anyhow::ensure!(config.pool.len() <= MOST, "there are {} [[pool]] tables: use at most {MOST}", config.pool.len());
    anyhow::ensure!(names.len() == config.pool.len(), "two pools have the same `name`: give each its own");
    let place = |mongodb: &stores::mongodb::Config| {
        (mongodb.uri.clone(), mongodb.database.clone(), mongodb.collection_prefix.clone())
    };
    let mut places = BTreeSet::from([place(&config.mongodb)]);
    for (at, pool) in config.pool.iter().enumerate() {
        check_name(&pool.name, at)?;
        check_redis(config, pool)?;
        let of_pool = config.of_pool(pool)?;
        let name = &pool.name;
        if pool.mongodb.is_some() {
            anyhow::ensure!(
                !of_pool.mongodb.uri.is_empty(),
                "pool `{name}`: [pool.mongodb] has no `uri`, and neither has [mongodb]: give one"
            );
            anyhow::ensure!(
                places.insert(place(&of_pool.mongodb)),
                "pool `{name}`: [pool.mongodb] is the same database as that of another pool: give it another \
                 `database` or `uri`"
            );
        }
        let of_log = super::check_log(&of_pool.log).and_then(|()| super::limits::check(&of_pool));
        of_log.with_context(|| format!("pool `{name}`"))?;
    }
    Ok(())
}

/// Checks that the pool is as much of a fleet as the process.
fn check_redis(config: &Config, Pool { name, mongodb, redis, .. }: &Pool) -> anyhow::Result<()> {
    if !config.redis.is_used() {
        anyhow::ensure!(
            redis.is_empty(),
            "pool `{name}`: [pool.redis] needs `redis.urls`: the logs of all pools are on Redis, or none of them"
        );
        return Ok(());
    }
    anyhow::ensure!(
        !redis.contains_key("node"),
        "pool `{name}`: [pool.redis] has a `node`, which is the name of the process: set `redis.node` alone"
    );
    anyhow::ensure!(
        overlay(&config.redis, redis).with_context(|| format!("pool `{name}`: [pool.redis]"))?.is_used(),
        "pool `{name}`: [pool.redis] takes the `urls` away: leave the key out for the servers of `redis.urls`"
    );
    anyhow::ensure!(
        !config.is_fleet() || mongodb.is_some(),
        "pool `{name}` has no [pool.mongodb], and a store in a folder is not shared by the processes of a fleet: give it \
         another `database`, or another `uri`"
    );
    anyhow::ensure!(
        config.is_fleet() || mongodb.is_none(),
        "pool `{name}` has [pool.mongodb], and the process stores into its data folder: with `redis.urls`, set \
         `mongodb.uri` too, or remove [pool.mongodb]"
    );
    Ok(())
}

fn check_name(name: &str, at: usize) -> anyhow::Result<()> {
    anyhow::ensure!(!name.is_empty(), "pool {}: `name` is missing: name each [[pool]]", at + 1);
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    anyhow::ensure!(
        name.chars().all(allowed) && !name.starts_with('-') && !name.ends_with('-') && name.len() <= 64,
        "pool {}: `name` is {name:?}: use up to 64 lowercase letters, digits and dashes, a dash not at an end",
        at + 1
    );
    anyhow::ensure!(
        name != SHARED,
        "pool {}: `name` is {name:?}, the pool of all other tenants: choose another",
        at + 1
    );
    Ok(())
}

/// The keys of a pool.
pub(super) fn keys() -> Vec<Key> {
    keys::of::<Pool>()
}

/// Sets the key of a pool that a variable names. False when it names none.
///
/// # Errors
/// When the text cannot be read as a value of the key.
pub(super) fn set(config: &mut Config, variable: &str, text: &str) -> anyhow::Result<bool> {
    let Some(rest) = variable.strip_prefix(VARIABLE) else { return Ok(false) };
    let sections = [
        ("MONGODB_", toml::Table::try_from(&config.mongodb).context("settings are a table")?),
        ("REDIS_", toml::Table::try_from(&config.redis).context("settings are a table")?),
        ("LOG_", toml::Table::try_from(&config.log).context("settings are a table")?),
    ];
    for pool in &mut config.pool {
        let name = pool.name.replace('-', "_").to_uppercase();
        let Some(rest) = rest.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        for (section, base) in &sections {
            let Some(key) = rest.strip_prefix(section) else { continue };
            let Some((key, old)) = base.iter().find(|(known, _)| known.to_uppercase() == key) else { continue };
            let value = load::read_as(old, key, text).with_context(|| format!("pool `{}`", pool.name))?;
            let table = match *section {
                "LOG_" => &mut pool.log,
                "REDIS_" => &mut pool.redis,
                _ => pool.mongodb.get_or_insert_default(),
            };
            table.insert(key.clone(), value);
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "[auth]\nrequired = true\n[mongodb]\nuri = 'mongodb://db'\n";

    fn read(text: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(&format!("{BASE}{text}"))?;
        config.check()?;
        Ok(config)
    }

    fn refused(text: &str) -> String {
        format!("{:#}", read(text).unwrap_err())
    }

    #[test]
    fn a_pool_has_the_settings_of_the_process_but_for_its_own() {
        let config = read(
            "[[pool]]\nname = 'gold'\n[pool.mongodb]\ndatabase = 'gold'\n[pool.log]\ncapacity_bytes = 1073741824\n\
             [[pool]]\nname = 'files'\n[[export]]\nname = 'a'\ntype = 'file'\nfolder = '/tmp/a'\npool = 'gold'\n",
        );
        let config = config.unwrap();
        let [gold, files] = [0, 1].map(|at| config.of_pool(&config.pool[at]).unwrap());
        assert_eq!((gold.mongodb.uri.as_str(), gold.mongodb.database.as_str()), ("mongodb://db", "gold"));
        assert_eq!((gold.log.capacity_bytes, gold.log.segment_bytes), (1 << 30, config.log.segment_bytes));
        assert_eq!((gold.export.len(), files.export.len(), config.of_shared().export.len()), (1, 0, 0));
        assert!(files.mongodb.uri.is_empty(), "without [pool.mongodb] it has a store in its folder");
        assert_eq!(config.of_shared().mongodb, config.mongodb);
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_pool_and_the_key() {
        for (text, words) in [
            ("[[pool]]\n", "`name` is missing"),
            ("[[pool]]\nname = 'Gold'\n", "lowercase"),
            ("[[pool]]\nname = 'shared'\n", "all other tenants"),
            ("[[pool]]\nname = 'a'\n[[pool]]\nname = 'a'\n", "same `name`"),
            ("[[pool]]\nname = 'a'\n[pool.mongodb]\n", "same database"),
            ("[[pool]]\nname = 'a'\n[pool.mongodb]\ndatabas = 'a'\n", "unknown key `databas`"),
            ("[[pool]]\nname = 'a'\n[pool.mongodb]\ndatabase = 7\n", "`database`: "),
            ("[[pool]]\nname = 'a'\n[pool.log]\nsegment_bytes = 1\n", "segment_bytes"),
            ("[[export]]\nname = 'x'\ntype = 'file'\nfolder = '/tmp/x'\npool = 'a'\n", "there is no pool \"a\""),
            ("[[pool]]\nname = 'a'\n[pool.redis]\nurls = ['redis://r']\n", "redis.urls"),
            ("[redis]\nurls = ['redis://r']\n[[pool]]\nname = 'a'\n", "no [pool.mongodb]"),
            (&on_redis("node = 'x'"), "redis.node"),
            (&on_redis("urls = []"), "takes the `urls` away"),
            (&on_redis("nodes = 'x'"), "unknown key `nodes`"),
            (&on_redis("max_bytes = 'x'"), "`max_bytes`: "),
        ] {
            assert!(refused(text).contains(words), "{text}: {}", refused(text));
        }
        let alone = "[auth]\nrequired = true\n[redis]\nurls = ['redis://r']\n[[pool]]\nname = 'a'\n[pool.mongodb]\n\
                     uri = 'mongodb://db'\n";
        let alone: Config = toml::from_str(alone).unwrap();
        assert!(alone.check().unwrap_err().to_string().contains("stores into its data folder"));
        let open: Config = toml::from_str("[[pool]]\nname = 'a'\n").unwrap();
        assert!(open.check().unwrap_err().to_string().contains("auth.required"));
    }

    /// A pool of a fleet with these keys of `[pool.redis]`.
    fn on_redis(keys: &str) -> String {
        format!(
            "[redis]\nurls = ['redis://r']\nnode = 'n'\n[[pool]]\nname = 'a'\n[pool.mongodb]\ndatabase = 'a'\n\
             [pool.redis]\n{keys}\n"
        )
    }

    #[test]
    fn a_pool_of_a_fleet_has_keys_on_redis_of_its_own_and_may_have_servers_of_its_own() {
        let read = |keys: &str| -> Config {
            let text = format!("{BASE}{}", on_redis(keys)).replace("true", "true\nregistry = 'mongodb'");
            let config: Config = toml::from_str(&text).unwrap();
            config.check().unwrap();
            config
        };
        for (keys, urls) in [("max_bytes = 1048576", ["redis://r"]), ("urls = ['redis://own']", ["redis://own"])] {
            let config = read(keys);
            let (shared, a) = (config.of_shared().redis.log, config.of_pool(&config.pool[0]).unwrap());
            assert_eq!((shared.pool, a.redis.log.pool.as_deref(), &*a.redis.log.node), (None, Some("a"), "n"));
            assert_eq!(a.redis.log.urls, urls);
            assert!(a.is_fleet());
        }
        let mut config = read("");
        assert!(set(&mut config, "WEIR_POOL_A_REDIS_MAX_BYTES", "2097152").unwrap());
        assert_eq!(config.of_pool(&config.pool[0]).unwrap().redis.log.max_bytes, 2 << 20);
        // Without MongoDB, as for the shared pool: one process, and a store in the folder of the
        // pool.
        let alone = "[auth]\nrequired = true\n[redis]\nurls = ['redis://r']\n[[pool]]\nname = 'a'\n";
        toml::from_str::<Config>(alone).unwrap().check().unwrap();
    }

    #[test]
    fn variables_set_keys_of_pools() {
        let mut config = read("[[pool]]\nname = 'big-one'\n[[pool]]\nname = 'b'\n").unwrap();
        assert!(set(&mut config, "WEIR_POOL_BIG_ONE_MONGODB_URI", "mongodb://other").unwrap());
        assert!(set(&mut config, "WEIR_POOL_B_LOG_CAPACITY_BYTES", "1073741824").unwrap());
        assert!(!set(&mut config, "WEIR_POOL_B_LOG_SIZE", "1").unwrap());
        assert_eq!(config.of_pool(&config.pool[0]).unwrap().mongodb.uri, "mongodb://other");
        assert_eq!(config.of_pool(&config.pool[1]).unwrap().log.capacity_bytes, 1 << 30);
        assert!(set(&mut config, "WEIR_POOL_B_LOG_CAPACITY_BYTES", "much").is_err());
    }
}
