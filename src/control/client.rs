//! The client's end of the control socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::protocol::{MAX_REQUEST, Question, Reply, Request, VERSION};

/// How long the switch may take for each step: it answers within milliseconds or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a reload may take: reading, compiling and making sockets, and the reloads before it.
const RELOAD_PATIENCE: Duration = Duration::from_secs(120);
/// The longest answer that is read: 1,024 ports with all they have to say need a few megabytes.
const MAX_ANSWER: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("{}: no switch there; start it, or name another with its NAME or --control PATH", path.display())]
    Absent {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody listens there, and not to us.
    #[error("{}: cannot reach the switch; root and the switch's own user may ask", path.display())]
    Denied {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection failed on the way.
    #[error("{}: the switch did not answer; see its log, and that it runs as this user", path.display())]
    Lost {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The switch refused.
    #[error("{}: the switch refused: {why}", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// Its words.
        why: String,
    },
    /// It is no answer that this program understands.
    #[error("{}: the answer makes no sense; use the program of the switch's own version", path.display())]
    Strange {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Asks the switch at `path` and returns its answer as it came, without the envelope.
///
/// # Errors
/// See [`AskError`].
pub fn ask(path: &Path, question: &Question) -> Result<Value, AskError> {
    let at = || path.to_owned();
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::Absent { path: at(), source }
        }
        _ => AskError::Denied { path: at(), source },
    })?;
    let line =
        exchange(stream, question).map_err(|source| AskError::Lost { path: at(), source })?;
    let strange = |source| AskError::Strange { path: at(), source };
    let reply: Reply<serde_json::Map<String, Value>> =
        serde_json::from_slice(&line).map_err(strange)?;
    let mut answer = reply.answer;
    if let Some(why) = answer.remove("error") {
        let why = why.as_str().map_or_else(|| why.to_string(), str::to_owned);
        return Err(AskError::Refused { path: at(), why });
    }
    let key = question.key();
    answer.remove(key).ok_or_else(|| {
        strange(serde::de::Error::custom(format!(
            "it has no {key:?}, and its version is {}",
            reply.version
        )))
    })
}

fn exchange(mut stream: UnixStream, request: &Question) -> io::Result<Vec<u8>> {
    let patience = match request {
        Question::Reload(_) => RELOAD_PATIENCE,
        _ => PATIENCE,
    };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let version = VERSION;
    let request = request.clone();
    let mut line = serde_json::to_vec(&Request { version, request })?;
    line.push(b'\n');
    if line.len() > MAX_REQUEST {
        let why = "the request is too long: name fewer or shorter things";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    stream.write_all(&line)?;
    // No more questions: the switch closes when it has answered.
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it closed the connection",
        ));
    }
    Ok(answer)
}
