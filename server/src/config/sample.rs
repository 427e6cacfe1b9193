//! `weir config`: the defaults as a file, every key with its meaning.

use std::fmt::Write;

use super::load::variable;
use super::{Key, bridges, export, keys, listener, pool};

/// Routes in the sample.
const ROUTES: &str = "\
# Routes turn payloads into readings. Without any, these two are used:
#   devices/{device}/telemetry         a JSON object, an array of them, or a bare value
#   devices/{device}/telemetry/{name}  one value
# The first route whose topic matches takes the message. Try one with
#   weir map --topic zigbee2mqtt/kitchen --payload '{\"temperature\":21.5}' --config FILE
#
# [[route]]
# topic = \"zigbee2mqtt/{device...}\"
";

/// The commented default configuration. Reading it gives the default.
pub(crate) fn sample() -> String {
    let mut out = String::from(
        "# Configuration of Weir: every key, with its default. A key that is left out has its default.\n\
         # Flags are stronger than the environment (the variable stands after each key), that is stronger than this file.\n",
    );
    for section in keys::SECTIONS.iter() {
        if section.name.is_empty() {
            out.push('\n');
        } else {
            out.push('\n');
            comment(&mut out, &section.text);
            writeln!(out, "[{}]", section.name).expect("writing to a string does not fail");
        }
        for key in &section.keys {
            comment(&mut out, &key.text);
            writeln!(out, "{} = {}  # {}", key.short(), key.default, variable(&key.name))
                .expect("writing to a string does not fail");
        }
    }
    out.push('\n');
    out.push_str(ROUTES);
    out.push('\n');
    listeners(&mut out);
    out.push('\n');
    exports(&mut out);
    out.push('\n');
    pools(&mut out);
    out.push('\n');
    bridged(&mut out);
    out
}

/// Listeners in the sample.
fn listeners(out: &mut String) {
    comment(
        out,
        "Further ways in for devices, besides mqtt.address and mqtt.tls_address, each with settings of its own. What \
         others can reach needs tls and auth.required here, too. A variable sets a key of the listener `plant`: \
         WEIR_LISTENER_PLANT_<KEY>; a dash of the name becomes an underscore.",
    );
    out.push_str("#\n# [[mqtt.listener]]\n");
    listener::documented().iter().for_each(|key| inactive(out, key));
}

/// Pools in the sample.
fn pools(out: &mut String) {
    comment(
        out,
        "A pool is a log and a store of their own for the tenants that are placed in it: neither a flood nor a store \
         that is away in one pool delays another. Needs auth.required; the processes of a fleet have the same pools. \
         [pool.mongodb] has the keys of [mongodb] that are others for the pool, [pool.redis] those of [redis], [pool.log] \
         those of [log]. A variable sets a key of the pool `gold`: WEIR_POOL_GOLD_MONGODB_<KEY>, \
         WEIR_POOL_GOLD_REDIS_<KEY>, WEIR_POOL_GOLD_LOG_<KEY>.",
    );
    out.push_str("#\n# [[pool]]\n");
    pool::keys().iter().for_each(|key| inactive(out, key));
    out.push_str("# [pool.mongodb]\n# database = \"gold\"\n# [pool.redis]\n# max_bytes = 2147483648\n# [pool.log]\n# capacity_bytes = 8589934592\n");
}

/// Bridges in the sample.
fn bridged(out: &mut String) {
    comment(
        out,
        "A bridge passes messages on to another MQTT broker, and back. What waits is in a session here and in one there, \
         so that QoS 2 messages arrive once. A variable sets a key of the bridge `centre`: WEIR_BRIDGE_CENTRE_<KEY>, as \
         WEIR_BRIDGE_CENTRE_PASSWORD.",
    );
    out.push_str("#\n# [[bridge]]\n");
    bridges::documented().iter().for_each(|key| inactive(out, key));
    out.push_str("# [[bridge.topic]]\n");
    bridges::documented_topic().iter().for_each(|key| inactive(out, key));
}

/// Exports in the sample: the keys of all, then those of each type.
fn exports(out: &mut String) {
    comment(
        out,
        "Exports send readings to other systems, each with a cursor of its own; several of a type may stand side by \
         side. A variable sets a key of the export `bus`: WEIR_EXPORT_BUS_<KEY>; a dash of the name becomes an \
         underscore.",
    );
    out.push_str("#\n# [[export]]\n");
    export::common_keys().iter().for_each(|key| inactive(out, key));
    for kind in crate::exports::TYPES {
        writeln!(out, "#\n# Keys of type = \"{}\":", kind.name).expect("writing to a string does not fail");
        (kind.keys)().iter().for_each(|key| inactive(out, key));
    }
}

/// A key that has no effect until its `#` is deleted.
fn inactive(out: &mut String, key: &Key) {
    comment(out, &format!("  {}", key.text));
    writeln!(out, "# {} = {}", key.short(), key.default).expect("writing to a string does not fail");
}

fn comment(out: &mut String, text: &str) {
    for line in wrap(text, 110) {
        writeln!(out, "# {line}").expect("writing to a string does not fail");
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.len() + word.len() >= width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
