//! The `adt` program.

use adt::providers::lxc::helper;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything else: the helper must stay a small process with one thread.
    if arguments.next().is_some_and(|verb| verb == helper::VERB) {
        std::process::exit(helper::main(arguments));
    }
}
