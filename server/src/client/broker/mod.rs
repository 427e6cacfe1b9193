//! `weir sessions`, `weir subscriptions`, `weir retained`.

mod retained;
mod sessions;
mod subscriptions;

use std::process::ExitCode;

use proto::v1::UnreachableNode;
use proto::v1::broker_service_client::BrokerServiceClient;

pub(crate) use retained::retained;
pub(crate) use sessions::sessions;
pub(crate) use subscriptions::subscriptions;

use super::cli::{Common, Server};
use super::output::{self, Format, Table};
use super::{Connection, client, connect};

/// Items of one page at most.
const PAGE: usize = 1000;

async fn open(server: &Server) -> anyhow::Result<BrokerServiceClient<Connection>> {
    Ok(client!(BrokerServiceClient<_>, connect(server).await?))
}

/// Size of the next page.
fn page_size(left: usize) -> i32 {
    i32::try_from(left.min(PAGE)).unwrap_or(1000)
}

/// A list as far as it was read.
struct List {
    table: Table,
    shown: usize,
    /// There is more.
    is_cut: bool,
    unreachable: Vec<UnreachableNode>,
}

impl List {
    fn new<const N: usize>(columns: [&str; N]) -> Self {
        Self { table: Table::new(columns), shown: 0, is_cut: false, unreachable: Vec::new() }
    }

    /// Notes the end of a page: its items, the nodes that are missing in it, and the token of the
    /// next one. Returns that token, if there is another page and less than `limit` was shown.
    fn end_page(&mut self, items: usize, missing: Vec<UnreachableNode>, next: String, limit: usize) -> Option<String> {
        self.shown += items;
        for node in missing {
            if self.unreachable.iter().all(|known| known.node != node.node) {
                self.unreachable.push(node);
            }
        }
        self.is_cut = !next.is_empty();
        (self.is_cut && self.shown < limit).then_some(next)
    }

    /// Prints it. Fails when nodes are missing, so that no script takes it for the whole.
    fn print(&self, common: &Common, plural: &str) -> anyhow::Result<ExitCode> {
        if self.table.is_empty() && common.format == Format::Table {
            output::remark(&format!("no {plural}"));
        } else {
            self.table.print(common.format)?;
        }
        if self.is_cut {
            output::remark(&format!("only the first {} {plural} are shown: use --limit for more", self.shown));
        }
        for node in &self.unreachable {
            output::remark(&format!("weir: without those of node {}: {}", node.node, node.reason));
        }
        Ok(if self.unreachable.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
