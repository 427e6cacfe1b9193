//! `weir books`.

use std::process::ExitCode;

use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::{BookLine, GetBooksRequest};

use super::output::{self, Table};
use super::{cli, client, connect, names, refused, time};

pub(crate) async fn run(options: &cli::Books) -> anyhow::Result<ExitCode> {
    let mut client = client!(OperationsServiceClient<_>, connect(&options.common.server).await?);
    let request = GetBooksRequest { parent: names::tenant(&options.common.tenant), check: options.check };
    let books = client.get_books(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut columns = vec!["sink", "accepted", "stored", "merged", "pending", "dead_lettered", "balanced"];
    if options.check {
        columns.extend(["expected", "held"]);
    }
    let mut table = Table::new(columns);
    for line in &books.lines {
        let mut row = vec![
            line.sink.as_str().into(),
            line.accepted_count.into(),
            line.stored_count.into(),
            line.merged_count.into(),
            line.pending_count.into(),
            line.dead_lettered_count.into(),
            line.balanced.into(),
        ];
        if options.check {
            row.extend([line.expected_count.into(), line.held_count.into()]);
        }
        table.row(row);
    }
    table.print(options.common.format)?;
    if options.check {
        hours(&books.lines, options)?;
    }
    if books.balanced {
        return Ok(ExitCode::SUCCESS);
    }
    let bad: Vec<&str> = books.lines.iter().filter(|line| !line.balanced).map(|line| line.sink.as_str()).collect();
    output::remark(&format!(
        "weir: the books do not balance ({}): keep the data folder unchanged, and check the log and `weir dead-letters`",
        bad.join(", ")
    ));
    Ok(ExitCode::FAILURE)
}

/// Prints the hours in which a store does not hold what it should; all hours with `--hours`.
fn hours(lines: &[BookLine], options: &cli::Books) -> anyhow::Result<()> {
    let mut table = Table::new(["sink", "hour", "balanced", "expected", "held"]);
    for (line, hour) in lines.iter().flat_map(|line| line.hours.iter().map(move |hour| (line, hour))) {
        let balanced = hour.expected_count == hour.held_count;
        if options.hours || !balanced {
            table.row([
                line.sink.as_str().into(),
                time::show_proto(hour.start_time.as_ref()).into(),
                balanced.into(),
                hour.expected_count.into(),
                hour.held_count.into(),
            ]);
        }
    }
    if !table.is_empty() {
        table.print(options.common.format)?;
    }
    Ok(())
}
