//! libvirt's network filters, as our configuration.
//!
//! A filter is a set of chains in two mechanisms: `mac`, `arp`, `ip` and the like are judged by ebtables, `tcp`, `udp` and
//! the like by iptables afterwards, and a packet must pass both. Here all of it becomes one list for each direction, in
//! which the first match wins:
//!
//! - `xml` reads filters and resolves references, `domain` the interfaces that use one.
//! - `attributes` reads what one `<rule>` asks for, its variables put in; `rule` turns it into rules of ours, one for each direction that it acts in. libvirt writes a rule for both
//!   directions with its ends exchanged: `inout` always, an iptables rule that accepts for its replies (a stateful rule
//!   here), one that drops for everything.
//! - `order` sorts the chains by priority into one sequence, finds those that do nothing but what port security does here, and
//!   puts the layer 3 rules where layer 2 would let IP pass.
//! - `emit` writes TOML.
//!
//! What has no exact equal is left out and told as a [`Remark`] with its line, in the result's `remarks` and in a comment of the
//! text, which says too whether more or less passes for it. A filter that is referred to and not there is an error, since nobody knows
//! what it drops. Nothing is guessed.

mod attributes;
mod domain;
mod emit;
mod order;
mod rule;
#[cfg(test)]
mod tests;
mod xml;

use std::fmt;
use std::path::{Path, PathBuf};

/// Something that could not be converted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// Where: the file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// What it is and why.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// A filter, converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// A whole configuration: the lists, and a port for each interface that uses the filter.
    pub toml: String,
    /// What it leaves out.
    pub remarks: Vec<Remark>,
}

/// Why nothing was converted.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("{}: cannot read it; check the path and its permissions", file.display())]
    Unreadable {
        /// As it was named.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no XML.
    #[error("{file}: not valid XML: {text}; is it from virsh nwfilter-dumpxml, or virsh dumpxml?")]
    Xml {
        /// As it was named.
        file: String,
        /// What is wrong, and where.
        text: String,
    },
    /// It refers to a filter that is not here, which may refuse what would pass without it.
    #[error(
        "{file}:{line}: filter {name:?} is not here, and what it drops would pass; \
         put {name}.xml beside {file} (virsh nwfilter-dumpxml {name}), or leave it out with --without {name}"
    )]
    Missing {
        /// Where it is referred to, as the file was named.
        file: String,
        /// From 1.
        line: u32,
        /// The filter.
        name: String,
    },
    /// It is XML of something else.
    #[error("{file}:{line}: {text}")]
    Strange {
        /// As it was named.
        file: String,
        /// From 1.
        line: u32,
        /// What is wrong, and what to do.
        text: String,
    },
}

/// Converts the filter in `file`. Filters that it refers to are looked for as NAME.xml beside it, then among libvirt's own; those
/// `without` which it is to be converted may be missing. With a `domain`, there is a port for each of its interfaces that uses the filter, with the interface's address and parameters.
///
/// # Errors
/// See [`ImportError`].
pub fn import(
    file: &Path,
    domain: Option<&Path>,
    without: &[String],
) -> Result<Import, ImportError> {
    let text = xml::read(file)?;
    let document = xml::Text::parse(file, &text)?;
    let mut library = xml::Library::new(file, without);
    let filter = library.add(&document)?;
    let interfaces = match domain {
        None => vec![domain::Interface::stand_in()],
        Some(path) => {
            let text = xml::read(path)?;
            domain::interfaces(&xml::Text::parse(path, &text)?, &filter.name)?
        }
    };
    let mut remarks = Vec::new();
    let mut ports = Vec::new();
    for interface in &interfaces {
        let mut found = Vec::new();
        let chains = library.flatten(&filter, &interface.variables, &mut found)?;
        let policy = order::policy(chains, &interface.variables, &mut found);
        for remark in found {
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
        }
        ports.push((interface, policy));
    }
    remarks.sort();
    Ok(Import {
        toml: emit::configuration(&filter.name, &ports, &remarks),
        remarks,
    })
}
