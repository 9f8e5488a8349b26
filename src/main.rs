//! The `adt` program.

use std::process::ExitCode;

use adt::providers::choose;
use adt::template::process;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything else: the helpers of providers and what renders must stay small processes with one thread.
    match arguments.next() {
        Some(verb) if verb == process::VERB => std::process::exit(process::main()),
        Some(verb) => match choose::help(&verb, arguments) {
            Some(code) => std::process::exit(code),
            None => adt::cli::main(),
        },
        None => adt::cli::main(),
    }
}
