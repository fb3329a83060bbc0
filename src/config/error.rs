//! Faults of a configuration: the place, the key, the trouble and the remedy.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Where something was written: `lan.toml:12`, `lan.toml:12:40` for one of several rules on a line, or the flag itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of a file; lines count from 1.
    Line {
        /// As the user named it.
        file: String,
        /// From 1.
        line: u32,
        /// From 1, where several of a kind stand on the line.
        column: Option<NonZeroU32>,
    },
    /// A flag of the command line, as given.
    Flag(String),
    /// The configuration as a whole: the file's name, or "command line".
    Whole(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line, column } => {
                write!(f, "{file}:{line}")?;
                column.map_or(Ok(()), |column| write!(f, ":{column}"))
            }
            Self::Flag(text) | Self::Whole(text) => f.write_str(text),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// The section and key: `port "web": mac`.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration; check the path and its permissions", file.display())]
    Unreadable {
        /// As the user named it.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It was read and is wrong; never empty.
    #[error("{}", lines(.0))]
    Invalid(Vec<Fault>),
}

/// Lines that people are shown at once.
const SHOWN: usize = 200;

fn lines(faults: &[Fault]) -> String {
    let shown = faults.iter().take(SHOWN).map(Fault::to_string);
    let rest = faults.len().saturating_sub(SHOWN);
    let rest = (rest > 0).then(|| format!("and {rest} more"));
    let lines: Vec<String> = shown.chain(rest).collect();
    lines.join("\n")
}
