//! The gate: the only maker of an `Admitted` frame and of a `Permit`.
