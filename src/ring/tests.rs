//! A driver in a few lines, and what hostile ones do (the cases' names are HOSTILE.md's).

mod double;
mod layout;
mod model;
mod notify;
mod rx;
mod tx;
mod wrap;
