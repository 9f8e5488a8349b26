//! Listings below each other, for people and for the programs that cut them.

use comfy_table::{ContentArrangement, Table, presets};

pub(super) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    table
}

/// Without the padding that tables put at the right edge: output is compared and cut by programs.
pub(super) fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().trim_start_matches(' ').to_owned()).collect::<Vec<_>>().join("\n")
}
