//! Bytes of messages and places on the server.
//!
//! ```text
//! message    version (1), qos, retain, published (i64), topic, properties, payload
//! forwarded  version (1), flags (1 routed, 2 share), tenant, from, share, message
//! place      version (1), qos, flags (1 retain, 2 share), number of ids (u16), ids (u32), share
//! ```
//! Numbers are big endian. What has a length of its own begins with it (u32); the last one has
//! none.

use std::sync::Arc;

use broker::fleet::{Client, Forwarded, Placed, SharedMessage};

const VERSION: u8 = 1;

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // Every part comes from one packet, which is shorter.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_message(out: &mut Vec<u8>, message: &SharedMessage) {
    out.extend_from_slice(&[VERSION, message.qos, u8::from(message.retain)]);
    out.extend_from_slice(&message.published.to_be_bytes());
    put(out, message.topic.as_bytes());
    put(out, &message.properties);
    out.extend_from_slice(&message.payload);
}

pub(crate) fn encode_message(message: &SharedMessage) -> Vec<u8> {
    let mut out = Vec::with_capacity(size(message) + 32);
    put_message(&mut out, message);
    out
}

/// Bytes that a message has.
pub(crate) fn size(message: &SharedMessage) -> usize {
    message.topic.len() + message.payload.len() + message.properties.len()
}

pub(crate) fn encode_forwarded(forwarded: &Forwarded) -> Vec<u8> {
    let mut out = vec![VERSION, u8::from(forwarded.is_routed) | u8::from(forwarded.share.is_some()) << 1];
    put(&mut out, forwarded.tenant.as_bytes());
    put(&mut out, forwarded.from.as_bytes());
    put(&mut out, forwarded.share.as_deref().unwrap_or_default().as_bytes());
    put_message(&mut out, &forwarded.message);
    out
}

pub(crate) fn encode_placed(placed: &Placed) -> Vec<u8> {
    let ids = &placed.ids[..placed.ids.len().min(usize::from(u16::MAX))];
    let flags = [placed.retain, placed.share.is_some(), placed.is_for_connected];
    let flags = flags.into_iter().rev().fold(0, |flags, set| flags << 1 | u8::from(set));
    let mut out = vec![VERSION, placed.qos, flags];
    out.extend_from_slice(&u16::try_from(ids.len()).unwrap_or(u16::MAX).to_be_bytes());
    for id in ids {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(placed.share.as_deref().unwrap_or_default().as_bytes());
    out
}

/// The name of a client in keys.
pub(crate) fn name(client: &Client) -> String {
    format!("{}\0{}", client.tenant, client.id)
}

/// The client of such a name.
pub(crate) fn client(name: &str) -> Option<Client> {
    let (tenant, id) = name.split_once('\0')?;
    Some(Client { tenant: tenant.into(), id: id.into() })
}

/// Reads from the front of bytes.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        let (part, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(part)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.part()?).ok()
    }

    fn message(&mut self) -> Option<SharedMessage> {
        let [version, qos, retain] = self.array()?;
        if version != VERSION {
            return None;
        }
        let published = i64::from_be_bytes(self.array()?);
        let topic = self.text()?.into();
        let properties = self.part()?.into();
        let payload = std::mem::take(&mut self.0).into();
        Some(SharedMessage { topic, payload, properties, qos, retain: retain != 0, published })
    }
}

pub(crate) fn decode_message(bytes: &[u8]) -> Option<Arc<SharedMessage>> {
    Bytes(bytes).message().map(Arc::new)
}

pub(crate) fn decode_forwarded(bytes: &[u8]) -> Option<Forwarded> {
    let mut bytes = Bytes(bytes);
    let [version, flags] = bytes.array()?;
    if version != VERSION {
        return None;
    }
    let (tenant, from, share) = (bytes.text()?.into(), bytes.text()?.into(), bytes.text()?);
    let share = (flags & 2 != 0).then(|| share.into());
    Some(Forwarded { tenant, from, share, is_routed: flags & 1 != 0, message: Arc::new(bytes.message()?) })
}

pub(crate) fn decode_placed(bytes: &[u8]) -> Option<Placed> {
    let mut bytes = Bytes(bytes);
    let [version, qos, flags] = bytes.array()?;
    if version != VERSION {
        return None;
    }
    let count = u16::from_be_bytes(bytes.array()?);
    let ids = (0..count).map(|_| bytes.array().map(u32::from_be_bytes)).collect::<Option<_>>()?;
    let share = std::str::from_utf8(bytes.0).ok()?;
    let (share, is_for_connected) = ((flags & 2 != 0).then(|| share.into()), flags & 4 != 0);
    Some(Placed { qos, retain: flags & 1 != 0, ids, share, is_for_connected })
}

/// Reads `LENGTH:BYTES` from the front.
pub(crate) fn unpack<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let (part, rest) = bytes[colon + 1..].split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> SharedMessage {
        SharedMessage {
            topic: "a/\u{e9}".into(),
            payload: b"\0\xffp".as_slice().into(),
            properties: b"\x01\x01".as_slice().into(),
            qos: 2,
            retain: true,
            published: -5,
        }
    }

    #[test]
    fn bytes_of_version_1_are_read() {
        let bytes = b"\x01\x02\x01\xff\xff\xff\xff\xff\xff\xff\xfb\0\0\0\x04a/\xc3\xa9\0\0\0\x02\x01\x01\0\xffp";
        assert_eq!(encode_message(&message()), bytes);
        assert_eq!(decode_message(bytes).as_deref(), Some(&message()));
        let (ids, share) = (vec![7, 268_435_455], Some("$share/g/a".into()));
        let placed = Placed { qos: 1, retain: true, ids, share, is_for_connected: true };
        let bytes = b"\x01\x01\x07\0\x02\0\0\0\x07\x0f\xff\xff\xff$share/g/a";
        assert_eq!((encode_placed(&placed), decode_placed(bytes)), (bytes.to_vec(), Some(placed)));
    }

    #[test]
    fn what_is_cut_or_of_another_version_is_not_read() {
        let forwarded = Forwarded {
            tenant: "t".into(),
            from: "c".into(),
            message: Arc::new(message()),
            share: Some("".into()),
            is_routed: true,
        };
        let mut bytes = encode_forwarded(&forwarded);
        assert_eq!(decode_forwarded(&bytes), Some(forwarded));
        for end in 0..bytes.len() - message().payload.len() {
            assert_eq!(decode_forwarded(&bytes[..end]), None, "{end} bytes");
        }
        bytes[0] = 2;
        assert_eq!(decode_forwarded(&bytes), None);
    }

    #[test]
    fn packed_parts_are_read_in_order() {
        let mut bytes = b"2:a:0:3:x".as_slice();
        assert_eq!((unpack(&mut bytes), unpack(&mut bytes)), (Some(&b"a:"[..]), Some(&b""[..])));
        assert_eq!(unpack(&mut bytes), None);
    }
}
