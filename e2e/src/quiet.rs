//! Devices of tenants that do not flood, and the times that their messages take.

use std::time::{Duration, Instant};

use crate::device::Device;
use crate::keyed::Keyed;

/// Devices, one of each tenant, with one message under way at a time.
pub struct Quiet {
    /// The devices, in the order of their turns.
    pub devices: Vec<Device>,
    /// Messages that were sent.
    pub sent: u64,
}

impl Quiet {
    /// Adds the device `quiet` to each of these tenants.
    ///
    /// # Errors
    /// When a command fails.
    pub fn of(site: &Keyed, tenants: &[String]) -> anyhow::Result<Self> {
        let device = |tenant: &String| {
            let (_, password) = site.add_device_of(tenant, "quiet")?;
            Ok(Device::new("quiet", site.weir.mqtt).with_password("quiet", &password))
        };
        Ok(Self { devices: tenants.iter().map(device).collect::<anyhow::Result<_>>()?, sent: 0 })
    }

    /// Sends the next message, and returns its device.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self) -> anyhow::Result<&mut Device> {
        let turn = self.sent as usize % self.devices.len();
        let device = &mut self.devices[turn];
        device.send(self.sent, "devices/quiet/telemetry", format!("{{\"n\":{}}}", self.sent).as_bytes())?;
        self.sent += 1;
        Ok(device)
    }

    /// Sends the next message and returns the time until its acknowledgement.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn round_trip(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let device = self.send()?;
        device.wait_for_all()?;
        Ok(begun.elapsed())
    }
}

/// The middle and the end of a distribution of times.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

/// Prints the distribution of times, and returns it.
pub fn show(name: &str, mut times: Vec<Duration>) -> Times {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{name}: {} times, p50 {:?}, p99 {:?}, max {:?}", times.len(), at(50), at(99), at(100));
    Times { p50: at(50), p99: at(99) }
}
