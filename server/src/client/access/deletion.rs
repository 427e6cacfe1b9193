//! `weir tenants delete`, `weir tenants undelete` and `weir tenants deletion`.

use anyhow::Context;
use model::Nanos;
use proto::v1::{DeleteTenantRequest, GetTenantDeletionRequest, TenantDeletion, UndeleteTenantRequest, tenant};

use super::super::access_cli::{TenantDelete, TenantId};
use super::super::output::{self, Table};
use super::super::{names, refused, time};

pub(super) async fn delete(options: &TenantDelete) -> anyhow::Result<()> {
    let TenantDelete { tenant: TenantId { common, id }, reason, now, after } = options;
    let after = after.as_deref().map(in_so_long).transpose()?;
    let purge_time = if *now { Some(time::now()) } else { after };
    let request = DeleteTenantRequest {
        name: names::tenant(id),
        reason: reason.clone(),
        purge_time: purge_time.map(time::to_proto),
        ..Default::default()
    };
    let mut client = super::open_tenants(&common.server).await?;
    let tenant = client.delete_tenant(request).await.map_err(|s| refused(&s))?.into_inner();
    super::print_tenant(&tenant, common.format)?;
    let purge = time::show_proto(tenant.purge_time.as_ref());
    output::remark(&match now {
        true => format!("Its data is being removed: `weir tenants deletion {id}` shows how far that is."),
        false => format!("Its data is removed from {purge} on; until then `weir tenants undelete {id}` restores it."),
    });
    Ok(())
}

/// The time in so long, as 7d.
fn in_so_long(text: &str) -> anyhow::Result<Nanos> {
    let span = time::span(text).and_then(|span| Nanos::try_from(span).ok()).filter(|span| *span >= 0);
    let span = span.with_context(|| format!("cannot use --after {text:?}: give a duration, as 12h, 30d"))?;
    Ok(time::now().saturating_add(span))
}

pub(super) async fn undelete(options: &TenantId) -> anyhow::Result<()> {
    let request = UndeleteTenantRequest { name: names::tenant(&options.id) };
    let mut client = super::open_tenants(&options.common.server).await?;
    let tenant = client.undelete_tenant(request).await.map_err(|s| refused(&s))?.into_inner();
    super::print_tenant(&tenant, options.common.format)
}

pub(super) async fn show(options: &TenantId) -> anyhow::Result<()> {
    let request = GetTenantDeletionRequest { name: names::tenant(&options.id) };
    let mut client = super::open_tenants(&options.common.server).await?;
    let deletion = client.get_tenant_deletion(request).await.map_err(|s| refused(&s))?.into_inner();
    table(&deletion).print(options.common.format)
}

/// One row for each field, each count and each place with data that stays.
fn table(deletion: &TenantDeletion) -> Table {
    let mut table = Table::new(["what", "place", "value"]);
    let mut row = |what: &str, place: &str, value: String| {
        if !value.is_empty() {
            table.row([what.to_owned().into(), place.to_owned().into(), value.into()]);
        }
    };
    let state = tenant::State::try_from(deletion.state).unwrap_or_default();
    row("state", "", super::state_name(state).to_owned());
    row("by", "", deletion.principal.clone());
    row("reason", "", deletion.reason.clone());
    let times = [
        ("asked for", &deletion.delete_time),
        ("removed from", &deletion.purge_time),
        ("removal began", &deletion.start_time),
        ("removal ended", &deletion.end_time),
    ];
    for (what, at) in times {
        row(what, "", time::show_proto(at.as_ref()));
    }
    row("waits for", "", deletion.waits_for.clone());
    for count in &deletion.counts {
        row(&count.kind, &count.place, count.count.to_string());
    }
    for residual in &deletion.residuals {
        let until = residual.expire_time.as_ref().map(|at| format!(" (until {})", time::show_proto(Some(at))));
        row("stays", &residual.place, format!("{}{}", residual.reason, until.unwrap_or_default()));
    }
    table
}
