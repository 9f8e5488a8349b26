//! The man pages: one of adt, one of each command. Made from the command line's definition, like the help.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::Cli;
use crate::model::{Failure, Kind};

/// The page of a command, or of adt where none is named.
pub fn page(of: Option<&str>) -> Result<String, Failure> {
    let cli = built();
    let Some(name) = of else { return render(&cli) };
    let command = cli.get_subcommands().find(|command| command.get_name() == name && !command.is_hide_set());
    render(command.ok_or_else(|| {
        let failure = Failure::new(Kind::Usage, "find the command").cause(format!("adt has no command `{name}`"));
        failure.hint("`adt --help` lists them")
    })?)
}

/// All pages, as files of section 1.
pub fn write_all(folder: &Path) -> Result<(), Failure> {
    let told = |error: std::io::Error| Failure::new(Kind::Host, format!("write to `{}`", folder.display())).because(&error);
    std::fs::create_dir_all(folder).map_err(told)?;
    let cli = built();
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()).chain([&cli]) {
        let name = Man::new(command.clone()).get_filename();
        std::fs::write(folder.join(name), render(command)?).map_err(told)?;
    }
    Ok(())
}

/// What whoever runs this has set is no part of a page.
fn built() -> Command {
    let mut cli = Cli::command().mut_args(|arg| arg.hide_env_values(true));
    cli.build();
    cli
}

/// clap's own form would fill examples into a paragraph, and has every flag of adt's again with each command.
fn render(command: &Command) -> Result<String, Failure> {
    let told = |error: std::io::Error| Failure::new(Kind::Host, "write a man page").because(&error);
    let is_whole = command.has_subcommands();
    let hidden = |arg: clap::Arg| if arg.is_global_set() && !is_whole { arg.hide(true) } else { arg };
    let page = Man::new(command.clone().mut_args(hidden)).source(concat!("adt ", env!("CARGO_PKG_VERSION"))).manual("adt");
    let mut text = Vec::new();
    page.render_title(&mut text).map_err(told)?;
    page.render_name_section(&mut text).map_err(told)?;
    page.render_synopsis_section(&mut text).map_err(told)?;
    page.render_description_section(&mut text).map_err(told)?;
    page.render_options_section(&mut text).map_err(told)?;
    let last = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut end = Roff::default();
    if is_whole {
        page.render_subcommands_section(&mut text).map_err(told)?;
        end.control("SH", ["NOTES"]);
        end.text([roman(last)]);
    } else {
        end.control("SH", ["EXAMPLES"]);
        end.control("nf", []);
        for line in last.lines().skip_while(|line| !line.starts_with(' ')) {
            end.text([roman(line.trim_start())]);
        }
        end.control("fi", []);
        end.control("SH", ["SEE ALSO"]);
        end.text([roman("adt(1), which has the flags of all commands")]);
    }
    end.to_writer(&mut text).map_err(told)?;
    Ok(String::from_utf8(text).expect("the command line is text"))
}
