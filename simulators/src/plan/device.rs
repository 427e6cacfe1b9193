//! The devices of a scenario.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::Nanos;
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::SeedableRng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::names;
use super::values::{Source, unit};
use crate::scenario::{Event, Group, Scenario};

/// A device with everything that determines its messages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Device {
    /// Device id.
    pub id: Arc<str>,
    /// Index among all devices of the scenario, from 0.
    pub index: u32,
    /// Settings shared by the devices of its group.
    pub kind: Arc<Kind>,
    /// Index in its group, from 0.
    pub number: u32,
}

/// Settings shared by the devices of a group.
#[derive(Debug)]
pub struct Kind {
    /// The group in the scenario.
    pub group: Group,
    pub(super) sources: Vec<(Arc<str>, Source)>,
    pub(super) seed: u64,
    pub(super) start: Nanos,
    pub(super) duration: Duration,
    events: Arc<[Event]>,
}

/// A period without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// From this time after the start.
    pub from: Duration,
    /// Until this time.
    pub until: Duration,
}

/// All devices of a scenario that starts at `start`, nanoseconds since 1970. CSV files are read
/// from `folder`.
///
/// # Errors
/// When a file cannot be read.
pub fn devices(scenario: &Scenario, folder: &Path, start: Nanos) -> anyhow::Result<Vec<Device>> {
    let events: Arc<[Event]> = scenario.events.clone().into();
    let mut all = Vec::with_capacity(scenario.devices());
    for group in &scenario.groups {
        let sources = group.values.iter().map(|(name, model)| Ok((name.as_str().into(), Source::new(model, folder)?)));
        let kind = Arc::new(Kind {
            group: group.clone(),
            sources: sources.collect::<anyhow::Result<_>>()?,
            seed: scenario.seed,
            start,
            duration: scenario.duration,
            events: Arc::clone(&events),
        });
        for number in 0..group.count {
            let index = u32::try_from(all.len()).unwrap_or(u32::MAX);
            all.push(Device { id: names::name(group, number).into(), index, kind: Arc::clone(&kind), number });
        }
    }
    Ok(all)
}

impl Device {
    /// A device whose messages come from a recording: only its connection settings apply.
    pub(crate) fn plain(id: &str, index: u32, group: Group) -> Self {
        let (sources, events) = (Vec::new(), Arc::default());
        let kind = Kind { group, sources, seed: 0, start: 0, duration: Duration::ZERO, events };
        Self { id: id.into(), index, kind: Arc::new(kind), number: 0 }
    }

    /// A random generator of this device; `purpose` separates the generators of one device.
    pub(crate) fn random(&self, purpose: &str) -> Pcg64Mcg {
        let mut name = purpose.as_bytes().to_vec();
        name.push(0);
        name.extend_from_slice(self.id.as_bytes());
        Pcg64Mcg::seed_from_u64(xxh3_64_with_seed(&name, self.kind.seed))
    }

    /// Time of its first message, after the start.
    pub fn begins(&self) -> Duration {
        self.kind.group.ramp.mul_f64(f64::from(self.number) / f64::from(self.kind.group.count.max(1)))
    }

    /// Periods in which it is away, in the order of the events.
    pub fn absences(&self) -> Vec<Absence> {
        let mut random = self.random("events");
        let mut absences = Vec::new();
        for event in self.kind.events.iter() {
            let (chosen, spread) = (unit(&mut random) < event.share(), unit(&mut random));
            let until = match event {
                Event::Reconnect { at, within, .. } => *at + within.mul_f64(spread),
                Event::Offline { at, lasts, .. } => *at + *lasts,
            };
            if chosen {
                absences.push(Absence { from: event.at(), until });
            }
        }
        absences.sort_by_key(|absence| absence.from);
        absences
    }
}
