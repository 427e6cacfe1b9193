//! The use of tenants, as a process tells it to the others of a fleet.
//!
//! ```text
//! report  = version (1), record …
//! record  = length of the rest, length of the id, id, counts (4), demands (4 × used, waiting,
//!           used burst, part), totals (3), mask of the limits that were reached, a count for
//!           each bit
//! ```
//! All numbers are of variable length, 7 bits a byte, the lowest first; demands are thousandths. A
//! reader passes over fields of a record that it does not know, and over a report of another
//! version.

use hashbrown::HashMap;

use super::Quota;
use super::parts::Demand;
use super::tenant::SHARED;

const VERSION: u8 = 1;
/// Largest report of one process. Tenants beyond it are not told: the limits of these hold for each
/// process. It is enough for about 5,000 tenants.
pub const MAX_REPORT_BYTES: usize = 256 << 10;

/// Things that a tenant has open in a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections.
    pub connections: u64,
    /// Streams of answers.
    pub streams: u64,
    /// Sessions, connected or not.
    pub sessions: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
}

/// The use of one tenant in one process.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Record {
    pub(super) counts: Counts,
    pub(super) demands: [Demand; SHARED.len()],
    /// Messages, bytes and calls since the start.
    pub(super) totals: [u64; 3],
    /// Events of each limit since the start.
    pub(super) limited: [u64; Quota::ALL.len()],
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0_u64, 0);
    loop {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

fn take_part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(bytes)?).ok()?;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

fn thousandths(number: f64) -> u64 {
    (number * 1000.0).ceil() as u64
}

/// A report that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    out: Vec<u8>,
    record: Vec<u8>,
    /// Tenants that had no room.
    pub(super) left_out: usize,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { out: vec![VERSION], record: Vec::new(), left_out: 0 }
    }

    pub(super) fn add(&mut self, tenant: &str, record: &Record) {
        let out = &mut self.record;
        out.clear();
        put(out, tenant.len() as u64);
        out.extend_from_slice(tenant.as_bytes());
        let Counts { connections, streams, sessions, subscriptions } = record.counts;
        [connections, streams, sessions, subscriptions].iter().for_each(|count| put(out, *count));
        for demand in &record.demands {
            let Demand { used, waiting, used_burst, part } = *demand;
            [used, waiting, used_burst, part].iter().for_each(|number| put(out, thousandths(*number)));
        }
        record.totals.iter().for_each(|total| put(out, *total));
        let mask = record.limited.iter().rev().fold(0, |mask, count| mask << 1 | u64::from(*count > 0));
        put(out, mask);
        record.limited.iter().filter(|count| **count > 0).for_each(|count| put(out, *count));
        if self.out.len() + out.len() + 4 > MAX_REPORT_BYTES {
            self.left_out += 1;
            return;
        }
        put(&mut self.out, out.len() as u64);
        self.out.extend_from_slice(out);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }
}

fn read_record<'a>(bytes: &mut &'a [u8]) -> Option<(&'a str, Record)> {
    let tenant = std::str::from_utf8(take_part(bytes)?).ok()?;
    let counts = Counts {
        connections: take(bytes)?,
        streams: take(bytes)?,
        sessions: take(bytes)?,
        subscriptions: take(bytes)?,
    };
    let mut record = Record { counts, ..Record::default() };
    for demand in &mut record.demands {
        let mut units = || take(bytes).map(|thousandths| thousandths as f64 / 1000.0);
        *demand = Demand { used: units()?, waiting: units()?, used_burst: units()?, part: units()? };
    }
    for total in &mut record.totals {
        *total = take(bytes)?;
    }
    let mask = take(bytes)?;
    for (bit, count) in record.limited.iter_mut().enumerate() {
        if mask >> bit & 1 == 1 {
            *count = take(bytes)?;
        }
    }
    Some((tenant, record))
}

/// Reads a report. `None` when it is malformed or of another version.
pub(super) fn read(report: &[u8]) -> Option<HashMap<Box<str>, Record>> {
    let (VERSION, mut rest) = report.split_first().map(|(version, rest)| (*version, rest))? else { return None };
    if report.len() > MAX_REPORT_BYTES {
        return None;
    }
    let mut records = HashMap::new();
    while !rest.is_empty() {
        let (tenant, record) = read_record(&mut take_part(&mut rest)?)?;
        records.insert(tenant.into(), record);
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seed: u64) -> Record {
        let counts = Counts { connections: seed, streams: 1, sessions: seed * 3, subscriptions: u64::MAX };
        let demand = |n: u64| Demand {
            used: (seed * n) as f64 / 8.0,
            waiting: n as f64,
            used_burst: 0.25,
            part: n as f64 / 8.0,
        };
        let mut limited = [0; Quota::ALL.len()];
        (limited[0], limited[14]) = (seed, 1);
        Record { counts, demands: [0, 1, 2, 3].map(demand), totals: [seed << 40, 0, 7], limited }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let mut writer = Writer::new();
        let all = [("acme", record(0)), ("", record(3)), ("größer", record(1 << 20)), ("idle", Record::default())];
        all.iter().for_each(|(tenant, record)| writer.add(tenant, record));
        let found = read(&writer.finish()).unwrap();
        assert_eq!(found.len(), all.len());
        all.iter().for_each(|(tenant, record)| assert_eq!(found.get(*tenant), Some(record), "{tenant}"));
    }

    #[test]
    fn a_report_that_is_cut_or_of_another_version_is_not_read() {
        let mut writer = Writer::new();
        writer.add("acme", &record(5));
        let report = writer.finish();
        for end in 2..report.len() {
            assert_eq!(read(&report[..end]), None, "{end}");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[&[VERSION + 1], &report[1..]].concat()), None);
        assert_eq!(read(&[VERSION, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn fields_of_a_later_release_are_passed_over() {
        let mut writer = Writer::new();
        writer.add("acme", &record(5));
        let mut report = writer.finish();
        report[1] += 2;
        report.extend([9, 9]);
        let mut writer = Writer::new();
        writer.add("next", &record(6));
        report.extend(&writer.finish()[1..]);
        let found = read(&report).unwrap();
        assert_eq!((found.get("acme"), found.get("next")), (Some(&record(5)), Some(&record(6))));
    }

    #[test]
    fn a_report_has_a_bound() {
        let mut writer = Writer::new();
        (0..20_000).for_each(|n| writer.add(&format!("tenant-{n}"), &record(n)));
        assert!(writer.left_out > 10_000 && writer.left_out < 18_000, "{}", writer.left_out);
        let report = writer.finish();
        assert!(report.len() <= MAX_REPORT_BYTES && report.len() > MAX_REPORT_BYTES - 200);
        assert!(read(&report).is_some());
    }
}
