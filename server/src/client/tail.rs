//! `weir tail`.

use std::io::Write;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use proto::v1::subscribe_request::Start;
use proto::v1::subscribe_response::Message;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{Reading, SeriesSelector, SubscribeRequest, event};
use tokio::signal::unix::{SignalKind, signal};

use super::output::{self, Cell, Format, json_line};
use super::query::rows::reading_json;
use super::{cli, client, connect, latest, names, refused, time};

pub(crate) async fn run(options: &cli::Tail) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for ctrl-c")?;
    let channel = connect(&options.common.server).await?;
    let named: Vec<&String> = options.devices.iter().filter(|id| !id.contains('*')).collect();
    for id in latest::unknown(channel.clone(), &options.common.tenant, &named).await? {
        output::remark(&format!("no reading was ever accepted from {id}: waiting for its first"));
    }
    let mut client = client!(TelemetryServiceClient<_>, channel);
    let mut stream = client.subscribe(request(options)?).await.map_err(|s| refused(&s))?.into_inner();
    let mut printer = Printer::new(options.common.format);
    let mut left = options.limit.unwrap_or(usize::MAX);
    let mut token = Vec::new();
    let ended = loop {
        if left == 0 {
            break Ok(());
        }
        let answer = tokio::select! {
            answer = stream.message() => answer,
            _ = interrupt.recv() => break Ok(()),
        };
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => break Err(anyhow::anyhow!("the server closed the stream: start again with --resume")),
            Err(status) => break Err(refused(&status)),
        };
        match answer.message {
            Some(Message::Batch(batch)) => {
                for event in batch.events {
                    let Some(event::Payload::Reading(reading)) = event.payload else { continue };
                    if left > 0 {
                        printer.print(&reading)?;
                        left -= 1;
                    }
                }
                printer.flush()?;
            }
            Some(Message::Closing(closing)) => {
                break Err(anyhow::anyhow!("the server closed the stream: {}", closing.reason));
            }
            Some(Message::Heartbeat(_)) | None => {}
        }
        if !answer.resume_token.is_empty() {
            token = answer.resume_token;
        }
    };
    // With a limit, the last batch may have held more readings than were shown: its token would
    // skip the rest.
    if !token.is_empty() && options.limit.is_none() {
        output::remark(&format!("continue from here with: weir tail --resume {}", BASE64.encode(&token)));
    }
    ended
}

fn request(options: &cli::Tail) -> anyhow::Result<SubscribeRequest> {
    let tenant = &options.common.tenant;
    let start = match (&options.resume, &options.since) {
        (Some(token), _) => {
            let token = BASE64
                .decode(token.trim())
                .context("cannot read the token of --resume: pass the token that `weir tail` printed")?;
            Some(Start::ResumeToken(token))
        }
        (None, Some(since)) => Some(Start::StartTime(time::to_proto(time::parse(since, time::now())?))),
        (None, None) => options.snapshot.then_some(Start::Snapshot(true)),
    };
    Ok(SubscribeRequest {
        parent: names::tenant(tenant),
        selector: Some(SeriesSelector {
            devices: options.devices.iter().map(|id| names::device_pattern(tenant, id)).collect(),
            metrics: options.metrics.clone(),
            ..Default::default()
        }),
        start,
        ..Default::default()
    })
}

/// Prints readings as they arrive, as their columns are not known in advance.
struct Printer {
    format: Format,
    out: std::io::BufWriter<std::io::Stdout>,
    with_header: bool,
}

impl Printer {
    fn new(format: Format) -> Self {
        Self { format, out: std::io::BufWriter::new(std::io::stdout()), with_header: format == Format::Csv }
    }

    fn print(&mut self, reading: &Reading) -> anyhow::Result<()> {
        match self.format {
            Format::Json => json_line(&mut self.out, &reading_json(reading)),
            Format::Csv => self.csv(reading),
            Format::Table => self.line(reading),
        }
    }

    /// Writes one record for each value.
    fn csv(&mut self, reading: &Reading) -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_writer(&mut self.out);
        if std::mem::take(&mut self.with_header) {
            writer.write_record(["device", "time", "received", "seq", "metric", "value"])?;
        }
        for (metric, value) in sorted(reading) {
            writer.write_record([
                names::device_id(&reading.device),
                time::show_proto(reading.measure_time.as_ref()),
                time::show_proto(reading.ingest_time.as_ref()),
                reading.sequence.map(|s| s.to_string()).unwrap_or_default(),
                metric.to_owned(),
                value.text(),
            ])?;
        }
        writer.flush()?;
        Ok(())
    }

    fn line(&mut self, reading: &Reading) -> anyhow::Result<()> {
        let time = time::show_proto(reading.measure_time.as_ref());
        let device = names::device_id(&reading.device);
        let values: Vec<String> = sorted(reading).map(|(metric, value)| format!("{metric}={}", value.text())).collect();
        let line = format!("{time:<30}  {device}  {}", values.join(" "));
        let clean: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        writeln!(self.out, "{clean}")?;
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

fn sorted(reading: &Reading) -> impl Iterator<Item = (&str, Cell)> {
    let mut values: Vec<(&str, Cell)> = reading.values.iter().map(|(n, v)| (n.as_str(), Cell::from(v))).collect();
    values.sort_by(|a, b| a.0.cmp(b.0));
    values.into_iter()
}
