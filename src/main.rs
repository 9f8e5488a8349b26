//! The `adt` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    adt::cli::main()
}
