//! What a connection's thread does: one statement after the other, each within its time.
//!
//! It must never show a password.
//!
//! Start reading at [`Session::serve`].

use std::collections::HashMap;
use std::error::Error as _;
use std::future::Future;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::super::{Error, ErrorKind, Result, Row, Value};
use super::{Patience, dialect, tls, value};

/// Statements that a connection keeps prepared; few are made of parts.
const MAX_PREPARED: usize = 100;
/// For a connection, and for the server's greeting.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// What a statement may take on top of what the server gives it.
const NETWORK_PATIENCE: Duration = Duration::from_secs(2);
/// Hosts of a URL that are waited for.
const MAX_HOSTS: u32 = 8;
/// For a farewell.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);
/// SQLSTATE of a write to a server that only reads, as a standby does.
const READ_ONLY: &str = "25006";
/// SQLSTATE of a transaction in which nothing was asked for too long; the connection is gone with it.
const IDLE_TOO_LONG: &str = "25P03";

/// What is asked of a server.
pub(super) enum Ask {
    /// Statements without parameters.
    Batch(String),
    /// A change.
    Execute(String, Vec<Value>),
    /// A query.
    Rows(String, Vec<Value>),
}

/// What a server says.
pub(super) enum Answer {
    Done,
    Changed(u64),
    Rows(Vec<Row>),
}

/// One question, and where its answer goes.
pub(super) struct Call {
    pub(super) ask: Ask,
    /// The connection on which it began must still be there.
    pub(super) in_transaction: bool,
    pub(super) reply: Sender<Result<Answer>>,
}

/// A server, and the connection to it while there is one.
pub(super) struct Session {
    config: Config,
    patience: Patience,
    runtime: Runtime,
    open: Option<Open>,
    /// Before then it is not tried again, and the reason is this one.
    refused: Option<(Instant, Error)>,
}

struct Open {
    client: Client,
    /// Moves bytes while somebody waits for an answer.
    driver: JoinHandle<()>,
    prepared: HashMap<String, Statement>,
}

impl Session {
    pub(super) fn new(config: Config, patience: Patience) -> std::io::Result<Session> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Session { config, patience, runtime, open: None, refused: None })
    }

    /// Answers until nobody can ask any more.
    pub(super) fn serve(mut self, calls: &Receiver<Call>) {
        for call in calls {
            let answer = self.answer(&call.ask, call.in_transaction);
            // Who asked may have given up.
            let _ = call.reply.send(answer);
        }
        if let Some(Open { client, driver, .. }) = self.open.take() {
            drop(client);
            let _ = self.runtime.block_on(async { timeout(CLOSE_PATIENCE, driver).await });
        }
    }

    fn answer(&mut self, ask: &Ask, in_transaction: bool) -> Result<Answer> {
        if self.is_lost() {
            self.hang_up();
            // What the lost connection had begun is gone with it.
            if in_transaction {
                return Err(Error::new(ErrorKind::Unreachable, "the connection was lost"));
            }
            self.connect()?;
        }
        let open = self.open.as_mut().expect("it was connected above: this is a bug");
        let within = self.patience.statement + NETWORK_PATIENCE;
        let answered = self.runtime.block_on(async { timeout(within, open.answer(ask)).await });
        let answer = answered.unwrap_or_else(|_| {
            let detail = format!("no answer within {} s", within.as_secs());
            Err(Error::new(ErrorKind::Unreachable, detail))
        });
        answer.inspect_err(|error| {
            if error.kind == ErrorKind::Unreachable {
                self.hang_up();
            }
        })
    }

    /// Whether there is no connection any more, by what has arrived until now.
    fn is_lost(&self) -> bool {
        // Between two statements nobody looks at the socket: the driver gets its turn to see that it was closed.
        self.runtime.block_on(async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        });
        self.open.as_ref().is_none_or(|open| open.client.is_closed() || open.driver.is_finished())
    }

    fn hang_up(&mut self) {
        if let Some(open) = self.open.take() {
            open.driver.abort();
        }
    }

    /// A server that is slow to refuse is not asked again for as long as that took: who waits behind would wait as long
    /// once more, each.
    fn connect(&mut self) -> Result<()> {
        if let Some((until, error)) = &self.refused
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        let begun = Instant::now();
        let mut config = self.config.clone();
        let for_host = config.get_connect_timeout().copied().unwrap_or(CONNECT_PATIENCE);
        config.connect_timeout(for_host);
        // Of several hosts the last may be the one that answers.
        let n_hosts = u32::try_from(config.get_hosts().len()).unwrap_or(1);
        let greeted = for_host * n_hosts.min(MAX_HOSTS) + CONNECT_PATIENCE;
        let opened = self.runtime.block_on(async {
            timeout(greeted, connect(&config, self.patience)).await.unwrap_or_else(|_| {
                let detail = format!("no greeting within {} s", greeted.as_secs());
                Err(Error::new(ErrorKind::Unreachable, detail))
            })
        });
        self.refused =
            opened.as_ref().err().map(|error| (Instant::now() + begun.elapsed(), error.clone()));
        self.open = Some(opened?);
        Ok(())
    }
}

async fn connect(config: &Config, patience: Patience) -> Result<Open> {
    let (client, driver) = if config.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = config.connect(NoTls).await.map_err(unreachable)?;
        (client, drive(connection))
    } else {
        let tls = tls::verified()?;
        let (client, connection) = config.connect(tls).await.map_err(unreachable)?;
        (client, drive(connection))
    };
    let limits = format!(
        "SET statement_timeout = {}; SET lock_timeout = {}",
        patience.statement.as_millis(),
        patience.lock.as_millis()
    );
    client.batch_execute(&limits).await.map_err(|error| failure(&error))?;
    Ok(Open { client, driver, prepared: HashMap::new() })
}

fn drive(
    connection: impl Future<Output = std::result::Result<(), tokio_postgres::Error>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Why it ended is told to whom it answers.
        let _ = connection.await;
    })
}

impl Open {
    async fn answer(&mut self, ask: &Ask) -> Result<Answer> {
        let answered = match ask {
            Ask::Batch(sql) => self.client.batch_execute(sql).await.map(|()| Answer::Done),
            Ask::Execute(sql, values) => {
                let statement = self.prepared(sql).await?;
                self.client
                    .execute(&statement, &value::references(values))
                    .await
                    .map(Answer::Changed)
            }
            Ask::Rows(sql, values) => {
                let statement = self.prepared(sql).await?;
                let rows = self.client.query(&statement, &value::references(values)).await;
                let rows = rows.map_err(|error| failure(&error))?;
                return rows.iter().map(value::row).collect::<Result<_>>().map(Answer::Rows);
            }
        };
        answered.map_err(|error| failure(&error))
    }

    async fn prepared(&mut self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&dialect::statement(sql)).await;
        let statement = statement.map_err(|error| failure(&error))?;
        if self.prepared.len() >= MAX_PREPARED {
            self.prepared.clear();
        }
        self.prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// Of a connection that was not made. A server that refuses us is one that answered.
fn unreachable(error: tokio_postgres::Error) -> Error {
    let failed = failure(&error);
    if error.code().is_some() { failed } else { Error { kind: ErrorKind::Unreachable, ..failed } }
}

fn failure(error: &tokio_postgres::Error) -> Error {
    let kind = match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => ErrorKind::Full,
        Some(code)
            if [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_SERIALIZATION_FAILURE]
                .contains(code) =>
        {
            ErrorKind::Busy
        }
        Some(code) => match code.code().get(..3) {
            // It stops, starts, or lost the connection.
            Some("57P" | "080") => ErrorKind::Unreachable,
            // What was written to now follows another server, so it is looked for anew.
            _ if [READ_ONLY, IDLE_TOO_LONG].contains(&code.code()) => ErrorKind::Unreachable,
            _ => ErrorKind::Other,
        },
        None if error.is_closed() => ErrorKind::Unreachable,
        None => match error.source() {
            Some(source) if source.is::<std::io::Error>() => ErrorKind::Unreachable,
            _ => ErrorKind::Other,
        },
    };
    let detail = match (error.as_db_error(), error.source()) {
        // Its details may hold values of rows.
        (Some(db), _) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    };
    Error::new(kind, detail)
}
