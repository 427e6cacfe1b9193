//! `weir refill`: fills an export again after its system lost what it was given.
//!
//! The server sets the export back in its logs as far as they reach, and delivers from there. The
//! readings that were received earlier are read from the history, and written here. Nothing of it
//! is done twice in a system that recognises a reading: an interrupted refill is begun again.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Connection;
use anyhow::{Context, bail};
use api::names;
use flusher::Refill;
use flusher::projections::ExportSpec;
use model::{DeviceKey, Nanos};
use proto::v1::column::Values;
use proto::v1::export::State;
use proto::v1::export_service_client::ExportServiceClient;
use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{
    BookLine, GetBooksRequest, ListExportsRequest, ReadingChunk, RewindExportRequest, SeriesSelector,
    StreamReadingsRequest, TimeRange,
};
use stores::{Block, BlockId, Column, ColumnData};

use crate::cli::RefillOptions;
use crate::client::{self, Target, client, output, refused, time};
use crate::config::{self, Sources};
use crate::exports;

/// Between two looks at the state of the export.
const LOOK: Duration = Duration::from_millis(500);
/// Readings may be ordered by times of their devices up to a day ahead of their arrival.
const AHEAD: Nanos = 25 * 3_600 * model::time::SECOND;

/// Fills the export, waits until its server has caught up, and checks the books: the exit code is a
/// failure when they do not balance.
///
/// # Errors
/// One line, with advice.
pub(crate) fn run(options: &RefillOptions) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    runtime.block_on(fill(options))
}

async fn fill(options: &RefillOptions) -> anyhow::Result<ExitCode> {
    let since = time::parse(&options.since, time::now())?;
    let config = config::load(&Sources::of_process(options.config.clone()))?.config;
    let name = &options.export;
    let Some(spec) = exports::open_named(&config, name).await? else {
        bail!(
            "no export is named {name:?} in the configuration of this command: give it that of the running Weir, with \
             --config or WEIR_CONFIG, and see `weir exports`; the history and the other standard stores are not filled \
             from elsewhere: restore them from a backup"
        );
    };
    let target = Target::given_or_of(options.server.as_ref(), options.ca.as_ref(), &config);
    let channel = client::connect(target).await?;
    let mut control = client!(ExportServiceClient<_>, channel.clone());
    let request = RewindExportRequest { name: names::export(name), to_time: Some(time::to_proto(since)) };
    let rewound = control.rewind_export(request).await.map_err(|s| refused(&s))?.into_inner();
    let start = rewound.start_time.as_ref().map_or(since, time::from_proto);
    output::remark(&format!("{name} delivers again what the log holds, from {} on", time::show(start)));
    if rewound.truncated {
        let (written, rejected) = from_history(&spec, channel.clone(), &options.tenant, (since, start)).await?;
        output::remark(&format!("{written} readings received before that are filled in from the history"));
        if rejected > 0 {
            output::remark(&format!("{rejected} readings are refused, as at their delivery: they are dead letters"));
        }
    }
    caught_up(&mut control, name).await?;
    check(channel, name, &options.tenant).await
}

/// Writes readings of the history since `since` that were received before `before`; returns how
/// many, and how many are refused.
async fn from_history(
    spec: &ExportSpec,
    channel: Connection,
    tenant: &str,
    (since, before): (Nanos, Nanos),
) -> anyhow::Result<(u64, u64)> {
    let mut client = client!(TelemetryServiceClient<_>, channel);
    let end = before.saturating_add(AHEAD);
    let request = StreamReadingsRequest {
        parent: names::tenant(tenant),
        selector: Some(SeriesSelector::default()),
        range: Some(TimeRange { start_time: Some(time::to_proto(since)), end_time: Some(time::to_proto(end)) }),
        include_details: true,
        ..Default::default()
    };
    let name = &spec.name;
    let mut refill = Refill::begin(spec, before).await.with_context(|| format!("fill export {name}"))?;
    let mut stream = client.stream_readings(request).await.map_err(|s| refused(&s))?.into_inner();
    while let Some(answer) = stream.message().await.map_err(|s| refused(&s))? {
        for chunk in answer.chunks {
            let block = block(chunk).context("the server sent a chunk that cannot be read: use its release")?;
            let written = refill.write(block).await;
            written.with_context(|| format!("fill export {name}; run the same command again"))?;
        }
    }
    Ok(refill.counts())
}

/// Waits until the export has delivered everything.
async fn caught_up(control: &mut ExportServiceClient<Connection>, name: &str) -> anyhow::Result<()> {
    let mut calm = 0;
    // Its driver follows the request within a second or two.
    while calm < 6 {
        tokio::time::sleep(LOOK).await;
        let exports = control.list_exports(ListExportsRequest {}).await.map_err(|s| refused(&s))?.into_inner().exports;
        let Some(export) = exports.into_iter().find(|export| export.name == names::export(name)) else {
            bail!("the server has no export {name:?}: use its configuration");
        };
        match export.state() {
            State::NeedsOperator => bail!("{name} needs attention: {}", export.reason),
            State::Paused => bail!("{name} is paused: continue with `weir exports resume {name}`, then refill again"),
            _ if export.lag_records == 0 => calm += 1,
            _ => calm = 0,
        }
    }
    Ok(())
}

/// Checks the books of the export.
async fn check(channel: Connection, name: &str, tenant: &str) -> anyhow::Result<ExitCode> {
    let mut client = client!(OperationsServiceClient<_>, channel);
    let request = GetBooksRequest { parent: names::tenant(tenant), check: true };
    let books = client.get_books(request).await.map_err(|s| refused(&s))?.into_inner();
    let Some(line) = books.lines.iter().find(|line| line.sink == *name) else {
        output::remark(&format!("the books have no line of {name} for this tenant"));
        return Ok(ExitCode::FAILURE);
    };
    output::remark(&summary(line));
    Ok(if line.balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The line of the export in one sentence.
fn summary(line: &BookLine) -> String {
    let (sink, expected) = (&line.sink, line.expected_count);
    match line.held_count {
        _ if line.balanced => format!("the books of {sink} balance: {expected} readings"),
        Some(held) if held > expected => format!(
            "{sink} holds {held} readings, {expected} were delivered to it: the others were received before the export \
             was configured, or another program wrote them"
        ),
        Some(held) => format!(
            "{sink} holds {held} of {expected} readings: choose an earlier --since; readings that neither the log nor \
             the history holds (see history.retention_secs) are not recoverable"
        ),
        None => format!("{sink} cannot be counted now: ask again with `weir books --check`"),
    }
}

/// A chunk as a block; `None` when it is not one.
fn block(chunk: ReadingChunk) -> Option<Block> {
    let rows = chunk.time_deltas_nanos.len();
    let (tenant, id) = chunk.device.strip_prefix("tenants/")?.split_once("/devices/")?;
    let mut time = chunk.base_time_unix_nanos;
    let times: Vec<Nanos> = chunk
        .time_deltas_nanos
        .iter()
        .map(|delta| {
            time = time.wrapping_add(*delta);
            time
        })
        .collect();
    let delay = |row: usize| chunk.ingest_delays_nanos.get(row).copied().unwrap_or(0);
    let received = times.iter().enumerate().map(|(row, time)| time.wrapping_add(delay(row))).collect();
    let mut device_timed = if chunk.untimed_rows.is_empty() { Vec::new() } else { vec![true; rows] };
    for row in &chunk.untimed_rows {
        *device_timed.get_mut(usize::try_from(*row).ok()?)? = false;
    }
    let mut claimed = if chunk.claimed_times.is_empty() { Vec::new() } else { vec![None; rows] };
    for one in &chunk.claimed_times {
        *claimed.get_mut(usize::try_from(one.row).ok()?)? = one.claimed_time.as_ref().map(time::from_proto);
    }
    let seqs = chunk.sequences_plus_one.iter().map(|seq| seq.checked_sub(1)).collect();
    let device = DeviceKey { tenant: names::decode(tenant)?.into(), id: names::decode(id)?.into() };
    let id = BlockId { device, log: Arc::from(""), first_offset: 0, part: 0 };
    let columns = chunk.columns.into_iter().map(|column| read_column(column, rows)).collect::<Option<_>>()?;
    Some(Block { id, times, received, seqs, claimed, device_timed, columns })
}

fn read_column(column: proto::v1::Column, rows: usize) -> Option<Column> {
    let is_present = |row: usize| column.present.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1);
    let present = if column.present.is_empty() { Vec::new() } else { (0..rows).map(is_present).collect() };
    let data = match column.values? {
        Values::Doubles(doubles) => ColumnData::Float(doubles.values),
        Values::Ints(ints) => ColumnData::Int(ints.values),
        Values::Bools(bools) => ColumnData::Bool(bools.values),
        Values::Strings(strings) => ColumnData::Str(strings.values.into_iter().map(Into::into).collect()),
    };
    Some(Column { name: column.metric.into(), present, data })
}
