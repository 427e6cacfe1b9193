//! `weir dead-letters`.

use std::io::Write;
use std::process::ExitCode;

use proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use proto::v1::{DeadLetter, GetDeadLetterRequest, ListDeadLettersRequest, ReplayDeadLettersRequest};

use super::output::{self, Format, Table, json_line};
use super::{cli, client, connect, names, refused, time};

/// Bytes of a payload shown in the list.
const PREVIEW: usize = 60;

pub(crate) async fn run(options: &cli::DeadLetters) -> anyhow::Result<ExitCode> {
    match &options.command {
        None => list(&options.list).await?,
        Some(cli::DeadLettersCommand::List(options)) => list(options).await?,
        Some(cli::DeadLettersCommand::Show(options)) => show(options).await?,
        Some(cli::DeadLettersCommand::Replay(options)) => return replay(options).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(options: &cli::DeadLettersList) -> anyhow::Result<()> {
    let mut client = client!(DeadLetterServiceClient<_>, connect(&options.common.server).await?);
    let mut table = Table::new(["letter", "received", "stage", "topic", "reason", "replayed", "payload"]);
    let mut shown = 0;
    let mut page_token = String::new();
    while shown < options.limit {
        let request = ListDeadLettersRequest {
            parent: names::tenant(&options.common.tenant),
            page_size: i32::try_from((options.limit - shown).min(1000)).unwrap_or(1000),
            page_token,
            filter: options.filter.clone(),
        };
        let page = client.list_dead_letters(request).await.map_err(|s| refused(&s))?.into_inner();
        for letter in page.dead_letters.iter().take(options.limit - shown) {
            table.row([
                names::last(&letter.name).into(),
                time::show_proto(letter.ingest_time.as_ref()).into(),
                letter.stage.as_str().into(),
                letter.topic.as_str().into(),
                letter.reason.as_str().into(),
                time::show_proto(letter.replay_time.as_ref()).into(),
                preview(letter).into(),
            ]);
            shown += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if table.is_empty() && options.common.format == Format::Table {
        output::remark("no dead letters");
        return Ok(());
    }
    table.print(options.common.format)?;
    if !page_token.is_empty() {
        output::remark(&format!("only the first {shown} dead letters are shown: use --limit for more"));
    }
    Ok(())
}

fn preview(letter: &DeadLetter) -> String {
    let cut = &letter.payload[..letter.payload.len().min(PREVIEW)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < letter.payload.len() {
        text.push('…');
    }
    text
}

async fn show(options: &cli::DeadLettersShow) -> anyhow::Result<()> {
    let mut client = client!(DeadLetterServiceClient<_>, connect(&options.common.server).await?);
    let request = GetDeadLetterRequest { name: names::dead_letter(&options.common.tenant, &options.letter) };
    let letter = client.get_dead_letter(request).await.map_err(|s| refused(&s))?.into_inner();
    let fields = [
        ("letter", names::last(&letter.name).to_owned()),
        ("received", time::show_proto(letter.ingest_time.as_ref())),
        ("topic", letter.topic.clone()),
        ("client", letter.client_id.clone()),
        ("device", if letter.device.is_empty() { String::new() } else { names::device_id(&letter.device) }),
        ("stage", letter.stage.clone()),
        ("reason", letter.reason.clone()),
        ("replayed", time::show_proto(letter.replay_time.as_ref())),
    ];
    let mut out = std::io::stdout().lock();
    if options.common.format == Format::Table {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            writeln!(out, "{name:<10}{}", value.escape_debug())?;
        }
        writeln!(out, "payload   {} bytes", letter.payload.len())?;
        // Text is printed as received; other bytes are escaped, so that they do not reach the
        // terminal.
        let readable = |text: &&str| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
        return match std::str::from_utf8(&letter.payload).ok().filter(readable) {
            Some(text) => Ok(writeln!(out, "{text}")?),
            None => Ok(writeln!(out, "{}", letter.payload.escape_ascii())?),
        };
    }
    let mut object: serde_json::Map<String, serde_json::Value> =
        fields.into_iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (n.to_owned(), v.into())).collect();
    match String::from_utf8(letter.payload) {
        Ok(text) => object.insert("payload".into(), text.into()),
        Err(bytes) => object.insert("payload_bytes".into(), bytes.into_bytes().into()),
    };
    json_line(&mut out, &object.into())
}

async fn replay(options: &cli::DeadLettersReplay) -> anyhow::Result<ExitCode> {
    let mut client = client!(DeadLetterServiceClient<_>, connect(&options.common.server).await?);
    let tenant = &options.common.tenant;
    let request = ReplayDeadLettersRequest {
        parent: names::tenant(tenant),
        names: options.letters.iter().map(|letter| names::dead_letter(tenant, letter)).collect(),
        filter: if options.all { "*".into() } else { options.filter.clone().unwrap_or_default() },
        page_token: String::new(),
    };
    let mut replayed = 0;
    let mut failures = Table::new(["letter", "reason"]);
    let mut page_token = String::new();
    loop {
        let request = ReplayDeadLettersRequest { page_token, ..request.clone() };
        let answer = client.replay_dead_letters(request).await.map_err(|s| refused(&s))?.into_inner();
        replayed += answer.replayed_count;
        for failure in &answer.failures {
            failures.row([names::last(&failure.name).into(), failure.reason.as_str().into()]);
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output::remark(&format!("{replayed} dead letters replayed"));
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    failures.print(options.common.format)?;
    Ok(ExitCode::FAILURE)
}
