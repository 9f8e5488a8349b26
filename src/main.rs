//! The `adt` program.

use std::process::ExitCode;

use adt::providers::lxc::helper;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything else: the helper that calls liblxc must stay a small process with one thread.
    if arguments.next().is_some_and(|verb| verb == helper::VERB) {
        std::process::exit(helper::main(arguments));
    }
    adt::cli::main()
}
