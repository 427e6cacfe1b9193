//! Frames of WebSocket (RFC 6455, section 5), as a client sends them to a server.

/// The largest payload of a frame: that of the largest packet of MQTT. No memory depends on it.
const MOST_BYTES: u64 = 256 << 20;
/// The largest payload of a control frame.
const CONTROL_BYTES: usize = 125;

/// Codes of close frames.
pub(super) mod code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const UNSUPPORTED: u16 = 1003;
    pub(crate) const NOT_UTF8: u16 = 1007;
    pub(crate) const TOO_BIG: u16 = 1009;
}

mod opcode {
    pub(super) const CONTINUATION: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const BINARY: u8 = 2;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

/// A violation of the rules, with the code of the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Violation {
    /// Code of the close frame.
    pub code: u16,
    /// Explanation.
    pub what: &'static str,
}

const fn protocol(what: &'static str) -> Violation {
    Violation { code: code::PROTOCOL, what }
}

/// The payload of a frame that is being read.
#[derive(Debug, Clone, Copy)]
struct Payload {
    opcode: u8,
    left: u64,
    mask: [u8; 4],
    /// Position in the mask.
    at: u8,
}

/// Reads frames from bytes as they come. It holds no payload but that of a control frame.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; 14],
    header_bytes: u8,
    payload: Option<Payload>,
    /// A message has begun, and its last frame has not come.
    in_message: bool,
    control: Vec<u8>,
    /// The payload of the last ping that was not answered.
    ping: Option<Vec<u8>>,
    /// The peer has sent a close frame with this code.
    closed: Option<u16>,
    violation: Option<Violation>,
}

impl Decoder {
    /// Reads frames, and moves the payloads of messages to the front of `bytes`. Returns their
    /// length. What follows a close frame is dropped.
    ///
    /// # Errors
    /// [`Violation`], once the payloads before it were returned.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && self.closed.is_none() && self.violation.is_none() {
            let Some(payload) = &mut self.payload else {
                self.header[usize::from(self.header_bytes)] = bytes[from];
                self.header_bytes += 1;
                from += 1;
                if let Err(violation) = self.header() {
                    self.violation = Some(violation);
                }
                continue;
            };
            let length = usize::try_from(payload.left).unwrap_or(usize::MAX).min(bytes.len() - from);
            let part = &mut bytes[from..from + length];
            unmask(part, payload.mask, &mut payload.at);
            payload.left -= length as u64;
            let is_over = payload.left == 0;
            if payload.opcode >= opcode::CLOSE {
                self.control.extend_from_slice(part);
            } else {
                bytes.copy_within(from..from + length, to);
                to += length;
            }
            from += length;
            if is_over {
                self.end();
            }
        }
        match self.violation {
            Some(violation) if to == 0 => Err(violation),
            _ => Ok(to),
        }
    }

    /// The violation that was found, if the payloads before it were returned.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// The code of the close frame of the peer.
    pub(super) fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Returns the payload of a ping that was not answered yet.
    pub(super) fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Begins the payload when the header is complete.
    fn header(&mut self) -> Result<(), Violation> {
        let (have, [first, second, rest @ ..]) = (usize::from(self.header_bytes), self.header);
        if have < 2 {
            return Ok(());
        }
        let (opcode, is_last, short) = (first & 0x0F, first & 0x80 != 0, second & 0x7F);
        if have == 2 {
            check_first(first, second, self.in_message)?;
        }
        let length_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if have < 2 + length_bytes + 4 {
            return Ok(());
        }
        let (length, rest) = rest.split_at(length_bytes);
        let left = match length_bytes {
            0 => u64::from(short),
            _ => length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        if (length_bytes == 2 && left < 126) || (length_bytes == 8 && left <= u64::from(u16::MAX)) {
            return Err(protocol("the length of a frame takes more bytes than it needs"));
        }
        if left > MOST_BYTES {
            return Err(Violation { code: code::TOO_BIG, what: "a frame is longer than 256 MiB" });
        }
        let mask = [rest[0], rest[1], rest[2], rest[3]];
        if opcode < opcode::CLOSE {
            self.in_message = !is_last;
        }
        self.header_bytes = 0;
        self.payload = Some(Payload { opcode, left, mask, at: 0 });
        if left == 0 {
            self.end();
        }
        Ok(())
    }

    /// Ends a frame.
    fn end(&mut self) {
        let Some(payload) = self.payload.take() else { return };
        match payload.opcode {
            // Of several, the last is answered.
            opcode::PING => self.ping = Some(std::mem::take(&mut self.control)),
            opcode::CLOSE => match close_code(&std::mem::take(&mut self.control)) {
                Ok(code) => self.closed = Some(code),
                Err(violation) => self.violation = Some(violation),
            },
            opcode::PONG => self.control = Vec::new(),
            _ => {}
        }
    }
}

/// Checks the first two bytes of a frame.
fn check_first(first: u8, second: u8, in_message: bool) -> Result<(), Violation> {
    let is_last = first & 0x80 != 0;
    if first & 0x70 != 0 {
        return Err(protocol("a frame has reserved bits, and no extension was agreed on"));
    }
    if second & 0x80 == 0 {
        return Err(protocol("a frame of a client is not masked"));
    }
    match first & 0x0F {
        opcode::CONTINUATION if !in_message => Err(protocol("a continuation continues no message")),
        opcode::BINARY if in_message => Err(protocol("a message begins inside another one")),
        opcode::CONTINUATION | opcode::BINARY => Ok(()),
        opcode::TEXT => {
            Err(Violation { code: code::UNSUPPORTED, what: "a text frame: packets of MQTT are in binary frames" })
        }
        opcode::CLOSE..=opcode::PONG if !is_last => Err(protocol("a control frame is in parts")),
        opcode::CLOSE..=opcode::PONG if usize::from(second & 0x7F) > CONTROL_BYTES => {
            Err(protocol("a control frame is longer than 125 bytes"))
        }
        opcode::CLOSE..=opcode::PONG => Ok(()),
        _ => Err(protocol("a frame has a reserved type")),
    }
}

/// The code in the payload of a close frame.
fn close_code(payload: &[u8]) -> Result<u16, Violation> {
    let Some(([high, low], reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(code::NORMAL) } else { Err(protocol("a close frame has half a code")) };
    };
    let code = u16::from_be_bytes([*high, *low]);
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation { code: code::NOT_UTF8, what: "the reason of a close frame is not UTF-8" });
    }
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(code),
        _ => Err(protocol("a close frame has a code that must not be sent")),
    }
}

/// Removes the mask, which goes on at `at`.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: &mut u8) {
    let mut turned = mask;
    turned.rotate_left(usize::from(*at));
    let (whole, rest) = bytes.as_chunks_mut::<4>();
    let word = u32::from_ne_bytes(turned);
    for chunk in whole {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned) {
        *byte ^= mask;
    }
    *at = (*at + (bytes.len() % 4) as u8) % 4;
}

/// Writes the header of an unmasked frame, and returns its length.
pub(super) fn write_header(header: &mut [u8; 10], opcode: u8, length: usize) -> u8 {
    header[0] = 0x80 | opcode;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => {
            header[1] = short;
            2
        }
        (_, Ok(short)) => {
            header[1] = 126;
            header[2..4].copy_from_slice(&short.to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    }
}

/// A header for this many bytes of a message.
pub(super) fn binary(header: &mut [u8; 10], length: usize) -> u8 {
    write_header(header, opcode::BINARY, length)
}

/// Appends a pong.
pub(super) fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    control(out, opcode::PONG, payload);
}

/// Appends a close frame.
pub(super) fn close(out: &mut Vec<u8>, code: u16) {
    control(out, opcode::CLOSE, &code.to_be_bytes());
}

fn control(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let mut header = [0; 10];
    let length = write_header(&mut header, opcode, payload.len());
    out.extend_from_slice(&header[..usize::from(length)]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A frame of a client.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 10];
        let length = usize::from(write_header(&mut header, first & 0x0F, payload.len()));
        let mut out = header[..length].to_vec();
        out[0] = first;
        out[1] |= 0x80;
        let mask = [0x12, 0x34, 0x56, 0x78];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
        out
    }

    /// The payloads that are read when the bytes come in parts of these lengths, over and over.
    fn read(bytes: &[u8], parts: &[usize]) -> (Vec<u8>, Decoder, Option<Violation>) {
        let (mut decoder, mut out, mut rest) = (Decoder::default(), Vec::new(), bytes.to_vec());
        for length in parts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let mut part: Vec<u8> = rest.drain(..rest.len().min(*length)).collect();
            match decoder.decode(&mut part) {
                Ok(length) => out.extend_from_slice(&part[..length]),
                Err(violation) => return (out, decoder, Some(violation)),
            }
        }
        let violation = decoder.violation();
        (out, decoder, violation)
    }

    proptest! {
        #[test]
        fn payloads_are_the_same_however_the_bytes_are_cut(
            messages in vec((vec(vec(any::<u8>(), 0..300), 1..4), option_ping()), 1..8),
            parts in vec(1_usize..200, 1..8),
        ) {
            let (mut bytes, mut wanted, mut last_ping) = (Vec::new(), Vec::new(), None);
            for (frames, ping) in messages {
                let last = frames.len() - 1;
                for (n, payload) in frames.iter().enumerate() {
                    let first = if n == 0 { 2 } else { 0 } | if n == last { 0x80 } else { 0 };
                    bytes.extend(frame(first, payload));
                    wanted.extend_from_slice(payload);
                    if let Some(ping) = &ping {
                        bytes.extend(frame(0x89, ping));
                        last_ping = Some(ping.clone());
                    }
                }
            }
            let (read, mut decoder, violation) = read(&bytes, &parts);
            prop_assert_eq!((read, violation), (wanted, None));
            prop_assert_eq!(decoder.take_ping(), last_ping);
        }

        #[test]
        fn no_bytes_make_it_panic_or_grow(bytes in vec(any::<u8>(), 0..400), parts in vec(1_usize..40, 1..4)) {
            let (out, decoder, _) = read(&bytes, &parts);
            prop_assert!(out.len() <= bytes.len() && decoder.control.len() <= CONTROL_BYTES);
        }
    }

    fn option_ping() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(vec(any::<u8>(), 0..=125))
    }

    #[test]
    fn a_frame_of_each_length_is_read() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let (out, _, violation) = read(&frame(0x82, &payload), &[7, 1, 4_000]);
            assert!(out == payload && violation.is_none(), "{length}");
        }
    }

    #[test]
    fn violations_have_their_code_and_come_after_the_payloads_before_them() {
        let begun = frame(0x02, b"a");
        let cases: &[(&str, Vec<u8>, u16)] = &[
            ("text", frame(0x81, b"a"), 1003),
            ("a reserved bit", frame(0xC2, b"a"), 1002),
            ("a reserved type", frame(0x83, b"a"), 1002),
            ("a reserved control type", frame(0x8B, b"a"), 1002),
            ("no mask", vec![0x82, 1, b'a'], 1002),
            ("a continuation of nothing", frame(0x80, b"a"), 1002),
            ("a message in a message", [begun.clone(), frame(0x82, b"a")].concat(), 1002),
            ("a ping in parts", frame(0x09, b"a"), 1002),
            ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
            ("a short length in three bytes", vec![0x82, 0xFE, 0, 125, 0, 0, 0, 0], 1002),
            ("a short length in nine bytes", vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0], 1002),
            ("a length of 63 bits", vec![0x82, 0xFF, 0x7F, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
            ("a negative length", vec![0x82, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
            ("half a code", frame(0x88, &[3]), 1002),
            ("a code that is not sent", frame(0x88, &1005_u16.to_be_bytes()), 1002),
            ("a code below 1000", frame(0x88, &999_u16.to_be_bytes()), 1002),
            ("a reason that is not UTF-8", frame(0x88, &[3, 0xE8, 0xFF]), 1007),
        ];
        for (what, bytes, wanted) in cases {
            for parts in [1, 1_000] {
                let (out, decoder, violation) = read(&[frame(0x82, b"ok"), bytes.clone()].concat(), &[parts]);
                let found = violation.or(decoder.violation()).map(|violation| violation.code);
                assert_eq!(found, Some(*wanted), "{what}");
                assert!(out.starts_with(b"ok"), "{what}");
            }
        }
    }

    #[test]
    fn a_close_frame_ends_the_stream() {
        for (payload, wanted) in [(&b""[..], 1000), (&[3, 0xE9], 1001), (&[0x0F, 0xA0, b'x'], 4000)] {
            let bytes = [frame(0x82, b"ok"), frame(0x88, payload), frame(0x82, b"late"), vec![0xFF]].concat();
            let (out, decoder, violation) = read(&bytes, &[3]);
            assert_eq!((&out[..], decoder.closed(), violation), (&b"ok"[..], Some(wanted), None));
        }
    }
}
