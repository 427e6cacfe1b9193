//! The payload of a device: `{"ts":…,"seq":…,"temperature":…,"humidity":…,"battery":…}`, a random
//! walk with two decimals.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Values of one device.
#[derive(Debug)]
pub(super) struct Payload {
    sequence: u64,
    temperature: u32,
    humidity: u32,
    battery: u32,
    random: u64,
}

impl Payload {
    pub(super) fn new(device: usize) -> Self {
        let random = (device as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { sequence: 0, temperature: 2150, humidity: 4500, battery: 9900, random }
    }

    /// Writes the next reading.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        self.sequence += 1;
        self.temperature = self.walk(self.temperature, 1500, 3500);
        self.humidity = self.walk(self.humidity, 2000, 9000);
        if self.sequence.is_multiple_of(100) {
            self.battery = self.battery.saturating_sub(1).max(100);
        }
        let hundredths = |v: u32| (v / 100, v % 100);
        let ((t, t2), (h, h2), (b, b2)) =
            (hundredths(self.temperature), hundredths(self.humidity), hundredths(self.battery));
        write!(
            out,
            r#"{{"ts":{now},"seq":{},"temperature":{t}.{t2:02},"humidity":{h}.{h2:02},"battery":{b}.{b2:02}}}"#,
            self.sequence
        )
        .expect("writing to a vector does not fail");
    }

    fn walk(&mut self, value: u32, low: u32, high: u32) -> u32 {
        // xorshift64: cheap, and the same for every run.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let step = u32::try_from(self.random % 11).expect("below 11");
        (value + step).saturating_sub(5).clamp(low, high)
    }
}
