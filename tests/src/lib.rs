//! The harness of the end-to-end tests: real servers, the real tool, the real S3 API, the real binaries.
//!
//! ```no_run
//! use highwater_tests::{Host, Load, MariaDb, S3};
//! let (db, s3) = (MariaDb::start(), S3::start());
//! let host = Host::new(&db, &s3);
//! let load = Load::start(&db);
//! let full = host.full();
//! let incremental = host.incremental(&full);
//! load.stop();
//! let plan = host.plan_of(&[&full, &incremental]);
//! host.drill(&plan).success();
//! ```
//!
//! Tests are plain `#[test]` functions; [`block_on`] runs a future in one. Everything a test starts carries its
//! [`Scratch`] directory in its environment and ends with it, even when the test is killed. Nothing waits for a
//! duration: [`wait_for`] waits for a state. A helper run that logs a WARN or ERROR nobody allowed fails the test.

pub mod benchmarks;
mod browser;
mod cloud;
pub mod damage;
mod function;
mod host;
mod host_toml;
mod load;
mod mariadb;
mod meter;
pub mod mysql_face;
mod orders;
mod primary;
mod proof;
mod proxy;
mod s3;
mod scratch;
mod snapshot;
mod synthetic;
mod torture;

pub use browser::{Browser, Look, Screen};
pub use cloud::{AwsError, Cloud, CloudHost, Grant, Needed, Person, Request, config, config_of};
pub use function::Function;
pub use host::{Backup, Host, Output, PlanFile, Running};
pub use load::{Load, LoadReport};
pub use mariadb::MariaDb;
pub use meter::Meter;
pub use orders::{Asked, Orders, wait_for_state};
pub use primary::Primary;
pub use proof::{leave_proof, passed_report};
pub use proxy::{Call, Fault, Proxy, Rule};
pub use s3::S3;
pub use scratch::{Scratch, processes_of};
pub use snapshot::{Oracle, Snapshot};
pub use synthetic::{add_chains, begin_next, catalog_table, chains_of, publish};
pub use torture::Torture;

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("start a runtime"));

/// Runs a future to its end. Not from inside another one.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Waits until `ready` gives something, and returns it; panics with `what` after a minute.
pub fn wait_for<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    wait_for_within(Duration::from_secs(60), what, ready)
}

/// The same with a limit of one's own, for what takes longer: a drill, a promotion.
pub fn wait_for_within<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        let look = Instant::now();
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        // The pause between two looks, not a wait for something to have happened: most of the time is for what is waited for.
        std::thread::sleep((3 * look.elapsed()).clamp(Duration::from_millis(10), Duration::from_millis(300)));
    }
}

/// The release that is tested in the place of the debug binaries: the directory that `make package` made (`make test-package`).
fn release() -> Option<PathBuf> {
    std::env::var_os("HIGHWATER_RELEASE").map(PathBuf::from)
}

/// A binary of the workspace, found beside the test's own executable; a command of the release, if one is tested.
pub fn binary(name: &str) -> PathBuf {
    if let Some(packed) = release().map(|release| release.join(name)).filter(|packed| packed.exists()) {
        return packed;
    }
    let path = target_dir().join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --all-targets --features highwater-host/fault-injection` first",
        path.display()
    );
    path
}

/// A file below the tools that `make tools` installs: `$HIGHWATER_TOOLS`, or `target/tools`.
pub fn tool(path: &str) -> PathBuf {
    let root = std::env::var_os("HIGHWATER_TOOLS")
        .map_or_else(|| target_dir().parent().expect("target/debug has a parent").join("tools"), PathBuf::from);
    let path = root.join(path);
    assert!(path.exists(), "{} is missing: run `make tools` first", path.display());
    path
}

/// Runs a command to its end and returns its standard output; panics with its standard error when it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The directory of the built binaries: `target/debug`.
fn target_dir() -> PathBuf {
    let mut dir = std::env::current_exe().expect("the test's own path");
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    dir
}
