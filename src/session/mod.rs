//! The vhost-user state machine of one connection.
