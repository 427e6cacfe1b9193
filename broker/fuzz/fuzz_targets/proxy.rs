//! Headers of the PROXY protocol: no bytes make the parser panic, and a header of version 1 that is
//! taken has one way to be written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_broker::fuzzing::proxy::{Header, parse_binary, parse_line};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Header::From(client)) = parse_line(bytes) {
        let text = std::str::from_utf8(bytes).expect("it was taken");
        let port = text.split(' ').nth(4).expect("it has six fields");
        assert_eq!(port, client.port().to_string());
    }
    if let Some(([command, family], rest)) = bytes.split_first_chunk() {
        let taken = parse_binary([*command, *family], rest);
        assert!(taken.is_err() || matches!(*command, 0x20 | 0x21));
    }
});
