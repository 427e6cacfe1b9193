//! `weir map`: the readings of a payload under the configured routes.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use ingest::{MapOutcome, Rules};
use model::{Reading, Value};

use crate::cli::MapOptions;
use crate::client::output::{Cell, Table, remark};
use crate::client::time;
use crate::config::{self, Sources};
use crate::run::settings;

/// Prints the readings. The exit code is a failure when the message would not become readings.
///
/// # Errors
/// If the configuration is invalid or the payload cannot be read.
pub(crate) fn run(options: &MapOptions) -> anyhow::Result<ExitCode> {
    let config = config::load(&Sources::of_process(options.config.clone()))?.config;
    let payload = payload(options)?;
    model::topic::check_name(&options.topic).with_context(|| format!("--topic {:?}", options.topic))?;
    let message = ingest::StoredMessage {
        tenant: model::DEFAULT_TENANT,
        client: &options.client,
        topic: &options.topic,
        payload: &payload,
        received: time::now(),
        retain: options.retain,
        device: None,
    };
    let rules = Rules::new(settings::routes(&config)?, config.ingest.clone(), Arc::default());
    match ingest::map(&rules, &message) {
        MapOutcome::Plain => {
            remark("no route matches this topic: a plain message for subscribers");
            Ok(ExitCode::FAILURE)
        }
        MapOutcome::Refused(reason) => {
            remark(&format!("a dead letter: {reason}"));
            Ok(ExitCode::FAILURE)
        }
        MapOutcome::Readings(readings) if readings.is_empty() => {
            remark("no value: the message is acknowledged and nothing is stored");
            Ok(ExitCode::SUCCESS)
        }
        MapOutcome::Readings(readings) => {
            table(&readings).print(options.format)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn payload(options: &MapOptions) -> anyhow::Result<Vec<u8>> {
    match (&options.payload, &options.payload_file) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, Some(path)) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("read standard input")?;
            Ok(bytes)
        }
        (None, Some(path)) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        (None, None) => Ok(Vec::new()),
    }
}

fn table(readings: &[Reading]) -> Table {
    let mut table = Table::new(["device", "time", "seq", "name", "type", "value", "note"]);
    for reading in readings {
        let note = match (reading.claimed_time, reading.device_timed) {
            (Some(claimed), _) => format!("device time {}", time::show(claimed)),
            (None, true) => String::new(),
            (None, false) => "receive time".to_owned(),
        };
        for (name, value) in &reading.values {
            let (kind, cell) = match value {
                Value::Float(v) => ("float", Cell::Value((*v).into())),
                Value::Int(v) => ("integer", (*v).into()),
                Value::Bool(v) => ("boolean", (*v).into()),
                Value::Str(v) => ("text", Cell::Value(v.to_string().into())),
            };
            table.row([
                reading.device.id.as_ref().into(),
                time::show(reading.time).into(),
                reading.seq.into(),
                name.as_ref().into(),
                kind.into(),
                cell,
                note.as_str().into(),
            ]);
        }
    }
    table
}
