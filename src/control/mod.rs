//! The control socket: what the running switch answers, and to whom.
