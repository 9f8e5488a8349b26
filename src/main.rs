//! The `adt` program.

use std::process::ExitCode;

use adt::providers::lxc::{helper, masks};
use adt::template::process;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything else: the helper that calls liblxc, what liblxc calls, and what renders must stay small processes with
    // one thread.
    match arguments.next() {
        Some(verb) if verb == helper::VERB => std::process::exit(helper::main(arguments)),
        Some(verb) if verb == masks::VERB => std::process::exit(masks::main()),
        Some(verb) if verb == process::VERB => std::process::exit(process::main()),
        _ => adt::cli::main(),
    }
}
