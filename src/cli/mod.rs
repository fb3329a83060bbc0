//! Arguments, errors and exit codes.
