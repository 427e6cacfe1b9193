//! `weir audit`.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use identity::{CheckedCheckpoints, Checkpoint, CheckpointKeys, CheckpointReader, SignedCheckpoint};
use proto::v1::audit_service_client::AuditServiceClient;
use proto::v1::{
    AuditEvent, AuditPoint, ListAuditEventsRequest, SignedAuditCheckpoint, VerifyAuditEventsRequest,
    VerifyAuditEventsResponse,
};

use super::access::PAGE;
use super::access_cli::{Audit, AuditCommand, AuditList, AuditVerify};
use super::output::{self, Cell, Table};
use super::{Connection, client, connect, names, refused, time};
use crate::access;

/// Events that one call compares.
const KNOWN: usize = 10_000;

const ALTERED: &str = "The audit was altered: keep the data folder unchanged, and compare it with a backup.";

pub(crate) async fn run(options: &Audit) -> anyhow::Result<ExitCode> {
    match &options.command {
        None => list_events(&options.list).await?,
        Some(AuditCommand::List(options)) => list_events(options).await?,
        Some(AuditCommand::Verify(options)) if options.checkpoints.is_empty() => return verify(options).await,
        Some(AuditCommand::Verify(options)) => return verify_checkpoints(options).await,
        Some(AuditCommand::Key(options)) => access::audit_key(options)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(options: &AuditVerify) -> anyhow::Result<ExitCode> {
    let known = options.known.as_deref().map(known).transpose()?;
    let parent = names::tenant(&options.common.tenant);
    let known_events = known.into_iter().map(point).collect();
    let request = VerifyAuditEventsRequest { parent, known_events, ..Default::default() };
    let mut client = client!(AuditServiceClient<_>, connect(&options.common.server).await?);
    let report = client.verify_audit_events(request).await.map_err(|s| refused(&s))?.into_inner();
    let end = end_of(&report)?;
    let mut table = Table::new(["whole_up_to", "hash", "fault"]);
    table.row([end.sequence.into(), hash(&end).into(), report.fault.clone().into()]);
    table.print(options.common.format)?;
    if !report.fault.is_empty() {
        output::remark(ALTERED);
        return Ok(ExitCode::FAILURE);
    }
    output::remark(&format!("Note this outside of Weir for the next check: --known {end}"));
    if let Some(checkpoint) = report.checkpoint.and_then(signed) {
        output::remark(&format!("The same, signed, a line for --checkpoints: {}", checkpoint.line()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses `SEQUENCE:HASH`.
fn known(text: &str) -> anyhow::Result<Checkpoint> {
    text.parse().map_err(|_| {
        anyhow::anyhow!(
            "cannot parse --known {text:?}: give the sequence and hash that `weir audit verify` printed, as 12:9f…"
        )
    })
}

fn hash(point: &Checkpoint) -> String {
    let text = point.to_string();
    text.split_once(':').map_or_else(String::new, |(_, hash)| hash.to_owned())
}

fn point(point: Checkpoint) -> AuditPoint {
    AuditPoint { sequence: point.sequence, hash: point.hash.to_vec() }
}

fn end_of(report: &VerifyAuditEventsResponse) -> anyhow::Result<Checkpoint> {
    let hash = report.hash.as_slice().try_into().context("the answer has a hash of another length")?;
    Ok(Checkpoint { sequence: report.sequence, hash })
}

fn signed(checkpoint: SignedAuditCheckpoint) -> Option<SignedCheckpoint> {
    Some(SignedCheckpoint {
        time: time::from_proto(checkpoint.sign_time.as_ref()?),
        signer: checkpoint.signer,
        tenant: checkpoint.tenant,
        sequence: checkpoint.sequence,
        hash: checkpoint.hash.try_into().ok()?,
        previous: checkpoint.previous.try_into().ok()?,
        key: checkpoint.key,
        signature: checkpoint.signature.try_into().ok()?,
    })
}

/// Reads files of checkpoints, and checks signatures and order.
fn read(files: &[PathBuf], keys: &CheckpointKeys) -> anyhow::Result<CheckedCheckpoints> {
    let mut reader = CheckpointReader::new(keys);
    for path in files {
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        reader.read(&path.display().to_string(), BufReader::new(file))?;
    }
    Ok(reader.finish()?)
}

async fn verify_checkpoints(options: &AuditVerify) -> anyhow::Result<ExitCode> {
    let beside = || access::audit_keys(options.config.as_deref(), options.data_dir.as_deref());
    let keys = options.public_key.as_deref().map_or_else(beside, |path: &Path| Ok(path.to_owned()))?;
    let keys = CheckpointKeys::read(&keys)?;
    let found = read(&options.checkpoints, &keys)?;
    if let Some(place) = &found.incomplete {
        output::remark(&format!("{place}, is not complete: a process that stopped there writes it again."));
    }
    let wanted = &options.common.tenant;
    let is_wanted = |tenant: &str| wanted == "-" || wanted == tenant;
    let mut client = client!(AuditServiceClient<_>, connect(&options.common.server).await?);
    let mut table = Table::new(["tenant", "checkpoints", "whole_up_to", "hash", "fault"]);
    let mut has_fault = false;
    let tenants: Vec<_> = found.events.iter().filter(|(tenant, _)| is_wanted(tenant)).collect();
    anyhow::ensure!(!tenants.is_empty(), "the files have no checkpoint of the tenant {wanted:?}");
    for (tenant, events) in tenants {
        let report = check(&mut client, tenant, events).await?;
        let end = end_of(&report)?;
        let mut fault = report.fault.clone();
        if fault.is_empty() {
            fault = missing(&report, tenant, &found, (&options.checkpoints, &keys))?.unwrap_or_default();
        }
        has_fault |= !fault.is_empty();
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        table.row([tenant.clone().into(), count.into(), end.sequence.into(), hash(&end).into(), fault.into()]);
    }
    table.print(options.common.format)?;
    if has_fault {
        output::remark(ALTERED);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares the audit of a tenant with events, a part of them at a time.
async fn check(
    client: &mut AuditServiceClient<Connection>,
    tenant: &str,
    events: &[Checkpoint],
) -> anyhow::Result<VerifyAuditEventsResponse> {
    let mut from = None;
    let mut parts = events.chunks(KNOWN).peekable();
    loop {
        let part = parts.next().unwrap_or_default();
        let last = part.last().copied().filter(|_| parts.peek().is_some());
        let request = VerifyAuditEventsRequest {
            parent: names::tenant(tenant),
            known_events: part.iter().copied().map(point).collect(),
            from_event: from.map(point),
            to_sequence: last.map_or(0, |last| last.sequence),
            ..Default::default()
        };
        let report = client.verify_audit_events(request).await.map_err(|s| refused(&s))?.into_inner();
        if last.is_none() || !report.fault.is_empty() {
            return Ok(report);
        }
        from = last;
    }
}

/// Returns a fault when the files lack the newest checkpoint that their signer has handed over.
fn missing(
    report: &VerifyAuditEventsResponse,
    tenant: &str,
    found: &CheckedCheckpoints,
    (files, keys): (&[PathBuf], &CheckpointKeys),
) -> anyhow::Result<Option<String>> {
    let newest = report.handed_out.iter().cloned().filter_map(signed);
    for newest in newest.filter(|newest| newest.tenant == *tenant && keys.verify(newest) == Some(true)) {
        let key = (newest.signer.clone(), newest.tenant.clone());
        let has = |found: &CheckedCheckpoints| found.newest.get(&key).is_none_or(|last| *last >= newest.sequence);
        // It may have come after the files were read.
        if !has(found) && !has(&read(files, keys)?) {
            let last = found.newest.get(&key).copied().unwrap_or_default();
            let text = format!(
                "the files end at event {last}, and the checkpoint of event {} was handed over: they were cut, or are an \
                 older copy",
                newest.sequence
            );
            return Ok(Some(text));
        }
    }
    Ok(None)
}

async fn list_events(options: &AuditList) -> anyhow::Result<()> {
    let mut client = client!(AuditServiceClient<_>, connect(&options.common.server).await?);
    let mut table =
        Table::new(["sequence", "time", "principal", "method", "resource", "address", "granted", "count", "detail"]);
    let (mut page_token, mut left) = (String::new(), options.limit);
    loop {
        let page_size = i32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let parent = names::tenant(&options.common.tenant);
        let request = ListAuditEventsRequest { parent, page_size, page_token };
        let page = client.list_audit_events(request).await.map_err(|s| refused(&s))?.into_inner();
        page.audit_events.iter().take(left).for_each(|event| table.row(event_row(event)));
        left -= page.audit_events.len().min(left);
        page_token = page.next_page_token;
        if page_token.is_empty() || left == 0 {
            return table.print(options.common.format);
        }
    }
}

fn event_row(event: &AuditEvent) -> [Cell; 9] {
    [
        event.sequence.into(),
        time::show_proto(event.event_time.as_ref()).into(),
        event.principal.clone().into(),
        event.method.clone().into(),
        event.resource.clone().into(),
        event.client_address.clone().into(),
        if event.granted { "yes" } else { "no" }.to_owned().into(),
        event.count.into(),
        event.detail.clone().into(),
    ]
}
