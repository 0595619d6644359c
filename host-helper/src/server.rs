//! Connections to a MySQL or MariaDB server: by its Unix socket, or as a defaults file says.
//!
//! Relies on: the server letting us in by socket authentication or by the `[client]` section of a 0600 file.
//! Nothing read from the defaults file is ever logged.

use crate::config::ServerConfig;
use crate::error::{Context, Result};
use highwater_core::Failure;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use std::path::Path;

/// One connection. Its session speaks UTC and utf8mb4.
#[derive(Debug)]
pub struct Server {
    conn: Conn,
}

impl Server {
    /// Connects to the host's own server.
    ///
    /// # Errors
    /// `Config` when the defaults file is unreadable or readable by others; `Server` when nobody answers;
    /// `Precondition` when the server refuses the user.
    pub async fn connect(config: &ServerConfig) -> Result<Self> {
        Self::connect_socket(&config.socket, &config.user).await
    }

    /// Connects to the server behind `socket` as `user`, without a password.
    ///
    /// # Errors
    /// `Server` when nobody answers.
    pub async fn connect_socket(socket: &Path, user: &str) -> Result<Self> {
        let options =
            OptsBuilder::default().socket(Some(socket.display().to_string())).user(Some(user)).init(vec!["SET time_zone = '+00:00'"]);
        let conn = Conn::new(options).await.context(Failure::Server, || format!("connect to {} as {user}", socket.display()))?;
        Ok(Self { conn })
    }

    /// The first row of a query, if it gives one.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn first<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Option<T>> {
        self.conn.query_first(sql).await.context(Failure::Server, || format!("run {sql:?}"))
    }

    /// Every row of a query.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn all<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<T>> {
        self.conn.query(sql).await.context(Failure::Server, || format!("run {sql:?}"))
    }

    /// Runs a statement that gives no rows.
    ///
    /// # Errors
    /// `Server`, naming the statement.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        self.conn.query_drop(sql).await.context(Failure::Server, || format!("run {sql:?}"))
    }

    /// Closes the connection in order.
    pub async fn close(self) {
        if let Err(error) = self.conn.disconnect().await {
            tracing::debug!(%error, "closing a connection");
        }
    }
}
