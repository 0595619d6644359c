//! Named points at which a test can have the process die as by `kill -9`, or an operation fail. Compiled to nothing
//! without the `fault-injection` feature, which no package ever enables.

/// Dies here if the test asked for it: `HIGHWATER_CRASH_AT=<name>`.
macro_rules! crash_point {
    ($name:expr) => {
        #[cfg(feature = "fault-injection")]
        $crate::crash::reached(&$name);
    };
}
pub(crate) use crash_point;

/// Fails the enclosing function here if the test asked for it: `HIGHWATER_FAIL_AT=<name>`.
macro_rules! fail_point {
    ($name:expr) => {
        #[cfg(feature = "fault-injection")]
        $crate::crash::fail(&$name)?;
    };
}
pub(crate) use fail_point;

#[cfg(feature = "fault-injection")]
pub(crate) fn reached(name: &str) {
    if std::env::var("HIGHWATER_CRASH_AT").is_ok_and(|at| at == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is on its way: nothing more may happen.
        std::thread::park();
    }
}

/// Several names, separated by commas: a promotion and its roll-back can be made to fail in one run.
#[cfg(feature = "fault-injection")]
pub(crate) fn fail(name: &str) -> crate::error::Result<()> {
    match std::env::var("HIGHWATER_FAIL_AT") {
        Ok(at) if at.split(',').any(|at| at == name) => {
            Err(crate::error::Error::new(highwater_core::Failure::Tool, format!("injected failure at {name}")))
        }
        _ => Ok(()),
    }
}
