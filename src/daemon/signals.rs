//! SIGTERM and SIGINT as a wish to stop.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::{DaemonError, Stopper};

/// From now on SIGTERM and SIGINT stop the switch instead of killing the process. For the whole process, once.
///
/// To be called before anything is made that a killed process would leave behind. The handler does nothing but write a byte into the stopper's socket, which never waits.
///
/// # Errors
/// The system is out of descriptors.
pub fn stop_on_signals(stopper: &Stopper) -> Result<(), DaemonError> {
    for signal in [SIGTERM, SIGINT] {
        let wake = stopper.0.said.try_clone();
        wake.and_then(|wake| pipe::register(signal, wake))
            .map_err(|source| DaemonError::System("listen to signals", source))?;
    }
    Ok(())
}
