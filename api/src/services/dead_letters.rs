//! `DeadLetterService`.

use proto::v1::dead_letter_service_server::DeadLetterService;
use proto::v1::replay_dead_letters_response::Failure;
use proto::v1::{
    DeadLetter, GetDeadLetterRequest, ListDeadLettersRequest, ListDeadLettersResponse, ReplayDeadLettersRequest,
    ReplayDeadLettersResponse,
};
use stores::contract::LIST_BYTES;
use stores::contract::{Deadletter, is_last};
use tonic::{Code, Request, Response, Status};

use super::Shared;
use super::registry::Resource;
use crate::auth::{Caller, Visible};
use crate::backend::ReplayError;
use crate::filter::{Actual, Fields, Filter, Subject, Type};
use crate::page::Paged;
use crate::{convert, errors, memory, names};

/// Letters read from the store at one time.
const STEP: usize = 200;
/// Maximum number of letters examined for one page.
const SCAN: usize = 5_000;
/// Maximum bytes of a page.
const PAGE_BYTES: usize = 1 << 20;
/// Maximum number of letters that one call replays.
const MAX_REPLAY: usize = 1_000;

const FIELDS: Fields = &[
    ("device_id", Type::Text),
    ("client_id", Type::Text),
    ("topic", Type::Text),
    ("stage", Type::Text),
    ("reason", Type::Text),
    ("ingest_time", Type::Time),
    ("replayed", Type::Boolean),
];

impl Subject for Deadletter {
    fn field(&self, name: &'static str) -> Vec<Actual<'_>> {
        match name {
            "device_id" => self.device.iter().map(|id| Actual::Text(id)).collect(),
            "client_id" => vec![Actual::Text(&self.client)],
            "topic" => vec![Actual::Text(&self.topic)],
            "stage" => vec![Actual::Text(&self.stage)],
            "reason" => vec![Actual::Text(&self.reason)],
            "ingest_time" => vec![Actual::Nanos(self.received)],
            "replayed" => vec![Actual::Boolean(self.replayed.is_some())],
            _ => Vec::new(),
        }
    }

    fn contains(&self, word: &str) -> bool {
        self.reason.contains(word)
    }
}

/// Position of a letter in the list: log, offset, stage.
type LetterPosition = (String, u64, String);

fn position(letter: &Deadletter) -> LetterPosition {
    (letter.log.to_string(), letter.offset, letter.stage.clone())
}

/// Letters that match a filter are replayed page by page.
impl Paged for ReplayDeadLettersRequest {
    type Position = LetterPosition;
    const CALL: &'static str = "ReplayDeadLettersRequest";
    const DEFAULT_SIZE: usize = MAX_REPLAY;
    const MAX_SIZE: usize = MAX_REPLAY;

    fn take(&mut self) -> (i32, String) {
        (0, std::mem::take(&mut self.page_token))
    }
}

fn name(letter: &Deadletter) -> String {
    names::dead_letter(&letter.tenant, &letter.log, letter.offset, &letter.stage)
}

fn to_proto(letter: Deadletter) -> DeadLetter {
    DeadLetter {
        name: name(&letter),
        device: letter.device.as_ref().map(|id| names::device(&letter.tenant, id)).unwrap_or_default(),
        client_id: letter.client,
        topic: letter.topic,
        payload: letter.payload,
        ingest_time: Some(convert::timestamp(letter.received)),
        stage: letter.stage,
        reason: letter.reason,
        replay_time: letter.replayed.map(convert::timestamp),
    }
}

/// True when a caller sees a letter: one of groups sees those of their devices.
fn sees(visible: &Visible, letter: &Deadletter) -> bool {
    visible.is_everything() || letter.device.as_ref().is_some_and(|device| visible.has(device))
}

/// Implementation of `DeadLetterService`.
pub(crate) struct DeadLetterApi(pub(crate) Shared);

impl DeadLetterApi {
    /// Returns letters of devices that the caller sees, which match a filter, and the position to
    /// continue after while there may be more.
    async fn scan(
        &self,
        (tenant, visible): (&str, &Visible),
        filter: &Filter,
        mut after: Option<LetterPosition>,
        limit: usize,
    ) -> Result<(Vec<Deadletter>, Option<LetterPosition>), Status> {
        // A list and the page; a large letter may be in both beyond that.
        let budget = &self.0.config.memory;
        let bytes = (LIST_BYTES + PAGE_BYTES).min(memory::share(budget));
        let _held = budget.acquire(bytes).map_err(errors::memory)?;
        let mut found = Vec::new();
        let (mut examined, mut bytes) = (0, 0);
        loop {
            let from = after.as_ref().map(|(log, offset, stage)| (log.as_str(), *offset, stage.as_str()));
            let letters = self.0.backend.dead_letters.list(tenant, from, STEP).await.map_err(errors::store)?;
            let last = is_last(&letters, STEP);
            examined += letters.len();
            for letter in letters {
                let at = position(&letter);
                if sees(visible, &letter) && filter.matches(&letter) {
                    bytes += letter.payload.len() + letter.topic.len() + letter.reason.len() + 200;
                    if bytes > PAGE_BYTES && !found.is_empty() {
                        return Ok((found, after));
                    }
                    found.push(letter);
                }
                after = Some(at);
                if found.len() == limit {
                    return Ok((found, after));
                }
            }
            if last {
                return Ok((found, None));
            }
            if examined >= SCAN {
                return Ok((found, after));
            }
        }
    }

    async fn by_name(&self, caller: &Caller, field: &str, given: &str) -> Result<Deadletter, Status> {
        const FORM: &str = "must be a name that ListDeadLetters returned";
        let (tenant, id) = caller.child(field, given, "deadLetters", FORM)?;
        let (log, offset, stage) = names::split_letter(id).ok_or_else(|| errors::invalid(field, FORM))?;
        let letter = self.0.backend.dead_letters.get(&tenant, &log, offset, &stage).await.map_err(errors::store)?;
        let visible = caller.visible();
        match letter {
            Some(letter) if sees(&visible, &letter) => Ok(letter),
            None if visible.is_everything() => Err(errors::not_found("DEAD_LETTER_NOT_FOUND", given)),
            // The same answer, whether it exists or not.
            _ => Err(visible.denied(given)),
        }
    }

    /// Replays a letter; `Ok(Some(reason))` when it is refused again.
    async fn replay(&self, letter: &Deadletter) -> Result<Option<String>, Status> {
        if self.is_in_quarantine(letter).await? {
            return Ok(Some("its device is in quarantine: adopt the device".to_owned()));
        }
        match self.0.backend.replay.replay(letter).await {
            Ok(()) => {}
            Err(ReplayError::Refused(reason)) => return Ok(Some(reason)),
            Err(ReplayError::Unavailable(reason)) => return Err(errors::unavailable("LOG_UNAVAILABLE", reason)),
        }
        let letters = &self.0.backend.dead_letters;
        let marked =
            letters.mark_replayed(&letter.tenant, &letter.log, letter.offset, &letter.stage, convert::now()).await;
        marked.map_err(errors::store)?;
        Ok(None)
    }

    /// True when the device of a letter is in quarantine.
    async fn is_in_quarantine(&self, letter: &Deadletter) -> Result<bool, Status> {
        let (Some(admin), Some(device)) = (&self.0.config.admin, &letter.device) else { return Ok(false) };
        let rows = admin.registered_devices(&letter.tenant, &[device.to_string()]).await;
        let rows = rows.map_err(|error| Resource::Device.refused("", &name(letter), error))?;
        Ok(rows.iter().flatten().any(|row| row.quarantined.is_some()))
    }

    async fn replay_all(&self, letters: &[Deadletter]) -> Result<ReplayDeadLettersResponse, Status> {
        let mut answer = ReplayDeadLettersResponse::default();
        for letter in letters {
            self.replay_into(letter, &mut answer).await?;
        }
        Ok(answer)
    }

    async fn replay_into(&self, letter: &Deadletter, answer: &mut ReplayDeadLettersResponse) -> Result<(), Status> {
        match self.replay(letter).await? {
            None => answer.replayed_count += 1,
            Some(reason) => answer.failures.push(Failure { name: name(letter), reason }),
        }
        Ok(())
    }

    async fn replay_filtered(
        &self,
        (tenant, visible): (&str, &Visible),
        mut request: ReplayDeadLettersRequest,
    ) -> Result<ReplayDeadLettersResponse, Status> {
        let given = if request.filter == "*" { "" } else { &*request.filter };
        let filter = Filter::read("filter", given, FIELDS)?;
        let filter = Filter::All(vec![filter, Filter::read("filter", "replayed = false", FIELDS)?]);
        let mut page = self.0.page(&mut request)?;
        let (letters, after) = self.scan((tenant, visible), &filter, page.from.take(), page.size).await?;
        let mut answer = self.replay_all(&letters).await?;
        answer.next_page_token = page.next(after);
        Ok(answer)
    }
}

#[tonic::async_trait]
impl DeadLetterService for DeadLetterApi {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let filter = Filter::read("filter", &request.filter, FIELDS)?;
        let mut page = self.0.page(&mut request)?;
        let (letters, after) = self.scan((&tenant, &caller.visible()), &filter, page.from.take(), page.size).await?;
        Ok(Response::new(ListDeadLettersResponse {
            dead_letters: letters.into_iter().map(to_proto).collect(),
            next_page_token: page.next(after),
        }))
    }

    async fn get_dead_letter(&self, request: Request<GetDeadLetterRequest>) -> Result<Response<DeadLetter>, Status> {
        let caller = Caller::of(&request)?;
        let letter = self.by_name(&caller, "name", &request.into_inner().name).await?;
        Ok(Response::new(to_proto(letter)))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<ReplayDeadLettersRequest>,
    ) -> Result<Response<ReplayDeadLettersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        if request.names.is_empty() == request.filter.is_empty() {
            return Err(errors::invalid("filter", "give either names or filter; `*` takes all"));
        }
        if request.names.len() > MAX_REPLAY {
            return Err(errors::invalid("names", format!("names more than {MAX_REPLAY} letters")));
        }
        if request.names.is_empty() {
            return self.replay_filtered((&tenant, &caller.visible()), request).await.map(Response::new);
        }
        // All names are resolved before the first replay, so that a wrong one changes nothing; the
        // letters are read again one by one, since together they may be large.
        for (i, given) in request.names.iter().enumerate() {
            self.by_name(&caller, &format!("names[{i}]"), given).await?;
        }
        let mut answer = ReplayDeadLettersResponse::default();
        for (i, given) in request.names.iter().enumerate() {
            match self.by_name(&caller, &format!("names[{i}]"), given).await {
                Ok(letter) => self.replay_into(&letter, &mut answer).await?,
                Err(gone) if matches!(gone.code(), Code::NotFound | Code::PermissionDenied) => {
                    answer.failures.push(Failure { name: given.clone(), reason: gone.message().to_owned() });
                }
                Err(status) => return Err(status),
            }
        }
        Ok(Response::new(answer))
    }
}
