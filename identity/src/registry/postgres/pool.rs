//! Connections to the server, at most a certain number.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};

use super::answer::meaning;
use super::stream::Tls;
use super::url::Address;
use crate::registry::Error;
use crate::registry::transaction::{Outcome, Stop};

/// Time that the client waits beyond the limit of the server for a statement.
const GRACE: Duration = Duration::from_secs(1);

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(super) struct Pool {
    address: Address,
    limit: Duration,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Session>>>,
}

impl Pool {
    /// Connects when a session is wanted, not before. `limit` is the longest time of a statement.
    pub(super) fn new(address: Address, most: usize, limit: Duration) -> Self {
        Self { address, limit, permits: Arc::new(Semaphore::new(most)), idle: Arc::default() }
    }

    pub(super) fn shown(&self) -> &str {
        &self.address.shown
    }

    /// Returns a session: one that is idle, or a new one.
    pub(super) async fn session(&self) -> Outcome<Lease> {
        let permit = timeout(self.limit, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let reason = format!("all connections to {} are in use", self.shown());
            return Err(Error::Unavailable(format!("{reason}: look for locks and for load on the server")).into());
        };
        let idle = || {
            let mut idle = self.idle.lock();
            std::iter::from_fn(|| idle.pop()).find(|session| !session.client.is_closed())
        };
        let session = match idle() {
            Some(session) => session,
            None => self.connect().await?,
        };
        Ok(Lease { session, idle: Arc::clone(&self.idle), _permit: permit })
    }

    /// Closes the connections that are idle: after one was lost, the others may lead nowhere too.
    pub(super) fn forget_idle(&self) {
        self.idle.lock().clear();
    }

    async fn connect(&self) -> Outcome<Session> {
        let failed = |error: tokio_postgres::Error| meaning(&error, self.shown());
        let (client, connection) = match &self.address.tls {
            None => {
                let (client, connection) = self.address.config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(log_end(connection)))
            }
            Some(files) => {
                let tls = Tls::read(files)?;
                let (client, connection) = self.address.config.connect(tls).await.map_err(failed)?;
                (client, tokio::spawn(log_end(connection)))
            }
        };
        let session = Session {
            client,
            connection: connection.abort_handle(),
            statements: HashMap::new(),
            shown: self.address.shown.clone(),
            limit: self.limit + GRACE,
        };
        // A commit is on disk when it returns, even if the database is set to be quicker.
        let settings = format!(
            "SELECT set_config('statement_timeout', '{0}', false), \
             set_config('idle_in_transaction_session_timeout', '{0}', false), \
             set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') = 'off' THEN 'on' \
             ELSE current_setting('synchronous_commit') END, false)",
            self.limit.as_millis()
        );
        session.batch(&settings).await?;
        Ok(session)
    }
}

async fn log_end<E: std::fmt::Display>(connection: impl Future<Output = Result<(), E>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to PostgreSQL ended");
    }
}

/// A session in use. It is closed when dropped, unless it is given back.
pub(super) struct Lease {
    pub(super) session: Session,
    idle: Arc<Mutex<Vec<Session>>>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Gives the session back, when no transaction is open on it.
    pub(super) fn give_back(self) {
        self.idle.lock().push(self.session);
    }
}

/// A connection, and the statements that were prepared on it.
pub(super) struct Session {
    client: Client,
    connection: AbortHandle,
    statements: HashMap<&'static str, Statement>,
    shown: String,
    limit: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A statement that runs does not hold the connection.
        self.connection.abort();
    }
}

impl Session {
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Runs a statement, and returns its rows.
    pub(super) async fn query(&mut self, sql: &'static str, params: Params<'_>) -> Outcome<Vec<Row>> {
        let statement = match self.statements.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.within(self.client.prepare(sql)).await?;
                self.statements.insert(sql, statement.clone());
                statement
            }
        };
        self.within(self.client.query(&statement, params)).await
    }

    /// Runs a statement, and returns its first row.
    pub(super) async fn first(&mut self, sql: &'static str, params: Params<'_>) -> Outcome<Option<Row>> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// Runs statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Outcome<()> {
        self.within(self.client.batch_execute(sql)).await
    }

    /// Runs statements that may take long: those of a migration.
    pub(super) async fn slow_batch(&self, sql: &str, limit: Duration) -> Outcome<()> {
        self.bounded(limit, self.client.batch_execute(sql)).await
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Outcome<T> {
        self.bounded(self.limit, request).await
    }

    async fn bounded<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Outcome<T> {
        match timeout(limit, request).await {
            Ok(answer) => answer.map_err(|error| meaning(&error, &self.shown)),
            Err(_) => Err(Stop::Lost(Error::Unavailable(format!(
                "{} does not answer within {} ms: check the server and the network before it",
                self.shown,
                limit.as_millis()
            )))),
        }
    }
}
