//! The copies of servers that belong to a backup, in their order, with commands.

use serde_json::json;

use super::manifest::{CopiedLog, Step};
use crate::config::{Config, Export, Place, Pool, kind_of};

/// The steps after the copy of the data folder, which holds `logs`.
///
/// # Errors
/// When an export of the configuration has no known type.
pub(super) fn steps(config: &Config, logs: &[CopiedLog]) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    if config.redis.is_used() {
        steps.push(pause(config));
        steps.push(redis(None));
        let own_servers = config.pool.iter().filter(|pool| pool.redis.contains_key("urls"));
        steps.extend(own_servers.map(|pool| redis(Some(pool))));
    }
    if !config.mongodb.uri.is_empty() {
        steps.push(mongodb(config, logs, None));
    }
    for pool in &config.pool {
        let of_pool = config.of_pool(pool)?;
        if !of_pool.mongodb.uri.is_empty() {
            steps.push(mongodb(&of_pool, logs, Some(pool)));
        }
    }
    for export in config.exports()? {
        if kind_of(&export)?.name == "influxdb" {
            steps.push(influxdb(&export));
        }
    }
    if config.redis.is_used() {
        steps.push(resume());
    }
    if config.auth.required {
        if matches!(config.auth.place(), Place::Postgresql(_)) {
            steps.push(postgresql());
        }
        if !config.auth.peppers.as_os_str().is_empty() {
            steps.push(peppers(config));
        }
        if !config.audit.key.as_os_str().is_empty() {
            steps.push(audit_key(config));
        }
    }
    Ok(steps)
}

fn step(server: &str, why: &str, backup: &str, restore: &str) -> Step {
    Step { server: server.to_owned(), why: why.to_owned(), backup: backup.to_owned(), restore: restore.to_owned() }
}

/// On Redis a log keeps its id. A store that is ahead of the cursors would take new blocks for
/// those that it has.
fn pause(config: &Config) -> Step {
    let (who, effect) = match config.is_fleet() {
        true => ("every process with the role flusher", "devices are acknowledged and queries answered meanwhile"),
        false => ("weir", "devices wait, and send again what was not acknowledged"),
    };
    step(
        "Flushers",
        &format!("the copies belong together when no cursor moves while they are taken; {effect}"),
        &format!("stop {who}"),
        "let no weir process run",
    )
}

fn resume() -> Step {
    step("Flushers", "all copies are complete", "start them again", "start weir on all restored data folders")
}

/// The servers of all pools, or those that a pool has of its own.
fn redis(pool: Option<&Pool>) -> Step {
    let server = pool.map_or_else(|| "Redis".to_owned(), |pool| format!("Redis (pool {})", pool.name));
    let urls = pool.map_or_else(|| "WEIR_REDIS_URLS".to_owned(), |pool| variable_of(pool, "REDIS_URLS"));
    let file = pool.map_or_else(|| "redis.rdb".to_owned(), |pool| format!("redis-{}.rdb", pool.name));
    step(
        &server,
        "it holds the log and the cursors; the spill was copied before it, so that a frame is in one of the two",
        &format!("redis-cli -u \"${urls}\" --rdb {file}\n(of a cluster: from each master)"),
        &format!(
            "put {file} into the folder of an empty Redis as dump.rdb, start it with --appendonly no, then\n\
             redis-cli -u \"${urls}\" CONFIG SET appendonly yes"
        ),
    )
}

/// The variable of a key of a pool.
fn variable_of(pool: &Pool, key: &str) -> String {
    format!("WEIR_POOL_{}_{key}", pool.name.replace('-', "_").to_uppercase())
}

fn mongodb(config: &Config, logs: &[CopiedLog], pool: Option<&Pool>) -> Step {
    let database = &config.mongodb.database;
    // The variable of a pool that has servers of its own.
    let uri = match pool.filter(|pool| pool.mongodb.as_ref().is_some_and(|keys| keys.contains_key("uri"))) {
        Some(pool) => variable_of(pool, "MONGODB_URI"),
        None => "WEIR_MONGODB_URI".to_owned(),
    };
    let archive = format!("--uri=\"${uri}\" --gzip --archive={database}.archive.gz");
    let folder = pool.map_or_else(|| "log".to_owned(), |pool| format!("pools/{}/log", pool.name));
    let server = pool.map_or_else(|| "MongoDB".to_owned(), |pool| format!("MongoDB (pool {})", pool.name));
    let why = match config.redis.is_used() {
        true => "no cursor moves, so it holds what the cursors count",
        false => "it is copied after the cursors, so it holds at least what they count as stored",
    };
    let mut restore = format!("mongorestore {archive} --drop --nsInclude=\"{database}.*\"");
    if let Some(log) = logs.iter().find(|log| log.folder == folder && !config.redis.is_used()) {
        restore.push('\n');
        restore.push_str(&remove_rest((&uri, database), log));
    }
    step(&server, why, &format!("mongodump {archive} --db={database}"), &restore)
}

/// The command that removes what a start stores again from the log, which has a new id then.
fn remove_rest((uri, database): (&str, &str), log: &CopiedLog) -> String {
    let id = &log.id;
    let passed = |sink: &str| log.passed.get(sink).copied().unwrap_or(log.start);
    let first = format!("{id}#{:016x}", passed(flusher::HISTORY));
    let blocks = json!({ "_id": { "$gte": first, "$lt": format!("{id}$") } });
    let sinks = log.passed.keys().map(|sink| (sink.as_str(), passed(sink)));
    let stages = sinks.chain([(flusher::INGEST, passed(flusher::DEAD_LETTERS))]);
    let stages: Vec<_> =
        stages.map(|(stage, offset)| json!({ "stage": stage, "offset": { "$gte": offset } })).collect();
    let letters = json!({ "log": id, "$or": stages });
    format!(
        "mongosh \"${uri}\" --eval 'const d = db.getSiblingDB(\"{database}\");\n\
         d.blocks.deleteMany({blocks});\n\
         d.dead_letters.deleteMany({letters});'"
    )
}

fn postgresql() -> Step {
    step(
        "PostgreSQL (registry)",
        "tenants, credentials and the audit are in it; dump it as its owner, whom no row is hidden from",
        "pg_dump --format=custom --file=registry.dump \"$WEIR_AUTH_REGISTRY\"",
        "pg_restore --clean --if-exists --dbname=\"$WEIR_AUTH_REGISTRY\" registry.dump",
    )
}

fn peppers(config: &Config) -> Step {
    let path = config.auth.peppers.display();
    step(
        "Peppers",
        "without them no secret is valid; keep them apart from the copy of the registry",
        &format!("copy {path}"),
        &format!("put it back to {path}, readable for Weir alone"),
    )
}

fn audit_key(config: &Config) -> Step {
    let path = config.audit.key.display();
    step(
        "Key of the audit",
        "it signs checkpoints; the file beside it has the public keys of all of them",
        &format!("copy {path} and {path}.pub"),
        &format!("put them back to {path} and {path}.pub, the first one readable for Weir alone"),
    )
}

fn influxdb(export: &Export) -> Step {
    let text = |key: &str| export.settings.get(key).and_then(toml::Value::as_str).unwrap_or_default();
    let (url, org, bucket) = (text("url"), text("org"), text("bucket"));
    let options = format!("--host {url} --org {org} --bucket {bucket} --token \"$INFLUX_TOKEN\"");
    step(
        &format!("InfluxDB (export {})", export.name),
        "it is copied after the cursors; a point that is written again replaces itself",
        &format!("influx backup {options} influxdb-{}", export.name),
        &format!("influx restore {options} influxdb-{}", export.name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(keys: &str) -> Vec<Step> {
        let config: Config = toml::from_str(keys).unwrap();
        let passed = [("history", 512), ("dead_letters", 700), ("influxdb", 300)];
        let passed = passed.into_iter().map(|(sink, offset)| (sink.to_owned(), offset)).collect();
        let log = CopiedLog { folder: "log".into(), id: "ab-1".into(), start: 7, end: 900, passed };
        steps(&config, &[log]).unwrap()
    }

    fn servers(keys: &str) -> Vec<String> {
        order(keys).into_iter().map(|step| step.server).collect()
    }

    const INFLUXDB: &str =
        "[influxdb]\nurl = 'http://127.0.0.1:8086'\ntoken = 'hidden'\norg = 'weir'\nbucket = 'telemetry'\n";
    const MONGODB: &str = "[mongodb]\nuri = 'mongodb://user:hidden@127.0.0.1'\n";
    const REDIS: &str = "[redis]\nurls = ['redis://:hidden@127.0.0.1']\n";

    #[test]
    fn cursors_come_before_stores_and_no_flusher_runs_between_copies_of_servers() {
        assert_eq!(servers(""), [""; 0]);
        assert_eq!(servers(&[MONGODB, INFLUXDB].concat()), ["MongoDB", "InfluxDB (export influxdb)"]);
        let all = [MONGODB, REDIS, INFLUXDB].concat();
        assert_eq!(servers(&all), ["Flushers", "Redis", "MongoDB", "InfluxDB (export influxdb)", "Flushers"]);
        let text: String = order(&all).iter().map(|step| format!("{}{}", step.backup, step.restore)).collect();
        assert!(!text.contains("hidden") && text.contains("--bucket telemetry"), "{text}");
    }

    #[test]
    fn a_registry_on_postgresql_and_peppers_elsewhere_are_copied_too() {
        let auth = "[auth]\nrequired = true\nregistry = 'postgresql://weir:hidden@db/weir'\npeppers = '/keys/peppers'\n\
                    [audit]\nkey = '/keys/audit'\n";
        assert_eq!(servers(auth), ["PostgreSQL (registry)", "Peppers", "Key of the audit"]);
        let text: String = order(auth).iter().map(|step| format!("{}{}", step.backup, step.restore)).collect();
        assert!(!text.contains("hidden") && text.contains("copy /keys/peppers"), "{text}");
        assert_eq!(servers(&auth.replace("true", "false")), [""; 0]);
    }

    #[test]
    fn the_database_of_each_pool_is_copied_with_the_rest_of_its_own_log() {
        let pools = "[auth]\nrequired = true\n[[pool]]\nname = 'gold'\n[pool.mongodb]\ndatabase = 'gold'\n\
                     [[pool]]\nname = 'far'\n[pool.mongodb]\nuri = 'mongodb://u:hidden@far'\n[[pool]]\nname = 'files'\n";
        let config: Config = toml::from_str(&[MONGODB, pools].concat()).unwrap();
        let log = |folder: &str, id: &str| CopiedLog {
            folder: folder.into(),
            id: id.into(),
            start: 0,
            end: 9,
            passed: [("history".to_owned(), 5)].into(),
        };
        let steps = steps(&config, &[log("log", "s"), log("pools/gold/log", "g"), log("pools/far/log", "f")]).unwrap();
        let names: Vec<_> = steps.iter().map(|step| step.server.as_str()).collect();
        assert_eq!(names, ["MongoDB", "MongoDB (pool gold)", "MongoDB (pool far)"]);
        assert!(steps[1].restore.contains("getSiblingDB(\"gold\")") && steps[1].restore.contains("\"g#"));
        assert!(steps[2].backup.contains("$WEIR_POOL_FAR_MONGODB_URI") && steps[2].restore.contains("\"f#"));
    }

    #[test]
    fn the_redis_of_a_pool_is_copied_before_any_store() {
        let pools = "[auth]\nrequired = true\n[[pool]]\nname = 'a'\n[pool.mongodb]\ndatabase = 'a'\n[[pool]]\n\
                     name = 'far-off'\n[pool.mongodb]\ndatabase = 'b'\n[pool.redis]\nurls = ['redis://:hidden@far']\n";
        let steps = order(&[MONGODB, REDIS, pools].concat());
        let names: Vec<_> = steps.iter().map(|step| step.server.as_str()).collect();
        let stores = ["MongoDB", "MongoDB (pool a)", "MongoDB (pool far-off)"];
        assert_eq!(names[..3], ["Flushers", "Redis", "Redis (pool far-off)"]);
        assert_eq!((&names[3..6], names[6]), (&stores[..], "Flushers"));
        assert!(steps[2].backup.contains("$WEIR_POOL_FAR_OFF_REDIS_URLS\" --rdb redis-far-off.rdb"));
        assert!(steps.iter().all(|step| !step.backup.contains("hidden") && !step.restore.contains("hidden")));
    }

    #[test]
    fn the_rest_in_mongodb_begins_where_each_cursor_was() {
        let mongodb = order(MONGODB).remove(0);
        for part in [
            r#"{"_id":{"$gte":"ab-1#0000000000000200","$lt":"ab-1$"}}"#,
            r#"{"offset":{"$gte":512},"stage":"history"}"#,
            r#"{"offset":{"$gte":700},"stage":"ingest"}"#,
            r#"{"offset":{"$gte":300},"stage":"influxdb"}"#,
        ] {
            assert!(mongodb.restore.contains(part), "{part} in {}", mongodb.restore);
        }
        let on_redis = order(&[MONGODB, REDIS].concat());
        assert!(on_redis.iter().all(|step| !step.restore.contains("deleteMany")), "the dumps belong together");
    }
}
