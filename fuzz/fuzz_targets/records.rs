//! Records of sessions that a broker finds at its start: none makes it panic, and clients that come
//! back get well-formed packets. Input: records, each with its kind, the id of its session or
//! message, the length of the rest of its topic, that of its contents, and both.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_client::{Connect, Version};
use weir_broker::RetainedMessage;
use weir_fuzz::client::Client;
use weir_fuzz::node::{NODE, Node};

const KINDS: [&str; 6] = ["sessions", "subscriptions", "progress", "released", "receipts", "messages"];

fn next(input: &mut &[u8]) -> Option<RetainedMessage> {
    let (&[kind, id, name, high, low], rest) = input.split_first_chunk()?;
    let (name, rest) = rest.split_at(usize::from(name).min(rest.len()));
    let (payload, rest) = rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len()));
    *input = rest;
    let name = String::from_utf8_lossy(name);
    let topic = match KINDS.get(usize::from(kind & 7)) {
        Some(kind) if name.is_empty() => format!("$weir/{kind}/{NODE}/{id:016x}"),
        Some(kind) => format!("$weir/{kind}/{NODE}/{id:016x}/{name}"),
        None => name.into_owned(),
    };
    let properties = if kind & 8 == 0 { Vec::new() } else { payload[..payload.len().min(12)].to_vec() };
    Some(RetainedMessage {
        tenant: "default".into(),
        topic,
        payload: payload.to_vec(),
        qos: kind >> 4 & 3,
        properties,
        published: 0,
    })
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let mut records = Vec::new();
    while let Some(record) = next(&mut input) {
        records.push(record);
    }
    let node = Node::restored(records);
    for version in [Version::V4, Version::V5] {
        for client_id in ["c0", "c1"] {
            let mut client = Client::of_records(node.connect());
            let mut bytes = Vec::new();
            mqtt_client::connect(&mut bytes, &Connect { version, client_id, ..Connect::default() });
            node.run(client.send(&bytes, true));
        }
    }
    node.ended();
    let node = node.kill();
    node.ended();
});
