//! `weir unrouted`.

use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::{GetStatusRequest, Status};

use super::output::{self, Table};
use super::{cli, client, connect, refused, time};

pub(crate) async fn run(options: &cli::Unrouted) -> anyhow::Result<()> {
    let mut client = client!(OperationsServiceClient<_>, connect(&options.common.server).await?);
    let status = client.get_status(GetStatusRequest {}).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = Table::new(["tenant", "topic", "client", "messages", "first", "last"]);
    for topic in &status.unrouted_topics {
        table.row([
            topic.tenant.as_str().into(),
            topic.topic.as_str().into(),
            topic.client.as_str().into(),
            topic.message_count.into(),
            time::show_proto(topic.first_time.as_ref()).into(),
            time::show_proto(topic.last_time.as_ref()).into(),
        ]);
    }
    table.print(options.common.format)?;
    if let Some(summary) = summary(&status) {
        output::remark(&format!("weir: {summary}"));
    }
    Ok(())
}

/// One sentence about the topics that no route matches; `None` when there are none.
pub(crate) fn summary(status: &Status) -> Option<String> {
    const NAMED: usize = 3;
    let topics = &status.unrouted_topics;
    if topics.is_empty() {
        return None;
    }
    let names: Vec<String> = topics.iter().take(NAMED).map(|topic| format!("{:?}", topic.topic)).collect();
    let more = if topics.len() > NAMED { ", …" } else { "" };
    let others = match status.other_unrouted_count {
        0 => String::new(),
        count => format!("; {count} messages came on further topics"),
    };
    Some(format!(
        "no route matches {} topic{} since the start ({}{more}){others}: nothing is stored of their messages; add a \
         route, or one with kind = \"ignore\", and try it with `weir map --topic TOPIC`",
        topics.len(),
        if topics.len() == 1 { "" } else { "s" },
        names.join(", ")
    ))
}
