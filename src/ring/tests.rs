//! A driver in a few lines, and what hostile ones do (the cases' names are HOSTILE.md's).

mod double;
mod notify;
mod rx;
mod tx;
