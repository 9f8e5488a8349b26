//! The lines around a fault with a caret below it, as compilers print it. For the edge; everything else passes [`Fault`]s.

use std::fmt;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceSpan};

use crate::model::{Fault, Place};

/// How much the terminal can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Color,
    /// `NO_COLOR`, a file, a pipe.
    Plain,
    /// A terminal without UTF-8.
    Ascii,
}

/// A fault with its place in `source`; without a place, only the words.
pub fn fault(fault: &Fault, source: &str, style: Style) -> String {
    match &fault.place {
        Some(place) => snippet(place, source, &fault.message, fault.hint.as_deref(), style),
        None => format!("{fault}\n"),
    }
}

pub fn snippet(place: &Place, source: &str, message: &str, hint: Option<&str>, style: Style) -> String {
    let theme = match style {
        Style::Color => GraphicalTheme::unicode(),
        Style::Plain => GraphicalTheme::unicode_nocolor(),
        Style::Ascii => GraphicalTheme::none(),
    };
    // The file may have changed since it was read; a caret outside of it would make miette fail and lose the message.
    let start = place.span.start.min(source.len());
    let end = place.span.end.clamp(start, source.len());
    let report = Report {
        message,
        hint,
        source: NamedSource::new(place.file.display().to_string(), source.to_owned()),
        span: (start, end - start).into(),
    };
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(100).with_context_lines(1);
    match handler.render_report(&mut text, &report) {
        Ok(()) => text,
        Err(fmt::Error) => format!("{place}: {message}\n"),
    }
}

#[derive(Debug)]
struct Report<'a> {
    message: &'a str,
    hint: Option<&'a str>,
    source: NamedSource<String>,
    span: SourceSpan,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::underline(self.span))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fault::place;
    use std::path::Path;

    const SOURCE: &str = "[machines.web]\nbox = \"web-php\"\ncuont = 2\n";

    fn show(style: Style) -> String {
        let at = place(Path::new("shop/platform.toml"), SOURCE, 31..36);
        snippet(&at, SOURCE, "unknown key `cuont`", Some("did you mean `count`?"), style)
    }

    #[test]
    fn a_caret_stands_below_the_word() {
        let wanted = [
            "  x unknown key `cuont`",
            "   ,-[shop/platform.toml:3:1]",
            " 2 | box = \"web-php\"",
            " 3 | cuont = 2",
            "   : ^^^^^",
            "   `----",
            "  help: did you mean `count`?",
        ];
        assert_eq!(show(Style::Ascii).trim_end().lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn only_color_has_escapes() {
        assert!(show(Style::Color).contains('\x1b'));
        for style in [Style::Plain, Style::Ascii] {
            assert!(!show(style).contains('\x1b'));
        }
        assert!(show(Style::Ascii).is_ascii());
    }

    #[test]
    fn a_file_that_shrank_since_still_gives_its_message() {
        let at = Place { file: "a".into(), line: 9, column: 9, span: 900..905 };
        for source in ["", "ä", "x = 1\n"] {
            assert!(snippet(&at, source, "no such box", None, Style::Plain).contains("no such box"));
        }
    }
}
