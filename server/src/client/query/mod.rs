//! `weir query`: readings as rows, or aggregates.

mod aggregates;
pub(super) mod rows;

use proto::v1::{Freshness, TimeRange};

use super::{cli, output, time};

pub(crate) async fn run(options: &cli::Query) -> anyhow::Result<()> {
    if options.aggregate.is_empty() { rows::run(options).await } else { aggregates::run(options).await }
}

/// An answer that is complete until now is at most this old.
const NOW: i64 = 10 * model::time::SECOND;

/// Reports an answer that may lack acknowledged readings, because their way into the log that is
/// queried is longer than usual.
pub(super) fn report_missing(freshness: Option<&Freshness>) {
    let until = freshness.and_then(|freshness| freshness.complete_until_time.as_ref()).map(time::from_proto);
    if let Some(until) = until.filter(|until| *until < time::now() - NOW) {
        output::remark(&format!(
            "complete until {}: acknowledged readings that came later may be missing; see `weir status` and the log \
             of Weir",
            time::show(until)
        ));
    }
}

/// Parses the range of a request; `None` when neither end is given.
///
/// # Errors
/// When an end is not a time, or the end is not after the start.
pub(super) fn range(range: &cli::Range) -> anyhow::Result<Option<TimeRange>> {
    let now = time::now();
    let read = |text: &Option<String>| text.as_deref().map(|t| time::parse(t, now)).transpose();
    let (start, end) = (read(&range.since)?, read(&range.until)?);
    if start.is_none() && end.is_none() {
        return Ok(None);
    }
    if let (Some(start), Some(end)) = (start, end) {
        anyhow::ensure!(
            start < end,
            "--since {} is not before --until {}: use an earlier --since",
            time::show(start),
            time::show(end)
        );
    }
    // Readings are never older than 1970.
    Ok(Some(TimeRange { start_time: Some(time::to_proto(start.unwrap_or(0))), end_time: end.map(time::to_proto) }))
}
