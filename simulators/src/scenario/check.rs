//! Checks of a scenario that involve several keys.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::{Client, Event, Faults, Format, Group, Model, Scenario, TimeFormat, Version};
use crate::plan::Names;

impl Scenario {
    /// Checks the scenario; CSV files are read from `folder`.
    ///
    /// # Errors
    /// The error names the key and a valid value.
    pub fn check(&self, folder: &Path) -> anyhow::Result<()> {
        ensure!(!self.groups.is_empty(), "`group` is missing: give at least one [[group]]");
        ensure!(!self.duration.is_zero(), "`duration` is 0: use the time in which the fleet sends");
        for (index, group) in self.groups.iter().enumerate() {
            let name = &group.name;
            ensure!(
                self.groups[..index].iter().all(|other| other.name != *name),
                "`group[{index}].name` is {name:?}, which another group has: use a different name for each group"
            );
            group.check(folder).with_context(|| format!("group {name:?}"))?;
        }
        for (index, group) in self.subscribers.iter().enumerate() {
            let name = &group.name;
            ensure!(
                self.subscribers[..index].iter().all(|other| other.name != *name),
                "`subscriber[{index}].name` is {name:?}, which another one has: use a different name for each"
            );
            group.check().with_context(|| format!("subscriber {name:?}"))?;
        }
        let mut seen = std::collections::HashSet::new();
        for (device, group) in Names::of(self) {
            ensure!(seen.insert(device.clone()), "`id` of group {group:?} yields the id {device:?} twice");
        }
        self.events.iter().enumerate().try_for_each(|(index, event)| {
            probability(&format!("event[{index}].share"), event.share())?;
            let lasts = matches!(event, Event::Offline { lasts, .. } if lasts.is_zero());
            ensure!(!lasts, "`event[{index}].for` is 0: use the time in which the devices are away");
            Ok(())
        })
    }
}

impl Group {
    fn check(&self, folder: &Path) -> anyhow::Result<()> {
        ensure!(self.count > 0, "`count` is 0: use at least 1");
        ensure!(!self.interval.is_zero(), "`interval` is 0: use the time between two messages");
        ensure!(
            self.paces.iter().all(|p| !p.interval.is_zero()),
            "`pace.interval` is 0: use the time between messages"
        );
        ensure!((0.0..=0.5).contains(&self.jitter), "`jitter` is {}: use 0 to 0.5 of the interval", self.jitter);
        ensure!(self.qos <= 2, "`qos` is {}: give 0, 1 or 2", self.qos);
        ensure!(self.in_flight > 0, "`in_flight` is 0: use at least 1");
        ensure!(!self.values.is_empty(), "`values` is empty: add at least one value");
        ensure!(self.topic().contains("{device}"), "`topic` has no {{device}}: readings would be indistinguishable");
        ensure!(
            self.count == 1 || self.id.contains("{n"),
            "`id` has no {{n}} although there are {} devices",
            self.count
        );
        self.check_payload()?;
        self.check_client()?;
        self.faults.check()?;
        for (name, model) in &self.values {
            model.check(folder).with_context(|| format!("`values.{name}`"))?;
        }
        Ok(())
    }

    fn check_payload(&self) -> anyhow::Result<()> {
        let payload = &self.payload;
        ensure!(payload.batch > 0, "`payload.batch` is 0: use at least 1");
        ensure!(
            payload.batch == 1 || payload.format == Format::Json,
            "`payload.batch` is {}, which only the format \"json\" allows",
            payload.batch
        );
        ensure!(
            (payload.format == Format::Template) == payload.template.is_some(),
            "`payload.template` and the format \"template\" need each other"
        );
        if payload.format == Format::Value {
            ensure!(self.topic().contains("{name}"), "`topic` has no {{name}}, which the format \"value\" needs");
            return Ok(());
        }
        ensure!(
            payload.sequence || payload.time != TimeFormat::None,
            "`payload.time` is \"none\" and `payload.sequence` false: readings would be indistinguishable"
        );
        let coarse = payload.time == TimeFormat::S || !self.faults.clock_jump_by.is_zero();
        ensure!(
            payload.sequence || !coarse,
            "`payload.sequence` is false: with times in seconds or clocks that jump, two readings may have one time"
        );
        if let Some(template) = &payload.template {
            for needed in self.values.keys() {
                ensure!(template.contains(&format!("{{{needed}}}")), "`payload.template` has no {{{needed}}}");
            }
            for (key, wanted) in [("time", payload.time != TimeFormat::None), ("seq", payload.sequence)] {
                let there = template.contains(&format!("{{{key}}}"));
                ensure!(
                    there == wanted,
                    "`payload.template` and `payload.time`, `payload.sequence` differ over {{{key}}}"
                );
            }
        }
        Ok(())
    }

    fn check_client(&self) -> anyhow::Result<()> {
        if self.client == Client::Lean {
            return Ok(());
        }
        ensure!(self.mqtt == Version::V3, "`client` is \"rumqttc\": use `mqtt = \"3.1.1\"`, which it speaks");
        ensure!(self.qos == 1, "`client` is \"rumqttc\": give `qos = 1`");
        let f = &self.faults;
        for (key, value) in [("resend", f.resend), ("half_open", f.half_open), ("oversize", f.oversize)] {
            ensure!(value == 0.0, "`faults.{key}` needs `client = \"lean\"`: rumqttc does not do that");
        }
        ensure!(f.slow_reader.is_zero(), "`faults.slow_reader` needs `client = \"lean\"`");
        ensure!(self.subscribe.is_none(), "`subscribe` needs `client = \"lean\"`");
        Ok(())
    }
}

impl Faults {
    fn check(&self) -> anyhow::Result<()> {
        let shares = [
            ("drop_before_ack", self.drop_before_ack),
            ("drop_after_ack", self.drop_after_ack),
            ("duplicate", self.duplicate),
            ("resend", self.resend),
            ("half_open", self.half_open),
            ("type_flip", self.type_flip),
            ("malformed", self.malformed),
            ("oversize", self.oversize),
            ("late", self.late),
            ("out_of_order", self.out_of_order),
            ("clock_jump", self.clock_jump),
        ];
        for (key, share) in shares {
            probability(&format!("faults.{key}"), share)?;
        }
        ensure!(self.clock_drift.abs() <= 0.5, "`faults.clock_drift` is {}: give 0 to 0.5", self.clock_drift);
        let partners = [
            ("late", self.late > 0.0, "late_by", !self.late_by.is_zero()),
            ("clock_jump", self.clock_jump > 0.0, "clock_jump_by", !self.clock_jump_by.is_zero()),
            ("oversize", self.oversize > 0.0, "oversize_bytes", self.oversize_bytes > 0),
        ];
        for (one, has_one, other, has_other) in partners {
            ensure!(has_one == has_other, "`faults.{one}` and `faults.{other}` need each other");
        }
        Ok(())
    }
}

impl Model {
    fn check(&self, folder: &Path) -> anyhow::Result<()> {
        match self {
            Self::Constant { value } => scalar(value),
            Self::Choice { of } => {
                ensure!(!of.is_empty(), "`of` is empty: add at least one value");
                of.iter().try_for_each(scalar)
            }
            Self::RandomWalk { start, step, min, max, .. } => {
                ensure!(min <= start && start <= max, "`start` is {start}, outside of `min` to `max`");
                ensure!(*step >= 0.0, "`step` is {step}: use 0 or more");
                Ok(())
            }
            Self::Sawtooth { min, max, period, .. } => {
                ensure!(min < max, "`min` is {min}, not below `max`");
                ensure!(!period.is_zero(), "`period` is 0: use the time of one tooth");
                Ok(())
            }
            Self::Flag { probability: share } => probability("probability", *share),
            Self::Csv { file, column } => crate::plan::csv_column(&folder.join(file), column).map(|_| ()),
            Self::Daily { .. } | Self::Counter { .. } => Ok(()),
        }
    }
}

fn scalar(value: &toml::Value) -> anyhow::Result<()> {
    match value {
        toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::String(_) => Ok(()),
        toml::Value::Float(v) if v.is_finite() => Ok(()),
        other => bail!("{other} is not a value: use a number, a boolean or a text"),
    }
}

fn probability(key: &str, share: f64) -> anyhow::Result<()> {
    ensure!((0.0..=1.0).contains(&share), "`{key}` is {share}: give 0 to 1");
    Ok(())
}
