//! SIGTERM and SIGINT, turned into a flag that every long step looks at.

use crate::error::{Error, Result};
use highwater_core::Failure;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells whether the process was asked to end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<Option<&'static str>>);

/// Cancels by hand: the first error of a pipeline ends its other stages.
#[derive(Debug, Clone)]
pub struct Canceller(watch::Sender<Option<&'static str>>);

impl Canceller {
    /// Cancels, with the reason; the first reason stays.
    pub fn cancel(&self, reason: &'static str) {
        self.0.send_if_modified(|at| {
            at.is_none() && {
                *at = Some(reason);
                true
            }
        });
    }
}

impl Cancel {
    /// A flag and the hand that raises it.
    pub fn manual() -> (Canceller, Self) {
        let (send, receive) = watch::channel(None);
        (Canceller(send), Self(receive))
    }

    /// A flag raised by SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> Result<Self> {
        let (canceller, cancel) = Self::manual();
        for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
            let mut stream = signal(kind).map_err(|e| Error::new(Failure::Resources, "install signal handlers").because(e))?;
            let canceller = canceller.clone();
            tokio::spawn(async move {
                if stream.recv().await.is_some() {
                    tracing::warn!(signal = name, "asked to end: cleaning up");
                    canceller.cancel(name);
                }
            });
        }
        Ok(cancel)
    }

    /// The reason, once cancelled.
    pub fn reason(&self) -> Option<&'static str> {
        *self.0.borrow()
    }

    /// `Interrupted` once cancelled.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn check(&self) -> Result<()> {
        self.reason().map_or(Ok(()), |reason| Err(interrupted(reason)))
    }

    /// Waits for the cancellation, and returns the reason. Waits for ever if it never comes.
    pub async fn cancelled(&self) -> &'static str {
        let mut receive = self.0.clone();
        let reason = receive.wait_for(Option::is_some).await.ok().and_then(|r| *r);
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

fn interrupted(reason: &str) -> Error {
    Error::new(Failure::Interrupted, format!("ended by {reason}; nothing was published"))
}
