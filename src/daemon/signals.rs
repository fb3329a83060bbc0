//! SIGTERM and SIGINT as a wish to stop, SIGHUP as a wish to reload, and SIGUSR1 and SIGUSR2 as nothing at all.

use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use super::{DaemonError, Ends, Reloader, Stopper};

/// From now on SIGTERM and SIGINT stop the switch instead of killing the process. For the whole process, once.
///
/// To be called before anything is made that a killed process would leave behind. The handler does nothing but write a byte into the stopper's socket, which never waits.
///
/// # Errors
/// The system is out of descriptors.
pub fn stop_on_signals(stopper: &Stopper) -> Result<(), DaemonError> {
    for signal in [SIGTERM, SIGINT] {
        say_on(signal, &stopper.0)?;
    }
    Ok(())
}

/// From now on SIGHUP has the switch reload instead of killing the process. For the whole process, once.
///
/// # Errors
/// The system is out of descriptors.
pub fn reload_on_hangup(reloader: &Reloader) -> Result<(), DaemonError> {
    say_on(SIGHUP, &reloader.0)
}

/// From now on SIGUSR1 and SIGUSR2, which have other daemons reopen a log or say how they are, do nothing, instead of killing
/// the process and with it the network of its guests (O-11). For the whole process, once.
///
/// # Errors
/// The system refused.
pub fn ignore_user_signals() -> Result<(), DaemonError> {
    for signal in [SIGUSR1, SIGUSR2] {
        // A flag that nobody reads: the one way to ignore a signal that takes no unsafe code.
        flag::register(signal, Arc::default())
            .map(drop)
            .map_err(|source| DaemonError::System("listen to signals", source))?;
    }
    Ok(())
}

fn say_on(signal: i32, ends: &Ends) -> Result<(), DaemonError> {
    let wake = ends.said.try_clone();
    wake.and_then(|wake| pipe::register(signal, wake))
        .map(drop)
        .map_err(|source| DaemonError::System("listen to signals", source))
}
