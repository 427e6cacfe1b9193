//! Ports for servers of tests that cannot choose one themselves.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that Linux gives to outgoing connections (32,768 and up): no other process gets one
/// of them between two starts of a server.
const PORTS: Range<u16> = 10_000..32_768;

/// Returns a port of the loopback address at which no process listens, and which this process never
/// received before.
///
/// # Errors
/// When no port is free.
pub(crate) fn free_port() -> io::Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Another process of the tests begins elsewhere.
    let first = process::id().wrapping_mul(331);
    let next = || {
        let number = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (number % PORTS.len() as u32) as u16
    };
    let mut ports = PORTS.map(|_| next());
    let free = ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, format!("no port of {PORTS:?} is free")))
}
