//! Devices beside each other: one with a single message under way, and one that loads its log.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::device::Device;
use crate::quiet::show;
use crate::wait_until;

/// A device with one message under way at a time.
pub struct RoundTrips {
    device: Device,
    name: String,
    /// Messages that were sent.
    pub sent: u64,
}

impl RoundTrips {
    /// A device that sends as `devices/NAME`, and has sent that many messages before.
    pub fn new(device: Device, name: &str, sent: u64) -> Self {
        Self { device, name: name.to_owned(), sent }
    }

    /// Sends one message and returns the time until its acknowledgement.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn round_trip(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let topic = format!("devices/{}/telemetry", self.name);
        self.device.send(self.sent, &topic, format!("{{\"n\":{}}}", self.sent).as_bytes())?;
        self.sent += 1;
        self.device.wait_for_all()?;
        Ok(begun.elapsed())
    }

    /// Sends messages, prints the distribution of their times, and returns the median.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn round_trips(&mut self, count: usize, name: &str) -> anyhow::Result<Duration> {
        let times = (0..count).map(|_| self.round_trip()).collect::<anyhow::Result<_>>()?;
        Ok(show(&format!("{} {name}", self.name), times).p50)
    }

    /// Sends messages for a time; returns the time that each took.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn round_trips_for(&mut self, time: Duration) -> anyhow::Result<Vec<Duration>> {
        let (begun, mut times) = (Instant::now(), Vec::new());
        while begun.elapsed() < time {
            times.push(self.round_trip()?);
        }
        Ok(times)
    }
}

/// Checks that devices do not notice the trouble of others: their medians are near those of
/// `alone`.
///
/// # Errors
/// When one takes longer, or a connection is lost.
pub fn check_beside(devices: &mut [RoundTrips], alone: &[Duration], name: &str) -> anyhow::Result<()> {
    for (device, alone) in devices.iter_mut().zip(alone) {
        let beside = device.round_trips(1000, name)?;
        ensure!(beside < *alone * 5 + Duration::from_millis(20), "{beside:?}, {alone:?} alone");
    }
    Ok(())
}

/// A device that sends messages of 2 KB, and sends again what was not acknowledged.
#[derive(Debug)]
pub struct Load {
    /// Messages that were sent.
    pub sent: AtomicU64,
    /// Messages that were acknowledged.
    pub acknowledged: AtomicU64,
    /// Ends it when everything is acknowledged.
    pub stop: AtomicBool,
    /// Port of the broker.
    port: AtomicU64,
}

impl Load {
    /// A load on this broker.
    pub fn new(broker: SocketAddr) -> Self {
        let (sent, acknowledged, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Self { sent, acknowledged, stop, port: AtomicU64::new(broker.port().into()) }
    }

    /// Goes on with another broker.
    pub fn reach(&self, broker: SocketAddr) {
        self.port.store(broker.port().into(), Ordering::SeqCst);
    }

    /// Sends as `devices/NAME` until it is stopped.
    ///
    /// # Errors
    /// When an answer of the broker cannot be read.
    pub fn run(&self, mut device: Device, name: &str) -> anyhow::Result<()> {
        let text: String =
            (0..2000_u32).map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect();
        let topic = format!("devices/{name}/telemetry");
        let mut sent = 0;
        loop {
            let stops = self.stop.load(Ordering::SeqCst);
            if stops && device.in_flight() == 0 {
                return Ok(());
            }
            device.reach(([127, 0, 0, 1], u16::try_from(self.port.load(Ordering::SeqCst))?).into());
            if device.connect().is_err() {
                thread::yield_now();
                continue;
            }
            while !stops && device.in_flight() < 50 {
                let payload = format!("{{\"n\":{sent},\"text\":\"{sent}{text}\"}}");
                let lost = device.send(sent, &topic, payload.as_bytes()).is_err();
                sent += 1;
                self.sent.store(sent, Ordering::SeqCst);
                if lost {
                    break;
                }
            }
            let acknowledged = device.acknowledged_until_lost()?.len() as u64;
            self.acknowledged.fetch_add(acknowledged, Ordering::SeqCst);
        }
    }

    /// Waits until that many further messages are acknowledged.
    ///
    /// # Errors
    /// When they are not within `patience`.
    pub async fn grown(&self, by: u64, patience: Duration) -> anyhow::Result<()> {
        let from = self.acknowledged.load(Ordering::SeqCst);
        wait_until("acknowledgements", patience, async || {
            let now = self.acknowledged.load(Ordering::SeqCst);
            ensure!(now >= from + by, "{now} of {}", from + by);
            Ok(())
        })
        .await
    }
}
