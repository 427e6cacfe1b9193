//! Pages: size, token and position of every paged call.
//!
//! A page token is bound to all other fields of its request, so that it is only of use for the next
//! page of the same list. A new list is a line of the table of [`Paged`] requests.

use identity::CredentialId;
use prost::Message;
use proto::v1::{
    BatchGetLatestRequest, ListApiKeysRequest, ListAuditEventsRequest, ListAuthoritiesRequest, ListDeadLettersRequest,
    ListDeviceCredentialsRequest, ListDevicesRequest, ListGroupMembersRequest, ListGroupsRequest, ListIssuersRequest,
    ListReadingsRequest, ListRetainedMessagesRequest, ListRoleBindingsRequest, ListSessionsRequest,
    ListSubscriptionsRequest, ListTenantsRequest, QueryAggregatesRequest, QueryGapsRequest,
};
use tonic::Status;

use crate::errors;
use crate::read::Position;
use crate::services::{BucketPosition, Shared};
use crate::token::{Query, Reader, Writer};

/// A request for a page of a list.
pub(crate) trait Paged: Message {
    /// Where a page begins: behind this item.
    type Position: PagePosition;
    /// The call.
    const CALL: &'static str;
    /// Items of a page whose size the request leaves open.
    const DEFAULT_SIZE: usize;
    /// Most items of a page.
    const MAX_SIZE: usize;

    /// Takes size and token of the page out of the request.
    fn take(&mut self) -> (i32, String);
}

/// Implements [`Paged`]: request, position, default size, maximum size.
macro_rules! paged {
    ($($request:ident, $position:ty, $default:expr, $most:expr;)*) => {$(
        impl Paged for $request {
            type Position = $position;
            const CALL: &'static str = stringify!($request);
            const DEFAULT_SIZE: usize = $default;
            const MAX_SIZE: usize = $most;

            fn take(&mut self) -> (i32, String) {
                (std::mem::take(&mut self.page_size), std::mem::take(&mut self.page_token))
            }
        }
    )*};
}

paged! {
    BatchGetLatestRequest, String, 500, 500;
    ListApiKeysRequest, CredentialId, 100, 1_000;
    ListAuditEventsRequest, u64, 100, 1_000;
    ListAuthoritiesRequest, CredentialId, 100, 1_000;
    ListDeadLettersRequest, (String, u64, String), 50, 1_000;
    ListDeviceCredentialsRequest, CredentialId, 100, 1_000;
    ListDevicesRequest, String, 50, 1_000;
    ListGroupMembersRequest, String, 1_000, 1_000;
    ListGroupsRequest, String, 100, 1_000;
    ListIssuersRequest, CredentialId, 100, 1_000;
    ListReadingsRequest, Position, 1_000, 10_000;
    ListRetainedMessagesRequest, String, 100, 1_000;
    ListRoleBindingsRequest, CredentialId, 100, 1_000;
    ListSessionsRequest, (String, String), 100, 1_000;
    ListSubscriptionsRequest, (String, String, String), 100, 1_000;
    ListTenantsRequest, String, 100, 1_000;
    QueryAggregatesRequest, BucketPosition, 1_000, 10_000;
    QueryGapsRequest, (String, i64), 1_000, 10_000;
}

/// The page that a request asks for.
pub(crate) struct Page<R: Paged> {
    /// Maximum number of items.
    pub(crate) size: usize,
    /// Where the page begins. `None` is the beginning of the list.
    pub(crate) from: Option<R::Position>,
    query: Query,
}

impl Shared {
    /// The page that a request asks for; its size and token are taken out of it. The names in the
    /// request have their full form, so that equivalent requests share their tokens.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a negative size, and for all tokens but those of the same list.
    pub(crate) fn page<R: Paged>(&self, request: &mut R) -> Result<Page<R>, Status> {
        Page::of(&self.config.token_secret, request)
    }
}

impl<R: Paged> Page<R> {
    fn of(key: &[u8; 32], request: &mut R) -> Result<Self, Status> {
        let (size, token) = request.take();
        let size = match usize::try_from(size) {
            Ok(0) => R::DEFAULT_SIZE,
            Ok(size) => size.min(R::MAX_SIZE),
            Err(_) => return Err(errors::invalid("page_size", "must not be negative")),
        };
        let query = Query::new(key, R::CALL, request);
        let from = query.read_page(&token, R::Position::read).map_err(|_| errors::token("page_token", WRONG))?;
        Ok(Self { size, from, query })
    }

    /// The token of the page that begins at `position`; empty when there is none.
    pub(crate) fn next(&self, position: Option<R::Position>) -> String {
        position.map(|position| self.query.page(|writer| position.write(writer))).unwrap_or_default()
    }

    /// The token of the page behind `items`, which are the last ones unless they fill the page.
    pub(crate) fn next_after<T>(&self, items: &[T], position: impl FnOnce(&T) -> R::Position) -> String {
        self.next(items.last().filter(|_| items.len() == self.size).map(position))
    }
}

const WRONG: &str = "is not a token of this list: pass `next_page_token` of the answer before unchanged, with all \
                     other fields as they were, or start from the beginning";

/// A position in a list, as a token holds it.
pub(crate) trait PagePosition: Sized {
    fn write(&self, writer: &mut Writer);

    /// Returns `None` when the bytes are no position.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
}

impl PagePosition for String {
    fn write(&self, writer: &mut Writer) {
        writer.text(self);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.text()
    }
}

impl PagePosition for u64 {
    fn write(&self, writer: &mut Writer) {
        writer.u64(*self);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.u64()
    }
}

impl PagePosition for i64 {
    fn write(&self, writer: &mut Writer) {
        writer.i64(*self);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.i64()
    }
}

impl PagePosition for CredentialId {
    fn write(&self, writer: &mut Writer) {
        writer.text(self.as_str());
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Self::parse(&reader.text()?)
    }
}

impl PagePosition for Position {
    fn write(&self, writer: &mut Writer) {
        writer.i64(self.time);
        writer.u64(self.sent);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { time: reader.i64()?, sent: reader.u64()? })
    }
}

impl<A: PagePosition, B: PagePosition> PagePosition for (A, B) {
    fn write(&self, writer: &mut Writer) {
        self.0.write(writer);
        self.1.write(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some((A::read(reader)?, B::read(reader)?))
    }
}

impl<A: PagePosition, B: PagePosition, C: PagePosition> PagePosition for (A, B, C) {
    fn write(&self, writer: &mut Writer) {
        self.0.write(writer);
        self.1.write(writer);
        self.2.write(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some((A::read(reader)?, B::read(reader)?, C::read(reader)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn keys(parent: &str, page_size: i32, page_token: &str) -> Result<Page<ListApiKeysRequest>, Status> {
        let mut request = ListApiKeysRequest { parent: parent.into(), page_size, page_token: page_token.into() };
        let page = Page::of(&KEY, &mut request);
        assert_eq!(request, ListApiKeysRequest { parent: parent.into(), ..Default::default() });
        page
    }

    fn id(text: &str) -> CredentialId {
        CredentialId::parse(text).unwrap()
    }

    #[test]
    fn a_size_has_a_default_and_a_maximum_and_is_not_negative() {
        for (given, size) in [(0, 100), (7, 7), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
            assert_eq!(keys("tenants/a", given, "").unwrap().size, size, "{given}");
        }
        let status = keys("tenants/a", -1, "").err().unwrap();
        assert!(status.message().starts_with("page_size:"), "{status}");
    }

    #[test]
    fn a_token_continues_its_own_list_in_pages_of_any_size() {
        let page = keys("tenants/a", 2, "").unwrap();
        assert_eq!(page.from, None);
        let ids = [id("aaaaaaaaaaaa"), id("bbbbbbbbbbbb")];
        let token = page.next_after(&ids, |id| *id);
        assert_eq!(keys("tenants/a", 9, &token).unwrap().from, Some(ids[1]));
        assert_eq!(page.next_after(&ids[..1], |id| *id), "", "a page that is not full is the last one");
        assert_eq!(page.next_after(&[], |id: &CredentialId| *id), "");
    }

    #[test]
    fn each_wrong_token_has_the_same_answer() {
        let token = keys("tenants/a", 1, "").unwrap().next(Some(id("aaaaaaaaaaaa")));
        let message = |page: Result<Page<ListApiKeysRequest>, Status>| page.err().unwrap().message().to_owned();
        let wrong = message(keys("tenants/b", 1, &token));
        assert!(wrong.contains("start from the beginning"), "{wrong}");
        let (changed, cut) = (format!("C{}", &token[1..]), &token[..token.len() - 4]);
        for given in ["x", "!!", "AAAA", &changed, cut, &"A".repeat(10_000)] {
            assert_eq!(message(keys("tenants/a", 1, given)), wrong, "{given}");
        }
        // The same position and fields, in another list.
        let mut secrets = ListDeviceCredentialsRequest { parent: "tenants/a".into(), page_size: 1, page_token: token };
        assert_eq!(Page::of(&KEY, &mut secrets).err().unwrap().message(), wrong);
    }

    #[test]
    fn positions_come_back() {
        let page: Page<ListDeadLettersRequest> = Page::of(&KEY, &mut ListDeadLettersRequest::default()).unwrap();
        let position = ("log".to_owned(), u64::MAX, "stage".to_owned());
        let page_token = page.next(Some(position.clone()));
        let mut request = ListDeadLettersRequest { page_token, ..Default::default() };
        assert_eq!(Page::of(&KEY, &mut request).unwrap().from, Some(position));
        let page: Page<QueryGapsRequest> = Page::of(&KEY, &mut QueryGapsRequest::default()).unwrap();
        let page_token = page.next(Some(("d".to_owned(), -1)));
        let mut request = QueryGapsRequest { page_token, ..Default::default() };
        assert_eq!(Page::of(&KEY, &mut request).unwrap().from, Some(("d".to_owned(), -1)));
    }
}
