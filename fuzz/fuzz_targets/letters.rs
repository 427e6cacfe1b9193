//! Letters that the nodes of a fleet send each other over Redis: no bytes make the reader panic,
//! and what is read survives being written again.

#![no_main]

use cluster::sessions::fuzzing as codec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(message) = codec::message(bytes) {
        assert_eq!(codec::message(&codec::message_bytes(&message)), Some(message));
    }
    if let Some(forwarded) = codec::forwarded(bytes) {
        assert_eq!(codec::forwarded(&codec::forwarded_bytes(&forwarded)), Some(forwarded));
    }
    if let Some(placed) = codec::placed(bytes) {
        assert_eq!(codec::placed(&codec::placed_bytes(&placed)), Some(placed));
    }
    if let Some(client) = std::str::from_utf8(bytes).ok().and_then(codec::client) {
        assert_eq!(codec::name(&client).as_bytes(), bytes);
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let before = rest.len();
        let Some((_, _, placed)) = codec::taker(&mut rest) else { break };
        assert!(rest.len() < before, "it reads on");
        assert_eq!(codec::placed(&codec::placed_bytes(&placed)), Some(placed));
    }
});
