//! `[[bridge]]`: bridges to other brokers, each with topics of its own.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use bridge::{Config as Bridge, Topic};

use super::{Config, Key, Role, keys as tree, load};

/// Begins the variables of bridges: `WEIR_BRIDGE_<NAME>_<KEY>`.
pub(super) const VARIABLE: &str = "WEIR_BRIDGE_";
/// More bridges than this are not needed by one process.
const MOST: usize = 32;

/// Checks all bridges.
///
/// # Errors
/// Names the bridge and the key.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let bridges = &config.bridge;
    ensure!(bridges.len() <= MOST, "there are {} [[bridge]] tables: give at most {MOST}", bridges.len());
    ensure!(
        bridges.is_empty() || config.has(Role::Ingest),
        "[[bridge]] needs the role ingest, which serves MQTT: add it to `roles`, or remove the table"
    );
    let mut names = BTreeSet::new();
    for (number, bridge) in bridges.iter().enumerate() {
        let name = bridge.name.as_str();
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        ensure!(
            !name.is_empty() && name.len() <= 40 && name.bytes().all(is_name),
            "`name` of [[bridge]] number {} is {name:?}: give at most 40 lowercase letters, digits and dashes",
            number + 1
        );
        ensure!(names.insert(name), "two bridges have the `name` {name:?}: give each one of its own");
        check_one(bridge, config).with_context(|| format!("[[bridge]] {name}"))?;
    }
    Ok(())
}

fn check_one(bridge: &Bridge, config: &Config) -> anyhow::Result<()> {
    bridge.check().map_err(anyhow::Error::msg)?;
    ensure!(
        config.auth.required || bridge.tenant.is_empty(),
        "`tenant` is {:?}: without `auth.required` there is one tenant; leave the key out",
        bridge.tenant
    );
    ensure!(
        !config.auth.required || !bridge.tenant.is_empty(),
        "`tenant` is missing: name the tenant whose topics are bridged"
    );
    ensure!(
        config.insecure || !bridge.shows_password(),
        "`address` is {:?}, and the password would pass over the network in plain: use mqtts://, or set `insecure = true`",
        bridge.address
    );
    Ok(())
}

/// The documented keys of a bridge, without its topics.
pub(super) fn documented() -> Vec<Key> {
    tree::of::<Bridge>()
}

/// The documented keys of a topic.
pub(super) fn documented_topic() -> Vec<Key> {
    tree::of::<Topic>()
}

/// Names of the keys of a bridge.
pub(super) fn keys() -> Vec<String> {
    documented().into_iter().map(|key| key.name).chain(["topic".to_owned()]).collect()
}

/// Names of the keys of a topic.
pub(super) fn topic_keys() -> Vec<String> {
    documented_topic().into_iter().map(|key| key.name).collect()
}

/// Sets the key of a bridge that a variable names. False when it names none.
///
/// # Errors
/// When the text cannot be read as a value of the key.
pub(super) fn set(config: &mut Config, variable: &str, text: &str) -> anyhow::Result<bool> {
    let Some(rest) = variable.strip_prefix(VARIABLE) else { return Ok(false) };
    for bridge in &mut config.bridge {
        let name = bridge.name.replace('-', "_").to_uppercase();
        let Some(wanted) = rest.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        let place = || format!("[[bridge]] {}", bridge.name);
        let Some(changed) = load::changed(bridge, wanted, text).with_context(place)? else { continue };
        *bridge = Bridge { topic: std::mem::take(&mut bridge.topic), ..changed };
        return Ok(true);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "[[bridge.topic]]\nfilter = 'devices/#'\n";

    fn read(base: &str, keys: &str) -> anyhow::Result<Config> {
        let bridge = "[[bridge]]\nname = 'to-centre'\naddress = 'mqtt://centre'\nclient_id = 'edge'\n";
        let text = format!("{base}{bridge}{keys}\n{TOPIC}");
        super::super::unknown::check(std::path::Path::new("weir.toml"), &text)?;
        let config: Config = toml::from_str(&text)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn a_bridge_has_its_defaults_and_variables_set_its_keys() {
        let mut config = read("", "version = '3.1.1'\nmax_in_flight = 7").unwrap();
        assert_eq!((config.bridge[0].version, config.bridge[0].max_in_flight), (bridge::Protocol::V4, 7));
        assert_eq!(config.bridge[0].topic[0].qos, 2);
        assert!(set(&mut config, "WEIR_BRIDGE_TO_CENTRE_PASSWORD", "secret").unwrap());
        assert!(set(&mut config, "WEIR_BRIDGE_TO_CENTRE_KEEP_ALIVE_SECS", "5").unwrap());
        assert!(!set(&mut config, "WEIR_BRIDGE_TO_CENTRE_NAME", "x").unwrap());
        assert!(!set(&mut config, "WEIR_BRIDGE_OTHER_PASSWORD", "x").unwrap());
        assert!(set(&mut config, "WEIR_BRIDGE_TO_CENTRE_MAX_IN_FLIGHT", "many").is_err());
        let bridge = &config.bridge[0];
        assert_eq!((bridge.password.as_str(), bridge.keep_alive_secs, bridge.topic.len()), ("secret", 5, 1));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_bridge_and_the_key() {
        let password = "username = 'u'\npassword = 'p'";
        for (base, keys, words) in [
            ("", "client_id = ''", "duplicate key"),
            ("", "max_in_flight = 0", "[[bridge]] to-centre: `max_in_flight` is 0"),
            ("", "tenant = 'a'", "`tenant` is \"a\""),
            ("[auth]\nrequired = true\n", "", "`tenant` is missing"),
            ("", password, "mqtts://, or set `insecure = true`"),
            ("", "adress = 'x'", "did you mean `address`?"),
            (
                "",
                "[[bridge.topic]]\nfiltre = 'x'",
                "unknown key `filtre` of a topic of a bridge; did you mean `filter`?",
            ),
            ("", "[[bridge]]\nname = 'A b'", "`name` of [[bridge]] number 2"),
            ("", "[[bridge]]\nname = 'to-centre'", "two bridges have the `name`"),
        ] {
            // The topic belongs to the bridge before it.
            let keys = if keys.starts_with("[[bridge]]") { format!("{TOPIC}{keys}") } else { keys.to_owned() };
            let error = format!("{:#}", read(base, &keys).unwrap_err());
            assert!(error.contains(words), "{keys}: {error}");
        }
        read("insecure = true\n", password).unwrap();
        read("[auth]\nrequired = true\n", "tenant = 'a'").unwrap();
    }
}
