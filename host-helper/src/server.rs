//! Connections to a MySQL or MariaDB server: by its Unix socket, or as a defaults file says.
//!
//! Relies on: the server letting us in by socket authentication or by the `[client]` section of a 0600 file.
//! Nothing secret read from the defaults file is ever logged, shown by `Debug`, put into an error or an argv.

mod defaults;
mod facts;
mod privileges;
mod row_hash;
mod tables;

use crate::config::ServerConfig;
use crate::error::{Context, Error, Result};
use crate::tool::redact::Redactor;
pub use facts::ServerFacts;
use highwater_core::Failure;
use highwater_core::identity::Vendor;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder, Row, Value};
pub(crate) use privileges::required_privileges;
pub use privileges::{MissingPrivilege, missing_privileges};
pub use row_hash::{Column, literal, quoted, quoted_name, row_hash_sql};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub(crate) use tables::{Snapshot, SnapshotOptions};

/// For a server that accepts the connection and then says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// What every session of ours starts with: the same text for the same data, whatever the server's defaults.
const SESSION: &str = "SET SESSION time_zone = '+00:00', sql_mode = ''";
/// The server's errors that mean: a privilege is missing. To a schema, a user, a table, a column, a statement, a routine, a login.
const DENIED: [u16; 7] = [1044, 1045, 1142, 1143, 1227, 1370, 1698];
/// The server's own end of a statement comes first; ours only when the server does not answer at all.
const LIMIT_MARGIN: Duration = Duration::from_secs(10);

/// How to reach the host's own server, and what the tool needs for it. Holds the password; shows it to nobody.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// The defaults file, checked.
    pub(crate) defaults_file: Option<PathBuf>,
    /// The socket that the tool must be told, because the defaults file does not.
    pub(crate) socket_for_tool: Option<PathBuf>,
    /// The user that the tool must be told, because the defaults file does not.
    pub(crate) user_for_tool: Option<String>,
    client: defaults::Client,
}

impl Access {
    /// From the configuration; reads the defaults file.
    ///
    /// # Errors
    /// `Config` when the defaults file is not a private regular file, or malformed.
    pub(crate) fn resolve(config: &ServerConfig) -> Result<Self> {
        let mut client = config.defaults_file.as_deref().map(defaults::read).transpose()?.unwrap_or_default();
        let by_tcp = client.socket.is_none() && client.host.as_deref().is_some_and(|h| h != "localhost");
        let socket_for_tool = (client.socket.is_none() && !by_tcp).then(|| config.socket.clone());
        let user_for_tool = client.user.is_none().then(|| config.user.clone());
        if !by_tcp {
            client.socket.get_or_insert_with(|| config.socket.clone());
        }
        client.user.get_or_insert_with(|| config.user.clone());
        Ok(Self { defaults_file: config.defaults_file.clone(), socket_for_tool, user_for_tool, client })
    }

    /// Cuts the password out of whatever the tool prints.
    pub(crate) fn redactor(&self) -> Redactor {
        Redactor::knowing(self.client.password.as_deref())
    }

    /// Whether `bytes` hold the password.
    pub(crate) fn secret_is_in(&self, bytes: &[u8]) -> bool {
        let secret = self.client.password.as_deref().unwrap_or_default().as_bytes();
        secret.len() >= 4 && bytes.windows(secret.len()).any(|w| w == secret)
    }

    fn options(&self) -> (OptsBuilder, String) {
        let client = &self.client;
        let user = client.user.clone().unwrap_or_default();
        let options = OptsBuilder::default().user(Some(user.clone())).pass(client.password.clone());
        match (&client.socket, &client.host) {
            (Some(socket), _) => (options.socket(Some(socket.display().to_string())), format!("{} as {user}", socket.display())),
            (None, host) => {
                let (host, port) = (host.clone().unwrap_or_default(), client.port.unwrap_or(3306));
                let name = format!("{host}:{port} as {user}");
                (options.ip_or_hostname(host).tcp_port(port).prefer_socket(false), name)
            }
        }
    }
}

/// One connection. Its session speaks UTC and utf8mb4, with an empty sql_mode.
pub struct Server {
    conn: Conn,
    limit: Option<Duration>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server(connection {})", self.conn.id())
    }
}

impl Server {
    /// Connects to the host's own server.
    ///
    /// # Errors
    /// `Config` when the defaults file is unreadable or readable by others; `Server` when nobody answers;
    /// `Precondition` when the server refuses the user.
    pub async fn connect(config: &ServerConfig) -> Result<Self> {
        Self::connect_with(&Access::resolve(config)?).await
    }

    /// Connects as `access` says.
    ///
    /// # Errors
    /// `Server` when nobody answers; `Precondition` when the server refuses the user.
    pub(crate) async fn connect_with(access: &Access) -> Result<Self> {
        let (options, name) = access.options();
        Self::open(options, name).await
    }

    /// Connects to the server behind `socket` as `user`, without a password.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn connect_socket(socket: &Path, user: &str) -> Result<Self> {
        let options = OptsBuilder::default().socket(Some(socket.display().to_string())).user(Some(user));
        Self::open(options, format!("{} as {user}", socket.display())).await
    }

    async fn open(options: OptsBuilder, name: String) -> Result<Self> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options.init(vec![SESSION]))).await {
            Ok(Ok(conn)) => Ok(Self { conn, limit: None }),
            Ok(Err(mysql_async::Error::Server(error))) if DENIED.contains(&error.code) => {
                Err(Error::new(Failure::Precondition, format!("connect to {name}"))
                    .because(error)
                    .hint("create the user, or name it and its password in server.defaults_file"))
            }
            Ok(Err(error)) => Err(error).context(Failure::Server, || format!("connect to {name}")),
            Err(_) => Err(Error::new(Failure::Server, format!("connect to {name}: no answer in {CONNECT_TIMEOUT:?}"))),
        }
    }

    /// From now on the server ends a SELECT after `limit`, and we give up any statement a little later.
    ///
    /// # Errors
    /// `Server`.
    pub async fn limit_statements(&mut self, vendor: Vendor, limit: Duration) -> Result<()> {
        let limit = limit.max(Duration::from_millis(10));
        self.limit = Some(Duration::from_secs(60));
        self.run(&match vendor {
            Vendor::Mariadb => format!("SET SESSION max_statement_time = {}", limit.as_secs_f64()),
            Vendor::Mysql => format!("SET SESSION max_execution_time = {}", limit.as_millis()),
        })
        .await?;
        self.limit = Some(limit + LIMIT_MARGIN);
        Ok(())
    }

    /// The first row of a query, if it gives one.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn first<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Option<T>> {
        limited(self.limit, sql, self.conn.query_first(sql)).await
    }

    /// Every row of a query.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn all<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<T>> {
        limited(self.limit, sql, self.conn.query(sql)).await
    }

    /// Runs a statement that gives no rows.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        limited(self.limit, sql, self.conn.query_drop(sql)).await
    }

    /// Every row of a query as text, NULL as `None`: no value's type can surprise it.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn texts(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let rows: Vec<Row> = self.all(sql).await?;
        Ok(rows.into_iter().map(|row| row.unwrap_raw().into_iter().map(|value| value.and_then(text_of)).collect()).collect())
    }

    /// The first value of a query's first row as text; `None` for NULL and for no row.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn text(&mut self, sql: &str) -> Result<Option<String>> {
        Ok(self.texts(sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// A global status variable, if the server has it.
    ///
    /// # Errors
    /// `Server`.
    pub async fn status(&mut self, name: &str) -> Result<Option<String>> {
        let row = self.texts(&format!("SHOW GLOBAL STATUS LIKE {}", literal(name))).await?.into_iter().next();
        Ok(row.and_then(|row| row.into_iter().nth(1).flatten()))
    }

    /// A global system variable, if the server has it.
    ///
    /// # Errors
    /// `Server`.
    pub async fn variable(&mut self, name: &str) -> Result<Option<String>> {
        let row = self.texts(&format!("SHOW GLOBAL VARIABLES LIKE {}", literal(name))).await?.into_iter().next();
        Ok(row.and_then(|row| row.into_iter().nth(1).flatten()))
    }

    /// Closes the connection in order.
    pub async fn close(self) {
        if let Err(error) = self.conn.disconnect().await {
            tracing::debug!(%error, "closing a connection");
        }
    }
}

fn text_of(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

async fn limited<T>(limit: Option<Duration>, sql: &str, statement: impl Future<Output = Result<T, mysql_async::Error>>) -> Result<T> {
    let answer = match limit {
        None => statement.await,
        Some(limit) => match tokio::time::timeout(limit, statement).await {
            Ok(answer) => answer,
            Err(_) => return Err(Error::new(Failure::Server, format!("run {sql:?}: no answer in {limit:?}"))),
        },
    };
    let denied = matches!(&answer, Err(mysql_async::Error::Server(error)) if DENIED.contains(&error.code));
    if denied {
        let hint = "grant the privilege that the server names; no retry helps before";
        return answer.context(Failure::Precondition, || format!("run {sql:?}")).map_err(|error| error.hint(hint));
    }
    answer.context(Failure::Server, || format!("run {sql:?}"))
}

/// Whether a statement ended because of [`Server::limit_statements`].
pub(crate) fn ran_out_of_time(error: &Error) -> bool {
    let chain = error.chain();
    chain.contains("max_statement_time exceeded")
        || chain.contains("maximum statement execution time exceeded")
        || chain.contains("no answer in")
}
