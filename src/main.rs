//! The thin binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    match portcullis::cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code())
        }
    }
}
