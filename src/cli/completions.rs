//! What shells complete: clap's scripts, with the colon in the names of adt's commands made harmless.
//!
//! clap_complete knows no commands with a colon: bash takes it for the end of a word, and zsh for the beginning of a description.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::args::Cli;

/// bash's own words end at a colon, and what it replaces begins behind the last one.
const BASH_BY_SPACES: &str = r#"
_adt_by_spaces() {
    local line=${COMP_LINE:0:COMP_POINT} COMP_WORDS COMP_CWORD current
    read -ra COMP_WORDS <<<"$line"
    [[ $line == *[[:space:]] ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    current=${COMP_WORDS[COMP_CWORD]}
    _adt "${COMP_WORDS[0]}" "$current" "${COMP_WORDS[COMP_CWORD-1]}"
    if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
    fi
}

complete -F _adt_by_spaces -o nosort -o bashdefault -o default adt
"#;

/// The script for a shell.
pub fn script(shell: Shell) -> String {
    let mut command = offered();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "adt", &mut text);
    let mut text = String::from_utf8(text).expect("clap writes text");
    match shell {
        Shell::Bash => text.push_str(BASH_BY_SPACES),
        Shell::Zsh => {
            for name in command.get_subcommands().map(Command::get_name).filter(|name| name.contains(':')) {
                text = text.replace(&format!("'{name}:"), &format!("'{}:", name.replace(':', "\\:")));
            }
        }
        _ => {}
    }
    text
}

/// Without the commands that only adt itself gives: clap's scripts would offer them too, and a command can't be taken out of one.
fn offered() -> Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let arguments = all.get_arguments().cloned();
    Command::new("adt").version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true).args(arguments).subcommands(shown)
}
