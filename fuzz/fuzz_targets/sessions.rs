//! Whole connections of two clients, which send any bytes in turns, break off, come back and stop
//! reading, at a broker that is killed and starts again: no task panics, every answer is a packet
//! that the client may get, and every connection ends. Input: steps, see `Step::next`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_fuzz::client::Client;
use weir_fuzz::node::Node;

enum Step<'a> {
    Send(usize, &'a [u8]),
    BreakOff(usize),
    Deaf(usize, bool),
    Kill,
}

impl<'a> Step<'a> {
    /// Reads a step: a byte whose lowest bit is the client and the next three what it does; with
    /// the length of what is sent behind it, in one byte or two.
    fn next(input: &mut &'a [u8]) -> Option<Self> {
        let (&[first], rest) = input.split_first_chunk()?;
        *input = rest;
        let client = usize::from(first & 1);
        Some(match first >> 1 & 7 {
            4 => Self::BreakOff(client),
            5 => Self::Deaf(client, first & 0x10 != 0),
            6 => Self::Kill,
            kind => {
                let (length, rest) = if kind == 3 {
                    let (length, rest) = input.split_first_chunk()?;
                    (usize::from(u16::from_be_bytes(*length)), rest)
                } else {
                    let (&[length], rest) = input.split_first_chunk()?;
                    (usize::from(length), rest)
                };
                let (bytes, rest) = rest.split_at(length.min(rest.len()));
                *input = rest;
                Self::Send(client, bytes)
            }
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let mut node = Node::default();
    let mut clients: [Option<Client>; 2] = [None, None];
    let mut is_deaf = [false; 2];
    let mut kills = 0;
    while let Some(step) = Step::next(&mut input) {
        match step {
            Step::Send(at, bytes) => {
                let client = clients[at].get_or_insert_with(|| Client::new(node.connect()));
                node.run(client.send(bytes, !is_deaf[at]));
            }
            Step::BreakOff(at) => {
                drop(clients[at].take());
                node.run(Node::rest());
            }
            Step::Deaf(at, deaf) => is_deaf[at] = deaf,
            Step::Kill if kills < 3 => {
                kills += 1;
                clients = [None, None];
                node = node.kill();
            }
            Step::Kill => {}
        }
        for (at, client) in clients.iter_mut().enumerate() {
            if let Some(client) = client
                && !is_deaf[at]
            {
                node.run(client.receive());
            }
        }
    }
    drop(clients);
    node.ended();
});
