//! Progress: a bar with an ETA for a person at a terminal, JSON lines for a log.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A line in the log at least this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Counts the bytes of one phase. Cheap to clone; every clone counts the same phase. Ends when the last is dropped.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    phase: String,
    total: Option<u64>,
    done: AtomicU64,
    started: Instant,
    next_log_ms: AtomicU64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins a phase of `total_bytes`, if that is known or estimated.
    pub fn begin(phase: impl Into<String>, total_bytes: Option<u64>) -> Self {
        let phase = phase.into();
        tracing::info!(phase, total_bytes, "phase begins");
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = match total_bytes {
                Some(_) => "{prefix:<24} {bar:30} {bytes:>10}/{total_bytes} {bytes_per_sec:>12} ETA {eta}",
                None => "{prefix:<24} {spinner} {bytes:>10} {bytes_per_sec:>12} {elapsed}",
            };
            let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr_with_hz(4)).with_prefix(phase.clone());
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let next_log_ms = AtomicU64::new(u64::try_from(LOG_EVERY.as_millis()).unwrap_or(u64::MAX));
        Self(Arc::new(Inner { phase, total: total_bytes, done: AtomicU64::new(0), started: Instant::now(), next_log_ms, bar }))
    }

    /// `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        let inner = &self.0;
        let done = inner.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &inner.bar {
            Some(bar) => bar.set_position(done),
            None => inner.log(done),
        }
    }

    /// Bytes done so far.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Wall time since the phase began.
    pub fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }
}

impl Inner {
    fn log(&self, done: u64) {
        let elapsed = self.started.elapsed();
        let now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let due = self.next_log_ms.load(Ordering::Relaxed);
        let next = now_ms.saturating_add(u64::try_from(LOG_EVERY.as_millis()).unwrap_or(u64::MAX));
        if now_ms < due || self.next_log_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let per_second = done as f64 / elapsed.as_secs_f64();
        let eta_s = self.total.map(|total| (total.saturating_sub(done) as f64 / per_second.max(1.0)).round());
        tracing::info!(
            phase = self.phase,
            done_bytes = done,
            total_bytes = self.total,
            bytes_per_second = per_second.round(),
            eta_s,
            "progress"
        );
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        tracing::info!(phase = self.phase, done_bytes = self.done.load(Ordering::Relaxed), seconds, "phase ends");
    }
}
