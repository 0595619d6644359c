//! A named point at which a test can have the process die, as by `kill -9`. Compiled to nothing without the
//! `fault-injection` feature, which no package ever enables.

/// Dies here if the test asked for it: `HIGHWATER_CRASH_AT=<name>`.
macro_rules! crash_point {
    ($name:expr) => {
        #[cfg(feature = "fault-injection")]
        $crate::crash::reached(&$name);
    };
}
pub(crate) use crash_point;

#[cfg(feature = "fault-injection")]
pub(crate) fn reached(name: &str) {
    if std::env::var("HIGHWATER_CRASH_AT").is_ok_and(|at| at == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
