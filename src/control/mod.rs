//! The Unix-socket interface of a running switch, and its peer check.
//!
//! One JSON object a line each way: the client asks, the switch answers, in order. `protocol` has the words,
//! `report` what `status` answers, [`Server`] is the switch's end and [`ask`] the client's.
//!
//! Promised to the guests: whatever happens on this socket, the attendant waits for nobody. Promised to the operator:
//!
//! - Only root and the user of the switch are listened to; others are closed before a byte is read.
//! - A request is at most [`MAX_REQUEST`] bytes. A longer one ends the connection.
//! - A client that reads slowly has one answer waiting for it and is not read from meanwhile. What can be long comes in
//!   pages, each of bounded length.
//! - An answer that takes its time (a reload) is given when it is there; the client waits, and nobody else.
//! - At most [`MAX_CLIENTS`] are served; the one that has been silent longest gives way to a newcomer, so that
//!   idle connections cannot lock the operator out.

mod change;
mod client;
mod protocol;
mod report;
mod seen;
mod server;
mod table;

pub use change::{
    ChangeReport, ConfigurationReport, Flags, PortChange, QuarantineAnswer, QuarantineReport,
    ReloadReport,
};
pub use client::{AskError, ask};
pub use protocol::{
    Answer, MAX_REQUEST, QuarantineRequest, Question, ReleaseRequest, ReloadRequest, VERSION,
};
pub use report::{
    FdbReport, Flow, IpReport, LeaseReport, MacReport, PortReport, Rates, SwitchReport,
    WorkerReport,
};
pub use seen::{
    DropReport, DropsPage, DropsQuery, FlowReport, FlowsPage, FlowsQuery, PortDrops, RuleName,
    RuleReport, RulesPage, RulesQuery, Traffic,
};
pub use server::{ControlError, MAX_CLIENTS, Response, Server, Ticket};
pub use table::{AddressReport, FdbPage, FdbQuery};

#[cfg(test)]
mod tests;
