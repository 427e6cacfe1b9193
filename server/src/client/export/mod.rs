//! `weir export`: the history as a Parquet or CSV file.
//!
//! The columns of a file are known only after everything was read. The answer is therefore spooled
//! to a file beside the output first: one consistent read, in bounded memory.

mod columns;
mod csv_file;
mod parquet_file;
mod spool;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use crate::client::Connection;
use anyhow::Context;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{SeriesSelector, StreamReadingsRequest};

use super::{cli, client, connect, latest, names, output, query, refused};
use columns::Columns;
use spool::Spool;

/// Maximum number of devices in one request, from the protocol.
const MOST_DEVICES: usize = 500;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Csv,
    Parquet,
}

pub(crate) async fn run(options: &cli::Export) -> anyhow::Result<()> {
    let kind = match options.output.extension().and_then(|e| e.to_str()) {
        Some("csv") => Kind::Csv,
        Some("parquet") => Kind::Parquet,
        _ => anyhow::bail!("--output {} has an unknown extension: use .parquet or .csv", options.output.display()),
    };
    let folder = match options.output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let channel = connect(&options.server).await?;
    let (mut spool, columns, seen) = read(channel.clone(), options, Spool::new_in(folder)?).await?;
    // The output appears complete or not at all.
    let temporary =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    match kind {
        Kind::Csv => csv_file::write(temporary.as_file(), &mut spool, &columns)?,
        Kind::Parquet => parquet_file::write(temporary.as_file(), &mut spool, &columns)?,
    }
    temporary.as_file().sync_all().context("write the output")?;
    readable(temporary.as_file())?;
    temporary.persist(&options.output).with_context(|| format!("cannot write {}", options.output.display()))?;
    output::remark(&format!("{} readings written to {}", columns.rows(), options.output.display()));
    let silent: Vec<&String> = options.devices.iter().filter(|id| !seen.contains(*id)).collect();
    latest::explain_silence(channel, &options.tenant, &silent).await
}

/// Gives the output the usual permissions; a temporary file is readable by its owner only.
fn readable(file: &File) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).context("set the output's permissions")
}

/// Returns the readings, their columns, and the ids of their devices if the request names devices.
async fn read(
    channel: Connection,
    options: &cli::Export,
    mut spool: Spool,
) -> anyhow::Result<(Spool, Columns, BTreeSet<String>)> {
    let mut client = client!(TelemetryServiceClient<_>, channel);
    let mut seen = BTreeSet::new();
    let mut columns = Columns::default();
    let all: Vec<String> = options.devices.iter().map(|id| names::device(&options.tenant, id)).collect();
    let batches: Vec<&[String]> = if all.is_empty() { vec![&[]] } else { all.chunks(MOST_DEVICES).collect() };
    for devices in batches {
        let request = StreamReadingsRequest {
            parent: names::tenant(&options.tenant),
            selector: Some(SeriesSelector {
                devices: devices.to_vec(),
                metrics: options.metrics.clone(),
                ..Default::default()
            }),
            range: query::range(&options.range)?,
            include_details: true,
            ..Default::default()
        };
        let mut stream = client.stream_readings(request).await.map_err(|s| refused(&s))?.into_inner();
        while let Some(answer) = stream.message().await.map_err(|s| refused(&s))? {
            for chunk in &answer.chunks {
                if !options.devices.is_empty() {
                    seen.insert(names::device_id(&chunk.device));
                }
                columns.note(chunk);
                spool.push(chunk)?;
            }
        }
    }
    Ok((spool, columns, seen))
}
